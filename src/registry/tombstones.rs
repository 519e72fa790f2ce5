//! Tombstones: which blobs a repository has deleted lately.
//!
//! Design: DESIGN D8. Who deleted a blob is told by HEAD that it is gone, also where another repository holds it still: a
//! client would else be told to leave out the very blob that it means to send anew. They lie in the store, outside
//! `docker/`: 202 promises that a deletion outlives the process, so it must not be undone by a restart, nor by a lost
//! index. One directory for each day, so that a day is forgotten as a whole, without a look at what is in it, and nothing
//! is removed from a directory that is still written to. Must not know who asks. Invariant: a tombstone is there before
//! the link is gone, and stays for at least the grace period (up to a day longer).

use std::time::Duration;

use bytes::Bytes;

use super::{Registry, RegistryError};
use crate::layout;
use crate::oci::{Digest, RepositoryName};
use crate::store::Step;

const DAY_SECS: u64 = 24 * 60 * 60;

/// How often days that are over are looked for.
const SWEEP_PAUSE: Duration = Duration::from_hours(1);

/// How long one sweep may take: it names the days, and renames those that are over out of sight.
const SWEEP_PATIENCE: Duration = Duration::from_mins(5);

impl Registry {
    /// Writes down that `name` deletes the blob now.
    pub(super) fn put_tombstone(&self, name: &RepositoryName, digest: &Digest) -> Step {
        let day = self.clock.unix_secs() / DAY_SECS;
        // Its name says it all.
        Step::put(layout::tombstone(day, name, digest), Bytes::new())
    }

    /// Whether `name` has deleted the blob within the grace period.
    pub(super) async fn is_deleted_lately(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        // Mostly there is no day at all.
        for day in self.days_of_tombstones().await? {
            let tombstone = layout::tombstone(day, name, digest);
            if !self.is_over(day) && self.find(&tombstone).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Forgets deletions that the grace period is over for.
    pub async fn sweep_tombstones(&self) -> Result<(), RegistryError> {
        if self.settings.readonly {
            return Ok(());
        }
        let days = self.days_of_tombstones().await?.into_iter();
        let over = days.filter(|day| self.is_over(*day));
        let steps: Vec<Step> = over
            .map(|day| Step::RemoveTree(layout::tombstones_of_day(day)))
            .collect();
        if !steps.is_empty() {
            self.store.apply(steps).await?;
        }
        Ok(())
    }

    /// Sweeps now and then; never returns.
    pub async fn keep_tombstones(&self) {
        let heartbeat = &self.watched.sweeper;
        let _beating = heartbeat.begin();
        loop {
            heartbeat.beat_before(SWEEP_PATIENCE);
            if let Err(error) = self.sweep_tombstones().await {
                tracing::warn!(error = %error, "cannot forget old deletions of blobs");
            }
            heartbeat.rest_for(SWEEP_PAUSE);
            self.clock.sleep(SWEEP_PAUSE).await;
        }
    }

    async fn days_of_tombstones(&self) -> Result<Vec<u64>, RegistryError> {
        let mut days = Vec::new();
        let directory = layout::tombstones_directory();
        self.each_directory(&directory, |day| days.extend(day.parse::<u64>()))
            .await?;
        Ok(days)
    }

    /// Whether the grace period of the last deletion of `day` is over.
    fn is_over(&self, day: u64) -> bool {
        let end = day.saturating_add(1).saturating_mul(DAY_SECS);
        let grace = self.settings.limits.grace_period_secs;
        end.saturating_add(grace) <= self.clock.unix_secs()
    }
}
