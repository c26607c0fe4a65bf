//! The owner of one control partition: pushes the items of its lanes for every destination.
//!
//! One future, which waits in one place ([`Owner::run`]) and starts everything in another
//! ([`Owner::pump`]). Whatever takes time is a task of this future's own, so that dropping it is a crash
//! and not polling it is a freeze.

mod anew;
mod commit;
mod control;
mod pump;
mod settle;
mod target;
mod tasks;
mod trial;
mod trouble;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::feed::Feed;
use super::options::Start;
use super::{Destination, Shared};
use crate::log::{Log, Reader, SESSION_TIMEOUT, TopicPartition, Writer};
use crate::metrics::{self, Role};
use crate::record::push::{PushCursor, PushPosition, PushVerb};
use crate::record::{BatchBuilder, Epoch, Offset, Partition};
use crate::takeover::{self, Claim, State, TakenOver};
use target::Target;
use tasks::Done;

/// How long a commit vouches for the ownership: well below the time after which a silent owner's
/// partitions go to others, so that one that was frozen commits before it pushes, and is found out.
const VOUCHED: Duration = SESSION_TIMEOUT.checked_div(2).expect("the divisor is not 0");

/// How often gauges are moved, positions committed that went over holes only, and topics looked at for whether
/// they were made anew: one question to the log.
const TICK: Duration = Duration::from_secs(5);

/// How many finished tasks are dealt with before anything new is started, so that a burst of
/// acknowledgements shares a commit and yet cannot hold up the rest.
const BURST: usize = 1024;

impl State for PushCursor {
    fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }
}

pub(super) struct Owner {
    shared: Arc<Shared>,
    control: TopicPartition,
    cursors: TopicPartition,
    /// The state as it was, but for what the feeds know better: kept for topics no longer configured.
    state: PushCursor,
    epoch: Epoch,
    /// From where the breakers count their time.
    origin: Instant,
    rng: fastrand::Rng,
    targets: Vec<Target>,
    feeds: Vec<Feed>,
    tasks: FuturesUnordered<BoxFuture<'static, Done>>,
    /// `None` while a commit is under way.
    writer: Option<Box<dyn Writer>>,
    /// When the last durable commit was begun: then this was the owner for certain.
    vouched: Option<Instant>,
    /// Whether something waits for a commit.
    dirty: bool,
    /// Whether the cursor comes near its budget, so that no more is read.
    crowded: bool,
    letters: BTreeMap<Partition, BatchBuilder>,
    /// Operators' orders that are not executed, with their offsets.
    verbs: VecDeque<(Offset, PushVerb)>,
    /// The control log is read up to here.
    control_read: Offset,
    control_reader: Option<Box<dyn Reader>>,
    /// Whether the control log is being read, or cannot be.
    listening: bool,
    /// Whether the log is being asked what it still has, for the first of the orders.
    asking: bool,
    tick: Instant,
    stopping: bool,
}

impl Owner {
    /// Finds out where the lanes stand. The first commit, which makes the epoch known, is due.
    pub(super) async fn take_over(shared: Arc<Shared>, claim: Claim) -> Result<Self, takeover::Error> {
        let control = claim.control.clone();
        let cursors = shared.topics.cursors_deliver.partition(control.partition);
        let written = shared.topics.written_by_deliverer(control.partition);
        let empty = |position: Offset| PushCursor { control: position.0, ..PushCursor::default() };
        let lost = async |lost| control::cursor_lost(&lost, &shared, &control).await;
        let TakenOver { writer, epoch, cursor: state, .. } =
            takeover::take_over(claim, &*shared.log, Role::Deliver, &cursors, &written, empty, lost).await?;
        let now = Instant::now();
        let mut owner = Self {
            rng: fastrand::Rng::with_seed(shared.seed ^ epoch.0),
            control,
            cursors,
            epoch,
            origin: now,
            targets: Vec::new(),
            feeds: Vec::new(),
            tasks: FuturesUnordered::new(),
            writer: Some(writer),
            vouched: None,
            dirty: true,
            crowded: false,
            letters: BTreeMap::new(),
            verbs: VecDeque::new(),
            control_read: Offset(state.control),
            control_reader: None,
            listening: false,
            asking: false,
            tick: now + TICK,
            stopping: false,
            state,
            shared,
        };
        owner.open().await?;
        Ok(owner)
    }

    /// Makes the targets and their feeds.
    async fn open(&mut self) -> Result<(), takeover::Error> {
        let shared = self.shared.clone();
        // Before all that is asked of them: one that is made anew meanwhile is found by the next look.
        let now = shared.log.identities(&self.pushed()).await?;
        anew::compare(&mut self.state, now);
        for (index, (name, topic, destination)) in shared.destinations.iter().enumerate() {
            let first = self.feeds.len();
            for lane in shared.topics.lanes_of(self.control.partition) {
                let at = topic.partition(lane);
                let known = self.state.topics.get(topic.as_str()).and_then(|lanes| lanes.get(&lane.0)).cloned();
                let position = match known {
                    Some(position) => position,
                    None => first_position(&*shared.log, &at, destination).await?,
                };
                let metrics = metrics::destination(name, lane);
                self.feeds.push(Feed::new(index, at, position, &destination.options, metrics));
            }
            let held = self.state.held.get(&**name).filter(|held| held.is_for_good()).cloned();
            let owners = NonZeroU32::new(shared.topics.control_partitions).unwrap_or(NonZeroU32::MIN);
            self.targets.push(Target::new(name.clone(), destination, held, first..self.feeds.len(), owners));
        }
        Ok(())
    }

    /// Pushes until `stop` is cancelled and what is under way then is committed.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> Result<(), takeover::Error> {
        self.pump();
        while !self.is_finished() {
            let tick = self.tick;
            let wake = self.wake().map_or(tick, |at| at.min(tick));
            tokio::select! {
                biased;
                () = stop.cancelled(), if !self.stopping => self.stopping = true,
                Some(done) = self.tasks.next(), if !self.tasks.is_empty() => self.apply(done)?,
                () = tokio::time::sleep_until(wake) => {}
            }
            // What else is finished shares the next commit.
            for _ in 0..BURST {
                match self.tasks.next().now_or_never() {
                    Some(Some(done)) => self.apply(done)?,
                    _ => break,
                }
            }
            // Nothing is begun for a partition that is being let go, however late that is heard.
            self.stopping |= stop.is_cancelled();
            self.pump();
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        let busy = self.targets.iter().any(|target| target.in_flight > 0);
        self.stopping && !busy && !self.dirty && self.writer.is_some()
    }

    /// Decides; starts nothing.
    fn apply(&mut self, done: Done) -> Result<(), takeover::Error> {
        match done {
            Done::Sent(sent) => self.sent(sent),
            Done::Loaded(loaded) => self.loaded(loaded),
            Done::Read(read) => self.read(read),
            Done::Control(fetched) => self.control_read(fetched),
            Done::Remains { feed, life, remains } => self.remains(feed, life, remains),
            Done::Tested(tested) => self.tested(tested),
            Done::Measured(bounds) => self.measured(&bounds),
            Done::Looked(topics) => self.looked(topics),
            Done::Committed(committed) => self.committed(committed)?,
        }
        Ok(())
    }

    /// The time as the breakers count it.
    fn since_origin(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }
}

/// Where a topic begins that was never pushed before.
async fn first_position(
    log: &dyn Log,
    at: &TopicPartition,
    destination: &Destination,
) -> Result<PushPosition, takeover::Error> {
    let bounds = match log.bounds(at).await {
        // Of what it will be nobody knows where to begin. The other destinations do not wait for that.
        Err(_) if log.is_gone(&at.topic) => {
            let lost = Some(format!("{} was deleted before anything of it was pushed", at.topic));
            return Ok(PushPosition { lost, ..PushPosition::default() });
        }
        bounds => bounds?,
    };
    let position = match destination.options.start {
        Start::Beginning => bounds.start,
        Start::End => bounds.stable_end,
    };
    Ok(PushPosition { position: position.0, ..PushPosition::default() })
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.forget_all(&self.control);
    }
}
