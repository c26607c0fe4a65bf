//! Bodies expanded in one go: small ones at once, others on threads of their own.
//!
//! A MiB takes some milliseconds, and a few bytes may become one. Done where requests are served
//! it would hold up everybody else's; so that is left as soon as it turns out to be long, for at
//! most [`Expanders::new`]'s number of threads.

use std::num::NonZero;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Options;
use super::body;
use super::decode::{self, Encoding};
use super::problem::{Code, Problem};

/// What is expanded at once: some ten microseconds, as long as it takes to hand a body over.
const AT_ONCE: usize = 16 * 1024;

/// Those who expand bodies.
#[derive(Debug)]
pub(super) struct Expanders(Arc<Semaphore>);

impl Expanders {
    /// As many as half of the processor's cores, so that whatever comes compressed leaves the rest
    /// to everybody else.
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self(Arc::new(Semaphore::new(cores.div_ceil(2))))
    }

    /// Expands a whole body, never beyond what a message may have. Dropping it gives the result up,
    /// and its thread when that is done.
    ///
    /// # Errors
    ///
    /// [`Code::BodyTooLarge`] where it expands to more, [`Code::InvalidBody`] where it is not what
    /// the encoding says, [`Code::Overloaded`] where no thread was free for long.
    pub(super) async fn expand(
        &self,
        encoding: Encoding,
        compressed: &Bytes,
        options: &Options,
    ) -> Result<Bytes, Problem> {
        let most = options.max_body;
        if compressed.len() <= AT_ONCE {
            let soon = decode::whole(encoding, compressed, most.min(AT_ONCE))?;
            if let Some(expanded) = soon {
                return Ok(expanded);
            }
        }
        let place = timeout(options.body_timeout, Arc::clone(&self.0).acquire_owned());
        let Ok(Ok(place)) = place.await else {
            return Err(Problem::new(Code::Overloaded, "too many compressed bodies are being received; try again"));
        };
        let compressed = compressed.clone();
        let expanding = tokio::task::spawn_blocking(move || {
            let expanded = decode::whole(encoding, &compressed, most);
            drop(place);
            expanded
        });
        let expanded = expanding.await.map_err(|_| Problem::new(Code::Draining, "the process is stopping"))??;
        expanded.ok_or_else(|| body::too_large(options))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::time::Instant;

    use super::*;

    fn gzip(bytes: &[u8]) -> Bytes {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).expect("memory takes it");
        encoder.finish().expect("memory takes it").into()
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_of_every_length_expand_or_are_too_large() {
        let options = Options { max_body: 3 * AT_ONCE, ..Options::default() };
        let expanders = Expanders::new();
        for length in [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE - 1, 3 * AT_ONCE] {
            for monotonous in [true, false] {
                let body: Vec<u8> = (0..length).map(|_| if monotonous { b'a' } else { fastrand::u8(..) }).collect();
                let expanded = expanders.expand(Encoding::Gzip, &gzip(&body), &options).await;
                assert_eq!(expanded.map_err(|problem| problem.code()), Ok(Bytes::from(body)));
            }
        }
        for length in [3 * AT_ONCE + 1, 50_000_000] {
            let refused = expanders.expand(Encoding::Gzip, &gzip(&vec![0; length]), &options).await;
            assert_eq!(refused.map_err(|problem| problem.code()), Err(Code::BodyTooLarge), "{length}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn small_bodies_pass_by_those_that_wait_for_a_thread() {
        let options = Options::default();
        let expanders = Expanders(Arc::new(Semaphore::new(0)));
        let begun = Instant::now();
        let small = expanders.expand(Encoding::Gzip, &gzip(b"small"), &options).await;
        assert_eq!((small.map_err(|problem| problem.code()), begun.elapsed().as_millis()), (Ok("small".into()), 0));
        let large = expanders.expand(Encoding::Gzip, &gzip(&[0; 2 * AT_ONCE]), &options).await;
        assert_eq!(large.map_err(|problem| problem.code()), Err(Code::Overloaded));
        assert_eq!(begun.elapsed(), options.body_timeout);
    }
}
