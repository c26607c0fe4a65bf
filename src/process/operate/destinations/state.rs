//! What is known of destinations, as JSON, and in sentences what they wait for.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::{Operate, Refusal};
use super::cursor;
use crate::log::Topic;
use crate::record::push::{Held, PushCursor, Retrying};
use crate::record::{Partition, Timestamp};

/// Every destination that was ever pushed to.
pub(super) async fn all(operate: &Operate) -> Result<Vec<Value>, Refusal> {
    let cursors = cursors(operate).await?;
    let mut states = Vec::new();
    for name in operate.topics.destinations.keys() {
        let state = state(operate, &cursors, name).await?;
        if state["lanes"].as_array().is_some_and(|lanes| !lanes.is_empty()) {
            states.push(state);
        }
    }
    Ok(states)
}

/// A sentence for each thing that keeps a destination from getting what is there for it.
pub(in super::super) async fn waiting(operate: &Operate) -> Result<Vec<String>, Refusal> {
    Ok(all(operate).await?.iter().flat_map(in_the_way).collect())
}

/// What one destination waits for, in one sentence, and its state.
pub(in super::super) async fn of(operate: &Operate, name: &str) -> Result<(String, Value), Refusal> {
    if !operate.topics.destinations.contains_key(name) {
        return Err(Refusal::not_found(format!("there is no destination {name:?}")));
    }
    let state = state(operate, &cursors(operate).await?, name).await?;
    let lanes = state["lanes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let behind: u64 = lanes.iter().filter_map(|lane| lane["lag"].as_u64()).sum();
    let in_the_way = in_the_way(&state);
    let sentence = if lanes.is_empty() {
        let topic = state["topic"].as_str().unwrap_or_default();
        format!("destination {name} was never pushed to: those that want what is there read the topic {topic}")
    } else if !in_the_way.is_empty() {
        format!("{}; {behind} behind", in_the_way.join("; "))
    } else if behind == 0 {
        format!("destination {name} waits for nothing: its receiver has acknowledged everything")
    } else {
        format!("destination {name} is being pushed to and nothing is in the way: {behind} behind")
    };
    Ok((sentence, state))
}

async fn cursors(operate: &Operate) -> Result<Vec<PushCursor>, Refusal> {
    let mut cursors = Vec::new();
    for control in 0..operate.topics.control_partitions {
        cursors.push(cursor(operate, Partition(control)).await?.unwrap_or_default());
    }
    Ok(cursors)
}

async fn state(operate: &Operate, cursors: &[PushCursor], name: &str) -> Result<Value, Refusal> {
    let topic = &operate.topics.destinations[name];
    let held = || cursors.iter().filter_map(|cursor| cursor.held.get(name));
    let holding = || held().filter(|held| held.is_for_good());
    let for_good = holding().find_map(|held| match held {
        // A pause is for all owners; where one was not told, it has to be said again.
        Held::Paused(reason) => Some(json!({"paused": reason, "partly": holding().count() < cursors.len()})),
        Held::Disabled(reason) => Some(json!({"disabled": reason})),
        Held::Retrying(_) | Held::Paced => None,
    });
    let retrying: Vec<Value> = held().filter_map(|held| retrying(held, operate.log.now())).collect();
    Ok(json!({
        "name": name,
        "topic": topic.as_str(),
        "held": for_good,
        "retrying": retrying,
        "paced": held().any(|held| *held == Held::Paced),
        "lanes": lanes(operate, cursors, topic).await?,
    }))
}

fn retrying(held: &Held, now: Timestamp) -> Option<Value> {
    let Held::Retrying(Retrying { lane, offset, attempts, error, since, next, down }) = held else { return None };
    Some(json!({
        "lane": lane,
        "offset": offset,
        "attempts": attempts,
        "error": error,
        "down": down,
        "forSeconds": now.since(Timestamp(*since)).as_secs_f64(),
        "nextInSeconds": Timestamp(*next).since(now).as_secs_f64(),
    }))
}

async fn lanes(operate: &Operate, cursors: &[PushCursor], topic: &Topic) -> Result<Vec<Value>, Refusal> {
    let mut lanes = Vec::new();
    for (lane, position) in cursors.iter().flat_map(|cursor| cursor.topics.get(topic.as_str()).into_iter().flatten()) {
        let end = operate.log.bounds(&topic.partition(Partition(*lane))).await?.stable_end.0;
        lanes.push(json!({
            "lane": lane,
            "position": position.position,
            "lag": end.saturating_sub(position.position),
            "halted": position.halted,
            "haltedByLoss": position.lost,
            "replay": position.replay.as_ref().map(|replay| &replay.id),
        }));
    }
    Ok(lanes)
}

/// A sentence for each thing that is in the way.
fn in_the_way(state: &Value) -> Vec<String> {
    let name = state["name"].as_str().unwrap_or_default();
    let mut sentences = Vec::new();
    if let Some(reason) = state["held"]["paused"].as_str() {
        let paused = if state["held"]["partly"] == true { "paused in some lanes only" } else { "paused" };
        let what = format!("`seriatim dest resume {name} --reason WHY` goes on");
        sentences.push(format!("destination {name} is {paused}: {reason}; {what}"));
    }
    if let Some(reason) = state["held"]["disabled"].as_str() {
        let what = format!("`seriatim dest resume {name} --reason WHY` tries again");
        sentences.push(format!("destination {name} was disabled by its receiver: {reason}; {what}"));
    }
    sentences.extend(state["retrying"].as_array().into_iter().flatten().map(|retrying| again(name, retrying)));
    if state["paced"] == true {
        sentences.push(format!("destination {name} is pushed to at its rate and no faster"));
    }
    for lane in state["lanes"].as_array().into_iter().flatten() {
        let number = &lane["lane"];
        if let Some(reason) = lane["haltedByLoss"].as_str() {
            let what = format!("`seriatim dest accept {name} {number} --reason WHY` goes on with what there is");
            sentences.push(format!("destination {name}, lane {number}, stands still: {reason}; {what}"));
        }
        for (offset, reason) in lane["halted"].as_object().into_iter().flatten() {
            let reason = reason.as_str().unwrap_or_default();
            let what = format!("`seriatim dest retry|skip {name} {number} {offset} --reason WHY` ends that");
            sentences.push(format!(
                "destination {name}, lane {number}: {offset} was refused and holds its group: {reason}; {what}"
            ));
        }
    }
    sentences
}

fn again(name: &str, retrying: &Value) -> String {
    let seconds = |field: &str| whole(retrying[field].as_f64().unwrap_or_default());
    let next = match seconds("nextInSeconds") {
        Duration::ZERO => "is under way or due".to_owned(),
        wait => format!("comes in {}", humantime::format_duration(wait)),
    };
    let down = if retrying["down"] == true { "its receiver is taken for down and only probed; " } else { "" };
    let (lane, offset, attempts) = (&retrying["lane"], &retrying["offset"], &retrying["attempts"]);
    let since = humantime::format_duration(seconds("forSeconds"));
    let error = retrying["error"].as_str().unwrap_or_default().trim_end_matches([':', ' ']);
    format!(
        "destination {name} waits for its receiver: {down}item {offset} of lane {lane} was tried {attempts} times within \
         {since}, the next attempt {next}: {error}"
    )
}

/// A time in whole seconds, rounded up.
fn whole(seconds: f64) -> Duration {
    let exact = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    Duration::from_secs(exact.as_secs() + u64::from(exact.subsec_nanos() > 0))
}
