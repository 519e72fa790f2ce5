//! The index's keeper: decides when a list may come from the index, and brings the index up to the store.
//!
//! Design: DESIGN D3. Must not know how a list is printed. Invariants: a list comes from the index only for a repository
//! whose stamp was compared with the store in this process; only such a repository gets a new stamp; no request waits for
//! the index.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::changes::{Change, Changes, Waiting};
use super::rereading::Reading;
use super::{Registry, RegistryError};
use crate::index::{Fact, Health, Index, IndexError, PAGE_MAX, Rebuild};
use crate::oci::{Digest, RepositoryName, Tag};

/// How long a repository rests before it is stamped: a push of many layers is stamped once.
const STAMP_PAUSE: Duration = Duration::from_secs(1);

/// How long a list waits for the index to have heard of everything.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// How long a failed reading of the store rests before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_mins(1);

/// How often an index that is being checked is looked at.
const CHECK_PAUSE: Duration = Duration::from_millis(100);

/// How long the end of the process waits for stamps: what has none is merely read again.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// How often a long reading says how far it is.
const PROGRESS_PAUSE: Duration = Duration::from_secs(5);

/// What stands between the registry and its index.
pub(super) struct Lists {
    pub(super) index: Arc<Index>,
    changes: Changes,
    /// Repositories whose index entries were found to be, or made, those of the store.
    read: Mutex<BTreeSet<RepositoryName>>,
    /// Repositories with a link to a manifest whose bytes were not there when they were read. What it is about is not
    /// known, and they may come at any time through another repository, so referrers here come from the store.
    dangling: Mutex<BTreeSet<RepositoryName>>,
    /// Whether every repository of the store is in the index.
    is_complete: AtomicBool,
    /// Whether the last reading of everything had to leave something out.
    has_given_up: AtomicBool,
    /// How often the index had been set aside when it was last found to be up to the store.
    quarantines: AtomicU64,
    wake: Notify,
}

impl Lists {
    pub(super) fn new(index: Arc<Index>) -> Self {
        Self {
            changes: Changes::new(Arc::clone(&index)),
            quarantines: AtomicU64::new(index.statistics().quarantines),
            index,
            read: Mutex::default(),
            dangling: Mutex::default(),
            is_complete: AtomicBool::new(false),
            has_given_up: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Announces a change of `name`, before the store is touched.
    pub(super) async fn change(&self, name: &RepositoryName) -> Change<'_> {
        self.changes.begin(name).await
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

    /// Has the keeper look at once for what is to be done.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    fn is_read(&self, name: &RepositoryName) -> bool {
        let read = self.lock();
        read.contains(name)
            && !self.changes.is_in_doubt(name)
            && !self.index.is_unread(name)
            && self.is_the_same()
    }

    /// Whether the index is still the one that was compared: one that is set aside while it serves leaves an empty one.
    fn is_the_same(&self) -> bool {
        self.index.statistics().quarantines == self.quarantines.load(Ordering::Acquire)
    }

    /// Takes nothing for granted any more.
    fn begin_again(&self) {
        let mut read = self.lock();
        self.is_complete.store(false, Ordering::Release);
        self.has_given_up.store(false, Ordering::Release);
        read.clear();
        let quarantines = self.index.statistics().quarantines;
        self.quarantines.store(quarantines, Ordering::Release);
    }

    /// What waits for its stamp, and what must be read again. Whoever is in doubt stays so until it was read.
    fn take_waiting(&self) -> Waiting {
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

    fn lock(&self) -> MutexGuard<'_, BTreeSet<RepositoryName>> {
        lock(&self.read)
    }
}

fn lock(names: &Mutex<BTreeSet<RepositoryName>>) -> MutexGuard<'_, BTreeSet<RepositoryName>> {
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
        by_index: bool,
    ) -> Option<Vec<Tag>> {
        if !by_index || !self.is_settled().await {
            return None;
        }
        let tags = self.lists.index.tags(name, after, PAGE_MAX).await;
        let tags = answer_of("tags", tags).filter(|_| self.lists.is_read(name))?;
        Some(tags.into_iter().map(|(tag, _)| tag).collect())
    }

    /// A page of repositories as the index has them; `None` if it cannot be asked.
    pub(super) async fn repositories_by_index(
        &self,
        after: Option<&str>,
    ) -> Option<Vec<RepositoryName>> {
        if !self.lists.is_complete() || !self.is_settled().await {
            return None;
        }
        answer_of(
            "repositories",
            self.lists.index.repositories(after, PAGE_MAX).await,
        )
        .filter(|_| self.lists.is_complete())
    }

    /// Some repositories that link the blob, as the index has them; `None` if it cannot be asked.
    pub(super) async fn holders_by_index(
        &self,
        digest: &Digest,
        most: usize,
    ) -> Option<Vec<RepositoryName>> {
        if !self.lists.is_complete() {
            return None;
        }
        // Who is missing because it was linked a moment ago costs an upload, no more.
        let most = most.min(PAGE_MAX);
        answer_of(
            "holders",
            self.lists.index.repositories_with(digest, None, most).await,
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
    async fn agrees(&self, name: &RepositoryName) -> Result<bool, IndexedError> {
        if self.lists.index.is_unread(name) {
            return Ok(false);
        }
        let Some(recorded) = self.lists.index.stamp(name).await? else {
            return Ok(false);
        };
        let look = self.look(name).await?;
        Ok(look.is_some_and(|look| look.stamp == recorded))
    }

    /// Brings the index up to the store, and keeps it there; never returns.
    pub async fn keep_index(&self) {
        let mut next_try = Some(self.clock.elapsed());
        loop {
            if next_try.is_some_and(|next_try| next_try <= self.clock.elapsed()) {
                next_try = self.try_everything().await;
            }
            tokio::select! {
                () = self.clock.sleep(STAMP_PAUSE) => {}
                () = self.lists.wake.notified() => {}
            }
            next_try = self.catch_up().await.or(next_try);
        }
    }

    /// Reads everything, and tells when to try again if that did not work out.
    async fn try_everything(&self) -> Option<Duration> {
        let error = self.read_everything().await.err()?;
        tracing::error!(error = %error, "the index is incomplete; lists come from the store");
        Some(self.clock.elapsed() + RETRY_PAUSE)
    }

    /// Does what waits: reads repositories that are in doubt, and stamps those that have changed. Tells when everything must
    /// be tried again, if that was tried and did not work out.
    pub async fn catch_up(&self) -> Option<Duration> {
        let mut next_try = None;
        if !self.lists.is_the_same() {
            tracing::warn!("the index was set aside while it was in use; it is filled again");
            self.lists.begin_again();
            next_try = self.try_everything().await;
        }
        let waiting = self.lists.take_waiting();
        for name in waiting.reread {
            if let Err(error) = self.read_again(&name, None).await {
                tracing::warn!(error = %error, repository = %name, "cannot read the repository for the index");
            }
        }
        if waiting.is_all_in_doubt {
            tracing::warn!("many changes have failed; every repository is compared again");
            // Who came into doubt by a change has lost the stamp that would be compared, once the index has heard of it.
            self.lists.index.settle().await;
            next_try = self.try_everything().await;
        }
        for name in waiting.stamp {
            if let Err(error) = self.stamp(&name).await {
                tracing::warn!(error = %error, repository = %name, "cannot stamp the repository");
            }
        }
        next_try
    }

    /// Notes in the index that it is up to the store, which only a repository can be that was compared before.
    async fn stamp(&self, name: &RepositoryName) -> Result<(), RegistryError> {
        let _quiet = self.lists.changes.quiet(name).await;
        if self.lists.index.is_unread(name) {
            self.lists.changes.doubt(name);
        }
        // Asked when nothing is under way, so that a change which has failed meanwhile counts.
        if !self.lists.is_read(name) {
            return Ok(());
        }
        match self.look(name).await? {
            // What is changed next could leave the same times, and a crash lose what the index hears of it.
            Some(look) if !look.is_settled(self.clock.now()) => {
                self.lists.changes.stamp_later(name);
            }
            Some(look) => {
                let facts = vec![Fact::Stamp(look.stamp)];
                self.lists.index.record(name, facts);
            }
            None => {}
        }
        Ok(())
    }

    /// Compares every repository of the store, and of the index, and reads those that differ.
    pub async fn read_everything(&self) -> Result<(), IndexedError> {
        // Whether it must be filled is known only when it has been checked.
        while self.lists.index.health() == Health::Checking {
            self.clock.sleep(CHECK_PAUSE).await;
        }
        let mut names = self.repositories(|_| true, usize::MAX).await?;
        names.sort_unstable();
        let total = names.len() as u64;
        let mut rebuild = match self.lists.index.health() {
            Health::Rebuilding { .. } => {
                tracing::info!(
                    repositories = total,
                    "filling the index from the store; the registry serves meanwhile"
                );
                Some(self.lists.index.begin_rebuild(Some(total)))
            }
            Health::Healthy | Health::Checking | Health::Degraded { .. } => None,
        };
        self.forget_absent(&names).await?;
        let mut told = self.clock.elapsed();
        let mut is_whole = true;
        let mut loaded = Vec::new();
        for (done, name) in names.iter().enumerate() {
            match self.bring_up(name, rebuild.as_mut()).await {
                Ok(true) => loaded.push(name.clone()),
                Ok(false) => {}
                // One that cannot be read must not keep the others from being listed.
                Err(IndexedError::Registry(error)) => {
                    is_whole = false;
                    tracing::warn!(error = %error, repository = %name, "cannot read the repository for the index");
                }
                Err(error @ IndexedError::Index(_)) => return Err(error),
            }
            if self.clock.elapsed().saturating_sub(told) >= PROGRESS_PAUSE {
                told = self.clock.elapsed();
                tracing::info!(done, total, "reading repositories for the index");
            }
        }
        if let Some(rebuild) = rebuild {
            rebuild.finish().await?;
        }
        let reread = loaded.len();
        for name in loaded {
            self.lists.changes.stamp_later(&name);
            self.lists.lock().insert(name);
        }
        self.lists.has_given_up.store(!is_whole, Ordering::Release);
        self.lists.is_complete.store(is_whole, Ordering::Release);
        tracing::info!(repositories = total, reread, "the index is up to the store");
        Ok(())
    }

    /// Makes the index say of a repository what the store says; `true` if it had to be read, and is not in the list of
    /// those that may be listed until what was loaded is durable.
    async fn bring_up(
        &self,
        name: &RepositoryName,
        rebuild: Option<&mut Rebuild>,
    ) -> Result<bool, IndexedError> {
        if self.agrees(name).await? {
            self.lists.lock().insert(name.clone());
            if let Some(rebuild) = rebuild {
                rebuild.skip();
            }
            return Ok(false);
        }
        self.read_again(name, rebuild).await
    }

    /// Forgets repositories that the store no longer has.
    async fn forget_absent(&self, present: &[RepositoryName]) -> Result<(), IndexedError> {
        let mut after: Option<RepositoryName> = None;
        loop {
            let after_text = after.as_ref().map(RepositoryName::as_str);
            let page = self.lists.index.repositories(after_text, PAGE_MAX).await?;
            for name in page
                .iter()
                .filter(|name| present.binary_search(name).is_err())
            {
                self.read_again(name, None).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE_MAX => after = Some(last.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// Reads a repository into the index. `true` if it is only on its way there, with others.
    async fn read_again(
        &self,
        name: &RepositoryName,
        rebuild: Option<&mut Rebuild>,
    ) -> Result<bool, IndexedError> {
        self.lists.lock().remove(name);
        let reread = self.lists.index.reread(name);
        // Before anything is read: what changes from here on makes the stamp older than the store, never newer.
        let stamp = {
            let _quiet = self.lists.changes.quiet(name).await;
            self.look(name).await?
        };
        let Reading { facts, is_dangling } = self.read_repository(name).await?;
        if is_dangling {
            lock(&self.lists.dangling).insert(name.clone());
        } else {
            lock(&self.lists.dangling).remove(name);
        }
        let now = self.clock.now();
        let is_worth_a_stamp = !facts.is_empty() && !is_dangling;
        let stamp = stamp.filter(|look| is_worth_a_stamp && look.is_settled(now));
        let stamp = stamp.map(|look| look.stamp);
        let is_known = !facts.is_empty();
        if let Some(rebuild) = rebuild {
            rebuild.load(reread, facts, stamp).await?;
            return Ok(is_known);
        }
        let replaced = self.lists.index.replace_repository(reread, facts, stamp);
        replaced.await?;
        if is_known {
            self.lists.lock().insert(name.clone());
            // What was swept while it was read has changed the times.
            self.lists.changes.stamp_later(name);
        }
        Ok(false)
    }

    /// Writes down the stamps that wait, and closes the index in order; for the end of the process. What must be read
    /// again has no stamp, and is read at the next start.
    pub async fn close_index(&self) {
        let stamps = self.lists.take_waiting().stamp;
        let stamping = async {
            for name in stamps {
                if self.stamp(&name).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = stamping => {}
            () = self.clock.sleep(CLOSE_TIME) => {}
        }
        self.lists.index.close().await;
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

/// Why the index could not be brought up to the store.
#[derive(Debug, thiserror::Error)]
pub enum IndexedError {
    /// The store could not be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The index could not be asked or told.
    #[error(transparent)]
    Index(#[from] IndexError),
}

#[cfg(test)]
#[path = "lists_tests.rs"]
mod tests;
