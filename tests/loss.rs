//! A lane that lost something stands still until an operator accepts it, and then goes on with what
//! its logs still hold: the real resequencer on the log in memory.

#[path = "loss/above.rs"]
mod above;
#[path = "loss/anew.rs"]
mod anew;
#[path = "loss/batches.rs"]
mod batches;
#[path = "loss/gone.rs"]
mod gone;
#[path = "loss/lost_end.rs"]
mod lost_end;

use std::collections::BTreeSet;
use std::time::Duration;

use seriatim::audit;
use seriatim::log::memory::Memory;
use seriatim::log::{Log, SESSION_TIMEOUT, Topic, TopicPartition, Visibility};
use seriatim::observe::{cursor, ledger, live};
use seriatim::record::control::{Action, VERB, Verb};
use seriatim::record::cursor::LaneCursor;
use seriatim::record::ledger::Outcome;
use seriatim::record::{
    Batch, BatchBuilder, Epoch, Name, Offset, OutputHeaders, Partition, ResultHeaders, Round, Sequence, Source, Status,
    check,
};
use seriatim::resequence::{self, Options, Scope};
use seriatim::takeover::Error;
use seriatim::topics::Topics;
use tokio_util::sync::CancellationToken;

const LANE: Partition = Partition(0);

/// Far beyond what these tests wait for: nothing is sent again because of it.
const DEADLINE: Duration = Duration::from_secs(1_000_000);

/// Smaller than what is lost, so that a lane gets over it in several windows.
const WINDOW: u64 = 2;

struct Rig {
    log: Memory,
    topics: Topics,
    by: Scope,
    window: u64,
}

impl Rig {
    async fn new() -> Self {
        let log = Memory::new(11);
        let topics = Topics::derive("t", &["default"], 1, 1);
        log.ensure(&topics.shapes()).await.expect("a new log takes them");
        Self { log, topics, by: Scope::Lane, window: WINDOW }
    }

    async fn resequence(&self) -> Result<(), Error> {
        let by = self.by.clone();
        let options = Options { by, deadline: DEADLINE, window: self.window, ..Options::default() };
        let log = std::sync::Arc::new(self.log.clone());
        resequence::run(log, self.topics.clone(), options, "t.resequence", "m", 1, CancellationToken::new()).await
    }

    /// Runs a resequencer until `done` is; it must not end by itself.
    async fn resequencing<T>(&self, done: impl Future<Output = T>) -> T {
        tokio::select! {
            ended = self.resequence() => panic!("it ended: {ended:?}"),
            done = tokio::time::timeout(Duration::from_secs(600), done) => done.expect("it comes to that"),
        }
    }

    async fn append(&self, to: &Topic, batch: Batch) {
        self.log.append(&to.partition(LANE), batch).await.expect("no faults").await.expect("no faults");
    }

    async fn send(&self, bodies: &[&str]) {
        let mut builder = BatchBuilder::default();
        bodies.iter().for_each(|body| builder.push(None, Some(body.as_bytes()), |_| {}));
        self.append(&self.topics.input, builder.finish()).await;
    }

    /// A rig of two destinations, which are the order's scope.
    async fn by_destination() -> Self {
        let topics = Topics::derive("t", &["default", "other"], 1, 1);
        let rig = Self { log: Memory::new(11), topics, by: Scope::Destination, window: 100 };
        rig.log.ensure(&rig.topics.shapes()).await.expect("a new log takes them");
        rig
    }

    async fn send_to(&self, destinations: &str, body: &str) {
        let mut builder = BatchBuilder::default();
        builder.push(None, Some(body.as_bytes()), |to| to.put(Name::Destination, destinations.as_bytes()));
        self.append(&self.topics.input, builder.finish()).await;
    }

    /// Writes the output of a message with this number, as an owner does whose cursor is then lost.
    async fn write_output(&self, offset: u64, sequence: u64, body: &str) {
        let output = OutputHeaders {
            source: Source { lane: LANE, offset: Offset(offset) },
            output: 0,
            group: 0,
            sequence: Sequence(sequence),
            epoch: Epoch(1),
        };
        let mut builder = BatchBuilder::default();
        builder.push(None, Some(body.as_bytes()), |to| output.encode(to));
        self.append(&self.topics.destinations["default"], builder.finish()).await;
    }

    /// Answers the messages at these offsets with their own bodies.
    async fn answer(&self, offsets: &[u64]) {
        self.answer_of(&self.read(&self.topics.input).await, offsets).await;
    }

    /// As [`Rig::answer`], with an input that was read before.
    async fn answer_of(&self, input: &[Batch], offsets: &[u64]) {
        let mut builder = BatchBuilder::default();
        for record in input.iter().flatten().filter(|record| offsets.contains(&record.offset.0)) {
            let source = Source { lane: LANE, offset: record.offset };
            let headers = ResultHeaders { round: Round(0), ..ResultHeaders::new(source, check(&record), Status::Done) };
            builder.push(None, record.value, |to| headers.encode(to));
        }
        self.append(&self.topics.results, builder.finish()).await;
    }

    async fn accept(&self) {
        let verb = Verb { lane: 0, action: Action::Accept, reason: "a test".to_owned(), by: "me".to_owned() };
        let mut builder = BatchBuilder::default();
        let value = serde_json::to_vec(&verb).expect("verbs are JSON");
        builder.push(None, Some(&value), |to| to.put(Name::Kind, VERB));
        self.append(&self.topics.control, builder.finish()).await;
    }

    /// What an audit finds wrong.
    async fn audited(&self) -> Vec<String> {
        let scope = audit::Scope { topics: &self.topics, destination: None };
        let report = audit::audit(&self.log, scope, &mut |_, _| {}).await.expect("no faults");
        report.findings.iter().map(|finding| format!("{finding:?}")).collect()
    }

    /// What the ledger says of the message at this offset.
    async fn found(&self, offset: u64) -> ledger::Found {
        let source = Source { lane: LANE, offset: Offset(offset) };
        ledger::find(&self.log, &self.topics, source).await.expect("no faults")
    }

    /// Whether it says that the message is the output of this number.
    async fn is_output(&self, offset: u64, sequence: u64) -> bool {
        let sent = Outcome::Sent(vec![("default".to_owned(), sequence)]);
        self.found(offset).await == ledger::Found::Released(sent)
    }

    async fn read(&self, topic: &Topic) -> Vec<Batch> {
        all(&self.log, &topic.partition(LANE)).await
    }

    /// The outputs: sequence, source offset and body.
    async fn outputs(&self) -> Vec<(u64, u64, String)> {
        let read = self.read(&self.topics.destinations["default"]).await;
        let output = |record: seriatim::record::RecordRef<'_>| {
            let from = OutputHeaders::decode(record.headers).expect("the resequencer's own");
            let body = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
            (from.sequence.0, from.source.offset.0, body)
        };
        read.iter().flatten().map(output).collect()
    }

    async fn has_outputs(&self, count: usize) {
        while self.outputs().await.len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What stands in the work topic: source offset and body.
    async fn sent_out(&self) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        for partition in 0..self.topics.work_partitions {
            for record in all(&self.log, &self.topics.work.partition(Partition(partition))).await.iter().flatten() {
                let source = String::from_utf8_lossy(record.headers.get(Name::Source).unwrap_or_default()).into_owned();
                let offset = source.split_once(':').and_then(|(_, offset)| offset.parse().ok());
                found.push((
                    offset.expect("the owner's own"),
                    String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned(),
                ));
            }
        }
        found
    }

    /// Answers whatever is sent out.
    async fn keep_answering(&self) -> ! {
        let mut answered = BTreeSet::new();
        loop {
            for (offset, _) in self.sent_out().await {
                if answered.insert(offset) {
                    self.answer(&[offset]).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Accepts, and answers when this one is sent out again, which somebody may have been at work on.
    async fn accept_and_answer(&self, input: &[Batch], resent: u64, others: &[u64]) {
        self.accept().await;
        while !self.sent_out().await.iter().any(|(sent, _)| *sent == resent) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.answer_of(input, &[resent]).await;
        self.answer_of(input, others).await;
    }

    async fn cursor(&self) -> LaneCursor {
        let owner = cursor::of_lane(&self.log, &self.topics, LANE).await.expect("it can be read");
        owner.and_then(|mut owner| owner.lanes.remove(&LANE.0)).unwrap_or_default()
    }

    async fn is_halted(&self) -> String {
        loop {
            if let Some(reason) = self.cursor().await.halted {
                return reason;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn all(log: &Memory, of: &TopicPartition) -> Vec<Batch> {
    let bounds = log.bounds(of).await.expect("no faults");
    let mut reader = log.read(of, bounds.start, Visibility::Durable, 1 << 20).await.expect("no faults");
    let mut batches = Vec::new();
    while reader.position() < bounds.stable_end {
        batches.extend(reader.next().await.expect("no faults").batches);
    }
    batches
}

#[tokio::test(start_paused = true)]
async fn lost_results_are_asked_for_again_at_once() {
    let rig = Rig::new().await;
    rig.send(&["a", "b", "c", "d"]).await;
    rig.answer(&[0, 1, 3]).await;
    rig.resequencing(rig.has_outputs(2)).await;
    rig.log.recreate(&rig.topics.results);
    let reason = rig.resequencing(rig.is_halted()).await;
    assert!(reason.contains("made anew"), "{reason}");
    let resent = rig
        .resequencing(async {
            rig.accept().await;
            loop {
                let bodies = rig.sent_out().await;
                if bodies.len() >= 2 {
                    return bodies;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    let bodies: BTreeSet<&str> = resent.iter().map(|(_, body)| body.as_str()).collect();
    assert_eq!((resent.len(), bodies), (2, BTreeSet::from(["c", "d"])));
    rig.answer(&[2, 3]).await;
    rig.resequencing(rig.has_outputs(4)).await;
    let outputs: Vec<_> = rig.outputs().await.into_iter().map(|(sequence, offset, _)| (sequence, offset)).collect();
    assert_eq!(outputs, [(0, 0), (1, 1), (2, 2), (3, 3)]);
}

/// Who accepted it may die before anything was sent, or the work topic lose it.
#[tokio::test(start_paused = true)]
async fn lost_results_are_asked_for_again_by_the_next_owner_too() {
    let rig = Rig::new().await;
    rig.send(&["a", "b", "c", "d"]).await;
    rig.answer(&[0, 1, 3]).await;
    rig.resequencing(rig.has_outputs(2)).await;
    rig.log.recreate(&rig.topics.results);
    rig.resequencing(rig.is_halted()).await;
    let resent = async |count: usize| {
        while rig.sent_out().await.len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    rig.accept().await;
    rig.resequencing(resent(2)).await;
    rig.log.recreate(&rig.topics.work);
    rig.send(&["e"]).await;
    let began = tokio::time::Instant::now();
    rig.resequencing(resent(2)).await;
    assert!(began.elapsed() < Duration::from_secs(60), "nobody waits for a deadline: {:?}", began.elapsed());
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    let sent: BTreeSet<u64> = rig.sent_out().await.into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(sent, BTreeSet::from([2, 3]), "what came after it was accepted may be with a worker");
}

#[tokio::test(start_paused = true)]
async fn without_its_cursor_a_lane_begins_anew_only_when_told_to() {
    let rig = Rig::new().await;
    rig.send(&["a", "b", "c", "d", "e"]).await;
    tokio::select! {
        () = rig.resequencing(rig.has_outputs(5)) => {}
        () = async {
            for offset in 0..5 {
                rig.answer(&[offset]).await;
                rig.has_outputs(usize::try_from(offset + 1).expect("a few")).await;
            }
            std::future::pending::<()>().await;
        } => {}
    }
    rig.log.recreate(&rig.topics.cursors_resequence);
    rig.accept().await;
    // An order from before the loss was known does not end it.
    rig.resequencing(tokio::time::sleep(Duration::from_secs(60))).await;
    assert_eq!(rig.outputs().await.len(), 5);
    let lost = live::lost_cursor(&rig.log, &rig.topics, LANE).await.expect("no faults").expect("it is lost");
    assert!(lost.contains("release again"), "{lost}");
    rig.resequencing(async {
        // Past the time after which the group gives a vanished owner's partitions to another.
        tokio::time::sleep(2 * SESSION_TIMEOUT).await;
        rig.accept().await;
        tokio::select! {
            () = rig.has_outputs(10) => {}
            _ = rig.keep_answering() => {}
        }
    })
    .await;
    let outputs: Vec<_> = rig.outputs().await.into_iter().map(|(sequence, offset, _)| (sequence, offset)).collect();
    let twice: Vec<_> = (0..10).map(|sequence| (sequence, sequence % 5)).collect();
    assert_eq!(outputs, twice, "sequence numbers go on");
    assert_eq!(live::lost_cursor(&rig.log, &rig.topics, LANE).await.expect("no faults"), None);
}

#[tokio::test(start_paused = true)]
async fn damaged_input_is_passed_over_when_all_before_it_has_left() {
    let rig = Rig::new().await;
    for body in ["a", "b", "c", "d", "e"] {
        rig.send(&[body]).await;
    }
    let input = rig.read(&rig.topics.input).await;
    rig.answer(&[0, 3]).await;
    rig.log.damage(&rig.topics.input.partition(LANE), Offset(2)..Offset(3)).expect("it exists");
    let told = rig
        .resequencing(async {
            rig.has_outputs(1).await;
            let live = live::lane(&rig.log, &rig.topics, &Options::default(), LANE).await.expect("it can be read");
            live.and_then(|live| live.damage().map(str::to_owned)).expect("it waits for b, and damage lies ahead")
        })
        .await;
    assert!(told.contains("offset 2"), "{told}");
    rig.answer_of(&input, &[1]).await;
    let reason = rig.resequencing(rig.is_halted()).await;
    assert_eq!((reason, rig.outputs().await.len()), (told, 2), "b has left before it halted");
    rig.resequencing(async {
        rig.accept_and_answer(&input, 3, &[4]).await;
        rig.has_outputs(4).await;
    })
    .await;
    let outputs: Vec<_> = rig.outputs().await.into_iter().map(|(sequence, offset, _)| (sequence, offset)).collect();
    assert_eq!(outputs, [(0, 0), (1, 1), (2, 3), (3, 4)]);
}

#[tokio::test(start_paused = true)]
async fn damaged_results_are_asked_for_again_and_what_lies_behind_them_counts() {
    let rig = Rig::new().await;
    rig.send(&["a", "b", "c", "d"]).await;
    let input = rig.read(&rig.topics.input).await;
    rig.answer(&[0]).await;
    // Workers may be at work on what follows.
    rig.resequencing(async {
        rig.has_outputs(1).await;
        while rig.cursor().await.limit < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for offset in 1..3 {
        rig.answer(&[offset]).await;
    }
    rig.log.damage(&rig.topics.results.partition(LANE), Offset(1)..Offset(2)).expect("it exists");
    let reason = rig.resequencing(rig.is_halted()).await;
    assert!(reason.contains("results[0]") && reason.contains("offset 1"), "{reason}");
    rig.resequencing(async {
        rig.accept_and_answer(&input, 1, &[]).await;
        rig.has_outputs(3).await;
        rig.answer_of(&input, &[3]).await;
        rig.has_outputs(4).await;
    })
    .await;
    let sent: BTreeSet<u64> = rig.sent_out().await.into_iter().map(|(offset, _)| offset).collect();
    assert!(!sent.contains(&0) && !sent.contains(&2), "what can be read counts, behind the damage, too: {sent:?}");
    let outputs: Vec<_> = rig.outputs().await.into_iter().map(|(sequence, offset, _)| (sequence, offset)).collect();
    assert_eq!(outputs, [(0, 0), (1, 1), (2, 2), (3, 3)]);
}

#[tokio::test(start_paused = true)]
async fn damage_in_the_outputs_holds_up_no_owner() {
    let rig = Rig::new().await;
    for (offset, body) in ["a", "b", "c"].iter().enumerate() {
        rig.send(&[body]).await;
        rig.answer(&[offset as u64]).await;
        rig.resequencing(rig.has_outputs(offset + 1)).await;
    }
    let of = rig.topics.destinations["default"].partition(LANE);
    rig.log.damage(&of, Offset(1)..Offset(2)).expect("it exists");
    rig.send(&["d"]).await;
    rig.answer(&[3]).await;
    rig.resequencing(async {
        while rig.log.bounds(&of).await.expect("no faults").end < Offset(4) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let last = rig.log.snapshot_from(&of, Offset(3));
    let sequence = last[0].headers.iter().find(|(name, _)| name == b"seriatim-sequence").map(|(_, value)| &value[..]);
    assert_eq!((last.len(), sequence), (1, Some(&b"3"[..])));
}
