//! What is said of a batch on the `events` topic, and what a worker gets: JSON, the `type` first.
//!
//! Items are JSON already and are put in as they are, byte for byte.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{BatchState, Completion, Counts, ItemStatus, Phase};
use crate::record::Source;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// An item has ended, or failed for now.
    WorkOrderCompleted,
    /// A batch cannot go on by itself.
    BatchStalled,
    /// A command was refused.
    CommandRefused,
    /// Everything is done.
    WorkAllDone,
}

impl EventType {
    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WorkOrderCompleted => "WorkOrderCompleted",
            Self::BatchStalled => "BatchStalled",
            Self::CommandRefused => "CommandRefused",
            Self::WorkAllDone => "WorkAllDone",
        }
    }

    /// Whether one that is so called has its place among the others of its batch; else it is told at
    /// once, because what the others wait for may be what it is about.
    #[must_use]
    pub fn is_in_order(kind: &str) -> bool {
        [Self::WorkOrderCompleted, Self::WorkAllDone].iter().any(|ordered| ordered.as_str() == kind)
    }
}

/// The body of an item: what a worker works on. `item` is JSON.
#[must_use]
pub fn work_order(id: &str, index: u64, round: u32, item: &str) -> String {
    format!(r#"{{"type":"ProcessWorkOrder","id":"{id}","index":{index},"round":{round},"item":{item}}}"#)
}

/// An item has ended, or, where it is held, failed for now. `source` is where its work stood in the
/// input, `result` where its result stands in the lane's results; `error` is JSON.
#[must_use]
pub fn work_order_completed(
    id: &str,
    (index, round): (u64, u32),
    status: ItemStatus,
    source: Option<Source>,
    result: Option<u64>,
    error: Option<&str>,
) -> String {
    let mut event = json!({"type": EventType::WorkOrderCompleted.as_str(), "id": id, "index": index, "round": round, "status": status});
    if let Some(source) = source {
        event["source"] = json!(source.to_string());
    }
    if let Some(result) = result {
        event["result"] = json!(result);
    }
    if let Some(error) = error {
        event["error"] = serde_json::from_str(error).unwrap_or_else(|_| Value::String(error.to_owned()));
    }
    event.to_string()
}

/// Everything is done: the last event of a batch, and, without its end, the body of its final work item.
#[must_use]
pub fn all_done(id: &str, state: &BatchState, item: Option<&str>) -> String {
    let status = match state.phase {
        Phase::Ending(outcome) | Phase::Completing(outcome) | Phase::Ended(outcome) => outcome.as_str(),
        Phase::Running => "running",
    };
    let counts: Counts = state.counts();
    let mut event = json!({
        "type": EventType::WorkAllDone.as_str(),
        "id": id,
        "status": status,
        "counts": counts,
        "startedAt": time(state.started_at),
        "endedAt": state.ended_at.map(time),
    });
    match state.completion {
        Completion::Succeeded => event["completion"] = json!("succeeded"),
        Completion::Failed => event["completion"] = json!("failed"),
        Completion::None | Completion::Running(_) => {}
    }
    if let Some(reason) = &state.reason {
        event["reason"] = json!(reason);
    }
    match item {
        None => event.to_string(),
        Some(item) => {
            let event = event.to_string();
            let open = event.strip_suffix('}').unwrap_or(&event);
            format!(r#"{open},"item":{item}}}"#)
        }
    }
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC.
#[must_use]
pub fn time(millis: i64) -> String {
    // What lies beyond the year 9999 cannot be written; no clock that is right gets there.
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or(0)).min(Duration::from_secs(253_402_300_799));
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
}

/// A batch cannot go on by itself; `blocked_by` are the items that it waits for.
#[must_use]
pub fn stalled(id: &str, blocked_by: &[u64]) -> String {
    json!({"type": EventType::BatchStalled.as_str(), "id": id, "blockedBy": blocked_by}).to_string()
}

/// A command was refused.
#[must_use]
pub fn refused(id: &str, detail: &str) -> String {
    json!({"type": EventType::CommandRefused.as_str(), "id": id, "detail": detail}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::batches::Outcome;

    #[test]
    fn items_keep_their_bytes_and_events_are_json() {
        assert_eq!(
            work_order("a", 3, 1, r#"{"b": 1.0}"#),
            r#"{"type":"ProcessWorkOrder","id":"a","index":3,"round":1,"item":{"b": 1.0}}"#
        );
        let state = BatchState {
            total: 2,
            succeeded: 2,
            phase: Phase::Completing(Outcome::Completed),
            ..BatchState::default()
        };
        let body = all_done("a", &state, Some(r#"{"to": "x"}"#));
        let parsed: Value = serde_json::from_str(&body).expect("it is JSON");
        assert_eq!((&parsed["item"]["to"], &parsed["status"]), (&json!("x"), &json!("completed")));
        assert_eq!((&parsed["counts"]["succeeded"], &parsed["counts"]["timedOut"]), (&json!(2), &json!(0)));
        let event = work_order_completed("a", (1, 0), ItemStatus::TimedOut, None, Some(7), Some("no JSON"));
        let parsed: Value = serde_json::from_str(&event).expect("it is JSON");
        assert_eq!((&parsed["status"], &parsed["error"]), (&json!("timedOut"), &json!("no JSON")));
    }
}
