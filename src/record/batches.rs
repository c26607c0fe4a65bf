//! Staggered batches as they stand on the log: the commands that start and steer one, its state,
//! its events, and the body that a worker gets for an item.
//!
//! A command is JSON on `batches[p]`, under the batch's id, with its `type` first. The state is a
//! packed record on `batch-state[p]`: under the id what changes, under `ID:start` the
//! [`StartProcessing`] as it came, until the batch is forgotten.

mod command;
mod event;
mod start;
mod state;

pub use command::{Change, Command, Selection};
pub use event::{EventType, all_done, refused, stalled, time, work_order, work_order_completed};
pub use start::{Defaults, Items, Mode, OnItemFailure, Refused, Request, StartProcessing, Upload, is_id};
pub use state::{
    APPLIED_KEPT, BatchRecord, BatchState, Completion, Counts, ItemState, ItemStatus, MOST_RUNNING, Open, Outcome,
    Phase, Rules, STATUSES,
};

/// The key on `batch-state` under which the [`StartProcessing`] of a batch is kept.
#[must_use]
pub fn start_key(id: &str) -> String {
    format!("{id}:start")
}
