//! What waits for the writer, and which repositories lost something on the way.
//!
//! Must not know the database. Invariant: putting something in never waits; whatever is dropped leaves its repository
//! unread, and a repository stays unread until a re-read that began after the last drop has been carried out.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::IndexError;
use super::facts::{Fact, Stamp};
use super::records::Event;
use crate::oci::{Digest, RepositoryName};

/// How many events may wait: bounds memory (about 200 bytes each), and is minutes of pushes for a writer that does some
/// 10,000 a second.
pub(super) const QUEUED_EVENTS_MAX: usize = 65_536;

/// How many events one group takes: what one transaction is measured to carry well.
const GROUP_EVENTS_MAX: usize = 256;

/// How many events a re-read keeps for its end; more, and the repository must be read once more.
const REREAD_EVENTS_MAX: usize = 10_000;

/// How many facts of re-reads may wait, in all; a repository with more waits for an empty queue.
const LOADING_FACTS_MAX: u32 = 100_000;

#[derive(Debug)]
pub(super) enum Item {
    Events(RepositoryName, Vec<Event>),
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

/// What happened to a repository since its re-read began.
#[derive(Default)]
pub(super) struct Log {
    pub(super) events: Vec<Event>,
    /// Something is missing in `events`.
    pub(super) has_gaps: bool,
}

pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Inner {
    items: VecDeque<Item>,
    queued_events: usize,
    jobs: VecDeque<Job>,
    unread: BTreeSet<RepositoryName>,
    /// Those of `unread` whose stamp is to be dropped.
    unstamped: BTreeSet<RepositoryName>,
    logs: HashMap<u64, (RepositoryName, Log)>,
    next_log: u64,
    trouble: Option<IndexError>,
    is_closing: bool,
    dropped_batches: u64,
}

/// What the writer is to do next.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) items: Vec<Item>,
    pub(super) unstamped: Vec<RepositoryName>,
    pub(super) jobs: Vec<Job>,
    pub(super) trouble: Option<IndexError>,
    /// Nothing will come any more.
    pub(super) is_end: bool,
}

/// A repository that is being read again; dropping it gives the re-read up.
pub struct Reread {
    queue: Arc<Queue>,
    id: u64,
    name: RepositoryName,
}

impl Reread {
    /// Which repository.
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// Ends it: what happened since it began. The repository is read from now on, unless something was dropped meanwhile.
    pub(super) fn end(&self) -> Log {
        let mut inner = self.queue.lock();
        let log = inner.logs.remove(&self.id);
        let log = log.map(|(_, log)| log).unwrap_or_default();
        if !log.has_gaps {
            inner.unread.remove(&self.name);
            inner.unstamped.remove(&self.name);
        }
        log
    }
}

impl Drop for Reread {
    fn drop(&mut self) {
        self.queue.lock().logs.remove(&self.id);
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(LOADING_FACTS_MAX as usize)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, name: &RepositoryName, mut events: Vec<Event>) {
        let mut inner = self.lock();
        let fits = !inner.is_closing && inner.queued_events + events.len() <= QUEUED_EVENTS_MAX;
        for (_, log) in inner.logs.values_mut().filter(|(of, _)| of == name) {
            log.has_gaps |= !fits || log.events.len() + events.len() > REREAD_EVENTS_MAX;
            if !log.has_gaps {
                log.events.extend(events.iter().cloned());
            }
        }
        if !fits {
            inner.dropped_batches += 1;
            inner.mark_unread(name);
            return;
        }
        if inner.unread.contains(name) {
            // It would vouch for what was dropped.
            events.retain(|event| !is_stamp(event));
        }
        inner.queued_events += events.len();
        inner.items.push_back(Item::Events(name.clone(), events));
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
        let id = inner.next_log;
        inner.next_log += 1;
        inner.logs.insert(id, (name.clone(), Log::default()));
        Reread {
            queue: Arc::clone(self),
            id,
            name: name.clone(),
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

    pub(super) fn mark_unread(&self, name: &RepositoryName) {
        self.lock().mark_unread(name);
    }

    pub(super) fn is_unread(&self, name: &RepositoryName) -> bool {
        self.lock().unread.contains(name)
    }

    /// Events that wait, batches that were dropped, repositories that are unread.
    pub(super) fn figures(&self) -> (u64, u64, u64) {
        let inner = self.lock();
        let (queued, unread) = (inner.queued_events as u64, inner.unread.len() as u64);
        (queued, inner.dropped_batches, unread)
    }

    /// Closes it, and lets go of what waits: whoever waits for that hears that it will not come.
    pub(super) fn abandon(&self) {
        let mut inner = self.lock();
        inner.is_closing = true;
        let items = std::mem::take(&mut inner.items);
        let jobs = std::mem::take(&mut inner.jobs);
        inner.queued_events = 0;
        for item in &items {
            if let Item::Events(name, _) = item {
                inner.mark_unread(name);
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
            let taken = inner.take(is_open);
            let found = taken.is_end
                || taken.trouble.is_some()
                || !(taken.items.is_empty() && taken.unstamped.is_empty() && taken.jobs.is_empty());
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
            return inner.take(is_open);
        }
    }
}

impl Inner {
    fn mark_unread(&mut self, name: &RepositoryName) {
        for (_, log) in self.logs.values_mut().filter(|(of, _)| of == name) {
            log.has_gaps = true;
        }
        self.unread.insert(name.clone());
        self.unstamped.insert(name.clone());
    }

    fn take(&mut self, is_open: bool) -> Taken {
        let mut taken = Taken {
            trouble: self.trouble.take(),
            jobs: self.jobs.drain(..).collect(),
            ..Taken::default()
        };
        if is_open {
            taken.unstamped = std::mem::take(&mut self.unstamped).into_iter().collect();
        }
        let mut events_taken = 0;
        while events_taken < GROUP_EVENTS_MAX
            && let Some(mut item) = self.items.pop_front()
        {
            match &mut item {
                Item::Events(name, events) => {
                    events_taken += events.len();
                    self.queued_events = self.queued_events.saturating_sub(events.len());
                    // One that was put in before the drop.
                    if self.unread.contains(name) {
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

fn is_stamp(event: &Event) -> bool {
    matches!(event, Event::Is(Fact::Stamp(_)))
}

pub(super) fn closed() -> IndexError {
    IndexError::Unavailable {
        reason: "it was closed".to_owned(),
    }
}
