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

/// How long messages are worked on: a time, or `0ms..5ms` for one between two, drawn for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Work {
    least: Duration,
    most: Duration,
}

impl Work {
    /// The longest.
    pub(in crate::cli) const fn most(self) -> Duration {
        self.most
    }

    fn draw(self, rng: &mut fastrand::Rng) -> Duration {
        if self.least == self.most { self.most } else { self.least + (self.most - self.least).mul_f64(rng.f64()) }
    }
}

impl From<Duration> for Work {
    fn from(work: Duration) -> Self {
        Self { least: work, most: work }
    }
}

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let time = |text| humantime::parse_duration(text).ok();
        let times = time(least).zip(time(most)).filter(|(least, most)| least <= most);
        let (least, most) =
            times.ok_or_else(|| format!("\"{text}\" is no work: write a time, 750ms, or two, 0ms..5ms"))?;
        Ok(Self { least, most })
    }
}

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
pub(in crate::cli) fn works(work: Work, tail: Option<Tail>) -> impl Iterator<Item = Duration> {
    let mut rng = fastrand::Rng::with_seed(SEED);
    std::iter::repeat_with(move || match tail {
        Some(tail) if rng.f64() < tail.share => tail.work,
        _ => work.draw(&mut rng),
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

/// How long to work on a message; not at all on one that does not say.
pub(in crate::cli) fn work_of(body: &[u8]) -> Duration {
    let micros = body.split(|b| *b == b' ').nth(1).and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
    Duration::from_micros(micros.unwrap_or(0))
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
        assert!(body.starts_with("17 "), "{body}");
        assert_eq!(work_of(body.as_bytes()), Duration::from_millis(3));
        assert_eq!(body.len(), 100);
        assert_eq!((work_of(b"x"), work_of(b"1 x")), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn tails_are_a_share_and_the_same_each_time() {
        let tail: Tail = "0.01:1s".parse().expect("it is one");
        let take = || works(Duration::from_millis(10).into(), Some(tail)).take(10_000).collect::<Vec<_>>();
        let long = take().iter().filter(|work| **work == Duration::from_secs(1)).count();
        assert!((60..140).contains(&long), "{long}");
        assert_eq!(take(), take());
        assert!("2:1s".parse::<Tail>().is_err() && "0.1".parse::<Tail>().is_err());
    }

    #[test]
    fn work_is_a_time_or_drawn_between_two() {
        let fixed: Work = "750ms".parse().expect("it is one");
        assert!(works(fixed, None).take(10).all(|work| work == Duration::from_millis(750)));
        let drawn: Work = "1ms..5ms".parse().expect("it is one");
        let drawn: Vec<Duration> = works(drawn, None).take(10_000).collect();
        let mean = drawn.iter().sum::<Duration>() / 10_000;
        assert!(drawn.iter().all(|work| (1_000..=5_000).contains(&work.as_micros())));
        assert!((2_900..3_100).contains(&mean.as_micros()), "{mean:?}");
        assert!("5ms..1ms".parse::<Work>().is_err() && "..".parse::<Work>().is_err() && "5".parse::<Work>().is_err());
    }

    #[test]
    fn the_ideal_is_that_of_a_pool() {
        let millis = |list: &[u64]| list.iter().map(|m| Duration::from_millis(*m)).collect::<Vec<_>>();
        assert_eq!(ideal(millis(&[750; 10]).into_iter(), 5), Duration::from_millis(1_500));
        assert_eq!(ideal(millis(&[100, 10, 10, 10]).into_iter(), 2), Duration::from_millis(100));
    }
}
