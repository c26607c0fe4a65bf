//! Messages that say how long to work on them, and the workers that do.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::work::{Answer, Failure, Job, Output, Processor};

/// So that every run of a comparison has the same stragglers in the same places.
const SEED: u64 = 0x5e71_a71a;

/// A share of the messages that takes longer: `0.01:1s`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::cli) struct Tail {
    share: f64,
    work: Duration,
}

impl Tail {
    /// How long those take.
    pub(in crate::cli) const fn work(self) -> Duration {
        self.work
    }
}

impl FromStr for Tail {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let reason = || format!("\"{text}\" is no tail: write SHARE:TIME, as in 0.01:1s");
        let (share, work) = text.split_once(':').ok_or_else(reason)?;
        let share = share.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(reason)?;
        Ok(Self { share, work: humantime::parse_duration(work).map_err(|_| reason())? })
    }
}

/// The work of each message, in order.
pub(in crate::cli) fn works(work: Duration, tail: Option<Tail>) -> impl Iterator<Item = Duration> {
    let mut rng = fastrand::Rng::with_seed(SEED);
    std::iter::repeat_with(move || match tail {
        Some(tail) if rng.f64() < tail.share => tail.work,
        _ => work,
    })
}

/// The least time in which a pool of so many can do this work, each message begun in turn.
pub(in crate::cli) fn ideal(works: impl Iterator<Item = Duration>, concurrency: usize) -> Duration {
    let mut free: BinaryHeap<Reverse<Duration>> = std::iter::repeat_n(Reverse(Duration::ZERO), concurrency).collect();
    let mut end = Duration::ZERO;
    for work in works {
        let Reverse(start) = free.pop().unwrap_or_default();
        end = end.max(start + work);
        free.push(Reverse(start + work));
    }
    end
}

/// A body of at least `size` bytes: `NUMBER MICROSECONDS ....`.
pub(in crate::cli) fn body(number: u64, work: Duration, size: usize) -> String {
    let head = format!("{number} {} ", work.as_micros());
    format!("{head:.<size$}")
}

/// The number of a message.
pub(in crate::cli) fn number_of(body: &[u8]) -> Option<usize> {
    word(body, 0)
}

/// How long to work on a message; not at all on one that does not say.
pub(in crate::cli) fn work_of(body: &[u8]) -> Duration {
    Duration::from_micros(word(body, 1).unwrap_or(0))
}

fn word<T: FromStr>(body: &[u8], index: usize) -> Option<T> {
    std::str::from_utf8(body.split(|b| *b == b' ').nth(index)?).ok()?.parse().ok()
}

/// Works as the messages say, in this process, and counts.
#[derive(Debug, Default)]
pub(in crate::cli) struct Timed {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Timed {
    /// Messages being worked on, and those that are done.
    pub(in crate::cli) fn counts(&self) -> (u64, u64) {
        // In this order: what is done was begun.
        let done = self.done.load(Ordering::Relaxed);
        (self.begun.load(Ordering::Relaxed).saturating_sub(done), done)
    }
}

impl Processor for Timed {
    fn process(&self, job: Job) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move {
            self.begun.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(work_of(job.body())).await;
            self.done.fetch_add(1, Ordering::Relaxed);
            Ok(Answer::One(Output::new(job.shared_body())))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_say_number_and_work() {
        let body = body(17, Duration::from_millis(3), 100);
        assert_eq!((number_of(body.as_bytes()), work_of(body.as_bytes())), (Some(17), Duration::from_millis(3)));
        assert_eq!(body.len(), 100);
        assert_eq!((number_of(b"x"), work_of(b"")), (None, Duration::ZERO));
    }

    #[test]
    fn tails_are_a_share_and_the_same_each_time() {
        let tail: Tail = "0.01:1s".parse().expect("it is one");
        let take = || works(Duration::from_millis(10), Some(tail)).take(10_000).collect::<Vec<_>>();
        let long = take().iter().filter(|work| **work == Duration::from_secs(1)).count();
        assert!((60..140).contains(&long), "{long}");
        assert_eq!(take(), take());
        assert!("2:1s".parse::<Tail>().is_err() && "0.1".parse::<Tail>().is_err());
    }

    #[test]
    fn the_ideal_is_that_of_a_pool() {
        let millis = |list: &[u64]| list.iter().map(|m| Duration::from_millis(*m)).collect::<Vec<_>>();
        assert_eq!(ideal(millis(&[750; 10]).into_iter(), 5), Duration::from_millis(1_500));
        assert_eq!(ideal(millis(&[100, 10, 10, 10]).into_iter(), 2), Duration::from_millis(100));
    }
}
