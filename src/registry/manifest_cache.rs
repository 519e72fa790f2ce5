//! Manifests that were read lately, as they are served.
//!
//! A manifest of many layers is hundreds of kilobytes to read and to look through for its media type, and a pull of many
//! clients at once asks for one manifest again and again. Must not know where manifests lie. Invariants: what is given was
//! kept under the version that the store has told just now, so it is what the store would give; never more than
//! [`CACHE_BYTES`] in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::memory_budget::Reservation;
use crate::oci::{Digest, Manifest};
use crate::store::Version;

/// What all manifests here may take, with [`ENTRY_BYTES`] for each: thousands of usual ones, and no burden for a small
/// machine.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Of a longer manifest only the media type is kept: its bytes would put out too many others.
pub(super) const MANIFEST_BYTES_MAX: u64 = 1024 * 1024;

/// What an entry takes beside its bytes, about.
const ENTRY_BYTES: usize = 512;

/// A manifest as it is served.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) media_type: Arc<str>,
    /// `None`: not held.
    pub(super) bytes: Option<Bytes>,
}

impl Content {
    pub(super) fn of(bytes: Bytes) -> Self {
        Self {
            media_type: Manifest::media_type_of(&bytes).into(),
            bytes: Some(bytes),
        }
    }

    /// What it is, without its bytes.
    pub(super) fn without_bytes(self) -> Self {
        Self {
            bytes: None,
            ..self
        }
    }

    /// The same, whose bytes keep their place in the memory budget.
    pub(super) fn held_by(self, reservation: Reservation) -> Self {
        Self {
            bytes: self.bytes.map(|bytes| reservation.hold(bytes)),
            ..self
        }
    }

    fn size_bytes(&self) -> usize {
        self.bytes.as_ref().map_or(0, Bytes::len) + self.media_type.len() + ENTRY_BYTES
    }
}

/// Two generations: when the young one is full it becomes the old one, and the old one is forgotten.
#[derive(Default)]
pub(super) struct ManifestCache(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Digest, (Version, Content)>,
    young_bytes: usize,
    old: HashMap<Digest, (Version, Content)>,
}

impl ManifestCache {
    /// What is kept of `digest`, if it is this version.
    pub(super) fn get(&self, digest: &Digest, version: &Version) -> Option<Content> {
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
    pub(super) fn put(&self, digest: &Digest, version: Version, content: &Content) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.insert(digest, version, content.clone());
    }
}

impl Generations {
    fn insert(&mut self, digest: &Digest, version: Version, content: Content) {
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
        let content = Content::of(Bytes::from_static(b"{}"));
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
        let content = Content::of(vec![b' '; 100_000].into());
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
        let content = Content::of(bytes).without_bytes();
        cache.put(&digest(1), version("a"), &content);
        let kept = cache.get(&digest(1), &version("a")).expect("is kept");
        assert_eq!(&*kept.media_type, "application/x");
        assert!(kept.bytes.is_none());
    }
}
