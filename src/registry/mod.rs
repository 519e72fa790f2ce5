//! What a registry does: blobs, uploads, manifests, tags, lists. Free of HTTP.
//!
//! Must not know requests, headers or statuses. Invariant (`docs/storage-layout.md`): bytes before link, link before tag;
//! deletion in reverse. Whether something is there is always read from the store: link *and* data.

mod blobs;
mod changes;
mod comparing;
#[cfg(test)]
mod crash_tests;
mod damage;
mod error;
mod keeper;
mod links;
mod listings;
mod lists;
mod locks;
mod manifest_cache;
mod manifests;
mod memory_budget;
#[cfg(test)]
mod open_mode;
mod parsing;
#[cfg(test)]
mod permit_tests;
mod readiness;
mod references;
mod referrers;
mod rereading;
mod sessions;
#[cfg(test)]
mod standing_tests;
mod status;
mod tombstones;
mod uploads;
mod usage;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::Semaphore;

pub use self::blobs::Blob;
pub use self::comparing::{Comparison, Filled, Progress, Tell};
pub use self::error::{BodyError, RegistryError};
pub use self::keeper::IndexedError;
pub use self::listings::{Page, PageRequest};
pub use self::manifests::{ManifestContent, PushedManifest, StoredManifest};
pub use self::memory_budget::{BudgetSpent, Holder, MemoryBudget, Reservation};
pub use self::readiness::{Readiness, Trouble};
pub use self::referrers::{Referrer, ReferrersPage};
pub use self::sessions::Owner;
pub use self::status::{IndexStatus, Status};
pub use self::uploads::Chunk;
pub use self::usage::{Subject, Usage};

use self::damage::Damage;
use self::lists::Lists;
use self::locks::NameLocks;
use self::manifest_cache::ManifestCache;
use self::parsing::Parsing;
use self::readiness::Watched;
use self::sessions::Sessions;
use crate::clock::Clock;
use crate::index::Index;
use crate::store::ObjectStore;

/// Reads at a time that hold much for a moment: manifests of many megabytes, and pages of referrers.
const LONG_READS_AT_ONCE: usize = 2;

/// A request's body: bytes as they come, or why no more will.
pub type Body = BoxStream<'static, Result<Bytes, BodyError>>;

/// The operations, over a store.
pub struct Registry {
    store: Arc<dyn ObjectStore>,
    settings: Settings,
    sessions: Sessions,
    clock: Arc<dyn Clock>,
    lists: Lists,
    manifests: ManifestCache,
    memory: MemoryBudget,
    long_reads: Semaphore,
    referrer_reads: Arc<Semaphore>,
    damage: Damage,
    parsing: Parsing,
    /// By digest, held from the check that everything referenced exists to the revision link.
    digest_locks: NameLocks,
    /// By repository: keeps a tag from moving while the manifest it pointed at is deleted.
    tag_locks: NameLocks,
    watched: Watched,
}

impl Registry {
    /// The operations over `store`, listed by `index`; `secret` marks upload sessions as ours. Somebody must run
    /// [`Registry::keep_index`] beside them.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        index: Arc<Index>,
        settings: Settings,
        secret: &[u8],
        clock: Arc<dyn Clock>,
    ) -> Self {
        let open_uploads = settings.limits.open_uploads;
        Self {
            sessions: Sessions::new(secret, open_uploads, Arc::clone(&clock)),
            lists: Lists::new(index, Arc::clone(&clock)),
            manifests: ManifestCache::default(),
            memory: MemoryBudget::new(settings.limits.whole_bodies_bytes),
            long_reads: Semaphore::new(LONG_READS_AT_ONCE),
            referrer_reads: Arc::new(Semaphore::new(LONG_READS_AT_ONCE)),
            damage: Damage::default(),
            parsing: Parsing::default(),
            store,
            settings,
            digest_locks: NameLocks::new(Arc::clone(&clock)),
            tag_locks: NameLocks::new(Arc::clone(&clock)),
            watched: Watched::new(&clock),
            clock,
        }
    }

    /// What the config decided.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The memory that bodies may take which are held whole.
    pub fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    fn check_writable(&self) -> Result<(), RegistryError> {
        if self.settings.readonly {
            Err(RegistryError::Readonly)
        } else {
            Ok(())
        }
    }

    /// The single guard of all deletes.
    fn check_deletable(&self) -> Result<(), RegistryError> {
        self.check_writable()?;
        if self.settings.deletes_enabled {
            Ok(())
        } else {
            Err(RegistryError::DeletesDisabled)
        }
    }
}

/// What the config decides about the operations.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `storage.delete.enabled`
    pub deletes_enabled: bool,
    /// `storage.maintenance.readonly.enabled`
    pub readonly: bool,
    /// `validation.manifests.references: strict|any`
    pub references: References,
    /// Whether the store cannot tell `Foo` from `foo` (probed at start; DESIGN D13).
    pub case_insensitive: bool,
    /// `limits`
    pub limits: Limits,
}

/// Whether everything that a manifest references must exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum References {
    /// It must.
    Strict,
    /// It need not.
    Any,
}

/// The limits of the operations.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest manifest taken (`limits.manifest_size_bytes`, 4 MiB by default as the specification asks, at most 16 MiB:
    /// 4 MiB hold a Geranos disk of 1 TiB).
    pub manifest_size_bytes: usize,
    /// Memory for bodies that are held whole, of all requests and answers together (`limits.whole_bodies_bytes`, 64 MiB: a
    /// dozen of the longest manifests at once, or thousands of usual ones).
    pub whole_bodies_bytes: usize,
    /// Repositories looked through for a blob to mount (`limits.mount_probes`, 1,000): each costs two look-ups.
    pub mount_probes: usize,
    /// Entries in one page of a list (`limits.list_page`, 1,000).
    pub list_page: usize,
    /// Entries in one page of the catalog (`catalog.maxentries`, 1,000).
    pub catalog_page: usize,
    /// Idle upload sessions kept open in memory (`limits.open_uploads`, 1,024: each holds a file descriptor); the others
    /// are taken up again from the store.
    pub open_uploads: usize,
    /// For how long a deletion counts as recent (`limits.grace_period_secs`, 24 hours: as long as the longest push that an
    /// upload session allows).
    pub grace_period_secs: u64,
}
