//! What a manifest references: is it there, and may this caller use it here?
//!
//! Design: DESIGN D8, `docs/storage-layout.md`. Must not know how a manifest is stored. Invariant: a blob that this
//! repository does not have yet is linked only for a caller who could mount it here; otherwise whoever knows a digest
//! could read a private blob by naming it in a manifest. This holds for what an index lists as for layers.

use std::collections::HashSet;

use super::{References, Registry, RegistryError};
use crate::auth::Viewer;
use crate::layout::{Key, Place};
use crate::oci::{Descriptor, Digest, Manifest, RepositoryName};
use crate::store::Meta;

/// Digests named in one error: enough to find what was forgotten, and a few kilobytes. A manifest may name tens of thousands.
const UNKNOWN_NAMED_MAX: usize = 100;

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
        let blobs = distinct(manifest.blobs());
        // What an index lists is a manifest of this repository or a blob of it, whatever its media type says: BuildKit's
        // cache is an index of blobs.
        let listed = distinct(manifest.children().iter().filter(|child| !child.is_foreign));
        let listed = self.unlinked(listed, |digest| Place::RevisionLink(name, digest));
        let not_manifests = listed.await?;
        let blobs = blobs.into_iter().chain(not_manifests).collect();
        let unlinked = self.unlinked(blobs, |digest| Place::LayerLink(name, digest));
        let unlinked = unlinked.await?;

        let total = unlinked.len();
        let mut missing_links = Vec::new();
        let mut unknown = Vec::new();
        let mut candidates = self.candidates(name, viewer);
        for descriptor in unlinked {
            let digest = &descriptor.digest;
            if let Some(target) = self.mountable(digest, &mut candidates).await? {
                if let Some(meta) = self.find(&Place::BlobData(target).key()).await? {
                    self.check_size(descriptor, &meta)?;
                }
                missing_links.push(MissingLink {
                    path: *digest,
                    target,
                });
            } else if self.is_strict() {
                unknown.push(*digest);
                // It is refused, and the client is told enough.
                if unknown.len() == UNKNOWN_NAMED_MAX {
                    break;
                }
            }
        }
        if unknown.is_empty() {
            return Ok(missing_links);
        }
        let total = total - missing_links.len();
        Err(RegistryError::ReferencesUnknown {
            named: unknown,
            total,
        })
    }

    /// Those of `descriptors` whose link or sound data the repository lacks; the sizes of the others are checked.
    async fn unlinked<'a>(
        &self,
        descriptors: Vec<&'a Descriptor>,
        link: impl Fn(Digest) -> Place<'a>,
    ) -> Result<Vec<&'a Descriptor>, RegistryError> {
        let key = |descriptor: &&Descriptor| link(descriptor.digest).key();
        let keys: Vec<Key> = descriptors.iter().map(key).collect();
        let mut unlinked = Vec::new();
        for (descriptor, data) in descriptors.into_iter().zip(self.linked_each(&keys).await?) {
            match data {
                // A client that was told that they are there, and left them out, must learn that they are cut.
                Some((digest, meta))
                    if descriptor.size_bytes == meta.size_bytes
                        || self
                            .agrees_with(&digest, &meta, descriptor.size_bytes)
                            .await? =>
                {
                    self.check_size(descriptor, &meta)?;
                }
                Some(_) | None => unlinked.push(descriptor),
            }
        }
        Ok(unlinked)
    }

    /// Readers are told not to trust content of another length (image-spec `descriptor.md`), so a wrong one is refused where
    /// all references must be right. Published images with wrong sizes exist, and docker pulls them: `any` takes them.
    fn check_size(&self, descriptor: &Descriptor, stored: &Meta) -> Result<(), RegistryError> {
        if descriptor.size_bytes == stored.size_bytes {
            return Ok(());
        }
        match self.settings.references {
            References::Any => Ok(()),
            References::Strict => Err(RegistryError::DescriptorSize {
                digest: descriptor.digest,
                said_bytes: descriptor.size_bytes,
                stored_bytes: stored.size_bytes,
            }),
        }
    }
}

/// One digest may stand in a manifest hundreds of times (a disk of zeros): it is looked at once. Descriptors of one digest
/// that disagree on its size are all looked at.
fn distinct<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> Vec<&'a Descriptor> {
    let mut seen = HashSet::new();
    descriptors
        .filter(|descriptor| seen.insert((&descriptor.digest, descriptor.size_bytes)))
        .collect()
}
