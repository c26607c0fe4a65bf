//! `POST /v1/messages` with one message.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::Service;
use super::envelope::Envelope;
use super::keys::{Claim, Known};
use super::problem::{Code, Problem};
use crate::record::{BatchBuilder, Partition, Source};

/// A message that is durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    pub(super) source: Source,
    /// It was there before this request.
    pub(super) replayed: bool,
}

/// Writes one message, or finds it by its idempotency key. Returns once it is durable.
///
/// Dropping the future gives the answer up, not the message.
///
/// # Errors
///
/// [`Code::KeyInFlight`], [`Code::KeyReused`], [`Code::Overloaded`], and what the log answers.
pub(super) async fn write(
    service: &Service,
    envelope: &Envelope,
    lane: Partition,
    body: &Bytes,
) -> Result<Accepted, Problem> {
    let claim = match claim(service, envelope, body)? {
        Ok(claim) => claim,
        Err(source) => return Ok(Accepted { source, replayed: true }),
    };
    let mut builder = BatchBuilder::default();
    envelope.push(&mut builder, body, envelope.content_type.as_deref());
    let mut pending = service.lane(lane).offer(builder.finish(), claim, None).map_err(|_| overloaded())?;
    let answer = timeout(service.options().append_timeout, pending.answer()).await;
    let offsets = answer.map_err(|_| timed_out())??;
    let offset = offsets.get(0).ok_or_else(placeless)?;
    Ok(Accepted { source: Source { lane, offset }, replayed: false })
}

/// The key's claim, if there is a key; `Err` inside where its message is there already.
fn claim(service: &Service, envelope: &Envelope, body: &Bytes) -> Result<Result<Option<Claim>, Source>, Problem> {
    let Some(idempotency) = &envelope.idempotency else { return Ok(Ok(None)) };
    let fingerprint = Sha256::digest(body).into();
    match service.keys().claim(&idempotency.id, fingerprint) {
        Known::Write(claim) => Ok(Ok(Some(claim))),
        Known::Done(source) => Ok(Err(source)),
        Known::InFlight => {
            Err(Problem::new(Code::KeyInFlight, "the message with this key is being written; ask again"))
        }
        Known::Reused => Err(Problem::new(
            Code::KeyReused,
            "this key came with another body before; send the same body, or another key",
        )),
    }
}

/// The refusal where the way into a lane is full.
pub(super) fn overloaded() -> Problem {
    Problem::new(Code::Overloaded, "too many messages are waiting to be written; try again")
}

/// What is answered when the log takes too long.
pub(super) fn timed_out() -> Problem {
    Problem::new(
        Code::OutcomeUnknown,
        "the log did not answer in time; send it again under the same Idempotency-Key to find out",
    )
}

/// What is answered when the log acknowledges a message without its place, which no log should.
pub(super) fn placeless() -> Problem {
    Problem::new(Code::OutcomeUnknown, "the log acknowledged the message without saying where it is")
}

/// 202 with the message's place.
pub(super) fn accepted(Accepted { source, replayed }: Accepted) -> Response {
    let Source { lane, offset } = source;
    let body = format!(r#"{{"id":"{source}","lane":{lane},"offset":{offset}}}"#);
    let mut response = (StatusCode::ACCEPTED, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    place(headers, source, replayed);
    response
}

/// Says in headers where the message is, and whether it had been before.
pub(super) fn place(headers: &mut axum::http::HeaderMap, source: Source, replayed: bool) {
    let location = HeaderValue::try_from(format!("/v1/messages/{source}")).expect("digits and a dash are ASCII");
    headers.insert(header::LOCATION, location);
    if replayed {
        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
}
