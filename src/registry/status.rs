//! How much the registry holds and how its index is, for a person and for watching.
//!
//! Counts come from the index: what is there is for the store to say, how much it is for the index. Must not know how it is
//! printed. Invariant: a blob that many repositories link counts once in what is stored and once for each in what is held.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::error::IndexedError;
use super::listings::Listings;
use crate::index::{Health, Index, IndexError, PAGE_MAX, Revision};
use crate::oci::{Digest, RepositoryName};
use crate::telemetry;

/// How much there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Repositories.
    pub repositories: u64,
    /// Tags of all repositories.
    pub tags: u64,
    /// Manifests, each counted in every repository that has it.
    pub manifests: u64,
    /// Different blobs and manifests that some repository has.
    pub blobs: u64,
    /// What the repositories hold, each for itself.
    pub logical_bytes: u64,
    /// What that takes: every blob and manifest once. What no repository has any more is not in it.
    pub stored_bytes: u64,
    /// Whether lists come from the index; if not, from the store.
    pub lists_from_index: bool,
    /// Log lines of the server that were lost since its start, because they could not be written.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// The index.
    pub index: IndexStatus,
}

/// How the index is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexStatus {
    /// `healthy`, `checking`, `rebuilding` or `degraded`.
    pub health: String,
    /// Why it is out of order.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Entries.
    pub keys: u64,
    /// What it takes on its volume; none in memory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub disk_bytes: Option<u64>,
    /// Changes that wait to be written.
    pub queued: u64,
    /// Batches of changes that were dropped since the start.
    pub dropped_batches: u64,
    /// Repositories that must be read again.
    pub unread_repositories: u64,
    /// Durable commits since the start.
    pub commits: u64,
    /// How long a slow commit takes (99th percentile of the last ones).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub commit_p99_micros: Option<u64>,
    /// How often it was set aside since the start.
    pub quarantines: u64,
}

impl Listings {
    /// How much there is; walks the index once, about a second for some hundred thousand links.
    pub async fn status(&self) -> Result<Status, IndexedError> {
        let index = &self.core.freshness.index;
        index.settle().await;
        let counts = index.counts();
        let (blobs, logical_bytes, stored_bytes) = totals(index).await?;
        Ok(Status {
            repositories: counts.repositories,
            tags: counts.tags,
            manifests: counts.revisions,
            blobs,
            logical_bytes,
            stored_bytes,
            lists_from_index: self.core.freshness.is_complete(),
            log_lines_lost: telemetry::lost_lines(),
            index: self.index_status().await,
        })
    }

    async fn index_status(&self) -> IndexStatus {
        let index = &self.core.freshness.index;
        let (health, reason) = match index.health() {
            Health::Healthy => ("healthy", None),
            Health::Checking => ("checking", None),
            Health::Rebuilding { .. } => ("rebuilding", None),
            Health::Degraded { reason, .. } => ("degraded", Some(reason)),
        };
        let statistics = index.statistics();
        IndexStatus {
            health: health.to_owned(),
            reason,
            keys: index.counts().keys,
            disk_bytes: index.disk_bytes().await,
            queued: statistics.queued,
            dropped_batches: statistics.dropped_batches,
            unread_repositories: statistics.unread_repositories,
            commits: statistics.commits,
            commit_p99_micros: statistics
                .slow_commit
                .and_then(|took| took.as_micros().try_into().ok()),
            quarantines: statistics.quarantines,
        }
    }
}

/// Different blobs and manifests, their bytes once per repository, and their bytes once.
async fn totals(index: &Index) -> Result<(u64, u64, u64), IndexError> {
    let (mut count, mut logical_bytes, mut stored_bytes) = (0, 0, 0);
    let mut sizes = SizesInOrder::new(index);
    let mut links = Vec::new();
    let mut last: Option<(Digest, u64)> = None;
    loop {
        links = index.links(links.last(), PAGE_MAX).await?;
        for (digest, _) in &links {
            let size_bytes = match &last {
                Some((known, size_bytes)) if known == digest => *size_bytes,
                _ => {
                    let size_bytes = sizes.of(digest).await?.unwrap_or_default();
                    count += 1;
                    stored_bytes += size_bytes;
                    last = Some((*digest, size_bytes));
                    size_bytes
                }
            };
            logical_bytes += size_bytes;
        }
        if links.len() < PAGE_MAX {
            break;
        }
    }
    let mut seen = HashSet::new();
    each_manifest(index, |_, revision| {
        logical_bytes += revision.size_bytes;
        if seen.insert(mark_of(&revision.digest)) {
            count += 1;
            stored_bytes += revision.size_bytes;
        }
    })
    .await?;
    Ok((count, logical_bytes, stored_bytes))
}

/// Calls `visit` with every manifest of every repository.
pub(super) async fn each_manifest(
    index: &Index,
    mut visit: impl FnMut(&RepositoryName, &Revision),
) -> Result<(), IndexError> {
    let mut after = None;
    loop {
        let page = index.manifests(after.as_ref(), PAGE_MAX).await?;
        for (name, revision) in &page {
            visit(name, revision);
        }
        match page.into_iter().nth(PAGE_MAX - 1) {
            Some((name, revision)) => after = Some((name, revision.digest)),
            None => return Ok(()),
        }
    }
}

/// Sizes of blobs that are asked for in the order of their digests: the index is read once from its beginning to its end.
pub(super) struct SizesInOrder<'a> {
    index: &'a Index,
    page: std::vec::IntoIter<(Digest, u64)>,
    next: Option<(Digest, u64)>,
    read_to: Option<Digest>,
    is_end: bool,
}

impl<'a> SizesInOrder<'a> {
    pub(super) fn new(index: &'a Index) -> Self {
        Self {
            index,
            page: Vec::new().into_iter(),
            next: None,
            read_to: None,
            is_end: false,
        }
    }

    /// The size of `digest`, which is not before the last one that was asked for.
    pub(super) async fn of(&mut self, digest: &Digest) -> Result<Option<u64>, IndexError> {
        loop {
            match &self.next {
                Some((next, size_bytes)) if next == digest => return Ok(Some(*size_bytes)),
                Some((next, _)) if next > digest => return Ok(None),
                _ => {}
            }
            self.next = self.page.next();
            if self.next.is_some() {
                continue;
            }
            if self.is_end {
                return Ok(None);
            }
            let page = self.index.blobs(self.read_to.as_ref(), PAGE_MAX).await?;
            self.is_end = page.len() < PAGE_MAX;
            self.read_to = page.last().map(|(digest, _)| *digest);
            self.page = page.into_iter();
        }
    }
}

/// Half of a digest: as good as the whole to tell a million of them apart, in a fifth of the room.
pub(super) fn mark_of(digest: &Digest) -> u128 {
    let half = digest.bytes().first_chunk().copied();
    u128::from_be_bytes(half.unwrap_or_default())
}
