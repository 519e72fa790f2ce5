//! What a connection does: which requests are open, whether the server or the client must act next, and since when.
//!
//! Must not know other connections. Invariant: a connection is `Working` while the server must act next in any of its
//! requests. Only bytes of requests and answers count as progress.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// The bytes that count as progress of a body. A single byte now and then does not keep a slot.
const PROGRESS_BYTES: u64 = 1_024;

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// In its TLS handshake.
    Handshake { since: Duration },
    /// Without an open request. Part of a head may have arrived.
    Idle { since: Duration },
    /// Every open request waits for the client: for more of a body, or until it reads more of an answer.
    Waiting { since: Duration },
    /// The server works on a request.
    Working,
}

/// The activity of one connection.
pub(super) struct Activity {
    clock: Arc<dyn Clock>,
    counters: Mutex<Counters>,
}

struct Counters {
    is_handshake: bool,
    open: usize,
    with_server: usize,
    since: Duration,
    moved_bytes: u64,
}

impl Activity {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let counters = Mutex::new(Counters {
            is_handshake: true,
            open: 0,
            with_server: 0,
            since: clock.elapsed(),
            moved_bytes: 0,
        });
        Arc::new(Self { clock, counters })
    }

    pub(super) fn phase(&self) -> Phase {
        let counters = self.lock();
        let since = counters.since;
        match (counters.open, counters.with_server) {
            (0, _) if counters.is_handshake => Phase::Handshake { since },
            (0, _) => Phase::Idle { since },
            (_, 0) => Phase::Waiting { since },
            _ => Phase::Working,
        }
    }

    /// The handshake is complete.
    pub(super) fn handshake_done(&self) {
        let mut counters = self.lock();
        counters.is_handshake = false;
        counters.since = self.clock.elapsed();
    }

    /// A request has begun.
    pub(super) fn begin(self: &Arc<Self>) -> RequestActivity {
        let now = self.clock.elapsed();
        let mut counters = self.lock();
        counters.open += 1;
        counters.with_server += 1;
        counters.since = now;
        RequestActivity {
            activity: Arc::clone(self),
            with_server_since: AtomicU64::new(nanos(now)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        // The counters are consistent even after a panic.
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The activity of one request. At first the server must act. Dropping it ends the request.
pub(super) struct RequestActivity {
    activity: Arc<Activity>,
    /// Since when the server must act, in nanoseconds; [`WITH_CLIENT`] if the client must act.
    with_server_since: AtomicU64,
}

const WITH_CLIENT: u64 = u64::MAX;

impl RequestActivity {
    /// The server must act next.
    pub(super) fn waits_for_server(&self) {
        let mut counters = self.activity.lock();
        if self.with_server_since.load(Ordering::Relaxed) == WITH_CLIENT {
            let now = nanos(self.activity.clock.elapsed());
            self.with_server_since.store(now, Ordering::Relaxed);
            counters.with_server += 1;
        }
    }

    /// The client must act next. The time that the server took does not count against the client.
    pub(super) fn waits_for_client(&self) {
        let mut counters = self.activity.lock();
        let with_server_since = self.with_server_since.swap(WITH_CLIENT, Ordering::Relaxed);
        if with_server_since != WITH_CLIENT {
            let now = self.activity.clock.elapsed();
            let took = now.saturating_sub(Duration::from_nanos(with_server_since));
            counters.with_server -= 1;
            counters.since = (counters.since + took).min(now);
        }
    }

    /// The answer begins, and the client must read it.
    pub(super) fn answer_begins(&self) {
        self.waits_for_client();
        self.activity.lock().since = self.activity.clock.elapsed();
    }

    /// This many bytes were received or sent.
    pub(super) fn transferred(&self, bytes: usize) {
        let mut counters = self.activity.lock();
        counters.moved_bytes += bytes as u64;
        if counters.moved_bytes >= PROGRESS_BYTES {
            counters.moved_bytes = 0;
            counters.since = self.activity.clock.elapsed();
        }
    }
}

impl Drop for RequestActivity {
    fn drop(&mut self) {
        self.waits_for_client();
        let mut counters = self.activity.lock();
        counters.open -= 1;
        counters.since = self.activity.clock.elapsed();
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(WITH_CLIENT - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_byte_now_and_then_is_no_progress_and_time_of_the_server_does_not_count() {
        let clock = ManualClock::at_unix_secs(0);
        let second = Duration::from_secs(1);
        let activity = Activity::new(Arc::new(clock.clone()));
        assert_eq!(
            activity.phase(),
            Phase::Handshake {
                since: Duration::ZERO
            }
        );
        clock.advance(second);
        activity.handshake_done();
        assert_eq!(activity.phase(), Phase::Idle { since: second });
        clock.advance(second);
        let request = activity.begin();
        clock.advance(second * 100);
        assert_eq!(activity.phase(), Phase::Working);
        request.waits_for_client();
        let since = second * 102;
        assert_eq!(activity.phase(), Phase::Waiting { since });
        for _ in 0..1_023 {
            clock.advance(second);
            request.waits_for_server();
            request.transferred(1);
            request.waits_for_client();
        }
        assert_eq!(activity.phase(), Phase::Waiting { since });
        request.transferred(1);
        let since = since + second * 1_023;
        assert_eq!(activity.phase(), Phase::Waiting { since });
        clock.advance(second);
        drop(request);
        let since = since + second;
        assert_eq!(activity.phase(), Phase::Idle { since });
    }
}
