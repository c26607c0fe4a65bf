//! Who waits for a message that stands still is told so, rather than left to wait.

use tokio::time::{Duration, sleep};

use super::Service;
use super::problem::{Code, Problem};
use crate::log::Error;
use crate::observe::live::Waiting;
use crate::record::Source;

/// How often a waiter looks. What is found out is shared by all who wait in the lane.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Waits until the message cannot be released before an operator acts, and says why. Waits for ever
/// where that does not happen, or cannot be found out. Cancel-safe.
pub(super) async fn noticed(service: &Service, source: Source) -> Problem {
    loop {
        sleep(LOOK_EVERY).await;
        // Where the log does not answer, who waits for the release tells so.
        if let Ok(Some(problem)) = look(service, source).await {
            return problem;
        }
    }
}

async fn look(service: &Service, source: Source) -> Result<Option<Problem>, Error> {
    let Some(live) = service.live().still(&**service.log(), service.topics(), source.lane).await? else {
        return Ok(None);
    };
    if let Some(reason) = &live.cursor.halted {
        let detail = format!("the message is durable, but lane {} stands still: {reason}", source.lane);
        return Ok(Some(
            Problem::new(Code::NotReleasedYet, detail).with("state", "halted").with("reason", reason.as_str()),
        ));
    }
    let Some(held) = live.held_by(source.offset) else { return Ok(None) };
    let Waiting::Operator(error) = held.waiting else { return Ok(None) };
    let error = serde_json::from_str(&error).unwrap_or(serde_json::Value::String(error));
    let told = |what: String| Problem::new(Code::NotReleasedYet, format!("the message is durable, but {what}"));
    let problem = if held.source == source {
        told("working on it failed, and it waits for an operator".to_owned()).with("state", "halted")
    } else {
        let held = held.source.to_string();
        told(format!("{held}, which has to leave before it, failed and waits for an operator")).with("waitsFor", held)
    };
    Ok(Some(problem.with("error", error)))
}
