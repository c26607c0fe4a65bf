//! An output topic that is deleted and not made again: lanes that have something to write to it stand still, the
//! others of their owner go on.

use std::collections::BTreeMap;
use std::time::Duration;

use seriatim::log::memory::Memory;
use seriatim::log::{Log as _, Topic};
use seriatim::observe::live;
use seriatim::record::control::{Action, VERB, Verb};
use seriatim::record::{BatchBuilder, Name, Offset, OutputHeaders, Partition, ResultHeaders, Source, Status, check};
use seriatim::resequence::{Options, Scope};
use seriatim::topics::Topics;

use super::{Rig, WINDOW, all};

const LANES: [u32; 2] = [0, 1];

/// Sequence numbers and bodies.
type Outputs = Vec<(u64, String)>;

/// One owner of two lanes, and two destinations.
struct Two(Rig);

impl Two {
    async fn new() -> Self {
        let topics = Topics::derive("t", &["default", "other"], 2, 1);
        let rig = Rig { log: Memory::new(12), topics, by: Scope::Lane, window: WINDOW };
        rig.log.ensure(&rig.topics.shapes()).await.expect("a new log takes them");
        Self(rig)
    }

    fn topic(&self, destination: &str) -> &Topic {
        &self.0.topics.destinations[destination]
    }

    async fn append(&self, to: &Topic, lane: u32, builder: BatchBuilder) {
        let (to, mut builder) = (to.partition(Partition(lane)), builder);
        self.0.log.append(&to, builder.finish()).await.expect("no faults").await.expect("no faults");
    }

    async fn send(&self, lane: u32, destination: &str, body: &str) {
        let mut builder = BatchBuilder::default();
        builder.push(None, Some(body.as_bytes()), |to| to.put(Name::Destination, destination.as_bytes()));
        self.append(&self.0.topics.input, lane, builder).await;
    }

    /// Answers everything that comes in with its own body.
    async fn keep_answering(&self) -> ! {
        let mut answered = BTreeMap::from(LANES.map(|lane| (lane, Offset::ZERO)));
        loop {
            for (lane, next) in &mut answered {
                let of = self.0.topics.input.partition(Partition(*lane));
                let from = *next;
                for record in all(&self.0.log, &of).await.iter().flatten().filter(|record| record.offset >= from) {
                    let source = Source { lane: Partition(*lane), offset: record.offset };
                    let headers = ResultHeaders::new(source, check(&record), Status::Done);
                    let mut builder = BatchBuilder::default();
                    builder.push(None, record.value, |to| headers.encode(to));
                    self.append(&self.0.topics.results, *lane, builder).await;
                    *next = record.offset.next();
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs an owner, with workers, until `done` is.
    async fn until<T>(&self, done: impl Future<Output = T>) -> T {
        let working = async {
            tokio::select! {
                biased;
                done = done => done,
                never = self.keep_answering() => never,
            }
        };
        Box::pin(self.0.resequencing(working)).await
    }

    /// As [`Two::until`], but the owner dies after so many turns.
    async fn dying_after(&self, turns: usize) {
        let mut working = std::pin::pin!(self.until(std::future::pending::<()>()));
        for _ in 0..turns {
            assert!(futures::poll!(&mut working).is_pending(), "nothing ends it");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn outputs(&self, lane: u32, destination: &str) -> Outputs {
        let of = self.topic(destination).partition(Partition(lane));
        let output = |record: seriatim::record::RecordRef<'_>| {
            let from = OutputHeaders::decode(record.headers).expect("the resequencer's own");
            (from.sequence.0, String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned())
        };
        all(&self.0.log, &of).await.iter().flatten().map(output).collect()
    }

    /// Waits until these have come out.
    async fn has(&self, lane: u32, destination: &str, expected: &[(u64, &str)]) {
        while self.outputs(lane, destination).await.len() < expected.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let outputs = self.outputs(lane, destination).await;
        assert_eq!(outputs.iter().map(|(sequence, body)| (*sequence, body.as_str())).collect::<Vec<_>>(), expected);
    }

    async fn halted(&self, lane: u32) -> Option<String> {
        let live = live::lane(&self.0.log, &self.0.topics, &Options::default(), Partition(lane)).await;
        live.expect("it can be read")?.cursor.halted
    }

    async fn is_halted(&self, lane: u32) -> String {
        loop {
            if let Some(reason) = self.halted(lane).await {
                return reason;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn accept(&self, lane: u32) {
        let verb = Verb { lane, action: Action::Accept, reason: "a test".to_owned(), by: "me".to_owned() };
        let value = serde_json::to_vec(&verb).expect("verbs are JSON");
        let mut builder = BatchBuilder::default();
        builder.push(None, Some(&value), |to| to.put(Name::Kind, VERB));
        self.append(&self.0.topics.control, 0, builder).await;
    }

    async fn make_anew(&self) {
        self.0.log.ensure(&self.0.topics.shapes()).await.expect("one is missing");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_halts_when_it_has_something_to_write_to_a_topic_that_is_gone() {
    let two = Two::new().await;
    two.until(async {
        for lane in LANES {
            two.send(lane, "other", "a").await;
            two.send(lane, "default", "b").await;
            two.has(lane, "default", &[(0, "b")]).await;
        }
        two.0.log.delete(two.topic("other"));
        two.send(1, "default", "c").await;
        two.has(1, "default", &[(0, "b"), (1, "c")]).await;
        assert_eq!((two.halted(0).await, two.halted(1).await), (None, None), "nothing is to go there");
        two.send(0, "other", "d").await;
        let reason = two.is_halted(0).await;
        assert!(reason.contains("t.output.other was deleted") && reason.contains("topics apply"), "{reason}");
        two.send(1, "default", "e").await;
        two.has(1, "default", &[(0, "b"), (1, "c"), (2, "e")]).await;
    })
    .await;
    // The next owner cannot compare what is there, and goes on all the same where nothing is to go there.
    two.until(async {
        two.send(1, "default", "f").await;
        two.has(1, "default", &[(0, "b"), (1, "c"), (2, "e"), (3, "f")]).await;
        assert_eq!((two.halted(0).await.is_some(), two.halted(1).await), (true, None));
        // Accepted too early it stands still again.
        two.accept(0).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(two.halted(0).await.is_some_and(|reason| reason.contains("t.output.other was deleted")));
        two.send(1, "other", "g").await;
        two.is_halted(1).await;
        two.make_anew().await;
        for lane in LANES {
            two.accept(lane).await;
        }
        two.has(0, "other", &[(1, "d")]).await;
        two.has(1, "other", &[(1, "g")]).await;
        two.send(0, "default", "h").await;
        two.has(0, "default", &[(0, "b"), (1, "h")]).await;
    })
    .await;
}

/// It is not known what a former owner has written to a topic that was not there at the take-over.
#[tokio::test(start_paused = true)]
async fn nothing_is_written_to_a_topic_that_was_not_compared() {
    let two = Two::new().await;
    two.until(async {
        two.send(0, "other", "a").await;
        two.has(0, "other", &[(0, "a")]).await;
    })
    .await;
    two.0.log.delete(two.topic("other"));
    two.until(async {
        two.send(0, "default", "b").await;
        two.has(0, "default", &[(0, "b")]).await;
        // Made anew between two looks.
        two.make_anew().await;
        two.send(0, "other", "c").await;
        two.is_halted(0).await;
        assert_eq!(two.outputs(0, "other").await, []);
        two.accept(0).await;
        two.has(0, "other", &[(1, "c")]).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_halts_the_lanes_that_have_lost_something_in_it() {
    let two = Two::new().await;
    two.until(async {
        two.send(0, "other", "a").await;
        two.has(0, "other", &[(0, "a")]).await;
        two.0.log.recreate(two.topic("other"));
        two.is_halted(0).await;
        two.send(1, "other", "b").await;
        two.has(1, "other", &[(0, "b")]).await;
        assert_eq!(two.halted(1).await, None);
    })
    .await;
}

/// Owners may die at any point: when the topic is deleted, when a lane halts over it, when that is accepted.
#[tokio::test(start_paused = true)]
async fn a_topic_that_is_gone_delays_only_what_goes_there_whoever_dies_when() {
    for turns in 0..60 {
        let two = Two::new().await;
        two.until(async {
            two.send(0, "other", "a").await;
            two.has(0, "other", &[(0, "a")]).await;
        })
        .await;
        two.0.log.delete(two.topic("other"));
        for (lane, destination, body) in [(0, "other", "b"), (1, "default", "c"), (0, "default", "d")] {
            two.send(lane, destination, body).await;
        }
        two.dying_after(turns).await;
        two.until(async {
            two.has(1, "default", &[(0, "c")]).await;
            two.is_halted(0).await;
        })
        .await;
        assert_eq!(two.outputs(0, "default").await, [], "it is the whole lane that has an order");
        two.make_anew().await;
        two.dying_after(turns).await;
        two.accept(0).await;
        two.dying_after(turns).await;
        two.until(async {
            two.has(0, "other", &[(1, "b")]).await;
            two.has(0, "default", &[(0, "d")]).await;
            two.send(0, "other", "e").await;
            two.has(0, "other", &[(1, "b"), (2, "e")]).await;
        })
        .await;
        assert_eq!((two.halted(0).await, two.halted(1).await), (None, None), "after {turns} turns");
    }
}
