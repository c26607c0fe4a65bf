//! Where all chance comes from: one seed, one independent stream a purpose, so that a further draw
//! in one place changes nothing elsewhere.

use std::time::Duration;

use fastrand::Rng;

/// The seed of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance(pub u64);

impl Chance {
    /// The stream of this purpose.
    pub(crate) fn stream(self, purpose: &str) -> Rng {
        Rng::with_seed(mix(self.0, purpose.as_bytes()))
    }
}

/// FNV-1a with a finalizer: stable for ever, as committed seeds need it.
pub(crate) fn mix(seed: u64, bytes: &[u8]) -> u64 {
    let start = seed ^ 0xcbf2_9ce4_8422_2325;
    let hash = bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// One of these.
pub(crate) fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

/// True so often.
pub(crate) fn happens(rng: &mut Rng, chance: f64) -> bool {
    rng.f64() < chance
}

/// A time between two, short ones as likely as long ones of another order of magnitude.
pub(crate) fn scattered(rng: &mut Rng, least: Duration, most: Duration) -> Duration {
    let (least, most) = (least.as_secs_f64().ln(), most.as_secs_f64().ln());
    Duration::from_secs_f64(rng.f64().mul_add(most - least, least).exp())
}
