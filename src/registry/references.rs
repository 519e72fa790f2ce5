//! What a manifest references: is it there, and may this caller use it here?
//!
//! Design: DESIGN D8, `docs/storage-layout.md`. Must not know how a manifest is stored. Invariant: a blob that this
//! repository does not have yet is linked only for a caller who could mount it here; otherwise whoever knows a digest
//! could read a private blob by naming it in a manifest.

use std::collections::BTreeSet;

use super::{References, Registry, RegistryError};
use crate::auth::Viewer;
use crate::layout::{Key, Place};
use crate::oci::{Descriptor, Digest, Manifest, RepositoryName};
use crate::store::Meta;

/// A link that the repository lacks: its path's digest, and the digest it must hold.
pub(super) struct MissingLink {
    pub(super) path: Digest,
    pub(super) target: Digest,
}

impl Registry {
    /// Checks everything that `manifest` references; returns the layer links that the repository lacks.
    pub(super) async fn check_references(
        &self,
        name: &RepositoryName,
        manifest: &Manifest,
        viewer: &Viewer<'_>,
    ) -> Result<Vec<MissingLink>, RegistryError> {
        let mut missing_links = Vec::new();
        let mut unknown = Vec::new();
        let mut candidates = self.candidates(viewer);
        for blob in distinct(manifest.blobs()) {
            if let Some((key, meta)) = self.linked_blob(name, &blob.digest).await?
                && self.is_not_cut(&key, &meta, blob).await?
            {
                check_size(blob, meta.size_bytes)?;
                continue;
            }
            let target = self.mountable(&blob.digest, &mut candidates).await?;
            let Some(target) = target else {
                unknown.push(blob.digest.clone());
                continue;
            };
            if let Some(meta) = self.find(&Place::BlobData(target.clone()).key()).await? {
                check_size(blob, meta.size_bytes)?;
            }
            missing_links.push(MissingLink {
                path: blob.digest.clone(),
                target,
            });
        }
        for child in distinct(manifest.children().iter().filter(|child| !child.is_foreign)) {
            match self.linked_manifest(name, &child.digest).await? {
                Some((key, meta)) if self.is_not_cut(&key, &meta, child).await? => {
                    check_size(child, meta.size_bytes)?;
                }
                Some(_) | None => unknown.push(child.digest.clone()),
            }
        }
        match self.settings.references {
            References::Strict if !unknown.is_empty() => {
                Err(RegistryError::ReferencesUnknown(unknown))
            }
            References::Strict | References::Any => Ok(missing_links),
        }
    }
}

impl Registry {
    /// Whether the data at `key` are sound, where `descriptor` says another length: a client that was told that they are
    /// there, and left them out, must learn that they are not.
    async fn is_not_cut(
        &self,
        key: &Key,
        meta: &Meta,
        descriptor: &Descriptor,
    ) -> Result<bool, RegistryError> {
        match Place::parse(key.as_str()) {
            Some(Place::BlobData(digest)) if descriptor.size_bytes != meta.size_bytes => {
                self.agrees_with(&digest, meta, descriptor.size_bytes).await
            }
            _ => Ok(true),
        }
    }
}

/// One digest may stand in a manifest hundreds of times (a disk of zeros): it is looked at once. Descriptors of one digest
/// that disagree on its size are all looked at.
fn distinct<'a>(
    descriptors: impl Iterator<Item = &'a Descriptor>,
) -> impl Iterator<Item = &'a Descriptor> {
    let mut seen = BTreeSet::new();
    descriptors
        .filter(move |descriptor| seen.insert((descriptor.digest.clone(), descriptor.size_bytes)))
}

fn check_size(descriptor: &Descriptor, stored_bytes: u64) -> Result<(), RegistryError> {
    if descriptor.size_bytes == stored_bytes {
        return Ok(());
    }
    Err(RegistryError::DescriptorSize {
        digest: descriptor.digest.clone(),
        said_bytes: descriptor.size_bytes,
        stored_bytes,
    })
}
