//! `GET /v1/messages/{id}`: what has become of a message so far.

use serde_json::{Map, Value, json};

use super::Service;
use super::problem::{Code, Problem};
use crate::observe::live::{Message, Waiting};
use crate::observe::{cursor, input, ledger};
use crate::record::ledger::Outcome;
use crate::record::{Offset, Source};

/// The state as JSON.
///
/// # Errors
///
/// [`Code::NotFound`] for what is no message, [`Code::Removed`] for one that retention has
/// removed, and what the log answers.
pub(super) async fn state(service: &Service, id: &str) -> Result<Value, Problem> {
    let (log, topics) = (&**service.log(), service.topics());
    let not_found = |detail| Problem::new(Code::NotFound, detail);
    let source = Source::from_id(id).ok_or_else(|| not_found(format!("{id:?} is no message; ids are LANE-OFFSET")))?;
    if source.lane.0 >= topics.lanes {
        let last = topics.lanes.saturating_sub(1);
        return Err(not_found(format!(
            "there is no lane {}, and so no message {source}; the last is {last}",
            source.lane
        )));
    }
    let mut state = Map::new();
    state.insert("id".to_owned(), json!(source.to_string()));
    state.insert("lane".to_owned(), json!(source.lane.0));
    state.insert("offset".to_owned(), json!(source.offset.0));
    let more = match ledger::find(log, topics, source).await? {
        ledger::Found::Released(outcome) => released(source, outcome),
        ledger::Found::Pending(partly) => pending(service, source, partly).await?,
        ledger::Found::Absent { perhaps_forgotten: true } => {
            return Err(Problem::new(Code::Removed, "retention has removed what became of it"));
        }
        ledger::Found::Absent { perhaps_forgotten: false } => return Err(no_message(source)),
    };
    if let Value::Object(more) = more {
        state.extend(more);
    }
    Ok(Value::Object(state))
}

fn no_message(source: Source) -> Problem {
    Problem::new(Code::NotFound, format!("lane {} has no message at offset {}", source.lane, source.offset))
}

fn released(source: Source, outcome: Outcome) -> Value {
    let failed = |place: &str, error: String| {
        let error = serde_json::from_str(&error).unwrap_or(Value::String(error));
        json!({"state": "failed", "resolution": place, "error": error})
    };
    match outcome {
        Outcome::Sent(sent) | Outcome::Partly(sent) => json!({"state": "released", "outputs": outputs(source, sent)}),
        Outcome::Empty => json!({"state": "released", "outputs": []}),
        Outcome::DeadLettered(error) => failed("dead-lettered", error),
        Outcome::Skipped(error) => failed("skipped", error),
        Outcome::Duplicate(of) => {
            json!({"state": "duplicate", "of": Source { lane: source.lane, offset: Offset(of) }.to_string()})
        }
    }
}

fn outputs(source: Source, sent: Vec<(String, u64)>) -> Value {
    let output =
        |(destination, sequence)| json!({"destination": destination, "lane": source.lane.0, "sequence": sequence});
    sent.into_iter().map(output).collect()
}

/// Not released: above the owner's limit no worker may have it, below it the lane tells more.
async fn pending(service: &Service, source: Source, partly: Vec<(String, u64)>) -> Result<Value, Problem> {
    let (log, topics) = (&**service.log(), service.topics());
    match input::presence(log, topics, source).await? {
        input::Presence::Present => {}
        input::Presence::Absent => return Err(no_message(source)),
        input::Presence::Removed => {
            return Err(Problem::new(Code::Removed, "retention has removed the message"));
        }
    }
    let cursor = cursor::of_lane(log, topics, source.lane).await?;
    let lane = cursor.and_then(|mut cursor| cursor.lanes.remove(&source.lane.0)).unwrap_or_default();
    let mut state = if let Some(reason) = lane.halted {
        json!({"state": "halted", "reason": reason})
    } else if source.offset.0 >= lane.limit {
        json!({"state": "accepted"})
    } else {
        let live = service.live().get(log, topics, source.lane).await?;
        let message = live.and_then(|live| live.find(source.offset));
        message.map_or_else(|| json!({"state": "sent"}), |message| waiting(source, message))
    };
    if !partly.is_empty() {
        state["outputs"] = outputs(source, partly);
    }
    Ok(state)
}

/// Why a message that workers may have is not released.
fn waiting(source: Source, Message { round, waiting, .. }: Message) -> Value {
    let parsed = |error: String| serde_json::from_str(&error).unwrap_or(Value::String(error));
    let before = |offset: Option<Offset>| offset.map(|offset| Source { lane: source.lane, offset }.to_string());
    match waiting {
        Waiting::Window => json!({"state": "accepted"}),
        Waiting::Work => json!({"state": "sent"}),
        Waiting::Retry { attempt, worker, error } => {
            json!({"state": "retrying", "attempt": attempt, "worker": worker, "error": parsed(error)})
        }
        Waiting::Turn(offset) => json!({"state": "ready", "waitsFor": before(offset)}),
        Waiting::FailedTurn(offset, error) => {
            json!({"state": "failed", "resolution": null, "waitsFor": before(offset), "error": parsed(error)})
        }
        Waiting::Operator(error) => json!({"state": "halted", "round": round, "error": parsed(error)}),
    }
}
