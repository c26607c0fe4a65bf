//! The start of a batch: what it may say, and what is refused.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::time::Duration;

use super::Rules;

/// When items are generated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// At most `window` are unfinished at once; refilled when half of them are done.
    #[default]
    Window,
    /// The next `window` only when all of these are done.
    Barrier,
    /// `window` every `interval`, by the clock.
    Paced,
}

/// What becomes of a batch when more items fail than are tolerated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnItemFailure {
    /// It goes on; where a tolerance is set, it fails beyond that.
    #[default]
    Continue,
    /// It generates no more items and fails.
    Stop,
    /// The item waits for an operator, who retries or discards it; the others go on.
    Hold,
}

/// Items that were uploaded to `batch-items` before the start was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// The key of their records: one upload's own, so that what another one left behind is passed over.
    pub token: String,
    /// The offset of the first.
    pub first: u64,
    /// How many there are; each record's `seriatim-batch` header, `TOKEN:INDEX:0`, numbers it.
    pub count: u64,
}

/// A request for a batch of work, as on the `batches` topic and in `POST /v1/batches`.
///
/// Items come from one of `count` (each is the template), `items` and `upload`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartProcessing {
    /// `StartProcessing`; may be left out over HTTP.
    #[serde(rename = "type", default)]
    pub kind: Kind,
    /// The batch's id: 1 to 128 letters, digits, `.`, `_` and `-`. Over HTTP one is made up where it is missing.
    #[serde(default)]
    pub id: String,
    /// How many items to make from the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// What each of `count` items is; `null` where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Box<RawValue>>,
    /// The items themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<Box<RawValue>>>,
    /// Items uploaded before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<Upload>,
    /// See [`Mode`].
    #[serde(default)]
    pub mode: Mode,
    /// See [`Rules::window`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Of mode `paced`, such as `"1s"`.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// Whether items leave in index order among themselves; else each stands alone.
    #[serde(default)]
    pub ordered: bool,
    /// See [`OnItemFailure`].
    #[serde(default)]
    pub on_item_failure: OnItemFailure,
    /// How many items may fail without consequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerated_failure_count: Option<u64>,
    /// The same as a share of all, 0 to 100. Where both are given, the lower bound counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerated_failure_percentage: Option<f64>,
    /// How long an item may take from its generation.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub item_timeout: Option<Duration>,
    /// How long the batch may take from its start.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// Asks for a final work item, whose `item` this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<Box<RawValue>>,
    /// The request that it came from, where that had an `Idempotency-Key`; set by the ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
}

/// A request under a key, by which its retry is told from another request. Digests in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Of the principal and the key.
    pub identity: String,
    /// Of what was sent.
    pub fingerprint: String,
}

impl Request {
    /// The digits of each.
    pub const DIGITS: usize = 32;
}

/// The `type` of a start, which can only be that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The word of the pattern.
    #[default]
    StartProcessing,
}

/// The items of a start.
#[derive(Clone, Debug)]
pub enum Items {
    /// So many of the template, as JSON.
    Template(u64, String),
    /// These, as JSON.
    Listed(Vec<String>),
    /// Those uploaded.
    Uploaded(Upload),
}

/// What a start leaves open.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// The window.
    pub window: u32,
    /// See [`Rules::stall_after`].
    pub stall_after: Duration,
}

/// Why a start is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refused {
    /// The id.
    #[error("`id` has to be 1 to 128 letters, digits, `.`, `_` and `-`")]
    Id,
    /// Not one source of items, but none or several.
    #[error("give the items as one of `count`, `items` and an upload")]
    Source,
    /// Nothing to do.
    #[error("a batch needs at least one item")]
    Empty,
    /// Too much.
    #[error("a batch has at most {} items", StartProcessing::MOST_ITEMS)]
    TooMany,
    /// A template without a count.
    #[error("`template` goes with `count`")]
    Template,
    /// The window.
    #[error("`window` is {0}; it has to be 1 to {most}", most = StartProcessing::LARGEST_WINDOW)]
    Window(u64),
    /// `paced` needs an interval, the other modes have none.
    #[error("`interval` goes with mode `paced`, which needs one above zero")]
    Interval,
    /// The percentage.
    #[error("`toleratedFailurePercentage` is {0}; it has to be 0 to 100")]
    Percentage(f64),
    /// A request that no ingress wrote.
    #[error("`request` is not for those who start a batch")]
    Request,
    /// A time of zero.
    #[error("`{0}` has to be longer than zero")]
    Zero(&'static str),
}

impl StartProcessing {
    /// The most items of a batch: far above what anyone has time for, far below where sums overflow.
    pub const MOST_ITEMS: u64 = 1_000_000_000_000;

    /// The largest window, so that a batch's state fits its record and the lane's window many times.
    pub const LARGEST_WINDOW: u32 = 10_000;

    /// Whether this may be started, and how it is to be run.
    ///
    /// # Errors
    ///
    /// [`Refused`], with what is wrong and what is allowed.
    pub fn rules(&self, defaults: Defaults) -> Result<Rules, Refused> {
        if !is_id(&self.id) {
            return Err(Refused::Id);
        }
        self.total()?;
        let is_digest = |text: &String| text.len() == Request::DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
        if self.request.as_ref().is_some_and(|r| ![&r.identity, &r.fingerprint].into_iter().all(is_digest)) {
            return Err(Refused::Request);
        }
        if self.template.is_some() && self.count.is_none() {
            return Err(Refused::Template);
        }
        let window = check_window(self.window.unwrap_or(defaults.window.into()))?;
        let interval = match (self.mode, self.interval) {
            (Mode::Paced, Some(interval)) if millis(interval) > 0 => millis(interval),
            (Mode::Window | Mode::Barrier, None) => 0,
            _ => return Err(Refused::Interval),
        };
        check_percentage(self.tolerated_failure_percentage)?;
        Ok(Rules {
            mode: self.mode,
            window,
            interval,
            ordered: self.ordered,
            on_failure: self.on_item_failure,
            tolerated_count: self.tolerated_failure_count,
            tolerated_percentage: self.tolerated_failure_percentage,
            item_timeout: positive("itemTimeout", self.item_timeout)?,
            deadline: positive("deadline", self.deadline)?,
            stall_after: millis(defaults.stall_after),
            completion: self.completion.is_some(),
        })
    }

    /// How many items it has.
    ///
    /// # Errors
    ///
    /// [`Refused`], where that is not 1 to [`StartProcessing::MOST_ITEMS`], or not said once.
    pub fn total(&self) -> Result<u64, Refused> {
        let total = match (self.count, &self.items, &self.upload) {
            (Some(count), None, None) => count,
            (None, Some(items), None) => items.len() as u64,
            (None, None, Some(upload)) => upload.count,
            _ => return Err(Refused::Source),
        };
        match total {
            0 => Err(Refused::Empty),
            1..=Self::MOST_ITEMS => Ok(total),
            _ => Err(Refused::TooMany),
        }
    }

    /// Where its items come from. Meaningful where [`StartProcessing::total`] is.
    #[must_use]
    pub fn source(&self) -> Items {
        match (&self.upload, &self.items) {
            (Some(upload), _) => Items::Uploaded(upload.clone()),
            (None, Some(items)) => Items::Listed(items.iter().map(|item| item.get().to_owned()).collect()),
            (None, None) => {
                let template = self.template.as_ref().map_or("null", |template| template.get());
                Items::Template(self.count.unwrap_or(0), template.to_owned())
            }
        }
    }
}

/// Whether this may be the id of a batch.
#[must_use]
pub fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// A window that may be.
pub(super) fn check_window(window: u64) -> Result<u32, Refused> {
    let fits = |window: &u32| (1..=StartProcessing::LARGEST_WINDOW).contains(window);
    u32::try_from(window).ok().filter(fits).ok_or(Refused::Window(window))
}

/// A percentage that may be.
pub(super) fn check_percentage(percentage: Option<f64>) -> Result<(), Refused> {
    match percentage {
        Some(share) if !(0.0..=100.0).contains(&share) => Err(Refused::Percentage(share)),
        _ => Ok(()),
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn positive(name: &'static str, span: Option<Duration>) -> Result<Option<u64>, Refused> {
    let span = span.map(millis);
    if span == Some(0) { Err(Refused::Zero(name)) } else { Ok(span) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults = Defaults { window: 100, stall_after: Duration::from_secs(600) };

    fn refusal(json: &str) -> String {
        match serde_json::from_str::<StartProcessing>(json) {
            Err(error) => error.to_string(),
            Ok(start) => start.rules(DEFAULTS).expect_err(json).to_string(),
        }
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let start: StartProcessing =
            serde_json::from_str(r#"{"id":"a","count":987,"template":{"b": 1.0}}"#).expect("it is right");
        let rules = start.rules(DEFAULTS).expect("it is right");
        assert_eq!((rules.window, rules.mode, rules.on_failure), (100, Mode::Window, OnItemFailure::Continue));
        assert_eq!(start.total(), Ok(987));
        let Items::Template(987, template) = start.source() else { unreachable!("it counts") };
        assert_eq!(template, r#"{"b": 1.0}"#, "items keep their bytes");
        let again = serde_json::to_string(&start).expect("plain data");
        assert!(again.starts_with(r#"{"type":"StartProcessing","id":"a","count":987"#), "{again}");
    }

    #[test]
    fn refusals_say_what_is_allowed() {
        for (json, expected) in [
            (r#"{"id":"a b","count":1}"#, "`id` has to be"),
            (r#"{"id":"a"}"#, "one of `count`, `items` and an upload"),
            (r#"{"id":"a","count":1,"items":[1]}"#, "one of `count`, `items` and an upload"),
            (r#"{"id":"a","count":0}"#, "at least one item"),
            (r#"{"id":"a","items":[]}"#, "at least one item"),
            (r#"{"id":"a","items":[1],"template":2}"#, "`template` goes with `count`"),
            (r#"{"id":"a","count":9000000000000}"#, "at most 1000000000000 items"),
            (r#"{"id":"a","count":1,"window":0}"#, "`window` is 0; it has to be 1 to 10000"),
            (r#"{"id":"a","count":1,"mode":"fast"}"#, "unknown variant `fast`, expected one of `window`"),
            (r#"{"id":"a","count":1,"mode":"paced"}"#, "`interval` goes with mode `paced`"),
            (r#"{"id":"a","count":1,"interval":"1s"}"#, "`interval` goes with mode `paced`"),
            (r#"{"id":"a","count":1,"toleratedFailurePercentage":101}"#, "0 to 100"),
            (r#"{"id":"a","count":1,"deadline":"0s"}"#, "`deadline` has to be longer than zero"),
            (r#"{"id":"a","count":1,"windows":5}"#, "unknown field `windows`"),
            (r#"{"type":"CancelProcessing","id":"a","count":1}"#, "unknown variant `CancelProcessing`"),
        ] {
            let found = refusal(json);
            assert!(found.contains(expected), "{json}: {found}");
        }
    }
}
