//! How often and how long a request to the bucket is tried.
//!
//! The SDK's own retries do not carry a registry: three attempts within 2 s, none after 429, no limit on a silent server, and
//! one quota for the whole process that is empty after some 50 failures. Must not know what is asked. Invariants: every call
//! ends within the time of its [`Patience`]; never more requests are on their way than the settings allow; a call whose answer
//! may have been lost says so ([`Failed::is_repeated`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::trouble::{Kind, Trouble};
use crate::clock::Clock;
use crate::heartbeat::Heartbeat;
use crate::store::StoreError;

/// How long a call may take with all its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A client is waiting for the answer: docker's gives up after 30 s of silence, Tart's after 60 s, and 503 with
    /// `Retry-After` must reach them before.
    Request,
    /// Nobody waits for this one call, and what it sends is safe on this machine: a bucket may be restarted or moved meanwhile.
    Background,
    /// Somebody at a terminal asks whether the bucket will do.
    Check,
}

impl Patience {
    fn time(self) -> Duration {
        match self {
            Self::Request => Duration::from_secs(25),
            Self::Background => Duration::from_mins(15),
            Self::Check => Duration::from_secs(5),
        }
    }
}

/// What one attempt may take whose request and answer are small. A healthy bucket needs milliseconds, a NAS that wakes its
/// disks some seconds; two attempts fit in the time of [`Patience::Request`].
pub(super) const SMALL: Duration = Duration::from_secs(10);

/// What one attempt may take to put an object together from its parts: versitygw writes them all again, Amazon documents
/// minutes.
pub(super) const COMPLETION: Duration = Duration::from_mins(5);

/// The slowest body that counts as moving: 64 parallel uploads over a line of 1 Gbit/s have twice as much each.
const SENT_BYTES_PER_SEC: u64 = 1024 * 1024;

/// The slowest copy by the bucket that counts as moving: a tenth of what a small NAS does.
const COPIED_BYTES_PER_SEC: u64 = 8 * 1024 * 1024;

/// Between the first attempt and the second; it doubles from there.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// The longest pause: a bucket that is back is found soon.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// What clients are asked to wait after a call has ended without success.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What one attempt may take that sends so many bytes.
pub(super) fn sending(size_bytes: u64) -> Duration {
    SMALL + Duration::from_secs(size_bytes / SENT_BYTES_PER_SEC)
}

/// What one attempt may take that lets the bucket copy so many bytes.
pub(super) fn copying(size_bytes: u64) -> Duration {
    SMALL + Duration::from_secs(size_bytes / COPIED_BYTES_PER_SEC)
}

/// The failure of a call.
pub(super) struct Failed {
    pub(super) trouble: Trouble,
    /// An earlier attempt of this call may have had its effect already.
    pub(super) is_repeated: bool,
}

/// Makes attempts; clones share the limit of requests.
#[derive(Clone)]
pub(super) struct Attempts {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) heartbeat: Arc<Heartbeat>,
    pub(super) patience: Patience,
    places: Arc<Semaphore>,
}

impl Attempts {
    pub(super) fn new(clock: Arc<dyn Clock>, requests_at_once: usize) -> Self {
        Self {
            heartbeat: Heartbeat::new("the bucket", Arc::clone(&clock)),
            clock,
            patience: Patience::Request,
            places: Arc::new(Semaphore::new(requests_at_once.max(1))),
        }
    }

    /// Calls `act` until it succeeds, fails for good, or the time is up. One attempt takes `limit` at most.
    pub(super) async fn call<T, F>(
        &self,
        limit: Duration,
        act: impl Fn() -> F + Send + Sync,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Trouble>> + Send,
    {
        let _under_way = self.heartbeat.enter();
        let end = self.clock.elapsed() + self.patience.time();
        let mut pause = PAUSE_FIRST;
        let mut is_repeated = false;
        loop {
            let attempt = async {
                // The limit of one attempt begins when it has its place.
                let place = self.places.acquire().await;
                let late = self.clock.sleep(limit);
                let result = tokio::select! {
                    result = act() => result,
                    () = late => Err(Trouble::silence()),
                };
                drop(place);
                result
            };
            let left = end.saturating_sub(self.clock.elapsed());
            let result = tokio::select! {
                result = attempt => result,
                () = self.clock.sleep(left) => Err(Trouble::silence()),
            };
            let trouble = match result {
                Ok(value) => return Ok(value),
                Err(trouble) => trouble,
            };
            let left = end.saturating_sub(self.clock.elapsed());
            if trouble.kind != Kind::Passing || left <= pause {
                return Err(Failed {
                    trouble,
                    is_repeated,
                });
            }
            tracing::debug!(error = %trouble, "a request to the bucket is tried again");
            is_repeated |= trouble.may_have_happened();
            self.clock.sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Between half of `pause` and all of it, so that many calls which failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0];
    // Without randomness the pause is merely the same for all.
    let _ = getrandom::fill(&mut random);
    pause / 2 + pause / 2 * u32::from(random[0]) / u32::from(u8::MAX)
}

impl Failed {
    /// The error of the seam for a call that was `doing` this. What may pass is logged here, since [`StoreError::Busy`] carries
    /// no cause.
    pub(super) fn into_store_error(self, doing: impl FnOnce() -> String) -> StoreError {
        match self.trouble.kind {
            Kind::Absent => StoreError::NotFound,
            Kind::ConditionFailed => StoreError::Conflict,
            Kind::Full => StoreError::Full,
            Kind::Passing => {
                tracing::warn!(error = %self.trouble, "cannot {}; clients are asked to come back", doing());
                StoreError::Busy {
                    retry_after: RETRY_AFTER,
                }
            }
            Kind::OutOfRange | Kind::Lasting => StoreError::Io {
                doing: doing(),
                source: std::io::Error::other(self.trouble),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::clock::ManualClock;

    fn attempts(requests_at_once: usize) -> (ManualClock, Attempts) {
        let clock = ManualClock::at_unix_secs(1_800_000_000);
        (
            clock.clone(),
            Attempts::new(Arc::new(clock), requests_at_once),
        )
    }

    /// Moves the clock in steps of 50 ms until `call` ends; returns its result, and how much time has passed.
    async fn timed<T: Send + 'static>(
        clock: &ManualClock,
        call: impl Future<Output = T> + Send + 'static,
    ) -> (T, Duration) {
        let began = clock.elapsed();
        let call = tokio::spawn(call);
        while !call.is_finished() {
            clock.advance(Duration::from_millis(50));
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
        (call.await.unwrap(), clock.elapsed().saturating_sub(began))
    }

    #[tokio::test]
    async fn a_silent_bucket_holds_a_client_for_less_than_30_s() {
        let (clock, attempts) = attempts(4);
        for (patience, limit) in [(Patience::Request, 30), (Patience::Check, 6)] {
            let mut attempts = attempts.clone();
            attempts.patience = patience;
            let silent = async move {
                let never = || std::future::pending::<Result<(), Trouble>>();
                attempts.call(sending(64 * 1024 * 1024), never).await
            };
            let (result, took) = timed(&clock, silent).await;
            let failed = result.err().unwrap();
            assert!(took < Duration::from_secs(limit), "{took:?}");
            let error = failed.into_store_error(|| "read".to_owned());
            assert!(matches!(error, StoreError::Busy { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_bucket_that_is_back_after_a_minute_has_lost_no_background_call() {
        let (clock, mut attempts) = attempts(4);
        attempts.patience = Patience::Background;
        let back = clock.elapsed() + Duration::from_mins(1);
        let call = {
            let clock = clock.clone();
            async move {
                let act = || async {
                    if clock.elapsed() < back {
                        return Err(Trouble::answered(503, Some("SlowDown")));
                    }
                    Ok(7)
                };
                attempts.call(SMALL, act).await
            }
        };
        let (result, took) = timed(&clock, call).await;
        assert_eq!(result.ok(), Some(7));
        assert!(took < Duration::from_secs(64), "{took:?}");
    }

    #[tokio::test]
    async fn what_lasts_is_tried_once_and_what_passes_again() {
        let (clock, attempts) = attempts(4);
        for (status, code, expected) in [
            (403, Some("AccessDenied"), 1),
            (404, Some("NoSuchKey"), 1),
            (412, None, 1),
            (429, None, 3),
            (503, Some("SlowDown"), 3),
        ] {
            let attempts = attempts.clone();
            let call = async move {
                let count = AtomicUsize::new(0);
                let act = || async {
                    if count.fetch_add(1, Ordering::Relaxed) == 2 {
                        return Ok(());
                    }
                    Err(Trouble::answered(status, code))
                };
                let result = attempts.call(SMALL, act).await;
                (
                    result.err().map(|failed| failed.is_repeated),
                    count.into_inner(),
                )
            };
            let ((failed, count), _) = timed(&clock, call).await;
            assert_eq!(count, expected, "{status}");
            assert_eq!(failed, (expected == 1).then_some(false), "{status}");
        }
    }

    #[tokio::test]
    async fn a_lost_answer_makes_the_next_refusal_doubtful() {
        let (clock, attempts) = attempts(4);
        let call = async move {
            let count = AtomicUsize::new(0);
            let act = || async {
                match count.fetch_add(1, Ordering::Relaxed) {
                    0 => Err(Trouble::silence()),
                    _ => Err::<(), _>(Trouble::answered(412, None)),
                }
            };
            attempts.call(SMALL, act).await
        };
        let (result, _) = timed(&clock, call).await;
        let failed = result.err().unwrap();
        assert!(failed.is_repeated);
        assert_eq!(failed.trouble.kind, Kind::ConditionFailed);
    }

    #[tokio::test]
    async fn no_more_requests_are_on_their_way_than_allowed() {
        let (_, attempts) = attempts(3);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let act = || async {
            let under_way = now.fetch_add(1, Ordering::Relaxed) + 1;
            most.fetch_max(under_way, Ordering::Relaxed);
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            now.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        };
        let calls = (0..20).map(|_| attempts.call(SMALL, act));
        let results = futures_util::future::join_all(calls).await;
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(most.into_inner(), 3);
    }
}
