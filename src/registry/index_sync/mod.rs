//! Bringing the index up to the store, and keeping it there.
//!
//! Design: DESIGN D3. Must not know who asks for a list. Invariants: only a repository that was compared with the store in
//! this process gets a new stamp; what could not be read is tried again.

pub(super) mod comparing;
pub(super) mod gate;
pub(super) mod reading;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use self::reading::{Reading, read_repository, sweep_unlinked};
use super::core::Core;
use super::error::{IndexedError, RegistryError};
use super::event::Actor;
use super::locks::Quiet;
use crate::heartbeat::Heartbeat;
use crate::index::{Health, Rebuild, Stamp};
use crate::layout;
use crate::oci::RepositoryName;

/// How long a repository rests before it is stamped: a push of many layers is stamped once.
const STAMP_PAUSE: Duration = Duration::from_secs(1);

/// How long a failed reading of the store rests before it is tried again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_mins(1);

/// How often an index that is being checked is looked at.
const CHECK_PAUSE: Duration = Duration::from_millis(20);

/// How long the end of the process waits for stamps: what has none is merely read again.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// Repositories that are read at once: while one waits for the store, another is told to the index. What they hold is in
/// memory meanwhile.
const READ_AT_ONCE: usize = 4;

/// How long the task may wait with nothing read: for requests that change a repository and wait for each other, and for the
/// index to take in what was read. Both show by themselves when they stall.
const WAIT_MAX: Duration = Duration::from_mins(5);

/// How often a long reading says how far it is.
const PROGRESS_PAUSE: Duration = Duration::from_secs(5);

/// The room of the index: a background task, and what people ask of it.
pub struct IndexSync {
    core: Arc<Core>,
    heartbeat: Arc<Heartbeat>,
}

impl IndexSync {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        let clock = Arc::clone(&core.clock);
        Self {
            core: Arc::clone(core),
            heartbeat: Heartbeat::new("the keeper of the index", clock),
        }
    }

    /// Of [`IndexSync::run`].
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
    }

    /// Brings the index up to the store, and keeps it there; never returns.
    pub async fn run(&self) {
        let _beating = self.heartbeat.begin();
        let mut next_try = Some(self.core.clock.elapsed());
        loop {
            self.moves();
            if next_try.is_some_and(|next_try| next_try <= self.core.clock.elapsed()) {
                next_try = self.try_everything().await;
            }
            self.heartbeat.rest_for(STAMP_PAUSE);
            tokio::select! {
                () = self.core.clock.sleep(STAMP_PAUSE) => {}
                () = self.core.gate.wake.notified() => {}
            }
            self.moves();
            next_try = self.catch_up().await.or(next_try);
        }
    }

    /// Waits until no change of `name` is under way, and keeps others from beginning.
    async fn quiet(&self, name: &RepositoryName) -> Result<Quiet, RegistryError> {
        let actor = Actor::task("the keeper of the index");
        self.core.locks.quiet(actor, name).await
    }

    fn moves(&self) {
        self.heartbeat.beat_before(WAIT_MAX);
    }

    /// Reads everything, and tells when to try again if that did not work out.
    async fn try_everything(&self) -> Option<Duration> {
        let error = self.read_everything().await.err()?;
        tracing::error!(error = %error, "the index is incomplete; lists come from the store");
        Some(self.core.clock.elapsed() + RETRY_PAUSE)
    }

    /// Does what waits: reads repositories that are in doubt, and stamps those that have changed. Tells when everything must
    /// be tried again, if that was tried and did not work out.
    pub async fn catch_up(&self) -> Option<Duration> {
        let mut next_try = None;
        let table = self.core.gate.freshness();
        if table.take_replaced() {
            tracing::warn!("the index was set aside while it was in use; it is filled again");
            next_try = self.try_everything().await;
        }
        if table.is_all_in_doubt() {
            // What is in doubt by a change has lost the stamp that would be compared, once the index has heard of it.
            self.core.gate.index.settle().await;
        }
        let waiting = table.take_waiting();
        for name in waiting.read {
            self.moves();
            match self.read_again(&name, None).await {
                Ok(()) => {}
                Err(IndexedError::Registry(error)) if error.is_unreadable() => {
                    self.core
                        .damage
                        .pass_over(layout::repository_directory(&name).as_str(), &error);
                }
                Err(error) => {
                    tracing::warn!(error = %error, repository = %name, "cannot read the repository for the index");
                }
            }
        }
        if waiting.is_everything {
            tracing::warn!("many changes have failed; every repository is compared again");
            next_try = self.try_everything().await;
        }
        for name in waiting.stamp {
            self.moves();
            if let Err(error) = self.stamp(&name).await {
                tracing::warn!(error = %error, repository = %name, "cannot stamp the repository");
            }
        }
        next_try
    }

    /// Notes in the index that it is up to the store, which only a repository can be that was compared before.
    async fn stamp(&self, name: &RepositoryName) -> Result<(), RegistryError> {
        let _quiet = self.quiet(name).await?;
        let table = self.core.gate.freshness();
        if table.is_in_doubt(name) {
            table.read_soon(name);
        }
        // Before the question: if the database is replaced from here on, the stamp is not for the new one.
        let era = table.era();
        // Asked when nothing is under way, so that a change which has failed meanwhile counts.
        if !table.may_stamp(name) {
            return Ok(());
        }
        match self.core.gate.look(name).await? {
            // What is changed next could leave the same times, and a crash lose what the index hears of it.
            Some(look) if !look.is_settled => {
                table.stamp_later(name);
            }
            Some(look) => {
                let stamp = Stamp(look.value.into_bytes());
                self.core.gate.index.record_stamp(name, stamp, era);
            }
            None => {}
        }
        Ok(())
    }

    /// Compares every repository of the store, and of the index, and reads those that differ.
    pub async fn read_everything(&self) -> Result<(), IndexedError> {
        self.until_checked().await;
        let table = self.core.gate.freshness();
        let reading = table.begin_reading_everything();
        let mut names = self.core.repositories(|_| true, usize::MAX).await?;
        names.sort_unstable();
        let total = names.len() as u64;
        let rebuild = match self.core.gate.index.health() {
            Health::Rebuilding { .. } => {
                tracing::info!(
                    repositories = total,
                    "filling the index from the store; the registry serves meanwhile"
                );
                Some(self.core.gate.index.begin_rebuild(Some(total)))
            }
            Health::Healthy | Health::Checking | Health::Degraded { .. } => None,
        };
        self.forget_absent(&names).await?;
        let mut told = self.core.clock.elapsed();
        let mut is_whole = true;
        let mut reread = 0_u64;
        let rebuilding = rebuild.as_ref();
        let reads = stream::iter(names).map(|name| async move {
            let read = self.bring_up(&name, rebuilding).await;
            (name, read)
        });
        let mut reads = reads.buffer_unordered(READ_AT_ONCE).enumerate();
        while let Some((done, (name, read))) = reads.next().await {
            self.moves();
            match read {
                Ok(was_read) => reread += u64::from(was_read),
                // Nothing is known of it, and nothing of it is forgotten.
                Err(IndexedError::Registry(error)) if error.is_unreadable() => {
                    self.core
                        .damage
                        .pass_over(layout::repository_directory(&name).as_str(), &error);
                }
                // One that cannot be read must not keep the others from being listed.
                Err(IndexedError::Registry(error)) => {
                    is_whole = false;
                    tracing::warn!(error = %error, repository = %name, "cannot read the repository for the index");
                }
                Err(error @ IndexedError::Index(_)) => return Err(error),
            }
            if self.core.clock.elapsed().saturating_sub(told) >= PROGRESS_PAUSE {
                told = self.core.clock.elapsed();
                tracing::info!(done = done + 1, total, "reading repositories for the index");
            }
        }
        drop(reads);
        if let Some(rebuild) = rebuild {
            rebuild.finish().await?;
        }
        table.end_reading_everything(reading, is_whole);
        tracing::info!(repositories = total, reread, "the index is up to the store");
        Ok(())
    }

    /// Waits until the index was opened and checked: whether it must be filled is known only then.
    async fn until_checked(&self) {
        while self.core.gate.index.health() == Health::Checking {
            self.core.clock.sleep(CHECK_PAUSE).await;
        }
    }

    /// Makes the index say of a repository what the store says. Returns whether it had to be read.
    async fn bring_up(
        &self,
        name: &RepositoryName,
        rebuild: Option<&Rebuild>,
    ) -> Result<bool, IndexedError> {
        if self.core.gate.compare(name).await? {
            if let Some(rebuild) = rebuild {
                rebuild.skip();
            }
            return Ok(false);
        }
        self.read_again(name, rebuild).await?;
        Ok(true)
    }

    /// Forgets repositories that the store no longer has.
    async fn forget_absent(&self, present: &[RepositoryName]) -> Result<(), IndexedError> {
        let index = &self.core.gate.index;
        let known = index.read(|view| view.repositories(None).into_vec());
        for name in known
            .await?
            .iter()
            .filter(|name| present.binary_search(name).is_err())
        {
            match self.read_again(name, None).await {
                Err(IndexedError::Registry(error)) if error.is_unreadable() => {
                    self.core
                        .damage
                        .pass_over(layout::repository_directory(name).as_str(), &error);
                }
                read => {
                    read?;
                }
            }
        }
        Ok(())
    }

    /// Reads a repository into the index. In a rebuild it is only on its way there, with others.
    async fn read_again(
        &self,
        name: &RepositoryName,
        rebuild: Option<&Rebuild>,
    ) -> Result<(), IndexedError> {
        let mut reread = self.core.gate.index.reread(name);
        // Before anything is read: what changes from here on makes the stamp older than the store, never newer.
        let stamp = {
            let _quiet = self.quiet(name).await?;
            self.core.gate.look(name).await?
        };
        let Reading {
            facts,
            is_dangling,
            unlinked,
        } = read_repository(&self.core, name, &|| self.moves()).await?;
        // Before the stamp is written down, which would vouch for what is left lying there.
        sweep_unlinked(&self.core, name, unlinked).await?;
        if is_dangling {
            reread.found_dangling();
        }
        let is_worth_a_stamp = !facts.is_empty() && !is_dangling;
        let stamp = stamp.filter(|look| is_worth_a_stamp && look.is_settled);
        let stamp = stamp.map(|look| Stamp(look.value.into_bytes()));
        if let Some(rebuild) = rebuild {
            rebuild.load(reread, facts, stamp).await?;
            return Ok(());
        }
        let index = &self.core.gate.index;
        index.replace_repository(reread, facts, stamp).await?;
        Ok(())
    }

    /// Writes down the stamps that wait, and closes the index in order; for the end of the process. What must be read
    /// again has no stamp, and is read at the next start.
    pub async fn close(&self) {
        let stamps = self.core.gate.freshness().take_waiting().stamp;
        let stamping = async {
            for name in stamps {
                if self.stamp(&name).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = stamping => {}
            () = self.core.clock.sleep(CLOSE_TIME) => {}
        }
        self.core.gate.index.close().await;
    }
}
