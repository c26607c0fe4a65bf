//! A receiver that applies each item exactly once, whatever dies on either side.
//!
//! ```sh
//! cargo run --example receiver -- applied.ndjson 127.0.0.1:9100 examples/node/secret
//! ```
//!
//! Seriatim repeats a push when it cannot know whether the last one arrived. `Marks` turns that into exactly
//! once with the numbers that come with each push. They have to become durable together with what was
//! applied: here both are one line of a file, in one write. With a database both go into one transaction.
//!
//! Nothing has to be put in order: of a sequence group one push is under way at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Sha256;

/// How old or early a signature may be, in seconds, as the Standard Webhooks guide has it.
const TOLERANCE: u64 = 300;

/// How many items this receiver takes in one request, if it is asked to.
const ITEMS: &str = "100";

/// Where an item stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Destination and lane: sequence numbers count within these.
    pub(crate) stream: String,
    /// Whose push it is: grows whenever another process takes over.
    pub(crate) epoch: u64,
    /// The item's number, contiguous.
    pub(crate) sequence: u64,
    /// Every number below it is done for good.
    pub(crate) done_below: u64,
}

/// What to do with an item.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Apply it.
    Apply,
    /// It was applied before: say yes and do nothing.
    Repeat,
    /// Its sender has been replaced while it was frozen: refuse.
    Stale,
}

/// What was applied of one stream.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    epoch: u64,
    done_below: u64,
    applied: BTreeSet<u64>,
}

impl Marks {
    /// Judges an item; changes nothing.
    pub(crate) fn judge(&self, place: &Place) -> Verdict {
        if place.epoch < self.epoch {
            Verdict::Stale
        } else if place.sequence < self.done_below || self.applied.contains(&place.sequence) {
            Verdict::Repeat
        } else {
            Verdict::Apply
        }
    }

    /// Notes an applied item. Keeps no more than what is at and above done-below.
    pub(crate) fn note(&mut self, place: &Place) {
        self.epoch = self.epoch.max(place.epoch);
        self.done_below = self.done_below.max(place.done_below);
        self.applied.insert(place.sequence);
        self.applied = self.applied.split_off(&self.done_below);
    }
}

/// An item as it is kept, with its place.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Where it stands.
    #[serde(flatten)]
    pub(crate) place: Place,
    /// What it says.
    pub(crate) body: Value,
}

/// What was applied, in a file.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    marks: BTreeMap<String, Marks>,
}

impl Journal {
    /// Opens it, and finds out what was applied. A line that a crash cut off never was.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let (mut marks, mut end) = (BTreeMap::<String, Marks>::new(), 0);
        let mut lines = BufReader::new(&mut file);
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
            let Line { place, .. } = serde_json::from_str(&line)?;
            marks.entry(place.stream.clone()).or_default().note(&place);
            end += line.len() as u64;
            line.clear();
        }
        file.set_len(end)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file, marks })
    }

    /// Applies an item, unless it was; both what it says and its place are durable afterwards.
    ///
    /// # Errors
    ///
    /// Those of the file: whether the item was applied is not known then, so that nothing may be before
    /// the journal is opened again.
    pub(crate) fn apply(&mut self, place: Place, body: Value) -> io::Result<Verdict> {
        let marks = self.marks.entry(place.stream.clone()).or_default();
        let verdict = marks.judge(&place);
        if verdict == Verdict::Apply {
            let line = Line { place, body };
            self.file.write_all(format!("{}\n", serde_json::to_string(&line)?).as_bytes())?;
            self.file.sync_data()?;
            marks.note(&line.place);
        }
        Ok(verdict)
    }
}

/// What the requests share.
#[derive(Clone)]
pub(crate) struct Receiver {
    /// One at a time judges and applies.
    journal: Arc<Mutex<Journal>>,
    secret: Arc<[u8]>,
}

impl Receiver {
    /// A receiver of pushes that this secret, `whsec_...`, has signed.
    pub(crate) fn new(journal: Journal, secret: &str) -> anyhow::Result<Self> {
        let secret = BASE64_STANDARD.decode(secret.trim().trim_start_matches("whsec_"))?;
        Ok(Self { journal: Arc::new(Mutex::new(journal)), secret: secret.into() })
    }

    /// The service.
    pub(crate) fn router(self) -> Router {
        Router::new().route("/", post(receive)).with_state(self)
    }

    /// Base64 HMAC-SHA256 over `id.timestamp.body`; one of them has to be right.
    fn is_signed(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let [id, timestamp, signatures] = ["webhook-id", "webhook-timestamp", "webhook-signature"]
            .map(|name| text(headers, name).unwrap_or_default());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let fresh = timestamp.parse::<u64>().is_ok_and(|at| at.abs_diff(now) <= TOLERANCE);
        let signed = format!("{id}.{timestamp}.");
        let right = |given: &str| {
            let given = given.strip_prefix("v1,").and_then(|given| BASE64_STANDARD.decode(given).ok());
            let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
            mac.update(signed.as_bytes());
            mac.update(body);
            given.is_some_and(|given| mac.verify_slice(&given).is_ok())
        };
        fresh && signatures.split(' ').any(right)
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    let (status, applied) = if !receiver.is_signed(&headers, &body) {
        (StatusCode::UNAUTHORIZED, 0)
    } else if headers.contains_key("seriatim-test") {
        (StatusCode::NO_CONTENT, 0)
    } else {
        // The file is written and synced: not on a thread that others wait for.
        let work = tokio::task::spawn_blocking(move || receiver.apply(&headers, &body));
        work.await.unwrap_or((StatusCode::INTERNAL_SERVER_ERROR, 0))
    };
    let told = [("seriatim-accept-items", ITEMS.to_owned()), ("seriatim-applied", applied.to_string())];
    (status, told).into_response()
}

impl Receiver {
    /// Applies what came, and says how many items of it are applied.
    fn apply(&self, headers: &HeaderMap, body: &[u8]) -> (StatusCode, usize) {
        let Some(items) = items(headers, body) else { return (StatusCode::BAD_REQUEST, 0) };
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        for (applied, (place, body)) in items.into_iter().enumerate() {
            match journal.apply(place, body) {
                Ok(Verdict::Apply | Verdict::Repeat) => {}
                Ok(Verdict::Stale) => return (StatusCode::CONFLICT, applied),
                Err(error) => {
                    // What is in the file is not known any more. A supervisor starts it anew.
                    eprintln!("the journal cannot be written: {error}");
                    std::process::abort();
                }
            }
        }
        (StatusCode::NO_CONTENT, usize::MAX)
    }
}

/// The items of a request with their places: one, or several in an array.
fn items(headers: &HeaderMap, body: &[u8]) -> Option<Vec<(Place, Value)>> {
    let number = |name| text(headers, name)?.parse().ok();
    let place = |lane: &str, sequence| {
        let stream = format!("{}/{lane}", text(headers, "seriatim-destination")?);
        let (epoch, done_below) = (number("seriatim-epoch")?, number("seriatim-done-below")?);
        Some(Place { stream, epoch, sequence, done_below })
    };
    let value = |body: &[u8]| {
        let text = || Value::String(String::from_utf8_lossy(body).into_owned());
        serde_json::from_slice(body).unwrap_or_else(|_| text())
    };
    if text(headers, "content-type") != Some("application/vnd.seriatim.items+json") {
        let (lane, _) = text(headers, "seriatim-source")?.split_once(':')?;
        return Some(vec![(place(lane, number("seriatim-sequence")?)?, value(body))]);
    }
    let lane = text(headers, "seriatim-lane")?;
    let array: Vec<Value> = serde_json::from_slice(body).ok()?;
    let item = |item: Value| {
        let body = match (&item["body"], item["bodyBase64"].as_str()) {
            (_, Some(bytes)) => value(&BASE64_STANDARD.decode(bytes).ok()?),
            (Value::String(text), None) => value(text.as_bytes()),
            (json, None) => json.clone(),
        };
        Some((place(lane, item["sequence"].as_u64()?)?, body))
    };
    array.into_iter().map(item).collect()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |otherwise: &str| arguments.next().unwrap_or_else(|| otherwise.to_owned());
    let (journal, listen) = (argument("applied.ndjson"), argument("127.0.0.1:9100"));
    let secret = tokio::fs::read_to_string(argument("examples/node/secret")).await?;
    let receiver = Receiver::new(Journal::open(journal.as_ref())?, &secret)?;
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("receiver listens at {}", listener.local_addr()?);
    Ok(axum::serve(listener, receiver.router()).await?)
}
