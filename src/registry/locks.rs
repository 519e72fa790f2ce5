//! What an operation holds while it changes a repository: the one way to any lock.
//!
//! Must not know what is changed. Invariant: locks are taken in one order, so that no two operations wait for each other:
//!
//! 1. the upload session (`sessions`): one request works on it
//! 2. the tags of a repository
//! 3. the changes of a repository: shared by all operations that change it, exclusive for a task that needs it quiet, and for
//!    the removal of all of it
//! 4. digests, all of an operation together and in ascending order: shared by all that link or name them (blob PUT, mount,
//!    manifest PUT), exclusive for those that remove them (DELETE, sweep)
//! 5. what the store waits for inside one call
//! 6. the index's queue, and tables in memory: held across no wait
//!
//! For 2 to 4 the compiler keeps the order. [`Locks::hold`] takes the [`Actor`], which cannot be cloned, and returns a
//! [`Held`] that has nothing yet. Each step takes the `Held` and returns one of a later stage; no stage has a way back, and
//! only the last two can be given to `Core::commit`. The tables of locks are private to this file.
//!
//! Locks of one repository come before those that many share, so an operation that waits for a busy repository holds nothing
//! that another repository needs. The index's thread and the store's committer take none of these locks.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::error::RegistryError;
use super::event::Actor;
use super::index_sync::gate::{Change, IndexGate};
use crate::clock::Clock;
use crate::oci::{Digest, RepositoryName};

/// How long a request waits for one lock. Slow holders finish within it (the longest look through a repository on a disk of
/// many seeks takes half a minute). After it, the client is told to come again, and the locks that the request holds are
/// released. A task, which has no client, waits as long as it takes.
const WAIT_MAX: Duration = Duration::from_mins(2);

/// A table with fewer locks is not searched for unused ones.
const SWEEP_AT: usize = 1_024;

/// All locks of a registry.
pub(super) struct Locks {
    clock: Arc<dyn Clock>,
    gate: Arc<IndexGate>,
    tags: Table,
    repositories: Table,
    digests: Table,
    waiting: Mutex<Waiting>,
    removals: Removals,
}

/// Whether others may hold the same lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    /// Others that share it may.
    Shared,
    /// No other may.
    Exclusive,
}

/// What one actor holds, to change one repository. `Stage` says how far it has come.
pub(super) struct Held<'a, Stage> {
    /// Dropped first: what a broken change leaves in doubt is noted before another change may begin.
    pub(super) change: Change<'a>,
    guards: Vec<Guards>,
    removal: Option<Removal<'a>>,
    actor: Actor<'a>,
    locks: &'a Locks,
    stage: PhantomData<Stage>,
}

/// Stage: no lock yet.
pub(super) struct Nothing;

/// Stage: the tags.
pub(super) struct Tags;

/// Stage: the right to change the repository; tags can be removed.
pub(super) struct Changing;

/// Stage: digests as well; everything can be changed.
pub(super) struct Digests;

/// Stages before [`Changing`].
pub(super) trait BeforeChange {}
impl BeforeChange for Nothing {}
impl BeforeChange for Tags {}

/// Stages that can be given to a commit.
pub(super) trait MayCommit {}
impl MayCommit for Changing {}
impl MayCommit for Digests {}

/// Keeps changes of a repository from beginning.
pub struct Quiet {
    _guards: Guards,
}

/// A moment at which nothing was being removed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calm(Option<u64>);

impl Locks {
    pub(super) fn new(clock: Arc<dyn Clock>, gate: Arc<IndexGate>) -> Self {
        Self {
            clock,
            gate,
            tags: Table::default(),
            repositories: Table::default(),
            digests: Table::default(),
            waiting: Mutex::default(),
            removals: Removals::default(),
        }
    }

    /// The beginning of every way to a lock: `actor` is going to change `repository`.
    pub(super) fn hold<'a>(
        &'a self,
        actor: Actor<'a>,
        repository: &RepositoryName,
    ) -> Held<'a, Nothing> {
        self.nothing(actor, self.gate.change(Some(repository)))
    }

    /// The right to change files of our own, outside of every repository: no lock.
    pub(super) fn hold_own_files<'a>(&'a self, actor: Actor<'a>) -> Held<'a, Changing> {
        self.nothing(actor, self.gate.change(None))
    }

    /// Waits until no change of `repository` is under way, and keeps others from beginning.
    pub(super) async fn quiet(
        &self,
        actor: Actor<'_>,
        repository: &RepositoryName,
    ) -> Result<Quiet, RegistryError> {
        let wanted = [(repository, Mode::Exclusive)];
        let guards = self.take(self.repositories.locks_of(wanted), &actor);
        Ok(Quiet {
            _guards: guards.await?,
        })
    }

    /// For how long the one that waits longest has waited.
    pub(super) fn longest_wait(&self) -> Option<Duration> {
        let first = self.waiting().began.values().next().copied()?;
        Some(self.clock.elapsed().saturating_sub(first))
    }

    /// A moment to ask [`Locks::is_calm_since`] about: what is looked up after it, without a lock, is still there for an
    /// operation that has locked its digests since, if nothing was removed in between.
    pub(super) fn calm(&self) -> Calm {
        // In this order: a removal that begins in between shows in the second number.
        let ended = self.removals.ended.load(Ordering::SeqCst);
        let begun = self.removals.begun.load(Ordering::SeqCst);
        Calm((begun == ended).then_some(begun))
    }

    /// Whether no removal was under way at that moment, and none has begun since.
    pub(super) fn is_calm_since(&self, calm: Calm) -> bool {
        calm.0 == Some(self.removals.begun.load(Ordering::SeqCst))
    }

    fn nothing<'a, Stage>(&'a self, actor: Actor<'a>, change: Change<'a>) -> Held<'a, Stage> {
        Held {
            change,
            guards: Vec::new(),
            removal: None,
            actor,
            locks: self,
            stage: PhantomData,
        }
    }

    /// Takes `wanted`, in this order.
    async fn take(&self, wanted: Wanted, actor: &Actor<'_>) -> Result<Guards, RegistryError> {
        let mut guards = Guards::default();
        for (lock, mode) in wanted {
            match mode {
                Mode::Shared => guards
                    .shared
                    .push(match Arc::clone(&lock).try_read_owned() {
                        Ok(guard) => guard,
                        Err(_) => self.in_time(lock.read_owned(), actor).await?,
                    }),
                Mode::Exclusive => {
                    guards
                        .exclusive
                        .push(match Arc::clone(&lock).try_write_owned() {
                            Ok(guard) => guard,
                            Err(_) => self.in_time(lock.write_owned(), actor).await?,
                        });
                }
            }
        }
        Ok(guards)
    }

    async fn in_time<G>(
        &self,
        lock: impl Future<Output = G>,
        actor: &Actor<'_>,
    ) -> Result<G, RegistryError> {
        let _counted = self.count_wait();
        if !actor.has_client() {
            return Ok(lock.await);
        }
        tokio::select! {
            guard = lock => Ok(guard),
            () = self.clock.sleep(WAIT_MAX) => Err(RegistryError::Busy),
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

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A table of numbers stays whole, whatever panics.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a, Stage> Held<'a, Stage> {
    /// Who holds it.
    pub(super) fn actor(&self) -> &Actor<'a> {
        &self.actor
    }

    fn and<Next>(self, guards: Guards) -> Held<'a, Next> {
        let mut all = self.guards;
        all.push(guards);
        Held {
            change: self.change,
            guards: all,
            removal: self.removal,
            actor: self.actor,
            locks: self.locks,
            stage: PhantomData,
        }
    }
}

impl<'a> Held<'a, Nothing> {
    /// The tags of the repository as well: exclusive, they do not move.
    pub(super) async fn tags(self, mode: Mode) -> Result<Held<'a, Tags>, RegistryError> {
        let locks = self.locks;
        let wanted = self.change.repository().map(|name| (name, mode));
        let wanted = locks.tags.locks_of(wanted);
        let guards = locks.take(wanted, &self.actor).await?;
        Ok(self.and(guards))
    }
}

impl<'a, Stage: BeforeChange> Held<'a, Stage> {
    /// The right to change the repository as well, which is not quiet from now on.
    pub(super) async fn changing(self) -> Result<Held<'a, Changing>, RegistryError> {
        let (locks, repository) = (self.locks, self.change.repository());
        let wanted = repository.map(|name| (name, Mode::Shared));
        let wanted = locks.repositories.locks_of(wanted);
        let guards = locks.take(wanted, &self.actor).await?;
        Ok(self.and(guards))
    }

    /// The same, and no other change of the repository beside it, for removing all of it. What others have looked up in the
    /// repository before is looked up again.
    pub(super) async fn changing_alone(self) -> Result<Held<'a, Changing>, RegistryError> {
        let (locks, repository) = (self.locks, self.change.repository());
        let wanted = repository.map(|name| (name, Mode::Exclusive));
        let wanted = locks.repositories.locks_of(wanted);
        let guards = locks.take(wanted, &self.actor).await?;
        let mut held = self.and(guards);
        held.removal = Some(locks.removals.begin());
        Ok(held)
    }
}

impl<'a> Held<'a, Changing> {
    /// These digests as well, for linking or naming them: none of them is removed meanwhile.
    pub(super) async fn sharing(
        self,
        digests: impl IntoIterator<Item = &Digest>,
    ) -> Result<Held<'a, Digests>, RegistryError> {
        self.sharing_and_removing(digests, []).await
    }

    /// This digest as well, for removing it: no operation links or names it meanwhile.
    pub(super) async fn removing(
        self,
        digest: &Digest,
    ) -> Result<Held<'a, Digests>, RegistryError> {
        self.sharing_and_removing([], [digest]).await
    }

    /// [`Held::sharing`] and [`Held::removing`] for one operation that does both. A digest in both is removed.
    pub(super) async fn sharing_and_removing(
        self,
        shared: impl IntoIterator<Item = &Digest>,
        removed: impl IntoIterator<Item = &Digest>,
    ) -> Result<Held<'a, Digests>, RegistryError> {
        let locks = self.locks;
        let removed: Vec<&Digest> = removed.into_iter().collect();
        let is_removal = !removed.is_empty();
        let removed = removed.into_iter().map(|digest| (digest, Mode::Exclusive));
        let shared = shared.into_iter().map(|digest| (digest, Mode::Shared));
        let wanted = locks.digests.locks_of(shared.chain(removed));
        let guards = locks.take(wanted, &self.actor).await?;
        let mut held = self.and(guards);
        if is_removal {
            held.removal = Some(locks.removals.begin());
        }
        Ok(held)
    }
}

#[derive(Default)]
struct Guards {
    shared: Vec<OwnedRwLockReadGuard<()>>,
    exclusive: Vec<OwnedRwLockWriteGuard<()>>,
}

/// How many removals have begun and ended.
#[derive(Default)]
struct Removals {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A removal under way.
struct Removal<'a>(&'a Removals);

impl Removals {
    fn begin(&self) -> Removal<'_> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Removal(self)
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// Locks in ascending order.
type Wanted = Vec<(Arc<RwLock<()>>, Mode)>;

/// Locks of one kind. Each name has its own, so operations wait for each other only where they want the same.
struct Table(Mutex<Entries>);

struct Entries {
    locks: HashMap<u64, Weak<RwLock<()>>>,
    sweep_at: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self(Mutex::new(Entries {
            locks: HashMap::new(),
            sweep_at: SWEEP_AT,
        }))
    }
}

impl Table {
    /// In ascending order. A name that is wanted in both modes is locked exclusively.
    fn locks_of<T: Hash>(&self, wanted: impl IntoIterator<Item = (T, Mode)>) -> Wanted {
        let mut modes = BTreeMap::new();
        for (name, mode) in wanted {
            let strictest = modes.entry(key_of(&name)).or_insert(mode);
            *strictest = (*strictest).max(mode);
        }
        let modes = modes.into_iter();
        modes.map(|(key, mode)| (self.lock_of(key), mode)).collect()
    }

    fn lock_of(&self, key: u64) -> Arc<RwLock<()>> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = entries.locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(RwLock::new(()));
        entries.locks.insert(key, Arc::downgrade(&lock));
        if entries.locks.len() > entries.sweep_at {
            entries.locks.retain(|_, lock| lock.strong_count() > 0);
            entries.sweep_at = (entries.locks.len() * 2).max(SWEEP_AT);
        }
        lock
    }
}

/// Names that share a key by chance share a lock, which is slower and no less safe.
fn key_of<T: Hash>(name: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// When each wait began, by its number.
#[derive(Default)]
struct Waiting {
    next: u64,
    began: BTreeMap<u64, Duration>,
}

/// A wait; dropped when it ends.
struct Counted<'a> {
    locks: &'a Locks,
    number: u64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.locks.waiting().began.remove(&self.number);
    }
}

#[cfg(test)]
#[path = "locks_tests.rs"]
mod tests;
