//! Keeps one owner running for every control partition that the group assigns to this process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{AbortHandle, Abortable, BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Claim, Error};
use crate::log::{self, Barrier, Event, Log, Membership, SESSION_TIMEOUT, Topic, TopicPartition, Writer};
use crate::metrics::{self, Role};
use crate::record::Partition;

/// The first and the longest pause before the next claim. A take-over has to succeed well within
/// the 5 s that a lane may stand still, and two owners that fence each other have to come apart.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_CAP: Duration = Duration::from_secs(2);

/// An owner that lived this long had nothing to do with the failure before it.
const SETTLED: Duration = Duration::from_secs(10);

/// How long an owner that is to let go may finish what is under way: beyond half the session
/// time-out the group would lose patience and take the whole process for dead.
const LET_GO: Duration = SESSION_TIMEOUT.checked_div(2).expect("the divisor is not 0");

/// Which group to join, where and as whom.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The log.
    pub log: &'a dyn Log,
    /// The name of the group, `<name>.<role>`.
    pub group: &'a str,
    /// The control topic.
    pub control: &'a Topic,
    /// This process's name, for operators.
    pub member: &'a str,
    /// The role.
    pub role: Role,
    /// Of the jitter between claims.
    pub seed: u64,
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("group", &self.group).field("member", &self.member).finish_non_exhaustive()
    }
}

/// Joins the group and runs `owner` for every claimed control partition, claiming again, after a
/// jittered pause, whenever one ends with an error that passes. Returns when `drain` is cancelled
/// and all owners have stopped.
///
/// When a partition is revoked, its owner's [`Claim::stop`] is cancelled and the partition moves on
/// as soon as the owner returns, at the latest after half a session time-out; an owner whose
/// partition is lost is dropped where it stands. Dropping this future is a crash: no owner goes on.
///
/// # Errors
///
/// The first error of an owner, or of the log, that does not pass.
pub async fn hold<F, Fut>(place: Place<'_>, drain: &CancellationToken, owner: F) -> Result<(), Error>
where
    F: FnMut(Claim) -> Fut,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    let mut holder = Holder::new(place, owner);
    let topics = [place.control.clone()];
    let mut failures = 0;
    while !drain.is_cancelled() {
        let error = match place.log.join(place.group, &topics, place.member).await {
            Ok(membership) => {
                failures = 0;
                match holder.stay(membership, drain).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            }
            Err(error) => error.into(),
        };
        if !error.is_passing() {
            return Err(error);
        }
        holder.abandon();
        let pause = holder.pause(failures);
        failures = failures.saturating_add(1);
        tracing::warn!(%error, ?pause, "joining the group again");
        drain.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
    Ok(())
}

/// How an owner's run ended: `None` where it was abandoned.
type Run = BoxFuture<'static, (Partition, u64, Option<Result<(), Error>>)>;

/// An assigned control partition.
struct Seat {
    failures: u32,
    state: SeatState,
}

enum SeatState {
    /// To be claimed then.
    Waiting { until: Instant },
    /// Owned by the run of that number.
    Running { run: u64, since: Instant, stop: CancellationToken, abort: AbortHandle },
    /// Being let go, for as long as the process drains where no end is set. The barrier falls with
    /// the seat.
    LettingGo { run: u64, until: Option<Instant>, abort: AbortHandle, _barrier: Option<Arc<Barrier>> },
}

struct Holder<'a, F> {
    place: Place<'a>,
    rng: fastrand::Rng,
    seats: BTreeMap<Partition, Seat>,
    owners: FuturesUnordered<Run>,
    runs: u64,
    draining: bool,
    owner: F,
}

impl<'a, F, Fut> Holder<'a, F>
where
    F: FnMut(Claim) -> Fut,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    fn new(place: Place<'a>, owner: F) -> Self {
        Self {
            place,
            rng: fastrand::Rng::with_seed(place.seed),
            seats: BTreeMap::new(),
            owners: FuturesUnordered::new(),
            runs: 0,
            draining: false,
            owner,
        }
    }

    async fn stay(&mut self, mut membership: Box<dyn Membership>, drain: &CancellationToken) -> Result<(), Error> {
        while !(self.draining && self.seats.is_empty()) {
            match self.due() {
                Some(partition) => self.claim(&mut *membership, partition, drain).await?,
                None => self.listen(&mut *membership, drain).await?,
            }
            self.lose_patience();
        }
        membership.leave().await;
        Ok(())
    }

    /// Waits for the group, the owners, the time and the drain, and deals with what comes first.
    async fn listen(&mut self, membership: &mut dyn Membership, drain: &CancellationToken) -> Result<(), Error> {
        let wake = self.wake();
        tokio::select! {
            biased;
            () = drain.cancelled(), if !self.draining => self.let_go_of_all(),
            // Before the owners: one that was frozen must not act before it hears that it is none any more.
            event = membership.next() => self.assignment(event?),
            Some((partition, run, end)) = self.owners.next(), if !self.owners.is_empty() => self.ended(partition, run, end)?,
            () = wake => {}
        }
        Ok(())
    }

    /// Claims, while the other owners go on. The membership is not listened to meanwhile: the
    /// engine bounds a claim and refuses it when the assignment changes.
    async fn claim(
        &mut self,
        membership: &mut dyn Membership,
        partition: Partition,
        drain: &CancellationToken,
    ) -> Result<(), Error> {
        let control = self.place.control.partition(partition);
        let mut claiming = membership.claim(&control);
        loop {
            let wake = self.wake();
            tokio::select! {
                biased;
                () = drain.cancelled() => {
                    self.let_go_of_all();
                    return Ok(());
                }
                Some((partition, run, end)) = self.owners.next(), if !self.owners.is_empty() => self.ended(partition, run, end)?,
                claimed = &mut claiming => match claimed {
                    Ok(writer) => {
                        self.start(control.clone(), writer);
                        return Ok(());
                    }
                    Err(error) => return self.failed(partition, &error.into()),
                },
                () = wake => self.lose_patience(),
            }
        }
    }

    /// The first seat that is to be claimed now.
    fn due(&self) -> Option<Partition> {
        let now = Instant::now();
        self.seats.iter().find_map(|(partition, seat)| match seat.state {
            SeatState::Waiting { until } if until <= now => Some(*partition),
            _ => None,
        })
    }

    /// Resolves when the next seat is to be claimed or to be abandoned.
    fn wake(&self) -> impl Future<Output = ()> + Send + use<F, Fut> {
        let now = Instant::now();
        let deadline = |seat: &Seat| match seat.state {
            SeatState::Waiting { until } => (until > now).then_some(until),
            SeatState::LettingGo { until, .. } => until,
            SeatState::Running { .. } => None,
        };
        let next = self.seats.values().filter_map(deadline).min();
        async move {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }

    fn start(&mut self, control: TopicPartition, writer: Box<dyn Writer>) {
        let partition = control.partition;
        let stop = CancellationToken::new();
        let claim = Claim { control, writer, member: self.place.member.to_owned(), stop: stop.clone() };
        let (abort, registration) = AbortHandle::new_pair();
        self.runs += 1;
        let run = self.runs;
        let owner = Abortable::new((self.owner)(claim), registration);
        self.owners.push(owner.map(move |end| (partition, run, end.ok())).boxed());
        let failures = self.seats.get(&partition).map_or(0, |seat| seat.failures);
        let state = SeatState::Running { run, since: Instant::now(), stop, abort };
        self.seats.insert(partition, Seat { failures, state });
    }

    fn ended(&mut self, partition: Partition, ended: u64, end: Option<Result<(), Error>>) -> Result<(), Error> {
        let Some(seat) = self.seats.get_mut(&partition) else { return Ok(()) };
        match seat.state {
            SeatState::Running { run, since, .. } if run == ended => {
                if since.elapsed() >= SETTLED {
                    seat.failures = 0;
                }
                let unasked = || log::Error::Unavailable("the owner stopped unasked".to_owned()).into();
                self.failed(partition, &end.and_then(Result::err).unwrap_or_else(unasked))
            }
            SeatState::LettingGo { run, .. } if run == ended => {
                tracing::info!(control = %partition, "let go");
                self.seats.remove(&partition);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Claims again later, or gives up where that cannot help.
    fn failed(&mut self, partition: Partition, error: &Error) -> Result<(), Error> {
        if matches!(error, Error::Log(log::Error::Fenced(_))) {
            metrics::owner(self.place.role).fenced.inc();
        }
        if !error.is_passing() {
            return Err(error.clone());
        }
        let Some(failures) = self.seats.get(&partition).map(|seat| seat.failures) else { return Ok(()) };
        let pause = self.pause(failures);
        tracing::warn!(control = %partition, %error, ?pause, "taking over again");
        let state = SeatState::Waiting { until: Instant::now() + pause };
        self.seats.insert(partition, Seat { failures: failures.saturating_add(1), state });
        Ok(())
    }

    fn assignment(&mut self, event: Event) {
        match event {
            Event::Assigned(_) if self.draining => {}
            Event::Assigned(partitions) => {
                for assigned in partitions {
                    self.drop_seat(assigned.partition);
                    let state = SeatState::Waiting { until: Instant::now() };
                    self.seats.insert(assigned.partition, Seat { failures: 0, state });
                }
            }
            Event::Revoked(partitions, barrier) => {
                let barrier = Arc::new(barrier);
                for revoked in partitions {
                    self.let_go(revoked.partition, Some(Instant::now() + LET_GO), Some(barrier.clone()));
                }
            }
            Event::Lost(partitions) => {
                for lost in partitions {
                    self.drop_seat(lost.partition);
                }
            }
        }
    }

    fn let_go(&mut self, partition: Partition, until: Option<Instant>, barrier: Option<Arc<Barrier>>) {
        let Some(seat) = self.seats.remove(&partition) else { return };
        let (run, abort) = match seat.state {
            SeatState::Waiting { .. } => return,
            SeatState::Running { run, stop, abort, .. } => {
                stop.cancel();
                (run, abort)
            }
            SeatState::LettingGo { run, abort, .. } => (run, abort),
        };
        self.seats
            .insert(partition, Seat { state: SeatState::LettingGo { run, until, abort, _barrier: barrier }, ..seat });
    }

    /// Without an end of its own: whoever drains has the patience, and drops the whole when it ends.
    fn let_go_of_all(&mut self) {
        self.draining = true;
        for partition in self.seats.keys().copied().collect::<Vec<_>>() {
            if !matches!(self.seats[&partition].state, SeatState::LettingGo { .. }) {
                self.let_go(partition, None, None);
            }
        }
    }

    fn lose_patience(&mut self) {
        let now = Instant::now();
        let overdue =
            |seat: &Seat| matches!(seat.state, SeatState::LettingGo { until: Some(until), .. } if until <= now);
        let overdue: Vec<_> = self.seats.iter().filter(|(_, seat)| overdue(seat)).map(|(p, _)| *p).collect();
        for partition in overdue {
            tracing::warn!(control = %partition, "did not let go in time, abandoned");
            self.drop_seat(partition);
        }
    }

    fn drop_seat(&mut self, partition: Partition) {
        if let Some(Seat { state: SeatState::Running { abort, .. } | SeatState::LettingGo { abort, .. }, .. }) =
            self.seats.remove(&partition)
        {
            abort.abort();
        }
    }

    fn abandon(&mut self) {
        self.seats.clear();
        self.owners.clear();
    }

    /// Between half and all of the exponential pause, so that rivals come apart.
    fn pause(&mut self, failures: u32) -> Duration {
        let full = PAUSE.saturating_mul(1 << failures.min(10)).min(PAUSE_CAP);
        full.mul_f64(0.5 + self.rng.f64() / 2.0)
    }
}
