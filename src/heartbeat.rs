//! Whether the loops of the program, and work that many tasks do, make progress.
//!
//! Must not know what the work is. Invariants: a loop with nothing to do never counts as stalled; a loop that has ended,
//! also by a panic, counts as ended from then on.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// The time without progress after which waiting work counts as stalled, not slow. One step of progress is as small as one
/// sync of one file or directory. The slowest normal one is a sync behind the dirty pages of a whole machine: 3 GB on a
/// disk that writes 50 MB/s. It is half of the stall limit of a client, so monitoring sees it before clients are lost.
pub const STILL_AFTER: Duration = Duration::from_mins(1);

/// The time without progress after which work is reported as slow: a hundred times what a sync takes on a busy disk.
pub const SLOW_AFTER: Duration = Duration::from_secs(5);

/// The progress of one loop, or of one kind of work.
pub struct Heartbeat {
    name: &'static str,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Pieces of work in progress; at most one for a loop.
    under_way: usize,
    /// The time of the last progress.
    moved: Duration,
    /// The time that the current step may take, if it is not [`STILL_AFTER`].
    step_time: Option<Duration>,
    /// When a resting loop continues by itself.
    due: Option<Duration>,
    /// A loop has begun.
    has_begun: bool,
    has_ended: bool,
}

/// The state of the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulse {
    /// It makes progress, or there is nothing to do.
    Well,
    /// No progress for a while. The disk may be slow.
    Slow(Standing),
    /// It has stalled or ended.
    Still(Standing),
}

/// Work without progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub name: &'static str,
    /// Seconds since the last progress.
    pub secs: u64,
    /// A loop has ended. It starts again only with the program.
    pub has_ended: bool,
}

impl fmt::Display for Standing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, secs, .. } = self;
        if self.has_ended {
            write!(formatter, "{name} has ended, {secs} s ago")
        } else {
            write!(formatter, "{name} has made no progress for {secs} s")
        }
    }
}

impl Heartbeat {
    /// `name` begins with its article. No work is in progress.
    pub fn new(name: &'static str, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            name,
            clock,
            state: Mutex::default(),
        })
    }

    /// The name, which begins with its article.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A loop begins. It ends when the result is dropped, also by a panic.
    pub fn begin(self: &Arc<Self>) -> Beating {
        let mut state = self.lock();
        state.has_begun = true;
        state.has_ended = false;
        drop(state);
        self.beat();
        Beating(Arc::clone(self))
    }

    /// One of many pieces of work begins. It ends when the result is dropped.
    pub fn enter(self: &Arc<Self>) -> UnderWay {
        let now = self.clock.elapsed();
        let mut state = self.lock();
        if state.under_way == 0 {
            state.moved = now;
        }
        state.under_way += 1;
        UnderWay(Arc::clone(self))
    }

    /// Progress of a loop that has begun. Without one it does nothing: the same work may be done without the loop.
    pub fn beat(&self) {
        self.beat_within(None);
    }

    /// Like [`Heartbeat::beat`], before a step that may take up to `step_time`.
    pub fn beat_before(&self, step_time: Duration) {
        self.beat_within(Some(step_time));
    }

    fn beat_within(&self, step_time: Option<Duration>) {
        let now = self.clock.elapsed();
        let mut state = self.lock();
        if !state.has_begun {
            return;
        }
        state.under_way = state.under_way.max(1);
        state.moved = now;
        state.step_time = step_time;
        state.due = None;
    }

    /// A loop has nothing to do until it is woken.
    pub fn rest(&self) {
        let mut state = self.lock();
        state.under_way = 0;
        state.due = None;
    }

    /// A loop has nothing to do for `pause`, and then continues by itself.
    pub fn rest_for(&self, pause: Duration) {
        let due = self.clock.elapsed() + pause;
        let mut state = self.lock();
        state.under_way = 0;
        state.step_time = None;
        state.due = Some(due);
    }

    /// Whether the loop has ended.
    pub fn has_ended(&self) -> bool {
        self.lock().has_ended
    }

    /// The state of the work.
    pub fn pulse(&self) -> Pulse {
        let now = self.clock.elapsed();
        let state = self.lock();
        let since = match state.due {
            _ if state.has_ended || state.under_way > 0 => state.moved,
            Some(due) => due,
            None => return Pulse::Well,
        };
        let stands = now.saturating_sub(since);
        let standing = Standing {
            name: self.name,
            secs: stands.as_secs(),
            has_ended: state.has_ended,
        };
        let slow_after = state.step_time.unwrap_or(SLOW_AFTER);
        if state.has_ended || stands >= state.step_time.unwrap_or(STILL_AFTER) {
            Pulse::Still(standing)
        } else if stands >= slow_after {
            Pulse::Slow(standing)
        } else {
            Pulse::Well
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Heartbeat");
        shown.field("name", &self.name).finish_non_exhaustive()
    }
}

/// A loop that runs.
#[derive(Debug)]
#[must_use = "the loop counts as ended when this is dropped"]
pub struct Beating(Arc<Heartbeat>);

impl Drop for Beating {
    fn drop(&mut self) {
        let now = self.0.clock.elapsed();
        let mut state = self.0.lock();
        state.moved = now;
        state.has_ended = true;
    }
}

/// A piece of work in progress.
#[derive(Debug)]
#[must_use = "the work counts as ended when this is dropped"]
pub struct UnderWay(Arc<Heartbeat>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let now = self.0.clock.elapsed();
        let mut state = self.0.lock();
        state.under_way = state.under_way.saturating_sub(1);
        state.moved = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const SECOND: Duration = Duration::from_secs(1);

    fn heartbeat() -> (ManualClock, Arc<Heartbeat>) {
        let clock = ManualClock::at_unix_secs(0);
        (clock.clone(), Heartbeat::new("the loop", Arc::new(clock)))
    }

    fn standing(secs: u64, has_ended: bool) -> Standing {
        Standing {
            name: "the loop",
            secs,
            has_ended,
        }
    }

    #[test]
    fn who_works_and_does_not_move_is_slow_and_then_stands_still() {
        let (clock, heartbeat) = heartbeat();
        assert_eq!(heartbeat.pulse(), Pulse::Well);
        let _beating = heartbeat.begin();
        clock.advance(SECOND * 4);
        assert_eq!(heartbeat.pulse(), Pulse::Well);
        clock.advance(SECOND);
        assert_eq!(heartbeat.pulse(), Pulse::Slow(standing(5, false)));
        clock.advance(SECOND * 55);
        assert_eq!(heartbeat.pulse(), Pulse::Still(standing(60, false)));
        heartbeat.beat();
        assert_eq!(heartbeat.pulse(), Pulse::Well);
    }

    #[test]
    fn who_rests_does_not_stand_still_but_when_it_is_due() {
        let (clock, heartbeat) = heartbeat();
        let _beating = heartbeat.begin();
        heartbeat.rest();
        clock.advance(STILL_AFTER * 100);
        assert_eq!(heartbeat.pulse(), Pulse::Well);
        heartbeat.rest_for(STILL_AFTER);
        clock.advance(STILL_AFTER + SLOW_AFTER);
        assert_eq!(heartbeat.pulse(), Pulse::Slow(standing(5, false)));
        clock.advance(STILL_AFTER);
        assert_eq!(heartbeat.pulse(), Pulse::Still(standing(65, false)));
    }

    #[test]
    fn a_move_that_takes_long_has_its_own_limit() {
        let (clock, heartbeat) = heartbeat();
        let _beating = heartbeat.begin();
        heartbeat.beat_before(STILL_AFTER * 10);
        clock.advance(STILL_AFTER * 9);
        assert_eq!(heartbeat.pulse(), Pulse::Well);
        clock.advance(STILL_AFTER);
        assert_eq!(heartbeat.pulse(), Pulse::Still(standing(600, false)));
        heartbeat.beat();
        clock.advance(STILL_AFTER);
        assert_eq!(heartbeat.pulse(), Pulse::Still(standing(60, false)));
    }

    #[test]
    fn a_loop_that_has_panicked_shows_at_once() {
        let (clock, heartbeat) = heartbeat();
        let runs = std::thread::spawn({
            let heartbeat = Arc::clone(&heartbeat);
            move || {
                let _beating = heartbeat.begin();
                heartbeat.rest();
                panic!("on purpose");
            }
        });
        assert!(runs.join().is_err());
        clock.advance(SECOND);
        assert!(heartbeat.has_ended());
        assert_eq!(heartbeat.pulse(), Pulse::Still(standing(1, true)));
    }

    #[test]
    fn of_many_pieces_of_work_one_that_ends_is_a_move() {
        let (clock, heartbeat) = heartbeat();
        let (first, second) = (heartbeat.enter(), heartbeat.enter());
        clock.advance(SECOND * 59);
        drop(first);
        clock.advance(SECOND * 6);
        assert_eq!(heartbeat.pulse(), Pulse::Slow(standing(6, false)));
        drop(second);
        clock.advance(STILL_AFTER);
        assert_eq!(heartbeat.pulse(), Pulse::Well);
        // Work that begins after a rest is not late.
        let _third = heartbeat.enter();
        assert_eq!(heartbeat.pulse(), Pulse::Well);
    }
}
