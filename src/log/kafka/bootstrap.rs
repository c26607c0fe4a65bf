//! Clients that have forgotten the cluster.
//!
//! A broker that was frozen, or is just starting, may answer a question for metadata with no broker at all, itself
//! included. librdkafka, from 2.10 on, then forgets all brokers that are not in the answer, and there are moments
//! in which it does not begin again with those of the configuration: it has nobody left to ask, for good
//! (confluentinc/librdkafka#5301). So who gets no answer for a while says to its client again where the cluster is.

use std::ffi::CString;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::client::Properties;
use super::native::{Client, add_brokers};

/// So often at most: the library keeps each word for good, and goes through all of them when it begins again.
const EVERY: Duration = Duration::from_secs(20);

/// Where a client's cluster is.
pub(super) struct Bootstrap {
    servers: CString,
    said: Mutex<Option<Instant>>,
}

impl Bootstrap {
    pub(super) fn new(properties: &Properties) -> Self {
        let servers = properties.0.get("bootstrap.servers").map_or("", String::as_str);
        // A property with a zero byte was refused before.
        Self { servers: CString::new(servers).unwrap_or_default(), said: Mutex::default() }
    }

    /// To be called whenever a client got no answer within its time, or nobody can be asked. Does not block.
    pub(super) fn say_again(&self, client: &impl Client) {
        let mut said = self.said.lock().expect("no holder of this lock panics");
        if said.is_none_or(|said| said.elapsed() >= EVERY) {
            *said = Some(Instant::now());
            add_brokers(client, &self.servers);
        }
    }
}
