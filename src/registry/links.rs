//! Links: small files that hold a digest and say that something belongs to a repository or a tag.
//!
//! Source: `docs/storage-layout.md`. Must not know what is linked. Invariant: the content of a link wins over its path (a
//! sha512 push to the old registry leaves a sha512 path that holds a sha256 digest), and a damaged link is as good as none.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::{Registry, RegistryError};
use crate::layout::{Key, Place};
use crate::oci::{Digest, RepositoryName};
use crate::store::{Meta, Step, StoreError};

/// A link holds at most `sha512:` and 128 digits; the rest is room for the line end that other tools leave.
const LINK_SIZE_MAX_BYTES: u64 = 256;

impl Registry {
    /// What the link at `key` holds.
    pub(super) async fn read_link(&self, key: &Key) -> Result<Option<Digest>, RegistryError> {
        let Some(bytes) = self.read_small(key, LINK_SIZE_MAX_BYTES).await? else {
            return Ok(None);
        };
        let digest = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        if digest.is_none() {
            tracing::warn!(%key, "a damaged link is taken as absent");
        }
        Ok(digest)
    }

    /// The bytes at `key`, if there are any and no more than `size_max_bytes`.
    pub(super) async fn read_small(
        &self,
        key: &Key,
        size_max_bytes: u64,
    ) -> Result<Option<Bytes>, RegistryError> {
        let (meta, mut pieces) = match self.store.get(key, None).await {
            Ok(found) => found,
            Err(StoreError::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if meta.size_bytes > size_max_bytes {
            tracing::warn!(%key, size_bytes = meta.size_bytes, "larger than anything that belongs there, taken as absent");
            return Ok(None);
        }
        let mut bytes = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(Some(bytes.freeze()))
    }

    /// What is known of `key`, if it is there.
    pub(super) async fn find(&self, key: &Key) -> Result<Option<Meta>, RegistryError> {
        match self.store.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
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

    async fn linked_data(&self, link: &Place) -> Result<Option<(Key, Meta)>, RegistryError> {
        let Some(target) = self.read_link(&link.key()).await? else {
            return Ok(None);
        };
        let key = Place::BlobData(target).key();
        Ok(self.find(&key).await?.map(|meta| (key, meta)))
    }
}

/// Writes a link to `digest` at `place`.
pub(super) fn put_link(place: &Place, digest: &Digest) -> Step {
    Step::put(place.key(), digest.to_string())
}
