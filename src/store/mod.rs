//! The store seam: bytes by key, and the only writers of keys.
//!
//! Design: `docs/storage-layout.md`. It fits a directory and a bucket: there are no directories in it, and no times. Must not
//! know which links a registry writes, nor HTTP, nor who is asking. Invariants of every implementation: nothing after a
//! [`Step::Then`] is visible before all before it is, nothing after a [`Step::Barrier`] before all before it is durable, and
//! all is durable when [`ObjectStore::apply`] or [`Upload::finish`] returns. One conformance suite (`conformance`) holds all of
//! them to that.

pub mod bucket_like;
#[cfg(test)]
mod conformance;
pub mod faulty;
pub mod filesystem;
pub mod lease;
#[cfg(test)]
mod memory;
pub mod s3;
pub mod shared_state;
pub mod state_directory;
pub mod user_access;

use std::borrow::Borrow;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use serde::{Deserialize, Serialize};

use self::filesystem::FilesystemStore;
use self::s3::S3Store;
use crate::clock::Clock;
use crate::heartbeat::Heartbeat;
use crate::layout::{Key, Prefix};
use crate::oci::range::ByteRange;
use crate::oci::{Algorithm, Digest};

/// `storage`: where the data are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// In a directory.
    Filesystem {
        /// `storage.filesystem.rootdirectory`, absolute.
        root_directory: PathBuf,
    },
    /// In a bucket.
    Bucket(Box<s3::Settings>),
}

/// Where it is, for people: the directory, or the bucket and its endpoint.
impl fmt::Display for Settings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filesystem { root_directory } => root_directory.display().fmt(out),
            Self::Bucket(bucket) => out.write_str(&bucket.described()),
        }
    }
}

impl Settings {
    /// Opens the store. With `is_readonly` nothing in it is made or removed, also not now.
    pub fn open(
        &self,
        is_readonly: bool,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<dyn ObjectStore>, StoreError> {
        match self {
            Self::Filesystem { root_directory } => {
                let settings = filesystem::Settings {
                    is_readonly,
                    ..filesystem::Settings::at(root_directory)
                };
                Ok(Arc::new(FilesystemStore::open(settings, clock)?))
            }
            Self::Bucket(settings) => {
                Ok(Arc::new(S3Store::open(settings.as_ref().clone(), clock)?))
            }
        }
    }

    /// Whether the store takes `Foo` and `foo` for the same name. This writes in the store.
    pub fn is_case_insensitive(&self) -> io::Result<bool> {
        match self {
            Self::Filesystem { root_directory } => filesystem::is_case_insensitive(root_directory),
            Self::Bucket(_) => Ok(false),
        }
    }
}

/// Content as it is read, in pieces of the store's choice.
pub type ByteStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// Keys, one by one; ends after the first error.
pub type Listing = BoxStream<'static, Result<Entry, StoreError>>;

/// How much one [`ObjectStore::read_each`] brings, and at most one content more: bounds memory where all are long.
pub const READ_EACH_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes by key, over a directory or a bucket.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// The bytes at `key`, or those of `range`, with what is known of the whole content: one look-up for all of it.
    async fn read(&self, key: &Key, range: Option<ByteRange>) -> Result<Content, StoreError>;

    /// What is known of the content at `key`, without the bytes.
    async fn head(&self, key: &Key) -> Result<Meta, StoreError>;

    /// [`ObjectStore::head`] for each of `keys`, in their order; `None` where there is nothing.
    async fn head_each(&self, keys: &[Key]) -> Result<Vec<Option<Meta>>, StoreError> {
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(if_there(self.head(key).await)?);
        }
        Ok(found)
    }

    /// The whole content of each of `keys`, in their order, where it is no longer than `size_max_bytes`. Stops early when
    /// [`READ_EACH_BYTES`] are gathered, so the answer may be shorter than `keys`; it is empty only if they are.
    async fn read_each(&self, keys: &[Key], size_max_bytes: u64) -> Result<Vec<Small>, StoreError> {
        let mut gathered = Gathered::default();
        for key in keys {
            gathered.push(match self.read(key, None).await {
                Ok(Content { meta, .. }) if meta.size_bytes > size_max_bytes => {
                    Small::TooLarge(meta)
                }
                Ok(Content { meta, bytes, .. }) => {
                    let bytes: BytesMut = bytes.try_collect().await?;
                    Small::Whole(meta, bytes.freeze())
                }
                Err(StoreError::NotFound) => Small::Absent,
                Err(error) => return Err(error),
            });
            if gathered.is_full() {
                break;
            }
        }
        Ok(gathered.items)
    }

    /// What is at `link`, where it is no longer than `size_max_bytes`, and then the content at `data`, or `range` of it: none
    /// without a link. A store where each look is a round trip asks for both at once.
    async fn read_linked(
        &self,
        link: &Key,
        size_max_bytes: u64,
        data: &Key,
        range: Option<ByteRange>,
    ) -> Result<(Small, Option<Content>), StoreError> {
        let links = self.read_each(std::slice::from_ref(link), size_max_bytes);
        let link = links.await?.pop().unwrap_or(Small::Absent);
        if !matches!(link, Small::Whole(..)) {
            return Ok((link, None));
        }
        Ok((link, if_there(self.read(data, range).await)?))
    }

    /// [`ObjectStore::read_linked`] without the bytes at `data`.
    async fn head_linked(
        &self,
        link: &Key,
        size_max_bytes: u64,
        data: &Key,
    ) -> Result<(Small, Option<Meta>), StoreError> {
        let links = self.read_each(std::slice::from_ref(link), size_max_bytes);
        let link = links.await?.pop().unwrap_or(Small::Absent);
        if !matches!(link, Small::Whole(..)) {
            return Ok((link, None));
        }
        Ok((link, if_there(self.head(data).await)?))
    }

    /// A URL by which a client can read the content at `key` itself for `lifetime`, where the store is set to give such links.
    /// The content need not be there.
    async fn link(&self, _key: &Key, _lifetime: Duration) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    /// What lies below `prefix`, in byte order of the full key (`a-b/`, `a.b/` come before `a/`). With [`Depth::One`], what
    /// lies deeper shows as one entry, whose key ends in `/`. A prefix that holds nothing lists as empty. Each directory is
    /// read once, when the stream comes to it; what comes or goes meanwhile may show or not.
    fn list(&self, prefix: &Prefix, depth: Depth) -> Listing;

    /// What shows whether something changed below any of `prefixes`: equal values mean that nothing directly below one of
    /// them came or went, and no directory that appears whole (a tag) was changed. `None` if the store cannot tell.
    async fn fingerprint(&self, prefixes: &[Prefix]) -> Result<Option<Fingerprint>, StoreError>;

    /// Carries out `steps`; all are durable on return. On an error, some of them may have happened, but none that follows a
    /// [`Step::Then`] or [`Step::Barrier`] unless all before it have.
    async fn apply(&self, steps: Vec<Step>) -> Result<(), StoreError>;

    /// What keeps the store from taking writes now, as far as that can be found out without writing.
    async fn constraint(&self) -> Result<Option<Constraint>, StoreError> {
        Ok(None)
    }

    /// How much may still be written; `None` if the store has no limit of its own.
    async fn room(&self) -> Result<Option<Room>, StoreError> {
        Ok(None)
    }

    /// The loops of the store, to see whether they move.
    fn heartbeats(&self) -> Vec<Arc<Heartbeat>> {
        Vec::new()
    }

    /// Removes what interrupted work has left, now and then, for as long as the store is used; never returns.
    async fn maintain(&self) {
        future::pending::<()>().await;
    }

    /// Begins an upload session in the directory `prefix`. Its sha256 is computed while it receives, and `algorithm`, where the
    /// client has announced another one.
    async fn open_upload(
        &self,
        prefix: &Prefix,
        algorithm: Option<Algorithm>,
    ) -> Result<Box<dyn Upload>, StoreError>;

    /// Resumes the session in the directory `prefix`; `None` if its bytes are gone.
    async fn resume_upload(&self, prefix: &Prefix) -> Result<Option<Box<dyn Upload>>, StoreError>;
}

/// An upload session: hashes what it appends and owns its checkpoint. Dropping it keeps what was persisted, and
/// perhaps more.
#[async_trait]
pub trait Upload: Send {
    /// The client has named the digest, and perhaps the length of the whole, before the bytes that it sends next. A store that
    /// can write them to the final key does so.
    fn expect(&mut self, _digest: &Digest, _length_bytes: Option<u64>) {}

    /// How many bytes were appended, also before the session was resumed.
    fn offset_bytes(&self) -> u64;

    /// Appends the next bytes.
    async fn append(&mut self, bytes: Bytes) -> Result<(), StoreError>;

    /// Makes all that was appended survive the death of this process (not of the machine); returns how many bytes that is.
    async fn persist(&mut self) -> Result<u64, StoreError>;

    /// The digest of all that was appended; reads everything again where `algorithm` was not computed while receiving.
    async fn digest(&mut self, algorithm: Algorithm) -> Result<Digest, StoreError>;

    /// Makes a blob of the session: its bytes become the data of `digest`, then `then` is carried out as by
    /// [`ObjectStore::apply`]; all is durable on return. Data that are there already are replaced: they are the same, or
    /// damaged. Fails if the bytes are not what `digest` says.
    async fn finish(self: Box<Self>, digest: &Digest, then: Vec<Step>) -> Result<(), StoreError>;

    /// Forgets the session and its bytes.
    async fn abort(self: Box<Self>) -> Result<(), StoreError>;
}

/// One change of what the store holds. Between two [`Step::Then`] or [`Step::Barrier`], a store may carry out steps in any
/// order and at the same time, so each of them is about other keys.
pub enum Step {
    /// Makes `bytes` the content of `key`.
    Put {
        /// Where.
        key: Key,
        /// What; small (links, manifests).
        bytes: Bytes,
        /// What must hold for it to happen.
        condition: Condition,
    },
    /// Removes one key; nothing happens if it is absent.
    Remove(Key),
    /// Removes all keys below the prefix. No other is removed before `first` is gone, so that the rest of a tree that cannot be
    /// removed at once means nothing any more.
    RemoveTree {
        /// All keys that begin with it.
        prefix: Prefix,
        /// The key below it that gives the others their meaning (`current/link` of a tag), if there is one.
        first: Option<Key>,
    },
    /// Makes the content of the key durable, also if another process wrote it and died before it was; [`StoreError::NotFound`]
    /// if the key is absent.
    Settle(Key),
    /// Nothing that follows is visible before all before it is.
    Then,
    /// Nothing that follows is visible before all before it is durable.
    Barrier,
}

impl Step {
    /// A [`Step::Put`] without a condition.
    pub fn put(key: Key, bytes: impl Into<Bytes>) -> Self {
        Self::Put {
            key,
            bytes: bytes.into(),
            condition: Condition::Any,
        }
    }

    /// A [`Step::RemoveTree`].
    pub fn remove_tree(prefix: Prefix, first: impl Into<Option<Key>>) -> Self {
        Self::RemoveTree {
            prefix,
            first: first.into(),
        }
    }
}

/// What must hold for a [`Step::Put`]; [`StoreError::Conflict`] otherwise, and then it has not happened. Content that is
/// compared and swapped carries a nonce: a bucket calls equal content by an equal version, and knows by it whose write it was
/// if an answer is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Any,
    /// The key holds nothing.
    Absent,
    /// The key holds the content of this [`Meta::version`].
    Match(Version),
}

/// Why a store takes no writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constraint {
    /// No room is left.
    Full,
    /// It can only be read.
    ReadOnly,
}

/// The volume of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// What may still be written.
    pub free_bytes: u64,
    /// All of it.
    pub size_bytes: u64,
    /// With less than this free, the store counts as full.
    pub floor_bytes: u64,
}

/// How deep [`ObjectStore::list`] looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Only directly below the prefix.
    One,
    /// Everything below the prefix.
    All,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The full key; ends in `/` where it stands for all that lies below. May be anything that another program has put there.
    pub key: String,
}

impl Entry {
    /// Whether it stands for what lies below it.
    pub fn is_prefix(&self) -> bool {
        self.key.ends_with('/')
    }
}

/// Content as it is read.
pub struct Content {
    /// About the whole content.
    pub meta: Meta,
    /// Which bytes these are; `None` if the content has none of those that were asked for.
    pub range: Option<Range<u64>>,
    /// The bytes; none where `range` is `None`.
    pub bytes: ByteStream,
}

impl Borrow<Meta> for Content {
    fn borrow(&self) -> &Meta {
        &self.meta
    }
}

impl Content {
    /// The answer to a reader who asked for what the content does not have.
    pub(crate) fn out_of_range(meta: Meta) -> Self {
        Self {
            meta,
            range: None,
            bytes: stream::empty().boxed(),
        }
    }
}

/// See [`ObjectStore::fingerprint`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// Opaque text.
    pub value: String,
    /// Whether each change from now on will show. Where it is made of times, one within the same tick would not.
    pub is_settled: bool,
}

/// What is known of a key without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The length of the content.
    pub size_bytes: u64,
    /// Changes whenever the content does.
    pub version: Version,
    /// When the content was written, as far as the store knows. For people only: nothing compares it.
    pub written: Option<SystemTime>,
}

/// What [`ObjectStore::read_each`] found at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Small {
    /// Nothing.
    Absent,
    /// More than was asked for.
    TooLarge(Meta),
    /// All of it.
    Whole(Meta, Bytes),
}

/// What one [`ObjectStore::read_each`] has gathered.
#[derive(Default)]
pub(crate) struct Gathered {
    pub(crate) items: Vec<Small>,
    bytes: u64,
}

impl Gathered {
    pub(crate) fn push(&mut self, item: Small) {
        if let Small::Whole(meta, _) = &item {
            self.bytes += meta.size_bytes;
        }
        self.items.push(item);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= READ_EACH_BYTES
    }
}

/// `None` for what is not there.
fn if_there<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opaque text; equal versions of one key mean equal content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Version(pub String);

/// Why a store failed, by what a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is nothing at the key.
    #[error("nothing is stored there")]
    NotFound,
    /// A [`Condition`] did not hold.
    #[error("another request has changed it meanwhile")]
    Conflict,
    /// No room left (disk or quota); nothing was lost.
    #[error("no space left in the store")]
    Full,
    /// The store takes no more for a moment; nothing was lost.
    #[error("the store is busy")]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// Anything else; `doing` names the operation and the key.
    #[error("cannot {doing}")]
    Io {
        /// `read docker/registry/v2/…`
        doing: String,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// The bytes of `upload` are not what they were finished as.
    pub(crate) fn not_its_digest(upload: &str) -> Self {
        Self::Io {
            doing: format!("finish the upload {upload}"),
            source: io::Error::new(io::ErrorKind::InvalidData, "it does not have that digest"),
        }
    }

    /// An error of the system while `doing` something; a lack of room is [`StoreError::Full`].
    pub(crate) fn from_io(doing: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io {
                doing: doing.into(),
                source,
            },
        }
    }
}
