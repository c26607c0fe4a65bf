//! Waiting, at the start of a process, for a log that does not answer yet.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::Error;
use super::config::Config;
use crate::log;

/// How long a process that starts goes on asking Kafka. Of several brokers one may be dead or frozen, which the others
/// notice after 9 s, and clients after the 10 s of their `socket.timeout.ms`. The admin port answers meanwhile, so no
/// probe ends it; after it the process ends by itself with what it was told, and supervisors count that.
const WITHIN: Duration = Duration::from_secs(45);

/// Between two questions. One that nobody answers takes its time by itself.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks until there is an answer, and says once that there is none yet. A folder is asked once: there is nobody who
/// could come back.
///
/// # Errors
///
/// That of the last question; at once where it is another than [`log::Error::Unavailable`].
pub(super) async fn ask<T>(config: &Config, question: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
    let within = if config.log.folder().is_none() { WITHIN } else { Duration::ZERO };
    let began = Instant::now();
    let mut said = false;
    loop {
        let reason = match question().await {
            Err(Error::Log(log::Error::Unavailable(reason))) => reason,
            other => return other,
        };
        let asked = began.elapsed();
        if asked + PAUSE >= within {
            let reason = if said { format!("{reason} (asked for {} s)", asked.as_secs()) } else { reason };
            return Err(log::Error::Unavailable(reason).into());
        }
        if !std::mem::replace(&mut said, true) {
            warn!(reason, ?within, "the log does not answer yet, asking again");
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn kafka() -> Config {
        Config::parse("log.kafka = { 'bootstrap.servers' = 'k:9092' }", []).expect("the parser takes it")
    }

    /// Nobody answers before then; every question takes 5 s until they do.
    async fn away(until: Instant) -> Result<(), Error> {
        if Instant::now() >= until {
            return Ok(());
        }
        sleep(Duration::from_secs(5)).await;
        Err(log::Error::Unavailable("nobody is there".to_owned()).into())
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_is_waited_for_and_who_does_not_is_named() {
        let begun = Instant::now();
        ask(&kafka(), async || away(begun + Duration::from_secs(20)).await).await.expect("it has come back");
        let begun = Instant::now();
        let error = ask(&kafka(), async || away(begun + Duration::from_secs(1_000)).await).await;
        assert_eq!(error.expect_err("it has not").to_string(), "nobody is there (asked for 49 s)");
        assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_and_what_a_folder_says_is_told_at_once() {
        let asked = Cell::new(0);
        let fails = async |error: log::Error| {
            asked.set(asked.get() + 1);
            Err::<(), Error>(error.into())
        };
        let wrong = || log::Error::Damaged("a property is wrong".to_owned());
        ask(&kafka(), async || fails(wrong()).await).await.expect_err("it does not pass");
        let folder = Config::parse("", []).expect("it is empty");
        let full = || log::Error::Unavailable("the disk is full".to_owned());
        let error = ask(&folder, async || fails(full()).await).await.expect_err("nobody will empty it");
        assert_eq!((error.to_string().as_str(), asked.get()), ("the disk is full", 2));
    }
}
