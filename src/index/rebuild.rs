//! Filling the index, seen by whoever reads the store.
//!
//! Must not know where the facts come from. Invariant: the index is declared complete only when all that was loaded is
//! durable.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::IndexError;
use super::facts::{Fact, Stamp};
use super::queue::{self, Job, Replacement, Reread};
use super::writer::Shared;

/// Filling the index; dropping it leaves the index incomplete, and a later one goes on.
pub struct Rebuild {
    shared: Arc<Shared>,
    epoch: u64,
}

impl Rebuild {
    pub(super) fn new(shared: Arc<Shared>, epoch: u64) -> Self {
        Self { shared, epoch }
    }

    /// As [`super::Index::replace_repository`], but many small repositories share a commit: returns once there is room for the
    /// next.
    pub async fn load(
        &self,
        reread: Reread,
        facts: Vec<Fact>,
        stamp: Option<Stamp>,
    ) -> Result<(), IndexError> {
        let room = self.shared.queue.room_for(facts.len()).await;
        self.shared.queue.put(Job::Replace(Replacement {
            reread,
            facts,
            stamp,
            answer: None,
            room,
        }))?;
        self.shared.count_rebuilt();
        Ok(())
    }

    /// Counts one repository that needed no load (its stamp equals the store's).
    pub fn skip(&self) {
        self.shared.count_rebuilt();
    }

    /// All repositories were loaded: makes it durable, closes and reopens the database once (damage is recognised by
    /// sled only after that), and declares the index complete ([`super::Health::Healthy`]).
    pub async fn finish(self) -> Result<(), IndexError> {
        let (answer, finished) = oneshot::channel();
        let epoch = self.epoch;
        self.shared
            .queue
            .put(Job::FinishRebuild { epoch, answer })?;
        finished.await.unwrap_or_else(|_| Err(queue::closed()))
    }
}
