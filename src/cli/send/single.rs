//! One request after the other.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde::Deserialize;

use super::super::client::Client;
use super::Send;
use super::input::Lines;
use super::tally::{Entry, Problem, Tally};

/// How often a message is sent that is refused for now, or whose answer is missing.
const ATTEMPTS: u32 = 30;

/// The pause before the next attempt, where the process does not say.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause that a process may ask for.
pub(super) const PAUSE_CAP: Duration = Duration::from_secs(30);

/// How long an answer may take: what the process gives the log for a write, and as much again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends messages over one connection.
pub(super) struct Requests<'a> {
    pub(super) client: &'a Client,
    pub(super) send: &'a Send,
    pub(super) media: &'a str,
}

#[derive(Deserialize)]
struct Accepted {
    id: String,
}

/// What an attempt came to.
enum Answer {
    Known(Entry),
    /// It was surely not written, and may be after a pause.
    Later(Duration, Entry),
    /// It may have been written.
    Unknown(Entry),
}

impl Requests<'_> {
    /// Sends every line. Ends early where one could not be sent, or it is unknown whether it was
    /// written: what follows must not overtake it.
    pub(super) async fn lines(&self, lines: &mut Lines, tally: &mut Tally) -> anyhow::Result<()> {
        while let Some((number, line)) = lines.message(tally).await? {
            let id = self.send.id.as_ref().map(|id| format!("{id}-{number}"));
            if !self.send(number, id, line, tally).await? {
                tally.warn(&format!("stopped at line {number}; later lines were not sent"));
                break;
            }
        }
        Ok(())
    }

    /// Sends one message; `false` where that was given up.
    pub(super) async fn send(
        &self,
        number: u64,
        id: Option<String>,
        body: Bytes,
        tally: &mut Tally,
    ) -> anyhow::Result<bool> {
        for attempt in 1.. {
            let request = self.request(id.as_deref(), body.clone());
            let (pause, entry) = match self.attempt(number, request).await? {
                Answer::Known(entry) => {
                    tally.add(entry)?;
                    return Ok(true);
                }
                Answer::Later(pause, entry) => (pause.min(PAUSE_CAP), entry),
                // Under the same id the same message is not written twice.
                Answer::Unknown(entry) if id.is_some() => (PAUSE, entry),
                Answer::Unknown(entry) => {
                    tally.add(entry)?;
                    return Ok(false);
                }
            };
            if attempt == ATTEMPTS {
                tally.add(entry)?;
                return Ok(false);
            }
            if attempt == 1 || pause > PAUSE {
                let why = entry.problem.as_ref().map_or("", |problem| problem.detail.as_str());
                let left = ATTEMPTS - attempt;
                let pause = humantime::format_duration(pause);
                tally.warn(&format!("line {number}: {why}; trying again in {pause}, up to {left} times"));
            }
            tokio::time::sleep(pause).await;
        }
        Ok(false)
    }

    fn request(&self, id: Option<&str>, body: Bytes) -> RequestBuilder {
        let request = self.client.request(Method::POST, "/v1/messages").timeout(ANSWER_TIMEOUT).body(body);
        let request = headers(request, self.send).header(header::CONTENT_TYPE, self.media);
        match id {
            Some(id) => request.header("idempotency-key", id),
            None => request,
        }
    }

    async fn attempt(&self, number: u64, request: RequestBuilder) -> anyhow::Result<Answer> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => return Err(error.into()),
            Err(error) if error.is_connect() => {
                let reason = self.client.unreachable(&error).message;
                return Ok(Answer::Later(PAUSE, Entry::refused(number, 503, "unreachable", reason)));
            }
            Err(error) => return Ok(Answer::Unknown(Entry::unanswered(number, format!("no answer came: {error}")))),
        };
        let status = response.status();
        let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let Ok(text) = response.bytes().await else {
            return Ok(Answer::Unknown(Entry::unanswered(number, "the answer broke off")));
        };
        if status.is_success() {
            let accepted: Accepted = serde_json::from_slice(&text)?;
            return Ok(Answer::Known(Entry::accepted(number, accepted.id)));
        }
        let problem = serde_json::from_slice::<Problem>(&text).unwrap_or_else(|_| Problem {
            code: "unexpected-answer".to_owned(),
            detail: format!("the answer was {status}; is it a seriatim?"),
            retryable: false,
        });
        let entry = Entry { line: number, status: status.as_u16(), id: None, problem: Some(problem) };
        Ok(match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT => {
                Answer::Later(after.map_or(PAUSE, Duration::from_secs), entry)
            }
            StatusCode::GATEWAY_TIMEOUT => Answer::Unknown(entry),
            _ => Answer::Known(entry),
        })
    }
}

/// The headers that every message of a call has.
pub(super) fn headers(mut request: RequestBuilder, send: &Send) -> RequestBuilder {
    for (name, value) in [("seriatim-key", &send.key), ("seriatim-destination", &send.destination)] {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    request
}
