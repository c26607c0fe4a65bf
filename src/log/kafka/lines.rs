//! librdkafka's own log lines, told by this process.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Levels as of syslog. librdkafka's warnings are about brokers that come and go, which is no news to whoever
/// watches the metrics, and about properties that are for other kinds of clients. Of its errors, those of connections
/// come from each client for each try, so each is told seldom.
pub(super) fn log_line(level: i32, line: &str) {
    static TOLD: Mutex<Told> = Mutex::new(Told::new());
    let is_news = || {
        // Whoever panicked with it has left a map.
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        connection(line).is_none_or(|about| told.is_news(about, Instant::now()))
    };
    match level {
        0..=2 => tracing::error!(target: "librdkafka", "{line}"),
        3 if is_news() => tracing::warn!(target: "librdkafka", "{line}"),
        _ => tracing::debug!(target: "librdkafka", "{line}"),
    }
}

/// What a line says of a connection that failed, without the numbers that differ from try to try; `None` where it is
/// about something else. The form is `FAIL [thrd:THREAD]: BROKER: REASON (after 0ms in state CONNECT)`.
fn connection(line: &str) -> Option<&str> {
    let (_, said) = line.strip_prefix("FAIL ")?.split_once("]: ")?;
    // Where it has the address the broker's name says no more: a coordinator has another one.
    let at = said.find(": Connect to ").map_or(0, |at| at + 2);
    Some(said[at..].split(" (").next().unwrap_or(said))
}

/// When each failure of a connection was told last, by all clients of this program.
struct Told(BTreeMap<String, Instant>);

impl Told {
    /// How long the same is not told again.
    const FOR: Duration = Duration::from_secs(60);

    /// Far more than a cluster has brokers; beyond it all is forgotten, and told once more.
    const MOST: usize = 1_000;

    const fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn is_news(&mut self, about: &str, now: Instant) -> bool {
        if self.0.get(about).is_some_and(|told| now.duration_since(*told) < Self::FOR) {
            return false;
        }
        if self.0.len() >= Self::MOST {
            self.0.clear();
        }
        self.0.insert(about.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_fails_is_told_once_a_minute_for_each_broker_and_reason() {
        let of = |name: &str, reason: &str| format!("FAIL [thrd:{name}]: {name}: {reason}");
        let refused = |port, after| {
            format!("Connect to ipv4#127.0.0.1:{port} failed: Connection refused (after {after}ms in state CONNECT)")
        };
        let (mut told, start) = (Told::new(), Instant::now());
        let mut is_news = |line: &str, seconds| {
            let about = connection(line).expect("it is about a connection");
            told.is_news(about, start + Duration::from_secs(seconds))
        };
        assert!(is_news(&of("127.0.0.1:9092/1", &refused(9092, 0)), 0));
        assert!(!is_news(&of("127.0.0.1:9092/1", &refused(9092, 3)), 1));
        assert!(!is_news(&of("GroupCoordinator", &refused(9092, 0)), 59));
        assert!(is_news(&of("127.0.0.1:9093/2", &refused(9093, 0)), 1));
        assert!(is_news(&of("127.0.0.1:9092/1", "SASL authentication error (after 3ms in state AUTH)"), 2));
        assert!(is_news(&of("127.0.0.1:9093/2", "SASL authentication error (after 3ms in state AUTH)"), 2));
        assert!(is_news(&of("127.0.0.1:9092/1", &refused(9092, 0)), 60));
        for other in ["PARTCNT [thrd:main]: Topic t", "FAIL", "FAIL ü]", ""] {
            assert_eq!(connection(other), None, "{other}");
        }
    }
}
