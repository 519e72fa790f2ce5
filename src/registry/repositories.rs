//! Whole repositories: removing one with all that it holds.
//!
//! Source: `docs/storage-layout.md`. Must not know HTTP, nor upload sessions. Invariants: tags go first, then manifests, then
//! links of blobs, and each is durable before the next begins, so that a crash leaves a smaller repository and no tag without
//! its image; a second removal ends what the first has begun. The bytes of a blob are removed only if the store itself shows
//! that no other repository links it.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::commit::Commit;
use super::core::Core;
use super::error::RegistryError;
use super::event::{Actor, Event};
use super::locks::Mode;
use super::sessions::EndedUploads;
use crate::layout::{self, Key, Place};
use crate::oci::{Algorithm, Digest, RepositoryName, Tag};
use crate::store::Step;

/// A repository with more blobs, or with any manifest, leaves its bytes to a collection: only what was never an image (the
/// scratch blob of `boathouse doctor`, a push that broke off) is few enough to be looked for in every other repository.
const FREED_BLOBS_MAX: usize = 16;

/// In more repositories no blob is looked for, while others who want to link it wait.
const LOOKED_THROUGH_MAX: usize = 10_000;

/// The room of whole repositories.
pub struct Repositories {
    core: Arc<Core>,
}

/// What is removed, or would be, with a repository or an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Tags.
    pub tags: u64,
    /// Manifests.
    pub manifests: u64,
    /// Links of blobs.
    pub blobs: u64,
    /// Upload sessions.
    pub uploads: u64,
    /// What is free at once: the removal itself removes it from the disk.
    pub freed_bytes: u64,
    /// What is free once collected, as `usage.rs` says; `None` if the index cannot tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uncollected_bytes: Option<u64>,
}

/// What keeps a repository from being removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spares {
    /// Nothing.
    Nothing,
    /// Any manifest in it: it is removed only if it was never more than a scratch pad.
    Manifests,
}

/// What a repository holds.
struct Contents {
    tags: Vec<Tag>,
    manifests: u64,
    layers: Vec<Digest>,
}

impl Contents {
    /// The blobs that are removed with their links if no other repository has them.
    fn scratch(&self) -> &[Digest] {
        if self.manifests == 0 && self.layers.len() <= FREED_BLOBS_MAX {
            &self.layers
        } else {
            &[]
        }
    }

    fn check_spared(&self, name: &RepositoryName, spares: Spares) -> Result<(), RegistryError> {
        match spares {
            Spares::Manifests if self.manifests > 0 || !self.tags.is_empty() => {
                Err(RegistryError::HoldsManifests(name.clone()))
            }
            Spares::Manifests | Spares::Nothing => Ok(()),
        }
    }
}

impl Repositories {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
        }
    }

    /// Fails if nothing may be removed, or the repository has nothing.
    pub(super) async fn check_removable(
        &self,
        name: &RepositoryName,
        spares: Spares,
        actor: &Actor<'_>,
    ) -> Result<(), RegistryError> {
        self.core.check_deletable()?;
        actor.confirm().await?;
        let uploads = layout::uploads_directory(name);
        if self.core.repository_exists(name).await? || self.core.holds_something(&uploads).await? {
            return self.contents(name).await?.check_spared(name, spares);
        }
        Err(RegistryError::NameUnknown(name.clone()))
    }

    /// Removes everything that the repository holds. Repositories below it (`a/b` of `a`) stay.
    pub(super) async fn remove(
        &self,
        name: &RepositoryName,
        spares: Spares,
        uploads: EndedUploads,
        actor: Actor<'_>,
    ) -> Result<Removal, RegistryError> {
        let core = &self.core;
        let held = core.locks.hold(actor, name).tags(Mode::Exclusive).await?;
        let mut held = held.changing_alone().await?;
        // Before anything is changed: the index lists nothing of the repository until it has forgotten it.
        core.gate.index.settle().await;
        let contents = self.contents(name).await?;
        contents.check_spared(name, spares)?;
        let uncollected_bytes = core.freed_by(name, None).await;
        let reread = core.gate.index.reread(name);
        core.remove_tags(&mut held, name, &contents.tags).await?;
        let scratch = contents.scratch();
        let mut held = held.sharing_and_removing([], scratch).await?;
        let unheld = self.unheld(name, scratch).await?;
        let freed_bytes: u64 = unheld.iter().map(|(_, size_bytes)| size_bytes).sum();
        let removed = Removal {
            tags: contents.tags.len() as u64,
            manifests: contents.manifests,
            blobs: contents.layers.len() as u64,
            uploads: uploads.count,
            freed_bytes: uploads.bytes + freed_bytes,
            uncollected_bytes,
        };
        let removals = || {
            let mut steps = vec![
                Step::remove_tree(layout::manifests_directory(name), None),
                Step::Barrier,
                Step::remove_tree(layout::layers_directory(name), None),
            ];
            let foreign = uploads.foreign.iter().cloned();
            steps.extend(foreign.map(|directory| Step::remove_tree(directory, None)));
            steps.push(Step::Barrier);
            let data = |(digest, _): &(Digest, u64)| {
                let first = Place::BlobData(*digest).key();
                Step::remove_tree(layout::blob_directory(digest), first)
            };
            steps.extend(unheld.iter().map(data));
            steps
        };
        let mut steps = Vec::new();
        if unheld.len() < contents.layers.len() {
            let day = core.unix_day();
            let tombstone = layout::repository_tombstone(day, name);
            steps.extend([Step::put(tombstone, Bytes::new()), Step::Barrier]);
        }
        steps.extend(removals());
        let commit = Commit {
            steps,
            // Without room for a tombstone, deleting is all the more needed.
            without_room: removals(),
            events: vec![Event::RepositoryRemoved],
            ..Commit::default()
        };
        core.commit(&mut held, commit).await?;
        let index = &core.gate.index;
        index.forget_content(unheld.iter().map(|(digest, _)| *digest).collect());
        if let Err(error) = index.replace_repository(reread, Vec::new(), None).await {
            tracing::warn!(%error, repository = %name, "the index still holds a repository that was removed; it is read again");
            core.gate.freshness().read_soon(name);
        }
        Ok(removed)
    }

    /// What [`Repositories::remove`] would remove, as things are.
    pub(super) async fn planned(&self, name: &RepositoryName) -> Result<Removal, RegistryError> {
        let core = &self.core;
        let contents = self.contents(name).await?;
        let unheld = self.unheld(name, contents.scratch()).await?;
        let root = layout::uploads_directory(name);
        let mut data = Vec::new();
        let add = |session: &str| data.extend(root.key(&format!("{session}/data")));
        core.each_directory(&root, add).await?;
        let uploads = core.find_each(&data).await?;
        let uploads = uploads.iter().flatten().map(|meta| meta.size_bytes);
        let blobs = unheld.iter().map(|(_, size_bytes)| *size_bytes);
        Ok(Removal {
            tags: contents.tags.len() as u64,
            manifests: contents.manifests,
            blobs: contents.layers.len() as u64,
            uploads: data.len() as u64,
            freed_bytes: uploads.chain(blobs).sum(),
            uncollected_bytes: core.freed_by(name, None).await,
        })
    }

    async fn contents(&self, name: &RepositoryName) -> Result<Contents, RegistryError> {
        let core = &self.core;
        let (mut manifests, mut layers) = (0, Vec::new());
        for algorithm in Algorithm::ALL {
            let directory = layout::revisions_directory(name, algorithm);
            let digests = core.digest_directories(&directory, algorithm).await?;
            manifests += digests.len() as u64;
            let directory = layout::layer_links_directory(name, algorithm);
            layers.extend(core.digest_directories(&directory, algorithm).await?);
        }
        Ok(Contents {
            tags: core.tag_directories(name).await?,
            manifests,
            layers,
        })
    }

    /// Those of `digests`, blobs of `name` that are locked for removal, that no other repository links, with their sizes. The
    /// index is not asked: it does not record links whose bytes were missing when they were read.
    async fn unheld(
        &self,
        name: &RepositoryName,
        digests: &[Digest],
    ) -> Result<Vec<(Digest, u64)>, RegistryError> {
        // Other algorithms: a link of theirs may lead to data of another digest.
        let is_plain = |digest: &Digest| digest.algorithm() == Algorithm::Sha256;
        if digests.is_empty() || !digests.iter().all(is_plain) {
            return Ok(Vec::new());
        }
        let core = &self.core;
        let is_other = |other: &RepositoryName| other != name;
        let others = core.repositories(is_other, LOOKED_THROUGH_MAX + 1).await?;
        if others.len() > LOOKED_THROUGH_MAX {
            return Ok(Vec::new());
        }
        let mut unheld = Vec::new();
        for digest in digests {
            let own = Place::LayerLink(name, *digest).key();
            if core.read_link(&own).await? == Some(*digest)
                && let Some(meta) = core.find(&Place::BlobData(*digest).key()).await?
            {
                unheld.push((*digest, meta.size_bytes));
            }
        }
        for other in &others {
            for algorithm in Algorithm::ALL {
                let mut links: Vec<Key> = Vec::new();
                if algorithm == Algorithm::Sha256 {
                    let place = |(digest, _): &(Digest, u64)| {
                        [
                            Place::LayerLink(other, *digest).key(),
                            Place::RevisionLink(other, *digest).key(),
                        ]
                    };
                    links.extend(unheld.iter().flat_map(place));
                } else {
                    let directory = layout::layer_links_directory(other, algorithm);
                    for digest in core.digest_directories(&directory, algorithm).await? {
                        links.push(Place::LayerLink(other, digest).key());
                    }
                    let directory = layout::revisions_directory(other, algorithm);
                    for digest in core.digest_directories(&directory, algorithm).await? {
                        links.push(Place::RevisionLink(other, digest).key());
                    }
                }
                let targets = core.read_links(&links).await?;
                unheld.retain(|(digest, _)| !targets.contains(&Some(*digest)));
            }
        }
        Ok(unheld)
    }
}
