//! Lists from the index: when they may come from it, and the questions.
//!
//! Design: DESIGN D3. Must not know how a list is printed. Invariants: a list comes from the index only for a repository
//! whose stamp was compared with the store in this process; no request waits for the index.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Registry;
use super::changes::{Changes, Turn, Waiting};
use super::keeper::IndexedError;
use super::locks::WaitedTooLong;
use crate::clock::Clock;
use crate::index::{Health, Index, IndexError, PAGE_MAX};
use crate::oci::{Digest, RepositoryName, Tag};

/// How long a list waits for the index to have heard of everything.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// Half of the links that are weighed for one blob: each costs a question to the rules, for a blob that is nowhere as well,
/// and a push asks for thousands. The base image of hundreds of repositories is found in the pusher's own name space.
const HOLDERS_HALF: usize = 16;

/// What stands between the registry and its index.
pub(super) struct Lists {
    pub(super) index: Arc<Index>,
    pub(super) changes: Changes,
    /// Repositories whose index entries were found to be, or made, those of the store.
    read: Mutex<BTreeSet<RepositoryName>>,
    /// Repositories with a link to a manifest whose bytes were not there when they were read. What it is about is not
    /// known, and they may come at any time through another repository, so referrers here come from the store.
    pub(super) dangling: Mutex<BTreeSet<RepositoryName>>,
    /// Whether every repository of the store is in the index.
    pub(super) is_complete: AtomicBool,
    /// Whether the last reading of everything had to leave something out.
    pub(super) has_given_up: AtomicBool,
    /// How often the index had been set aside when it was last found to be up to the store.
    quarantines: AtomicU64,
    pub(super) wake: Notify,
}

impl Lists {
    pub(super) fn new(index: Arc<Index>, clock: Arc<dyn Clock>) -> Self {
        Self {
            changes: Changes::new(Arc::clone(&index), clock),
            quarantines: AtomicU64::new(index.statistics().quarantines),
            index,
            read: Mutex::default(),
            dangling: Mutex::default(),
            is_complete: AtomicBool::new(false),
            has_given_up: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Waits until `name` may be changed.
    pub(super) async fn turn(&self, name: &RepositoryName) -> Result<Turn<'_>, WaitedTooLong> {
        self.changes.turn(name).await
    }

    /// Whether the catalog may come from the index.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Acquire)
            && self.is_the_same()
            && self.index.health() == Health::Healthy
            // What was dropped may have been the news of a repository.
            && self.index.statistics().unread_repositories == 0
    }

    /// Whether the last reading of everything has left something out: the next one comes only with a cause.
    pub(super) fn has_given_up(&self) -> bool {
        self.has_given_up.load(Ordering::Acquire) && self.is_the_same()
    }

    /// Keeps changes of `name` from beginning, once those under way have ended.
    pub(super) async fn quiet(&self, name: &RepositoryName) -> impl Sized + use<> {
        self.changes.quiet(name).await
    }

    pub(super) fn is_read(&self, name: &RepositoryName) -> bool {
        let read = self.lock();
        read.contains(name)
            && !self.changes.is_in_doubt(name)
            && !self.index.is_unread(name)
            && self.is_the_same()
    }

    /// Whether the index is still the one that was compared: one that is set aside while it serves leaves an empty one.
    pub(super) fn is_the_same(&self) -> bool {
        self.index.statistics().quarantines == self.quarantines.load(Ordering::Acquire)
    }

    /// Takes nothing for granted any more.
    pub(super) fn begin_again(&self) {
        let mut read = self.lock();
        self.is_complete.store(false, Ordering::Release);
        self.has_given_up.store(false, Ordering::Release);
        read.clear();
        let quarantines = self.index.statistics().quarantines;
        self.quarantines.store(quarantines, Ordering::Release);
    }

    /// What waits for its stamp, and what must be read again. Whoever is in doubt stays so until it was read.
    pub(super) fn take_waiting(&self) -> Waiting {
        let mut read = self.lock();
        let waiting = self.changes.take_waiting();
        read.retain(|name| !waiting.is_all_in_doubt && !waiting.reread.contains(name));
        if waiting.is_all_in_doubt {
            self.is_complete.store(false, Ordering::Release);
        }
        waiting
    }

    /// Whether some link to a manifest here led nowhere when it was read.
    pub(super) fn is_dangling(&self, name: &RepositoryName) -> bool {
        lock(&self.dangling).contains(name)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeSet<RepositoryName>> {
        lock(&self.read)
    }
}

pub(super) fn lock(
    names: &Mutex<BTreeSet<RepositoryName>>,
) -> MutexGuard<'_, BTreeSet<RepositoryName>> {
    // A set of names stays whole whoever panics.
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Whether lists of `name` may come from the index; if not, it is read soon, and the store answers meanwhile.
    pub(super) async fn may_list_from_index(&self, name: &RepositoryName) -> bool {
        if self.lists.is_read(name) {
            return true;
        }
        match self.agrees(name).await {
            Ok(true) => {
                self.lists.lock().insert(name.clone());
                true
            }
            Ok(false) => {
                self.lists.changes.doubt(name);
                self.lists.wake.notify_one();
                false
            }
            Err(error) => {
                tracing::warn!(error = %error, repository = %name, "cannot compare the index with the store");
                false
            }
        }
    }

    /// A page of tags as the index has them; `None` if it cannot be asked.
    pub(super) async fn tags_by_index(
        &self,
        name: &RepositoryName,
        after: Option<&str>,
        limit: usize,
        by_index: bool,
    ) -> Option<Vec<Tag>> {
        if !by_index || !self.is_settled().await {
            return None;
        }
        let tags = self.lists.index.tags(name, after, limit).await;
        let tags = answer_of("tags", tags).filter(|_| self.lists.is_read(name))?;
        Some(tags.into_iter().map(|(tag, _)| tag).collect())
    }

    /// A page of repositories as the index has them; `None` if it cannot be asked.
    pub(super) async fn repositories_by_index(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Option<Vec<RepositoryName>> {
        if !self.lists.is_complete() || !self.is_settled().await {
            return None;
        }
        answer_of(
            "repositories",
            self.lists.index.repositories(after, limit).await,
        )
        .filter(|_| self.lists.is_complete())
    }

    /// Some repositories that link the blob, among such that link others, as the index has them; as many for each blob.
    /// `None` if it cannot be asked.
    pub(super) async fn holders_by_index(
        &self,
        digest: &Digest,
        near: &RepositoryName,
    ) -> Option<Vec<(Digest, RepositoryName)>> {
        if !self.lists.is_complete() {
            return None;
        }
        // Who is missing because it was linked a moment ago costs an upload, no more.
        let index = &self.lists.index;
        answer_of(
            "holders",
            index.links_near(digest, near, HOLDERS_HALF).await,
        )
    }

    /// A page of manifests about `subject`, as the index has them; `None` if it cannot be asked.
    pub(super) async fn referrers_by_index(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        after: Option<&Digest>,
        by_index: bool,
    ) -> Option<Vec<Digest>> {
        if !by_index || !self.is_settled().await {
            return None;
        }
        answer_of(
            "referrers",
            self.lists
                .index
                .referrers(name, subject, after, PAGE_MAX)
                .await,
        )
        // It may have been put in doubt, and be half replaced, since the list was begun.
        .filter(|_| self.lists.is_read(name) && !self.lists.is_dangling(name))
    }

    /// Waits until the index has what was pushed before this question, so that whoever pushes sees it listed: about a
    /// millisecond. `false` if that takes so long that the store is the quicker one to ask.
    async fn is_settled(&self) -> bool {
        if self.lists.index.health() != Health::Healthy {
            return false;
        }
        tokio::select! {
            () = self.lists.index.settle() => true,
            () = self.clock.sleep(SETTLE_TIME) => false,
        }
    }

    /// Whether the stamp in the index is what the store shows, and nothing was dropped since.
    pub(super) async fn agrees(&self, name: &RepositoryName) -> Result<bool, IndexedError> {
        if self.lists.index.is_unread(name) {
            return Ok(false);
        }
        let Some(recorded) = self.lists.index.stamp(name).await? else {
            return Ok(false);
        };
        let look = self.look(name).await?;
        Ok(look.is_some_and(|look| look.stamp == recorded))
    }
}

/// The answer of the index, or nothing and a line in the log.
fn answer_of<T>(question: &str, answer: Result<T, IndexError>) -> Option<T> {
    answer
        .inspect_err(
            |error| tracing::warn!(%error, question, "the index cannot be asked; the store is"),
        )
        .ok()
}

#[cfg(test)]
#[path = "lists_tests.rs"]
mod tests;
