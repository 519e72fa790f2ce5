//! Whether a connection moves, whose turn it is, and since when nothing has come of it.
//!
//! Must not know how many others there are. Invariant: a connection works while any of its requests is for us to go on
//! with; it counts as moving by what its requests and answers bring, and never by bytes that belong to no request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// What has to come through before a body counts as having moved: a byte now and then does not keep a place.
const MOVES_BYTES: u64 = 1_024;

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// In its TLS handshake.
    ShakingHands { since: Duration },
    /// Without a request, or without all of its head.
    Idle { since: Duration },
    /// The client's turn: to send more of a body, or to read more of an answer.
    Waiting { since: Duration },
    /// Our turn.
    Working,
}

/// The pulse of a connection.
pub(super) struct Pulse {
    clock: Arc<dyn Clock>,
    beats: Mutex<Beats>,
}

struct Beats {
    is_shaking_hands: bool,
    open: usize,
    ours: usize,
    since: Duration,
    moved_bytes: u64,
}

impl Pulse {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let beats = Mutex::new(Beats {
            is_shaking_hands: true,
            open: 0,
            ours: 0,
            since: clock.elapsed(),
            moved_bytes: 0,
        });
        Arc::new(Self { clock, beats })
    }

    pub(super) fn standing(&self) -> Standing {
        let beats = self.lock();
        let since = beats.since;
        match (beats.open, beats.ours) {
            (0, _) if beats.is_shaking_hands => Standing::ShakingHands { since },
            (0, _) => Standing::Idle { since },
            (_, 0) => Standing::Waiting { since },
            _ => Standing::Working,
        }
    }

    /// From now on it speaks HTTP.
    pub(super) fn speaks(&self) {
        let mut beats = self.lock();
        beats.is_shaking_hands = false;
        beats.since = self.clock.elapsed();
    }

    /// Another request has come.
    pub(super) fn begin(self: &Arc<Self>) -> Turn {
        let now = self.clock.elapsed();
        let mut beats = self.lock();
        beats.open += 1;
        beats.ours += 1;
        beats.since = now;
        Turn {
            pulse: Arc::clone(self),
            ours_since: AtomicU64::new(nanos(now)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Beats> {
        // Numbers that are whole whoever panics.
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose turn it is in one request; ours to begin with. The request ends when this is dropped.
pub(super) struct Turn {
    pulse: Arc<Pulse>,
    /// Since when it is ours, in nanoseconds; [`CLIENTS`] while it is not.
    ours_since: AtomicU64,
}

const CLIENTS: u64 = u64::MAX;

impl Turn {
    /// It is for us to go on.
    pub(super) fn ours(&self) {
        let mut beats = self.pulse.lock();
        if self.ours_since.load(Ordering::Relaxed) == CLIENTS {
            let now = nanos(self.pulse.clock.elapsed());
            self.ours_since.store(now, Ordering::Relaxed);
            beats.ours += 1;
        }
    }

    /// It is for the client to go on. What we took is not held against it.
    pub(super) fn clients(&self) {
        let mut beats = self.pulse.lock();
        let ours_since = self.ours_since.swap(CLIENTS, Ordering::Relaxed);
        if ours_since != CLIENTS {
            let now = self.pulse.clock.elapsed();
            let took = now.saturating_sub(Duration::from_nanos(ours_since));
            beats.ours -= 1;
            beats.since = (beats.since + took).min(now);
        }
    }

    /// The answer begins, and it is for the client to read it.
    pub(super) fn answers(&self) {
        self.clients();
        self.pulse.lock().since = self.pulse.clock.elapsed();
    }

    /// So much has come, or gone.
    pub(super) fn moved(&self, bytes: usize) {
        let mut beats = self.pulse.lock();
        beats.moved_bytes += bytes as u64;
        if beats.moved_bytes >= MOVES_BYTES {
            beats.moved_bytes = 0;
            beats.since = self.pulse.clock.elapsed();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.clients();
        let mut beats = self.pulse.lock();
        beats.open -= 1;
        beats.since = self.pulse.clock.elapsed();
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(CLIENTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_byte_now_and_then_does_not_count_and_our_own_time_is_not_held_against_anybody() {
        let clock = ManualClock::at_unix_secs(0);
        let second = Duration::from_secs(1);
        let pulse = Pulse::new(Arc::new(clock.clone()));
        assert_eq!(
            pulse.standing(),
            Standing::ShakingHands {
                since: Duration::ZERO
            }
        );
        clock.advance(second);
        pulse.speaks();
        assert_eq!(pulse.standing(), Standing::Idle { since: second });
        clock.advance(second);
        let turn = pulse.begin();
        clock.advance(second * 100);
        assert_eq!(pulse.standing(), Standing::Working);
        turn.clients();
        let since = second * 102;
        assert_eq!(pulse.standing(), Standing::Waiting { since });
        for _ in 0..1_023 {
            clock.advance(second);
            turn.ours();
            turn.moved(1);
            turn.clients();
        }
        assert_eq!(pulse.standing(), Standing::Waiting { since });
        turn.moved(1);
        let since = since + second * 1_023;
        assert_eq!(pulse.standing(), Standing::Waiting { since });
        clock.advance(second);
        drop(turn);
        let since = since + second;
        assert_eq!(pulse.standing(), Standing::Idle { since });
    }
}
