//! Whether the index may be asked about a repository, and asking it.
//!
//! Design: DESIGN D3. Must not know how a list is printed, nor what changes a repository. Invariants: a list comes from the
//! index only for a repository whose stamp was compared with the store in this process; a stamp is recorded only while no
//! change of its repository is under way and all changes that were made are in the index's queue before it. So a stamp is
//! never newer than the entries, and a crash, a lost write and a change by another program look the same: the stamp
//! differs, and the repository is read again. No request waits for the index.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::index::{
    self, Child, ChildKind, Fact, Forget, Health, Index, IndexError, PAGE_MAX, Revision,
};
use crate::layout;
use crate::oci::{Algorithm, Digest, Manifest, RepositoryName, Tag};
use crate::registry::error::IndexedError;
use crate::registry::event::Event;
use crate::store::{Fingerprint, ObjectStore, StoreError};

/// How long a list waits until the index has heard of everything.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// Half of the links that are weighed for one blob: each costs a question to the rules, for a blob that is nowhere as well,
/// and a push asks for thousands. The base image of hundreds of repositories is found in the pusher's own name space.
const HOLDERS_HALF: usize = 16;

/// Blobs whose links are weighed before other requests may run.
const HOLDERS_TURN: usize = 8;

/// How far the index agrees with the store.
pub(in crate::registry) struct IndexGate {
    pub(in crate::registry) index: Arc<Index>,
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    is_readonly: bool,
    /// Wakes the task that keeps the index.
    pub(super) wake: Notify,
}

/// A change of a repository, in one part or several. Dropped, it has the repository stamped, or read again.
pub(in crate::registry) struct Change<'a> {
    gate: &'a IndexGate,
    repository: Option<RepositoryName>,
    /// A part was begun whose outcome is not known yet.
    is_under_way: bool,
    /// A part before that one has failed.
    has_failed: bool,
    is_begun: bool,
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
        if !std::mem::replace(&mut self.is_begun, true)
            && let Some(repository) = &self.repository
        {
            self.gate.freshness().change_begun(repository);
        }
    }

    /// The store was changed, and `events` have happened.
    pub(in crate::registry) fn made(&mut self, events: Vec<Event>) {
        self.is_under_way = false;
        let Some(repository) = &self.repository else {
            return;
        };
        let News { facts, gone } = News::of(events);
        // Facts and what is gone never concern the same thing in one commit, so their order does not matter.
        if !facts.is_empty() {
            self.gate.index.record(repository, facts);
        }
        if !gone.is_empty() {
            self.gate.index.forget(repository, gone);
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
            self.gate.index.forget(repository, gone);
            self.gate.freshness().change_failed(repository);
        } else if self.is_begun {
            self.gate.freshness().change_made(repository);
        }
    }
}

impl IndexGate {
    pub(in crate::registry) fn new(
        index: Arc<Index>,
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        is_readonly: bool,
    ) -> Self {
        index.freshness().registry_opened();
        Self {
            index,
            store,
            clock,
            is_readonly,
            wake: Notify::new(),
        }
    }

    /// A change that is going to be made.
    pub(in crate::registry) fn change(&self, repository: Option<&RepositoryName>) -> Change<'_> {
        Change {
            gate: self,
            repository: repository.cloned(),
            is_under_way: false,
            has_failed: false,
            is_begun: false,
        }
    }

    /// What is known of each repository.
    pub(in crate::registry) fn freshness(&self) -> &index::Freshness {
        self.index.freshness()
    }

    /// Whether the catalog may come from the index.
    pub(in crate::registry) fn is_complete(&self) -> bool {
        self.freshness().may_list_all() && self.index.health() == Health::Healthy
    }

    /// Whether the index shows all of `name`. A repository that was made since everything was read need not be compared: all
    /// that happened to it was recorded.
    pub(in crate::registry) async fn shows(&self, name: &RepositoryName) -> bool {
        let is_open = match self.index.health() {
            Health::Healthy | Health::Rebuilding { .. } => true,
            Health::Checking | Health::Degraded { .. } => false,
        };
        let is_known = self.is_complete() && !self.freshness().is_in_doubt(name);
        is_open && (is_known || self.may_list(name).await)
    }

    /// What shows whether a link of the repository came, went or changed. `None` where that cannot be told, and then the
    /// repository is read at every start.
    pub(super) async fn look(
        &self,
        name: &RepositoryName,
    ) -> Result<Option<Fingerprint>, StoreError> {
        if self.is_readonly || self.freshness().is_dangling(name) {
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

    /// Compares the stamp in the index with the store. Returns whether lists may come from the index now.
    pub(super) async fn compare(&self, name: &RepositoryName) -> Result<bool, IndexedError> {
        let Some(comparing) = self.freshness().begin_comparing(name) else {
            return Ok(false);
        };
        let Some(recorded) = self.index.stamp(name).await? else {
            return Ok(false);
        };
        let look = self.look(name).await?;
        let is_equal = look.is_some_and(|look| look.value.as_bytes() == recorded.0);
        Ok(is_equal && self.freshness().compared_equal(name, comparing))
    }

    /// Whether lists of `name` may come from the index; if not, it is read soon, and the store answers meanwhile.
    pub(in crate::registry) async fn may_list(&self, name: &RepositoryName) -> bool {
        if self.freshness().may_list(name) {
            return true;
        }
        match self.compare(name).await {
            Ok(true) => true,
            Ok(false) => {
                self.freshness().read_soon(name);
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
        let tags = answer_of("tags", tags).filter(|_| self.freshness().may_list(name))?;
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
            .filter(|_| self.freshness().may_list_referrers(name))
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

/// What the index has to record and to forget.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) facts: Vec<Fact>,
    pub(super) gone: Vec<Forget>,
}

impl News {
    /// What `events` mean to the index.
    pub(super) fn of(events: Vec<Event>) -> Self {
        let mut news = Self::default();
        for event in events {
            news.add(event);
        }
        news
    }

    fn add(&mut self, event: Event) {
        match event {
            Event::BlobLinked { digest, size_bytes } => {
                let size = Fact::Size(digest, size_bytes);
                self.facts.extend([Fact::Layer(digest), size]);
            }
            Event::BlobMounted { digest } => self.facts.push(Fact::Layer(digest)),
            Event::BlobUnlinked { digest } => self.gone.push(Forget::Layer(digest)),
            Event::ManifestPut {
                digest,
                size_bytes,
                manifest,
                is_linked_as_layer,
            } => {
                let facts = facts_of_manifest(&digest, size_bytes, &manifest);
                self.facts.extend(facts);
                self.facts
                    .extend(is_linked_as_layer.then_some(Fact::Layer(digest)));
            }
            Event::TagMoved { tag, digest } => self.facts.push(Fact::Tag(tag, digest)),
            Event::TagRemoved { tag } => self.gone.push(Forget::Tag(tag)),
            Event::ManifestRemoved { digest } => self.gone.push(Forget::Revision(digest)),
            // There may be more to forget than the queue takes: the removal replaces all of it by nothing.
            Event::RepositoryRemoved => {}
        }
    }
}

/// What the index hears of a manifest.
pub(super) fn facts_of_manifest(
    digest: &Digest,
    size_bytes: u64,
    manifest: &Manifest,
) -> Vec<Fact> {
    let mut facts = vec![
        Fact::Size(*digest, size_bytes),
        Fact::Revision(Revision {
            digest: *digest,
            size_bytes,
            is_index: manifest.media_type.is_index(),
            subject: manifest.subject.as_ref().map(|subject| subject.digest),
        }),
    ];
    let blobs = manifest.blobs().map(|blob| (blob, ChildKind::Blob));
    let children = manifest.children().iter();
    let children = children.map(|child| (child, ChildKind::Listed));
    facts.extend(blobs.chain(children).map(|(descriptor, kind)| Fact::Edge {
        parent: *digest,
        child: Child {
            digest: descriptor.digest,
            size_bytes: descriptor.size_bytes,
            kind,
        },
    }));
    facts
}
