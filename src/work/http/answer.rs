//! What a worker's response means.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};

use super::broken;
use crate::record::outputs;
use crate::work::processor::{Answer, Failure, Output, PROBLEM_BYTES};

/// Longer ones name more destinations than any pipeline has.
const MAX_DESTINATIONS: usize = 4 * 1024;

/// Reads the response to its end, unless it is larger than an output may be.
pub(super) async fn read(response: Response, max_output: usize) -> Result<Answer, Failure> {
    match response.status() {
        StatusCode::OK => output(response, max_output).await,
        StatusCode::NO_CONTENT => Ok(Answer::Empty),
        status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
            Err(Failure::unreachable(format_args!("the worker answered {status}"), retry_after(response.headers())))
        }
        status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY) => {
            Err(failed(status, response, Failure::retry).await)
        }
        status if status.is_server_error() => Err(failed(status, response, Failure::retry).await),
        status if status.is_client_error() => Err(failed(status, response, Failure::fail).await),
        status => Err(Failure::fail(
            "worker-status",
            format_args!("the worker answered {status}; only 200 with the output and 204 mean success"),
        )),
    }
}

async fn output(response: Response, max_output: usize) -> Result<Answer, Failure> {
    let destinations = text(response.headers(), "seriatim-destination")?;
    let content_type = response.headers().get(CONTENT_TYPE).map(|value| Bytes::copy_from_slice(value.as_bytes()));
    let (body, whole) = body(response, max_output).await?;
    if !whole {
        return Err(Failure::fail("output-too-large", format_args!("the output is larger than {max_output} bytes")));
    }
    if content_type.as_deref().is_some_and(is_outputs) {
        return Answer::from_outputs_json(body).map_err(|e| Failure::fail("outputs-invalid", e));
    }
    Ok(Answer::One(Output { body, content_type, destinations, headers: Vec::new() }))
}

fn is_outputs(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(outputs::OUTPUTS.as_bytes())
}

/// All headers of a name as one list.
fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, Failure> {
    let values: Result<Vec<_>, _> = headers.get_all(name).iter().map(|value| value.to_str()).collect();
    match values.map(|values| values.join(", ")) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) if text.len() <= MAX_DESTINATIONS => Ok(Some(text)),
        Ok(text) => Err(Failure::fail("destination-invalid", format_args!("{name} has {} bytes", text.len()))),
        Err(_) => Err(Failure::fail("destination-invalid", format_args!("{name} is not ASCII"))),
    }
}

/// A failure with what the worker said about it.
async fn failed(status: StatusCode, response: Response, class: fn(&'static str, String) -> Failure) -> Failure {
    let mut failure = class("worker-status", format!("the worker answered {status}"));
    // The status says what to do; a body that breaks off says no more.
    if let Ok((body, _)) = body(response, PROBLEM_BYTES).await {
        failure.problem = (!body.is_empty()).then_some(body);
    }
    failure
}

/// At most `max` bytes of the body, and whether that is all of it.
async fn body(mut response: Response, max: usize) -> Result<(Bytes, bool), Failure> {
    let first = response.chunk().await.map_err(|e| broken(&e))?.unwrap_or_default();
    let Some(second) = response.chunk().await.map_err(|e| broken(&e))? else {
        return Ok((first.slice(..first.len().min(max)), first.len() <= max));
    };
    let mut body = BytesMut::from(first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        if body.len() + chunk.len() > max {
            body.extend_from_slice(&chunk[..max.saturating_sub(body.len())]);
            body.truncate(max);
            return Ok((body.freeze(), false));
        }
        body.extend_from_slice(&chunk);
        next = response.chunk().await.map_err(|e| broken(&e))?;
    }
    Ok((body.freeze(), true))
}

/// `Retry-After` in either form: seconds, or a date by this machine's clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}
