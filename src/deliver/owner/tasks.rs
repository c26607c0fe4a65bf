//! What takes time, as futures that own all they need.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::{Answer, Failure, FailureKind, Push, Sender};
use crate::log::{self, Append, Bounds, Fetched, Log, Reader, Topic, TopicPartition, Visibility, Writer, damage};
use crate::order::Part;
use crate::record::{Batch, Offset, TopicIds};

/// How much of a partition is read at once.
const READ_BYTES: usize = 1 << 20;

/// The pause after a read that failed and may pass.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// A task that has ended, and with what.
pub(super) enum Done {
    Sent(Sent),
    Loaded(Loaded),
    Read(Read),
    Control(Fetch),
    Remains { feed: usize, life: u32, remains: Result<Remains, log::Error> },
    Tested(Tested),
    Measured(Vec<Result<Bounds, log::Error>>),
    Looked(Result<TopicIds, log::Error>),
    Committed(Committed),
}

/// Which item of which life of which feed.
#[derive(Clone, Copy)]
pub(super) struct Item {
    pub(super) feed: usize,
    pub(super) life: u32,
    pub(super) part: Part,
}

/// Items of one feed that went in one request.
pub(super) struct Sent {
    pub(super) feed: usize,
    pub(super) life: u32,
    pub(super) pieces: Vec<Piece>,
    pub(super) outcome: Result<Answer, Failure>,
}

pub(super) struct Loaded {
    pub(super) item: Item,
    /// The wanted record and those behind it.
    pub(super) batches: Result<Vec<Batch>, log::Error>,
}

/// An item of a request.
pub(super) struct Piece {
    pub(super) part: Part,
    /// It stands behind the one before it in their group, and is not taken itself.
    pub(super) follows: bool,
    pub(super) record: Batch,
}

/// A test item that was sent.
pub(super) struct Tested {
    pub(super) target: usize,
    pub(super) order: Offset,
    pub(super) begun: Instant,
    pub(super) outcome: Result<Answer, Failure>,
}

/// A reader to go on with, if it is still good, and what it found.
pub(super) struct Fetch {
    pub(super) reader: Option<Box<dyn Reader>>,
    pub(super) fetched: Result<Fetched, log::Error>,
}

/// What a partition still has.
pub(super) struct Remains {
    pub(super) bounds: Bounds,
    /// Where it can be read on, if it cannot where it was asked about.
    pub(super) behind: Option<Offset>,
}

pub(super) struct Read {
    pub(super) feed: usize,
    pub(super) life: u32,
    pub(super) fetch: Fetch,
}

pub(super) struct Committed {
    pub(super) writer: Box<dyn Writer>,
    pub(super) begun: Instant,
    pub(super) result: Result<(), log::Error>,
}

/// One request: with one item, or several where the receiver takes them.
pub(super) struct Request {
    pub(super) feed: usize,
    pub(super) life: u32,
    pub(super) pieces: Vec<Piece>,
    pub(super) pushes: Vec<Push>,
}

/// One attempt at it.
pub(super) async fn send(request: Request, sender: Arc<dyn Sender>, timeout: Duration) -> Done {
    let Request { feed, life, pieces, pushes } = request;
    Done::Sent(Sent { feed, life, pieces, outcome: attempt(sender, timeout, pushes).await })
}

/// Sends a test item, which an order asks for.
pub(super) async fn test(target: usize, sender: Arc<dyn Sender>, timeout: Duration, push: Push) -> Done {
    let (order, begun) = (push.offset, Instant::now());
    Done::Tested(Tested { target, order, begun, outcome: attempt(sender, timeout, vec![push]).await })
}

/// One attempt, bounded in time whatever the sender does.
async fn attempt(sender: Arc<dyn Sender>, timeout: Duration, mut pushes: Vec<Push>) -> Result<Answer, Failure> {
    let detail = || format!("no answer within {timeout:?}");
    let timed_out = |_| Err(Failure { kind: FailureKind::Timeout, detail: detail() });
    let one = (pushes.len() == 1).then(|| pushes.pop()).flatten();
    let sent = match one {
        Some(push) => sender.send(push),
        None => sender.send_many(pushes),
    };
    tokio::time::timeout(timeout, sent).await.unwrap_or_else(timed_out)
}

/// Reads a record again that was not held in memory, and what comes behind it: their turn is next.
pub(super) async fn load(item: Item, log: Arc<dyn Log>, at: TopicPartition) -> Done {
    let wanted = item.part.offset;
    let load = async {
        let mut reader = log.read(&at, wanted, Visibility::Durable, READ_BYTES).await?;
        let fetched = reader.next().await?;
        if fetched.batches.iter().flatten().any(|record| record.offset == wanted) {
            return Ok(fetched.batches);
        }
        Err(log::Error::Lost { at: at.clone(), wanted, start: fetched.next })
    };
    let batches = load.await;
    pause_if_passing(batches.as_ref().err()).await;
    Done::Loaded(Loaded { item, batches })
}

/// Reads on, opening a reader first where there is none.
pub(super) async fn fetch(
    log: Arc<dyn Log>,
    at: TopicPartition,
    reader: Option<Box<dyn Reader>>,
    from: Offset,
) -> Fetch {
    let read = async {
        let mut reader = match reader {
            Some(reader) => reader,
            None => open(&*log, &at, from).await?,
        };
        let fetched = reader.next().await?;
        Ok((reader, fetched))
    };
    match read.await {
        Ok((reader, fetched)) => Fetch { reader: Some(reader), fetched: Ok(fetched) },
        Err(error) => {
            pause_if_passing(Some(&error)).await;
            Fetch { reader: None, fetched: Err(error) }
        }
    }
}

async fn open(log: &dyn Log, at: &TopicPartition, from: Offset) -> Result<Box<dyn Reader>, log::Error> {
    let bounds = log.bounds(at).await?;
    if from > bounds.end {
        let end = bounds.end;
        return Err(log::Error::Damaged(format!("{at} ends at {end}, below the position {from}: it was made anew")));
    }
    log.read(at, from, Visibility::Durable, READ_BYTES).await
}

/// Asks what a partition still has, from a position on.
pub(super) async fn remains(log: Arc<dyn Log>, of: TopicPartition, from: Offset) -> Result<Remains, log::Error> {
    let look = async {
        let bounds = log.bounds(&of).await?;
        let is_within = bounds.start <= from && from < bounds.stable_end;
        let damage = if is_within { damage::at(&*log, &of, from, bounds.stable_end).await? } else { None };
        Ok(Remains { bounds, behind: damage.map(|damage| damage.end) })
    };
    let remains = look.await;
    pause_if_passing(remains.as_ref().err()).await;
    remains
}

/// Asks where partitions begin and end.
pub(super) async fn measure(log: Arc<dyn Log>, of: Vec<TopicPartition>) -> Done {
    let mut bounds = Vec::with_capacity(of.len());
    for at in &of {
        bounds.push(log.bounds(at).await);
    }
    Done::Measured(bounds)
}

/// Asks which of these topics there are. So that the log knows of the other one, too, it asks for that as well.
pub(super) async fn look(log: Arc<dyn Log>, mut topics: Vec<Topic>, other: Topic) -> Done {
    topics.push(other.clone());
    let mut found = log.identities(&topics).await;
    if let Ok(found) = &mut found {
        found.remove(other.as_str());
    }
    Done::Looked(found)
}

pub(super) async fn commit(mut writer: Box<dyn Writer>, appends: Vec<Append>) -> Done {
    let begun = Instant::now();
    let result = writer.commit(appends).await.map(drop);
    Done::Committed(Committed { writer, begun, result })
}

/// Whether the same read may succeed later.
pub(super) const fn is_passing(error: &log::Error) -> bool {
    matches!(error, log::Error::Unavailable(_) | log::Error::Unknown(_) | log::Error::Fenced(_))
}

async fn pause_if_passing(error: Option<&log::Error>) {
    if error.is_some_and(is_passing) {
        tokio::time::sleep(READ_PAUSE).await;
    }
}
