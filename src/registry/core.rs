//! What all rooms of the registry share: the store, its settings, time, locks, and reading links and manifests.
//!
//! Source: `docs/storage-layout.md`. Must not know the rooms, nor who asks. Invariants: the content of a link wins over its
//! path (a sha512 push to the old registry leaves a sha512 path that holds a sha256 digest), and a damaged link is as good
//! as none; something is there only if its link *and* its data are; at most [`PARSERS_MAX`] long manifests are parsed at
//! once.

use std::borrow::Borrow;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use tokio::sync::Semaphore;

use super::damage::{self, AT_ONCE, Damage, Hashed};
use super::error::RegistryError;
use super::index_sync::gate::IndexGate;
use super::locks::Locks;
use super::memory_budget::MemoryBudget;
use super::settings::{References, Settings};
use crate::clock::Clock;
use crate::index::Index;
use crate::layout::{self, Key, Place, PlaceOf, Prefix};
use crate::oci::range::ByteRange;
use crate::oci::{Algorithm, Digest, Manifest, RepositoryName, Tag};
use crate::store::{Content, Depth, Entry, Meta, ObjectStore, Small, Step, StoreError};

/// A link holds at most `sha512:` and 128 digits; the rest is room for the line end that other tools leave.
pub(super) const LINK_SIZE_MAX_BYTES: u64 = 256;

/// A shorter file is a damaged link: `sha256:` and 64 digits.
pub(super) const LINK_SIZE_MIN_BYTES: u64 = 71;

/// Longest manifest read back: the most that `limits.manifest_size_bytes` may ever have been, so that lowering it hides
/// nothing, and a layer that is asked for as a manifest does not fill the memory.
pub(super) const READ_SIZE_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Long manifests parsed at once. Each takes a few times its own bytes; more of them are not faster on the machines that
/// registries run on.
const PARSERS_MAX: usize = 4;

/// A shorter manifest is parsed on the async thread: a usual image has a few kilobytes, which take tens of microseconds, and
/// the way to another thread takes as long. A manifest of megabytes takes tens of milliseconds, and would keep other
/// requests waiting.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// There is one directory of tombstones for each day.
pub(super) const DAY_SECS: u64 = 24 * 60 * 60;

/// See the module.
pub(super) struct Core {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) settings: Settings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) gate: Arc<IndexGate>,
    pub(super) locks: Locks,
    pub(super) damage: Damage,
    pub(super) memory: MemoryBudget,
    parsers: Semaphore,
}

/// Data that are there.
#[derive(Debug, Clone)]
pub struct Blob {
    pub(super) key: Key,
    pub(super) digest: Digest,
    /// Their length.
    pub size_bytes: u64,
}

/// What is stored where a manifest should be.
pub(super) enum Stored {
    /// A manifest.
    Manifest(Box<Manifest>),
    /// Another registry took it, and its clients may want it, but it is not a manifest that this one takes.
    Unreadable,
    /// Too long for any manifest.
    TooLong,
}

impl Blob {
    /// The data of `target`, which may have another digest than the one that was asked for, `digest`.
    pub(super) fn of(target: &Digest, digest: &Digest, meta: &Meta) -> Self {
        Self {
            key: Place::BlobData(*target).key(),
            digest: *digest,
            size_bytes: meta.size_bytes,
        }
    }
}

impl Stored {
    fn of(bytes: &[u8]) -> Self {
        match Manifest::parse_stored(bytes) {
            Some(manifest) => Self::Manifest(Box::new(manifest)),
            None => Self::Unreadable,
        }
    }
}

impl Core {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        index: Arc<Index>,
        settings: Settings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let gate = Arc::new(IndexGate::new(
            index,
            Arc::clone(&store),
            Arc::clone(&clock),
            settings.readonly,
        ));
        Self {
            locks: Locks::new(Arc::clone(&clock), Arc::clone(&gate)),
            damage: Damage::new(Arc::clone(&store), Arc::clone(&gate)),
            memory: MemoryBudget::new(settings.limits.whole_bodies_bytes),
            parsers: Semaphore::new(PARSERS_MAX),
            store,
            settings,
            clock,
            gate,
        }
    }

    pub(super) fn check_writable(&self) -> Result<(), RegistryError> {
        if self.settings.readonly {
            Err(RegistryError::Readonly)
        } else {
            Ok(())
        }
    }

    /// The single guard of all deletes.
    pub(super) fn check_deletable(&self) -> Result<(), RegistryError> {
        self.check_writable()?;
        if self.settings.deletes_enabled {
            Ok(())
        } else {
            Err(RegistryError::DeletesDisabled)
        }
    }

    /// Today, as a number since 1970.
    pub(super) fn unix_day(&self) -> u64 {
        self.clock.unix_secs() / DAY_SECS
    }

    pub(super) fn is_strict(&self) -> bool {
        self.settings.references == References::Strict
    }

    /// What the link at `key` holds.
    pub(super) async fn read_link(&self, key: &Key) -> Result<Option<Digest>, RegistryError> {
        let links = self.read_links(std::slice::from_ref(key)).await?;
        Ok(links.into_iter().next().flatten())
    }

    /// What the links at `keys` hold, in their order.
    pub(super) async fn read_links(
        &self,
        keys: &[Key],
    ) -> Result<Vec<Option<Digest>>, RegistryError> {
        let mut digests = Vec::with_capacity(keys.len());
        self.read_each(keys, LINK_SIZE_MAX_BYTES, |key, link| {
            digests.push(self.link_in(key, &link));
        })
        .await?;
        Ok(digests)
    }

    /// Shows `visit` what is at each of `keys`, in their order.
    pub(super) async fn read_each(
        &self,
        keys: &[Key],
        size_max_bytes: u64,
        mut visit: impl FnMut(&Key, Small) + Send,
    ) -> Result<(), RegistryError> {
        let mut left = keys;
        while !left.is_empty() {
            for (key, content) in self.read_some(&mut left, size_max_bytes).await? {
                visit(key, content);
            }
        }
        Ok(())
    }

    /// What a link holds.
    fn link_in(&self, key: &Key, link: &Small) -> Option<Digest> {
        let Small::Whole(meta, link) = link else {
            return None;
        };
        let digest = std::str::from_utf8(link)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        if digest.is_none() && self.damage.is_news(key, meta) {
            tracing::warn!(%key, "a damaged link is taken as absent");
        }
        digest
    }

    /// What is at the first of the keys that are `left`: as many as the store gives at once, at least one.
    async fn read_some<'a>(
        &self,
        left: &mut &'a [Key],
        size_max_bytes: u64,
    ) -> Result<Vec<(&'a Key, Small)>, RegistryError> {
        let (part, _) = left.split_at(left.len().min(AT_ONCE));
        let contents = self.store.read_each(part, size_max_bytes).await?;
        let (told, rest) = left.split_at(contents.len().clamp(1, part.len()));
        // What is in memory is read without waiting, so ten thousand layers in a row would keep other requests off the thread.
        tokio::task::yield_now().await;
        *left = rest;
        for (key, content) in told.iter().zip(&contents) {
            if let Small::TooLarge(meta) = content
                && self.damage.is_news(key, meta)
            {
                let size_bytes = meta.size_bytes;
                tracing::warn!(%key, size_bytes, "larger than anything that belongs there, taken as absent");
            }
        }
        Ok(told.iter().zip(contents).collect())
    }

    /// What is known of `key`, if it is there.
    pub(super) async fn find(&self, key: &Key) -> Result<Option<Meta>, RegistryError> {
        damage::find(&*self.store, key).await
    }

    /// What is known of `keys`, in their order.
    pub(super) async fn find_each(&self, keys: &[Key]) -> Result<Vec<Option<Meta>>, RegistryError> {
        damage::find_each(&*self.store, keys).await
    }

    /// Which data `link` leads to, and what is known of them, if both are there. The data of the link's own digest, to which
    /// nearly every link leads, are looked at together with it.
    pub(super) async fn linked_data(
        &self,
        link: &Place<'_>,
    ) -> Result<Option<(Digest, Meta)>, RegistryError> {
        let key = link.key();
        let (PlaceOf::LayerLink(_, digest) | PlaceOf::RevisionLink(_, digest)) = link else {
            let target = self.read_link(&key).await?;
            return self.target_of(target).await;
        };
        let expected = Place::BlobData(*digest).key();
        let looked = self.store.head_linked(&key, LINK_SIZE_MAX_BYTES, &expected);
        let (found, meta) = looked.await?;
        match self.link_in(&key, &found) {
            Some(target) if target == *digest => {
                let meta = self.damage.sound(&target, meta).await?;
                Ok(meta.map(|meta| (target, meta)))
            }
            target => self.target_of(target).await,
        }
    }

    async fn target_of(
        &self,
        target: Option<Digest>,
    ) -> Result<Option<(Digest, Meta)>, RegistryError> {
        let Some(target) = target else {
            return Ok(None);
        };
        let meta = self.damage.find_data(&target).await?;
        Ok(meta.map(|meta| (target, meta)))
    }

    /// The bytes that the link of `digest` at `key` leads to, or `range` of them, if both are there.
    pub(super) async fn read_linked(
        &self,
        key: &Key,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<Option<Content>, RegistryError> {
        let expected = Place::BlobData(*digest).key();
        let read = (self.store).read_linked(key, LINK_SIZE_MAX_BYTES, &expected, range);
        let (found, content) = read.await?;
        match self.link_in(key, &found) {
            None => Ok(None),
            Some(target) if target == *digest => self.damage.sound(&target, content).await,
            Some(target) => self.damage.read_data(&target, range).await,
        }
    }

    /// What is known of the data that each of `links` leads to, in their order, where both are there.
    pub(super) async fn linked_each(
        &self,
        links: &[Key],
    ) -> Result<Vec<Option<(Digest, Meta)>>, RegistryError> {
        let targets = self.read_links(links).await?;
        let data: Vec<Digest> = targets.iter().flatten().copied().collect();
        let mut found = self.damage.find_each_data(&data).await?.into_iter();
        let linked = targets.into_iter().map(|target| {
            let target = target?;
            Some((target, found.next().flatten()?))
        });
        Ok(linked.collect())
    }

    /// Shows `visit` each manifest of `digests` that is there, in their order; returns those that are not there.
    pub(super) async fn each_manifest(
        &self,
        name: &RepositoryName,
        digests: &[Digest],
        mut visit: impl FnMut(&Digest, Meta, Stored) + Send,
    ) -> Result<Vec<Digest>, RegistryError> {
        let mut absent = Vec::new();
        for part in digests.chunks(AT_ONCE) {
            let link = |digest: &Digest| Place::RevisionLink(name, *digest).key();
            let links: Vec<Key> = part.iter().map(link).collect();
            let (mut linked, mut data) = (Vec::new(), Vec::new());
            for (digest, target) in part.iter().zip(self.read_links(&links).await?) {
                match target {
                    Some(target) => {
                        data.push(Place::BlobData(target).key());
                        linked.push((digest, target));
                    }
                    None => absent.push(*digest),
                }
            }
            let (mut linked, mut left) = (linked.into_iter(), data.as_slice());
            while !left.is_empty() {
                let contents = self.read_some(&mut left, READ_SIZE_MAX_BYTES).await?;
                let contents = contents.into_iter().map(|(_, content)| content);
                let (part, contents): (Vec<_>, Vec<_>) = linked.by_ref().zip(contents).unzip();
                let targets = part.iter().map(|(_, target)| *target).collect();
                let parsed = self.parse_each(targets, contents).await?;
                for ((digest, _), content) in part.into_iter().zip(parsed) {
                    match content {
                        Some((meta, stored)) => visit(digest, meta, stored),
                        None => absent.push(*digest),
                    }
                }
            }
        }
        Ok(absent)
    }

    /// Parses `contents`, the data of `digests`; `None` where nothing is there that can be what its digest says.
    async fn parse_each(
        &self,
        digests: Vec<Digest>,
        contents: Vec<Small>,
    ) -> Result<Vec<Option<(Meta, Stored)>>, RegistryError> {
        let size = |content: &Small| match content {
            Small::Whole(_, bytes) => bytes.len(),
            Small::Absent | Small::TooLarge(_) => 0,
        };
        let size_bytes = contents.iter().map(size).sum();
        let judged = digests.iter().zip(&contents).map(|(digest, content)| {
            let known = match content {
                Small::Whole(meta, _) => self.damage.hashed_before(digest, meta),
                Small::Absent | Small::TooLarge(_) => None,
            };
            (*digest, known)
        });
        let judged: Vec<(Digest, Option<bool>)> = judged.collect();
        let parse = |(content, (digest, known)): (Small, (Digest, Option<bool>))| match content {
            Small::Whole(meta, bytes) => {
                let hashed = Hashed::of(&bytes, digest.algorithm(), known);
                Some((meta, Stored::of(&bytes), hashed))
            }
            Small::TooLarge(meta) => Some((meta, Stored::TooLong, Hashed::Before(true))),
            Small::Absent => None,
        };
        let parse_all = move || -> Vec<_> { contents.into_iter().zip(judged).map(parse).collect() };
        let parsed = self.parse(size_bytes, parse_all).await?;
        let sound = digests.iter().zip(parsed).map(|(digest, parsed)| {
            let (meta, stored, hashed) = parsed?;
            let is_sound = self.damage.is_sound(digest, &meta, hashed);
            is_sound.then_some((meta, stored))
        });
        Ok(sound.collect())
    }

    /// Runs `parse`, which looks through `size_bytes`, off the async threads if that takes long.
    pub(super) async fn parse<T: Send + 'static>(
        &self,
        size_bytes: usize,
        parse: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RegistryError> {
        if size_bytes <= INLINE_BYTES_MAX {
            return Ok(parse());
        }
        // It is never closed; without a permit there would be more parsers, and nothing worse.
        let _permit = self.parsers.acquire().await;
        let parsed = tokio::task::spawn_blocking(parse).await;
        parsed.map_err(|error| {
            let source = std::io::Error::other(error);
            let doing = "read a manifest".to_owned();
            StoreError::Io { doing, source }.into()
        })
    }

    /// Calls `visit` with the name of each directory directly below `prefix`.
    pub(super) async fn each_directory(
        &self,
        prefix: &Prefix,
        mut visit: impl FnMut(&str) + Send,
    ) -> Result<(), RegistryError> {
        let mut entries = self.store.list(prefix, Depth::One);
        while let Some(Entry { key }) = entries.try_next().await? {
            let name = key.strip_prefix(prefix.as_str());
            if let Some(directory) = name.and_then(|name| name.strip_suffix('/')) {
                visit(directory);
            }
        }
        Ok(())
    }

    /// Names of directories in the tags directory: candidates, not yet confirmed.
    pub(super) async fn tag_directories(
        &self,
        name: &RepositoryName,
    ) -> Result<Vec<Tag>, RegistryError> {
        let prefix = layout::tags_directory(name);
        let mut tags = Vec::new();
        self.each_directory(&prefix, |directory| tags.extend(directory.parse()))
            .await?;
        Ok(tags)
    }

    /// Those of `tags` that point at `digest` now.
    pub(super) async fn tags_at(
        &self,
        name: &RepositoryName,
        tags: Vec<Tag>,
        digest: &Digest,
    ) -> Result<Vec<Tag>, RegistryError> {
        let current = |tag: &Tag| Place::TagCurrent(name, tag).key();
        let links: Vec<Key> = tags.iter().map(current).collect();
        let targets = self.read_links(&links).await?;
        let pointing = tags.into_iter().zip(targets);
        let tags =
            pointing.filter_map(|(tag, target)| (target.as_ref() == Some(digest)).then_some(tag));
        Ok(tags.collect())
    }

    /// The digests that have a directory below `links`: candidates, not yet confirmed.
    pub(super) async fn digest_directories(
        &self,
        links: &Prefix,
        algorithm: Algorithm,
    ) -> Result<Vec<Digest>, RegistryError> {
        let mut digests = Vec::new();
        let add = |hex: &str| digests.extend(Digest::from_parts(algorithm, hex));
        self.each_directory(links, add).await?;
        Ok(digests)
    }

    /// Whether anything was ever pushed to `name`.
    pub(super) async fn repository_exists(
        &self,
        name: &RepositoryName,
    ) -> Result<bool, RegistryError> {
        for prefix in [
            layout::layers_directory(name),
            layout::manifests_directory(name),
        ] {
            if self.holds_something(&prefix).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether there is anything below `prefix`.
    pub(super) async fn holds_something(&self, prefix: &Prefix) -> Result<bool, RegistryError> {
        let first = self.store.list(prefix, Depth::One).try_next().await?;
        Ok(first.is_some())
    }

    /// Up to `limit` repositories for which `wanted` says yes, in no order.
    pub(super) async fn repositories(
        &self,
        wanted: impl Fn(&RepositoryName) -> bool + Send,
        limit: usize,
    ) -> Result<Vec<RepositoryName>, RegistryError> {
        let root = layout::repositories_directory();
        let mut names = Vec::new();
        let mut unread = vec![root.clone()];
        while let Some(prefix) = unread.pop() {
            let mut is_repository = false;
            let looked = self.each_directory(&prefix, |directory| match directory {
                "_layers" | "_manifests" => is_repository = true,
                other if other.starts_with('_') => {}
                other => {
                    let below = format!("{prefix}{other}/");
                    // `lost+found` of a volume, `@eaDir` of a NAS, `.snapshot`: no repository can lie below either.
                    if name_of(&root, &below).is_some() {
                        unread.extend(below.parse::<Prefix>());
                    } else {
                        self.damage.pass_over_stranger(&below);
                    }
                }
            });
            match looked.await {
                Err(error) if error.is_unreadable() && prefix != root => {
                    self.damage.pass_over(prefix.as_str(), &error);
                    continue;
                }
                looked => looked?,
            }
            let name = name_of(&root, prefix.as_str());
            let name = name.filter(|name| is_repository && wanted(name));
            names.extend(name);
            if names.len() >= limit {
                break;
            }
        }
        Ok(names)
    }
}

/// The repository whose directory is `directory`, if it can be one.
fn name_of(root: &Prefix, directory: &str) -> Option<RepositoryName> {
    let name = directory.strip_prefix(root.as_str())?;
    name.strip_suffix('/')?.parse().ok()
}

/// Writes a link to `digest` at `place`.
pub(super) fn put_link<N, T>(place: &PlaceOf<N, T>, digest: &Digest) -> Step
where
    N: Borrow<RepositoryName>,
    T: Borrow<Tag>,
{
    Step::put(place.key(), digest.to_string())
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
