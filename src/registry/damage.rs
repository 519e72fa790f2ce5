//! Stored data that cannot be what their digest says: cut, emptied or altered by a power cut, a full disk or half a copy.
//!
//! Such data count as absent, so that clients send them again, and each is warned of once. What costs nothing is known of
//! every blob: no bytes under a digest of some. The index tells the length that a blob had when it was pushed or first read;
//! it is asked once for each version of a file. Where that length, or a manifest's descriptor, contradicts the file, the
//! file is hashed, so neither a wrong descriptor nor a stale index hides data that are sound. Manifests are hashed whenever
//! they are read from the store.
//!
//! Must not know how data came to be damaged. Invariant: a file that was hashed and found right stays visible.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::spawn_blocking;

use super::error::RegistryError;
use super::index_sync::gate::IndexGate;
use crate::layout::{Key, Place};
use crate::oci::range::ByteRange;
use crate::oci::{Algorithm, Digest, Hasher};
use crate::store::{Content, Meta, ObjectStore, StoreError, Version};

/// How many verdicts and warnings are remembered: about 10 MB. Beyond that all are forgotten, which costs looks.
const REMEMBERED_MAX: usize = 32_768;

/// Keys that the store is asked about at once: a call costs more than a key, and where all keys are in memory the thread
/// that looks is busy for about a millisecond.
pub(super) const AT_ONCE: usize = 256;

/// A longer file is not hashed while a request waits, which would take many seconds: fewer bytes than the index knows of then
/// count as damage, more do not.
const HASHED_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What was found out about the files of the store, by this process.
pub(super) struct Damage {
    store: Arc<dyn ObjectStore>,
    gate: Arc<IndexGate>,
    found: Mutex<Found>,
    /// One file at a time is hashed.
    hashing: AsyncMutex<()>,
}

#[derive(Default)]
struct Found {
    /// What the data of a digest are, in one version of their file.
    verdicts: HashMap<Digest, (Version, Verdict)>,
    /// What was warned of, as text.
    warned: HashSet<String>,
    /// Versions of data that were found damaged.
    damaged_data: u64,
}

/// What the file of some data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// As long as the index or a manifest says; it was not hashed.
    RightLength,
    /// Hashed, and right.
    Sound,
    /// Not what the digest says.
    Damaged,
}

/// What hashing has found of bytes that were just read. It takes long, so it is done where they are parsed.
#[derive(Clone, Copy)]
pub(super) enum Hashed {
    /// Whether they are right, as was found before.
    Before(bool),
    /// Their digest.
    Now(Digest),
}

impl Hashed {
    /// Hashes `bytes`, unless it is `known` whether they are right.
    pub(super) fn of(bytes: &[u8], algorithm: Algorithm, known: Option<bool>) -> Self {
        match known {
            Some(is_sound) => Self::Before(is_sound),
            None => Self::Now(Digest::of(algorithm, bytes)),
        }
    }
}

impl Damage {
    pub(super) fn new(store: Arc<dyn ObjectStore>, gate: Arc<IndexGate>) -> Self {
        Self {
            store,
            gate,
            found: Mutex::default(),
            hashing: AsyncMutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self, digest: &Digest, version: &Version) -> Option<Verdict> {
        let found = self.lock();
        let (known, verdict) = found.verdicts.get(digest)?;
        (known == version).then_some(*verdict)
    }

    /// What was found when these data of `digest` were hashed, if they were.
    pub(super) fn hashed_before(&self, digest: &Digest, meta: &Meta) -> Option<bool> {
        match self.verdict(digest, &meta.version)? {
            Verdict::RightLength => None,
            Verdict::Sound => Some(true),
            Verdict::Damaged => Some(false),
        }
    }

    /// Remembers a verdict, and warns of a bad one.
    fn note(&self, digest: &Digest, meta: &Meta, verdict: Verdict) {
        let mut found = self.lock();
        if found.verdicts.len() >= REMEMBERED_MAX {
            found.verdicts.clear();
        }
        let verdict = (meta.version.clone(), verdict);
        let before = found.verdicts.insert(*digest, verdict.clone());
        if verdict.1 == Verdict::Damaged && before != Some(verdict) {
            found.damaged_data += 1;
            tracing::warn!(
                %digest,
                size_bytes = meta.size_bytes,
                "the stored data are not what their digest says, and count as absent; hint: push them again"
            );
        }
    }

    /// How often data were found that are not what their digest says; each version of a file counts once.
    pub(super) fn damaged_data(&self) -> u64 {
        self.lock().damaged_data
    }

    /// Whether what is wrong with this version of `key` is not warned of yet.
    pub(super) fn is_news(&self, key: &Key, meta: &Meta) -> bool {
        self.is_first(format!("{key} {}", meta.version.0))
    }

    fn is_first(&self, what: String) -> bool {
        let mut found = self.lock();
        if found.warned.len() >= REMEMBERED_MAX {
            found.warned.clear();
        }
        found.warned.insert(what)
    }

    /// Warns, once, of a directory that cannot be looked into. What is in it is neither listed nor taken for removed.
    pub(super) fn pass_over(&self, directory: &str, error: &RegistryError) {
        if self.is_first(directory.to_owned()) {
            // What the system said is at the end of the chain.
            let mut cause: &dyn Error = error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            tracing::warn!(
                directory,
                error = %cause,
                "cannot be looked into, and is passed over; hint: if it holds repositories, let this user read it"
            );
        }
    }

    /// Warns, once, of a directory among the repositories that cannot be one.
    pub(super) fn pass_over_stranger(&self, directory: &str) {
        if self.is_first(directory.to_owned()) {
            tracing::warn!(directory, "not the name of a repository; passed over");
        }
    }

    /// What is known of the data of `digest`, if they are there and can be what it says.
    pub(super) async fn find_data(&self, digest: &Digest) -> Result<Option<Meta>, RegistryError> {
        let meta = find(&*self.store, &data_key(digest)).await?;
        self.sound(digest, meta).await
    }

    /// The data of `digest`, or `range` of them, if they are there and can be what it says.
    pub(super) async fn read_data(
        &self,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<Option<Content>, RegistryError> {
        let content = match self.store.read(&data_key(digest), range).await {
            Ok(content) => Some(content),
            Err(StoreError::NotFound) => None,
            Err(error) => return Err(error.into()),
        };
        self.sound(digest, content).await
    }

    /// What the store has just found of the data of `digest`, if it can be what it says.
    pub(super) async fn sound<T: Borrow<Meta>>(
        &self,
        digest: &Digest,
        found: Option<T>,
    ) -> Result<Option<T>, RegistryError> {
        let Some(found) = found else {
            return Ok(None);
        };
        Ok(self.can_be(digest, found.borrow()).await?.then_some(found))
    }

    /// Whether the data of `digest`, of which the store has just said this, can be what it says.
    async fn can_be(&self, digest: &Digest, meta: &Meta) -> Result<bool, RegistryError> {
        let can_be = self.can_be_each(&[(*digest, meta)]).await?;
        Ok(can_be.first() == Some(&true))
    }

    /// The same for each of `data`, in their order. The index is asked once, for those of which nothing is known yet.
    async fn can_be_each(&self, data: &[(Digest, &Meta)]) -> Result<Vec<bool>, RegistryError> {
        let glance = |(digest, meta): &(Digest, &Meta)| self.sound_at_a_glance(digest, meta);
        let glances: Vec<Option<bool>> = data.iter().map(glance).collect();
        let unknown = data.iter().zip(&glances);
        let unknown = unknown.filter(|(_, glance)| glance.is_none());
        let unknown = unknown.map(|((digest, _), _)| *digest).collect();
        let mut sizes = self.gate.sizes(unknown).await.into_iter();
        let mut can_be = Vec::with_capacity(data.len());
        for ((digest, meta), glance) in data.iter().zip(glances) {
            can_be.push(match glance {
                Some(is_sound) => is_sound,
                None => match sizes.next().flatten() {
                    Some(size_bytes) => self.agrees_with(digest, meta, size_bytes).await?,
                    None => true,
                },
            });
        }
        Ok(can_be)
    }

    /// [`Damage::find_data`] for each of `digests`, in their order.
    pub(super) async fn find_each_data(
        &self,
        digests: &[Digest],
    ) -> Result<Vec<Option<Meta>>, RegistryError> {
        let keys: Vec<Key> = digests.iter().map(data_key).collect();
        let mut metas = find_each(&*self.store, &keys).await?;
        let there = digests.iter().zip(&metas);
        let there: Vec<_> = there
            .filter_map(|(digest, meta)| Some((*digest, meta.as_ref()?)))
            .collect();
        let mut can_be = self.can_be_each(&there).await?.into_iter();
        for found in metas.iter_mut().filter(|found| found.is_some()) {
            if can_be.next() != Some(true) {
                *found = None;
            }
        }
        Ok(metas)
    }

    /// Whether the data of `digest`, which are there, may have the length that a manifest or the index says. Where that is
    /// not the length of the file, the file is hashed, and its word counts.
    pub(super) async fn agrees_with(
        &self,
        digest: &Digest,
        meta: &Meta,
        said_bytes: u64,
    ) -> Result<bool, RegistryError> {
        if said_bytes == meta.size_bytes {
            if self.verdict(digest, &meta.version).is_none() {
                self.note(digest, meta, Verdict::RightLength);
            }
            return Ok(true);
        }
        let _one_at_a_time = self.hashing.lock().await;
        if let Some(is_sound) = self.hashed_before(digest, meta) {
            return Ok(is_sound);
        }
        let is_sound = if meta.size_bytes > HASHED_BYTES_MAX {
            meta.size_bytes > said_bytes
        } else {
            match self.hash(digest).await? {
                Some(hashed) => hashed == *digest,
                None => return Ok(false),
            }
        };
        self.note(digest, meta, verdict_of(is_sound));
        Ok(is_sound)
    }

    /// Whether the data of `digest`, as they were just read, are what it says.
    pub(super) fn is_sound(&self, digest: &Digest, meta: &Meta, hashed: Hashed) -> bool {
        match hashed {
            Hashed::Before(is_sound) => is_sound,
            Hashed::Now(computed) => {
                let is_sound = computed == *digest;
                self.note(digest, meta, verdict_of(is_sound));
                is_sound
            }
        }
    }

    /// What is known already, or can be told by the length alone.
    fn sound_at_a_glance(&self, digest: &Digest, meta: &Meta) -> Option<bool> {
        if let Some(verdict) = self.verdict(digest, &meta.version) {
            return Some(verdict != Verdict::Damaged);
        }
        let is_of_nothing = *digest == Digest::of(digest.algorithm(), b"");
        if (meta.size_bytes == 0) != is_of_nothing {
            self.note(digest, meta, Verdict::Damaged);
            return Some(false);
        }
        None
    }

    /// The digest of what is stored as the data of `digest`, if anything is.
    async fn hash(&self, digest: &Digest) -> Result<Option<Digest>, RegistryError> {
        let mut pieces = match self.store.read(&data_key(digest), None).await {
            Ok(content) => content.bytes,
            Err(StoreError::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(piece) = pieces.next().await {
            let piece: Bytes = piece?;
            let update = spawn_blocking(move || {
                hasher.update(&piece);
                hasher
            });
            let updated = update.await.map_err(std::io::Error::other);
            hasher = updated.map_err(|source| StoreError::from_io("hash a blob", source))?;
        }
        Ok(Some(hasher.finish()))
    }
}

/// What is known of `key`, if it is there.
pub(super) async fn find(
    store: &dyn ObjectStore,
    key: &Key,
) -> Result<Option<Meta>, RegistryError> {
    match store.head(key).await {
        Ok(meta) => Ok(Some(meta)),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What is known of `keys`, in their order.
pub(super) async fn find_each(
    store: &dyn ObjectStore,
    keys: &[Key],
) -> Result<Vec<Option<Meta>>, RegistryError> {
    let mut found = Vec::with_capacity(keys.len());
    for part in keys.chunks(AT_ONCE) {
        found.extend(store.head_each(part).await?);
        // Metas in memory are found without waiting, so ten thousand in a row would keep other requests off the thread.
        tokio::task::yield_now().await;
    }
    Ok(found)
}

fn verdict_of(is_sound: bool) -> Verdict {
    if is_sound {
        Verdict::Sound
    } else {
        Verdict::Damaged
    }
}

fn data_key(digest: &Digest) -> Key {
    Place::BlobData(*digest).key()
}
