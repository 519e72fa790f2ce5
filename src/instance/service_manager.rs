//! What the service manager that started this program is told: ready, reloading, stopping, alive, and a line of status.
//!
//! Source: `sd_notify(3)`, `sd_watchdog_enabled(3)`. Must not know what a service is configured to do with it. Invariants: without
//! a service manager, nothing is sent; a message that cannot be sent stops nothing; the watchdog is fed only while no loop of
//! this program stands still, so that a full or a missing disk never ends it.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::auth::Auth;
use crate::clock::Clock;
use crate::heartbeat::Heartbeat;
use crate::platform;
use crate::registry::{Readiness, Registry};

/// How often the status is looked at, unless the watchdog wants a sign of life more often.
const REPORT_PAUSE: Duration = Duration::from_secs(10);
/// Signs of life in the time after which the watchdog acts: one that is late on a busy machine must not be the last.
const SIGNS_PER_WATCHDOG_TIME: u32 = 3;
/// A service manager that takes no messages for so long is passed over.
const SEND_TIME: Duration = Duration::from_secs(1);
/// At the end, the time for what follows the open requests: closing the index, the last lines of the log.
const CLOSING_TIME: Duration = Duration::from_secs(10);
/// One line of `systemctl status`; a message must fit into one datagram.
const STATUS_BYTES_MAX: usize = 1_024;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// Without a sign of life for so long, it ends this program.
    watchdog: Option<Duration>,
    /// The address that is served.
    serving: Mutex<String>,
    /// The last status that came from looking at the registry.
    status: Mutex<String>,
}

impl ServiceManager {
    /// The one that the environment names. An error if it cannot be reached.
    pub(crate) fn of(environment: &BTreeMap<String, String>) -> io::Result<Self> {
        let variable = |name| environment.get(name).filter(|value| !value.is_empty());
        let socket = variable("NOTIFY_SOCKET").map(|name| connect(name));
        // A program that was started by another one may have inherited variables that are not about itself.
        let process = std::process::id().to_string();
        let is_ours = variable("WATCHDOG_PID").is_none_or(|id| *id == process);
        let watchdog = variable("WATCHDOG_USEC").filter(|_| is_ours);
        let watchdog = watchdog.and_then(|micros| micros.parse().ok());
        let watchdog = watchdog.filter(|micros| *micros > 0);
        Ok(Self {
            socket: socket.transpose()?,
            watchdog: watchdog.map(Duration::from_micros),
            ..Self::default()
        })
    }

    pub(super) fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// What the program does, for people.
    pub(crate) fn status(&self, text: &str) {
        self.send(&[&status_line(text)]);
    }

    /// Requests at `address` are answered from now on.
    pub(crate) fn serving(&self, address: String) {
        *lock(&self.serving) = address;
    }

    /// The service has started.
    pub(super) fn ready(&self) {
        let status = self.status_of(&Readiness::default(), None);
        self.send(&["READY=1", &status_line(&status)]);
        *lock(&self.status) = status;
    }

    /// A reload has begun. [`ServiceManager::reloaded`] must follow: until then, the service counts as reloading.
    pub(super) fn reloading(&self) {
        // Required by `Type=notify-reload`, which compares it with the time of its signal.
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(
            now.tv_sec.unsigned_abs(),
            now.tv_nsec.unsigned_abs().try_into().unwrap_or(0),
        );
        let time = format!("MONOTONIC_USEC={}", now.as_micros());
        self.send(&[
            "RELOADING=1",
            &time,
            "STATUS=reading users, rules and certificates again",
        ]);
    }

    /// A reload has ended. The status shows a failure until the next reload.
    pub(super) fn reloaded<T>(&self, result: &anyhow::Result<T>) {
        let status = match result {
            Ok(_) => lock(&self.status).clone(),
            Err(error) => format!("the last reload failed: {error:#}"),
        };
        self.send(&["READY=1", &status_line(&status)]);
    }

    /// The program ends, and open requests have `drain` to end before it.
    pub(crate) fn stopping(&self, drain: Duration) {
        let time = (drain + CLOSING_TIME).as_micros();
        let time = format!("EXTEND_TIMEOUT_USEC={time}");
        self.send(&[
            "STOPPING=1",
            &time,
            "STATUS=ending; open requests may end first",
        ]);
    }

    /// Reports how `registry` and the accounts of `auth` are, and that the program lives; never returns. `None`: an issuer of
    /// tokens, which has no store and no loops.
    pub(super) async fn report(
        &self,
        registry: Option<&Registry>,
        auth: &Auth,
        heartbeat: &Arc<Heartbeat>,
        clock: &dyn Clock,
    ) {
        let _beating = heartbeat.begin();
        let watchdog = self.watchdog.map(|time| time / SIGNS_PER_WATCHDOG_TIME);
        let pause = watchdog.map_or(REPORT_PAUSE, |time| time.min(REPORT_PAUSE));
        loop {
            heartbeat.beat();
            let readiness = match registry {
                Some(registry) => registry.health.readiness().await,
                None => Readiness::default(),
            };
            if self.watchdog.is_some() && !readiness.needs_restart() {
                self.send(&["WATCHDOG=1"]);
            }
            let status = self.status_of(&readiness, auth.trouble().await);
            // Only a change is sent, so that the status of a failed reload stays.
            if *lock(&self.status) != status {
                self.status(&status);
                *lock(&self.status) = status;
            }
            heartbeat.rest_for(pause);
            clock.sleep(pause).await;
        }
    }

    /// The heartbeat of [`ServiceManager::report`].
    pub(super) fn heartbeat(clock: Arc<dyn Clock>) -> Arc<Heartbeat> {
        Heartbeat::new("the report to the service manager", clock)
    }

    fn status_of(&self, readiness: &Readiness, accounts: Option<&str>) -> String {
        let mut status = format!("serving at {}", *lock(&self.serving));
        let still: Vec<String> = readiness.still.iter().map(ToString::to_string).collect();
        let degraded = readiness.degraded_with(accounts);
        for (intro, troubles) in [("not ready", still), ("degraded", degraded)] {
            if !troubles.is_empty() {
                status = format!("{status}; {intro}: {}", troubles.join("; "));
            }
        }
        status
    }

    fn send(&self, lines: &[&str]) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(lines.join("\n").as_bytes())
        {
            tracing::debug!(%error, "the service manager took no message");
        }
    }
}

fn connect(name: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&platform::socket_address(name)?)?;
    socket.set_write_timeout(Some(SEND_TIME))?;
    Ok(socket)
}

/// `STATUS=` with `text` on one line.
fn status_line(text: &str) -> String {
    let mut end = text.len().min(STATUS_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let lines = text.get(..end).unwrap_or_default().lines();
    let text: Vec<&str> = lines.map(str::trim).collect();
    format!("STATUS={}", text.join("; "))
}

fn lock(text: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    // Nothing panics while the lock is held.
    text.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "service_manager_tests.rs"]
mod tests;
