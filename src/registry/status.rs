//! How much the registry holds and how its index is, for a person and for watching.
//!
//! Counts come from the index: what is there is for the store to say, how much it is for the index. Must not know how it is
//! printed. Invariant: a blob that many repositories link counts once in what is stored and once for each in what is linked.

use serde::{Deserialize, Serialize};

use super::error::IndexedError;
use super::listings::Listings;
use crate::index::Health;
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
    /// What the repositories link, each for itself.
    pub logical_bytes: u64,
    /// What that takes: every blob and manifest once. What no repository has any more is not in it.
    pub stored_bytes: u64,
    /// Whether lists come from the index; if not, from the store.
    pub lists_from_index: bool,
    /// Log lines of the server that were lost since its start, because they could not be written.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// What has stalled or ended, as `/readyz` reports it; empty if the registry can serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ready: Vec<String>,
    /// What works only in part, as `/readyz` reports it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// The index.
    pub index: IndexStatus,
}

impl IndexStatus {
    /// All values of `health`.
    pub const STATES: [&'static str; 4] = ["healthy", "checking", "rebuilding", "degraded"];
}

/// How the index is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexStatus {
    /// One of [`IndexStatus::STATES`].
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
    /// How much there is: running totals of the index, with all that has happened so far.
    pub async fn status(&self) -> Result<Status, IndexedError> {
        self.core.gate.index.settle().await;
        Ok(self.figures().await)
    }

    /// The same without what still waits to be written to the index.
    pub async fn figures(&self) -> Status {
        let totals = self.core.gate.index.totals();
        Status {
            repositories: totals.repositories,
            tags: totals.tags,
            manifests: totals.revisions,
            blobs: totals.blobs,
            logical_bytes: totals.held_bytes,
            stored_bytes: totals.stored_bytes,
            lists_from_index: self.core.gate.is_complete(),
            log_lines_lost: telemetry::lost_lines(),
            not_ready: Vec::new(),
            degraded: Vec::new(),
            index: self.index_status().await,
        }
    }

    async fn index_status(&self) -> IndexStatus {
        let index = &self.core.gate.index;
        let [healthy, checking, rebuilding, degraded] = IndexStatus::STATES;
        let (health, reason) = match index.health() {
            Health::Healthy => (healthy, None),
            Health::Checking => (checking, None),
            Health::Rebuilding { .. } => (rebuilding, None),
            Health::Degraded { reason, .. } => (degraded, Some(reason)),
        };
        let statistics = index.statistics();
        IndexStatus {
            health: health.to_owned(),
            reason,
            keys: index.totals().keys,
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
