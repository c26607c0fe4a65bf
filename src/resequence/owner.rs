//! The owner of one control partition: waits for what happens, lets its lanes decide, and does
//! what they need done.
//!
//! [`Owner::serve`] is the loop. `select` only waits; `apply` only decides; `tidy` starts what is
//! to be done next. One commit is under way at a time, and while it runs the next one gathers.
//! Everything under way lives in this one future: dropping it is a crash.

mod commit;
mod dispatch;
mod needs;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::log::{Bounds, Error, Fetched, Log, Offsets, Reader, Topic, Visibility, Writer};
use crate::record::cursor::OwnerCursor;
use crate::record::{Batch, Epoch, Offset, Partition, TopicIds};
use crate::takeover;
use crate::topics::Topics;

use super::Options;
use super::anew::{self, Looks};
use super::batches::ItemsWanted;
use super::dispatch::Sending;
use super::lane::Need;
use super::loads::Loads;
use super::restore::{Accepted, Restored};
use super::seat::Seat;
use super::verbs::Verbs;
use commit::Committing;

/// Bytes fetched at once of each log: enough to keep commits large, little beside the budget.
const FETCH_BYTES: usize = 1 << 20;

/// Commits that an owner still makes when it is asked to stop: the one under way, and one with what
/// was released meanwhile. What else is finished stands in the results for the next owner.
const LAST_COMMITS: u32 = 2;

/// How often gauges are refreshed while nothing happens.
const REFRESH: Duration = Duration::from_secs(1);

/// What all lanes of an owner share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) log: Arc<dyn Log>,
    pub(super) topics: Topics,
    pub(super) options: Options,
    pub(super) control: Partition,
    pub(super) epoch: Epoch,
}

/// Why an owner stopped serving without having failed.
pub(super) enum Exit {
    /// It was asked to let go.
    Stopped,
    /// Its lanes have to be restored from the last committed cursor.
    Restore { writer: Box<dyn Writer>, cursor: OwnerCursor, accepted: Accepted },
}

/// Something that was waited for.
enum Happening {
    Input(Partition, Box<dyn Reader>, Result<Fetched, Error>),
    Results(Partition, Box<dyn Reader>, Result<Fetched, Error>),
    Commands(Partition, Box<dyn Reader>, Result<Fetched, Error>),
    Items(Partition, ItemsWanted, Result<Fetched, Error>),
    Swept(Partition, Box<dyn Reader>, Result<Fetched, Error>),
    NotSwept(Partition, Error),
    InputRecord(Partition, Offset, Result<Option<Batch>, Error>),
    InputEnd(Partition, Option<Offset>, Result<Bounds, Error>),
    Sent(Partition, Sending, Result<(), Error>),
    Resent(Result<(), Error>),
    Control(Box<dyn Reader>, Result<Fetched, Error>),
    Committed(Box<dyn Writer>, Result<Vec<Offsets>, Error>, Committing),
    Looked(Result<TopicIds, Error>),
}

/// See the module's documentation.
pub(super) struct Owner {
    shared: Shared,
    pub(super) seats: Vec<Seat>,
    verbs: Verbs,
    /// What the work topic holds of all lanes.
    loads: Loads,
    looks: Looks,
    writer: Option<Box<dyn Writer>>,
    under_way: FuturesUnordered<BoxFuture<'static, Happening>>,
    committed: OwnerCursor,
    /// Topics to which nothing may be written before the lanes are restored again.
    uncompared: BTreeSet<Topic>,
    /// Something besides releases has to be committed.
    due: bool,
    exit: Option<Exit>,
}

impl Owner {
    /// Serves the lanes until asked to stop, or until they have to be restored.
    ///
    /// # Errors
    ///
    /// Whatever the log answers, but for what concerns one lane alone: take over again.
    pub(super) async fn serve(
        shared: Shared,
        lanes: Restored,
        mut writer: Box<dyn Writer>,
        restored_from: &OwnerCursor,
        stop: &CancellationToken,
    ) -> Result<Exit, takeover::Error> {
        let verbs = Verbs::new(Offset(restored_from.control));
        let mut owner = Self {
            due: false,
            committed: OwnerCursor::default(),
            under_way: FuturesUnordered::new(),
            writer: None,
            exit: None,
            loads: Loads::new(shared.topics.work_partitions),
            looks: Looks::new(lanes.topics),
            uncompared: lanes.uncompared,
            verbs,
            seats: lanes.seats,
            shared,
        };
        // The epoch and what the tails showed are durable before the first release.
        let (appends, committing) = owner.form_commit();
        if let Err(error) = writer.commit(appends).await {
            owner.committed = restored_from.clone();
            return owner.first_refused(writer, error);
        }
        owner.writer = Some(writer);
        owner.committed = committing.cursor;
        for seat in &mut owner.seats {
            seat.committed(&owner.committed.lanes[&seat.lane.0], None);
        }
        owner.open_readers().await?;
        owner.run(stop).await
    }

    async fn run(mut self, stop: &CancellationToken) -> Result<Exit, takeover::Error> {
        let mut last_commits = LAST_COMMITS;
        let mut refresh = Instant::now();
        loop {
            let stopping = stop.is_cancelled();
            if !(stopping && last_commits == 0) {
                self.tidy(stopping);
            }
            if let Some(exit) = self.exit.take() {
                return Ok(exit);
            }
            if stopping && self.writer.is_some() {
                return Ok(Exit::Stopped);
            }
            tokio::select! {
                biased;
                () = stop.cancelled(), if !stopping => {}
                () = tokio::time::sleep_until(refresh.min(self.next_due())) => {
                    self.time_passed();
                    refresh = Instant::now() + REFRESH;
                }
                Some(happening) = self.under_way.next() => {
                    if stopping && matches!(happening, Happening::Committed(..)) {
                        last_commits -= 1;
                    }
                    self.apply(happening)?;
                }
            }
        }
    }

    /// When the next record is overdue; far away where none is.
    fn next_due(&self) -> Instant {
        let due = self.seats.iter().filter_map(Seat::next_due).min();
        Instant::now() + due.map_or(REFRESH, |due| due.since(self.shared.log.now()))
    }

    fn time_passed(&mut self) {
        let now = self.shared.log.now();
        for index in 0..self.seats.len() {
            self.seats[index].time_passed(now);
            if self.seats[index].state().is_some() {
                self.serve_need(self.seats[index].lane, Need::InputEnd);
            }
        }
        let is_going = self.seats.iter().any(|seat| seat.state().is_some());
        if is_going && self.looks.is_due(Instant::now()) {
            let (Shared { log, topics, .. }, known) = (self.shared.clone(), self.looks.topics().clone());
            let look = async move { Happening::Looked(anew::look(&*log, &topics, &known).await) };
            self.under_way.push(Box::pin(look));
        }
    }

    /// Brings everything into the state in which nothing more can be done now. Who is about to stop
    /// sends no more work out, and leaves behind how far that got.
    fn tidy(&mut self, stopping: bool) {
        let now = self.shared.log.now();
        self.due |= self.verbs.execute(&mut self.seats, now);
        if let Some((lane, position)) = self.verbs.accepts() {
            self.accept(lane, position);
        }
        for index in 0..self.seats.len() {
            if stopping {
                self.seats[index].note_position();
            }
            self.due |= self.seats[index].work(self.shared.epoch, now);
            if !stopping {
                self.send_out(index, now);
            }
            self.do_what_is_needed(index);
        }
        let defect = self.seats.iter().find_map(|seat| Some((seat.lane, seat.defect.clone()?)));
        if let Some((lane, reason)) = defect {
            // What is gathered may be wrong: nothing more is committed from this memory.
            if let Some(writer) = self.writer.take() {
                self.restore_halted(writer, [(lane, reason)]);
            }
        } else if self.looks.found_replaced() {
            if let Some(writer) = self.writer.take() {
                let cursor = self.committed.clone();
                self.exit = Some(Exit::Restore { writer, cursor, accepted: Accepted::Nothing });
            }
        } else if self.writer.is_some() && (self.due || self.seats.iter().any(Seat::has_gathered)) {
            self.start_commit();
        }
    }

    /// Decides on one thing that happened.
    fn apply(&mut self, happening: Happening) -> Result<(), takeover::Error> {
        match happening {
            Happening::Input(lane, reader, fetched) => self.seat(lane).input_read(reader, fetched)?,
            Happening::Results(lane, reader, fetched) => self.seat(lane).results_read(reader, fetched)?,
            Happening::Commands(lane, reader, fetched) => self.seat(lane).commands_read(reader, fetched)?,
            Happening::Items(lane, wanted, fetched) => self.seat(lane).items_read(&wanted, fetched)?,
            Happening::Swept(lane, reader, fetched) => self.swept(lane, reader, fetched)?,
            Happening::NotSwept(lane, error) => self.seat(lane).sweep_failed(error)?,
            Happening::InputRecord(lane, offset, record) => self.seat(lane).input_fetched(offset, record)?,
            Happening::InputEnd(lane, asked, bounds) => self.seat(lane).input_ends(bounds?, asked),
            Happening::Sent(lane, sending, result) => {
                let now = self.shared.log.now();
                self.seat(lane).sent(sending, result, now);
            }
            Happening::Resent(result) => {
                if let Err(error) = result {
                    // The clock of an overdue record goes on: it is sent again.
                    tracing::warn!(%error, "could not send work again");
                }
            }
            Happening::Control(reader, fetched) => {
                self.verbs.add(&fetched?);
                self.read(reader, Happening::Control);
            }
            Happening::Committed(writer, result, committing) => self.commit_ended(writer, result, committing)?,
            Happening::Looked(found) => self.looks.ended(found, Instant::now()),
        }
        Ok(())
    }

    fn seat(&mut self, lane: Partition) -> &mut Seat {
        let index = self.seats.iter().position(|seat| seat.lane == lane).expect("happenings name lanes of this owner");
        &mut self.seats[index]
    }

    async fn open_readers(&mut self) -> Result<(), takeover::Error> {
        let log = self.shared.log.clone();
        let control = self.shared.topics.control.partition(self.shared.control);
        let reader = log.read(&control, self.verbs.position(), Visibility::Written, FETCH_BYTES).await?;
        self.read(reader, Happening::Control);
        for seat in &mut self.seats {
            let Some(state) = seat.state() else { continue };
            let input = self.shared.topics.input.partition(seat.lane);
            let results = self.shared.topics.results.partition(seat.lane);
            let (input_from, results_from) = (state.input_position(), state.results_position());
            let results_end = log.bounds(&results).await?.stable_end;
            let input = log.read(&input, input_from, Visibility::Written, FETCH_BYTES).await;
            let results = log.read(&results, results_from, Visibility::Written, FETCH_BYTES).await;
            let (commands, from) = (self.shared.topics.batches.partition(seat.lane), seat.commands_position());
            let commands = log.read(&commands, from, Visibility::Written, FETCH_BYTES).await;
            seat.open(input, results, commands)?;
            seat.send_after(results_end);
        }
        Ok(())
    }

    fn read(
        &self,
        mut reader: Box<dyn Reader>,
        happening: impl FnOnce(Box<dyn Reader>, Result<Fetched, Error>) -> Happening + Send + 'static,
    ) {
        self.under_way.push(Box::pin(async move {
            let fetched = reader.next().await;
            happening(reader, fetched)
        }));
    }

    /// Begins again from the last committed cursor, with some lanes standing still.
    fn restore_halted(&mut self, writer: Box<dyn Writer>, lanes: impl IntoIterator<Item = (Partition, String)>) {
        self.exit = Some(self.halted(writer, lanes));
    }

    fn halted(&self, writer: Box<dyn Writer>, lanes: impl IntoIterator<Item = (Partition, String)>) -> Exit {
        let mut cursor = self.committed.clone();
        for (lane, reason) in lanes {
            if let Some(lane) = cursor.lanes.get_mut(&lane.0) {
                lane.halted = Some(reason);
            }
        }
        Exit::Restore { writer, cursor, accepted: Accepted::Nothing }
    }

    /// An operator accepts what a lane has lost: it is restored without its verdict, once every
    /// verb before this one is committed.
    fn accept(&mut self, lane: Partition, position: Offset) {
        if self.committed.control < position.0 {
            self.due = true;
            return;
        }
        if let Some(writer) = self.writer.take() {
            let cursor = OwnerCursor { control: position.next().0, ..self.committed.clone() };
            self.exit = Some(Exit::Restore { writer, cursor, accepted: Accepted::Lane(lane) });
        }
    }
}
