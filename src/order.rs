//! The pure ordering core: no clock, no IO, no runtime, no randomness that shows.
//!
//! [`Lane`] says which record may leave when; resequence and deliver both stand on it.
//! [`Identities`] finds duplicates, [`Watermark`] the low end of what is done, [`Backoff`],
//! [`Breaker`] and [`Overdue`] say when to try again. Time is always handed in.

mod bits;
mod group;
mod invariant;
mod lane;
mod released;
mod runs;
mod slots;

pub use group::Group;
pub use invariant::{Invariant, Violated, set_strict, violated};
pub use lane::{Admission, Lane, Part, Resume, Standing, Window};
pub use released::{InvalidReleased, Released};
