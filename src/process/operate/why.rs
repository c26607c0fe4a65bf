//! What something waits for: one sentence, then the messages it is about.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::lanes::describe;
use super::{Looked, Operate, Refusal, destinations};
use crate::metrics;
use crate::observe::live::{Live, Message, Waiting};
use crate::observe::{batches, ledger, work};
use crate::record::batches::{BatchState, Phase};
use crate::record::ledger::Outcome;
use crate::record::{Offset, Partition, Source};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    lane: Option<u32>,
    id: Option<String>,
    batch: Option<String>,
    destination: Option<String>,
    /// Whichever of them it is.
    of: Option<String>,
}

pub(super) async fn why(State(operate): State<Operate>, Query(asked): Query<Asked>) -> Result<Json<Value>, Refusal> {
    let answers = if let Some(of) = &asked.of {
        whichever(&operate, of).await?
    } else if let Some(id) = &asked.batch {
        vec![batch(&operate, id).await?]
    } else if let Some(name) = &asked.destination {
        vec![destination(&operate, name).await?]
    } else if let Some(id) = &asked.id {
        message(&operate, source(id)?).await?
    } else if let Some(number) = asked.lane {
        vec![look(&operate, number).await?]
    } else {
        everything(&operate).await
    };
    let answers: Vec<Value> = answers.into_iter().map(Answer::into_json).collect();
    Ok(Json(json!({"answers": answers})))
}

/// A sentence, the messages it is about, and what else is known.
struct Answer {
    sentence: String,
    messages: Vec<Value>,
    more: Value,
}

impl Answer {
    const fn sentence(sentence: String) -> Self {
        Self::about(sentence, Vec::new())
    }

    const fn about(sentence: String, messages: Vec<Value>) -> Self {
        Self { sentence, messages, more: Value::Null }
    }

    fn into_json(self) -> Value {
        let mut value = json!({"sentence": self.sentence, "messages": self.messages});
        if let (Some(object), Value::Object(more)) = (value.as_object_mut(), self.more) {
            object.extend(more);
        }
        value
    }
}

/// What is wrong with topics, what every lane waits for, and every destination that does not get what is there for it.
async fn everything(operate: &Operate) -> Vec<Answer> {
    let mut answers: Vec<_> = operate.layout.problems().into_iter().map(Answer::sentence).collect();
    for number in 0..operate.topics.lanes {
        answers.push(look(operate, number).await.unwrap_or_else(|refusal| Answer::sentence(refusal.detail)));
    }
    // What the deliverer's state cannot tell must not hide what the lanes wait for.
    let waiting = destinations::waiting(operate).await.unwrap_or_else(|refusal| vec![refusal.detail]);
    answers.extend(waiting.into_iter().map(Answer::sentence));
    answers
}

/// A number is a lane's, or a message's offset where there is one lane only. A name may be that of a
/// destination and of a batch: then both are told of.
async fn whichever(operate: &Operate, of: &str) -> Result<Vec<Answer>, Refusal> {
    if let Ok(number) = of.parse::<u64>() {
        let lanes = operate.topics.lanes;
        return match u32::try_from(number) {
            Ok(lane) if lane < lanes => Ok(vec![look(operate, lane).await?]),
            _ if lanes == 1 => message(operate, Source { lane: Partition(0), offset: Offset(number) }).await,
            _ => Err(operate.no_lane(of, "numbered from 0; a message is LANE-OFFSET")),
        };
    }
    if let Some(source) = Source::from_id(of) {
        return message(operate, source).await;
    }
    let mut answers = Vec::new();
    for found in [destination(operate, of).await, batch(operate, of).await] {
        match found {
            Ok(answer) => answers.push(answer),
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => {}
            Err(refusal) => return Err(refusal),
        }
    }
    if answers.is_empty() {
        let known: Vec<&str> = operate.topics.destinations.keys().map(String::as_str).collect();
        let known = known.join(", ");
        return Err(Refusal::not_found(format!("there is no batch {of:?} and no such destination; there are {known}")));
    }
    Ok(answers)
}

fn source(id: &str) -> Result<Source, Refusal> {
    Source::from_id(id).ok_or_else(|| Refusal::bad(format!("{id:?} is no message: write LANE-OFFSET")))
}

/// What a destination waits for.
async fn destination(operate: &Operate, name: &str) -> Result<Answer, Refusal> {
    let (sentence, state) = destinations::of(operate, name).await?;
    Ok(Answer { more: json!({"destination": state}), ..Answer::sentence(sentence) })
}

/// What a batch waits for.
async fn batch(operate: &Operate, id: &str) -> Result<Answer, Refusal> {
    let record = batches::find(&*operate.log, &operate.topics, id).await?;
    let state = record.ok_or_else(|| Refusal::not_found(format!("there is no batch {id:?}")))?.state;
    let mut sentence = of_batch(id, &state);
    if let Some(index) = state.held().next().filter(|_| state.phase == Phase::Running) {
        let ends = batches::ends(&*operate.log, &operate.topics, id, index..index + 1).await?;
        let error = ends.get(&index).map(|end| &end["error"]).filter(|error| !error.is_null());
        sentence += &error.map(|error| format!("; item {index} said last: {error}")).unwrap_or_default();
    }
    Ok(Answer { more: json!({"batch": id, "counts": state.counts()}), ..Answer::sentence(sentence) })
}

/// How many of the items that wait for an operator a sentence names.
const NAMED_HELD: usize = 10;

/// The items that wait for an operator, as the subject of a sentence.
fn held(state: &BatchState) -> Option<String> {
    let all = state.held().count();
    let named: Vec<String> = state.held().take(NAMED_HELD).map(|index| index.to_string()).collect();
    match named.as_slice() {
        [] => None,
        [one] => Some(format!("item {one} has failed")),
        _ if all > NAMED_HELD => Some(format!("items {} and {} more have failed", named.join(", "), all - NAMED_HELD)),
        _ => Some(format!("items {} have failed", named.join(", "))),
    }
}

fn of_batch(id: &str, state: &BatchState) -> String {
    let counts = state.counts();
    let held = held(state);
    let by_operator = format!("`seriatim batch retry {id}` or `seriatim batch discard {id}`");
    let reason = state.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let waits = match state.phase {
        Phase::Ended(_) => return format!("batch {id} waits for nothing: it is {}{reason}", state.status()),
        Phase::Completing(_) => "all its items are done, and it waits for its final work item".to_owned(),
        Phase::Ending(_) => format!("it ends{reason}, and waits for {} items that are out", counts.running),
        Phase::Running if state.paused => format!("it is paused, until `seriatim batch resume {id}`"),
        Phase::Running if state.stalled && held.is_some() => {
            format!("it is stalled: {}; {by_operator}", held.unwrap_or_default())
        }
        Phase::Running if state.stalled => {
            format!("nothing of it has finished for long, and {} items are out: do the workers run?", counts.running)
        }
        Phase::Running => {
            let held = held.map(|held| format!("; {held}: {by_operator}")).unwrap_or_default();
            format!("{} items are out, {} are to come{held}", counts.running, counts.pending)
        }
    };
    format!("batch {id}, {} of {} succeeded: {waits}", counts.succeeded, counts.total)
}

async fn look(operate: &Operate, number: u32) -> Result<Answer, Refusal> {
    Ok(match operate.look(Partition(number)).await? {
        Looked::Live(live) => lane(&live),
        Looked::Lost(lost) => Answer::sentence(halted_for_good(number, &lost)),
    })
}

fn halted_for_good(lane: impl std::fmt::Display, reason: &str) -> String {
    format!("lane {lane} stands still for good: {reason}; `seriatim lanes accept` says what is lost and goes on")
}

/// Why a lane does not go on.
fn lane(live: &Live) -> Answer {
    let number = live.lane;
    if let Some(reason) = &live.cursor.halted {
        return Answer::sentence(halted_for_good(number, reason));
    }
    let Some(head) = live.blocking() else {
        return Answer::sentence(match live.input_end.0.saturating_sub(live.cursor.frontier) {
            0 if live.held_up_to > live.input_end => held_up(live),
            0 => format!("lane {number} waits for nothing: everything that came in has left"),
            // Offsets that are none of a record's, or records that came in just now.
            _ => format!("lane {number} waits for its owner to read on"),
        });
    };
    let behind = live.messages().count() - 1;
    let mut shown = vec![describe(&head)];
    let halted = live.messages().filter(|m| m.source != head.source && matches!(m.waiting, Waiting::Operator(_)));
    shown.extend(halted.take(20).map(|message| describe(&message)));
    let mut text = format!("lane {number}, {behind} behind it: {}", sentence(&head));
    if let Some(damage) = live.damage() {
        text = format!("{text}; when these have left the lane stands still, as its input is damaged: {damage}");
    }
    Answer::about(text, shown)
}

/// A transaction that its producer neither commits nor aborts ends what can be read of the input.
fn held_up(live: &Live) -> String {
    let (number, from, to) = (live.lane, live.input_end, live.held_up_to);
    format!(
        "lane {number} waits for a producer: a transaction is open on the input from offset {from} on, which holds up \
         {} offsets; the broker ends it after that producer's transaction.timeout.ms",
        to.0 - from.0
    )
}

/// Why a message has not left, or that it has.
async fn message(operate: &Operate, source: Source) -> Result<Vec<Answer>, Refusal> {
    let live = operate.live(source.lane).await?;
    let Some(message) = live.find(source.offset) else {
        let sentence = match ledger::find(&*operate.log, &operate.topics, source).await? {
            ledger::Found::Released(outcome) => released(source, &outcome),
            _ if source.offset >= live.input_end && source.offset < live.held_up_to => held_up(&live),
            _ if source.offset < live.input_end && source.offset.0 >= live.cursor.frontier => {
                format!(
                    "message {source} waits for the window: {} messages before it are not released",
                    live.messages().count()
                )
            }
            _ => return Err(Refusal::not_found(format!("there is no message {source}"))),
        };
        return Ok(vec![Answer::sentence(sentence)]);
    };
    let mut shown = vec![describe(&message)];
    let before = match message.waiting {
        Waiting::Turn(before) | Waiting::FailedTurn(before, _) => before,
        _ => None,
    };
    let mut text = sentence(&message);
    if let Some(partition) = work_partition(operate, &live, &message).await? {
        text = format!("{text}; it was put on {} last", operate.topics.work.partition(partition));
        shown[0]["workPartition"] = partition.0.into();
    }
    if let Some(head) = before.and_then(|before| live.find(before)) {
        text = format!("{text}; {}", sentence(&head));
        shown.push(describe(&head));
    }
    Ok(vec![Answer::about(text, shown)])
}

/// Where on the work topic a message without a result is, if it is there and found.
async fn work_partition(operate: &Operate, live: &Live, message: &Message) -> Result<Option<Partition>, Refusal> {
    let is_out = matches!(message.waiting, Waiting::Work | Waiting::Retry { .. });
    if !is_out || !operate.options.fan_out {
        return Ok(None);
    }
    let since = live.now.before(message.age);
    Ok(work::partition(&*operate.log, &operate.topics, message.source, since).await?)
}

fn sentence(message: &Message) -> String {
    let Message { source, age, round, waiting } = message;
    let age = humantime::format_duration(std::time::Duration::from_secs(age.as_secs()));
    match waiting {
        Waiting::Window => format!("message {source} came {age} ago and waits for room in the window"),
        Waiting::Work => format!("message {source} came {age} ago and {}", at_work()),
        Waiting::Retry { attempt, worker, error } => {
            format!(
                "message {source} came {age} ago; attempt {attempt} by {worker} failed and another follows: {error}"
            )
        }
        Waiting::Turn(None) => format!("message {source} is done and about to leave"),
        Waiting::Turn(Some(before)) => format!("message {source} is done and waits for {}-{before}", source.lane),
        Waiting::FailedTurn(before, error) => match before {
            Some(before) => {
                format!("message {source} failed and its turn comes after {}-{before}: {error}", source.lane)
            }
            None => format!("message {source} failed and its place is about to be taken: {error}"),
        },
        Waiting::Operator(error) => {
            format!("message {source} came {age} ago, failed (round {round}) and waits for an operator: {error}")
        }
    }
}

/// What a message that has no result yet waits for, as far as this process knows.
fn at_work() -> &'static str {
    match metrics::work().breaker_open.get() {
        0 => "is being worked on, or waits for a free worker",
        _ => "waits for the worker, which cannot be reached from this process; its log says why",
    }
}

fn released(source: Source, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Sent(sent) | Outcome::Partly(sent) => {
            let to: Vec<String> = sent.iter().map(|(name, sequence)| format!("{name} as number {sequence}")).collect();
            format!("message {source} has left: to {}", to.join(", "))
        }
        Outcome::Empty => format!("message {source} is done and had no output"),
        Outcome::DeadLettered(error) => format!("message {source} failed and is on the dead-letter topic: {error}"),
        Outcome::Skipped(error) => format!("message {source} failed and was passed over: {error}"),
        Outcome::Duplicate(of) => format!("message {source} repeats {}-{of} and had no output of its own", source.lane),
    }
}
