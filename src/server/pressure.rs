//! How scarce connections are, and whether one is in use.
//!
//! Must not know what they carry. Invariant: a permit is held for as long as its connection lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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

/// The use that one connection is put to.
#[derive(Clone, Default)]
pub(super) struct Usage {
    open: Arc<AtomicUsize>,
    begun: Arc<AtomicU64>,
}

/// A request that has not ended, its answer's body included.
pub(super) struct InUse(Arc<AtomicUsize>);

impl Usage {
    /// Another request has begun.
    pub(super) fn begin(&self) -> InUse {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        InUse(Arc::clone(&self.open))
    }

    /// How many requests have begun, unless one is still open.
    pub(super) fn idle_since(&self) -> Option<u64> {
        (self.open.load(Ordering::Relaxed) == 0).then(|| self.begun.load(Ordering::Relaxed))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
