//! What the writer, the rebuild and the questions share: the queue, the open database, and how it is.
//!
//! Must not know what is written. Invariant: the database is swapped only while no reader has it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use super::IndexError;
use super::facts::Health;
use super::ledger::{Changes, Ledger};
use super::queue::{Job, Queue};
use crate::clock::Clock;
use crate::heartbeat::Heartbeat;

/// How many commits are remembered to tell how slow the volume is: minutes of work.
const COMMIT_TIMES_MAX: usize = 1_024;
/// What the writer and the questions share.
pub(super) struct Shared {
    pub(super) queue: Arc<Queue>,
    /// Held for reading while something is read or written, for writing only to swap it.
    pub(super) ledger: RwLock<Option<Ledger>>,
    health: Mutex<Health>,
    pub(super) clock: Arc<dyn Clock>,
    /// Of the writer's thread.
    pub(super) heartbeat: Arc<Heartbeat>,
    pub(super) commits: AtomicU64,
    /// How long the last commits took, the newest first.
    times: Mutex<VecDeque<Duration>>,
    pub(super) quarantines: AtomicU64,
    /// Another number: what was loaded before may be lost.
    pub(super) epoch: AtomicU64,
}

impl Shared {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            queue: Arc::new(Queue::new()),
            ledger: RwLock::new(None),
            health: Mutex::new(Health::Checking),
            heartbeat: Heartbeat::new("the writer of the index", Arc::clone(&clock)),
            clock,
            commits: AtomicU64::new(0),
            times: Mutex::default(),
            quarantines: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
        }
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the database, if it is open.
    pub(super) fn with_ledger<T>(
        &self,
        work: impl FnOnce(&Ledger) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let ledger = self.ledger.read().unwrap_or_else(PoisonError::into_inner);
        match &*ledger {
            Some(ledger) => work(ledger),
            None => Err(IndexError::Unavailable {
                reason: match &*self.health() {
                    Health::Degraded { reason, .. } => reason.clone(),
                    Health::Healthy | Health::Checking | Health::Rebuilding { .. } => {
                        "it is being opened".to_owned()
                    }
                },
            }),
        }
    }

    /// Writes `changes`, and counts the commits.
    pub(super) fn commit(&self, changes: Changes, limit: usize) -> Result<(), IndexError> {
        let began = self.clock.elapsed();
        let commits = self.with_ledger(|ledger| ledger.commit(changes, limit))?;
        self.commits.fetch_add(commits, Ordering::Relaxed);
        if commits > 0 {
            let took = self.clock.elapsed().saturating_sub(began);
            let mut times = self.times();
            times.truncate(COMMIT_TIMES_MAX - 1);
            times.push_front(took / u32::try_from(commits).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    /// The 99th percentile of the last commits.
    pub(super) fn slow_commit(&self) -> Option<Duration> {
        let mut times: Vec<Duration> = self.times().iter().copied().collect();
        times.sort_unstable();
        let at = (times.len() * 99).div_ceil(100).saturating_sub(1);
        times.get(at).copied()
    }

    fn times(&self) -> MutexGuard<'_, VecDeque<Duration>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the database, and returns the old one when no reader has it any more.
    pub(super) fn swap(&self, ledger: Option<Ledger>) -> Option<Ledger> {
        let mut place = self.ledger.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, ledger)
    }

    /// Begins a rebuild, or goes on with one.
    pub(super) fn begin_rebuild(&self, total: Option<u64>) -> u64 {
        let epoch = self.epoch.load(Ordering::Relaxed);
        let mut health = self.health();
        if !matches!(*health, Health::Degraded { .. }) {
            *health = Health::Rebuilding { done: 0, total };
        }
        drop(health);
        // A closed index says so when the first repository is loaded.
        let _ = self.queue.put(Job::BeginRebuild { total });
        epoch
    }

    /// One repository more.
    pub(super) fn count_rebuilt(&self) {
        if let Health::Rebuilding { done, .. } = &mut *self.health() {
            *done += 1;
        }
    }
}
