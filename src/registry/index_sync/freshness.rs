//! Whether the index may be asked about a repository, and asking it.
//!
//! Design: DESIGN D3. Must not know how a list is printed, nor what changes a repository. Invariants: a list comes from the
//! index only for a repository whose stamp was compared with the store in this process; a stamp is recorded only while no
//! change of its repository is under way and all changes that were made are in the index's queue before it. So a stamp is
//! never newer than the entries, and a crash, a lost write and a change by another program look the same: the stamp
//! differs, and the repository is read again. No request waits for the index.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::facts::News;
use crate::clock::Clock;
use crate::index::{Forget, Health, Index, IndexError, PAGE_MAX};
use crate::layout;
use crate::oci::{Algorithm, Digest, RepositoryName, Tag};
use crate::registry::error::IndexedError;
use crate::registry::event::Event;
use crate::store::{Fingerprint, ObjectStore, StoreError};

/// How long a list waits until the index has heard of everything.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// How many repositories may wait for their stamp, and how many are in doubt one by one: more than that change within a
/// second only in a storm. Those left out of the first are merely read again after a restart; instead of those left out of
/// the second, all are in doubt.
const WAITING_MAX: usize = 65_536;

/// Half of the links that are weighed for one blob: each costs a question to the rules, for a blob that is nowhere as well,
/// and a push asks for thousands. The base image of hundreds of repositories is found in the pusher's own name space.
const HOLDERS_HALF: usize = 16;

/// Blobs whose links are weighed before other requests have their turn.
const HOLDERS_TURN: usize = 8;

/// How far the index agrees with the store.
pub(in crate::registry) struct Freshness {
    pub(in crate::registry) index: Arc<Index>,
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    is_readonly: bool,
    /// Repositories whose index entries were found to be, or made, those of the store.
    read: Mutex<BTreeSet<RepositoryName>>,
    /// Repositories with a link to a manifest whose bytes were missing when they were read. What it is about is not known,
    /// and its bytes may come at any time through another repository, so referrers here come from the store.
    dangling: Mutex<BTreeSet<RepositoryName>>,
    waiting: Mutex<Waiting>,
    /// [`WAITING_MAX`], but in tests.
    waiting_max: AtomicUsize,
    /// Whether every repository of the store is in the index.
    is_complete: AtomicBool,
    /// Whether the last reading of everything had to leave something out.
    has_given_up: AtomicBool,
    /// How often the index had been set aside when it was last found to agree with the store.
    quarantines: AtomicU64,
    /// Wakes the task that keeps the index.
    pub(super) wake: Notify,
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

/// A change of a repository, in one part or several. Dropped, it has the repository stamped, or read again.
pub(in crate::registry) struct Change<'a> {
    freshness: &'a Freshness,
    repository: Option<RepositoryName>,
    /// A part was begun whose outcome is not known yet.
    is_under_way: bool,
    /// A part before that one has failed.
    has_failed: bool,
    is_changed: bool,
}

impl Change<'_> {
    /// The repository that is changed; `None` for files of our own.
    pub(in crate::registry) fn repository(&self) -> Option<&RepositoryName> {
        self.repository.as_ref()
    }

    /// Right before the store is touched.
    pub(in crate::registry) fn begin(&mut self) {
        self.has_failed |= self.is_under_way;
        self.is_under_way = true;
    }

    /// The store was changed, and `events` have happened.
    pub(in crate::registry) fn made(&mut self, events: Vec<Event>) {
        self.is_under_way = false;
        self.is_changed = true;
        let Some(repository) = &self.repository else {
            return;
        };
        let News { facts, gone } = News::of(events);
        // Facts and what is gone never concern the same thing in one commit, so their order does not matter.
        if !facts.is_empty() {
            self.freshness.index.record(repository, facts);
        }
        if !gone.is_empty() {
            self.freshness.index.forget(repository, gone);
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let Some(repository) = &self.repository else {
            return;
        };
        if self.is_under_way || self.has_failed {
            // A process that dies now must not leave a stamp over what it does not know.
            let gone = vec![Forget::Stamp];
            self.freshness.index.forget(repository, gone);
            self.freshness.doubt(repository);
        } else if self.is_changed {
            self.freshness.stamp_later(repository);
        }
    }
}

impl Freshness {
    pub(in crate::registry) fn new(
        index: Arc<Index>,
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        is_readonly: bool,
    ) -> Self {
        Self {
            quarantines: AtomicU64::new(index.statistics().quarantines),
            index,
            store,
            clock,
            is_readonly,
            read: Mutex::default(),
            dangling: Mutex::default(),
            waiting: Mutex::default(),
            waiting_max: AtomicUsize::new(WAITING_MAX),
            is_complete: AtomicBool::new(false),
            has_given_up: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn set_waiting_max(&self, waiting_max: usize) {
        self.waiting_max.store(waiting_max, Ordering::Relaxed);
    }

    /// A change that is going to be made.
    pub(in crate::registry) fn change(&self, repository: Option<&RepositoryName>) -> Change<'_> {
        Change {
            freshness: self,
            repository: repository.cloned(),
            is_under_way: false,
            has_failed: false,
            is_changed: false,
        }
    }

    /// Whether the catalog may come from the index.
    pub(in crate::registry) fn is_complete(&self) -> bool {
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

    /// Everything was read, or all that could be.
    pub(super) fn was_read(&self, is_whole: bool) {
        self.has_given_up.store(!is_whole, Ordering::Release);
        self.is_complete.store(is_whole, Ordering::Release);
    }

    /// Whether the index agrees with the store about `name`.
    pub(in crate::registry) fn is_read(&self, name: &RepositoryName) -> bool {
        let read = lock(&self.read);
        read.contains(name)
            && !self.is_in_doubt(name)
            && !self.index.is_unread(name)
            && self.is_the_same()
    }

    /// The index agrees with the store about `name` from now on.
    pub(super) fn now_read(&self, name: RepositoryName) {
        lock(&self.read).insert(name);
    }

    /// `name` is being read again.
    pub(super) fn not_read(&self, name: &RepositoryName) {
        lock(&self.read).remove(name);
    }

    /// Whether the index is still the one that was compared: one that is set aside while it serves leaves an empty one.
    pub(super) fn is_the_same(&self) -> bool {
        self.index.statistics().quarantines == self.quarantines.load(Ordering::Acquire)
    }

    /// Takes nothing for granted any more.
    pub(in crate::registry) fn begin_again(&self) {
        let mut read = lock(&self.read);
        self.is_complete.store(false, Ordering::Release);
        self.has_given_up.store(false, Ordering::Release);
        read.clear();
        let quarantines = self.index.statistics().quarantines;
        self.quarantines.store(quarantines, Ordering::Release);
    }

    /// Takes what waits for its stamp, and what must be read again. A repository in doubt stays so until it was read.
    pub(super) fn take_waiting(&self) -> Waiting {
        let mut read = lock(&self.read);
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        read.retain(|name| !waiting.is_all_in_doubt && !waiting.reread.contains(name));
        if waiting.is_all_in_doubt {
            self.is_complete.store(false, Ordering::Release);
        }
        waiting
    }

    /// Whether `name` waits to be read again.
    pub(in crate::registry) fn is_in_doubt(&self, name: &RepositoryName) -> bool {
        let waiting = lock(&self.waiting);
        waiting.is_all_in_doubt || waiting.reread.contains(name)
    }

    /// Has `name` read again.
    pub(in crate::registry) fn doubt(&self, name: &RepositoryName) {
        let mut waiting = lock(&self.waiting);
        if waiting.reread.len() < self.waiting_max.load(Ordering::Relaxed) {
            waiting.reread.insert(name.clone());
        } else if !waiting.reread.contains(name) {
            waiting.is_all_in_doubt = true;
        }
    }

    /// Has `name` stamped once it is quiet.
    pub(super) fn stamp_later(&self, name: &RepositoryName) {
        let mut waiting = lock(&self.waiting);
        if waiting.stamp.len() < self.waiting_max.load(Ordering::Relaxed) {
            waiting.stamp.insert(name.clone());
        }
    }

    /// Whether some link to a manifest here led nowhere when it was read.
    fn is_dangling(&self, name: &RepositoryName) -> bool {
        lock(&self.dangling).contains(name)
    }

    /// What was found when `name` was read.
    pub(super) fn set_dangling(&self, name: &RepositoryName, is_dangling: bool) {
        let mut dangling = lock(&self.dangling);
        if is_dangling {
            dangling.insert(name.clone());
        } else {
            dangling.remove(name);
        }
    }

    /// What shows whether a link of the repository came, went or changed. `None` where that cannot be told, and then the
    /// repository is read at every start.
    pub(super) async fn look(
        &self,
        name: &RepositoryName,
    ) -> Result<Option<Fingerprint>, StoreError> {
        if self.is_readonly || self.is_dangling(name) {
            // Nothing is swept then, and a link that is written again in its old directory would not show; nor do bytes that
            // come to where a link leads already.
            return Ok(None);
        }
        let mut links = vec![layout::tags_directory(name)];
        for algorithm in Algorithm::ALL {
            links.push(layout::revisions_directory(name, algorithm));
            links.push(layout::layer_links_directory(name, algorithm));
        }
        self.store.fingerprint(&links).await
    }

    /// Whether the stamp in the index is what the store shows, and nothing was dropped since.
    pub(super) async fn agrees(&self, name: &RepositoryName) -> Result<bool, IndexedError> {
        if self.index.is_unread(name) {
            return Ok(false);
        }
        let Some(recorded) = self.index.stamp(name).await? else {
            return Ok(false);
        };
        let look = self.look(name).await?;
        Ok(look.is_some_and(|look| look.value.as_bytes() == recorded.0))
    }

    /// Whether lists of `name` may come from the index; if not, it is read soon, and the store answers meanwhile.
    pub(in crate::registry) async fn may_list(&self, name: &RepositoryName) -> bool {
        if self.is_read(name) {
            return true;
        }
        match self.agrees(name).await {
            Ok(true) => {
                self.now_read(name.clone());
                true
            }
            Ok(false) => {
                self.doubt(name);
                self.wake.notify_one();
                false
            }
            Err(error) => {
                tracing::warn!(error = %error, repository = %name, "cannot compare the index with the store");
                false
            }
        }
    }

    /// A page of tags as the index has them; `None` if it cannot be asked.
    pub(in crate::registry) async fn tags(
        &self,
        name: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Option<Vec<Tag>> {
        if !self.is_settled().await {
            return None;
        }
        let (asked, after) = (name.clone(), after.map(str::to_owned));
        let tags = self
            .index
            .read(move |view| {
                view.tags(&asked, after.as_deref())
                    .at_most(limit)
                    .into_vec()
            })
            .await;
        let tags = answer_of("tags", tags).filter(|_| self.is_read(name))?;
        Some(tags.into_iter().map(|(tag, _)| tag).collect())
    }

    /// A page of repositories as the index has them; `None` if it cannot be asked.
    pub(in crate::registry) async fn repositories(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Option<Vec<RepositoryName>> {
        if !self.is_complete() || !self.is_settled().await {
            return None;
        }
        let after = after.map(str::to_owned);
        let repositories = self
            .index
            .read(move |view| {
                view.repositories(after.as_deref())
                    .at_most(limit)
                    .into_vec()
            })
            .await;
        answer_of("repositories", repositories).filter(|_| self.is_complete())
    }

    /// For each of `digests`, some repositories that link it, as the index has them. As many links are read, and shown to
    /// `may_pull`, for a blob that is nowhere as for one that all have: the time must not tell. `None` if the index cannot be
    /// asked.
    pub(in crate::registry) async fn holders(
        &self,
        digests: &[Digest],
        near: &RepositoryName,
        may_pull: impl Fn(&RepositoryName) -> bool,
    ) -> Option<Vec<Vec<RepositoryName>>> {
        if !self.is_complete() {
            return None;
        }
        // One that is missing because it was linked a moment ago costs an upload, no more.
        let (asked, near_name) = (digests.to_vec(), near.clone());
        let links = self.index.read(move |view| {
            let near = |digest| view.links_near(digest, &near_name, HOLDERS_HALF);
            asked.into_iter().map(near).collect::<Result<Vec<_>, _>>()
        });
        let links = links.await;
        let links = answer_of("holders", links)?;
        let mut all = Vec::with_capacity(digests.len());
        for (digest, links) in digests.iter().zip(links) {
            let mut holders = Vec::new();
            for (linked, name) in links {
                let may_pull = may_pull(&name);
                if linked == *digest && may_pull && !holders.contains(&name) {
                    holders.push(name);
                }
            }
            all.push(holders);
            // Hundreds of digests are thousands of questions to the rules.
            if all.len().is_multiple_of(HOLDERS_TURN) {
                tokio::task::yield_now().await;
            }
        }
        Some(all)
    }

    /// A page of manifests about `subject`, as the index has them; `None` if it cannot be asked.
    pub(in crate::registry) async fn referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        after: Option<&Digest>,
    ) -> Option<Vec<Digest>> {
        if !self.is_settled().await {
            return None;
        }
        let (asked, subject, after) = (name.clone(), *subject, after.copied());
        let referrers = self.index.read(move |view| {
            let referrers = view.referrers(&asked, subject, after);
            referrers.at_most(PAGE_MAX).into_vec()
        });
        let referrers = referrers.await;
        answer_of("referrers", referrers)
            // It may have been put in doubt, and be half replaced, since the list was begun.
            .filter(|_| self.is_read(name) && !self.is_dangling(name))
    }

    /// The lengths that the index knows of; none while it is being filled, or is out of order.
    pub(in crate::registry) async fn sizes(&self, digests: Vec<Digest>) -> Vec<Option<u64>> {
        if digests.is_empty() || self.index.health() != Health::Healthy {
            return Vec::new();
        }
        let sizes = self.index.read(move |view| {
            let sizes = digests.into_iter().map(|digest| view.size(digest));
            sizes.collect::<Result<Vec<_>, _>>()
        });
        sizes.await.unwrap_or_default()
    }

    /// Waits until the index has what was pushed before this question, so that a client that pushes sees it listed: about
    /// a millisecond. `false` if that takes so long that the store answers sooner.
    async fn is_settled(&self) -> bool {
        if self.index.health() != Health::Healthy {
            return false;
        }
        tokio::select! {
            () = self.index.settle() => true,
            () = self.clock.sleep(SETTLE_TIME) => false,
        }
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

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    // Sets of names stay whole, whatever panics.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
