//! `Idempotency-Key` on the start of a batch: a retry gets the batch of the first attempt.
//!
//! Nothing is kept here. A batch without an id of its own gets one that follows from the key and
//! from who asks, so that a retry meets it in whatever process; and its state says from which request
//! it came, as long as the batch is remembered.

use std::fmt::Write as _;

use axum::http::HeaderMap;
use sha2::{Digest as _, Sha256};

use super::super::auth::Principal;
use super::super::envelope::Idempotency;
use super::super::problem::{Code, Problem};
use crate::record::batches::{BatchRecord, Request};

/// The key of a request, with who sent it, hashed.
#[derive(Debug)]
pub(super) struct Key(String);

impl Key {
    /// The key of a request, if it has one.
    ///
    /// # Errors
    ///
    /// [`Code::InvalidHeader`].
    pub(super) fn read(headers: &HeaderMap, principal: &Principal) -> Result<Option<Self>, Problem> {
        let idempotency = Idempotency::of(headers, principal)?;
        Ok(idempotency.map(|idempotency| Self(hex(Sha256::new_with_prefix(idempotency.id.as_bytes())))))
    }

    /// The id of a batch that is not given one.
    pub(super) fn name(&self) -> String {
        format!("batch-{}", self.0)
    }

    /// The request with this key that says what `content` was fed.
    pub(super) fn request(&self, content: Sha256) -> Request {
        Request { identity: self.0.clone(), fingerprint: hex(content) }
    }

    /// Whether the batch that is there came under this key.
    pub(super) fn is_of(&self, record: &BatchRecord) -> bool {
        record.request.as_ref().is_some_and(|request| request.identity == self.0)
    }
}

/// Whether the batch that has the id came from this very request.
///
/// # Errors
///
/// [`Code::KeyReused`], where it came under the same key with other content; else [`Code::BatchExists`].
pub(super) fn same(id: &str, record: &BatchRecord, request: Option<&Request>) -> Result<(), Problem> {
    match (&record.request, request) {
        (Some(first), Some(now)) if first == now => Ok(()),
        (Some(first), Some(now)) if first.identity == now.identity => {
            let detail = format!("this key started batch {id:?} with another body; send the same, or take another key");
            Err(Problem::new(Code::KeyReused, detail))
        }
        _ => Err(exists(id)),
    }
}

pub(super) fn exists(id: &str) -> Problem {
    let detail = format!("there is a batch {id:?} already; see /v1/batches/{id}, or take another id");
    Problem::new(Code::BatchExists, detail)
}

/// The first half of the digest, which nobody finds two inputs for.
fn hex(digest: Sha256) -> String {
    digest.finalize()[..Request::DIGITS / 2].iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
