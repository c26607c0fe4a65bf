//! What was sent, matched with what came out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::super::Standing;
use super::super::figures::Delays;
use super::super::report::Second;
use super::Generated;
use super::sender::key_index;
use crate::record::{Offset, Partition, Sequence, Source};

/// Outputs remembered that nobody here has sent, as far as is known: an output may be read before
/// the acknowledgement of its message, and others may send, too.
const STRANGE: usize = 65_536;

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    Accepted {
        source: Source,
        due: Instant,
        acknowledged: Instant,
    },
    /// Not accepted, or nobody knows.
    Refused(String),
    Output {
        source: Source,
        sequence: Sequence,
        key: Option<String>,
        seen: Instant,
    },
}

/// A message that has not come out.
struct Sent {
    due: Instant,
    acknowledged: Instant,
}

pub(super) struct Book {
    keys: u32,
    waiting: HashMap<Source, Sent>,
    strange: HashMap<Source, Instant>,
    oldest: VecDeque<Source>,
    /// The last sequence number of each lane.
    sequences: BTreeMap<Partition, Sequence>,
    /// The last offset of each lane and key.
    offsets: BTreeMap<(Partition, u32), Offset>,
    delay: Duration,
    /// Delays since the last entry of the series, where there is one.
    recent: Option<Delays>,
    so_far: Generated,
}

impl Book {
    pub(super) fn new(keys: u32, series: bool) -> Self {
        Self {
            keys,
            waiting: HashMap::new(),
            strange: HashMap::new(),
            oldest: VecDeque::new(),
            sequences: BTreeMap::new(),
            offsets: BTreeMap::new(),
            delay: Duration::ZERO,
            recent: series.then(Delays::default),
            so_far: Generated { in_order: true, ..Generated::default() },
        }
    }

    /// How many were accepted and have not come out.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Accepted { source, due, acknowledged } => {
                self.so_far.accepted += 1;
                self.so_far.acknowledgements.add(acknowledged - due);
                let sent = Sent { due, acknowledged };
                match self.strange.remove(&source) {
                    Some(seen) => self.settle(&sent, seen),
                    None => drop(self.waiting.insert(source, sent)),
                }
            }
            Event::Refused(why) => *self.so_far.refused.entry(why).or_default() += 1,
            Event::Output { source, sequence, key, seen } => {
                self.so_far.in_order &= self.follows(source, sequence, key.as_deref());
                match self.waiting.remove(&source) {
                    Some(sent) => self.settle(&sent, seen),
                    None => self.remember(source, seen),
                }
            }
        }
    }

    fn settle(&mut self, sent: &Sent, seen: Instant) {
        self.delay = seen - sent.due;
        self.so_far.released += 1;
        self.so_far.delays.add(self.delay);
        self.so_far.after.add(seen.saturating_duration_since(sent.acknowledged));
        if let Some(recent) = &mut self.recent {
            recent.add(self.delay);
        }
    }

    /// Whether an output comes right behind the last one of its lane, and of its key's, or of its
    /// lane's where messages have no keys, behind all that arrived before it.
    fn follows(&mut self, source: Source, sequence: Sequence, key: Option<&str>) -> bool {
        let last = self.sequences.insert(source.lane, sequence);
        let contiguous = last.is_none_or(|last| last.0 + 1 == sequence.0);
        let group = match key {
            None if self.keys == 0 => Some(0),
            _ => key.and_then(key_index).filter(|index| *index < self.keys),
        };
        let Some(group) = group else { return contiguous };
        let last = self.offsets.insert((source.lane, group), source.offset);
        contiguous && last.is_none_or(|last| last <= source.offset)
    }

    fn remember(&mut self, source: Source, seen: Instant) {
        self.strange.insert(source, seen);
        self.oldest.push_back(source);
        if self.oldest.len() > STRANGE
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.strange.remove(&oldest);
        }
    }

    /// How it stands, and where a second has passed an entry of the series.
    pub(super) fn standing(&mut self, elapsed: Duration, sent: u64) -> Standing {
        let Generated { released, accepted, refused, series, .. } = &mut self.so_far;
        let seconds = elapsed.as_secs_f64();
        if let Some(recent) = &mut self.recent
            && series.last().is_none_or(|last| seconds >= last.seconds + 1.0)
        {
            let (delay, refused) = (std::mem::take(recent).quantiles(), refused.values().sum());
            series.push(Second { seconds, out: *released, accepted: Some(*accepted), refused: Some(refused), delay });
        }
        Standing { elapsed, sent, released: *released, delay: self.delay, ..Standing::default() }
    }

    /// Everything, after so long.
    pub(super) fn close(self, total: Duration, missing: u64) -> Generated {
        Generated { total, missing, ..self.so_far }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sender::key;
    use super::*;

    fn source(lane: u32, offset: u64) -> Source {
        Source { lane: Partition(lane), offset: Offset(offset) }
    }

    fn output(at: Instant, lane: u32, offset: u64, sequence: u64, key: Option<u32>) -> Event {
        let (sequence, key) = (Sequence(sequence), key.map(super::super::sender::key));
        Event::Output { source: source(lane, offset), sequence, key, seen: at }
    }

    #[tokio::test(start_paused = true)]
    async fn outputs_find_their_messages_whichever_is_known_first() {
        let at = Instant::now();
        let ms = |ms| at + Duration::from_millis(ms);
        let mut book = Book::new(0, true);
        book.take(Event::Accepted { source: source(0, 4), due: ms(0), acknowledged: ms(2) });
        book.take(output(ms(10), 0, 4, 7, None));
        book.take(output(ms(11), 0, 5, 8, None));
        book.take(Event::Accepted { source: source(0, 5), due: ms(1), acknowledged: ms(13) });
        book.take(Event::Accepted { source: source(0, 6), due: ms(1), acknowledged: ms(13) });
        book.take(Event::Refused("429 overloaded".to_owned()));
        assert_eq!((book.waiting(), book.standing(ms(20) - at, 4).released), (1, 2));
        let Generated { accepted, released, missing, refused, delays, after, in_order, series, .. } =
            book.close(ms(20) - at, 1);
        assert_eq!((accepted, released, missing, in_order), (3, 2, 1, true));
        assert_eq!(refused, BTreeMap::from([("429 overloaded".to_owned(), 1)]));
        let (delays, after) = (delays.quantiles().expect("two"), after.quantiles().expect("two"));
        assert_eq!((delays.p50, delays.max, after.p50, after.max), (10.0, 10.0, 0.0, 8.0));
        assert_eq!((series[0].out, series[0].accepted, series[0].refused), (2, Some(3), Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn order_is_that_of_a_lane_or_of_its_keys_and_gaps_break_it() {
        let at = Instant::now();
        let in_order = |keys, outputs: &[(u32, u64, u64, Option<u32>)]| {
            let mut book = Book::new(keys, false);
            for (lane, offset, sequence, key) in outputs {
                book.take(output(at, *lane, *offset, *sequence, *key));
            }
            book.close(Duration::ZERO, 0).in_order
        };
        assert!(in_order(0, &[(0, 1, 0, None), (1, 0, 5, None), (0, 1, 1, None), (0, 3, 2, None)]));
        assert!(!in_order(0, &[(0, 3, 0, None), (0, 1, 1, None)]), "an earlier message behind a later one");
        assert!(!in_order(0, &[(0, 1, 0, None), (0, 2, 2, None)]), "a sequence number is missing");
        assert!(in_order(2, &[(0, 3, 0, Some(0)), (0, 1, 1, Some(1)), (0, 2, 2, None)]), "keys go their own ways");
        assert!(!in_order(2, &[(0, 3, 0, Some(1)), (0, 1, 1, Some(1))]));
        assert_eq!(key_index(&key(17)), Some(17));
    }

    #[tokio::test(start_paused = true)]
    async fn outputs_of_others_are_not_remembered_for_ever() {
        let at = Instant::now();
        let mut book = Book::new(0, false);
        for number in 0..2 * STRANGE as u64 {
            book.take(output(at, 0, number, number, None));
        }
        assert_eq!((book.strange.len(), book.oldest.len()), (STRANGE, STRANGE));
    }
}
