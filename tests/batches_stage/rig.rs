//! The world that a batch lives in.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use seriatim::log::memory::{Faults, Memory, Stored};
use seriatim::log::{Log, Topic, TopicPartition};
use seriatim::record::batches::{BatchRecord, Command, Selection};
use seriatim::record::cursor::decode;
use seriatim::record::{BatchBuilder, BatchItem, Name, Partition, Round, partition_of_key};
use seriatim::topics::Topics;
use seriatim::work::{Answer, Failure, Job, Output, Processor};
use seriatim::{resequence, work};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::batches::Batches;
use crate::plan::{From, Plan};

/// How long things go wrong.
const CHAOS: Duration = Duration::from_secs(60);
/// How long a run may take after that.
const PATIENCE: Duration = Duration::from_secs(3_600);

pub(crate) struct Rig {
    pub(crate) log: Memory,
    pub(crate) topics: Topics,
    pub(crate) plan: Plan,
    seed: u64,
    origin: Instant,
}

impl Rig {
    pub(crate) async fn new(seed: u64, plan: Plan) -> Self {
        let log = Memory::new(seed);
        let topics = Topics::derive("t", &["default", "b"], plan.lanes, 1);
        log.ensure(&topics.shapes()).await.expect("an empty log takes every shape");
        Self { log, topics, plan, seed, origin: Instant::now() }
    }

    /// What is on the log of the batches.
    pub(crate) fn batches(&self) -> Batches<'_> {
        Batches { log: &self.log, topics: &self.topics }
    }

    fn all(&self, topic: &Topic) -> Vec<(Partition, Stored)> {
        self.batches().all(topic)
    }

    fn record(&self, id: &str) -> Option<BatchRecord> {
        self.batches().record(id)
    }

    /// Lets everything happen, until every batch has ended and the lanes are empty.
    pub(crate) async fn live(&self) {
        self.start_roles();
        let mut rng = Rng::with_seed(self.seed ^ 1);
        self.ask(&mut rng).await;
        self.log.set_faults(self.plan.faults.clone());
        while self.origin.elapsed() < CHAOS {
            sleep(Duration::from_millis(rng.u64(1..3_000))).await;
            self.annoy(&mut rng).await;
            self.say_done_only_after_the_outputs();
        }
        self.log.set_faults(Faults::default());
        while !self.is_over() {
            assert!(self.origin.elapsed() < PATIENCE, "it never ends: {:#?}", self.standing());
            for asked in &self.plan.batches {
                self.command(&Command::Resume { id: asked.id.clone() }).await;
                let which = Selection::All;
                let id = asked.id.clone();
                let command = if rng.bool() { Command::Retry { id, which } } else { Command::Discard { id, which } };
                self.command(&command).await;
            }
            sleep(Duration::from_secs(5)).await;
        }
        self.say_done_only_after_the_outputs();
    }

    fn standing(&self) -> Vec<Option<BatchRecord>> {
        self.plan.batches.iter().map(|asked| self.record(&asked.id)).collect()
    }

    fn is_over(&self) -> bool {
        let ended = |id: &str| self.record(id).is_some_and(|record| record.state.has_ended());
        self.plan.batches.iter().all(|asked| ended(&asked.id)) && self.all(&self.topics.input).len() == self.released()
    }

    fn released(&self) -> usize {
        let ledger = self.all(&self.topics.ledger).into_iter();
        let records = ledger.map(|(_, stored)| {
            decode::<seriatim::record::ledger::LedgerRecord>(&stored.value.unwrap_or_default()).expect("it is a ledger")
        });
        let entries = records.flat_map(|record| record.entries);
        entries.map(|entry| entry.count as usize).sum()
    }

    /// Asks for the batches, uploads in between each other first, and sends live messages.
    async fn ask(&self, rng: &mut Rng) {
        let mut uploads: Vec<(Partition, String, Vec<Value>, usize)> = Vec::new();
        for asked in self.plan.batches.iter().filter(|asked| asked.from == From::Upload) {
            let void = asked.items().into_iter().take(rng.usize(..5)).collect();
            uploads.push((self.lane(&asked.id), format!("void-{}", asked.id), void, 0));
            uploads.push((self.lane(&asked.id), format!("token-{}", asked.id), asked.items(), 0));
        }
        while uploads.iter().any(|(_, _, items, sent)| *sent < items.len()) {
            let at = rng.usize(..uploads.len());
            let (lane, token, items, sent) = &mut uploads[at];
            let Some(item) = items.get(*sent) else { continue };
            let mut builder = BatchBuilder::default();
            builder.push(Some(token.as_bytes()), Some(item.to_string().as_bytes()), |h| {
                let item = BatchItem { id: token, index: *sent as u64, round: Round(0) };
                h.put_display(Name::Batch, format_args!("{item}"));
            });
            *sent += 1;
            self.append(self.topics.batch_items.partition(*lane), builder).await;
        }
        for asked in &self.plan.batches {
            let mut start = asked.start.clone();
            match asked.from {
                From::Template => {
                    start["count"] = json!(asked.failing.len());
                    start["template"] = json!({"fail": 0});
                }
                From::List => start["items"] = json!(asked.items()),
                From::Upload => {
                    let count = asked.failing.len();
                    start["upload"] = json!({"token": format!("token-{}", asked.id), "first": 0, "count": count});
                }
            }
            // Twice, as who did not get his answer asks again: the second is refused.
            for _ in 0..rng.u32(1..=2) {
                self.command_json(&asked.id, start.to_string().as_bytes()).await;
            }
        }
        let mut builder = BatchBuilder::default();
        for number in 0..self.plan.messages {
            let key = format!("k{}", number % 3);
            builder.push(Some(key.as_bytes()), Some(b"live"), |_| {});
        }
        if !builder.is_empty() {
            self.append(self.topics.input.partition(Partition(0)), builder).await;
        }
    }

    /// Operators change their minds, and strangers repeat what they have seen.
    async fn annoy(&self, rng: &mut Rng) {
        let asked = &self.plan.batches[rng.usize(..self.plan.batches.len())];
        let id = asked.id.clone();
        let some = || Selection::Items(vec![0, 3, 7]);
        match rng.u32(..24) {
            0 => self.command(&Command::Cancel { id, reason: None }).await,
            1 | 2 => self.command(&Command::Pause { id }).await,
            3..8 => self.command(&Command::Resume { id }).await,
            8 | 9 => self.command(&Command::Retry { id, which: Selection::All }).await,
            10 => self.command(&Command::Discard { id, which: some() }).await,
            11 => self.command(&Command::Retry { id, which: some() }).await,
            12 => self.command_json(&id, b"nonsense").await,
            13..17 => self.repeat(rng, &self.topics.results).await,
            17 | 18 => self.repeat(rng, &self.topics.batches).await,
            _ => {}
        }
    }

    /// A record of a topic comes once more.
    async fn repeat(&self, rng: &mut Rng, topic: &Topic) {
        let all = self.all(topic);
        if all.is_empty() {
            return;
        }
        let (lane, stored) = &all[rng.usize(..all.len())];
        let is_steering = stored.value.as_deref().is_some_and(|value| !value.starts_with(br#"{"type":"Start"#));
        if *topic == self.topics.batches && is_steering {
            return;
        }
        let mut builder = BatchBuilder::default();
        builder.push(stored.key.as_deref(), stored.value.as_deref(), |h| {
            stored.headers.iter().for_each(|(name, value)| h.put_named(name, value));
        });
        self.append(topic.partition(*lane), builder).await;
    }

    async fn command(&self, command: &Command) {
        self.command_json(command.id(), &command.encode()).await;
    }

    async fn command_json(&self, id: &str, value: &[u8]) {
        let mut builder = BatchBuilder::default();
        builder.push(Some(id.as_bytes()), Some(value), |_| {});
        self.append(self.topics.batches.partition(self.lane(id)), builder).await;
    }

    fn lane(&self, id: &str) -> Partition {
        partition_of_key(id.as_bytes(), self.plan.lanes)
    }

    async fn append(&self, to: TopicPartition, mut builder: BatchBuilder) {
        // Where it fails, or nobody knows, that is as if nobody had asked.
        if let Ok(appending) = self.log.append(&to, builder.finish()).await {
            let _ = appending.await;
        }
    }

    /// `WorkAllDone` is never to be seen before the last output is.
    fn say_done_only_after_the_outputs(&self) {
        let told = [&self.topics.events, &self.topics.destinations["b"]].map(|topic| self.all(topic));
        self.batches().check_said_after_outputs(told.into_iter().flatten().map(|(_, stored)| stored));
    }

    fn start_roles(&self) {
        for (role, number) in [("owner", 0), ("owner", 1), ("worker", 0), ("worker", 1)] {
            let (log, topics, options) = (self.log.clone(), self.topics.clone(), self.plan.options.clone());
            let (polls, until) = (self.plan.polls, self.origin + CHAOS);
            let mut rng = Rng::with_seed(self.seed ^ (number << 8) ^ role.len() as u64);
            spawn_local(async move {
                loop {
                    let log: Arc<dyn Log> = Arc::new(log.clone());
                    let (seed, drain) = (rng.u64(..), CancellationToken::new());
                    let member = format!("{role} {number}");
                    let life: BoxFuture<'static, String> = if role == "owner" {
                        let (topics, options) = (topics.clone(), options.clone());
                        async move {
                            let ended =
                                resequence::run(log, topics, options, "t.resequence", &member, seed, drain).await;
                            format!("{ended:?}")
                        }
                        .boxed()
                    } else {
                        let fan_out = options.fan_out;
                        let options = work::Options { concurrency: 7, fan_out, ..work::Options::for_pipeline("t") };
                        let worker = Arc::new(Worker(Mutex::new(Rng::with_seed(seed))));
                        work::run(log, topics.clone(), options, worker, member, seed, drain)
                            .map(|ended| format!("{ended:?}"))
                            .boxed()
                    };
                    let polls = if Instant::now() < until { rng.u64(1..=polls * 8) } else { u64::MAX };
                    if let Some(ended) = (Mortal { life, polls, until }).await {
                        panic!("{role} {number} gave up: {ended}");
                    }
                    sleep(Duration::from_millis(rng.u64(1..2_000))).await;
                }
            });
        }
    }
}

/// A future that dies after some polls, while things go wrong.
struct Mortal {
    life: BoxFuture<'static, String>,
    polls: u64,
    until: Instant,
}

impl Future for Mortal {
    type Output = Option<String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<String>> {
        if self.polls == 0 && Instant::now() < self.until {
            return Poll::Ready(None);
        }
        self.polls = self.polls.saturating_sub(1);
        self.life.as_mut().poll(cx).map(Some)
    }
}

/// Fails as many rounds of an item as it says, and takes its time, sometimes for ever.
#[derive(Debug)]
struct Worker(Mutex<Rng>);

impl Processor for Worker {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move {
            let (time, lost, empty) = {
                let mut rng = self.0.lock().expect("no holder of this lock panics");
                let slow = rng.u32(..20) == 0;
                (rng.u64(1..if slow { 8_000 } else { 300 }), rng.u32(..100) == 0, rng.u32(..9) == 0)
            };
            sleep(Duration::from_millis(time)).await;
            if lost {
                std::future::pending::<()>().await;
            }
            let Ok(order) = serde_json::from_slice::<Value>(job.body()) else {
                return Ok(Answer::One(Output::new(job.shared_body())));
            };
            if order["item"]["fail"].as_u64().unwrap_or(0) > order["round"].as_u64().unwrap_or(0) {
                return Err(Failure::fail("told-to", "the item says so"));
            }
            if empty { Ok(Answer::Empty) } else { Ok(Answer::One(Output::new(job.shared_body()))) }
        }
        .boxed()
    }
}
