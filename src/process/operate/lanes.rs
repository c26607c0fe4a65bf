//! How lanes are, as JSON.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::{Looked, Operate, Refusal};
use crate::observe::live::{Live, Message, Waiting};
use crate::record::Partition;

/// Messages that are listed one by one; beyond that the counts have to do.
const LISTED: usize = 100;

pub(super) async fn all(State(operate): State<Operate>) -> Result<Json<Value>, Refusal> {
    let mut lanes = Vec::new();
    for lane in 0..operate.topics.lanes {
        lanes.push(match operate.look(Partition(lane)).await {
            Ok(Looked::Live(live)) => summary(&live, operate.options.window),
            Ok(Looked::Lost(lost)) => without_cursor(lane, &lost),
            Err(refusal) => json!({"lane": lane, "problem": refusal.detail}),
        });
    }
    Ok(Json(json!({"lanes": lanes, "topics": operate.layout.problems()})))
}

pub(super) async fn one(State(operate): State<Operate>, Path(lane): Path<u32>) -> Result<Json<Value>, Refusal> {
    let live = match operate.look(Partition(lane)).await? {
        Looked::Live(live) => live,
        Looked::Lost(lost) => return Ok(Json(without_cursor(lane, &lost))),
    };
    let mut lane = summary(&live, operate.options.window);
    lane["messages"] = live.messages().take(LISTED).map(|message| describe(&message)).collect();
    Ok(Json(lane))
}

fn without_cursor(lane: u32, lost: &str) -> Value {
    json!({"lane": lane, "haltedByLoss": lost, "haltedMessages": [], "messages": []})
}

fn summary(live: &Live, window: u64) -> Value {
    let (mut working, mut ready) = (0u64, 0u64);
    let mut halted = Vec::new();
    for message in live.messages() {
        match message.waiting {
            Waiting::Work | Waiting::Retry { .. } => working += 1,
            Waiting::Turn(_) | Waiting::FailedTurn(..) => ready += 1,
            Waiting::Operator(_) if halted.len() < LISTED => halted.push(describe(&message)),
            Waiting::Operator(_) | Waiting::Window => {}
        }
    }
    let cursor = &live.cursor;
    json!({
        "lane": live.lane.0,
        "epoch": live.epoch,
        "order": cursor.order,
        "frontier": cursor.frontier,
        "inputEnd": live.input_end.0,
        "lag": live.input_end.0.saturating_sub(cursor.frontier),
        "limit": cursor.limit,
        "window": window,
        "inProgress": working,
        "ready": ready,
        "releasedAboveFrontier": cursor.released.iter().map(|(_, run)| run).sum::<u64>(),
        "sequences": cursor.sequences,
        "haltedByLoss": cursor.halted,
        "damage": live.damage(),
        "haltedMessages": halted,
        "blocking": live.blocking().map(|message| describe(&message)),
    })
}

/// A message and what it waits for.
pub(super) fn describe(message: &Message) -> Value {
    let mut value = json!({
        "id": message.source.to_string(),
        "offset": message.source.offset.0,
        "round": message.round,
        "ageSeconds": message.age.as_secs_f64(),
    });
    let id = |offset| crate::record::Source { offset, ..message.source }.to_string();
    let error = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let (state, more) = match &message.waiting {
        Waiting::Window => ("accepted", json!({})),
        Waiting::Work => ("sent", json!({})),
        Waiting::Retry { attempt, worker, error: why } => {
            ("retrying", json!({"attempt": attempt, "worker": worker, "error": error(why)}))
        }
        Waiting::Turn(before) => ("ready", json!({"waitsFor": before.map(id)})),
        Waiting::FailedTurn(before, why) => ("failed", json!({"waitsFor": before.map(id), "error": error(why)})),
        Waiting::Operator(why) => ("halted", json!({"error": error(why)})),
    };
    value["state"] = state.into();
    if let (Some(object), Value::Object(more)) = (value.as_object_mut(), more) {
        object.extend(more);
    }
    value
}
