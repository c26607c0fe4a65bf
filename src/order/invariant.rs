//! What must always hold, each with an id that logs, metrics and `docs/invariants.md` share.
//!
//! A broken invariant is a defect of ours, never of an input. In tests, simulation and debug
//! builds it panics where it is found; in production it comes back as [`Violated`], which a stage
//! counts and halts its lane with. The process goes on, and so do the other lanes.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// The invariants by name; `id` and `sentence` are public, so an id is never given a new meaning.
macro_rules! invariants {
    ($($variant:ident $id:literal $sentence:literal;)*) => {
        /// Which invariant. Its id appears in logs and metrics, its sentence in `docs/invariants.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Invariant { $(#[doc = $sentence] $variant,)* }

        impl Invariant {
            /// All of them, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable id.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$variant => $id,)* }
            }

            /// What holds, in one sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

invariants! {
    OffsetsIncrease "lane-offsets-increase" "Records are admitted to a lane in strictly increasing offset order.";
    PartsInRange "lane-parts-in-range" "A record has at least 1 and at most 64 parts.";
    LeavesOnce "lane-leaves-once" "A part leaves only after it was offered, and leaves once.";
    HeadsOnly "lane-heads-only" "Of each sequence group only the earliest part that has not left may be ready, taken or parked.";
    ChainsInOrder "lane-chains-in-order" "The chain of a sequence group holds exactly its parts that have not left, in input order.";
    NothingForgotten "lane-nothing-forgotten" "Every part that may leave is queued, taken or parked, exactly once.";
    FrontierUnreleased "lane-frontier-unreleased" "The record at the frontier is not released, and every record below it is.";
    CountsAgree "lane-counts-agree" "The counters of a lane equal what its records say.";
    ReleasedSetAgrees "lane-released-set-agrees" "The released set names exactly the parts above the frontier that have left.";
    OffsetsFound "lane-offsets-found" "Every record above the frontier is found by its offset, and no hole is.";
    IdentitiesIncrease "identities-increase" "Identities are judged in strictly increasing offset order, and recorded after they were judged.";
    TicketsKnown "watermark-tickets-known" "A ticket is done once, and only after it was given out.";
    PositionsIncrease "watermark-positions-increase" "Positions of a log are pushed in strictly increasing order.";
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// A broken invariant, found before anything was changed by it: the lane has to halt with this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {invariant} is broken: {detail}. {sentence}", sentence = .invariant.sentence())]
pub struct Violated {
    /// Which one.
    pub invariant: Invariant,
    /// What was found instead, for the log.
    pub detail: String,
}

/// Whether to panic. Read only once an invariant is already broken, so it costs nothing.
static STRICT: AtomicBool = AtomicBool::new(cfg!(debug_assertions));

/// Chooses, for the whole process, between panicking (`true`: the default of debug builds, and
/// what a simulation built for speed sets) and returning [`Violated`].
pub fn set_strict(strict: bool) {
    STRICT.store(strict, Ordering::Relaxed);
}

/// The cold half of [`invariant!`](crate::invariant).
///
/// # Panics
///
/// Where strictness is on.
#[cold]
#[inline(never)]
#[must_use]
pub fn violated(invariant: Invariant, detail: fmt::Arguments<'_>) -> Violated {
    let violated = Violated { invariant, detail: detail.to_string() };
    assert!(!STRICT.load(Ordering::Relaxed), "{violated}");
    violated
}

/// `invariant!(Id, condition, "what was found", ...)`: goes on if the condition holds; else panics
/// in tests and simulation, and in production returns `Err(Violated)` from the function around it.
#[macro_export]
macro_rules! invariant {
    ($id:ident, $condition:expr, $($detail:tt)+) => {
        if !$condition {
            return Err($crate::order::violated($crate::order::Invariant::$id, format_args!($($detail)+)).into());
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_id_with_its_sentence() {
        let page = include_str!("../../docs/invariants.md");
        for invariant in Invariant::ALL {
            let row = format!("| `{}` | {} |", invariant.id(), invariant.sentence());
            assert!(page.contains(&row), "docs/invariants.md lacks this line:\n{row}");
        }
    }

    #[test]
    fn ids_are_distinct() {
        let ids: std::collections::BTreeSet<_> = Invariant::ALL.iter().map(|i| i.id()).collect();
        assert_eq!(ids.len(), Invariant::ALL.len());
    }
}
