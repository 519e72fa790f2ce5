//! How scarce connections are.
//!
//! Must not know what they carry. Invariant: a permit is held for as long as its connection lives.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The connections that may be open at once.
#[derive(Clone)]
pub(super) struct Pressure {
    permits: Arc<Semaphore>,
    limit: usize,
}

impl Pressure {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limit)),
            limit,
        }
    }

    /// Waits until another connection may be taken; the others wait in the listener's queue.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Whether more than 80 % are taken (DESIGN D7): only then is slowness a reason to end anything.
    pub(super) fn is_high(&self) -> bool {
        self.permits.available_permits() < self.limit / 5
    }
}
