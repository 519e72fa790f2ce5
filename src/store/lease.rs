//! The lease of a bucket: one instance at a time writes there.
//!
//! One key, [`layout::own_key`]`("lease")`, is swapped by conditional writes, and never deleted: a request that arrives late must
//! not remove a successor's (it is given up by swapping in a released record). Its record carries the holder's run and a number
//! that grows, so that no two are equal. Nobody compares clocks of two machines: another instance takes a lease only after it has
//! seen the same record for [`DURATION`], and the holder counts from before it sent its last renewal, and stops after
//! [`WRITES_FOR`]. A restart of the same state directory, whose lock is held by then, need not wait. Must not know what is stored.
//! Invariants: a holder that cannot renew refuses writes before another instance can hold; the record is changed by nothing but
//! [`Condition::Absent`] and [`Condition::Match`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::faulty::{Hook, Operation};
use super::{Condition, ObjectStore, Small, Step, StoreError, Version};
use crate::clock::Clock;
use crate::heartbeat::Heartbeat;
use crate::layout::{self, Key};

/// How long the same record must be seen before another instance may take its place.
pub const DURATION: Duration = Duration::from_mins(1);

/// How long the holder may write after it sent a renewal. The rest of [`DURATION`] is longer than the longest attempt of a small
/// request (25 s), so that a write that was begun has ended before another instance can hold.
pub const WRITES_FOR: Duration = Duration::from_secs(30);

/// How often it is renewed: a renewal may fail twice before the holder has to stop.
pub const RENEW: Duration = Duration::from_secs(10);

/// How often a record of another instance is looked at, to see whether it is renewed.
const WATCH: Duration = Duration::from_secs(4);

/// A record is shorter.
const RECORD_BYTES_MAX: u64 = 16 * 1024;

/// How often a swap is tried while others swap as well.
const SWAPS_MAX: usize = 8;

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Made once for a state directory.
    pub instance: String,
    /// The name of the machine.
    pub host: String,
    /// Where it listens.
    pub address: String,
    /// When it took the lease (RFC 3339, UTC), by its clock.
    pub since: String,
}

impl Holder {
    /// Whether `other` is an earlier run of the same installation. A copy of its state directory on another machine is not.
    fn is_same_place(&self, other: &Self) -> bool {
        self.instance == other.instance && self.host == other.host
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            address,
            since,
            ..
        } = self;
        write!(out, "the instance on {host} ({address}) since {since}")
    }
}

/// What is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    holder: Holder,
    /// Random, made once for a run of the program.
    run: String,
    /// Grows with each renewal.
    number: u64,
    is_released: bool,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another instance renews it.
    #[error("the bucket is in use by {0}")]
    Held(Box<Holder>),
    /// Another instance renews a record that this version cannot read.
    #[error("the bucket is in use by an instance of another version")]
    HeldByUnknown,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A lease that is held.
pub struct Lease {
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    holder: Holder,
    run: String,
    state: Mutex<State>,
    heartbeat: Arc<Heartbeat>,
}

struct State {
    /// Of our record; `None` if it was removed by somebody.
    version: Option<Version>,
    number: u64,
    /// Until when writes are allowed, by the clock that counts time passed.
    until: Duration,
    /// The same by wall time, which goes on while the machine sleeps.
    until_wall: SystemTime,
    /// Another instance has taken it.
    is_lost: bool,
}

/// What is at the key.
enum Found {
    Nothing,
    /// `None`: a record that cannot be read.
    Record(Option<Box<Record>>, Version),
}

impl Lease {
    /// Takes the lease for `holder`, whose state directory must be locked. `run` is random. Waits for a lease that is not renewed
    /// to run out; `tell` is called once with its holder before such a wait.
    pub async fn take(
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        holder: Holder,
        run: String,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Self, LeaseError> {
        let lease = Self {
            heartbeat: Heartbeat::new("the renewal of the bucket's lease", Arc::clone(&clock)),
            state: Mutex::new(State {
                version: None,
                number: 0,
                until: Duration::ZERO,
                until_wall: SystemTime::UNIX_EPOCH,
                is_lost: false,
            }),
            store,
            clock,
            holder,
            run,
        };
        let mut other = LeaseError::HeldByUnknown;
        let mut has_waited = false;
        for _ in 0..SWAPS_MAX {
            let condition = match lease.find().await? {
                Found::Nothing => Condition::Absent,
                Found::Record(record, version) => {
                    let is_free = record.as_ref().is_some_and(|record| {
                        record.is_released || record.holder.is_same_place(&lease.holder)
                    });
                    other = match record {
                        Some(record) => LeaseError::Held(Box::new(record.holder)),
                        None => LeaseError::HeldByUnknown,
                    };
                    if !is_free && has_waited {
                        return Err(other);
                    }
                    if !is_free {
                        has_waited = true;
                        tell(&other.to_string());
                        if !lease.runs_out(&version).await? {
                            // Renewed, or taken by a third one: whoever it is, it is there.
                            continue;
                        }
                    }
                    Condition::Match(version)
                }
            };
            if lease.swap(condition).await? {
                return Ok(lease);
            }
        }
        Err(other)
    }

    /// Whether the record stays at `version` for [`DURATION`] from now on.
    async fn runs_out(&self, version: &Version) -> Result<bool, StoreError> {
        let seen = self.clock.elapsed();
        loop {
            self.clock.sleep(WATCH).await;
            match self.find().await? {
                Found::Record(_, found) if found == *version => {}
                Found::Record(..) | Found::Nothing => return Ok(false),
            }
            if self.clock.elapsed().saturating_sub(seen) >= DURATION {
                return Ok(true);
            }
        }
    }

    async fn find(&self) -> Result<Found, StoreError> {
        let read = self.store.read_each(&[key()], RECORD_BYTES_MAX).await?;
        Ok(match read.into_iter().next() {
            Some(Small::Whole(meta, bytes)) => {
                Found::Record(serde_json::from_slice(&bytes).ok(), meta.version)
            }
            Some(Small::TooLarge(meta)) => Found::Record(None, meta.version),
            Some(Small::Absent) | None => Found::Nothing,
        })
    }

    /// Puts the next record of ours, then reads what is there: an answer that was lost looks like a refusal. Returns whether the
    /// record is ours now.
    async fn swap(&self, condition: Condition) -> Result<bool, StoreError> {
        let (sent, sent_wall) = (self.clock.elapsed(), self.clock.now());
        let number = {
            let mut state = self.state();
            state.number += 1;
            state.number
        };
        let put = self.put(condition, number, false).await;
        match self.find().await {
            Ok(Found::Record(Some(record), version)) if record.run == self.run => {
                let mut state = self.state();
                state.version = Some(version);
                // An older record of ours, whose renewal was in time, but not now.
                if record.number == number {
                    state.until = sent + WRITES_FOR;
                    state.until_wall = sent_wall + WRITES_FOR;
                }
                Ok(true)
            }
            Ok(Found::Record(..)) => Ok(false),
            Ok(Found::Nothing) => {
                self.state().version = None;
                put.map(|()| false)
            }
            Err(error) => Err(put.err().unwrap_or(error)),
        }
    }

    async fn put(
        &self,
        condition: Condition,
        number: u64,
        is_released: bool,
    ) -> Result<(), StoreError> {
        let record = Record {
            holder: self.holder.clone(),
            run: self.run.clone(),
            number,
            is_released,
        };
        let bytes = serde_json::to_vec(&record);
        let bytes = bytes.map_err(|error| StoreError::from_io("write the lease", error.into()))?;
        let step = Step::Put {
            key: key(),
            bytes: bytes.into(),
            condition,
        };
        self.store.apply(vec![step]).await
    }

    /// Renews once. Returns whether it is still ours.
    pub async fn renew(&self) -> bool {
        let version = self.state().version.clone();
        let condition = version.map_or(Condition::Absent, Condition::Match);
        match self.swap(condition).await {
            Ok(true) => true,
            // It was removed; the next renewal makes it again.
            Ok(false) if self.state().version.is_none() => true,
            Ok(false) => {
                self.state().is_lost = true;
                let holder = match self.find().await {
                    Ok(Found::Record(Some(record), _)) => record.holder.to_string(),
                    _ => "an unknown instance".to_owned(),
                };
                tracing::error!(
                    %holder,
                    "another instance has taken the bucket: this one writes nothing any more; hint: stop one of the two, and restart this one if it is to go on"
                );
                false
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot renew the bucket's lease; pushes are refused if this goes on"
                );
                true
            }
        }
    }

    /// Renews for as long as the instance runs.
    pub async fn keep(&self) {
        let _beating = self.heartbeat.begin();
        loop {
            self.heartbeat.rest_for(RENEW);
            self.clock.sleep(RENEW).await;
            self.heartbeat.beat_before(DURATION);
            if !self.renew().await {
                // Nothing is left to do; the instance serves pulls.
                self.heartbeat.rest();
                std::future::pending::<()>().await;
            }
        }
    }

    /// Of [`Lease::keep`].
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
    }

    /// Whether writes are allowed now.
    pub fn is_held(&self) -> bool {
        let state = self.state();
        !state.is_lost && self.clock.elapsed() < state.until && self.clock.now() < state.until_wall
    }

    /// Gives the lease up, so that another instance need not wait. To be called when nothing writes any more.
    pub async fn release(&self) {
        let number = {
            let mut state = self.state();
            state.until = Duration::ZERO;
            state.number += 1;
            state.number
        };
        // A renewal may have been cut short after it was stored: what is there counts.
        let released = match self.find().await {
            Ok(Found::Record(Some(record), version)) if record.run == self.run => {
                self.put(Condition::Match(version), number, true).await
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            tracing::debug!(%error, "the bucket's lease is not given up; it runs out by itself");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In front of a store, the lease refuses what writes while it is not held.
#[async_trait]
impl Hook for Lease {
    async fn before(&self, operation: Operation) -> Result<(), StoreError> {
        match operation {
            Operation::Apply | Operation::OpenUpload | Operation::Finish => {
                if self.is_held() {
                    Ok(())
                } else {
                    Err(StoreError::Busy { retry_after: RENEW })
                }
            }
            Operation::Read
            | Operation::Head
            | Operation::HeadEach
            | Operation::ReadEach
            | Operation::List
            | Operation::Fingerprint
            // What a session receives is on this machine until it is finished.
            | Operation::ResumeUpload
            | Operation::Append
            | Operation::Persist
            | Operation::Digest
            | Operation::Abort => Ok(()),
        }
    }
}

fn key() -> Key {
    layout::own_key("lease")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::clock::{ManualClock, Sleep};
    use crate::store::bucket_like::BucketLike;
    use crate::store::faulty::HookedStore;
    use crate::store::memory::MemoryStore;

    fn holder(instance: &str) -> Holder {
        Holder {
            instance: instance.to_owned(),
            host: format!("host-of-{instance}"),
            address: ":5000".to_owned(),
            since: "2026-11-27T17:00:00Z".to_owned(),
        }
    }

    fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::at_unix_secs(1_800_000_000))
    }

    fn stores() -> Vec<Arc<dyn ObjectStore>> {
        vec![
            Arc::new(MemoryStore::new(clock())),
            Arc::new(BucketLike::new(7)),
        ]
    }

    async fn taken(
        store: &Arc<dyn ObjectStore>,
        clock: &Arc<ManualClock>,
        instance: &str,
        run: &str,
    ) -> Result<Lease, LeaseError> {
        let shared: Arc<dyn Clock> = clock.clone();
        let taking = Lease::take(
            Arc::clone(store),
            shared,
            holder(instance),
            run.to_owned(),
            &|_| (),
        );
        tokio::pin!(taking);
        // Time passes for one who waits.
        loop {
            tokio::select! {
                biased;
                result = &mut taking => return result,
                () = tokio::time::sleep(Duration::from_millis(1)) => clock.advance(WATCH),
            }
        }
    }

    #[tokio::test]
    async fn a_second_instance_is_told_who_holds_it_and_since_when() {
        for store in stores() {
            let clock = clock();
            let first = Arc::new(taken(&store, &clock, "one", "a").await.unwrap());
            assert!(first.is_held());
            let renewing = Arc::clone(&first);
            let renewal = tokio::spawn(async move { renewing.keep().await });
            let refused = taken(&store, &clock, "two", "b")
                .await
                .err()
                .unwrap()
                .to_string();
            let expected =
                "in use by the instance on host-of-one (:5000) since 2026-11-27T17:00:00Z";
            assert!(refused.contains(expected), "{refused}");
            renewal.abort();
            first.release().await;
            assert!(!first.is_held());
            let before = clock.elapsed();
            assert!(taken(&store, &clock, "two", "b").await.unwrap().is_held());
            assert_eq!(clock.elapsed(), before, "a released lease is free at once");
        }
    }

    #[tokio::test]
    async fn a_restart_of_the_same_installation_does_not_wait() {
        for store in stores() {
            let clock = clock();
            let killed = taken(&store, &clock, "one", "a").await.unwrap();
            let before = clock.elapsed();
            let next = taken(&store, &clock, "one", "b").await.unwrap();
            assert_eq!(clock.elapsed(), before);
            // The killed one was not killed, but its lock was lost.
            assert!(!killed.renew().await);
            assert!(!killed.is_held() && next.is_held());
        }
    }

    #[tokio::test]
    async fn a_holder_that_cannot_renew_stops_before_another_can_hold() {
        for store in stores() {
            let clock = clock();
            let first = Arc::new(taken(&store, &clock, "one", "a").await.unwrap());
            let began = clock.elapsed();
            let guarded = HookedStore {
                inner: Arc::clone(&store),
                hook: Arc::clone(&first),
            };
            let put = || guarded.apply(vec![Step::put(layout::own_key("probe"), "x")]);
            put().await.unwrap();
            clock.advance(WRITES_FOR);
            let refused = put().await;
            assert!(
                matches!(refused, Err(StoreError::Busy { .. })),
                "a write without a lease"
            );
            assert!(
                guarded
                    .read_each(&[layout::own_key("probe")], 9)
                    .await
                    .is_ok()
            );
            // Nobody has taken it: the holder goes on as soon as it can renew.
            assert!(first.renew().await && first.is_held());
            let stopped = clock.elapsed() + WRITES_FOR;
            let second = taken(&store, &clock, "two", "b").await.unwrap();
            let held_from = clock.elapsed();
            assert!(
                held_from >= stopped + WRITES_FOR,
                "{began:?} {stopped:?} {held_from:?}"
            );
            assert!(second.is_held() && !first.is_held());
            assert!(!first.renew().await, "it has been taken");
            assert!(!first.is_held());
            put().await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn of_two_that_wait_one_gets_it_also_where_answers_are_lost() {
        for seed in 0..40 {
            let bucket = BucketLike::new(seed);
            let store: Arc<dyn ObjectStore> = Arc::new(bucket.clone());
            let clock = clock();
            drop(taken(&store, &clock, "dead", "z").await.unwrap());
            bucket.be_busy(5);
            let (one, two) = tokio::join!(
                taken(&store, &clock, "one", "a"),
                taken(&store, &clock, "two", "b")
            );
            let held = [&one, &two].map(|taken| taken.as_ref().is_ok_and(Lease::is_held));
            assert!(held != [true, true], "both hold it, seed {seed}");
        }
    }

    #[tokio::test]
    async fn a_record_that_was_removed_is_made_again() {
        let bucket = BucketLike::new(3);
        let store: Arc<dyn ObjectStore> = Arc::new(bucket.clone());
        let clock = clock();
        let lease = taken(&store, &clock, "one", "a").await.unwrap();
        assert!(bucket.remove_by_another_program(|key| key.ends_with("lease")));
        assert!(lease.renew().await && lease.renew().await);
        assert!(lease.is_held());
        assert!(bucket.content("boathouse/lease").is_some());
    }

    #[tokio::test]
    async fn a_machine_that_has_slept_writes_nothing() {
        /// Elapsed time does not count the sleep.
        struct Slept(ManualClock, Arc<AtomicBool>);
        impl Clock for Slept {
            fn now(&self) -> SystemTime {
                let slept = u64::from(self.1.load(Ordering::Relaxed));
                self.0.now() + Duration::from_secs(3_600 * slept)
            }
            fn elapsed(&self) -> Duration {
                self.0.elapsed()
            }
            fn sleep(&self, duration: Duration) -> Sleep {
                self.0.sleep(duration)
            }
        }
        let slept = Arc::new(AtomicBool::default());
        let clock = Slept(ManualClock::at_unix_secs(1_800_000_000), Arc::clone(&slept));
        let store: Arc<dyn ObjectStore> = Arc::new(BucketLike::new(1));
        let taking = Lease::take(
            store,
            Arc::new(clock),
            holder("one"),
            "a".to_owned(),
            &|_| (),
        );
        let lease = taking.await.unwrap();
        assert!(lease.is_held());
        slept.store(true, Ordering::Relaxed);
        assert!(!lease.is_held(), "wall time has gone on");
    }
}
