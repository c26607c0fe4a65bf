//! Work as it is in the world: slow, failing, lost, different each time.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use seriatim::work::{Answer, Failure, Job, Output, Processor};
use tokio::time::sleep;

use crate::batching;
use crate::chance::{happens, pick, scattered};
use crate::message::{kind, mark};
use crate::world::{Phase, Shared};

pub(crate) struct Worker {
    world: Shared,
    rng: Mutex<Rng>,
}

impl Worker {
    pub(crate) fn new(world: Shared, seed: u64) -> Self {
        Self { world, rng: Mutex::new(Rng::with_seed(seed)) }
    }

    /// How long it takes, and `None` where it never ends.
    fn time(&self, rng: &mut Rng, kind: &[u8]) -> Option<Duration> {
        let trouble = &self.world.plan.trouble;
        if trouble.lost_work && self.world.is_chaos() && happens(rng, 0.05) {
            return None;
        }
        let tail = kind == b"slow" && self.world.phase() != Phase::Healed && happens(rng, 0.3);
        let most = Duration::from_millis(if tail { 30_000 } else { 200 });
        Some(scattered(rng, Duration::from_millis(1), most))
    }

    /// What comes of it. The number of the call is in every output, so that no two calls agree.
    fn answer(&self, rng: &mut Rng, job: &Job, kind: &[u8]) -> Result<Answer, Failure> {
        let trouble = &self.world.plan.trouble;
        if trouble.unreachable && self.world.is_chaos() && happens(rng, 0.05) {
            let after = rng.bool().then(|| Duration::from_secs(rng.u64(0..5)));
            return Err(Failure::unreachable("nobody is there", after));
        }
        let call = self.world.calls.fetch_add(1, Relaxed);
        let text = format!("{}|{call}", mark(job.source, job.body()));
        let padding = "y".repeat(rng.usize(0..=self.world.plan.body));
        let one = |text: &str| Output::new(Bytes::from(format!("{text}|{padding}")));
        match kind {
            b"empty" => Ok(Answer::Empty),
            b"several" => {
                let items: Vec<_> = (0..rng.usize(0..4)).map(|i| item(rng, &format!("{text}|{i}"))).collect();
                Ok(Answer::Several(Bytes::from(format!("[{}]", items.join(",")))))
            }
            b"addressed" => {
                let to = pick(rng, &["a", "b", "default, a", "default"]);
                Ok(Answer::One(Output { destinations: Some(to.to_owned()), ..one(&text) }))
            }
            b"invalid" => Ok(Answer::One(Output { destinations: Some("nowhere".to_owned()), ..one(&text) })),
            b"held" if batching::is_first_round(job.body()) => Err(Failure::fail("held", text)),
            b"poison" => Err(Failure::fail("poison", text)),
            b"flaky" if happens(rng, 0.6) => Err(Failure::retry("flaky", text)),
            b"flaky" if happens(rng, 0.1) => panic!("simulated: a processor panics"),
            // Whoever does not answer the same each time may even fail or succeed by chance.
            b"any" => match rng.u32(0..6) {
                0 => Ok(Answer::Empty),
                1 => Err(Failure::retry("any", text)),
                2 => Ok(Answer::Several(Bytes::from(format!("[{}]", item(rng, &text))))),
                _ => Ok(Answer::One(one(&text))),
            },
            _ => Ok(Answer::One(one(&text))),
        }
    }
}

fn item(rng: &mut Rng, text: &str) -> String {
    match rng.u32(0..3) {
        0 => format!(r#"{{"body":"{text}","destination":"default"}}"#),
        1 => format!(r#"{{"body":"{text}","key":"own"}}"#),
        _ => format!(r#"{{"body":"{text}"}}"#),
    }
}

impl Processor for Worker {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move {
            self.world.may_be_worked_on(job.source);
            let kind = kind(job.body()).to_vec();
            let (time, answer) = {
                let mut rng = self.rng.lock().expect("no holder of this lock awaits");
                (self.time(&mut rng, &kind), rng.fork())
            };
            match time {
                Some(time) => sleep(time).await,
                None => std::future::pending().await,
            }
            self.answer(&mut { answer }, &job, &kind)
        }
        .boxed()
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Worker")
    }
}
