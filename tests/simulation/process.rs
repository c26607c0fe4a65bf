//! A process: one instance of a role that may die at any await, stand still and go on as a zombie,
//! be asked to end, and is started again.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use fastrand::Rng;
use futures::future::BoxFuture;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::chance::{happens, scattered};
use crate::world::{Phase, Shared};

/// The longest that a process stands still: many session time-outs.
const FREEZE: Duration = Duration::from_secs(120);

/// What a role's instance is: a future that ends in good order when the token is cancelled.
pub(crate) type Life = BoxFuture<'static, Result<(), String>>;

/// Keeps one instance of a role going.
pub(crate) async fn supervise(world: Shared, name: String, start: impl Fn(u64, CancellationToken) -> Life) {
    let mut rng = world.chance.stream(&format!("process {name}"));
    for life in 0u64.. {
        let drain = CancellationToken::new();
        let running = start(rng.u64(..), drain.clone());
        world.note(format_args!("{name}: begins life {life}"));
        let unsteady = Unsteady::new(world.clone(), name.clone(), rng.fork(), running);
        let ended = drained_some_day(&world, &mut rng, &drain, unsteady).await;
        match ended {
            Some(Err(error)) => world.found(format_args!("I13: {name} gave up: {error}")),
            ended => world.note(format_args!("{name}: {}", if ended.is_some() { "ended" } else { "died" })),
        }
        sleep(scattered(&mut rng, Duration::from_millis(1), Duration::from_secs(20))).await;
    }
}

async fn drained_some_day(
    world: &Shared,
    rng: &mut Rng,
    drain: &CancellationToken,
    mut running: Unsteady,
) -> Option<Result<(), String>> {
    let after = scattered(rng, Duration::from_millis(10), Duration::from_secs(60));
    if world.plan.trouble.drains && rng.bool() {
        tokio::select! {
            biased;
            ended = &mut running => return ended,
            () = sleep(after) => {}
        }
        if world.phase() != Phase::Healed {
            world.note(format_args!("{}: has to drain", running.name));
            drain.cancel();
        }
    }
    running.await
}

/// A future that something befalls after some polls, or after some time. `None`: it died.
struct Unsteady {
    world: Shared,
    name: String,
    rng: Rng,
    running: Option<Life>,
    polls: u64,
    time: Pin<Box<Sleep>>,
    frozen: Option<Pin<Box<Sleep>>>,
}

impl Unsteady {
    fn new(world: Shared, name: String, mut rng: Rng, running: Life) -> Self {
        let (polls, time) = next(&world, &mut rng);
        Self { world, name, rng, running: Some(running), polls, time, frozen: None }
    }

    /// Says whether it dies.
    fn mishap(&mut self) -> bool {
        (self.polls, self.time) = next(&self.world, &mut self.rng);
        let trouble = &self.world.plan.trouble;
        let freezes = trouble.freezes && (!trouble.crashes || self.rng.bool());
        if !self.world.is_chaos() || !(freezes || trouble.crashes) {
            return false;
        }
        if freezes {
            let long = scattered(&mut self.rng, Duration::from_millis(5), FREEZE);
            self.note(format_args!("stands still for {long:?}"));
            self.frozen = Some(Box::pin(sleep(long)));
        }
        !freezes
    }

    fn note(&self, what: fmt::Arguments<'_>) {
        self.world.note(format_args!("{}: {what}", self.name));
    }
}

/// After how many polls and how much time something happens next.
fn next(world: &Shared, rng: &mut Rng) -> (u64, Pin<Box<Sleep>>) {
    let polls = rng.u64(1..=world.plan.trouble.polls);
    let soon = if happens(rng, 0.3) { 0.1 } else { 10.0 };
    let time = scattered(rng, Duration::from_millis(1), Duration::from_secs_f64(10.0 * soon));
    (polls, Box::pin(sleep(time)))
}

impl Future for Unsteady {
    type Output = Option<Result<(), String>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let Some(frozen) = &mut self.frozen {
                ready!(frozen.as_mut().poll(cx));
                self.frozen = None;
                self.note(format_args!("goes on"));
            }
            let time_is_up = self.time.as_mut().poll(cx).is_ready();
            if self.polls > 0 && !time_is_up {
                break;
            }
            if self.mishap() {
                self.running = None;
                return Poll::Ready(None);
            }
        }
        self.polls -= 1;
        match &mut self.running {
            Some(running) => running.as_mut().poll(cx).map(Some),
            None => Poll::Ready(None),
        }
    }
}
