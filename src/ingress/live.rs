//! What lanes look like now, for the states of messages: found out at most once a second a lane,
//! however many ask, because it takes reading a window of records.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use crate::log::{Error, Log};
use crate::observe::live::{self, Live, Options};
use crate::record::Partition;
use crate::topics::Topics;

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(1);

/// Bytes of results to keep while looking: what is asked is who waits for whom, not the bodies.
const MEMORY: usize = 1024 * 1024;

#[derive(Debug)]
struct Seen {
    at: Instant,
    live: Option<Arc<Live>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Lanes {
    options: Option<Options>,
    seen: Vec<Mutex<Option<Seen>>>,
}

impl Lanes {
    /// Without `options` nobody knows how the lanes are ordered, and nothing is found out.
    pub(super) fn new(options: Option<&Options>, lanes: u32) -> Self {
        let options = options.map(|options| Options { memory: options.memory.min(MEMORY), ..options.clone() });
        Self { options, seen: (0..lanes).map(|_| Mutex::default()).collect() }
    }

    /// The lane as it was at most a second ago; `None` where that cannot be known, or nobody has
    /// ever owned it. One looks, the others wait for what it finds.
    pub(super) async fn get(
        &self,
        log: &dyn Log,
        topics: &Topics,
        lane: Partition,
    ) -> Result<Option<Arc<Live>>, Error> {
        let (Some(options), Some(seen)) = (&self.options, self.seen.get(lane.0 as usize)) else { return Ok(None) };
        let mut seen = seen.lock().await;
        if let Some(Seen { at, live }) = &*seen
            && at.elapsed() < FRESH
        {
            return Ok(live.clone());
        }
        let live = live::lane(log, topics, options, lane).await?.map(Arc::new);
        *seen = Some(Seen { at: Instant::now(), live: live.clone() });
        Ok(live)
    }
}
