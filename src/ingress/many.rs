//! Answers requests with many messages: an NDJSON upload, or a batch of CloudEvents.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::auth::Principal;
use super::envelope::Envelope;
use super::problem::{Code, Problem};
use super::quota::Meter;
use super::results::{Form, Results};
use super::upload::Upload;
use super::{Service, body, decode, event, single};
use crate::record::{BatchBuilder, Partition};

/// What opens and closes an answer in this form.
const fn frame(form: Form) -> (&'static str, &'static str) {
    match form {
        Form::Object => (r#"{"results":["#, "]}"),
        Form::Lines => ("", ""),
    }
}

/// An NDJSON upload. With `Accept: application/x-ndjson` the answer has one entry a line, and
/// begins while the upload goes on; it is for clients that read while they write. It is read no
/// faster than the sender's quota allows.
///
/// # Errors
///
/// Those of [`decode::pieces`]; everything later is told line by line.
pub(super) async fn ndjson(
    service: Service,
    envelope: Envelope,
    lane: Partition,
    headers: &HeaderMap,
    body: Body,
    principal: &Principal,
) -> Result<Response, Problem> {
    let body = decode::pieces(headers, body, service.options(), service.bodies())?;
    let accept = headers.get(header::ACCEPT).map(HeaderValue::as_bytes);
    let form = if accept == Some(b"application/x-ndjson") { Form::Lines } else { Form::Object };
    let mut upload = Upload::new(service, envelope, lane, body, principal.clone());
    while form == Form::Object && !upload.must_answer() && upload.step().await {}
    let opening = stream::iter([Bytes::from_static(frame(form).0.as_bytes())]);
    let entries = stream::unfold(upload, move |mut upload| async move {
        loop {
            match upload.results.block(form) {
                Some(block) => return Some((block, upload)),
                None if upload.step().await => {}
                None => return None,
            }
        }
    });
    let closing = stream::iter([Bytes::from_static(frame(form).1.as_bytes())]);
    let all = futures::StreamExt::chain(futures::StreamExt::chain(opening, entries), closing);
    let all = futures::StreamExt::map(all, Ok::<_, std::convert::Infallible>);
    Ok(multi_status(form, Body::from_stream(all)))
}

/// A JSON array of CloudEvents in structured mode; each becomes a message of its own.
///
/// # Errors
///
/// Those of [`body::read`] and [`Meter::take`], and [`Code::InvalidBody`] where it is no array.
pub(super) async fn events(
    service: &Service,
    mut envelope: Envelope,
    lane: Partition,
    headers: &HeaderMap,
    body: Body,
    meter: &mut Meter<'_>,
) -> Result<Response, Problem> {
    envelope.content_type = Some(b"application/cloudevents+json".to_vec());
    let held = body::read(headers, body, service.options(), service.bodies()).await?;
    let events: Vec<&RawValue> = serde_json::from_slice(&held.bytes)
        .map_err(|e| Problem::new(Code::InvalidBody, format!("the body is no JSON array of CloudEvents: {e}")))?;
    meter.take(events.len())?;
    let mut builder = BatchBuilder::default();
    let mut lines = Vec::with_capacity(events.len());
    for (index, event) in (0..).zip(events) {
        let fault = event::fault(event.get());
        if fault.is_none() {
            envelope.push_entry(&mut builder, index, event.get().as_bytes(), envelope.content_type.as_deref());
        }
        lines.push((1, fault.map(|detail| Problem::new(Code::InvalidBody, detail))));
        if builder.size() > 2 * service.options().max_body {
            let detail = "with the headers that each of them repeats the events are too large; send fewer at once";
            return Err(Problem::new(Code::BodyTooLarge, detail));
        }
    }
    let answer = if builder.is_empty() {
        Ok(crate::log::Offsets::default())
    } else {
        let mut pending = service.lane(lane).offer(builder.finish(), None, None).map_err(|_| single::overloaded())?;
        let answer = timeout(service.options().append_timeout, pending.answer()).await;
        answer.map_err(|_| single::timed_out()).and_then(|answer| answer.map_err(Problem::from))
    };
    if let Err(problem) = &answer {
        lines.iter_mut().filter(|(_, refused)| refused.is_none()).for_each(|line| line.1 = Some(problem.clone()));
    }
    let mut results = Results::new(lane);
    results.extend(lines, &answer.unwrap_or_default());
    let mut text = bytes::BytesMut::from(frame(Form::Object).0);
    while let Some(block) = results.block(Form::Object) {
        text.extend_from_slice(&block);
    }
    text.extend_from_slice(frame(Form::Object).1.as_bytes());
    Ok(multi_status(Form::Object, Body::from(text.freeze())))
}

fn multi_status(form: Form, body: Body) -> Response {
    let media = match form {
        Form::Object => "application/json",
        Form::Lines => "application/x-ndjson",
    };
    (StatusCode::MULTI_STATUS, [(header::CONTENT_TYPE, media)], body).into_response()
}
