//! What waits for the writer.
//!
//! Must not know the database. Invariant: putting something in never waits; what is dropped is a loss of its repository
//! (`freshness`), and so is what a re-read cannot keep for its end.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::IndexError;
use super::facts::{Fact, Stamp};
use super::freshness::{Found, Freshness, Void};
use super::records::Event;
use crate::oci::{Digest, RepositoryName};

/// How many events may wait: bounds memory (about 200 bytes each), and is minutes of pushes for a writer that does some
/// 10,000 a second.
pub(super) const QUEUED_EVENTS_MAX: usize = 65_536;

/// How many events one group takes: what one transaction is measured to carry well.
const GROUP_EVENTS_MAX: usize = 256;

/// How many events a re-read keeps for its end; more, and the repository must be read once more.
pub(super) const REREAD_EVENTS_MAX: usize = 10_000;

/// How many facts of re-reads may wait, in all; a repository with more waits for an empty queue.
const LOADING_FACTS_MAX: u32 = 100_000;

#[derive(Debug)]
pub(super) enum Item {
    Events {
        name: RepositoryName,
        events: Vec<Event>,
        /// The era of the database that they are about.
        era: u64,
    },
    Content(Vec<Digest>),
    Settle(oneshot::Sender<()>),
}

pub(super) type Answer = oneshot::Sender<Result<(), IndexError>>;

/// Work that is done in turns, between groups.
pub(super) enum Job {
    Replace(Replacement),
    BeginRebuild { total: Option<u64> },
    FinishRebuild { epoch: u64, answer: Answer },
}

pub(super) struct Replacement {
    pub(super) reread: Reread,
    pub(super) facts: Vec<Fact>,
    pub(super) stamp: Option<Stamp>,
    pub(super) answer: Option<Answer>,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Replacement {
    /// Whether there is such a repository.
    pub(super) fn is_known(&self) -> bool {
        !self.facts.is_empty() || self.stamp.is_some()
    }
}

/// What happened to a repository since its re-read began.
pub(super) struct Log {
    pub(super) events: Vec<Event>,
    /// Something is missing in `events`.
    pub(super) has_gaps: bool,
}

pub(super) struct Queue {
    /// Locked after `inner`, never before.
    pub(super) freshness: Freshness,
    inner: Mutex<Inner>,
    wake: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Inner {
    items: VecDeque<Item>,
    queued_events: usize,
    jobs: VecDeque<Job>,
    /// What has happened since each re-read under way began.
    logs: HashMap<u64, (RepositoryName, Vec<Event>)>,
    trouble: Option<IndexError>,
    is_closing: bool,
    dropped_batches: u64,
}

/// What the writer is to do next.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) items: Vec<Item>,
    pub(super) void: Void,
    pub(super) jobs: Vec<Job>,
    pub(super) trouble: Option<IndexError>,
    /// Nothing will come any more.
    pub(super) is_end: bool,
}

/// A repository that is being read again; dropping it gives the re-read up.
pub struct Reread {
    queue: Arc<Queue>,
    number: u64,
    name: RepositoryName,
    is_dangling: bool,
}

impl Reread {
    /// Which repository.
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// A link to a manifest was found that leads nowhere.
    pub fn found_dangling(&mut self) {
        self.is_dangling = true;
    }

    /// What happened since it began.
    pub(super) fn log(&self) -> Log {
        let mut inner = self.queue.lock();
        let log = inner.logs.remove(&self.number);
        let freshness = &self.queue.freshness;
        Log {
            events: log.map(|(_, events)| events).unwrap_or_default(),
            has_gaps: !freshness.is_reading(&self.name, self.number),
        }
    }

    /// What was read is in the database.
    pub(super) fn end(&self, is_known: bool) {
        let found = match (is_known, self.is_dangling) {
            (false, _) => Found::Nothing,
            (true, true) => Found::Dangling,
            (true, false) => Found::Whole,
        };
        let freshness = &self.queue.freshness;
        freshness.end_reading(&self.name, self.number, found);
    }
}

impl Drop for Reread {
    fn drop(&mut self) {
        let freshness = &self.queue.freshness;
        freshness.give_up_reading(&self.name, self.number);
        self.queue.lock().logs.remove(&self.number);
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            freshness: Freshness::default(),
            inner: Mutex::default(),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(LOADING_FACTS_MAX as usize)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, name: &RepositoryName, mut events: Vec<Event>, era: u64) {
        let mut inner = self.lock();
        let fits = !inner.is_closing && inner.queued_events + events.len() <= QUEUED_EVENTS_MAX;
        let mut is_lost = !fits;
        if self.freshness.is_in_doubt(name) {
            // It would vouch for what is missing.
            events.retain(|event| !is_stamp(event));
        }
        for (_, log) in inner.logs.values_mut().filter(|(of, _)| of == name) {
            if log.len() + events.len() <= REREAD_EVENTS_MAX {
                log.extend(events.iter().cloned());
            } else {
                is_lost = true;
            }
        }
        if is_lost {
            self.freshness.lost_something(name);
        }
        if !fits {
            inner.dropped_batches += 1;
            return;
        }
        inner.queued_events += events.len();
        let name = name.clone();
        inner.items.push_back(Item::Events { name, events, era });
        drop(inner);
        self.wake.notify_one();
    }

    pub(super) fn forget_content(&self, digests: Vec<Digest>) {
        let mut inner = self.lock();
        if inner.is_closing || inner.queued_events + digests.len() > QUEUED_EVENTS_MAX {
            inner.dropped_batches += 1;
            return;
        }
        inner.queued_events += digests.len();
        inner.items.push_back(Item::Content(digests));
        drop(inner);
        self.wake.notify_one();
    }

    /// Resolves, or is cancelled, when all that was put in before has been dealt with.
    pub(super) fn settle(&self) -> oneshot::Receiver<()> {
        let (answer, settled) = oneshot::channel();
        let mut inner = self.lock();
        if !inner.is_closing {
            inner.items.push_back(Item::Settle(answer));
        }
        drop(inner);
        self.wake.notify_one();
        settled
    }

    pub(super) fn reread(self: &Arc<Self>, name: &RepositoryName) -> Reread {
        let mut inner = self.lock();
        let number = self.freshness.begin_reading(name);
        inner.logs.insert(number, (name.clone(), Vec::new()));
        Reread {
            queue: Arc::clone(self),
            number,
            name: name.clone(),
            is_dangling: false,
        }
    }

    /// Waits until a re-read with so many facts may be put in.
    pub(super) async fn room_for(&self, facts: usize) -> Option<OwnedSemaphorePermit> {
        let wanted = u32::try_from(facts).unwrap_or(u32::MAX);
        let wanted = wanted.clamp(1, LOADING_FACTS_MAX);
        // The semaphore is never closed.
        Arc::clone(&self.room).acquire_many_owned(wanted).await.ok()
    }

    /// Puts in a job; gives it back when the index is closed.
    pub(super) fn put(&self, job: Job) -> Result<(), IndexError> {
        let mut inner = self.lock();
        if inner.is_closing {
            // The job goes with the guard released: a re-read that is dropped takes the lock.
            drop(inner);
            drop(job);
            return Err(closed());
        }
        inner.jobs.push_back(job);
        drop(inner);
        self.wake.notify_one();
        Ok(())
    }

    /// A question found the database out of order.
    pub(super) fn report(&self, trouble: IndexError) {
        self.lock().trouble.get_or_insert(trouble);
        self.wake.notify_one();
    }

    /// Events that wait, batches that were dropped, repositories that lost something.
    pub(super) fn figures(&self) -> (u64, u64, u64) {
        let inner = self.lock();
        let queued = inner.queued_events as u64;
        (queued, inner.dropped_batches, self.freshness.lost())
    }

    /// Closes it, and drops what waits; callers that wait for that get an error.
    pub(super) fn abandon(&self) {
        let mut inner = self.lock();
        inner.is_closing = true;
        let items = std::mem::take(&mut inner.items);
        let jobs = std::mem::take(&mut inner.jobs);
        inner.queued_events = 0;
        for item in &items {
            if let Item::Events { name, .. } = item {
                self.freshness.lost_something(name);
            }
        }
        drop(inner);
        // With the guard released: a re-read that is dropped takes the lock.
        drop((items, jobs));
    }

    pub(super) fn close(&self) {
        self.lock().is_closing = true;
        self.wake.notify_one();
    }

    /// The next group and what else is there; waits for something for up to `wait` (`None`: as long as it takes). While the
    /// database is shut (`is_open`), stamps cannot be dropped and are left for later.
    pub(super) fn take(&self, wait: Option<Duration>, is_open: bool) -> Taken {
        let mut inner = self.lock();
        loop {
            let taken = inner.take(&self.freshness, is_open);
            let found = taken.is_end
                || taken.trouble.is_some()
                || !(taken.items.is_empty() && taken.void.is_empty() && taken.jobs.is_empty());
            if found {
                return taken;
            }
            let Some(wait) = wait else {
                let woken = self.wake.wait(inner);
                inner = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if !wait.is_zero() {
                let woken = self.wake.wait_timeout(inner, wait);
                (inner, _) = woken.unwrap_or_else(PoisonError::into_inner);
            }
            return inner.take(&self.freshness, is_open);
        }
    }
}

impl Inner {
    fn take(&mut self, freshness: &Freshness, is_open: bool) -> Taken {
        let mut taken = Taken {
            trouble: self.trouble.take(),
            jobs: self.jobs.drain(..).collect(),
            ..Taken::default()
        };
        if is_open {
            taken.void = freshness.void();
        }
        let mut events_taken = 0;
        while events_taken < GROUP_EVENTS_MAX
            && let Some(mut item) = self.items.pop_front()
        {
            match &mut item {
                Item::Events { name, events, .. } => {
                    events_taken += events.len();
                    self.queued_events = self.queued_events.saturating_sub(events.len());
                    // One that was put in before the loss.
                    if freshness.is_in_doubt(name) {
                        events.retain(|event| !is_stamp(event));
                    }
                }
                Item::Content(digests) => {
                    events_taken += digests.len();
                    self.queued_events = self.queued_events.saturating_sub(digests.len());
                }
                Item::Settle(_) => {}
            }
            taken.items.push(item);
        }
        taken.is_end = self.is_closing && taken.items.is_empty() && taken.jobs.is_empty();
        taken
    }
}

pub(super) fn is_stamp(event: &Event) -> bool {
    matches!(event, Event::Is(Fact::Stamp(_)))
}

pub(super) fn closed() -> IndexError {
    IndexError::Unavailable {
        reason: "it was closed".to_owned(),
    }
}
