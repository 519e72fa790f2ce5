//! What a store cannot list cheaply: sorted repositories and tags, referrers, edges of manifests, who holds a blob.
//!
//! The index is told what happened ([`Index::record`], [`Index::forget`]) and never makes a request wait; it answers in
//! pages. It may be behind the store and it may have been lost: the store is the truth, an answer is a candidate until the
//! store confirms it, and an index that cannot be trusted is set aside and filled again. Must not know which keys a
//! registry writes, nor HTTP. Invariant: a repository's [`Stamp`] is never newer than what is recorded of it, so that a
//! stamp which equals the store's means that nothing is missing.

mod error;
mod facts;

use std::path::PathBuf;
use std::sync::Arc;

pub use error::IndexError;
pub use facts::{Child, ChildKind, Counts, Fact, Forget, Health, Revision, Stamp, Statistics};

use crate::clock::Clock;
use crate::oci::{Digest, RepositoryName, Tag};

/// The longest page: what one answer holds in memory, and for how long one look keeps a rebuild from swapping the database.
pub const PAGE_MAX: usize = 1_000;

/// Where the index is and what it belongs to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The database's directory; its lock, state and a set-aside predecessor lie beside it (`index.lock`, `index.state`,
    /// `index.bad-<time>`).
    pub directory: PathBuf,
    /// Names the store that is indexed: an index of another store is set aside.
    pub store_id: String,
}

/// The index. Cheap to ask, safe to lose.
pub struct Index {}

impl Index {
    /// Opens or makes the index in `settings.directory`; blocks for up to a minute. A damaged, foreign or outdated index is
    /// no error: it is set aside, an empty one takes its place ([`Health::Rebuilding`]), and the log says so. Fails when
    /// another instance has it, and when the machine refuses (no room, no permission).
    pub fn open(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self, IndexError> {
        let _ = (settings, clock);
        todo!()
    }

    /// An index that lives as long as the value; complete from the start ([`Health::Healthy`]).
    pub fn in_memory(clock: Arc<dyn Clock>) -> Self {
        let _ = clock;
        todo!()
    }

    /// Notes what is now true of a repository; any fact makes the repository known. Never waits: what does not fit into the
    /// queue is dropped and counted, and the repository is unread ([`Index::is_unread`]) until it is read again. Changes
    /// take effect in the order of the calls. Facts about content (edges, sizes) go with the repository they were read
    /// for, so that its next re-read brings them back.
    pub fn record(&self, name: &RepositoryName, facts: Vec<Fact>) {
        let _ = (name, facts);
        todo!()
    }

    /// Notes what is no longer true of a repository; as [`Index::record`].
    pub fn forget(&self, name: &RepositoryName, gone: Vec<Forget>) {
        let _ = (name, gone);
        todo!()
    }

    /// Forgets size and edges of content that was removed from the store; lost ones only waste room.
    pub fn forget_content(&self, digests: Vec<Digest>) {
        let _ = digests;
        todo!()
    }

    /// Whether something recorded of this repository was dropped since it was last read: it must be read again
    /// ([`Index::reread`]) before a list of it is complete. In memory, cheap; after a restart the stamps tell.
    pub fn is_unread(&self, name: &RepositoryName) -> bool {
        let _ = name;
        todo!()
    }

    /// Resolves when all that was recorded so far is durable, or was given up (degraded, closed).
    pub async fn settle(&self) {
        todo!()
    }

    /// To be called **before** the first look at the store for a re-read: what is recorded from now on is kept and applied
    /// again on top of what [`Index::replace_repository`] brings, so that nothing that happens meanwhile is lost. The
    /// stamp given there must have been taken after this call and before the listing.
    pub fn reread(&self, name: &RepositoryName) -> Reread {
        let _ = name;
        todo!()
    }

    /// Makes `facts` all that is recorded of the repository, in commits of at most 1,000 keys, the stamp last; durable on
    /// return. No facts and no stamp: the repository is forgotten. Waits for its turn, so it slows its caller and not the
    /// requests.
    pub async fn replace_repository(
        &self,
        reread: Reread,
        facts: Vec<Fact>,
        stamp: Option<Stamp>,
    ) -> Result<(), IndexError> {
        let _ = (reread, facts, stamp);
        todo!()
    }

    /// Begins (or goes on with) filling the index from the store; `total` is how many repositories there are, if known.
    /// Repositories given in byte order load fastest. What was loaded before an interruption has its stamp already.
    pub fn begin_rebuild(&self, total: Option<u64>) -> Rebuild {
        let _ = total;
        todo!()
    }

    /// Repositories after `after`, in byte order; at most `limit` and at most [`PAGE_MAX`], as all pages here.
    pub async fn repositories(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RepositoryName>, IndexError> {
        let _ = (after, limit);
        todo!()
    }

    /// Tags after `after` in byte order, with what each pointed at when it was recorded.
    pub async fn tags(
        &self,
        name: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Tag, Digest)>, IndexError> {
        let _ = (name, after, limit);
        todo!()
    }

    /// The manifests of a repository, by digest.
    pub async fn revisions(
        &self,
        name: &RepositoryName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Revision>, IndexError> {
        let _ = (name, after, limit);
        todo!()
    }

    /// The manifests of a repository whose subject is `subject`, by digest.
    pub async fn referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, IndexError> {
        let _ = (name, subject, after, limit);
        todo!()
    }

    /// The blobs that a repository links, by digest.
    pub async fn layers(
        &self,
        name: &RepositoryName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, IndexError> {
        let _ = (name, after, limit);
        todo!()
    }

    /// Repositories that link the blob, in byte order.
    pub async fn repositories_with(
        &self,
        digest: &Digest,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RepositoryName>, IndexError> {
        let _ = (digest, after, limit);
        todo!()
    }

    /// What a manifest references, by digest.
    pub async fn children(
        &self,
        parent: &Digest,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Child>, IndexError> {
        let _ = (parent, after, limit);
        todo!()
    }

    /// The sizes of these blobs, in the same order; `None` where none is recorded.
    pub async fn sizes(&self, digests: Vec<Digest>) -> Result<Vec<Option<u64>>, IndexError> {
        let _ = digests;
        todo!()
    }

    /// All recorded blobs with their sizes, by digest.
    pub async fn blobs(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, u64)>, IndexError> {
        let _ = (after, limit);
        todo!()
    }

    /// The stamp of a repository: `None` if it is not known or must be read again.
    pub async fn stamp(&self, name: &RepositoryName) -> Result<Option<Stamp>, IndexError> {
        let _ = name;
        todo!()
    }

    /// How much is recorded; cheap.
    pub fn counts(&self) -> Counts {
        todo!()
    }

    /// Whether lists may come from here.
    pub fn health(&self) -> Health {
        todo!()
    }

    /// Figures about the index itself.
    pub fn statistics(&self) -> Statistics {
        todo!()
    }

    /// Settles, then closes the database and notes that it was closed in order; later records are dropped. Dropping the
    /// index does the same.
    pub async fn close(&self) {
        todo!()
    }
}

/// A repository that is being read again; dropping it gives the re-read up.
pub struct Reread {}

/// Filling the index; dropping it leaves the index incomplete, and a later one goes on.
pub struct Rebuild {}

impl Rebuild {
    /// As [`Index::replace_repository`], but many small repositories share a commit: returns once there is room for the
    /// next.
    pub async fn load(
        &mut self,
        reread: Reread,
        facts: Vec<Fact>,
        stamp: Option<Stamp>,
    ) -> Result<(), IndexError> {
        let _ = (reread, facts, stamp);
        todo!()
    }

    /// Counts one repository that needed no load (its stamp equals the store's).
    pub fn skip(&mut self) {
        todo!()
    }

    /// All repositories were loaded: makes it durable, closes and reopens the database once (damage is recognised by
    /// sled only after that), and declares the index complete ([`Health::Healthy`]).
    pub async fn finish(self) -> Result<(), IndexError> {
        todo!()
    }
}
