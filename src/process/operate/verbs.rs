//! Operators' verbs: written to the control log, executed by the lane's owner.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Looked, Operate, Refusal};
use crate::observe::cursor;
use crate::observe::live::{Live, Waiting};
use crate::record::control::{Action, MAX_TARGETS, VERB, Verb};
use crate::record::{BatchBuilder, Name, Offset, Partition};

/// How long the answer waits for the owner to act: a take-over may be under way.
const EXECUTED_WITHIN: Duration = Duration::from_secs(10);
/// How often the cursor is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Order {
    /// Which messages, by offset.
    #[serde(default)]
    offsets: Vec<u64>,
    /// All that are halted.
    #[serde(default)]
    all: bool,
    /// Why; recorded.
    #[serde(default)]
    reason: String,
    /// Who asks; recorded.
    #[serde(default)]
    by: String,
    /// Of a replacement, base64.
    body_base64: Option<String>,
    content_type: Option<String>,
}

pub(super) async fn execute(
    State(operate): State<Operate>,
    Path((lane, verb)): Path<(u32, String)>,
    Json(order): Json<Order>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let (action, targets) = match operate.look(Partition(lane)).await? {
        Looked::Live(live) => action(&live, &verb, &order)?,
        Looked::Lost(_) if verb == "accept" => (Action::Accept, 0),
        Looked::Lost(lost) => return Err(conflict(lost)),
    };
    let by = if order.by.is_empty() { "operator".to_owned() } else { order.by };
    let offset = append(&operate, &Verb { lane, action, reason: order.reason, by }).await?;
    let executed = wait(&operate, Partition(lane), offset).await?;
    let status = if executed { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(json!({"verb": verb, "lane": lane, "targets": targets, "executed": executed}))))
}

fn action(live: &Live, verb: &str, order: &Order) -> Result<(Action, usize), Refusal> {
    if verb == "accept" {
        return match &live.cursor.halted {
            Some(_) => Ok((Action::Accept, 0)),
            None => Err(conflict(format!("lane {} has lost nothing", live.lane))),
        };
    }
    let targets = targets(live, order)?;
    let count = targets.len();
    let action = match (verb, targets.as_slice()) {
        ("retry", _) => Action::Retry { targets },
        ("skip", _) => Action::Skip { targets },
        ("replace", [target]) => {
            let body = order.body_base64.clone().ok_or_else(|| Refusal::bad("bodyBase64 is missing"))?;
            Action::Replace { target: *target, body, content_type: order.content_type.clone() }
        }
        ("replace", _) => return Err(Refusal::bad("replace takes exactly one message")),
        _ => return Err(Refusal::not_found(format!("there is no verb {verb:?}: use retry, skip, replace or accept"))),
    };
    Ok((action, count))
}

/// The messages meant, with the rounds in which they are now.
fn targets(live: &Live, order: &Order) -> Result<Vec<(u64, u32)>, Refusal> {
    let wanted: BTreeSet<u64> = order.offsets.iter().copied().collect();
    let found: Vec<(u64, u32)> = if order.all {
        let halted = live.messages().filter(|message| matches!(message.waiting, Waiting::Operator(_)));
        halted.map(|message| (message.source.offset.0, message.round)).take(MAX_TARGETS).collect()
    } else {
        let found = wanted.iter().filter_map(|offset| live.find(Offset(*offset)));
        found.map(|message| (message.source.offset.0, message.round)).collect()
    };
    if found.is_empty() {
        return Err(conflict(format!("lane {} has no such message that is not released", live.lane)));
    }
    if !order.all && found.len() < wanted.len() {
        let missing: Vec<String> = wanted
            .iter()
            .filter(|o| !found.iter().any(|(f, _)| f == *o))
            .map(|o| format!("{}-{o}", live.lane))
            .collect();
        return Err(conflict(format!("released already, or no message: {}; nothing was done", missing.join(", "))));
    }
    if found.len() > MAX_TARGETS {
        return Err(Refusal::bad(format!("at most {MAX_TARGETS} messages at once")));
    }
    Ok(found)
}

fn conflict(detail: String) -> Refusal {
    Refusal { status: StatusCode::CONFLICT, detail }
}

async fn append(operate: &Operate, verb: &Verb) -> Result<Offset, Refusal> {
    let value = serde_json::to_vec(verb).map_err(|e| Refusal::bad(e.to_string()))?;
    let mut builder = BatchBuilder::default();
    builder.push(None, Some(&value), |to| to.put(Name::Kind, VERB));
    let control = operate.topics.control_of(Partition(verb.lane));
    let offsets = operate.log.append(&control, builder.finish()).await?.await?;
    offsets.get(0).ok_or_else(|| Refusal {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        detail: "the log took the verb and did not say where".to_owned(),
    })
}

/// Waits until the owner's cursor has passed the verb.
async fn wait(operate: &Operate, lane: Partition, verb: Offset) -> Result<bool, Refusal> {
    let until = Instant::now() + EXECUTED_WITHIN;
    loop {
        let owner = cursor::of_lane(&*operate.log, &operate.topics, lane).await?;
        if owner.is_some_and(|owner| owner.control > verb.0) {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        sleep(LOOK_EVERY).await;
    }
}
