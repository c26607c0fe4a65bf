//! Messages whose bodies say what is to become of them, and results whose bodies show which
//! message they were made from.

use fastrand::Rng;
use seriatim::record::{HeaderWriter, Name, Source};

use crate::batching;
use crate::chance::{happens, mix, pick};
use crate::world::World;

/// The header by whose value some pipelines order.
pub(crate) const TENANT: &[u8] = b"tenant";

/// A message as a producer sends it.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) key: Option<String>,
    pub(crate) identity: Option<String>,
    pub(crate) destination: Option<&'static str>,
    pub(crate) tenant: Option<String>,
    pub(crate) body: String,
}

impl Message {
    /// The message of this name, with whatever it has to do.
    pub(crate) fn draw(world: &World, rng: &mut Rng, name: &str) -> Self {
        let trouble = &world.plan.trouble;
        let mut kinds = vec!["ok", "ok", "ok", "any", "empty", "several"];
        kinds.extend(trouble.slow_work.then_some("slow"));
        kinds.extend(trouble.poison.then_some("poison"));
        kinds.extend(trouble.poison.then_some("invalid"));
        kinds.extend(trouble.flaky.then_some("flaky"));
        if world.plan.destinations.len() > 1 {
            kinds.push("addressed");
        }
        let kind = pick(rng, &kinds);
        let padding = "x".repeat(rng.usize(0..=world.plan.body));
        let several = world.plan.destinations.len() > 1;
        let destination = match rng.u32(0..20) {
            0 => trouble.poison.then_some("nowhere"),
            1..5 => several.then_some("a"),
            5..9 => several.then_some("a, b"),
            9..11 => several.then_some("b, default, a"),
            _ => None,
        };
        Self {
            key: rng.bool().then(|| format!("k{}", rng.u32(0..4))),
            identity: happens(rng, 0.4).then(|| format!("p/{name}")),
            destination,
            tenant: rng.bool().then(|| format!("t{}", rng.u32(0..3))),
            body: format!("{kind}|{name}|{padding}"),
        }
    }

    pub(crate) fn headers(&self, to: &mut HeaderWriter<'_>) {
        if let Some(identity) = &self.identity {
            to.put(Name::Id, identity.as_bytes());
        }
        if let Some(destination) = self.destination {
            to.put(Name::Destination, destination.as_bytes());
        }
        if let Some(tenant) = &self.tenant {
            to.put_named(TENANT, tenant.as_bytes());
        }
    }
}

/// What a body asks for: its first word, or what the item of a work order says.
pub(crate) fn kind(body: &[u8]) -> &[u8] {
    if body.starts_with(b"{\"type\":") {
        return batching::kind(body);
    }
    body.split(|byte| *byte == b'|').next().unwrap_or_default()
}

/// What the body of every output of this message begins with.
pub(crate) fn mark(source: Source, body: &[u8]) -> String {
    let place = mix(source.offset.0, &source.lane.0.to_be_bytes());
    format!("{:016x}", mix(place, body))
}
