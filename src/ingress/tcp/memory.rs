//! What one connection takes of the memory that all of them have for unfinished frames.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A share that grows and shrinks. What was read once without a share is owed until there is room.
#[derive(Debug)]
pub(super) struct Memory {
    all: Arc<Semaphore>,
    share: Option<OwnedSemaphorePermit>,
    owed: u32,
}

impl Memory {
    pub(super) fn new(all: Arc<Semaphore>) -> Self {
        Self { all, share: None, owed: 0 }
    }

    /// Makes the share cover so many bytes: at once where it shrinks or there is room, else after
    /// [`Memory::wait`].
    pub(super) fn cover(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let has = self.share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.owed = 0;
        match bytes.checked_sub(u32::try_from(has).unwrap_or(u32::MAX)) {
            Some(0) => {}
            Some(more) => match Arc::clone(&self.all).try_acquire_many_owned(more) {
                Ok(permit) => self.add(permit),
                Err(_) => self.owed = more,
            },
            None if bytes == 0 => self.share = None,
            None => drop(self.share.as_mut().and_then(|share| share.split(has - bytes as usize))),
        }
    }

    /// Waits until nothing is owed. Cancel-safe.
    pub(super) async fn wait(&mut self) {
        if self.owed == 0 {
            return;
        }
        // Nobody closes it; if somebody did, there would be no bound left to keep.
        if let Ok(permit) = Arc::clone(&self.all).acquire_many_owned(self.owed).await {
            self.add(permit);
        }
        self.owed = 0;
    }

    fn add(&mut self, permit: OwnedSemaphorePermit) {
        match &mut self.share {
            Some(share) => share.merge(permit),
            None => self.share = Some(permit),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_share_grows_shrinks_and_waits() {
        let all = Arc::new(Semaphore::new(10));
        let (mut one, mut other) = (Memory::new(all.clone()), Memory::new(all.clone()));
        one.cover(6);
        other.cover(3);
        assert_eq!(all.available_permits(), 1);
        other.cover(6);
        assert_eq!(other.wait().now_or_never(), None, "there is no room");
        one.cover(4);
        assert_eq!(other.wait().now_or_never(), Some(()));
        assert_eq!(all.available_permits(), 0);
        one.cover(0);
        drop(other);
        assert_eq!(all.available_permits(), 10);
    }
}
