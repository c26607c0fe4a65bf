//! A service over a log in memory, called without a socket.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, Uri};
use bytes::Bytes;
use seriatim::ingress::{Options, Service, http};
use seriatim::log::memory::{Delay, Memory, Stored};
use seriatim::log::{Log, TopicPartition};
use seriatim::record::cursor::{LaneCursor, OwnerCursor, encode};
use seriatim::record::ledger::{LedgerRecord, Outcome};
use seriatim::record::{
    BatchBuilder, Epoch, Headers, Name, Offset, OutputHeaders, Partition, RecordRef, ResultHeaders, Sequence, Source,
    Status, check,
};
use seriatim::topics::Topics;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// See the module's documentation. Two destinations: `billing` and `default`.
pub(crate) struct Fixture {
    pub(crate) log: Memory,
    pub(crate) topics: Arc<Topics>,
    pub(crate) drain: CancellationToken,
    router: Router,
}

impl Fixture {
    pub(crate) async fn new(lanes: u32, options: Options) -> Self {
        let log = Memory::new(1);
        let topics = Arc::new(Topics::derive("t", &["billing", "default"], lanes, 1));
        log.ensure(&topics.shapes()).await.expect("an empty log takes every shape");
        let drain = CancellationToken::new();
        let (service, driver) = Service::new(Arc::new(log.clone()), Arc::clone(&topics), options, drain.clone());
        tokio::spawn(driver.run());
        let router = http::router(service);
        Self { log, topics, drain, router }
    }

    pub(crate) async fn call(&self, call: Call) -> Answer {
        let response = self.open(call).await;
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.expect("the answer ends");
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// The response as soon as it begins.
    pub(crate) async fn open(&self, call: Call) -> axum::response::Response {
        self.router.clone().oneshot(call.0).await.expect("routers do not fail")
    }

    pub(crate) fn input(&self, lane: u32) -> Vec<Stored> {
        self.log.snapshot(&self.topics.input.partition(Partition(lane)))
    }
}

/// A request being put together.
pub(crate) struct Call(Request<Body>);

pub(crate) fn post(body: &str) -> Call {
    let mut request = Request::new(Body::from(body.to_owned()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("/v1/messages");
    Call(request)
}

impl Call {
    pub(crate) fn header(mut self, name: &'static str, value: impl TryInto<axum::http::HeaderValue>) -> Self {
        let value = value.try_into().unwrap_or_else(|_| panic!("{name} has a valid value"));
        self.0.headers_mut().append(name, value);
        self
    }

    pub(crate) fn uri(mut self, uri: &str) -> Self {
        *self.0.uri_mut() = uri.parse().expect("it is a URI");
        self
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        *self.0.method_mut() = method.parse().expect("it is a method");
        self
    }

    pub(crate) fn streaming<S, B, E>(mut self, pieces: S) -> Self
    where
        S: futures::Stream<Item = Result<B, E>> + Send + 'static,
        B: Into<Bytes> + 'static,
        E: Into<axum::BoxError> + 'static,
    {
        *self.0.body_mut() = Body::from_stream(pieces);
        self
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The code of a problem, empty where it is none.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A wait that everything has, of this length.
pub(crate) fn always(delay: std::time::Duration) -> Delay {
    Delay::always(delay..delay + std::time::Duration::from_nanos(1))
}

/// What stands in for the lane's owner: writes outputs and the ledger as a release does.
impl Fixture {
    pub(crate) async fn append(&self, to: &TopicPartition, build: impl FnOnce(&mut BatchBuilder)) {
        let mut builder = BatchBuilder::default();
        build(&mut builder);
        let ack = self.log.append(to, builder.finish()).await.expect("the log takes it");
        ack.await.expect("the log acknowledges it");
    }

    /// An output of lane 0, or of any.
    pub(crate) async fn output(
        &self,
        destination: &str,
        source: Source,
        sequence: u64,
        value: &str,
        content_type: &str,
    ) {
        let to = self.topics.destinations[destination].partition(source.lane);
        let provenance = OutputHeaders { source, output: 0, group: 0, sequence: Sequence(sequence), epoch: Epoch(1) };
        self.append(&to, |batch| {
            batch.push(Some(b"k"), Some(value.as_bytes()), |h| {
                provenance.encode(h);
                h.put(Name::ContentType, content_type.as_bytes());
            });
        })
        .await;
    }

    /// A commit of the owner of lane 0.
    pub(crate) async fn own(&self, lane: LaneCursor) {
        let cursor = encode(&OwnerCursor { lanes: [(0, lane)].into(), ..OwnerCursor::default() });
        let cursors = self.topics.cursors_resequence.partition(Partition(0));
        self.append(&cursors, |batch| batch.push(Some(b"resequence"), Some(&cursor), |_| {})).await;
    }

    /// What a worker says of the record at this offset, with the check that proves it read it.
    pub(crate) async fn result(&self, offset: u64, status: Status, error: Option<&[u8]>) {
        let stored = &self.input(0)[usize::try_from(offset).expect("it is small")];
        let headers = Headers::default();
        let record =
            RecordRef::new(stored.offset, stored.timestamp, stored.key.as_deref(), stored.value.as_deref(), headers);
        let mut result = ResultHeaders::new(source(offset), check(&record), status);
        (result.error, result.attempt, result.worker) = (error, Some(2), Some(&b"w1"[..]));
        let results = self.topics.results.partition(Partition(0));
        let key = offset.to_string();
        self.append(&results, |batch| batch.push(Some(key.as_bytes()), Some(b"out"), |h| result.encode(h))).await;
    }

    pub(crate) fn ledger(&self) -> TopicPartition {
        self.topics.ledger.partition(Partition(0))
    }

    /// A release of lane 0 that says this of these offsets.
    pub(crate) async fn release(&self, frontier: u64, read_to: u64, outcomes: &[(u64, Outcome)]) {
        let mut record = LedgerRecord { frontier, read_to, entries: Vec::new() };
        for (offset, outcome) in outcomes {
            record.push(*offset, outcome.clone(), None);
        }
        let value = encode(&record);
        self.append(&self.ledger(), |batch| batch.push(None, Some(&value), |_| {})).await;
    }
}

pub(crate) fn get(uri: &str) -> Call {
    post("").method("GET").uri(uri)
}

pub(crate) fn source(offset: u64) -> Source {
    Source { lane: Partition(0), offset: Offset(offset) }
}

pub(crate) fn sent(destination: &str, sequence: u64) -> Outcome {
    Outcome::Sent(vec![(destination.to_owned(), sequence)])
}
