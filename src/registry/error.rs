//! Why an operation was refused, by what a client can do about it.
//!
//! Must not know statuses or codes of HTTP: `server/error.rs` is the only map to those. Invariant: the text of every
//! variant is fit for the client; what only the operator may see is in the source.

use super::sessions::TooManySessions;
use crate::auth::Refusal;
use crate::index::IndexError;
use crate::oci::{Digest, ManifestError, Reference, RepositoryName, Tag};
use crate::store::StoreError;

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The caller may not do this any more: its account, password or rules have changed since the request came.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The repository holds nothing.
    #[error("repository {0} is not known")]
    NameUnknown(RepositoryName),
    /// The blob is not in the repository.
    #[error("blob {0} is not in this repository")]
    BlobUnknown(Digest),
    /// The manifest or tag is not in the repository.
    #[error("manifest {0} is not in this repository")]
    ManifestUnknown(Reference),
    /// The upload session never was the caller's: another owner or repository, made up, or cancelled.
    #[error("no such upload session")]
    UploadUnknown,
    /// The upload session is genuine, but what it had received is gone.
    #[error("this upload session has ended; start the blob again")]
    UploadInvalid,
    /// Another request is sending to the session; its bytes and these would interleave.
    #[error("another request is sending to this upload session")]
    UploadBusy {
        /// How far the session is.
        offset_bytes: u64,
    },
    /// The chunk does not begin at the session's offset.
    #[error("the chunk must begin at byte {offset_bytes}")]
    OutOfOrder {
        /// How far the session is.
        offset_bytes: u64,
    },
    /// `Content-Length`, `Content-Range` and the bytes that came do not agree.
    #[error("{0}")]
    SizeInvalid(String),
    /// The content does not have the digest that the client named.
    #[error("the content has digest {computed}, not {expected}")]
    DigestMismatch {
        /// What the client named.
        expected: Digest,
        /// What was received.
        computed: Digest,
    },
    /// The bytes are not a manifest that can be taken.
    #[error(transparent)]
    ManifestInvalid(#[from] ManifestError),
    /// A descriptor tells another length than the content has.
    #[error("descriptor {digest} says {said_bytes} bytes, the content has {stored_bytes}")]
    DescriptorSize {
        /// Which.
        digest: Digest,
        /// What the manifest says.
        said_bytes: u64,
        /// What is stored.
        stored_bytes: u64,
    },
    /// The manifest references what is not in the repository.
    #[error(
        "the manifest references {total} blobs or manifests that are not in this repository{}",
        how_many_named(named.len(), *total)
    )]
    ReferencesUnknown {
        /// The first of them; never none.
        named: Vec<Digest>,
        /// How many there are.
        total: usize,
    },
    /// The file system does not tell upper from lower case, and the tag exists in another spelling.
    #[error(
        "tag {wanted} differs only by case from {existing}, and this file system cannot keep both"
    )]
    TagCase {
        /// What was pushed.
        wanted: Tag,
        /// What is there.
        existing: Tag,
    },
    /// The repository was to be removed only if it holds no manifest.
    #[error("repository {0} holds manifests, and is kept for that")]
    HoldsManifests(RepositoryName),
    /// `storage.delete.enabled` is off.
    #[error("deleting is switched off on this registry")]
    DeletesDisabled,
    /// `storage.maintenance.readonly` is on.
    #[error("this registry is read-only")]
    Readonly,
    /// The caller has begun too many upload sessions that have not ended.
    #[error(
        "{limit} upload sessions of this account or address are open; finish or cancel some, or wait until they are old"
    )]
    TooManyUploads {
        /// How many may be.
        limit: usize,
    },
    /// Other operations held the locks that this one needs for too long.
    #[error("others were changing the same things for too long; send it again")]
    Busy,
    /// The body did not arrive whole.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The store could not do it.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl From<TooManySessions> for RegistryError {
    fn from(TooManySessions { limit }: TooManySessions) -> Self {
        Self::TooManyUploads { limit }
    }
}

impl RegistryError {
    /// Whether the same request may succeed in a moment, and nothing that it needs is lost.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Busy | Self::Store(StoreError::Busy { .. }))
    }

    /// Whether the store may not be read there: by its permissions, or because a link leads elsewhere. Then nothing is known
    /// to be absent.
    pub(super) fn is_unreadable(&self) -> bool {
        let Self::Store(StoreError::Io { source, .. }) = self else {
            return false;
        };
        source.kind() == std::io::ErrorKind::PermissionDenied
    }
}

/// Why the index could not be brought up to the store, or asked.
#[derive(Debug, thiserror::Error)]
pub enum IndexedError {
    /// The store could not be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The index could not be asked, or told.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl From<StoreError> for IndexedError {
    fn from(error: StoreError) -> Self {
        Self::Registry(error.into())
    }
}

/// Why a body ended before its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Nothing came for the stall limit.
    #[error("nothing was received for {limit_secs} s")]
    Stalled {
        /// The limit that was passed.
        limit_secs: u64,
    },
    /// It came slower than the floor rate while connections were scarce.
    #[error("the body came too slowly while this registry was busy")]
    TooSlow,
    /// The client said nothing, and another request of its owner goes on in its place.
    #[error("another request for this upload session has taken over")]
    TakenOver,
    /// The connection was lost, or the framing was wrong.
    #[error("the body ended before its end: {0}")]
    Broken(String),
}

fn how_many_named(named: usize, total: usize) -> String {
    if named == total {
        return String::new();
    }
    format!(
        "; {named} of them are named here, and {} more are not",
        total - named
    )
}
