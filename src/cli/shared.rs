//! What several verbs need: a runtime, a progress bar, standard output that may be closed.

use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::Url;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Exit;
use crate::process::telemetry::may_colour;

/// A runtime of one thread, which is enough for a verb that mostly waits.
pub(super) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Whether what moves may be shown: standard error is a terminal, and `NO_COLOR` is not set.
pub(super) fn is_live() -> bool {
    may_colour(&io::stderr())
}

/// A bar on standard error, which draws nothing where nothing that moves may be shown. The
/// template is one of indicatif's.
pub(super) fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    let target = if is_live() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(length, target);
    bar.set_style(ProgressStyle::with_template(template).expect("templates are constants of this program"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Writes data.
pub(super) fn out(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_ref())?;
    stdout.flush()
}

/// A reader that has seen enough, as `head` has, is no failure.
pub(super) fn unless_closed(result: anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    match result {
        Err(error) if is_closed(&error) => Ok(Exit::Ok),
        other => other,
    }
}

fn is_closed(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// How often it is looked whether anybody reads.
const LOOK: Duration = Duration::from_millis(200);

/// Waits until nobody reads any more what is written there; for ever where it is no pipe or socket.
pub(super) async fn closed(output: impl AsFd) {
    loop {
        tokio::time::sleep(LOOK).await;
        // Nothing is asked for, so that only an error or a hang-up is told; without waiting.
        let mut look = [PollFd::new(&output, PollFlags::empty())];
        let told = poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok();
        if told && look[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return;
        }
    }
}

/// A path with a query, encoded.
pub(super) fn path(segments: &[&str], query: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://localhost").expect("it is one");
    url.path_segments_mut().expect("it has a host").extend(segments);
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pipe_that_nobody_reads_is_closed_and_one_that_waits_is_not() {
        let (reader, writer) = io::pipe().expect("there are pipes");
        let open = tokio::time::timeout(3 * LOOK, closed(&writer)).await;
        assert!(open.is_err(), "somebody may read yet");
        drop(reader);
        closed(&writer).await;
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(path(&["v1", "outputs", "a/b?c"], &[]), "/v1/outputs/a%2Fb%3Fc");
        assert_eq!(path(&["v1", "verify"], &[("destination", "a&b=c")]), "/v1/verify?destination=a%26b%3Dc");
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_other_errors_are() {
        let broken: anyhow::Result<Exit> = Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        assert_eq!(unless_closed(broken).expect("it is none"), Exit::Ok);
        let other: anyhow::Result<Exit> = Err(io::Error::from(io::ErrorKind::NotFound).into());
        assert!(unless_closed(other).is_err());
    }
}
