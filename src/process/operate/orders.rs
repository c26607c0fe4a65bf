//! Operators' orders: taken as JSON, written to the control log, executed by whoever owns it.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Operate, Refusal};
use crate::log::TopicPartition;
use crate::record::{BatchBuilder, Name, Offset};

/// How often it is looked whether an order is executed.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An order as it came. What cannot be read is refused as everything else is, with the reason.
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let refused = |rejection: JsonRejection| Refusal { status: rejection.status(), detail: rejection.body_text() };
        Json::from_request(request, state).await.map(|Json(order)| Self(order)).map_err(refused)
    }
}

/// Writes an order; where it stands. Under an error it may have been written all the same.
pub(super) async fn append(
    operate: &Operate,
    control: &TopicPartition,
    kind: &[u8],
    order: &impl Serialize,
) -> Result<Offset, Refusal> {
    let value = serde_json::to_vec(order).map_err(|e| Refusal::bad(e.to_string()))?;
    let mut builder = BatchBuilder::default();
    builder.push(None, Some(&value), |to| to.put(Name::Kind, kind));
    let offsets = operate.log.append(control, builder.finish()).await?.await?;
    offsets.get(0).ok_or_else(|| Refusal {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        detail: "the log took the order and did not say where".to_owned(),
    })
}

/// Waits until the control log's position in an owner's cursor, as `position` finds it, has passed the
/// order; `false` where that is not so by then.
pub(super) async fn executed<F>(order: Offset, until: Instant, position: impl Fn() -> F) -> Result<bool, Refusal>
where
    F: Future<Output = Result<Option<u64>, Refusal>>,
{
    loop {
        if position().await?.is_some_and(|position| position > order.0) {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The answer to an order: 200 where it says that it was executed, else 202.
pub(super) fn answer(answer: Value) -> (StatusCode, Json<Value>) {
    let status = if answer["executed"] == true { StatusCode::OK } else { StatusCode::ACCEPTED };
    (status, Json(answer))
}
