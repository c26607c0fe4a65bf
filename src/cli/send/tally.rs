//! What became of each message, told as it is known.

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use super::super::Exit;
use super::super::shared::out;

/// What a process says of a message, or this program in its place.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Entry {
    /// The line's number, from 1.
    #[serde(default)]
    pub(super) line: u64,
    pub(super) status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<Problem>,
}

/// Why it was not accepted.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Problem {
    pub(super) code: String,
    pub(super) detail: String,
    /// Whether the same may be taken later.
    #[serde(default, skip_serializing)]
    pub(super) retryable: bool,
}

/// The code of what is too large to be a message, as processes have it.
pub(super) const TOO_LARGE: &str = "body-too-large";

/// Codes for which nobody knows whether the message was written.
const UNKNOWN: [&str; 2] = ["outcome-unknown", "no-answer"];

impl Entry {
    pub(super) const fn accepted(line: u64, id: String) -> Self {
        Self { line, status: 202, id: Some(id), problem: None }
    }

    pub(super) fn refused(line: u64, status: u16, code: &str, detail: impl Into<String>) -> Self {
        let problem = Problem { code: code.to_owned(), detail: detail.into(), retryable: false };
        Self { line, status, id: None, problem: Some(problem) }
    }

    /// The process takes nothing at present, this one included.
    pub(super) fn is_for_later(&self) -> bool {
        matches!(self.status, 429 | 503) && self.problem.as_ref().is_some_and(|problem| problem.retryable)
    }

    /// The process did not answer for it.
    pub(super) fn unanswered(line: u64, detail: impl Into<String>) -> Self {
        Self::refused(line, 504, UNKNOWN[1], detail)
    }
}

/// Counts, and tells.
pub(super) struct Tally {
    json: bool,
    bar: ProgressBar,
    accepted: u64,
    refused: u64,
    unknown: u64,
    first: Option<String>,
    last: Option<String>,
}

impl Tally {
    pub(super) const fn new(json: bool, bar: ProgressBar) -> Self {
        Self { json, bar, accepted: 0, refused: 0, unknown: 0, first: None, last: None }
    }

    /// Takes what became of the next message.
    pub(super) fn add(&mut self, entry: Entry) -> std::io::Result<()> {
        match &entry.problem {
            None => self.accepted += 1,
            Some(problem) if UNKNOWN.contains(&problem.code.as_str()) => self.unknown += 1,
            Some(_) => self.refused += 1,
        }
        if self.json {
            let json = serde_json::to_string(&entry).expect("plain data always serializes");
            return self.bar.suspend(|| out(json + "\n"));
        }
        if let Some(problem) = &entry.problem {
            self.bar.suspend(|| eprintln!("line {}: {} ({})", entry.line, problem.detail, problem.code));
        }
        if let Some(id) = entry.id {
            self.first.get_or_insert_with(|| id.clone());
            self.last = Some(id);
        }
        Ok(())
    }

    /// Takes that many messages were refused for the same reason, told in one line, or as JSON as any.
    pub(super) fn add_all(&mut self, entries: impl Iterator<Item = Entry>, told: &str) -> std::io::Result<()> {
        if !self.json {
            self.refused += entries.count() as u64;
            self.warn(told);
            return Ok(());
        }
        entries.into_iter().try_for_each(|entry| self.add(entry))
    }

    /// The bar, for an input that is read once more.
    pub(super) fn rewound(&self) -> ProgressBar {
        self.bar.set_position(0);
        self.bar.clone()
    }

    /// Says how it goes, while that is not what is hoped for.
    pub(super) fn warn(&self, text: &str) {
        self.bar.suspend(|| eprintln!("seriatim: {text}"));
    }

    /// The summary, and how the verb ends.
    pub(super) fn finish(self) -> anyhow::Result<Exit> {
        if !self.json {
            out(self.summary() + "\n")?;
        }
        Ok(match (self.unknown, self.refused, self.accepted) {
            (1.., _, _) => Exit::TimedOut,
            (0, 0, _) => Exit::Ok,
            (0, _, 0) => Exit::Failed,
            (0, _, _) => Exit::PartlyFailed,
        })
    }

    pub(super) fn summary(&self) -> String {
        let mut text = format!("{} accepted", self.accepted);
        match (&self.first, &self.last) {
            (Some(first), Some(last)) if first != last => text.push_str(&format!(" as {first} to {last}")),
            (Some(first), _) => text.push_str(&format!(" as {first}")),
            _ => {}
        }
        for (count, words) in [(self.refused, "refused"), (self.unknown, "unknown: perhaps accepted, perhaps not")] {
            if count > 0 {
                text.push_str(&format!(", {count} {words}"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(entries: impl IntoIterator<Item = Entry>) -> (String, Exit) {
        let mut tally = Tally::new(false, ProgressBar::hidden());
        entries.into_iter().for_each(|entry| tally.add(entry).expect("nothing is written"));
        let summary = tally.summary();
        tally.json = true;
        (summary, tally.finish().expect("nothing is written"))
    }

    #[test]
    fn the_worst_that_happened_is_the_exit_code() {
        let accepted = |line| Entry::accepted(line, format!("0-{line}"));
        let refused = |line| Entry::refused(line, 400, "invalid-body", "it is no JSON");
        assert_eq!(ended([accepted(1), accepted(2)]), ("2 accepted as 0-1 to 0-2".to_owned(), Exit::Ok));
        assert_eq!(ended([accepted(1), refused(2)]), ("1 accepted as 0-1, 1 refused".to_owned(), Exit::PartlyFailed));
        assert_eq!(ended([refused(1)]), ("0 accepted, 1 refused".to_owned(), Exit::Failed));
        assert_eq!(ended([accepted(1), Entry::unanswered(2, "gone"), refused(3)]).1, Exit::TimedOut);
        assert_eq!(ended([]), ("0 accepted".to_owned(), Exit::Ok));
    }
}
