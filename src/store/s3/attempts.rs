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
}

impl Patience {
    fn time(self) -> Duration {
        match self {
            Self::Request => Duration::from_secs(25),
            Self::Background => Duration::from_mins(15),
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
const RETRY_AFTER: Duration = Duration::from_secs(5);

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
            is_repeated = true;
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
