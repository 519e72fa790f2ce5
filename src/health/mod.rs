//! The health checks that a configuration asks for: while one fails, the registry answers no request.
//!
//! Source: distribution's section `health`. Must not know how a request is answered. Invariants: a check that does not end
//! fails; whether one fails is known without a lock and without waiting.

mod checks;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderMap, Uri};

use crate::clock::Clock;
use crate::heartbeat::Heartbeat;
use crate::host_port::HostPort;
use crate::registry::Registry;

/// How often a check is made, and how long it may take, if no key says otherwise. distribution's interval; a check of its own has
/// no limit, and one that hangs passes for ever.
pub const CHECK_SECS: u64 = 10;

/// One thing that must be in order.
#[derive(Debug, Clone)]
pub struct Check {
    /// What `/debug/health` and the log call it.
    pub name: String,
    /// What is looked at.
    pub target: Target,
    /// The time between two checks.
    pub interval_secs: u64,
    /// How many checks must fail in a row; 0 and 1: one.
    pub threshold: u32,
}

/// What is looked at.
#[derive(Debug, Clone)]
pub enum Target {
    /// The store answers.
    Store,
    /// There is no file at this path: making one takes the registry out of service.
    NoFile(PathBuf),
    /// HEAD is answered with this status.
    Http {
        /// `http` or `https`, with a host.
        uri: Uri,
        /// Headers of the request.
        headers: HeaderMap,
        /// The status.
        status: u16,
        /// How long the answer may take.
        timeout_secs: u64,
    },
    /// Something takes connections.
    Tcp {
        /// Where.
        address: HostPort,
        /// How long the connection may take.
        timeout_secs: u64,
    },
}

/// All checks, and which of them fail.
pub struct HealthChecks {
    checks: Vec<Check>,
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    heartbeat: Arc<Heartbeat>,
    /// By name, with the reason.
    failing: Mutex<BTreeMap<String, String>>,
    is_failing: AtomicBool,
}

impl HealthChecks {
    /// None fails until it was made.
    pub fn new(checks: Vec<Check>, registry: Arc<Registry>, clock: Arc<dyn Clock>) -> Self {
        Self {
            checks,
            registry,
            heartbeat: Heartbeat::new("the health checks", Arc::clone(&clock)),
            clock,
            failing: Mutex::default(),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Whether there is anything to check.
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }

    /// Whether a check fails. Asked at each request.
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// The checks that fail, with the reason of each.
    pub fn failing(&self) -> BTreeMap<String, String> {
        self.lock().clone()
    }

    /// Of [`HealthChecks::run`].
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
    }

    /// Makes all checks, each at its interval; never returns if there are any.
    pub async fn run(&self) {
        let _beating = self.heartbeat.begin();
        // What they wait for is elsewhere: each has a limit of its own.
        self.heartbeat.rest();
        join_all(self.checks.iter().map(|check| self.repeat(check))).await;
    }

    /// As in distribution, the first time after an interval.
    async fn repeat(&self, check: &Check) {
        let mut failures = 0;
        loop {
            let interval = Duration::from_secs(check.interval_secs);
            self.clock.sleep(interval).await;
            let result = checks::look(&check.target, &self.registry, &self.clock).await;
            failures = match &result {
                Ok(()) => 0,
                Err(_) => check.threshold.min(failures + 1).max(1),
            };
            let reason = result.err().filter(|_| failures >= check.threshold);
            self.set(&check.name, reason);
        }
    }

    fn set(&self, name: &str, reason: Option<String>) {
        let mut failing = self.lock();
        let failed = failing.contains_key(name);
        match reason {
            Some(reason) => {
                if !failed {
                    tracing::error!(
                        check = name,
                        reason,
                        "a health check of the configuration fails; requests are answered with 503 until it passes"
                    );
                }
                failing.insert(name.to_owned(), reason);
            }
            None if failed => {
                tracing::info!(check = name, "the health check passes again");
                failing.remove(name);
            }
            None => {}
        }
        self.is_failing
            .store(!failing.is_empty(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
