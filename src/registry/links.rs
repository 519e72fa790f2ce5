//! Links: small files that hold a digest and say that something belongs to a repository or a tag.
//!
//! Source: `docs/storage-layout.md`. Must not know what is linked. Invariant: the content of a link wins over its path (a
//! sha512 push to the old registry leaves a sha512 path that holds a sha256 digest), and a damaged link is as good as none.

use bytes::Bytes;

use super::manifests::READ_SIZE_MAX_BYTES;
use super::{Registry, RegistryError};
use crate::layout::{Key, Place};
use crate::oci::{Digest, RepositoryName};
use crate::store::{Meta, Small, Step, StoreError};

/// A link holds at most `sha512:` and 128 digits; the rest is room for the line end that other tools leave.
const LINK_SIZE_MAX_BYTES: u64 = 256;

/// A shorter file is a damaged link: `sha256:` and 64 digits.
pub(super) const LINK_SIZE_MIN_BYTES: u64 = 71;

/// Keys that the store is asked about at once: the way there and back costs less than they do, and where all are in memory
/// the thread that looks is busy for about a millisecond.
pub(super) const AT_ONCE: usize = 256;

impl Registry {
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
            digests.push(match link {
                Small::Whole(meta, bytes) => self.digest_in(key, &meta, &bytes),
                Small::Absent | Small::TooLarge(_) => None,
            });
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
            let (part, _) = left.split_at(left.len().min(AT_ONCE));
            let contents = self.store.read_each(part, size_max_bytes).await?;
            let (told, rest) = left.split_at(contents.len().clamp(1, part.len()));
            left = rest;
            for (key, content) in told.iter().zip(contents) {
                if let Small::TooLarge(meta) = &content
                    && self.damage.is_news(key, meta)
                {
                    let size_bytes = meta.size_bytes;
                    tracing::warn!(%key, size_bytes, "larger than anything that belongs there, taken as absent");
                }
                visit(key, content);
            }
        }
        Ok(())
    }

    fn digest_in(&self, key: &Key, meta: &Meta, link: &[u8]) -> Option<Digest> {
        let digest = std::str::from_utf8(link)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        if digest.is_none() && self.damage.is_news(key, meta) {
            tracing::warn!(%key, "a damaged link is taken as absent");
        }
        digest
    }

    /// What is known of `key`, if it is there.
    pub(super) async fn find(&self, key: &Key) -> Result<Option<Meta>, RegistryError> {
        match self.store.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What is known of `keys`, in their order.
    pub(super) async fn find_each(&self, keys: &[Key]) -> Result<Vec<Option<Meta>>, RegistryError> {
        let mut found = Vec::with_capacity(keys.len());
        for part in keys.chunks(AT_ONCE) {
            found.extend(self.store.head_each(part).await?);
        }
        Ok(found)
    }

    /// Where the blob's bytes lie and what they are, if the repository has it: link *and* data.
    pub(super) async fn linked_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(Key, Meta)>, RegistryError> {
        self.linked_data(&Place::LayerLink(name.clone(), digest.clone()))
            .await
    }

    /// The same for a manifest, by its revision link.
    pub(super) async fn linked_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(Key, Meta)>, RegistryError> {
        self.linked_data(&Place::RevisionLink(name.clone(), digest.clone()))
            .await
    }

    /// What is known of the data that each of `links` leads to, in their order, where it is there: link *and* data.
    pub(super) async fn linked_each(
        &self,
        links: &[Key],
    ) -> Result<Vec<Option<Meta>>, RegistryError> {
        let targets = self.read_links(links).await?;
        let data: Vec<Digest> = targets.iter().flatten().cloned().collect();
        let mut found = self.find_each_data(&data).await?.into_iter();
        let metas = targets.iter().map(|target| {
            let _target = target.as_ref()?;
            found.next().flatten()
        });
        Ok(metas.collect())
    }

    /// Shows `visit` each manifest of `digests` that is there, in their order, without its bytes if they are too many for
    /// one; tells which are not there.
    pub(super) async fn each_manifest(
        &self,
        name: &RepositoryName,
        digests: &[Digest],
        mut visit: impl FnMut(&Digest, Meta, Option<Bytes>) + Send,
    ) -> Result<Vec<Digest>, RegistryError> {
        let mut absent = Vec::new();
        for part in digests.chunks(AT_ONCE) {
            let link = |digest: &Digest| Place::RevisionLink(name.clone(), digest.clone()).key();
            let targets = self
                .read_links(&part.iter().map(link).collect::<Vec<_>>())
                .await?;
            let (mut linked, mut data) = (Vec::new(), Vec::new());
            for (digest, target) in part.iter().zip(targets) {
                match target {
                    Some(target) => {
                        data.push(Place::BlobData(target.clone()).key());
                        linked.push((digest, target));
                    }
                    None => absent.push(digest.clone()),
                }
            }
            let mut linked = linked.into_iter();
            self.read_each(&data, READ_SIZE_MAX_BYTES, |_, content| {
                let Some((digest, target)) = linked.next() else {
                    return;
                };
                match content {
                    Small::Whole(meta, bytes) if self.are_sound(&target, &meta, &bytes) => {
                        visit(digest, meta, Some(bytes));
                    }
                    Small::TooLarge(meta) => visit(digest, meta, None),
                    Small::Whole(..) | Small::Absent => absent.push(digest.clone()),
                }
            })
            .await?;
        }
        Ok(absent)
    }

    async fn linked_data(&self, link: &Place) -> Result<Option<(Key, Meta)>, RegistryError> {
        let Some(target) = self.read_link(&link.key()).await? else {
            return Ok(None);
        };
        self.find_data(&target).await
    }
}

/// Writes a link to `digest` at `place`.
pub(super) fn put_link(place: &Place, digest: &Digest) -> Step {
    Step::put(place.key(), digest.to_string())
}
