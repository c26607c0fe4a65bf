//! The answers to the messages of one request, in order, kept as runs and written as JSON.

use std::collections::VecDeque;
use std::fmt::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::problem::Problem;
use crate::log::Offsets;
use crate::metrics;
use crate::record::{Offset, Partition};

/// How much of the answer is written at once.
const BLOCK: usize = 64 * 1024;

/// Answers that continue one another.
#[derive(Debug)]
enum Run {
    Accepted { first: Offset, count: u64 },
    Refused { problem: Problem, count: u64 },
}

/// How the entries are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `{"results":[...]}`
    Object,
    /// One entry a line.
    Lines,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Results {
    lane: Partition,
    runs: VecDeque<Run>,
    index: u64,
}

impl Results {
    pub(super) fn new(lane: Partition) -> Self {
        Self { lane, runs: VecDeque::new(), index: 0 }
    }

    /// How many runs wait to be written.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Adds the answers to messages of which `None` took the offsets, in order.
    pub(super) fn extend(&mut self, lines: Vec<(usize, Option<Problem>)>, offsets: &Offsets) {
        let mut offsets = offsets.iter();
        for (count, problem) in lines {
            match problem {
                None => offsets.by_ref().take(count).for_each(|offset| self.accepted(offset)),
                Some(problem) => self.refused(problem, count as u64),
            }
        }
    }

    fn accepted(&mut self, offset: Offset) {
        match self.runs.back_mut() {
            Some(Run::Accepted { first, count }) if first.0 + *count == offset.0 => *count += 1,
            _ => self.runs.push_back(Run::Accepted { first: offset, count: 1 }),
        }
    }

    fn refused(&mut self, problem: Problem, more: u64) {
        metrics::ingress_refused(problem.code().as_str()).inc_by(more);
        match self.runs.back_mut() {
            Some(Run::Refused { problem: last, count }) if *last == problem => *count += more,
            _ => self.runs.push_back(Run::Refused { problem, count: more }),
        }
    }

    /// Writes the next entries, up to a block; `None` where none wait.
    pub(super) fn block(&mut self, form: Form) -> Option<Bytes> {
        let mut block = BytesMut::with_capacity(BLOCK + 1024);
        while block.len() < BLOCK
            && let Some(run) = self.runs.front_mut()
        {
            if self.index > 0 && form == Form::Object {
                block.put_u8(b',');
            }
            let left = match run {
                Run::Accepted { first, count } => {
                    accepted_entry(&mut block, self.index, self.lane, *first);
                    *first = first.next();
                    count
                }
                Run::Refused { problem, count } => {
                    refused_entry(&mut block, self.index, problem);
                    count
                }
            };
            *left -= 1;
            if *left == 0 {
                self.runs.pop_front();
            }
            self.index += 1;
            if form == Form::Lines {
                block.put_u8(b'\n');
            }
        }
        (!block.is_empty()).then(|| block.freeze())
    }
}

fn accepted_entry(to: &mut BytesMut, index: u64, lane: Partition, offset: Offset) {
    write!(to, r#"{{"index":{index},"status":202,"id":"{lane}-{offset}","lane":{lane},"offset":{offset}}}"#)
        .expect("a growing buffer takes everything");
}

fn refused_entry(to: &mut BytesMut, index: u64, problem: &Problem) {
    let status = problem.status().as_u16();
    let problem = serde_json::to_string(problem).expect("plain data always serializes");
    write!(to, r#"{{"index":{index},"status":{status},"problem":{problem}}}"#)
        .expect("a growing buffer takes everything");
}

/// Whether these bytes are one JSON value.
///
/// # Errors
///
/// What is wrong with them, and where.
pub(super) fn check_json(text: &[u8]) -> Result<(), String> {
    let text =
        std::str::from_utf8(text).map_err(|e| format!("it is not UTF-8 from byte {} on", e.valid_up_to() + 1))?;
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}
