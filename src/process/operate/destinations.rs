//! How destinations are pushed to, and operators' orders about that.
//!
//! `GET /v1/destinations`, `POST /v1/destinations/{name}/{pause|resume|retry|skip|accept|replay|test}`.

mod state;

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
pub(super) use state::{of, waiting};
use tokio::time::{Instant, sleep};

use super::orders::{self, LOOK_EVERY, Sent};
use super::{Operate, Refusal};
use crate::log::TopicPartition;
use crate::metrics::Role;
use crate::observe::outputs;
use crate::record::push::{
    HALTED_KEPT, HaltedItems, LONGEST_TEST, PUSH_VERB, PushAction, PushCursor, PushPosition, PushVerb, TestItem,
    Tested, is_replay_id,
};
use crate::record::{Offset, Partition, Sequence};
use crate::takeover;

/// How long the answer waits for the owners to act: a take-over may be under way, and for a replay or a
/// test there may be an attempt, with all the time that it has by default.
const EXECUTED_WITHIN: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Order {
    /// The lane, for retry, skip, accept and replay; where the test is sent from.
    lane: Option<u32>,
    /// Which items, by offset in the destination's topic; all halted ones of the lane where there are none.
    #[serde(default)]
    offsets: Vec<u64>,
    /// Why; recorded.
    #[serde(default)]
    reason: String,
    /// Who asks; recorded.
    #[serde(default)]
    by: String,
    /// Of a replay: the sequence number of the first item.
    from: Option<u64>,
    /// Of a replay: what receivers know it by.
    id: Option<String>,
    /// Of a test, Base64; `{"test":true}` where there is none.
    body_base64: Option<String>,
    content_type: Option<String>,
}

pub(super) fn router(operate: Operate) -> Router {
    Router::new()
        .route("/v1/destinations", get(all))
        .route("/v1/destinations/{name}/{verb}", post(execute))
        .with_state(operate)
}

async fn all(State(operate): State<Operate>) -> Result<Json<Value>, Refusal> {
    Ok(Json(json!({"destinations": state::all(&operate).await?})))
}

async fn execute(
    State(operate): State<Operate>,
    Path((name, verb)): Path<(String, String)>,
    Sent(order): Sent<Order>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    if !operate.topics.destinations.contains_key(&name) {
        return Err(Refusal::not_found(format!("there is no destination {name:?}")));
    }
    let (action, controls) = action(&operate, &name, &verb, &order).await?;
    let by = if order.by.is_empty() { "operator".to_owned() } else { order.by };
    let verb = PushVerb { destination: name, action, reason: order.reason, by };
    let written = write(&operate, &controls, &verb).await?;
    let until = Instant::now() + EXECUTED_WITHIN;
    let mut answer = json!({"destination": verb.destination, "executed": executed(&operate, &written, until).await?});
    match (&verb.action, written.first()) {
        (PushAction::Replay { id, .. }, _) => answer["id"] = json!(id),
        (PushAction::Test(_), Some((control, order))) => {
            let tested = tested(&operate, *control, *order, &verb.destination, until).await?;
            answer["executed"] = tested.is_some().into();
            if let Some(Tested { taken, said, millis, .. }) = tested {
                answer["test"] = json!({"taken": taken, "said": said, "milliseconds": millis});
            }
        }
        _ => {}
    }
    Ok(orders::answer(answer))
}

/// What to do, and whose control partitions have to hear of it.
async fn action(
    operate: &Operate,
    name: &str,
    verb: &str,
    order: &Order,
) -> Result<(PushAction, Vec<TopicPartition>), Refusal> {
    let topics = &operate.topics;
    let everybody = || topics.control.partitions(topics.control_partitions).collect();
    let one = || match order.lane {
        Some(lane) if lane < topics.lanes => Ok((lane, vec![topics.control_of(Partition(lane))])),
        Some(lane) => Err(Refusal::not_found(format!("there is no lane {lane}; there are {}", topics.lanes))),
        None => Err(Refusal::bad(format!("{verb} takes a lane"))),
    };
    let items = |lane| HaltedItems { lane, offsets: order.offsets.clone() };
    Ok(match verb {
        "pause" => (PushAction::Pause, everybody()),
        "resume" => (PushAction::Resume, everybody()),
        "retry" | "skip" => {
            let (lane, owner) = one()?;
            refused(operate, name, lane, &order.offsets).await?;
            let action = if verb == "retry" { PushAction::Retry } else { PushAction::Skip };
            (action(items(lane)), owner)
        }
        "accept" => one().map(|(lane, owner)| (PushAction::Accept { lane }, owner))?,
        "replay" => {
            let (lane, owner) = one()?;
            (replay(operate, name, lane, order).await?, owner)
        }
        "test" => {
            let (_, owner) = if order.lane.is_none() { (0, vec![topics.control_of(Partition(0))]) } else { one()? };
            (PushAction::Test(test(order)?), owner)
        }
        _ => {
            let known = "use pause, resume, retry, skip, accept, replay or test";
            return Err(Refusal::not_found(format!("there is no verb {verb:?}: {known}")));
        }
    })
}

/// That all of these items were refused and hold their groups; of the lane any, where none is named. Otherwise
/// nothing is written down.
async fn refused(operate: &Operate, name: &str, lane: u32, offsets: &[u64]) -> Result<(), Refusal> {
    let topic = &operate.topics.destinations[name];
    let cursor = cursor(operate, operate.topics.control_of(Partition(lane)).partition).await?.unwrap_or_default();
    let position = cursor.topics.get(topic.as_str()).and_then(|lanes| lanes.get(&lane)).cloned().unwrap_or_default();
    let detail = match offsets {
        [] if position.halted.is_empty() => format!("nothing of {name}, lane {lane}, is refused; nothing was done"),
        [] => return Ok(()),
        named => {
            // Behind as many as a cursor names there may be others.
            let last = position.halted.keys().next_back().filter(|_| position.halted.len() >= HALTED_KEPT);
            let is_held = |offset: &u64| position.halted.contains_key(offset) || last.is_some_and(|last| offset > last);
            let others: Vec<String> = named.iter().filter(|offset| !is_held(offset)).map(u64::to_string).collect();
            if others.is_empty() {
                return Ok(());
            }
            format!("not refused, in {name}, lane {lane}: {}; nothing was done", others.join(", "))
        }
    };
    Err(Refusal { status: StatusCode::CONFLICT, detail })
}

/// A replay from a sequence number, which has to have been pushed and not yet been removed.
async fn replay(operate: &Operate, name: &str, lane: u32, order: &Order) -> Result<PushAction, Refusal> {
    let conflict = |detail: String| Refusal { status: StatusCode::CONFLICT, detail };
    let topic = &operate.topics.destinations[name];
    let from = order.from.ok_or_else(|| Refusal::bad("replay takes the sequence number to begin with, as `from`"))?;
    let id = order.id.clone().unwrap_or_else(|| format!("replay-{}", operate.log.now().0));
    if !is_replay_id(&id) {
        let what = "1 to 64 letters, digits, dots, underscores and hyphens";
        return Err(Refusal::bad(format!("{id:?} cannot be the id of a replay, which has {what}")));
    }
    let of = topic.partition(Partition(lane));
    let at = match outputs::position(&*operate.log, &of, Sequence(from)).await? {
        outputs::Position::At(at) => at,
        outputs::Position::Removed(first) => {
            let detail = format!("retention has removed what came before sequence {}; replay from there on", first.0);
            return Err(conflict(detail));
        }
    };
    let cursor = cursor(operate, operate.topics.control_of(Partition(lane)).partition).await?.unwrap_or_default();
    let pushed = cursor.topics.get(topic.as_str()).and_then(|lanes| lanes.get(&lane));
    match pushed {
        None => Err(Refusal::not_found(format!("nothing of lane {lane} was ever pushed to {name}"))),
        Some(PushPosition { lost: Some(_), .. }) => {
            let detail =
                format!("{name}, lane {lane}, stands still for a loss: `seriatim dest accept` ends that first");
            Err(conflict(detail))
        }
        Some(PushPosition { replay: Some(replay), .. }) if replay.id == id => {
            let detail = format!("{name}, lane {lane}, pushes once more as {id} already: take another id");
            Err(conflict(detail))
        }
        Some(pushed) if at.0 >= pushed.position && pushed.done.is_empty() => {
            Err(conflict(format!("sequence {from} of {name}, lane {lane}, was not pushed yet")))
        }
        Some(_) => Ok(PushAction::Replay { lane, from: at.0, id }),
    }
}

fn test(order: &Order) -> Result<TestItem, Refusal> {
    let Some(body) = &order.body_base64 else {
        let content_type = order.content_type.clone().or_else(|| Some("application/json".to_owned()));
        return Ok(TestItem { body: BASE64_STANDARD.encode(r#"{"test":true}"#), content_type });
    };
    let bytes = BASE64_STANDARD.decode(body).map_err(|error| Refusal::bad(format!("bodyBase64: {error}")))?;
    if bytes.len() > LONGEST_TEST {
        return Err(Refusal::bad(format!("a test has at most {LONGEST_TEST} bytes, not {}", bytes.len())));
    }
    Ok(TestItem { body: body.clone(), content_type: order.content_type.clone() })
}

/// Writes the order for each of the control partitions: one record in each, so that a failure on the way
/// leaves the rest without it. Said again it does no harm, and whoever asks is told to.
async fn write(
    operate: &Operate,
    controls: &[TopicPartition],
    verb: &PushVerb,
) -> Result<Vec<(Partition, Offset)>, Refusal> {
    let mut written = Vec::new();
    for control in controls {
        match orders::append(operate, control, PUSH_VERB, verb).await {
            Ok(offset) => written.push((control.partition, offset)),
            Err(refusal) if written.is_empty() => return Err(refusal),
            Err(Refusal { status, detail }) => {
                let (some, all) = (written.len(), controls.len());
                let detail =
                    format!("{detail}; {some} of {all} owners are told already: say it again, which does no harm");
                return Err(Refusal { status, detail });
            }
        }
    }
    Ok(written)
}

/// Whether the owners' cursors have passed the orders in time.
async fn executed(operate: &Operate, orders: &[(Partition, Offset)], until: Instant) -> Result<bool, Refusal> {
    for (control, order) in orders {
        let position = || async { Ok(cursor(operate, *control).await?.map(|cursor| cursor.control)) };
        if !orders::executed(*order, until, position).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits until it is known what came of a test; `None` where it is not by then, or another one came after.
async fn tested(
    operate: &Operate,
    control: Partition,
    order: Offset,
    name: &str,
    until: Instant,
) -> Result<Option<Tested>, Refusal> {
    while Instant::now() < until {
        let tested = cursor(operate, control).await?.and_then(|mut cursor| cursor.tests.remove(name));
        if let Some(tested) = tested.filter(|tested| tested.order >= order.0) {
            return Ok(Some(tested).filter(|tested| tested.order == order.0));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(None)
}

async fn cursor(operate: &Operate, control: Partition) -> Result<Option<PushCursor>, Refusal> {
    let of = operate.topics.cursors_deliver.partition(control);
    takeover::last_cursor(&*operate.log, Role::Deliver, &of).await.map_err(|error| match error {
        takeover::Error::Log(error) => error.into(),
        other => Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, detail: other.to_string() },
    })
}
