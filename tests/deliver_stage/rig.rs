//! What the tests stand on: an output topic to write to, and a receiver that checks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use seriatim::deliver::{self, Answer, Destination, Failure, FailureKind, Options, Push, Sender};
use seriatim::log::memory::Memory;
use seriatim::log::{Log, TopicPartition};
use seriatim::record::cursor::decode;
use seriatim::record::push::{PUSH_VERB, PushAction, PushCursor, PushPosition, PushVerb};
use seriatim::record::{BatchBuilder, Epoch, Name, Offset, OutputHeaders, Partition, Sequence, Source};
use seriatim::topics::Topics;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) const NAME: &str = "default";

/// What the receiver does with an attempt.
#[derive(Clone, Debug)]
pub(crate) enum Reaction {
    /// Applies it and answers 200 after so long.
    Take(Duration),
    /// Answers so, at once; nothing is applied unless it is a success.
    Say(u16),
    /// Answers so, with a `Retry-After`.
    Later(u16, String),
    /// Applies it, and the answer gets lost.
    Lose,
    /// Never answers.
    Hang,
}

/// One attempt as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) lane: u32,
    pub(crate) group: u64,
    pub(crate) sequence: u64,
    pub(crate) epoch: u64,
    pub(crate) attempt: u32,
}

type Script = Box<dyn FnMut(&Push) -> Reaction + Send>;

/// What the receiver says to several items: a status, how many it has applied, and whether it tells.
pub(crate) struct Together {
    pub(crate) status: u16,
    pub(crate) applied: usize,
    pub(crate) told: bool,
}

type Many = Box<dyn FnMut(&[Push]) -> Together + Send>;

/// The state that interface.md asks of a receiver, per lane.
#[derive(Default)]
struct Exact {
    epoch: Epoch,
    done_below: Sequence,
    applied: BTreeSet<u64>,
}

#[derive(Default)]
struct State {
    script: Option<Script>,
    many: Option<Many>,
    /// How many items it takes at once.
    takes: Option<usize>,
    /// How many came in each request of several.
    together: Vec<usize>,
    seen: Vec<Seen>,
    lanes: BTreeMap<u32, Exact>,
    /// What was applied, in order: lane, group, sequence.
    applied: Vec<(u32, u64, u64)>,
    /// Lane, group, epoch: an owner that was frozen may have one under way beside its successor's.
    in_flight: BTreeSet<(u32, u64, u64)>,
    /// Each item counts as a group of its own.
    unordered: bool,
    most: usize,
}

/// A receiver that makes it exactly once.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

/// Frees the place of a group when an attempt ends, however it ends.
struct Busy(Receiver, (u32, u64, u64));

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.lock().in_flight.remove(&self.1);
    }
}

impl Receiver {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn script(&self, script: impl FnMut(&Push) -> Reaction + Send + 'static) {
        self.lock().script = Some(Box::new(script));
    }

    /// Items of a group may come side by side.
    pub(crate) fn expect_no_order(&self) {
        self.lock().unordered = true;
    }

    /// Takes so many items at once, and answers so.
    pub(crate) fn take_many(&self, most: usize, answer: impl FnMut(&[Push]) -> Together + Send + 'static) {
        let mut state = self.lock();
        state.takes = Some(most);
        state.many = Some(Box::new(answer));
    }

    pub(crate) fn together(&self) -> Vec<usize> {
        self.lock().together.clone()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    pub(crate) fn applied(&self) -> Vec<(u32, u64, u64)> {
        self.lock().applied.clone()
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.lock().most
    }

    /// Waits until so many items are applied.
    pub(crate) async fn wait_applied(&self, count: usize) {
        self.wait(|state| state.applied.len() >= count).await;
    }

    /// Waits until so many attempts have arrived.
    pub(crate) async fn wait_seen(&self, count: usize) {
        self.wait(|state| state.seen.len() >= count).await;
    }

    async fn wait(&self, enough: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            if enough(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    fn arrive(&self, push: &Push) -> (Reaction, Busy) {
        let mut state = self.lock();
        let from = push.provenance;
        let group = from.map_or(u64::MAX, |from| if state.unordered { from.sequence.0 } else { from.group });
        let place = (push.lane.0, group, push.epoch.0);
        assert!(state.in_flight.insert(place), "two of group {place:?} are under way at once");
        state.most = state.most.max(state.in_flight.len());
        state.seen.push(Seen {
            at: Instant::now(),
            lane: push.lane.0,
            group: place.1,
            sequence: from.map_or(push.offset.0, |from| from.sequence.0),
            epoch: push.epoch.0,
            attempt: push.attempt,
        });
        let reaction = match &mut state.script {
            Some(script) => script(push),
            None => Reaction::Take(Duration::ZERO),
        };
        (reaction, Busy(self.clone(), place))
    }

    fn apply(&self, push: &Push) {
        let mut state = self.lock();
        let lane = state.lanes.entry(push.lane.0).or_default();
        if push.epoch < lane.epoch {
            return;
        }
        lane.epoch = push.epoch;
        lane.done_below = lane.done_below.max(push.done_below.unwrap_or_default());
        let (group, sequence) = push.provenance.map_or((u64::MAX, push.offset.0), |from| (from.group, from.sequence.0));
        if push.provenance.is_some() && sequence < lane.done_below.0 || !lane.applied.insert(sequence) {
            return;
        }
        state.applied.push((push.lane.0, group, sequence));
    }
}

impl Sender for Receiver {
    fn send(&self, push: Push) -> BoxFuture<'static, Result<Answer, Failure>> {
        let receiver = self.clone();
        async move {
            let (reaction, _busy) = receiver.arrive(&push);
            receiver.changed.notify_waiters();
            let takes = receiver.lock().takes;
            let said =
                |status, retry_after| Answer { retry_after, takes, ..Answer::new(status, "as scripted".to_owned()) };
            let answer = |status, retry_after| Ok(said(status, retry_after));
            let outcome = match reaction {
                Reaction::Take(after) => {
                    tokio::time::sleep(after).await;
                    receiver.apply(&push);
                    answer(200, None)
                }
                Reaction::Say(status) => answer(status, None),
                Reaction::Later(status, when) => answer(status, Some(when)),
                Reaction::Lose => {
                    receiver.apply(&push);
                    Err(Failure { kind: FailureKind::Connection, detail: "reset".to_owned() })
                }
                Reaction::Hang => std::future::pending().await,
            };
            receiver.changed.notify_waiters();
            outcome
        }
        .boxed()
    }

    fn send_many(&self, pushes: Vec<Push>) -> BoxFuture<'static, Result<Answer, Failure>> {
        let receiver = self.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let (takes, Together { status, applied, told }) = {
                let mut state = receiver.lock();
                let mut many = state.many.take().expect("it has said that it takes several");
                let answer = many(&pushes);
                state.many = Some(many);
                state.together.push(pushes.len());
                (state.takes, answer)
            };
            pushes.iter().take(applied).for_each(|push| receiver.apply(push));
            receiver.changed.notify_waiters();
            let answer = Answer::new(status, "as scripted".to_owned());
            Ok(Answer { takes, applied: told.then_some(applied), ..answer })
        }
        .boxed()
    }
}

/// A log with the topics of a pipeline of one destination.
pub(crate) struct Rig {
    pub(crate) log: Memory,
    pub(crate) topics: Topics,
    pub(crate) receiver: Receiver,
    next: Mutex<BTreeMap<u32, u64>>,
}

impl Rig {
    pub(crate) async fn new(lanes: u32, control_partitions: u32) -> Self {
        let log = Memory::new(7);
        let topics = Topics::derive("t", &[NAME], lanes, control_partitions);
        log.ensure(&topics.shapes()).await.expect("a new log takes them");
        Self { log, topics, receiver: Receiver::default(), next: Mutex::default() }
    }

    pub(crate) fn options() -> Options {
        Options::new("https://receiver.invalid/")
    }

    pub(crate) fn output(&self, lane: u32) -> TopicPartition {
        self.topics.destinations[NAME].partition(Partition(lane))
    }

    /// Writes outputs with contiguous sequence numbers: of these groups, with bodies of this size.
    pub(crate) async fn write(&self, lane: u32, groups: &[u64], size: usize) {
        let mut builder = BatchBuilder::default();
        for &group in groups {
            let sequence = {
                let mut next = self.next.lock().expect("not poisoned");
                let next = next.entry(lane).or_default();
                *next += 1;
                *next - 1
            };
            let headers = OutputHeaders {
                source: Source { lane: Partition(lane), offset: Offset(1000 + sequence) },
                output: 0,
                group,
                sequence: Sequence(sequence),
                epoch: Epoch(1),
            };
            builder.push(Some(b"key"), Some(&vec![b'x'; size]), |h| headers.encode(h));
        }
        let written = self.log.append(&self.output(lane), builder.finish()).await.expect("no faults here");
        written.await.expect("no faults here");
    }

    /// One process that delivers. Dropping the future is a crash.
    pub(crate) fn run(
        &self,
        options: Options,
        member: &'static str,
        drain: &CancellationToken,
    ) -> BoxFuture<'static, Result<(), deliver::Error>> {
        let destination = Destination { options, sender: Arc::new(self.receiver.clone()) };
        let destinations = BTreeMap::from([(NAME.to_owned(), destination)]);
        let (log, topics, drain) = (Arc::new(self.log.clone()), self.topics.clone(), drain.clone());
        async move { deliver::run_with(log, topics, destinations, "t.deliver", member, 3, drain).await }.boxed()
    }

    /// Delivers until `until` is so, then crashes. A minute of virtual time without that is a failure.
    pub(crate) async fn run_until(&self, options: Options, until: impl Future<Output = ()>) {
        let run = self.run(options, "a", &CancellationToken::new());
        let until = tokio::time::timeout(Duration::from_secs(3600), until);
        tokio::select! {
            biased;
            ended = run => panic!("it ended: {ended:?}"),
            in_time = until => in_time.expect("it is stuck"),
        }
    }

    /// The last committed state.
    pub(crate) fn cursor(&self, control: u32) -> PushCursor {
        let of = self.topics.cursors_deliver.partition(Partition(control));
        let last = self.log.snapshot(&of).pop().expect("there is a cursor");
        decode(&last.value.expect("it has a value")).expect("it decodes")
    }

    pub(crate) fn position(&self, lane: u32) -> PushPosition {
        let control = self.topics.control_of(Partition(lane)).partition.0;
        self.cursor(control).topics[self.topics.destinations[NAME].as_str()][&lane].clone()
    }

    /// Waits until the committed position of a lane is `position`.
    pub(crate) async fn wait_position(&self, lane: u32, position: u64) {
        while self.position(lane).position != position {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn commits(&self, control: u32) -> usize {
        self.log.snapshot(&self.topics.cursors_deliver.partition(Partition(control))).len()
    }

    /// Says something to the owner of a control partition, as an operator.
    pub(crate) async fn order(&self, control: u32, action: PushAction) {
        let verb =
            PushVerb { destination: NAME.to_owned(), action, reason: "a test".to_owned(), by: "tester".to_owned() };
        let mut builder = BatchBuilder::default();
        let value = serde_json::to_vec(&verb).expect("plain data");
        builder.push(None, Some(&value), |h| h.put(Name::Kind, PUSH_VERB));
        let to = self.topics.control.partition(Partition(control));
        self.log.append(&to, builder.finish()).await.expect("no faults").await.expect("no faults");
    }
}

/// Every group's attempts never go back: a repeat is of the group's last item only.
pub(crate) fn assert_in_order(seen: &[Seen]) {
    let mut last = BTreeMap::new();
    for seen in seen {
        let before = last.insert((seen.lane, seen.group), seen.sequence);
        assert!(before <= Some(seen.sequence), "{seen:?} came after {before:?}");
    }
}

/// Everything up to `count` in each lane is applied once, each group in order.
pub(crate) fn assert_exact(applied: &[(u32, u64, u64)], lanes: u32, count: u64) {
    let mut last = BTreeMap::new();
    for &(lane, group, sequence) in applied {
        let before = last.insert((lane, group), sequence);
        assert!(before < Some(sequence), "{sequence} of lane {lane} came after {before:?}");
    }
    let all: BTreeSet<_> = applied.iter().map(|&(lane, _, sequence)| (lane, sequence)).collect();
    assert_eq!(all.len(), applied.len(), "something was applied twice");
    assert_eq!(all, (0..lanes).flat_map(|lane| (0..count).map(move |s| (lane, s))).collect());
}
