//! What a lane needs done by others: reads, and records sent out again.

use super::{FETCH_BYTES, Happening, Owner, Shared};
use crate::log::{Error, Fetched, Reader, Visibility};
use crate::record::Partition;
use crate::takeover;

use super::super::batches::ItemsWanted;
use super::super::fetch;
use super::super::lane::{LaneState, Need};

impl Owner {
    /// Starts the reads that a lane wants and whatever else it needs.
    pub(super) fn do_what_is_needed(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        let lane = seat.lane;
        if let Some(reader) = seat.wanted_input() {
            self.read(reader, move |reader, fetched| Happening::Input(lane, reader, fetched));
        }
        let seat = &mut self.seats[index];
        if let Some(reader) = seat.wanted_results() {
            self.read(reader, move |reader, fetched| Happening::Results(lane, reader, fetched));
        }
        let seat = &mut self.seats[index];
        if let Some(reader) = seat.wanted_commands() {
            self.read(reader, move |reader, fetched| Happening::Commands(lane, reader, fetched));
        }
        while let Some(wanted) = self.seats[index].wanted_items() {
            self.read_items(lane, wanted);
        }
        for need in self.seats[index].needs() {
            self.serve_need(lane, need);
        }
    }

    pub(super) fn serve_need(&mut self, lane: Partition, need: Need) {
        let Shared { log, topics, .. } = self.shared.clone();
        match need {
            Need::Input(offset) => self.under_way.push(Box::pin(async move {
                let record = fetch::record(&*log, &topics.input.partition(lane), offset).await;
                Happening::InputRecord(lane, offset, record)
            })),
            Need::InputEnd => {
                let asked = self.seat(lane).state().and_then(LaneState::asked_for);
                self.under_way.push(Box::pin(async move {
                    Happening::InputEnd(lane, asked, log.bounds(&topics.input.partition(lane)).await)
                }));
            }
            Need::Results => self.sweep(lane),
            Need::Resend(offset, round) => self.resend(lane, offset, round),
        }
    }

    /// Reads items of an upload, once.
    fn read_items(&self, lane: Partition, wanted: ItemsWanted) {
        let Shared { log, topics, .. } = self.shared.clone();
        self.under_way.push(Box::pin(async move {
            let items = topics.batch_items.partition(lane);
            let fetched = match log.read(&items, wanted.from, Visibility::Written, ItemsWanted::FETCH_BYTES).await {
                Ok(mut reader) => reader.next().await,
                Err(error) => Err(error),
            };
            Happening::Items(lane, wanted, fetched)
        }));
    }

    /// Reads forgotten results again, one sweep a lane at a time.
    fn sweep(&mut self, lane: Partition) {
        let Some(from) = self.seat(lane).state().and_then(LaneState::sweep_position) else { return };
        let Shared { log, topics, .. } = self.shared.clone();
        self.under_way.push(Box::pin(async move {
            let results = topics.results.partition(lane);
            match log.read(&results, from, Visibility::Written, FETCH_BYTES).await {
                Ok(mut reader) => {
                    let fetched = reader.next().await;
                    Happening::Swept(lane, reader, fetched)
                }
                Err(error) => Happening::NotSwept(lane, error),
            }
        }));
    }

    pub(super) fn swept(
        &mut self,
        lane: Partition,
        reader: Box<dyn Reader>,
        fetched: Result<Fetched, Error>,
    ) -> Result<(), takeover::Error> {
        if self.seat(lane).results_swept(fetched)? {
            self.read(reader, move |reader, fetched| Happening::Swept(lane, reader, fetched));
        }
        Ok(())
    }
}
