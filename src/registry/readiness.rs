//! Whether the registry can serve: what has stalled, and what works with less than it should.
//!
//! Must not know how the answer is given, and writes nothing. Invariants: an answer comes within [`PROBE_TIME`], also
//! when the store does not answer; a registry that is slow, or from which one can only pull, is degraded, and not taken out
//! of service.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio::sync::watch;

use super::core::Core;
use crate::heartbeat::{Heartbeat, Pulse, SLOW_AFTER, STILL_AFTER, Standing};
use crate::index::Health;
use crate::layout::Prefix;
use crate::store::{Constraint, Depth, ObjectStore, Room, StoreError};

/// How long an answer waits for the store: most probes give it a second.
const PROBE_TIME: Duration = Duration::from_millis(500);

/// How often the log is told what has stalled: often enough to name it before a watchdog ends this process.
const WATCH_PAUSE: Duration = Duration::from_secs(10);

/// The room that watches all others.
pub struct HealthCheck {
    core: Arc<Core>,
    /// Background tasks; the store and the index have loops of their own.
    tasks: Mutex<Vec<Arc<Heartbeat>>>,
    heartbeat: Arc<Heartbeat>,
    probe: Mutex<Option<Probe>>,
}

/// A look at the store that was begun. One at a time: each that is not answered holds a thread.
#[derive(Clone)]
struct Probe {
    began: Duration,
    answer: watch::Receiver<Option<Seen>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Answers(Option<Constraint>),
    Failed,
}

/// Whether it can serve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What has stalled; empty if it can serve.
    pub still: Vec<Trouble>,
    /// What works with less than it should.
    pub degraded: Vec<Trouble>,
}

impl Readiness {
    /// Whether a loop of this program has stalled or has ended, which a restart may mend. No restart mends a store that is
    /// full, read-only, unreadable or silent.
    pub fn needs_restart(&self) -> bool {
        let is_ours = |trouble: &Trouble| matches!(trouble, Trouble::Standing(_));
        self.still.iter().any(is_ours)
    }

    /// What works with less than it should, `accounts` among it: why changes of accounts may not be in force.
    pub fn degraded_with(&self, accounts: Option<&str>) -> Vec<String> {
        let degraded = self.degraded.iter().map(ToString::to_string);
        degraded.chain(accounts.map(str::to_owned)).collect()
    }

    /// Whether nothing asks for an operator. What the configuration wants does not, nor an index that is being brought up to the
    /// store: lists are right meanwhile.
    pub fn is_healthy(&self) -> bool {
        let is_fine = |trouble: &Trouble| {
            matches!(
                trouble,
                Trouble::Readonly
                    | Trouble::IndexChecking
                    | Trouble::IndexFilling(..)
                    | Trouble::IndexIncomplete
            )
        };
        self.still.is_empty() && self.degraded.iter().all(is_fine)
    }
}

/// One thing that is not as it should be; holds nothing that only the operator may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing moves.
    Standing(Standing),
    /// The store has not answered for so many seconds.
    Silent(u64),
    /// The store cannot be read.
    Unreadable,
    /// The store takes nothing.
    Constrained(Constraint),
    /// `storage.maintenance.readonly`
    Readonly,
    /// A request has waited for so many seconds for others that change the same.
    Waiting(u64),
    /// The index is being opened and checked.
    IndexChecking,
    /// The index is being filled: repositories done, and of how many.
    IndexFilling(u64, Option<u64>),
    /// The index is out of order.
    IndexOutOfOrder,
    /// The index has not been compared with the whole store yet, or not all of that could be read.
    IndexIncomplete,
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standing(standing) => write!(formatter, "{standing}"),
            Self::Silent(secs) => write!(formatter, "the store has not answered for {secs} s"),
            Self::Unreadable => formatter.write_str("the store cannot be read"),
            Self::Constrained(Constraint::Full) => {
                formatter.write_str("the store's disk is full; pulls and deletes work")
            }
            Self::Constrained(Constraint::ReadOnly) => {
                formatter.write_str("the store's disk is read-only; pulls work")
            }
            Self::Readonly => formatter.write_str("read-only by its config"),
            Self::Waiting(secs) => write!(
                formatter,
                "slow: a request has waited {secs} s for others that change the same"
            ),
            Self::IndexChecking => {
                formatter.write_str("the index is being checked; lists come from the store")
            }
            Self::IndexFilling(done, Some(total)) => write!(
                formatter,
                "the index is being filled, {done} of {total} repositories; lists come from the store"
            ),
            Self::IndexFilling(_, None) => {
                formatter.write_str("the index is being filled; lists come from the store")
            }
            Self::IndexOutOfOrder => {
                formatter.write_str("the index is out of order; lists come from the store")
            }
            Self::IndexIncomplete => {
                formatter.write_str("the index is not up to the store; lists come from the store")
            }
        }
    }
}

impl HealthCheck {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        let clock = Arc::clone(&core.clock);
        Self {
            core: Arc::clone(core),
            tasks: Mutex::default(),
            heartbeat: Heartbeat::new("the watch over background tasks", clock),
            probe: Mutex::default(),
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<Arc<Heartbeat>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The look at the store that is under way, or a new one.
    fn probe(&self) -> Probe {
        let mut present = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(probe) = &*present
            && probe.answer.borrow().is_none()
            // One whose task was dropped never ends.
            && probe.answer.has_changed().is_ok()
        {
            return probe.clone();
        }
        let (told, answer) = watch::channel(None);
        let store = Arc::clone(&self.core.store);
        tokio::spawn(async move {
            let seen = look(store.as_ref()).await.unwrap_or_else(|error| {
                tracing::error!(error = %error, "the store cannot be read");
                Seen::Failed
            });
            told.send_replace(Some(seen));
        });
        let began = self.core.clock.elapsed();
        let probe = Probe { began, answer };
        *present = Some(probe.clone());
        probe
    }

    /// Counts a background task in [`HealthCheck::readiness`] from now on.
    pub fn watch(&self, heartbeat: Arc<Heartbeat>) {
        self.tasks().push(heartbeat);
    }

    /// Of [`HealthCheck::keep_watch`].
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
    }

    /// All loops that are watched.
    pub fn heartbeats(&self) -> Vec<Arc<Heartbeat>> {
        let mut heartbeats = self.core.store.heartbeats();
        heartbeats.push(self.core.gate.index.heartbeat());
        heartbeats.extend(self.tasks().iter().map(Arc::clone));
        heartbeats
    }

    /// Whether it can serve.
    pub async fn readiness(&self) -> Readiness {
        let mut readiness = Readiness::default();
        self.look_at_store(&mut readiness).await;
        for heartbeat in self.heartbeats() {
            match heartbeat.pulse() {
                Pulse::Well => {}
                Pulse::Slow(standing) => readiness.degraded.push(Trouble::Standing(standing)),
                Pulse::Still(standing) => readiness.still.push(Trouble::Standing(standing)),
            }
        }
        let longest = self.core.locks.longest_wait();
        if let Some(longest) = longest.filter(|longest| *longest >= SLOW_AFTER) {
            readiness.degraded.push(Trouble::Waiting(longest.as_secs()));
        }
        if self.core.settings.readonly {
            readiness.degraded.push(Trouble::Readonly);
        }
        readiness.degraded.extend(self.index_trouble());
        readiness
    }

    async fn look_at_store(&self, readiness: &mut Readiness) {
        let mut probe = self.probe();
        let seen = tokio::select! {
            seen = probe.answer.wait_for(Option::is_some) => {
                // Without an answer its task has panicked.
                Some(seen.ok().and_then(|seen| seen.clone()).unwrap_or(Seen::Failed))
            }
            () = self.core.clock.sleep(PROBE_TIME) => None,
        };
        match seen {
            Some(Seen::Answers(None)) => {}
            Some(Seen::Answers(Some(constraint))) => {
                readiness.degraded.push(Trouble::Constrained(constraint));
            }
            Some(Seen::Failed) => readiness.still.push(Trouble::Unreadable),
            None => {
                let silent = self.core.clock.elapsed().saturating_sub(probe.began);
                let trouble = Trouble::Silent(silent.as_secs());
                if silent >= STILL_AFTER {
                    readiness.still.push(trouble);
                } else {
                    readiness.degraded.push(trouble);
                }
            }
        }
    }

    fn index_trouble(&self) -> Option<Trouble> {
        match self.core.gate.index.health() {
            Health::Healthy if self.core.gate.is_complete() => None,
            Health::Healthy => Some(Trouble::IndexIncomplete),
            Health::Checking => Some(Trouble::IndexChecking),
            Health::Rebuilding { done, total } => Some(Trouble::IndexFilling(done, total)),
            Health::Degraded { .. } => Some(Trouble::IndexOutOfOrder),
        }
    }

    /// How much may still be written to the store; `None` if the store has no limit, or does not answer in time.
    pub async fn room(&self) -> Option<Room> {
        tokio::select! {
            room = self.core.store.room() => room.ok().flatten(),
            () = self.core.clock.sleep(PROBE_TIME) => None,
        }
    }

    /// How long the request has waited that has waited longest for others that change the same.
    pub fn longest_wait(&self) -> Duration {
        self.core.locks.longest_wait().unwrap_or_default()
    }

    /// How often stored data were found that are not what their digest says; each version of a file counts once.
    pub fn damaged_data(&self) -> u64 {
        self.core.damage.damaged_data()
    }

    /// Logs what has stalled, when that begins and when it ends; never returns.
    pub async fn keep_watch(&self) {
        let _beating = self.heartbeat.begin();
        let mut stood = false;
        loop {
            self.heartbeat.rest_for(WATCH_PAUSE);
            self.core.clock.sleep(WATCH_PAUSE).await;
            self.heartbeat.beat();
            let mut still = self.readiness().await.still;
            still.retain(|trouble| !self.is_logged(trouble));
            if !still.is_empty() && !stood {
                let still: Vec<String> = still.iter().map(ToString::to_string).collect();
                tracing::error!(
                    "{}; requests that need it wait, and /readyz says 503",
                    still.join("; ")
                );
            } else if still.is_empty() && stood {
                tracing::info!("all moves again");
            }
            stood = !still.is_empty();
        }
    }

    /// A background task that has ended was logged when that happened.
    fn is_logged(&self, trouble: &Trouble) -> bool {
        let Trouble::Standing(standing) = trouble else {
            return false;
        };
        let tasks = self.tasks();
        standing.has_ended && tasks.iter().any(|task| task.name() == standing.name)
    }
}

async fn look(store: &dyn ObjectStore) -> Result<Seen, StoreError> {
    let everything = Prefix::everything();
    store.list(&everything, Depth::One).try_next().await?;
    Ok(Seen::Answers(store.constraint().await?))
}

#[cfg(test)]
#[path = "readiness_tests.rs"]
mod tests;
