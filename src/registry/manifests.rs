//! Manifests and tags: reading and writing; `deletion` removes them.
//!
//! Source: distribution-spec "Pushing Manifests"; DESIGN D2, D8. Must not know HTTP. Invariants: the exact bytes are kept;
//! bytes before link, link before tag; tags go before the revision they point at.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::commit::Commit;
use super::core::{Blob, Core, READ_SIZE_MAX_BYTES};
use super::damage::Hashed;
use super::error::RegistryError;
use super::event::{Actor, Event};
use super::fallback::{Edit, FallbackChange};
use super::locks::Mode;
use super::memory_budget::{Holder, Reservation};
use super::phases::Phases;
use super::references::Mountable;
use super::referrers::Referrer;
use crate::layout::{self, Place};
use crate::oci::{Algorithm, Digest, Manifest, Reference, RepositoryName, Tag};
use crate::store::{Meta, Small, Version};

/// Manifests of many megabytes that are read at once: each is in memory for a moment.
const LONG_READS_AT_ONCE: usize = 2;

/// What all manifests in the cache may take, with [`ENTRY_BYTES`] for each: thousands of usual ones, and no burden for a
/// small machine.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Of a longer manifest the cache keeps only the media type: its bytes would drive out too many others.
const MANIFEST_BYTES_MAX: u64 = 1024 * 1024;

/// What an entry takes besides its bytes, about.
const ENTRY_BYTES: usize = 512;

/// A manifest that is there.
#[derive(Debug, Clone)]
pub struct StoredManifest {
    /// Its address: what was asked for, or what the tag points at.
    pub digest: Digest,
    /// What it says it is.
    pub media_type: Arc<str>,
    /// Its length.
    pub size_bytes: u64,
    /// Its exact bytes.
    pub content: ManifestContent,
}

/// Where the bytes of a manifest are.
#[derive(Debug, Clone)]
pub enum ManifestContent {
    /// In memory, counted in the budget.
    InMemory(Bytes),
    /// In the store, to be read by `Blobs::read`: it is too long to be held for as long as a client takes.
    InStore(Blob),
}

/// A manifest that was taken.
#[derive(Debug, Clone)]
pub struct PushedManifest {
    /// Its address.
    pub digest: Digest,
    /// The manifest that it is about.
    pub subject: Option<Digest>,
}

/// The room of manifests and tags.
pub struct Manifests {
    pub(super) core: Arc<Core>,
    cache: ManifestCache,
    long_reads: Semaphore,
}

impl Manifests {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
            cache: ManifestCache::default(),
            long_reads: Semaphore::new(LONG_READS_AT_ONCE),
        }
    }

    /// The manifest that `reference` names.
    pub async fn get(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<StoredManifest, RegistryError> {
        let unknown = || RegistryError::ManifestUnknown(reference.clone());
        let digest = self.resolve(name, reference).await?.ok_or_else(unknown)?;
        let link = Place::RevisionLink(name, digest);
        let linked = self.core.linked_data(&link).await?;
        let (target, meta) = linked.ok_or_else(unknown)?;
        let content = self.content_of(&digest, &target, &meta).await?;
        let Served { media_type, bytes } = content.ok_or_else(unknown)?;
        let content = match bytes {
            Some(bytes) => ManifestContent::InMemory(bytes),
            None => ManifestContent::InStore(Blob::of(&target, &digest, &meta)),
        };
        Ok(StoredManifest {
            digest,
            media_type,
            size_bytes: meta.size_bytes,
            content,
        })
    }

    /// The data of `target`, to which the link of `digest` leads, without their bytes if they are too many to be held. A
    /// client decides for how long they are held. So those that are held are counted, and where no more may be held, they
    /// are read again while they are sent.
    async fn content_of(
        &self,
        digest: &Digest,
        target: &Digest,
        meta: &Meta,
    ) -> Result<Option<Served>, RegistryError> {
        if let Some(content) = self.cache.get(digest, &meta.version) {
            return Ok(Some(content));
        }
        let Some(reservation) = self.reserve(meta.size_bytes) else {
            // What it is can be told only from all of it.
            let _turn = self.long_reads.acquire().await;
            // Others may have asked for the same meanwhile.
            if let Some(content) = self.cache.get(digest, &meta.version) {
                return Ok(Some(content));
            }
            let read = self.read_sound(target, READ_SIZE_MAX_BYTES).await?;
            return Ok(read.map(|(meta, content)| {
                let content = content.without_bytes();
                if meta.size_bytes > MANIFEST_BYTES_MAX {
                    self.cache.put(digest, meta.version, &content);
                }
                content
            }));
        };
        let read = self.read_sound(target, MANIFEST_BYTES_MAX).await?;
        Ok(read.map(|(meta, content)| {
            let content = content.held_by(reservation);
            self.cache.put(digest, meta.version, &content);
            content
        }))
    }

    /// The data of `target`, if they are there, no longer than `size_max_bytes`, and what their digest says.
    async fn read_sound(
        &self,
        target: &Digest,
        size_max_bytes: u64,
    ) -> Result<Option<(Meta, Served)>, RegistryError> {
        let mut read = None;
        let key = Place::BlobData(*target).key();
        let keys = std::slice::from_ref(&key);
        self.core
            .read_each(keys, size_max_bytes, |_, data| {
                if let Small::Whole(meta, bytes) = data {
                    read = Some((meta, bytes));
                }
            })
            .await?;
        let Some((meta, bytes)) = read else {
            return Ok(None);
        };
        let known = self.core.damage.hashed_before(target, &meta);
        let (size_bytes, algorithm) = (bytes.len(), target.algorithm());
        let look = move || {
            let hashed = Hashed::of(&bytes, algorithm, known);
            (Served::of(bytes), hashed)
        };
        let (content, hashed) = self.core.parse(size_bytes, look).await?;
        let is_sound = self.core.damage.is_sound(target, &meta, hashed);
        Ok(is_sound.then_some((meta, content)))
    }

    fn reserve(&self, size_bytes: u64) -> Option<Reservation> {
        if size_bytes > MANIFEST_BYTES_MAX {
            return None;
        }
        let mut reservation = self.core.memory.reservation(Holder::Manifests);
        let size_bytes = usize::try_from(size_bytes).ok()?;
        reservation.grow_to(size_bytes).ok().map(|()| reservation)
    }

    pub(super) async fn resolve(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<Digest>, RegistryError> {
        match reference {
            Reference::Digest(digest) => Ok(Some(*digest)),
            Reference::Tag(tag) => {
                let link = Place::TagCurrent(name, tag).key();
                self.core.read_link(&link).await
            }
        }
    }

    /// Takes a manifest under `reference` and under `more_tags`. `content_type` is what the client says it is.
    pub async fn put(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        more_tags: &[Tag],
        content_type: Option<&str>,
        bytes: Bytes,
        actor: Actor<'_>,
    ) -> Result<PushedManifest, RegistryError> {
        self.core.check_writable()?;
        // Before anything is read too: a caller who may no longer push must not learn what is missing.
        actor.confirm().await?;
        let (algorithm, tags) = match reference {
            Reference::Tag(tag) => (
                Algorithm::Sha256,
                [std::slice::from_ref(tag), more_tags].concat(),
            ),
            Reference::Digest(expected) => (expected.algorithm(), more_tags.to_vec()),
        };
        let (manifest, digest) = self.parse(&bytes, content_type, algorithm).await?;
        if let Reference::Digest(expected) = reference
            && digest != *expected
        {
            return Err(RegistryError::DigestMismatch {
                expected: *expected,
                computed: digest,
            });
        }
        if let Some(urls) = &self.core.settings.layer_urls {
            manifest.check_urls(|url| urls.allow(url))?;
        }
        let viewer = actor.viewer();
        let looked_up = self.core.look_up_references(name, &manifest, viewer);
        let referenced = looked_up.await?;
        let subject = manifest.subject.as_ref().map(|subject| subject.digest);
        let listed_for = subject.filter(|subject| {
            // A client that pushes under the very tag decides what it points at.
            self.core.keeps_fallback_tags() && !tags.contains(&Tag::of_referrers(subject))
        });
        // A tag that another one may be taken for must not come up between the look and the push; and of two pushes that list
        // their manifests under one tag, the second must see what the first has listed.
        let mode = if self.core.settings.case_insensitive || listed_for.is_some() {
            Mode::Exclusive
        } else {
            Mode::Shared
        };
        let held = self.core.locks.hold(actor, name).tags(mode).await?;
        self.check_tag_case(name, &tags).await?;
        let fallback = match listed_for {
            Some(subject) => {
                let referrer = Referrer::of(manifest.clone(), digest, bytes.len() as u64);
                let edit = Edit::Add(vec![referrer]);
                self.core.change_fallback(name, &subject, edit).await?
            }
            None => None,
        };
        let descriptors = manifest.blobs().chain(manifest.children());
        let digests = descriptors.map(|descriptor| &descriptor.digest);
        let put = fallback.as_ref().and_then(FallbackChange::put);
        let removed = fallback.as_ref().and_then(FallbackChange::removed);
        let held = held.changing().await?;
        let mut held = held
            .sharing_and_removing(digests.chain([&digest]).chain(put), removed)
            .await?;
        let viewer = held.actor().viewer();
        let mountable = self.core.confirm_references(referenced, viewer).await?;
        let is_linked_as_layer = self.needs_layer_link(name, &mountable, &manifest).await?;
        let put = Event::ManifestPut {
            digest,
            size_bytes: bytes.len() as u64,
            manifest: Box::new(manifest),
            is_linked_as_layer,
        };
        let mounted = mountable.iter().map(|blob| Event::BlobMounted {
            digest: blob.digest,
        });
        let moved = tags.iter().map(|tag| Event::TagMoved {
            tag: tag.clone(),
            digest,
        });
        let mut events = std::iter::once(put).chain(mounted).chain(moved).collect();
        let mut phases = Phases::new(name);
        let own = is_linked_as_layer.then_some((digest, digest));
        let layers = mountable.iter().map(|blob| (blob.digest, blob.target));
        for (layer, target) in layers.chain(own) {
            phases.link_layer(layer, &target);
        }
        phases.put(&digest, bytes, &tags);
        if let Some(fallback) = fallback {
            fallback.add_to(&mut phases, &mut events);
        }
        let commit = Commit {
            steps: phases.into_steps(),
            events,
            ..Commit::default()
        };
        self.core.commit(&mut held, commit).await?;
        Ok(PushedManifest { digest, subject })
    }

    /// What the bytes are, and their digest.
    async fn parse(
        &self,
        bytes: &Bytes,
        content_type: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<(Manifest, Digest), RegistryError> {
        let (size_bytes, bytes) = (bytes.len(), bytes.clone());
        let content_type = content_type.map(str::to_owned);
        let parse = move || {
            let manifest = Manifest::parse(&bytes, content_type.as_deref())?;
            Ok((manifest, Digest::of(algorithm, &bytes)))
        };
        self.core.parse(size_bytes, parse).await?
    }

    /// Whether the manifest must be linked as a layer as well, because its repository would have no layer: the old
    /// registry's collector does not see a repository without `_layers`, and deletes what is in it.
    async fn needs_layer_link(
        &self,
        name: &RepositoryName,
        mountable: &[Mountable],
        manifest: &Manifest,
    ) -> Result<bool, RegistryError> {
        // A manifest with blobs has links to them (or gets them now), unless references need not exist.
        let has_blobs = manifest.blobs().next().is_some();
        if !mountable.is_empty() || (has_blobs && self.core.is_strict()) {
            return Ok(false);
        }
        let layers = layout::layers_directory(name);
        Ok(!self.core.holds_something(&layers).await?)
    }

    /// Refuses a tag that the file system would take for another one.
    pub(super) async fn check_tag_case(
        &self,
        name: &RepositoryName,
        tags: &[Tag],
    ) -> Result<(), RegistryError> {
        if !self.core.settings.case_insensitive || tags.is_empty() {
            return Ok(());
        }
        let existing = self.core.tag_directories(name).await?;
        for wanted in tags {
            let is_other =
                |tag: &&Tag| *tag != wanted && tag.as_str().eq_ignore_ascii_case(wanted.as_str());
            if let Some(existing) = existing.iter().chain(tags).find(is_other) {
                return Err(RegistryError::TagCase {
                    wanted: wanted.clone(),
                    existing: existing.clone(),
                });
            }
        }
        Ok(())
    }
}

/// A manifest as it is served.
#[derive(Debug, Clone)]
struct Served {
    media_type: Arc<str>,
    /// `None`: not held.
    bytes: Option<Bytes>,
}

impl Served {
    fn of(bytes: Bytes) -> Self {
        Self {
            media_type: Manifest::media_type_of(&bytes).into(),
            bytes: Some(bytes),
        }
    }

    /// What it is, without its bytes.
    fn without_bytes(self) -> Self {
        Self {
            bytes: None,
            ..self
        }
    }

    /// The same, whose bytes keep their place in the memory budget.
    fn held_by(self, reservation: Reservation) -> Self {
        Self {
            bytes: self.bytes.map(|bytes| reservation.hold(bytes)),
            ..self
        }
    }

    fn size_bytes(&self) -> usize {
        self.bytes.as_ref().map_or(0, Bytes::len) + self.media_type.len() + ENTRY_BYTES
    }
}

/// Manifests that were read lately, as they are served. A manifest of many layers is hundreds of kilobytes to read and to look
/// through for its media type, and when many clients pull at once, each asks for the same one. What is given was kept under
/// the version that the store has named just now, so it is what the store would give.
///
/// Two generations: when the young one is full it becomes the old one, and the old one is forgotten.
#[derive(Default)]
struct ManifestCache(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Digest, (Version, Served)>,
    young_bytes: usize,
    old: HashMap<Digest, (Version, Served)>,
}

impl ManifestCache {
    /// What is kept of `digest`, if it is this version.
    fn get(&self, digest: &Digest, version: &Version) -> Option<Served> {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kept, content)) = generations.young.get(digest) {
            return (kept == version).then(|| content.clone());
        }
        let (kept, content) = generations.old.remove(digest)?;
        if kept != *version {
            return None;
        }
        generations.insert(digest, kept, content.clone());
        Some(content)
    }

    /// Keeps what was read.
    fn put(&self, digest: &Digest, version: Version, content: &Served) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.insert(digest, version, content.clone());
    }
}

impl Generations {
    fn insert(&mut self, digest: &Digest, version: Version, content: Served) {
        let size_bytes = content.size_bytes();
        if self.young_bytes + size_bytes > CACHE_BYTES / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.old.remove(digest);
        let replaced = self.young.insert(*digest, (version, content));
        let replaced_bytes = replaced.map_or(0, |(_, content)| content.size_bytes());
        self.young_bytes = self.young_bytes + size_bytes - replaced_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn digest(number: usize) -> Digest {
        Digest::of(Algorithm::Sha256, &number.to_be_bytes())
    }

    fn version(text: &str) -> Version {
        Version(text.to_owned())
    }

    #[test]
    fn another_version_is_not_given() {
        let cache = ManifestCache::default();
        let content = Served::of(Bytes::from_static(b"{}"));
        assert!(cache.get(&digest(1), &version("a")).is_none());
        cache.put(&digest(1), version("a"), &content);
        assert!(cache.get(&digest(1), &version("a")).is_some());
        assert!(cache.get(&digest(1), &version("b")).is_none());
        cache.put(&digest(1), version("b"), &content);
        assert!(cache.get(&digest(1), &version("b")).is_some());
        assert!(cache.get(&digest(1), &version("a")).is_none());
    }

    #[test]
    fn it_forgets_instead_of_growing_and_keeps_what_is_asked_for() {
        let cache = ManifestCache::default();
        let content = Served::of(vec![b' '; 100_000].into());
        for number in 0..1_000 {
            cache.put(&digest(number), version("a"), &content);
            assert!(cache.get(&digest(0), &version("a")).is_some(), "{number}");
        }
        let generations = cache.0.lock().unwrap();
        let kept = generations.young.len() + generations.old.len();
        assert!((20..=CACHE_BYTES / 100_000).contains(&kept), "{kept}");
    }

    #[test]
    fn of_a_huge_one_its_media_type_is_kept_alone() {
        let cache = ManifestCache::default();
        let bytes = Bytes::from_static(br#"{"mediaType":"application/x"}"#);
        let content = Served::of(bytes).without_bytes();
        cache.put(&digest(1), version("a"), &content);
        let kept = cache.get(&digest(1), &version("a")).expect("is kept");
        assert_eq!(&*kept.media_type, "application/x");
        assert!(kept.bytes.is_none());
    }
}
