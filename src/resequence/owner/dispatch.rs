//! Appends to the work topic: plain ones, outside every transaction.

use super::{Happening, Owner, Shared};
use crate::log::{Error, Log, TopicPartition};
use crate::metrics;
use crate::record::{Batch, Offset, Partition, Round, Timestamp};

use super::super::fetch;

impl Owner {
    /// Starts the appends of a lane's next turn, where there is something to send.
    pub(super) fn send_out(&mut self, index: usize, now: Timestamp) {
        let seat = &mut self.seats[index];
        let lane = seat.lane;
        for sending in seat.send_out(&mut self.loads, now) {
            let Shared { log, topics, .. } = self.shared.clone();
            let to = topics.work.partition(sending.to);
            self.under_way.push(Box::pin(async move {
                let result = append(&*log, &to, sending.batch.clone()).await;
                Happening::Sent(lane, sending, result)
            }));
        }
    }

    /// Sends a record once more, read again from the input.
    pub(super) fn resend(&mut self, lane: Partition, offset: Offset, round: Round) {
        let index = self.seats.iter().position(|seat| seat.lane == lane).expect("needs are those of a lane of ours");
        let state = self.seats[index].state_mut();
        let Some(partition) = state.and_then(|state| state.resend_to(offset, &mut self.loads)) else { return };
        metrics::lane(lane).resent.inc();
        let Shared { log, topics, .. } = self.shared.clone();
        self.under_way.push(Box::pin(async move {
            let to = topics.work.partition(partition);
            let again = fetch::work_record(&*log, &topics.input.partition(lane), offset, round).await;
            Happening::Resent(match again {
                Ok(Some(batch)) => append(&*log, &to, batch).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            })
        }));
    }
}

async fn append(log: &dyn Log, to: &TopicPartition, batch: Batch) -> Result<(), Error> {
    log.append(to, batch).await?.await.map(drop)
}
