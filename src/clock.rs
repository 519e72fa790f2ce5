//! Time as a parameter.
//!
//! No other code reads the system's clock or sleeps, so tests control the time. Must not know the callers. Invariant:
//! [`Clock::elapsed`] never decreases; [`Clock::now`] may, as wall clocks do.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Resolves when its time on a clock has passed.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The source of wall time, elapsed time and pauses.
pub trait Clock: Send + Sync {
    /// Wall time, for people and other machines: token lifetimes, certificates, `startedat`.
    fn now(&self) -> SystemTime;

    /// Time since a fixed moment, for limits and delays; never decreases.
    fn elapsed(&self) -> Duration;

    /// Resolves once `duration` has passed on this clock.
    fn sleep(&self, duration: Duration) -> Sleep;

    /// Wall time in whole seconds since 1970 (0 for a clock set before that).
    fn unix_secs(&self) -> u64 {
        self.now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }
}

/// The beginning of the year of this source: the date of builds that do not set one.
const SOURCE_UNIX_SECS: u64 = 1_767_225_600;

/// A moment before which this program did not exist: `SOURCE_DATE_EPOCH` of the build, which makes builds reproducible, but
/// not before `SOURCE_UNIX_SECS` (some builders set it to 0 or 1).
pub const BUILT_UNIX_SECS: u64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => later(decimal(text.as_bytes()), SOURCE_UNIX_SECS),
    None => SOURCE_UNIX_SECS,
};

/// The clock is wrong. A machine without a battery for its clock starts in 1970, or on the day of its firmware, until the
/// network sets the time. Such a clock must not date anything that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the clock of this machine is wrong: it is before the day on which this program was built\nhint: set the clock (for example `timedatectl set-ntp true`), check with `date`, and start again"
)]
pub struct ClockIsBehind;

/// Returns an error for a moment before the build.
pub fn check_is_set(now_unix_secs: u64) -> Result<(), ClockIsBehind> {
    if now_unix_secs < BUILT_UNIX_SECS {
        return Err(ClockIsBehind);
    }
    Ok(())
}

/// The number in the text; 0 if it contains anything but digits.
const fn decimal(mut text: &[u8]) -> u64 {
    let mut number: u64 = 0;
    while let [digit, rest @ ..] = text {
        if !digit.is_ascii_digit() {
            return 0;
        }
        // Lossless; `u64::from` is not available in constants.
        number = number
            .saturating_mul(10)
            .saturating_add((*digit - b'0') as u64);
        text = rest;
    }
    number
}

const fn later(one: u64, other: u64) -> u64 {
    if one > other { one } else { other }
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// The clock of a running program.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the machine's clock"
    )]
    pub fn new() -> Self {
        Self {
            start: std::time::Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the machine's clock"
    )]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that changes only when it is told to; for tests, here and in programs that embed the registry.
#[derive(Debug, Clone)]
pub struct ManualClock {
    state: Arc<Mutex<ManualState>>,
    moved: Arc<tokio::sync::Notify>,
}

#[derive(Debug)]
struct ManualState {
    now: SystemTime,
    elapsed: Duration,
}

impl ManualClock {
    /// A clock at `unix_secs` after 1970.
    pub fn at_unix_secs(unix_secs: u64) -> Self {
        let state = ManualState {
            now: UNIX_EPOCH + Duration::from_secs(unix_secs),
            elapsed: Duration::ZERO,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            moved: Arc::new(tokio::sync::Notify::new()),
        }
    }

    /// Advances wall time and elapsed time, and wakes the sleepers whose time has come.
    pub fn advance(&self, duration: Duration) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.now += duration;
            state.elapsed += duration;
        }
        self.moved.notify_waiters();
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .now
    }

    fn elapsed(&self) -> Duration {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let clock = self.clone();
        let end = clock.elapsed() + duration;
        Box::pin(async move {
            loop {
                // Registered before the time is read, so that a change between the two is not missed.
                let moved = clock.moved.notified();
                tokio::pin!(moved);
                moved.as_mut().enable();
                if clock.elapsed() >= end {
                    return;
                }
                moved.await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_the_build_is_not_set() {
        assert_eq!(check_is_set(86_400), Err(ClockIsBehind));
        assert_eq!(check_is_set(BUILT_UNIX_SECS - 1), Err(ClockIsBehind));
        assert_eq!(check_is_set(BUILT_UNIX_SECS), Ok(()));
        assert!(
            BUILT_UNIX_SECS <= SystemClock::new().unix_secs(),
            "built in the future"
        );
        assert_eq!(
            (decimal(b"1767225601"), decimal(b"1a"), decimal(b"")),
            (1_767_225_601, 0, 0)
        );
    }

    #[tokio::test]
    async fn a_manual_sleep_ends_exactly_when_its_time_has_come() {
        let clock = ManualClock::at_unix_secs(1_000);
        let sleep = tokio::spawn(clock.sleep(Duration::from_secs(10)));
        clock.advance(Duration::from_secs(9));
        tokio::task::yield_now().await;
        assert!(!sleep.is_finished());
        clock.advance(Duration::from_secs(1));
        sleep.await.expect("the sleeper ends");
        assert_eq!(clock.unix_secs(), 1_010);
    }
}
