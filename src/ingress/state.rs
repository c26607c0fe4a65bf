//! `GET /v1/messages/{id}`: what has become of a message so far.

use serde_json::{Map, Value, json};

use super::Service;
use super::problem::{Code, Problem};
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
    let source = Source::from_id(id)
        .filter(|source| source.lane.0 < topics.lanes)
        .ok_or_else(|| Problem::new(Code::NotFound, format!("{id:?} is no message; ids are LANE-OFFSET")))?;
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

/// Not released: below the owner's limit workers may have it, above it they have not.
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
    let limit = cursor.and_then(|cursor| cursor.lanes.get(&source.lane.0).map(|lane| lane.limit)).unwrap_or(0);
    let word = if source.offset.0 < limit { "sent" } else { "accepted" };
    Ok(if partly.is_empty() {
        json!({"state": word})
    } else {
        json!({"state": word, "outputs": outputs(source, partly)})
    })
}
