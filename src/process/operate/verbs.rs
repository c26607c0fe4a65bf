//! Operators' verbs: written to the control log, executed by the lane's owner.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::orders::{self, Sent};
use super::{Looked, Operate, Refusal};
use crate::observe::cursor;
use crate::observe::live::{Live, Waiting};
use crate::record::control::{Action, MAX_TARGETS, VERB, Verb};
use crate::record::{Offset, Partition};
use crate::resequence;
use crate::topics::max_message;

/// Bytes of an order beside a replacement's body: a reason, as long as a request's other words may be.
const AROUND_BODY: usize = 64 * 1024;
/// How long the answer waits for the owner to act: a take-over may be under way.
const EXECUTED_WITHIN: Duration = Duration::from_secs(10);

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
    Sent(order): Sent<Order>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let (action, targets) = match operate.look(Partition(lane)).await? {
        Looked::Live(live) => action(&operate, &live, &verb, &order)?,
        Looked::Lost(_) if verb == "accept" => (Action::Accept, 0),
        Looked::Lost(lost) => return Err(conflict(lost)),
    };
    let by = if order.by.is_empty() { "operator".to_owned() } else { order.by };
    let control = operate.topics.control_of(Partition(lane));
    let order = Verb { lane, action, reason: order.reason, by };
    let offset = orders::append(&operate, &control, VERB, &order).await?;
    let executed = executed(&operate, Partition(lane), offset).await?;
    Ok(orders::answer(json!({"verb": verb, "lane": lane, "targets": targets, "executed": executed})))
}

fn action(operate: &Operate, live: &Live, verb: &str, order: &Order) -> Result<(Action, usize), Refusal> {
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
            let body = replacement(order, &operate.options)?;
            Action::Replace { target: *target, body, content_type: order.content_type.clone() }
        }
        ("replace", _) => return Err(Refusal::bad("replace takes exactly one message")),
        _ => return Err(Refusal::not_found(format!("there is no verb {verb:?}: use retry, skip, replace or accept"))),
    };
    Ok((action, count))
}

/// The body of a replacement, Base64. One that no result can have would be refused by the lane's owner,
/// but only later, and one that no control record can hold by the log.
fn replacement(order: &Order, options: &resequence::Options) -> Result<String, Refusal> {
    let body = order.body_base64.as_ref().ok_or_else(|| Refusal::bad("bodyBase64 is missing"))?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(body);
    let length = decoded.map_err(|error| Refusal::bad(format!("bodyBase64: {error}")))?.len();
    let most = largest_replacement(options);
    if length > most {
        let detail = format!(
            "the body has {length} bytes; with ingress.max_body at {} a replacement has {most} at most; nothing was done",
            options.max_output
        );
        return Err(Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, detail });
    }
    Ok(body.clone())
}

fn largest_replacement(options: &resequence::Options) -> usize {
    let record = max_message(options.max_output as u64).try_into().unwrap_or(usize::MAX);
    options.max_output.min((record - AROUND_BODY) / 4 * 3)
}

/// The largest order that is read, too large bodies among them, so that it can be told how much.
pub(super) fn body_limit(options: &resequence::Options) -> DefaultBodyLimit {
    DefaultBodyLimit::max(options.max_output.saturating_mul(2).saturating_add(AROUND_BODY))
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

/// Whether the lane's owner has passed the verb in time.
async fn executed(operate: &Operate, lane: Partition, verb: Offset) -> Result<bool, Refusal> {
    orders::executed(verb, Instant::now() + EXECUTED_WITHIN, || async {
        let owner = cursor::of_lane(&*operate.log, &operate.topics, lane).await?;
        Ok(owner.map(|owner| owner.control))
    })
    .await
}
