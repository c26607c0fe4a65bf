//! No more than so many in a time.

use std::num::NonZeroU32;
use std::time::Duration;

/// How much earlier than its turn a call may go: as coarse as timers are. Without it a pace of
/// thousands a second would be held to one call a tick of the clock.
const SLACK: Duration = Duration::from_millis(10);

/// Spaces calls out evenly. Pure: `now` is the time since an origin that the caller chose, and
/// never goes back.
///
/// In any time `t` it lets no more go than `t` and 10 ms have room for, and one: what was not
/// used is not saved up, so that a receiver never gets a burst after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    each: Duration,
    /// When the next is due.
    due: Duration,
}

impl Pace {
    /// So many in this time.
    #[must_use]
    pub fn new(count: NonZeroU32, per: Duration) -> Self {
        // A nanosecond at least: for a pace beyond all measure.
        Self { each: (per / count.get()).max(Duration::from_nanos(1)), due: Duration::ZERO }
    }

    /// Before when none may go.
    #[must_use]
    pub const fn not_before(&self) -> Duration {
        self.due.saturating_sub(SLACK)
    }

    /// So many go now.
    pub fn take(&mut self, now: Duration, count: u32) {
        self.due = self.due.max(now).saturating_add(self.each.saturating_mul(count));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However a caller who asks comes and goes.
        #[test]
        fn no_span_of_time_holds_more_than_it_may(
            count in 1_u32..5_000,
            per in 1_u64..10_000,
            pauses in proptest::collection::vec(0_u64..200, 1..300),
        ) {
            let count = NonZeroU32::new(count).expect("at least 1");
            let per = Duration::from_millis(per);
            let mut pace = Pace::new(count, per);
            let (mut now, mut gone) = (Duration::ZERO, Vec::new());
            for pause in pauses {
                now += Duration::from_millis(pause);
                if now >= pace.not_before() {
                    pace.take(now, 1);
                    gone.push(now);
                }
            }
            let each = per / count.get();
            for (i, first) in gone.iter().enumerate() {
                for (j, last) in gone.iter().enumerate().skip(i) {
                    let room = (*last - *first + SLACK).as_nanos() / each.as_nanos().max(1) + 2;
                    prop_assert!(((j - i + 1) as u128) <= room);
                }
            }
        }
    }

    #[test]
    fn who_never_pauses_gets_the_whole_of_it() {
        let mut pace = Pace::new(NonZeroU32::new(4_000).expect("not 0"), Duration::from_secs(1));
        let (mut now, mut gone) = (Duration::ZERO, 0);
        while now < Duration::from_secs(1) {
            while pace.not_before() <= now {
                pace.take(now, 1);
                gone += 1;
            }
            now += Duration::from_millis(1);
        }
        assert!((4_000..=4_041).contains(&gone), "{gone}");
    }
}
