//! What a registry does: blobs, uploads, manifests, tags, lists. Free of HTTP.
//!
//! A front with one room for each subject, over one `core` that they share; the rooms do not know each other. All that
//! changes a repository goes one way: an operation holds what it needs (`locks`), and commits (`commit`).
//!
//! Must not know requests, headers or statuses. Invariant (`docs/storage-layout.md`): bytes before link, link before tag;
//! deletion in reverse. Whether something is there is always read from the store: link *and* data.

mod all_links;
mod blobs;
mod commit;
mod copying;
mod core;
#[cfg(test)]
mod crash_tests;
mod damage;
mod deletion;
mod error;
mod event;
mod fallback;
mod handing_back;
mod images;
mod index_sync;
mod inspection;
mod listings;
mod locks;
mod manifests;
mod memory_budget;
mod moving;
#[cfg(test)]
mod open_mode;
#[cfg(test)]
mod permit_tests;
mod phases;
mod readiness;
mod references;
mod referrers;
mod repositories;
mod seen;
mod sessions;
mod settings;
#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod standing_tests;
mod status;
mod tagging;
mod uploads;
mod usage;

use std::sync::Arc;

pub use self::all_links::{AllLinks, digest_in, links_of, repositories_of};
pub use self::blobs::Blobs;
pub use self::copying::Copied;
pub use self::core::Blob;
pub use self::error::{BodyError, IndexedError, RegistryError};
pub use self::event::{ActingRequest, Actor};
pub use self::handing_back::{HandedBack, HandingBack};
pub use self::images::{
    EarlierManifest, Image, ImageChild, ImagePart, RepositoryContent, RepositorySummary, TagSummary,
};
pub use self::index_sync::IndexSync;
pub use self::index_sync::comparing::{Comparison, Filled, Progress, Tell};
pub use self::inspection::{Finding, Found, Inspection, Kind, LinkTo, Meaning};
pub use self::listings::{Listings, Page, PageRequest};
pub use self::locks::Quiet;
pub use self::manifests::{ManifestContent, Manifests, PushedManifest, StoredManifest};
pub use self::memory_budget::{BudgetSpent, Holder, MemoryBudget, Reservation};
pub use self::moving::{Move, MoveError, Moved};
pub use self::readiness::{HealthCheck, Readiness, Trouble};
pub use self::referrers::{Referrer, ReferrersPage};
pub use self::repositories::{Removal, Repositories, Spares};
pub use self::seen::Seen;
pub use self::sessions::{Owner, UploadFigures};
pub use self::settings::{
    Children, FallbackTags, LayerUrls, Limits, References, Settings, UploadPurging,
};
pub use self::status::{IndexStatus, Status};
pub use self::uploads::{Body, Chunk, Uploads};
pub use self::usage::{Subject, Usage};

use self::core::Core;
use crate::clock::Clock;
use crate::index::Index;
use crate::oci::{ImageName, RepositoryName};
use crate::store::ObjectStore;

/// The operations, over a store.
pub struct Registry {
    /// How blobs come in.
    pub uploads: Uploads,
    /// Blobs that are there.
    pub blobs: Blobs,
    /// Manifests and tags.
    pub manifests: Manifests,
    /// Whole repositories.
    pub repositories: Repositories,
    /// Lists, and what things take.
    pub listings: Listings,
    /// The index. [`IndexSync::run`] must run beside the operations.
    pub index_sync: IndexSync,
    /// Whether it can serve.
    pub health: HealthCheck,
    /// Looking for damage.
    pub inspection: Inspection,
    /// Going back to another registry.
    pub handing_back: HandingBack,
    core: Arc<Core>,
}

impl Registry {
    /// The operations over `store`, listed by `index`; `secret` marks upload sessions as ours.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        index: Arc<Index>,
        settings: Settings,
        secret: &[u8],
        clock: Arc<dyn Clock>,
    ) -> Self {
        let core = Arc::new(Core::new(store, index, settings, clock));
        Self {
            uploads: Uploads::new(&core, secret),
            blobs: Blobs::new(&core),
            manifests: Manifests::new(&core),
            repositories: Repositories::new(&core),
            listings: Listings::new(&core),
            index_sync: IndexSync::new(&core),
            health: HealthCheck::new(&core),
            inspection: Inspection::new(&core),
            handing_back: HandingBack::new(&core),
            core,
        }
    }

    /// Removes a repository with all that it holds; uploads to it are cancelled. Repositories below it (`a/b` of `a`) stay.
    pub async fn remove_repository(
        &self,
        name: &RepositoryName,
        spares: Spares,
        actor: Actor<'_>,
    ) -> Result<Removal, RegistryError> {
        let repositories = &self.repositories;
        repositories.check_removable(name, spares, &actor).await?;
        // Before any lock is taken, as by all who work on a session.
        let uploads = self.uploads.end_all(name).await?;
        repositories.remove(name, spares, uploads, actor).await
    }

    /// What would go with `image`, or with the whole repository if it names none.
    pub async fn planned_removal(&self, image: &ImageName) -> Result<Removal, RegistryError> {
        let ImageName {
            repository,
            reference,
        } = image;
        let Some(reference) = reference else {
            let actor = Actor::operator(0);
            self.repositories
                .check_removable(repository, Spares::Nothing, &actor)
                .await?;
            return self.repositories.planned(repository).await;
        };
        let parts = self.manifests.parts(repository, reference).await?;
        let uncollected_bytes = if parts.manifests.is_empty() {
            Some(0)
        } else {
            let manifests = parts.manifests.clone();
            self.core.freed_by(repository, Some(manifests)).await
        };
        Ok(Removal {
            tags: parts.tags.len() as u64,
            manifests: parts.manifests.len() as u64,
            uncollected_bytes,
            ..Removal::default()
        })
    }

    /// Removes `image` as [`Manifests::delete_image`] does, or the whole repository if it names none.
    pub async fn remove_image(
        &self,
        image: &ImageName,
        actor: Actor<'_>,
    ) -> Result<Removal, RegistryError> {
        let ImageName {
            repository,
            reference,
        } = image;
        let Some(reference) = reference else {
            return self
                .remove_repository(repository, Spares::Nothing, actor)
                .await;
        };
        let planned = self.planned_removal(image).await?;
        let removed = self.manifests.delete_image(repository, reference, actor);
        Ok(Removal {
            uncollected_bytes: planned.uncollected_bytes,
            ..removed.await?
        })
    }

    /// Whether anything was ever pushed to `name`.
    pub async fn has_repository(&self, name: &RepositoryName) -> Result<bool, RegistryError> {
        self.core.repository_exists(name).await
    }

    /// Waits until no change of `name` is under way, and keeps others from beginning as long as the result lives: what is read
    /// of the repository meanwhile is its state at one moment.
    pub async fn quiet(&self, name: &RepositoryName) -> Result<Quiet, RegistryError> {
        self.core.locks.quiet(Actor::task("backup"), name).await
    }

    /// What the config decided.
    pub fn settings(&self) -> &Settings {
        &self.core.settings
    }

    /// The memory that bodies may take which are held whole.
    pub fn memory(&self) -> &MemoryBudget {
        &self.core.memory
    }
}
