//! How many messages each principal may send in a time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use tokio::time::{Instant, sleep};

use super::auth::Principal;
use super::problem::{Code, Problem};

/// Principals that are kept before those are forgotten who have their whole quota again. They are
/// few; only an authority that signs without end could make them many.
const MOST_KEPT: usize = 10_000;

/// So many messages in this time, for each principal; all at once, if it likes, and then as they
/// come back, evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many.
    pub messages: NonZeroU32,
    /// In which time. Above zero.
    pub per: Duration,
}

/// What a principal has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    messages: u32,
    /// Until all of them are there again.
    reset: Duration,
}

/// Tokio's clock, so that it can stand still in tests.
#[derive(Clone, Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

type Limiter = governor::RateLimiter<Arc<str>, HashMapStateStore<Arc<str>>, TokioClock, StateInformationMiddleware>;

/// The quotas of all principals.
pub(super) struct Quotas {
    quota: Quota,
    clock: TokioClock,
    limiter: Limiter,
}

impl Quotas {
    pub(super) fn new(quota: Quota) -> Self {
        let clock = TokioClock(Instant::now());
        // A nanosecond at least: for a quota beyond all measure.
        let each = (quota.per / quota.messages.get()).max(Duration::from_nanos(1));
        let rate = governor::Quota::with_period(each).expect("it is above zero").allow_burst(quota.messages);
        let limiter = governor::RateLimiter::hashmap_with_clock(rate, clock.clone()).with_middleware();
        Self { quota, clock, limiter }
    }

    /// Takes so many messages off a principal's quota, or none; and what is left of it.
    ///
    /// # Errors
    ///
    /// [`Code::QuotaExceeded`] with the time until there are enough again; [`Code::BodyTooLarge`]
    /// where there never will be.
    pub(super) fn take(&self, principal: &Principal, count: NonZeroU32) -> (Left, Result<(), Problem>) {
        if self.limiter.len() > MOST_KEPT {
            self.limiter.retain_recent();
        }
        match self.limiter.check_key_n(&principal.0, count) {
            Ok(Ok(state)) => (self.left(state.remaining_burst_capacity()), Ok(())),
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(self.clock.now());
                (Left { messages: 0, reset: wait }, Err(self.exceeded(wait)))
            }
            Err(_) => {
                let detail = format!("{count} messages at once are more than the quota of {}", self.quota.messages);
                (self.left(0), Err(Problem::new(Code::BodyTooLarge, detail)))
            }
        }
    }

    /// Takes so many messages off a principal's quota as it comes back. Dropped, it has taken some.
    pub(super) async fn wait(&self, principal: &Principal, mut count: u32) {
        while let Some(next) = NonZeroU32::new(count.min(self.quota.messages.get())) {
            match self.limiter.check_key_n(&principal.0, next) {
                Ok(Err(not_until)) => sleep(not_until.wait_time_from(self.clock.now())).await,
                // No more than the quota was asked for.
                Ok(Ok(_)) | Err(_) => count -= next.get(),
            }
        }
    }

    fn left(&self, messages: u32) -> Left {
        let used = self.quota.messages.get().saturating_sub(messages);
        Left { messages, reset: (self.quota.per / self.quota.messages.get()).saturating_mul(used) }
    }

    fn exceeded(&self, wait: Duration) -> Problem {
        let Quota { messages, per } = self.quota;
        let detail = format!("the quota is {messages} messages in {}", humantime::format_duration(per));
        let violated = serde_json::json!(["messages"]);
        Problem::new(Code::QuotaExceeded, detail).with("violated-policies", violated).with_retry_after(wait)
    }

    /// Says in the headers of an answer what the quota is, and what is left of it.
    pub(super) fn show(&self, left: Left, headers: &mut HeaderMap) {
        let Quota { messages, per } = self.quota;
        let policy = format!(r#""messages";q={messages};w={}"#, seconds(per));
        let state = format!(r#""messages";r={};t={}"#, left.messages, seconds(left.reset));
        for (name, text) in [("ratelimit-policy", policy), ("ratelimit", state)] {
            headers.insert(HeaderName::from_static(name), HeaderValue::try_from(text).expect("digits are ASCII"));
        }
    }
}

/// What the messages of one request take of the sender's quota, where there is one.
pub(super) struct Meter<'a> {
    quotas: Option<&'a Quotas>,
    principal: &'a Principal,
    left: Option<Left>,
}

impl<'a> Meter<'a> {
    pub(super) const fn new(quotas: Option<&'a Quotas>, principal: &'a Principal) -> Self {
        Self { quotas, principal, left: None }
    }

    /// As [`Quotas::take`]; remembers what is left.
    pub(super) fn take(&mut self, count: usize) -> Result<(), Problem> {
        let count = NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX));
        let (Some(quotas), Some(count)) = (self.quotas, count) else { return Ok(()) };
        let (left, taken) = quotas.take(self.principal, count);
        self.left = Some(left);
        taken
    }

    /// As [`Quotas::show`], where something was taken or should have been.
    pub(super) fn show(&self, headers: &mut HeaderMap) {
        if let (Some(quotas), Some(left)) = (self.quotas, self.left) {
            quotas.show(left, headers);
        }
    }
}

/// Whole seconds, rounded up, so that who waits them has waited long enough.
pub(super) fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(messages: u32, seconds: u64) -> Quotas {
        let messages = NonZeroU32::new(messages).expect("above zero");
        Quotas::new(Quota { messages, per: Duration::from_secs(seconds) })
    }

    #[tokio::test(start_paused = true)]
    async fn each_principal_has_its_own_and_gets_it_back_evenly() {
        let quotas = quotas(10, 20);
        let (alice, bob) = (Principal::named("alice"), Principal::named("bob"));
        let take = |who: &Principal, count| {
            let (left, taken) = quotas.take(who, NonZeroU32::new(count).expect("above zero"));
            (left.messages, left.reset.as_secs(), taken.err().map(|problem| problem.code()))
        };
        assert_eq!(take(&alice, 4), (6, 8, None));
        assert_eq!(take(&alice, 6), (0, 20, None));
        assert_eq!(take(&alice, 3), (0, 6, Some(Code::QuotaExceeded)));
        assert_eq!(take(&bob, 10), (0, 20, None), "he has sent nothing");
        sleep(Duration::from_secs(6)).await;
        assert_eq!(take(&alice, 3), (0, 20, None), "three came back");
        assert_eq!(take(&alice, 1).2, Some(Code::QuotaExceeded), "and no more");
        assert_eq!(take(&bob, 11).2, Some(Code::BodyTooLarge), "it never fits");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_what_comes_back() {
        let (quotas, who) = (quotas(10, 10), Principal::anonymous());
        let began = Instant::now();
        quotas.wait(&who, 25).await;
        assert_eq!(began.elapsed().as_secs(), 15, "10 at once, 15 more as they come back");
    }
}
