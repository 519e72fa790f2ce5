//! Manifests and tags: reading, writing, removing.
//!
//! Source: distribution-spec "Pushing Manifests"; DESIGN D2, D8. Must not know HTTP. Invariants: the exact bytes are kept;
//! bytes before link, link before tag; tags go before the revision they point at.

use std::sync::Arc;

use bytes::Bytes;

use super::damage::Hashed;
use super::links::put_link;
use super::manifest_cache::{Content, MANIFEST_BYTES_MAX};
use super::memory_budget::{Holder, Reservation};
use super::references::MissingLink;
use super::rereading::facts_of_manifest;
use super::{Blob, Registry, RegistryError};
use crate::auth::Permit;
use crate::index::{Fact, Forget};
use crate::layout::{self, Key, OwnedPlace, Place};
use crate::oci::{Algorithm, Digest, Manifest, Reference, RepositoryName, Tag};
use crate::store::{Depth, Meta, Small, Step};

/// Longest manifest read back: the most that `limits.manifest_size_bytes` may ever have been, so that lowering it hides
/// nothing, and a layer that is asked for as a manifest does not fill the memory.
pub(super) const READ_SIZE_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Tags that are removed in one step of the store, which takes a fraction of a second: the manifest may have a hundred
/// thousand.
const TAGS_AT_ONCE: usize = 1_000;

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
    /// In the store, to be read by [`Registry::read_blob`]: it is too long to be held for as long as a client takes.
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

impl Registry {
    /// The manifest that `reference` names.
    pub async fn manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<StoredManifest, RegistryError> {
        let unknown = || RegistryError::ManifestUnknown(reference.clone());
        let digest = self.resolve(name, reference).await?.ok_or_else(unknown)?;
        let (key, meta) = self
            .linked_manifest(name, &digest)
            .await?
            .ok_or_else(unknown)?;
        let content = self.content_of(&digest, &key, &meta).await?;
        let Content { media_type, bytes } = content.ok_or_else(unknown)?;
        let size_bytes = meta.size_bytes;
        let content = match bytes {
            Some(bytes) => ManifestContent::InMemory(bytes),
            None => ManifestContent::InStore(Blob::at(key, &digest, size_bytes)),
        };
        Ok(StoredManifest {
            digest,
            media_type,
            size_bytes,
            content,
        })
    }

    /// The content at `key`, without its bytes if they are too many to be held. A client decides for how long they are; so
    /// those that are held are counted, and where no more may be, they are read again while they are sent.
    async fn content_of(
        &self,
        digest: &Digest,
        key: &Key,
        meta: &Meta,
    ) -> Result<Option<Content>, RegistryError> {
        // The link's word counts: a path of one algorithm may lead to data of the other.
        let Some(OwnedPlace::BlobData(target)) = OwnedPlace::parse(key.as_str()) else {
            return Ok(None);
        };
        if let Some(content) = self.manifests.get(digest, &meta.version) {
            return Ok(Some(content));
        }
        let Some(reservation) = self.reserve_for_manifest(meta.size_bytes) else {
            // What it is can be told only from all of it.
            let _turn = self.long_reads.acquire().await;
            // Others may have asked for the same meanwhile.
            if let Some(content) = self.manifests.get(digest, &meta.version) {
                return Ok(Some(content));
            }
            let Some((meta, content)) = self.read_sound(key, &target, READ_SIZE_MAX_BYTES).await?
            else {
                return Ok(None);
            };
            let content = content.without_bytes();
            if meta.size_bytes > MANIFEST_BYTES_MAX {
                self.manifests.put(digest, meta.version, &content);
            }
            return Ok(Some(content));
        };
        let Some(read) = self.read_sound(key, &target, MANIFEST_BYTES_MAX).await? else {
            return Ok(None);
        };
        let (meta, content) = read;
        let content = content.held_by(reservation);
        self.manifests.put(digest, meta.version, &content);
        Ok(Some(content))
    }

    /// The data of `target`, if they are there, no longer than `size_max_bytes`, and what their digest says.
    async fn read_sound(
        &self,
        key: &Key,
        target: &Digest,
        size_max_bytes: u64,
    ) -> Result<Option<(Meta, Content)>, RegistryError> {
        let mut read = None;
        self.read_each(std::slice::from_ref(key), size_max_bytes, |_, data| {
            if let Small::Whole(meta, bytes) = data {
                read = Some((meta, bytes));
            }
        })
        .await?;
        let Some((meta, bytes)) = read else {
            return Ok(None);
        };
        let known = self.hashed_before(target, &meta);
        let (size_bytes, algorithm) = (bytes.len(), target.algorithm());
        let look = move || {
            let hashed = Hashed::of(&bytes, algorithm, known);
            (Content::of(bytes), hashed)
        };
        let (content, hashed) = self.parsing.run(size_bytes, look).await?;
        let is_sound = self.is_sound(target, &meta, hashed);
        Ok(is_sound.then_some((meta, content)))
    }

    fn reserve_for_manifest(&self, size_bytes: u64) -> Option<Reservation> {
        if size_bytes > MANIFEST_BYTES_MAX {
            return None;
        }
        let mut reservation = self.memory.reservation(Holder::Manifests);
        let size_bytes = usize::try_from(size_bytes).ok()?;
        reservation.grow_to(size_bytes).ok().map(|()| reservation)
    }

    async fn resolve(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<Digest>, RegistryError> {
        match reference {
            Reference::Digest(digest) => Ok(Some(*digest)),
            Reference::Tag(tag) => self.read_link(&Place::TagCurrent(name, tag).key()).await,
        }
    }

    /// Takes a manifest under `reference` and under `more_tags`. `content_type` is what the client says it is.
    pub async fn put_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        more_tags: &[Tag],
        content_type: Option<&str>,
        bytes: Bytes,
        permit: &Permit<'_>,
    ) -> Result<PushedManifest, RegistryError> {
        self.check_writable()?;
        // Before anything is read too: what is missing is nobody's business who may not push any more.
        permit.confirm()?;
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
        // A tag that another one may be taken for must not come up between the look and the push.
        let (_tags_may_move, _no_tag_moves) = if self.settings.case_insensitive {
            (Vec::new(), self.tag_locks.exclusive([name]).await?)
        } else {
            (self.tag_locks.shared([name]).await?, Vec::new())
        };
        self.check_tag_case(name, &tags).await?;
        let referenced = manifest
            .blobs()
            .chain(manifest.children())
            .map(|descriptor| &descriptor.digest);
        let turn = self.lists.turn(name).await?;
        // Only from who deletes: manifests of one base image are put beside each other.
        let digests = referenced.chain([&digest]);
        let _nothing_goes = self.digest_locks.shared(digests).await?;
        let missing_links = self
            .check_references(name, &manifest, permit.viewer())
            .await?;
        let keeper = self
            .keeper_link(name, &digest, &missing_links, &manifest)
            .await?;
        let size_bytes = bytes.len() as u64;
        let steps = put_steps(
            name,
            &digest,
            bytes,
            missing_links.iter().chain(&keeper),
            &tags,
        );
        let mut facts = facts_of_manifest(&digest, size_bytes, &manifest);
        facts.extend(
            missing_links
                .into_iter()
                .chain(keeper)
                .map(|link| Fact::Layer(link.path)),
        );
        facts.extend(tags.into_iter().map(|tag| Fact::Tag(tag, digest)));
        permit.confirm()?;
        let change = turn.begin();
        self.store.apply(steps).await?;
        change.made(facts);
        Ok(PushedManifest {
            digest,
            subject: manifest.subject.map(|subject| subject.digest),
        })
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
        self.parsing.run(size_bytes, parse).await?
    }

    /// A layer link to the manifest itself, for a repository that would have none: the old registry's collector does not
    /// see a repository without `_layers`, and deletes what is in it.
    async fn keeper_link(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        missing_links: &[MissingLink],
        manifest: &Manifest,
    ) -> Result<Option<MissingLink>, RegistryError> {
        // A manifest with blobs has links to them (or gets them now), unless references need not exist.
        let has_links =
            !missing_links.is_empty() || (manifest.blobs().next().is_some() && self.is_strict());
        let layers = layout::layers_directory(name);
        if has_links
            || !self
                .store
                .list(&layers, None, Depth::One, 1)
                .await?
                .is_empty()
        {
            return Ok(None);
        }
        Ok(Some(MissingLink {
            path: *digest,
            target: *digest,
        }))
    }

    pub(super) fn is_strict(&self) -> bool {
        self.settings.references == super::References::Strict
    }

    /// Refuses a tag that the file system would take for another one.
    async fn check_tag_case(
        &self,
        name: &RepositoryName,
        tags: &[Tag],
    ) -> Result<(), RegistryError> {
        if !self.settings.case_insensitive || tags.is_empty() {
            return Ok(());
        }
        let existing = self.tag_directories(name).await?;
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

    /// Removes a tag, or a manifest with all tags that point at it.
    pub async fn delete_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        permit: &Permit<'_>,
    ) -> Result<(), RegistryError> {
        self.check_deletable()?;
        let _no_tag_moves = self.tag_locks.exclusive([name]).await?;
        let unknown = || RegistryError::ManifestUnknown(reference.clone());
        let digest = self.resolve(name, reference).await?.ok_or_else(unknown)?;
        let (tags, revision) = match reference {
            Reference::Tag(tag) => (vec![tag.clone()], None),
            Reference::Digest(_) => {
                let revision = Place::RevisionLink(name, digest).key();
                self.read_link(&revision).await?.ok_or_else(unknown)?;
                (self.tags_at(name, &digest).await?, Some(digest))
            }
        };
        let turn = self.lists.turn(name).await?;
        permit.confirm()?;
        let change = turn.begin();
        // In parts, so that others are committed in between; the revision goes after all of them. Until then no other
        // repository waits, however many tags there are: those are kept by the lock on the tags of this one.
        for part in tags.chunks(TAGS_AT_ONCE) {
            let directories = part.iter().map(|tag| layout::tag_directory(name, tag));
            let steps = directories.map(Step::RemoveTree).collect();
            self.store.apply(steps).await?;
        }
        let mut gone: Vec<Forget> = tags.into_iter().map(Forget::Tag).collect();
        if let Some(digest) = revision {
            let _lock = self.digest_locks.exclusive([&digest]).await?;
            permit.confirm()?;
            let directory = layout::revision_directory(name, &digest);
            self.store.apply(vec![Step::RemoveTree(directory)]).await?;
            gone.push(Forget::Revision(digest));
        }
        change.removed(gone);
        Ok(())
    }

    /// The tags that point at `digest` now.
    async fn tags_at(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<Tag>, RegistryError> {
        let all = self.tag_directories(name).await?;
        let current = |tag: &Tag| Place::TagCurrent(name, tag).key();
        let links: Vec<Key> = all.iter().map(current).collect();
        let targets = self.read_links(&links).await?;
        let pointing = all.into_iter().zip(targets);
        let tags =
            pointing.filter_map(|(tag, target)| (target.as_ref() == Some(digest)).then_some(tag));
        Ok(tags.collect())
    }
}

/// Bytes before link, link before tag: a power cut in a tag move leaves the old tag whole.
fn put_steps<'a>(
    name: &RepositoryName,
    digest: &Digest,
    bytes: Bytes,
    layer_links: impl Iterator<Item = &'a MissingLink>,
    tags: &[Tag],
) -> Vec<Step> {
    let mut steps = vec![Step::put(Place::BlobData(*digest).key(), bytes)];
    steps
        .extend(layer_links.map(|link| put_link(&Place::LayerLink(name, link.path), &link.target)));
    steps.push(put_link(&Place::RevisionLink(name, *digest), digest));
    if !tags.is_empty() {
        steps.push(Step::Barrier);
    }
    for tag in tags {
        steps.push(put_link(&Place::TagIndex(name, tag, *digest), digest));
        steps.push(put_link(&Place::TagCurrent(name, tag), digest));
    }
    steps
}
