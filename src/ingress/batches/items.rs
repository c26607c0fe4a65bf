//! `GET /v1/batches/{id}/items`: how items ended, in index order, with what came of them on request.
//!
//! The events topic holds one record for each end, in the order in which they happened. It is read
//! once for every [`AT_ONCE`] indices, so that memory is bounded whatever the batch's size, and a
//! batch of a hundred thousand items takes one pass. What was done again shows its last end.

use std::collections::BTreeMap;
use std::collections::btree_map::IntoIter;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream;
use serde::Deserialize;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Map, Value};

use super::super::Service;
use super::super::problem::Problem;
use super::{known, lane_of};
use crate::log::Error;
use crate::observe::batches;
use crate::record::batches::{BatchRecord, ItemStatus};
use crate::record::present;
use crate::record::{Name, Offset, Partition, RecordRef};

/// How many items one pass collects: some tens of bytes each.
const AT_ONCE: u64 = 100_000;

/// How many lines make one piece of the answer where bodies are asked for, and where not.
const PIECE: (usize, usize) = (16, 1_000);

/// The query of the route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct ItemsQuery {
    #[serde(default)]
    from: u64,
    limit: Option<u64>,
    status: Option<ItemStatus>,
    /// With the body of each result, as long as the results are kept.
    #[serde(default)]
    bodies: bool,
}

/// Streams the items as NDJSON, a line each: index, round, status, and error, source and body where
/// there is one, as [`present`] writes it. Items that have not ended are left out.
///
/// # Errors
///
/// [`super::Code::NotFound`], and what the log answers. What fails later breaks the answer off.
pub(in super::super) async fn items(service: &Service, id: &str, query: ItemsQuery) -> Result<Response, Problem> {
    let record = known(service, id).await?;
    let listing = Listing::new(service.clone(), id, &record, &query);
    let lines = stream::try_unfold(listing, |mut listing| async move {
        Ok::<_, Error>(listing.next().await?.map(|lines| (lines, listing)))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

struct Listing {
    service: Service,
    id: String,
    lane: Partition,
    /// The indices still to be listed.
    next: u64,
    end: u64,
    page: IntoIter<u64, Value>,
    status: Option<ItemStatus>,
    bodies: bool,
}

impl Listing {
    fn new(service: Service, id: &str, record: &BatchRecord, query: &ItemsQuery) -> Self {
        let total = record.state.total;
        let end = query.limit.map_or(total, |limit| query.from.saturating_add(limit).min(total));
        Self {
            lane: lane_of(&service, id),
            service,
            id: id.to_owned(),
            next: query.from,
            end,
            page: BTreeMap::new().into_iter(),
            status: query.status,
            bodies: query.bodies,
        }
    }

    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = if self.bodies { PIECE.0 } else { PIECE.1 };
        let mut lines = BytesMut::new();
        let mut count = 0;
        while count < piece {
            let Some((_, item)) = self.page.next() else {
                if self.next >= self.end || !lines.is_empty() {
                    break;
                }
                self.collect().await?;
                continue;
            };
            if self.status.as_ref().is_some_and(|status| item["status"] != status.as_str()) {
                continue;
            }
            let with_body = if self.bodies { self.with_body(&item).await? } else { None };
            lines.put_slice(with_body.unwrap_or_else(|| item.to_string()).as_bytes());
            lines.put_u8(b'\n');
            count += 1;
        }
        Ok((!lines.is_empty()).then(|| lines.freeze()))
    }

    /// Collects the ends of the next indices.
    async fn collect(&mut self) -> Result<(), Error> {
        let (from, to) = (self.next, self.end.min(self.next.saturating_add(AT_ONCE)));
        let (log, topics) = (&**self.service.log(), self.service.topics());
        self.page = batches::ends(log, topics, &self.id, from..to).await?.into_iter();
        self.next = to;
        Ok(())
    }

    /// The item's line with its body; `None` where it has none, or none any more.
    async fn with_body(&self, item: &Value) -> Result<Option<String>, Error> {
        let at = item["result"].as_u64().map(Offset).filter(|_| item["status"] == "succeeded");
        let (Some(at), Some(item)) = (at, item.as_object()) else { return Ok(None) };
        let results = self.service.topics().results.partition(self.lane);
        let shown = batches::shown_at(&**self.service.log(), &results, at, |result| {
            let line = result.value.map(|_| serde_json::to_string(&WithBody { item, result }));
            line.map(|line| line.expect("plain data always serializes"))
        });
        Ok(shown.await?.flatten())
    }
}

/// An item with what came of it, which never becomes a [`Value`]: that would change numbers.
struct WithBody<'a> {
    item: &'a Map<String, Value>,
    result: RecordRef<'a>,
}

impl Serialize for WithBody<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for (name, value) in self.item {
            map.serialize_entry(name, value)?;
        }
        present::body(self.result.headers.text(Name::ContentType), self.result.value).write(&mut map)?;
        map.end()
    }
}
