//! What lanes look like now, for the states of messages: found out at most once a second a lane,
//! however many ask, because it takes reading a window of records.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use crate::log::{Error, Log};
use crate::observe::cursor;
use crate::observe::live::{self, Live, Options};
use crate::record::{Offset, Partition};
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

/// Where a lane's frontier was, and whether it had been there at the look before.
#[derive(Debug)]
struct Frontier {
    at: Instant,
    offset: Option<Offset>,
    still: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Lanes {
    options: Option<Options>,
    seen: Vec<Mutex<Option<Seen>>>,
    frontiers: Vec<Mutex<Option<Frontier>>>,
}

impl Lanes {
    /// Without `options` nobody knows how the lanes are ordered, and nothing is found out.
    pub(super) fn new(options: Option<&Options>, lanes: u32) -> Self {
        let options = options.map(|options| Options { memory: options.memory.min(MEMORY), ..options.clone() });
        let seen = (0..lanes).map(|_| Mutex::default()).collect();
        Self { options, seen, frontiers: (0..lanes).map(|_| Mutex::default()).collect() }
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

    /// As [`Lanes::get`], where the lane's frontier has not moved between two looks; else `None`. So a lane that moves
    /// costs only its cursor, once a second.
    pub(super) async fn still(
        &self,
        log: &dyn Log,
        topics: &Topics,
        lane: Partition,
    ) -> Result<Option<Arc<Live>>, Error> {
        let Some(frontier) = self.frontiers.get(lane.0 as usize) else { return Ok(None) };
        let mut frontier = frontier.lock().await;
        if frontier.as_ref().is_none_or(|seen| seen.at.elapsed() >= FRESH) {
            let cursor = cursor::of_lane(log, topics, lane).await?;
            let offset = cursor.and_then(|cursor| Some(Offset(cursor.lanes.get(&lane.0)?.frontier)));
            let still = frontier.as_ref().is_some_and(|before| before.offset == offset);
            *frontier = Some(Frontier { at: Instant::now(), offset, still });
        }
        let still = frontier.as_ref().is_some_and(|frontier| frontier.still);
        drop(frontier);
        if still { self.get(log, topics, lane).await } else { Ok(None) }
    }
}
