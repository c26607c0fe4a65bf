//! The pure ordering core: no clock, no IO, no runtime, no randomness that shows.
//!
//! [`Lane`] says which record may leave when; resequence and deliver both stand on it.
//! [`Identities`] finds duplicates, [`Watermark`] the low end of what is done, [`Backoff`],
//! [`Breaker`] and [`Overdue`] say when to try again; [`batch`] is the state machine of staggered
//! batches. Time is always handed in.

mod backoff;
pub mod batch;
mod bits;
mod breaker;
mod group;
mod identities;
mod invariant;
mod lane;
mod overdue;
mod pace;
mod released;
mod runs;
mod slots;
mod watermark;

pub use backoff::{Backoff, retry_after};
pub use breaker::{Breaker, BreakerPolicy, Pass};
pub use group::Group;
pub use identities::{Identities, Verdict};
pub use invariant::{Invariant, Violated, set_strict, violated};
pub use lane::{Admission, Lane, Part, Resume, Standing, Window};
pub use overdue::Overdue;
pub use pace::Pace;
pub use released::{InvalidReleased, Released};
pub use slots::MAX_PARTS;
pub use watermark::{Ticket, Watermark};
