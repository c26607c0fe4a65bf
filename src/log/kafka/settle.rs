//! Commits that are acknowledged and never end.
//!
//! A coordinator acknowledges a commit when it has noted its decision, and then has a marker written
//! into each partition, without which nobody can read the records, or past them. A broker that dies in
//! between and starts again may not know the partitions' leaders yet; Kafka 4.3.0 then takes them for
//! deleted and notes the transaction as complete. From then on the records hang, all or those of some
//! partitions, until the next transaction of the same id writes into the partition and ends: they end
//! with it, and as it does.
//!
//! So whoever claims looks for partitions that hang, and commits a record to each of them, all in one
//! transaction. It means nothing: readers of this engine take it for a hole, and other clients see a
//! key and no value. And whoever has committed looks after a while whether that has ended. Where others
//! may have a transaction open, nobody can tell theirs from one that hangs: such a record is committed
//! all the same. It ends nothing of theirs.
//!
//! What hangs is aborted where the writer's next transaction is, in the partitions that this one was
//! announced for: when its owner dies, say, and the next claim ends it. Then nobody may go on as if it
//! had been committed. Two things see to that:
//!
//! - Nothing that this process knows is kept. A writer that has a transaction refused aborts it only
//!   once it has seen that all its former commits have ended where this one writes. Otherwise, as after
//!   any other failure, it is given up: the next claim ends what is open, and the owner begins with what
//!   it finds in the log.
//! - A cursor is never left behind by what it counts. It is the first append of each transaction, so
//!   that its partition is announced before any other or with it (one request of librdkafka's announces
//!   all partitions that wait), and it is the first of the partitions that are given ends. So where
//!   anything of a hanging commit is aborted, its hanging cursor is. The rest, which the claim then
//!   settles as committed, is ahead of the cursor: that is recognised and not written again.
//!
//! What is left: a commit that hangs without its cursor, whose marker was written, and that is aborted
//! then. It takes a second failure before the next transaction has ended, or that the broker comes back
//! just when this one has waited for it as long as it may. Outputs that are lost so halt their lane at the
//! next take-over, because the cursor has counted them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;

use super::asker::Asker;
use super::native::Fetched;
use crate::log::{Append, Error, TopicPartition, Written};
use crate::record::{BatchBuilder, Offset};

/// The key of a record that has no other use than to end what hangs before it. With a key and without a
/// value, compaction removes it in its time.
const KEY: &[u8] = b"seriatim-settled";

/// How many partitions are asked about at once.
const AT_ONCE: usize = 32;

/// What is open for so long hangs, or is somebody else's: the coordinator has nothing under way for this
/// id once a claim has its producer.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// A commit that has no marker after this is looked at again, and after [`OVERDUE`] it hangs: a leader
/// that is away delays markers for about a session.
const YOUNG: Duration = Duration::from_secs(1);
const OVERDUE: Duration = Duration::from_secs(10);

/// How long the markers of former commits are waited for before a refused transaction is aborted. The
/// coordinator takes a transaction only when they are written, so that they are late only where it has
/// not heard of this one.
const BEFORE_AN_ABORT: Duration = Duration::from_secs(2);

/// A writer looks at so many partitions in a row, so that commits hardly wait for that.
const IN_A_ROW: usize = 8;

/// Whether a record is none, but the end of what hung before it.
pub(super) fn is_end(record: &Fetched<'_>) -> bool {
    record.value().is_none() && record.key() == Some(KEY)
}

/// What ends all that hangs in a partition when it is committed.
pub(super) fn end_of(partition: TopicPartition) -> Append {
    let mut builder = BatchBuilder::default();
    builder.push(Some(KEY), None, |_| {});
    Append { to: partition, batch: builder.finish() }
}

/// Whether this is such an end.
pub(super) fn is_end_of(append: &Append) -> bool {
    append.batch.iter().all(|record| record.key == Some(KEY) && record.value.is_none())
}

/// The partitions in which something stays open, in the order in which they are given, those of `alone`
/// first. To be asked once the producer of a claim is made; takes [`PATIENCE`] where there is any.
pub(super) async fn hanging(asker: &Asker, written: &Written) -> Result<Vec<TopicPartition>, Error> {
    let deadline = Instant::now() + PATIENCE;
    // Plain appends move an end on; what was there at the first look has to become stable.
    let all = written.alone.iter().chain(&written.with_others);
    let mut suspects: Vec<_> = all.map(|of| (of.clone(), None)).collect();
    loop {
        let looks = suspects.into_iter().map(async |(of, end)| match asker.bounds_now(&of).await {
            Ok(bounds) => Ok(Some((of, end.unwrap_or(bounds.end))).filter(|(_, end)| bounds.stable_end < *end)),
            // With all that hung in it.
            Err(_) if asker.seen.is_gone(&of.topic) => Ok(None),
            Err(error @ Error::Unavailable(_)) => Err(error),
            // Whoever needs it says what is wrong with it.
            Err(_) => Ok(None),
        });
        let found: Vec<Result<_, Error>> = stream::iter(looks).buffered(AT_ONCE).collect().await;
        suspects = Vec::new();
        for suspect in found {
            suspects.extend(suspect?.map(|(of, end)| (of, Some(end))));
        }
        if suspects.is_empty() || Instant::now() >= deadline {
            return Ok(suspects.into_iter().map(|(of, _)| of).collect());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Up to where a writer has committed without having seen that it ended.
#[derive(Default)]
pub(super) struct Unseen {
    commits: BTreeMap<TopicPartition, (Offset, Instant)>,
    looked: Option<Instant>,
}

impl Unseen {
    /// Records were committed up to `next`.
    pub(super) fn note(&mut self, to: &TopicPartition, next: Offset) {
        self.commits.insert(to.clone(), (next, Instant::now()));
    }

    /// A partition is not looked at any more.
    pub(super) fn forget(&mut self, of: &TopicPartition) {
        self.commits.remove(of);
    }

    /// Whether all that was committed to the partitions of `appends` has ended. Blocks while it has not,
    /// for [`BEFORE_AN_ABORT`] and a question. `stable_end` as in [`Unseen::look`].
    pub(super) fn have_ended(
        &mut self,
        appends: &[Append],
        stable_end: impl Fn(&TopicPartition) -> Option<Offset>,
    ) -> bool {
        let deadline = Instant::now() + BEFORE_AN_ABORT;
        for Append { to, .. } in appends {
            while let Some((next, _)) = self.commits.get(to) {
                if stable_end(to).is_some_and(|stable_end| stable_end >= *next) {
                    self.commits.remove(to);
                } else if Instant::now() >= deadline {
                    return false;
                } else {
                    std::thread::park_timeout(LOOK);
                }
            }
        }
        true
    }

    /// Looks at some of what is not so young any more, once a second at most; gives a partition that
    /// hangs. `stable_end` is `None` where nobody answers.
    pub(super) fn look(&mut self, stable_end: impl Fn(&TopicPartition) -> Option<Offset>) -> Option<TopicPartition> {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now - looked < YOUNG) {
            return None;
        }
        self.looked = Some(now);
        let due = self.commits.iter().filter(|(_, (_, at))| now - *at >= YOUNG);
        let due: Vec<_> = due.take(IN_A_ROW).map(|(of, commit)| (of.clone(), *commit)).collect();
        for (of, (next, at)) in due {
            match stable_end(&of) {
                Some(stable_end) if stable_end >= next => drop(self.commits.remove(&of)),
                Some(_) if now - at >= OVERDUE => return Some(of),
                Some(_) => {}
                // Whoever does not answer now is asked later.
                None => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Topic;
    use crate::record::Partition;

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_is_still_not_stable_after_a_while_hangs() {
        let of = |number| Topic::from("t").partition(Partition(number));
        let mut unseen = Unseen::default();
        unseen.note(&of(0), Offset(5));
        unseen.note(&of(1), Offset(7));
        assert_eq!(unseen.look(|_| panic!("it is young")), None);
        tokio::time::advance(YOUNG).await;
        let first_ends = |at: &TopicPartition| Some(if *at == of(0) { Offset(5) } else { Offset(6) });
        assert_eq!(unseen.look(first_ends), None);
        tokio::time::advance(OVERDUE).await;
        assert_eq!(unseen.look(|_| None), None, "nobody answers");
        tokio::time::advance(YOUNG).await;
        assert_eq!(unseen.look(first_ends), Some(of(1)));
        unseen.note(&of(1), Offset(9));
        tokio::time::advance(YOUNG).await;
        assert_eq!(unseen.look(|_| Some(Offset(9))), None);
        tokio::time::advance(OVERDUE).await;
        assert_eq!(unseen.look(|_| panic!("all have ended")), None);
    }

    #[test]
    fn only_what_is_written_to_again_has_to_have_ended() {
        let of = |number| Topic::from("t").partition(Partition(number));
        let mut unseen = Unseen::default();
        unseen.note(&of(0), Offset(5));
        unseen.note(&of(1), Offset(7));
        assert!(unseen.have_ended(&[end_of(of(2))], |_| panic!("nothing was committed there")));
        let looks = std::cell::Cell::new(0);
        let at_the_third = |at: &TopicPartition| {
            assert_eq!(*at, of(0));
            looks.set(looks.get() + 1);
            // Nobody answers at first.
            [None, Some(Offset(4)), Some(Offset(5))][looks.get() - 1]
        };
        assert!(unseen.have_ended(&[end_of(of(0))], at_the_third));
        assert!(unseen.have_ended(&[end_of(of(0))], |_| panic!("it has ended")));
        assert!(!unseen.have_ended(&[end_of(of(0)), end_of(of(1))], |_| Some(Offset(6))));
        unseen.forget(&of(1));
        assert!(unseen.have_ended(&[end_of(of(1))], |_| panic!("it is not looked at any more")));
    }

    #[test]
    fn an_end_is_told_from_what_it_ends() {
        let p = Topic::from("t").partition(Partition(0));
        assert!(is_end_of(&end_of(p.clone())));
        let mut builder = BatchBuilder::default();
        builder.push(Some(KEY), Some(b"value"), |_| {});
        builder.push(None, None, |_| {});
        assert!(!is_end_of(&Append { to: p, batch: builder.finish() }));
    }
}
