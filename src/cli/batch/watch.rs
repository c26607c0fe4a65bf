//! `seriatim batch watch`: a bar with rate and time left; lines where nothing that moves may be shown.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::super::client::Client;
use super::super::shared::{bar, is_live, path};
use super::super::{Exit, Failure};
use super::show;

/// How often it is asked how the batch is.
const EVERY: Duration = Duration::from_millis(500);

/// How long a process may be away, as while it is restarted, before the watch gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where nothing moves, a line is printed for so many percent more.
const STEP: u64 = 10;

#[derive(Debug, Args)]
pub(super) struct Watch {
    pub(super) id: String,
    /// Give up after this, such as 10m; the batch goes on
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) timeout: Option<Duration>,
}

impl Watch {
    pub(super) async fn watch(&self, client: &Client, json: bool) -> anyhow::Result<Exit> {
        let began = Instant::now();
        let mut progress = Progress::new();
        let mut seen = Instant::now();
        loop {
            match client.get::<Value>(&path(&["v1", "batches", &self.id], &[])).await {
                Ok(batch) => {
                    seen = Instant::now();
                    progress.show(&batch);
                    if batch["endedAt"].is_string() {
                        progress.bar.finish_and_clear();
                        show::print(&batch, json)?;
                        return Ok(exit(&batch));
                    }
                }
                Err(failure) if failure.exit == Exit::NotFound || seen.elapsed() > PATIENCE => {
                    return Err(failure.into());
                }
                Err(failure) => progress.bar.set_message(failure.message),
            }
            if self.timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                progress.bar.finish_and_clear();
                return Err(Failure::new(Exit::TimedOut, format!("batch {} has not ended yet", self.id)).into());
            }
            sleep(EVERY).await;
        }
    }
}

struct Progress {
    bar: indicatif::ProgressBar,
    began: Instant,
    /// Done at the first look, so that the rate is that of what was watched.
    first: Option<u64>,
    told: Option<u64>,
    stalled: bool,
}

impl Progress {
    fn new() -> Self {
        let bar = bar(Some(0), "{wide_bar} {human_pos}/{human_len}, {eta} left {msg}");
        Self { bar, began: Instant::now(), first: None, told: None, stalled: false }
    }

    fn show(&mut self, batch: &Value) {
        let counts = &batch["counts"];
        let (done, total) = (show::done(counts), show::number(counts, "total"));
        let first = *self.first.get_or_insert(done);
        self.bar.set_length(total);
        self.bar.set_position(done);
        let failed = show::number(counts, "failed") + show::number(counts, "timedOut");
        let running = show::number(counts, "running");
        let stalled = batch["stalled"] == true;
        let state = if stalled { "stalled" } else { show::word(batch, "status") };
        #[allow(clippy::cast_precision_loss, reason = "a rate to one digit")]
        let rate = (done - first.min(done)) as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        self.bar.set_message(format!("({rate:.1}/s, {running} out, {failed} failed, {state})"));
        let step = (total > 0).then(|| done * 100 / total / STEP);
        if !is_live() && (step != self.told || stalled != self.stalled) {
            (self.told, self.stalled) = (step, stalled);
            let eta = batch["eta"].as_str().map(|eta| format!(", done by {eta}")).unwrap_or_default();
            eprintln!("{done}/{total} done, {running} out, {failed} failed, {rate:.1}/s, {state}{eta}");
        }
    }
}

/// What the end of a batch means for who waited for it.
fn exit(batch: &Value) -> Exit {
    let counts = &batch["counts"];
    match show::word(batch, "status") {
        "completed" if show::number(counts, "succeeded") == show::number(counts, "total") => Exit::Ok,
        "completed" => Exit::PartlyFailed,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_exit_code_tells_how_it_ended() {
        for (status, succeeded, expected) in [
            ("completed", 3, Exit::Ok),
            ("completed", 2, Exit::PartlyFailed),
            ("failed", 3, Exit::Failed),
            ("cancelled", 3, Exit::Failed),
        ] {
            let batch = json!({"status": status, "counts": {"total": 3, "succeeded": succeeded}});
            assert_eq!(exit(&batch), expected);
        }
    }
}
