//! Locks by content of a name, and the one order in which the registry takes them.
//!
//! Must not know what is locked. Invariants: the locks of one table that a request needs are taken together, in ascending
//! order; and whoever holds a lock takes only locks that stand behind it in this list:
//!
//! 1. the upload session (`sessions`): one request works on it
//! 2. the tags of a repository (`Registry::tag_locks`)
//! 3. the changes of a repository (`changes`): shared by who changes it, alone for who needs it quiet
//! 4. digests (`Registry::digest_locks`)
//! 5. what the store waits for inside one call: the bytes of an upload in flight, a place to write, the committer's queue
//! 6. the index's queue, and tables in memory: held for no longer than it takes to look something up, and across no wait
//!
//! What belongs to one repository thus stands before what many share: whoever waits for a repository that is busy holds
//! nothing that another one needs. Whoever needs a repository quiet, or reads a whole one, takes no lock in front of its
//! own. The index's thread and the committer take none of these locks, so a request may wait for either with any of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::clock::Clock;

/// How long a request waits for one lock. Holders that are slow finish within it (the longest look through a repository on
/// a disk of many seeks takes half a minute); after it the client is told to come again, and whatever it holds is free.
const WAIT_MAX: Duration = Duration::from_mins(2);

/// Below so many locks the table is not looked through for those that nobody holds any more.
const SWEEP_AT: usize = 1_024;

/// Locks by name. Each name has its own, so that only those wait for each other who want the same.
pub(super) struct NameLocks {
    clock: Arc<dyn Clock>,
    table: Mutex<Table>,
    /// When those who wait began to, by their number.
    waiting: Mutex<Waiting>,
}

struct Table {
    locks: HashMap<u64, Weak<RwLock<()>>>,
    sweep_at: usize,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    began: BTreeMap<u64, Duration>,
}

/// A lock was not to be had in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WaitedTooLong;

impl NameLocks {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let table = Table {
            locks: HashMap::new(),
            sweep_at: SWEEP_AT,
        };
        Self {
            clock,
            table: Mutex::new(table),
            waiting: Mutex::default(),
        }
    }

    /// Holds the locks of all `names` for itself alone.
    pub(super) async fn exclusive<T: Hash>(
        &self,
        names: impl IntoIterator<Item = T>,
    ) -> Result<Vec<OwnedRwLockWriteGuard<()>>, WaitedTooLong> {
        let mut guards = Vec::new();
        for lock in self.locks_of(names) {
            guards.push(match Arc::clone(&lock).try_write_owned() {
                Ok(guard) => guard,
                Err(_) => self.in_time(lock.write_owned()).await?,
            });
        }
        Ok(guards)
    }

    /// Holds the locks of all `names` together with others who do not want them for themselves.
    pub(super) async fn shared<T: Hash>(
        &self,
        names: impl IntoIterator<Item = T>,
    ) -> Result<Vec<OwnedRwLockReadGuard<()>>, WaitedTooLong> {
        let mut guards = Vec::new();
        for lock in self.locks_of(names) {
            guards.push(match Arc::clone(&lock).try_read_owned() {
                Ok(guard) => guard,
                Err(_) => self.in_time(lock.read_owned()).await?,
            });
        }
        Ok(guards)
    }

    /// As [`NameLocks::exclusive`] of one name, however long it takes: for who has no client that waits.
    pub(super) async fn exclusive_at_last<T: Hash>(&self, name: T) -> OwnedRwLockWriteGuard<()> {
        let _counted = self.count_wait();
        self.lock_of(key_of(&name)).write_owned().await
    }

    /// For how long the one who waits longest has waited.
    pub(super) fn longest_wait(&self) -> Option<Duration> {
        let first = self.waiting().began.values().next().copied()?;
        Some(self.clock.elapsed().saturating_sub(first))
    }

    async fn in_time<G>(&self, lock: impl Future<Output = G>) -> Result<G, WaitedTooLong> {
        let _counted = self.count_wait();
        tokio::select! {
            guard = lock => Ok(guard),
            () = self.clock.sleep(WAIT_MAX) => Err(WaitedTooLong),
        }
    }

    fn count_wait(&self) -> Counted<'_> {
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.began.insert(number, self.clock.elapsed());
        Counted {
            locks: self,
            number,
        }
    }

    /// In ascending order.
    fn locks_of<T: Hash>(&self, names: impl IntoIterator<Item = T>) -> Vec<Arc<RwLock<()>>> {
        let wanted: BTreeSet<u64> = names.into_iter().map(|name| key_of(&name)).collect();
        wanted.into_iter().map(|key| self.lock_of(key)).collect()
    }

    fn lock_of(&self, key: u64) -> Arc<RwLock<()>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = table.locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(RwLock::new(()));
        table.locks.insert(key, Arc::downgrade(&lock));
        if table.locks.len() > table.sweep_at {
            table.locks.retain(|_, lock| lock.strong_count() > 0);
            table.sweep_at = (table.locks.len() * 2).max(SWEEP_AT);
        }
        lock
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A table of numbers stays whole whoever panics.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits; dropped when he has what he wants, or has gone away.
struct Counted<'a> {
    locks: &'a NameLocks,
    number: u64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.locks.waiting().began.remove(&self.number);
    }
}

/// Names that share a key by chance share a lock, which is slower and no less safe.
fn key_of<T: Hash>(name: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn locks() -> (ManualClock, NameLocks) {
        let clock = ManualClock::at_unix_secs(0);
        (clock.clone(), NameLocks::new(Arc::new(clock)))
    }

    #[tokio::test]
    async fn who_shares_waits_for_nobody_but_who_is_alone() {
        let (clock, locks) = locks();
        let first = locks.shared(["a", "b"]).await.unwrap();
        let second = locks.shared(["b", "c"]).await.unwrap();
        assert_eq!(locks.longest_wait(), None);
        let mut alone = Box::pin(locks.exclusive(["b"]));
        assert!(futures_util::poll!(&mut alone).is_pending());
        clock.advance(Duration::from_secs(7));
        assert_eq!(locks.longest_wait(), Some(Duration::from_secs(7)));
        drop((first, second));
        assert_eq!(alone.await.unwrap().len(), 1);
        assert_eq!(locks.longest_wait(), None);
    }

    #[tokio::test]
    async fn thousands_of_names_keep_only_their_own_from_others() {
        let (_, locks) = locks();
        let held = locks.shared((0..4_000).collect::<Vec<_>>()).await.unwrap();
        for other in 4_000..8_000 {
            let mut alone = Box::pin(locks.exclusive([other]));
            assert!(
                futures_util::poll!(&mut alone).is_ready(),
                "another name was held up"
            );
        }
        drop(held);
        let _last = locks.exclusive([9_000]).await.unwrap();
        let kept = locks.table.lock().unwrap().locks.len();
        assert!(kept <= 8_000 + 1, "locks that nobody holds pile up: {kept}");
    }

    #[tokio::test]
    async fn nobody_waits_for_ever_and_who_gives_up_holds_nothing() {
        let (clock, locks) = locks();
        let held = locks.exclusive(["b"]).await.unwrap();
        let mut both = Box::pin(locks.exclusive(["a", "b", "c"]));
        assert!(futures_util::poll!(&mut both).is_pending());
        clock.advance(WAIT_MAX);
        assert_eq!(both.await.err(), Some(WaitedTooLong));
        drop(held);
        assert_eq!(locks.exclusive(["a", "b", "c"]).await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn overlapping_sets_in_any_order_do_not_wait_for_each_other_for_ever() {
        let locks = Arc::new(locks().1);
        let mut tasks = Vec::new();
        for task in 0..16_u32 {
            let locks = Arc::clone(&locks);
            tasks.push(tokio::spawn(async move {
                for round in 0..50_u32 {
                    let names = (0..40).map(|name| (name * 7 + task * 13 + round) % 64);
                    let (mut alone, mut together) = (Vec::new(), Vec::new());
                    match task % 3 {
                        0 => alone = locks.exclusive(names.collect::<Vec<_>>()).await.unwrap(),
                        1 => {
                            let reversed = names.rev().collect::<Vec<_>>();
                            alone = locks.exclusive(reversed).await.unwrap();
                        }
                        _ => {
                            let reversed = names.rev().collect::<Vec<_>>();
                            together = locks.shared(reversed).await.unwrap();
                        }
                    }
                    tokio::task::yield_now().await;
                    drop((alone, together));
                }
            }));
        }
        for task in tasks {
            task.await.expect("ends");
        }
    }
}
