//! Copying an image within the registry: its manifests are put again, and its blobs are linked.
//!
//! Must not know who asks. Invariants: what is copied goes the way of a push, so a copy is as whole as a pushed image; no bytes
//! of a blob are copied; the tag comes last.

use std::collections::HashSet;

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
    /// How many manifests it has.
    pub manifests: u64,
}

impl Manifests {
    /// Copies the image `reference` of `from`, with all manifests that it lists and `from` has, to `tag` of `to`. What refers to
    /// the image (signatures) is not copied. Each manifest is put by an actor of its own.
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
        let order = self.children_first(from, root).await?;
        for digest in &order {
            // Removed since; what needs it is refused below.
            let Some(bytes) = self.bytes(from, digest).await? else {
                continue;
            };
            let tags = if *digest == root {
                std::slice::from_ref(tag)
            } else {
                &[]
            };
            let media_type = Manifest::media_type_of(&bytes);
            let reference = Reference::Digest(*digest);
            let put = self.put(to, &reference, tags, Some(&media_type), bytes, actor());
            put.await?;
        }
        Ok(Copied {
            repository: to.to_string(),
            tag: tag.to_string(),
            digest: root.to_string(),
            manifests: order.len() as u64,
        })
    }

    /// `root` and all manifests that it lists and `name` has, each behind those that it lists.
    async fn children_first(
        &self,
        name: &RepositoryName,
        root: Digest,
    ) -> Result<Vec<Digest>, RegistryError> {
        let (mut order, mut seen) = (Vec::new(), HashSet::from([root]));
        // With whether what it lists is in `order` already.
        let mut unread = vec![(root, false)];
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
        Ok(order)
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
