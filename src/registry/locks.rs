//! Locks by content of a name, spread over a fixed number of shards.
//!
//! Must not know what is locked. Invariant: several shards are always taken in ascending order, so that no two holders wait
//! for each other.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// How many shards: enough that unrelated names seldom meet, few enough that a manifest of thousands of layers takes a
/// bounded number of locks.
const SHARDS: usize = 1_024;

/// The locks.
pub(super) struct ShardLocks {
    shards: Vec<Arc<RwLock<()>>>,
}

impl ShardLocks {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Arc::default()).collect(),
        }
    }

    /// Holds the shards of all `names` for itself alone.
    pub(super) async fn exclusive<T: Hash>(
        &self,
        names: impl IntoIterator<Item = T>,
    ) -> Vec<OwnedRwLockWriteGuard<()>> {
        let mut guards = Vec::new();
        for shard in self.shards_of(names) {
            guards.push(Arc::clone(shard).write_owned().await);
        }
        guards
    }

    /// Holds the shards of all `names` together with others who do not want them for themselves.
    pub(super) async fn shared<T: Hash>(
        &self,
        names: impl IntoIterator<Item = T>,
    ) -> Vec<OwnedRwLockReadGuard<()>> {
        let mut guards = Vec::new();
        for shard in self.shards_of(names) {
            guards.push(Arc::clone(shard).read_owned().await);
        }
        guards
    }

    /// In ascending order.
    fn shards_of<T: Hash>(
        &self,
        names: impl IntoIterator<Item = T>,
    ) -> impl Iterator<Item = &Arc<RwLock<()>>> {
        let wanted: BTreeSet<usize> = names.into_iter().map(|name| shard_of(&name)).collect();
        wanted
            .into_iter()
            .filter_map(|shard| self.shards.get(shard))
    }
}

fn shard_of<T: Hash>(name: &T) -> usize {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    // The remainder is below SHARDS, so it fits.
    usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_shares_waits_for_nobody_but_who_is_alone() {
        let locks = ShardLocks::new();
        let first = locks.shared(["a", "b"]).await;
        let second = locks.shared(["b", "c"]).await;
        let mut alone = Box::pin(locks.exclusive(["b"]));
        assert!(futures_util::poll!(&mut alone).is_pending());
        drop((first, second));
        assert_eq!(alone.await.len(), 1);
    }

    #[tokio::test]
    async fn overlapping_sets_in_any_order_do_not_wait_for_each_other_for_ever() {
        let locks = Arc::new(ShardLocks::new());
        let mut tasks = Vec::new();
        for task in 0..16_u32 {
            let locks = Arc::clone(&locks);
            tasks.push(tokio::spawn(async move {
                for round in 0..50_u32 {
                    let names = (0..40).map(|name| (name * 7 + task * 13 + round) % 64);
                    let (mut alone, mut together) = (Vec::new(), Vec::new());
                    match task % 3 {
                        0 => alone = locks.exclusive(names.collect::<Vec<_>>()).await,
                        1 => alone = locks.exclusive(names.rev().collect::<Vec<_>>()).await,
                        _ => together = locks.shared(names.rev().collect::<Vec<_>>()).await,
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
