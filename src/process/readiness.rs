//! Readiness as a set of latches: a process is ready once every one of them has been let go, and
//! stays so. That a lane halts or a destination is down later makes no process unready: restarting
//! or passing it over would help nobody.

use std::sync::{Arc, Weak};

/// Tells whether all latches have been let go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness(Weak<()>);

/// Keeps a process from being ready until it is dropped.
#[derive(Clone, Debug)]
pub struct Latch(#[allow(dead_code, reason = "its drop is its use")] Arc<()>);

impl Readiness {
    /// A readiness with its first latch, of which clones are further ones.
    #[must_use]
    pub fn new() -> (Self, Latch) {
        let held = Arc::new(());
        (Self(Arc::downgrade(&held)), Latch(held))
    }

    /// Whether every latch has been dropped.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.strong_count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_latch_makes_ready() {
        let (readiness, first) = Readiness::new();
        let second = first.clone();
        drop(first);
        assert!(!readiness.is_ready());
        drop(second);
        assert!(readiness.is_ready());
    }
}
