//! What the stage waits for from the log, one wait a subject: the next cursor of a control
//! partition, a partition being opened, the next records of a feed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{AbortHandle, Abortable, BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};

use super::cursors::{Cursors, Failed};
use super::feed::FeedId;
use super::opening::Opened;
use crate::log::{self, Fetched, Log, Reader, TopicPartition};
use crate::record::Partition;
use crate::record::cursor::OwnerCursor;

/// Whom a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// A control partition's cursors.
    Cursors(Partition),
    /// An assigned partition.
    Feed(FeedId),
}

/// What was waited for.
pub(super) enum Happened {
    Cursor(Partition, Cursors, Result<OwnerCursor, Failed>),
    Opened(FeedId, Result<Opened, log::Error>),
    Read(FeedId, Box<dyn Reader>, Result<Fetched, log::Error>),
}

/// All waits. A subject has one at most.
#[derive(Default)]
pub(super) struct Inlets {
    waits: FuturesUnordered<Abortable<BoxFuture<'static, Happened>>>,
    handles: BTreeMap<Subject, AbortHandle>,
}

impl Inlets {
    /// Follows a control partition's cursors; nothing new where that is done already.
    pub(super) fn follow(&mut self, log: &Arc<dyn Log>, control: Partition, at: TopicPartition) {
        if !self.handles.contains_key(&Subject::Cursors(control)) {
            self.next_cursor(control, Cursors::new(Arc::clone(log), at), Duration::ZERO);
        }
    }

    /// Waits for the cursor after the last, beginning after a pause.
    pub(super) fn next_cursor(&mut self, control: Partition, mut cursors: Cursors, pause: Duration) {
        let wait = async move {
            tokio::time::sleep(pause).await;
            let next = cursors.next().await;
            Happened::Cursor(control, cursors, next)
        };
        self.begin(Subject::Cursors(control), wait);
    }

    /// Opens a partition, after a pause.
    pub(super) fn open<F>(&mut self, feed: FeedId, opening: F, pause: Duration)
    where
        F: Future<Output = Result<Opened, log::Error>> + Send + 'static,
    {
        let wait = async move {
            tokio::time::sleep(pause).await;
            Happened::Opened(feed, opening.await)
        };
        self.begin(Subject::Feed(feed), wait);
    }

    /// Waits for a feed's next records, beginning after a pause.
    pub(super) fn read(&mut self, feed: FeedId, mut reader: Box<dyn Reader>, pause: Duration) {
        let wait = async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let fetched = reader.next().await;
            Happened::Read(feed, reader, fetched)
        };
        self.begin(Subject::Feed(feed), wait);
    }

    fn begin(&mut self, subject: Subject, wait: impl Future<Output = Happened> + Send + 'static) {
        let (handle, registration) = AbortHandle::new_pair();
        self.waits.push(Abortable::new(wait.boxed(), registration));
        if let Some(before) = self.handles.insert(subject, handle) {
            before.abort();
        }
    }

    /// Waits for a subject no more.
    pub(super) fn stop(&mut self, subject: Subject) {
        if let Some(handle) = self.handles.remove(&subject) {
            handle.abort();
        }
    }

    /// Waits for the first of all waits; for ever where there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Happened {
        loop {
            match self.waits.next().await {
                Some(Ok(happened)) => return happened,
                Some(Err(_aborted)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Another one that has come already.
    pub(super) fn next_now(&mut self) -> Option<Happened> {
        loop {
            if let Ok(happened) = self.waits.next().now_or_never()?? {
                return Some(happened);
            }
        }
    }
}
