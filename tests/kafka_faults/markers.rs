//! Markers that a coordinator takes for written, and that are not: what is committed hangs for good. A
//! proxy between a broker and itself has them written to partitions that do not exist, and says that
//! they do.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// What is added to the number of a partition.
const NO_PARTITION: i32 = 1_000;

/// The topics of which markers are forgotten, and how often they were.
#[derive(Default)]
pub(crate) struct Forgotten(Mutex<BTreeMap<String, u32>>);

impl Forgotten {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.0.lock().expect("nobody panics with it")
    }

    pub(crate) fn add(&self, topic: &str) {
        self.lock().insert(topic.to_owned(), 0);
    }

    pub(crate) fn times(&self, topic: &str) -> u32 {
        self.lock().get(topic).copied().unwrap_or(0)
    }

    pub(crate) fn remove(&self, topic: &str) {
        self.lock().remove(topic);
    }

    /// Leads the markers of a `WriteTxnMarkers` request astray; says whose.
    pub(crate) fn lead_astray(&self, request: &mut [u8]) -> Vec<String> {
        let mut astray = Vec::new();
        for (topic, times) in self.lock().iter_mut() {
            let partitions = partitions_of(request, topic);
            if !partitions.is_empty() {
                *times += 1;
                astray.push(topic.clone());
            }
            for (first, count) in partitions {
                for at in (0..count).map(|index| first + index * 4) {
                    let number = number_at(request, at) + NO_PARTITION;
                    request[at..at + 4].copy_from_slice(&number.to_be_bytes());
                }
            }
        }
        astray
    }
}

/// Has the answer say that markers of these topics were written where they were meant to be.
pub(crate) fn vouch(answer: &mut [u8], topics: &[String]) {
    for topic in topics {
        for (first, count) in partitions_of(answer, topic) {
            // A number, an error, and how many tagged fields there are: none.
            for at in (0..count).map(|index| first + index * 7) {
                let number = number_at(answer, at) - NO_PARTITION;
                answer[at..at + 4].copy_from_slice(&number.to_be_bytes());
                answer[at + 4..at + 6].copy_from_slice(&[0; 2]);
            }
        }
    }
}

/// Where the partitions of a topic begin, and how many there are, for each time that it is named. Short
/// names and few partitions have lengths of one byte, one more than they are.
fn partitions_of(frame: &[u8], topic: &str) -> Vec<(usize, usize)> {
    let named = frame.windows(topic.len()).enumerate().filter(|(_, there)| *there == topic.as_bytes());
    let named = named.filter(|(at, _)| *at > 0 && usize::from(frame[*at - 1]) == topic.len() + 1);
    let partitions = named.filter_map(|(at, _)| {
        let count = usize::from(*frame.get(at + topic.len())?);
        Some((at + topic.len() + 1, count - 1))
    });
    partitions.collect()
}

fn number_at(frame: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"))
}
