//! Changes of a repository, as the index must hear of them.
//!
//! Design: DESIGN D3. Must not know what changes. Invariant: a stamp is taken only while no change of its repository is
//! under way and all that were made are in the index's queue before it; so a stamp is never newer than the entries, and a
//! crash, a lost write and a change behind our back look the same: the stamp differs, and the repository is read again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use super::locks::{NameLocks, WaitedTooLong};
use crate::clock::Clock;
use crate::index::{Fact, Forget, Index};
use crate::oci::RepositoryName;

/// How many repositories may wait for their stamp, and how many are in doubt one by one: more than that change within a
/// second only in a storm. Those left out of the first are merely read again after a restart; instead of those left out of
/// the second, all are in doubt.
const WAITING_MAX: usize = 65_536;

/// Who is changing what.
pub(super) struct Changes {
    index: Arc<Index>,
    locks: NameLocks,
    waiting: Mutex<Waiting>,
    /// [`WAITING_MAX`], but in tests.
    pub(super) waiting_max: usize,
}

/// Repositories that need something done when they are quiet.
#[derive(Default)]
pub(super) struct Waiting {
    /// Their stamp is out of date.
    pub(super) stamp: BTreeSet<RepositoryName>,
    /// It is not known what a failed change has left.
    pub(super) reread: BTreeSet<RepositoryName>,
    /// The same of so many that any may be one of them.
    pub(super) is_all_in_doubt: bool,
}

/// The right to change a repository, which is not quiet as long as this lives.
pub(super) struct Turn<'a> {
    changes: &'a Changes,
    name: RepositoryName,
    shared: Vec<OwnedRwLockReadGuard<()>>,
}

/// A change under way. Dropped without being told what happened, the repository is read again.
pub(super) struct Change<'a> {
    changes: &'a Changes,
    name: RepositoryName,
    is_told: bool,
    _shared: Vec<OwnedRwLockReadGuard<()>>,
}

impl Changes {
    pub(super) fn new(index: Arc<Index>, clock: Arc<dyn Clock>) -> Self {
        Self {
            index,
            locks: NameLocks::new(clock),
            waiting: Mutex::default(),
            waiting_max: WAITING_MAX,
        }
    }

    /// Waits until `name` may be changed; nothing is announced yet. Digests are locked after this, not before.
    pub(super) async fn turn(&self, name: &RepositoryName) -> Result<Turn<'_>, WaitedTooLong> {
        let shared = self.locks.shared([name]).await?;
        Ok(Turn {
            changes: self,
            name: name.clone(),
            shared,
        })
    }

    /// Keeps changes of `name` from beginning, once those under way have ended, however long that takes.
    pub(super) async fn quiet(&self, name: &RepositoryName) -> OwnedRwLockWriteGuard<()> {
        self.locks.exclusive_at_last(name).await
    }

    /// The locks of repositories, to see how long somebody waits for one.
    pub(super) fn locks(&self) -> &NameLocks {
        &self.locks
    }

    /// Takes what waits for a stamp, and what must be read again.
    pub(super) fn take_waiting(&self) -> Waiting {
        std::mem::take(&mut *self.lock())
    }

    /// Whether `name` waits to be read again.
    pub(super) fn is_in_doubt(&self, name: &RepositoryName) -> bool {
        let waiting = self.lock();
        waiting.is_all_in_doubt || waiting.reread.contains(name)
    }

    /// Has `name` read again.
    pub(super) fn doubt(&self, name: &RepositoryName) {
        let mut waiting = self.lock();
        if waiting.reread.len() < self.waiting_max {
            waiting.reread.insert(name.clone());
        } else if !waiting.reread.contains(name) {
            waiting.is_all_in_doubt = true;
        }
    }

    /// Has `name` stamped once it is quiet.
    pub(super) fn stamp_later(&self, name: &RepositoryName) {
        let mut waiting = self.lock();
        if waiting.stamp.len() < self.waiting_max {
            waiting.stamp.insert(name.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Sets of names stay whole whoever panics.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Turn<'a> {
    /// Announces the change, right before the store is touched.
    pub(super) fn begin(self) -> Change<'a> {
        Change {
            changes: self.changes,
            name: self.name,
            is_told: false,
            _shared: self.shared,
        }
    }
}

impl Change<'_> {
    /// The store was changed, and these things are true now.
    pub(super) fn made(mut self, facts: Vec<Fact>) {
        self.changes.index.record(&self.name, facts);
        self.told();
    }

    /// The store was changed, and these things are no longer true.
    pub(super) fn removed(mut self, gone: Vec<Forget>) {
        self.changes.index.forget(&self.name, gone);
        self.told();
    }

    fn told(&mut self) {
        self.is_told = true;
        self.changes.stamp_later(&self.name);
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            // A process that dies now must not leave a stamp over what it does not know.
            let gone = vec![Forget::Stamp];
            self.changes.index.forget(&self.name, gone);
            self.changes.doubt(&self.name);
        }
    }
}
