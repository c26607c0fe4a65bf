//! A batch in words.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::Exit;
use super::super::shared::out;

/// How many of the items that wait for an operator are named.
const MOST_NAMED: usize = 10;

/// Prints a batch.
pub(super) fn print(batch: &Value, json: bool) -> anyhow::Result<Exit> {
    if json {
        out(format!("{}\n", serde_json::to_string_pretty(batch)?))?;
    } else {
        out(text(batch))?;
    }
    Ok(Exit::Ok)
}

/// Prints a list of batches, a line each.
pub(super) fn list(batches: &Value, json: bool) -> anyhow::Result<Exit> {
    if json {
        return print(batches, true);
    }
    let mut lines = format!("{:<32} {:<11} {:>12} {:>12} {:>8}  started\n", "batch", "status", "done", "of", "failed");
    for batch in batches["batches"].as_array().into_iter().flatten() {
        let counts = &batch["counts"];
        let failed = number(counts, "failed") + number(counts, "timedOut");
        let (status, started) = (word(batch, "status"), word(batch, "startedAt"));
        let (id, done, total) = (word(batch, "id"), done(counts), number(counts, "total"));
        let _ = writeln!(lines, "{id:<32} {status:<11} {done:>12} {total:>12} {failed:>8}  {started}");
    }
    out(lines)?;
    Ok(Exit::Ok)
}

/// One batch, a fact a line.
pub(super) fn text(batch: &Value) -> String {
    let counts = &batch["counts"];
    let stalled = if batch["stalled"] == true { ", stalled" } else { "" };
    let mut text = format!("batch {}: {}{stalled}\n", word(batch, "id"), word(batch, "status"));
    if counts.is_null() {
        text.push_str("  its start is on the log; no owner has taken it yet\n");
        return text;
    }
    let _ = writeln!(text, "  done         {} of {}", done(counts), number(counts, "total"));
    for name in ["running", "pending", "succeeded", "failed", "timedOut", "discarded", "cancelled"] {
        if number(counts, name) > 0 {
            let _ = writeln!(text, "  {name:<12} {}", number(counts, name));
        }
    }
    for (label, name) in [("reason", "reason"), ("final item", "completion"), ("done by", "eta"), ("ended", "endedAt")]
    {
        if let Some(value) = batch[name].as_str() {
            let _ = writeln!(text, "  {label:<12} {value}");
        }
    }
    let held = batch["blockedBy"].as_array().map_or(&[][..], Vec::as_slice);
    if !held.is_empty() {
        let items: Vec<String> = held.iter().take(MOST_NAMED).map(Value::to_string).collect();
        let (s, them) = if held.len() == 1 { ("", "it") } else { ("s", "them") };
        let more = if held.len() > MOST_NAMED { " and more" } else { "" };
        let _ = writeln!(text, "  held         item{s} {}{more}: retry or discard {them}", items.join(", "));
    }
    text
}

/// How many items have ended.
pub(super) fn done(counts: &Value) -> u64 {
    number(counts, "total").saturating_sub(number(counts, "pending") + number(counts, "running"))
}

pub(super) fn number(counts: &Value, name: &str) -> u64 {
    counts[name].as_u64().unwrap_or(0)
}

pub(super) fn word<'a>(batch: &'a Value, name: &str) -> &'a str {
    batch[name].as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_batch_says_what_matters_and_leaves_out_what_is_not() {
        let counts = json!({"total": 10, "pending": 2, "running": 3, "succeeded": 4, "failed": 1, "timedOut": 0});
        let batch = json!({"id": "a", "status": "running", "stalled": true, "counts": counts, "blockedBy": [7]});
        assert_eq!(
            text(&batch),
            "batch a: running, stalled\n  done         5 of 10\n  running      3\n  pending      2\n  \
             succeeded    4\n  failed       1\n  held         item 7: retry or discard it\n"
        );
        assert!(text(&json!({"id": "a", "status": "accepted"})).contains("no owner"));
    }
}
