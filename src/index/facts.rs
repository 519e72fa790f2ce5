//! The words in which the index is told things and answers.
//!
//! Must not know how they are stored. Invariant: every value can be recorded; what a repository's name has to say stands
//! beside it, never inside.

use std::time::{Duration, SystemTime};

use crate::oci::{Digest, Tag};

/// One thing that is true of a repository, or of content that was read for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The repository exists, even if nothing else is known of it.
    Known,
    /// A tag points at a manifest.
    Tag(Tag, Digest),
    /// A manifest belongs to the repository; a subject makes it a referrer.
    Revision(Revision),
    /// The repository links a blob.
    Layer(Digest),
    /// A manifest of the repository cannot be understood. What it needs is not known, so it needs every blob that the
    /// repository links.
    Opaque(Digest),
    /// A manifest references something; true wherever that manifest lies.
    Edge {
        /// The manifest.
        parent: Digest,
        /// What it references.
        child: Child,
    },
    /// How long a blob is; true everywhere.
    Size(Digest, u64),
    /// The store looked like this when all that was recorded before had happened, and nothing else had.
    Stamp(Stamp),
}

/// One thing that is no longer true of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forget {
    /// The tag.
    Tag(Tag),
    /// The manifest, and that it is a referrer.
    Revision(Digest),
    /// The link of the blob.
    Layer(Digest),
    /// The stamp: the repository must be read again.
    Stamp,
}

/// A manifest of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its address.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// Whether it lists manifests (an image index) and not blobs.
    pub is_index: bool,
    /// The manifest that it is about.
    pub subject: Option<Digest>,
}

/// What a manifest references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its address.
    pub digest: Digest,
    /// The length that the manifest gives.
    pub size_bytes: u64,
    /// What it is.
    pub kind: ChildKind,
}

/// What a manifest can reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildKind {
    /// Config, layer, or blob of an artifact.
    Blob,
    /// An entry of an image index: a manifest, or a blob (the cache of `BuildKit` lists blobs). The media type does not decide, so
    /// this is the same wherever it is read from; which of the two it is, the links of a repository tell. What follows edges
    /// must follow these as both: a blob has no edges of its own.
    Listed,
}

/// How a repository's directories looked; opaque here, compared by its owner. At most 1,024 bytes: a longer one is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(pub Vec<u8>);

/// How much is recorded: running totals, which cost no walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Known repositories.
    pub repositories: u64,
    /// Tags of all repositories.
    pub tags: u64,
    /// Manifest links of all repositories.
    pub revisions: u64,
    /// Those of them that have a subject.
    pub referrers: u64,
    /// Blob links of all repositories.
    pub layers: u64,
    /// References of all manifests.
    pub edges: u64,
    /// Blobs whose size is known.
    pub sizes: u64,
    /// Different blobs and manifests that some repository holds.
    pub blobs: u64,
    /// What the repositories hold, each for itself.
    pub held_bytes: u64,
    /// What they hold, each blob and manifest once.
    pub stored_bytes: u64,
    /// All entries of the database, reverse ones too.
    pub keys: u64,
}

/// What one repository holds. A digest counts once, whether as a blob, as a manifest or as both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepositoryTotals {
    /// Tags.
    pub tags: u64,
    /// Manifests.
    pub revisions: u64,
    /// Those of them that have a subject.
    pub referrers: u64,
    /// Blob links.
    pub layers: u64,
    /// Blobs and manifests together.
    pub bytes: u64,
    /// Those of them that no other repository holds.
    pub unique_bytes: u64,
}

/// Whether the index can be relied on to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Complete, as far as stamps agree.
    Healthy,
    /// It was not closed in order and is being checked; answers are likely right and may miss things.
    Checking,
    /// New or set aside: incomplete until [`super::Rebuild::finish`]; only repositories with a stamp are complete.
    Rebuilding {
        /// Repositories loaded.
        done: u64,
        /// Of how many, once that is known.
        total: Option<u64>,
    },
    /// Out of order; every question fails until it could be opened again, which is tried with growing pauses.
    Degraded {
        /// What happened.
        reason: String,
        /// When.
        since: SystemTime,
    },
}

/// Figures about the index itself, since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Facts that wait to be written.
    pub queued: u64,
    /// Batches of facts that were dropped, each with its repository marked unread.
    pub dropped_batches: u64,
    /// Repositories that are unread.
    pub unread_repositories: u64,
    /// Durable commits.
    pub commits: u64,
    /// How often the database was set aside.
    pub quarantines: u64,
    /// How long the slowest of the last commits took, one in a hundred left out; `None` before the first.
    pub slow_commit: Option<Duration>,
}
