//! Copying an image within the registry: its manifests are put again, and its blobs are linked.
//!
//! Must not know who asks. Invariants: what is copied goes the way of a push, so a copy is as whole as a pushed image; no bytes
//! of a blob are copied; the tag comes last.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::core::READ_SIZE_MAX_BYTES;
use super::error::RegistryError;
use super::event::Actor;
use super::manifests::Manifests;
use crate::layout::{Key, Place};
use crate::oci::{Digest, Manifest, Reference, RepositoryName, Tag};
use crate::store::Small;

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// The repository of the copy.
    pub repository: String,
    /// The tag of the copy.
    pub tag: String,
    /// What it points to.
    pub digest: String,
    /// How many manifests were copied.
    pub manifests: u64,
    /// How many of them are about the image (signatures), and do not belong to what it lists.
    #[serde(default)]
    pub referrers: u64,
}

impl Manifests {
    /// Copies the image `reference` of `from` to `tag` of `to`, with all that belongs to it and `from` has: the manifests that it
    /// lists, those about it, and the signatures that cosign keeps under tags of their own. Each manifest is put by an actor of
    /// its own.
    pub async fn copy(
        &self,
        from: &RepositoryName,
        reference: &Reference,
        to: &RepositoryName,
        tag: &Tag,
        actor: &(dyn Fn() -> Actor<'static> + Sync),
    ) -> Result<Copied, RegistryError> {
        let unknown = || RegistryError::ManifestUnknown(reference.clone());
        let root = self.resolve(from, reference).await?.ok_or_else(unknown)?;
        self.bytes(from, &root).await?.ok_or_else(unknown)?;
        let image = self.children_first(from, &[], root).await?;
        let referrers = self.about(from, &image).await?;
        let starts: Vec<Digest> = referrers.iter().map(|(digest, _)| *digest).collect();
        let order = self.children_first(from, &starts, root).await?;
        for digest in &order {
            // Removed since; what needs it is refused below.
            let Some(bytes) = self.bytes(from, digest).await? else {
                continue;
            };
            let of_referrer = referrers.iter().filter(|(one, _)| one == digest);
            let mut tags: Vec<Tag> = of_referrer.filter_map(|(_, tag)| tag.clone()).collect();
            if *digest == root {
                tags.push(tag.clone());
            }
            let media_type = Manifest::media_type_of(&bytes);
            let reference = Reference::Digest(*digest);
            let put = self.put(to, &reference, &tags, Some(&media_type), bytes, actor());
            put.await?;
        }
        Ok(Copied {
            repository: to.to_string(),
            tag: tag.to_string(),
            digest: root.to_string(),
            manifests: order.len() as u64,
            referrers: (order.len() - image.len()) as u64,
        })
    }

    /// `starts` and `root`, and all manifests that they list and `name` has, each behind those that it lists. `root` comes last.
    async fn children_first(
        &self,
        name: &RepositoryName,
        starts: &[Digest],
        root: Digest,
    ) -> Result<Vec<Digest>, RegistryError> {
        let (mut order, mut seen) = (Vec::new(), HashSet::new());
        for start in starts.iter().chain([&root]) {
            if !seen.insert(*start) {
                continue;
            }
            // With whether what it lists is in `order` already.
            let mut unread = vec![(*start, false)];
            while let Some((digest, is_ready)) = unread.pop() {
                if is_ready {
                    order.push(digest);
                    continue;
                }
                unread.push((digest, true));
                let Some(bytes) = self.bytes(name, &digest).await? else {
                    continue;
                };
                let Some(manifest) = Manifest::parse_stored(&bytes) else {
                    continue;
                };
                let children = manifest.children().iter().map(|child| child.digest);
                let children: Vec<Digest> = children.filter(|child| seen.insert(*child)).collect();
                let link = |child: &Digest| Place::RevisionLink(name, *child).key();
                let links: Vec<Key> = children.iter().map(link).collect();
                // The others are blobs, or were never pushed.
                let linked = self.core.read_links(&links).await?;
                let present = children.into_iter().zip(linked);
                let present = present.filter_map(|(child, link)| link.map(|_| (child, false)));
                unread.extend(present);
            }
        }
        Ok(order)
    }

    /// What is about the manifests of `image` or about each other, each with the tag under which cosign keeps it, if any.
    async fn about(
        &self,
        name: &RepositoryName,
        image: &[Digest],
    ) -> Result<Vec<(Digest, Option<Tag>)>, RegistryError> {
        let relations = self.relations(name).await?;
        let tags = self.core.tag_directories(name).await?;
        let current = |tag: &Tag| Place::TagCurrent(name, tag).key();
        let links: Vec<Key> = tags.iter().map(current).collect();
        let targets = self.core.read_links(&links).await?;
        // `sha256-HEX.sig`, `.att`, `.sbom`
        let mut of_digest: HashMap<String, Vec<(Digest, Tag)>> = HashMap::new();
        for (tag, target) in tags.into_iter().zip(targets) {
            if let (Some((about, _)), Some(target)) = (tag.as_str().split_once('.'), target) {
                let tagged = of_digest.entry(about.to_owned()).or_default();
                tagged.push((target, tag));
            }
        }
        let mut about = Vec::new();
        let mut seen: HashSet<Digest> = image.iter().copied().collect();
        let mut unread = image.to_vec();
        while let Some(subject) = unread.pop() {
            let referrers = relations.referrers_of(&subject);
            let referrers = referrers.map(|referrer| (referrer, None));
            let tag = format!("{}-{}", subject.algorithm(), subject.hex());
            let tagged = of_digest.remove(&tag).unwrap_or_default().into_iter();
            let tagged = tagged.map(|(digest, tag)| (digest, Some(tag)));
            let found: Vec<_> = referrers.chain(tagged).collect();
            for (digest, tag) in found {
                if seen.insert(digest) {
                    unread.push(digest);
                } else if tag.is_none() {
                    continue;
                }
                about.push((digest, tag));
            }
        }
        Ok(about)
    }

    /// The bytes of a manifest of the repository.
    async fn bytes(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Bytes>, RegistryError> {
        let link = Place::RevisionLink(name, *digest);
        let Some((target, _)) = self.core.linked_data(&link).await? else {
            return Ok(None);
        };
        let (mut bytes, key) = (None, Place::BlobData(target).key());
        let visit = |_: &Key, data| {
            if let Small::Whole(_, whole) = data {
                bytes = Some(whole);
            }
        };
        self.core
            .read_each(&[key], READ_SIZE_MAX_BYTES, visit)
            .await?;
        Ok(bytes)
    }
}
