//! How much of the local disk all uploads to a bucket hold, and how much each may hold.
//!
//! Each may hold half of what is free, so some is always free for others: clients that send slowly, or not at all, keep nobody
//! waiting. Must not know what is held. Invariant: what is in use is the sum of all shares.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The room of a spool.
pub(super) struct SpoolRoom {
    limit_bytes: u64,
    used_bytes: AtomicU64,
    /// By the directory of the session.
    shares: Mutex<HashMap<PathBuf, Arc<Share>>>,
    freed: Notify,
}

/// What one session holds.
#[derive(Default)]
pub(super) struct Share {
    held_bytes: AtomicU64,
}

impl SpoolRoom {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            used_bytes: AtomicU64::new(0),
            shares: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// The share of the session in `directory`; an empty one if it has none yet.
    pub(super) fn share(&self, directory: &Path) -> Arc<Share> {
        let mut shares = self.lock();
        if let Some(share) = shares.get(directory) {
            return Arc::clone(share);
        }
        let share = Arc::<Share>::default();
        shares.insert(directory.to_owned(), Arc::clone(&share));
        share
    }

    /// The session of `share` holds so much now.
    pub(super) fn set(&self, share: &Share, held_bytes: u64) {
        let before = share.held_bytes.swap(held_bytes, Ordering::Relaxed);
        if held_bytes >= before {
            let added = held_bytes - before;
            self.used_bytes.fetch_add(added, Ordering::Relaxed);
        } else {
            let freed = before - held_bytes;
            self.used_bytes.fetch_sub(freed, Ordering::Relaxed);
            self.freed.notify_waiters();
        }
    }

    /// The session in `directory` is gone.
    pub(super) fn forget(&self, directory: &Path) {
        let share = self.lock().remove(directory);
        if let Some(share) = share {
            self.set(&share, 0);
        }
    }

    /// How much one session may hold now, if that is more than it may hold in any case.
    pub(super) fn allowance_bytes(&self) -> u64 {
        let used_bytes = self.used_bytes.load(Ordering::Relaxed);
        self.limit_bytes.saturating_sub(used_bytes) / 2
    }

    /// Resolves when some room comes free after this call.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Share>>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_hold_much_leave_room_for_others() {
        let room = SpoolRoom::new(1_000_000);
        for number in 0..20 {
            let share = room.share(Path::new(&number.to_string()));
            // It takes all that it may.
            let allowed = room.allowance_bytes();
            assert!(allowed > 0, "session {number} gets nothing");
            room.set(&share, allowed);
        }
        assert!(room.used_bytes() <= 1_000_000);
        for number in 0..20 {
            room.forget(Path::new(&number.to_string()));
        }
        assert_eq!((room.used_bytes(), room.allowance_bytes()), (0, 500_000));
    }
}
