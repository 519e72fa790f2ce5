//! The one thread that writes to the database, opens it again when it fails, and fills it.
//!
//! While one group syncs, the next gathers in the queue. Must not know who records what and why. Invariant: what a group
//! says is durable before anyone is told so; what could not be written is a loss of its repository; a view never sees a
//! database that is being swapped.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::IndexError;
use super::engine::Tree;
use super::facts::{Forget, Health};
use super::home::{Opened, Source};
use super::ledger::{Changes, Ledger};
use super::queue::{Item, Taken, closed, is_stamp};
use super::rebuild::{Turn, Work};
use super::records::{self, Event};
use super::shared::Shared;
use crate::heartbeat::Beating;
use crate::oci::RepositoryName;

/// Operations in one transaction of what is recorded; sled's transactions hold up readers while they are carried out.
const COMMIT_OPS_MAX: usize = 512;

/// The pauses between attempts to open the database again: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// How long opening the database, or looking at everything in it, may take: a minute for the first, and some minutes for
/// the largest index on a slow disk.
const OPENING_PATIENCE: Duration = Duration::from_mins(10);

/// How often the clock is looked at while the database is shut.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Writer {
    shared: Arc<Shared>,
    source: Box<dyn Source>,
    /// Jobs that were begun, or wait to be.
    work: VecDeque<Work>,
    /// When the database is shut: when to try again, and how long the pause was.
    retry: Option<(Duration, Duration)>,
    /// The database was not closed in order and has not been checked yet.
    is_unclean: bool,
    /// A database was in use before.
    has_opened: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, source: Box<dyn Source>) -> Self {
        Self {
            shared,
            source,
            work: VecDeque::new(),
            retry: None,
            is_unclean: false,
            has_opened: false,
        }
    }

    /// Begins with the database that was opened, ends when the queue is closed and empty.
    pub(super) fn run(mut self, opened: Opened, ready: &mpsc::Sender<()>) {
        self.take_up(opened);
        // The caller may have stopped waiting.
        let _ = ready.send(());
        self.check();
        self.go_on();
    }

    /// Opens the database first.
    pub(super) fn open_and_run(mut self) {
        match self.open() {
            Ok(opened) => self.install(opened),
            Err(error) => self.degrade(&error, PAUSE_MIN),
        }
        self.go_on();
    }

    fn go_on(mut self) {
        loop {
            let is_open = self.retry.is_none();
            let wait = if !self.work.is_empty() {
                Some(Duration::ZERO)
            } else if is_open {
                None
            } else {
                Some(LOOK_EVERY)
            };
            if wait != Some(Duration::ZERO) {
                self.shared.heartbeat.rest();
            }
            let taken = self.shared.queue.take(wait, is_open);
            self.shared.heartbeat.beat();
            let is_end = taken.is_end && self.work.is_empty();
            self.step(taken);
            if is_end {
                break;
            }
        }
        self.close();
    }

    fn step(&mut self, mut taken: Taken) {
        if let Some(trouble) = taken.trouble.take()
            && self.retry.is_none()
        {
            self.fail(trouble);
        }
        if let Some((at, pause)) = self.retry
            && self.shared.clock.elapsed() >= at
        {
            self.reopen((pause * 2).min(PAUSE_MAX));
        }
        self.work
            .extend(std::mem::take(&mut taken.jobs).into_iter().map(Work::new));
        if let Err(error) = self.commit_group(&taken) {
            for name in names(&taken) {
                self.shared.queue.freshness.lost_something(name);
            }
            self.fail(error);
        }
        self.shared.heartbeat.beat();
        for item in taken.items {
            if let Item::Settle(answer) = item {
                // The caller may have stopped waiting.
                let _ = answer.send(());
            }
        }
        self.turn();
    }

    fn commit_group(&self, taken: &Taken) -> Result<(), IndexError> {
        if taken.items.iter().all(is_settling) && taken.void.is_empty() {
            return Ok(());
        }
        let mut changes = Changes::new();
        self.shared.with_ledger(|ledger| {
            if taken.void.is_every {
                ledger.each(Tree::Stamps, &[], |key, _| {
                    changes.insert((Tree::Stamps, key), None);
                })?;
            }
            for name in &taken.void.names {
                records::apply(ledger, name, &Event::IsGone(Forget::Stamp), &mut changes)?;
            }
            for item in &taken.items {
                match item {
                    Item::Events { name, events, era } => {
                        // A stamp vouches for what its own database holds. The other events hold in any.
                        let is_of_another = *era != self.shared.queue.freshness.era();
                        for event in events {
                            if is_of_another && is_stamp(event) {
                                continue;
                            }
                            records::apply(ledger, name, event, &mut changes)?;
                        }
                    }
                    Item::Content(digests) => {
                        for digest in digests {
                            records::forget_content(ledger, digest, &mut changes)?;
                        }
                    }
                    Item::Settle(_) => {}
                }
            }
            Ok(())
        })?;
        self.shared.commit(changes, COMMIT_OPS_MAX)?;
        self.shared.queue.freshness.voided(&taken.void);
        Ok(())
    }

    /// Carries on with the jobs for one commit.
    fn turn(&mut self) {
        match Turn::take(&self.shared, &mut self.work) {
            Ok(Turn::Done) => {}
            Ok(Turn::Finish { epoch, answer }) => {
                let finished = self.finish(epoch);
                let _ = answer.send(finished);
            }
            Err(error) => self.fail(error),
        }
    }

    /// Declares the index complete, and opens the database once more: only an opening writes the snapshot with which sled
    /// recognises damage.
    fn finish(&mut self, epoch: u64) -> Result<(), IndexError> {
        if self.shared.epoch.load(Ordering::Relaxed) != epoch {
            return Err(IndexError::Unavailable {
                reason: "it failed while it was being filled: begin again".to_owned(),
            });
        }
        let done = self
            .shared
            .with_ledger(|ledger| ledger.amend(|books| books.is_complete = true));
        let reopened = done.and_then(|()| {
            self.shut()?;
            self.open()
        });
        match reopened {
            Ok(opened) => {
                self.install(opened);
                Ok(())
            }
            Err(error) => {
                let reason = error.to_string();
                self.fail(error);
                Err(IndexError::Unavailable { reason })
            }
        }
    }

    fn open(&mut self) -> Result<Opened, IndexError> {
        self.shared.heartbeat.beat_before(OPENING_PATIENCE);
        self.source.open()
    }

    fn install(&mut self, opened: Opened) {
        self.take_up(opened);
        self.check();
    }

    /// Takes an opened database into use.
    fn take_up(&mut self, opened: Opened) {
        let is_other = opened.is_new || opened.quarantines > 0;
        if std::mem::replace(&mut self.has_opened, true) && is_other {
            self.shared.queue.freshness.replaced();
        }
        let quarantines = opened.quarantines;
        self.shared
            .quarantines
            .fetch_add(quarantines, Ordering::Relaxed);
        let is_complete = opened.ledger.books().is_complete;
        self.retry = None;
        self.is_unclean = opened.is_unclean;
        *self.shared.health() = match (opened.is_unclean, is_complete) {
            (true, _) => Health::Checking,
            (false, true) => Health::Healthy,
            (false, false) => Health::Rebuilding {
                done: 0,
                total: None,
            },
        };
        // After its health: a reader of the new database must see that it has to be filled.
        self.shared.swap(Some(opened.ledger));
    }

    /// Looks at everything in a database that was not closed in order, while questions are answered and records wait.
    fn check(&mut self) {
        if !std::mem::take(&mut self.is_unclean) {
            return;
        }
        self.shared.heartbeat.beat_before(OPENING_PATIENCE);
        if let Err(error) = self.shared.with_ledger(Ledger::verify) {
            self.fail(error);
            return;
        }
        let is_complete = self
            .shared
            .with_ledger(|ledger| Ok(ledger.books().is_complete));
        let mut health = self.shared.health();
        if *health == Health::Checking {
            *health = match is_complete {
                Ok(true) => Health::Healthy,
                _ => Health::Rebuilding {
                    done: 0,
                    total: None,
                },
            };
        }
    }

    /// Takes the database out of use and, if it is damaged, an empty one into use.
    fn fail(&mut self, error: IndexError) {
        self.shared.epoch.fetch_add(1, Ordering::Relaxed);
        drop(self.shared.swap(None));
        let reason = error.to_string();
        for work in self.work.drain(..) {
            work.give_up(&reason);
        }
        let error = match error {
            IndexError::Damaged { what } => {
                self.shared.heartbeat.beat_before(OPENING_PATIENCE);
                // The count comes last: a rebuild that sees it must not find the index complete, as it was before.
                *self.shared.health() = Health::Checking;
                self.shared.queue.freshness.replaced();
                self.shared.quarantines.fetch_add(1, Ordering::Release);
                let opened = self
                    .source
                    .set_aside(&what)
                    .and_then(|()| self.source.open());
                match opened {
                    Ok(opened) => return self.install(opened),
                    Err(error) => error,
                }
            }
            IndexError::Unavailable { .. } if self.retry.is_some() => return,
            error => error,
        };
        self.degrade(&error, PAUSE_MIN);
    }

    fn degrade(&mut self, error: &IndexError, pause: Duration) {
        self.retry = Some((self.shared.clock.elapsed() + pause, pause));
        let mut health = self.shared.health();
        let reason = described(error);
        if let Health::Degraded { reason: last, .. } = &mut *health {
            *last = reason;
            return;
        }
        tracing::warn!(
            hint = error.hint(),
            "the index is out of order ({reason}); lists come from the store until it could be opened again"
        );
        *health = Health::Degraded {
            reason,
            since: self.shared.clock.now(),
        };
    }

    fn reopen(&mut self, pause: Duration) {
        match self.open() {
            Ok(opened) => {
                tracing::info!("the index could be opened again");
                self.install(opened);
            }
            Err(error) => self.degrade(&error, pause),
        }
    }

    /// Closes the database in order.
    fn shut(&mut self) -> Result<(), IndexError> {
        let Some(ledger) = self.shared.swap(None) else {
            return Ok(());
        };
        let books = ledger.books();
        drop(ledger);
        self.source.closed(&books)
    }

    fn close(&mut self) {
        if let Err(error) = self.shut() {
            tracing::warn!("the index was not closed in order: {}", described(&error));
        }
        *self.shared.health() = Health::Degraded {
            reason: closed().to_string(),
            since: self.shared.clock.now(),
        };
    }
}

/// The thread of the writer, as others see it.
pub(super) struct Running {
    shared: Arc<Shared>,
    _beating: Beating,
}

impl Running {
    pub(super) fn begin(shared: Arc<Shared>) -> Self {
        let beating = shared.heartbeat.begin();
        Self {
            shared,
            _beating: beating,
        }
    }

    /// Does all of the thread's work.
    pub(super) fn during(self, work: impl FnOnce()) {
        work();
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // What waits will never be written, so no caller may wait for it, and lists come from the store.
        self.shared.queue.abandon();
        *self.shared.health() = Health::Degraded {
            reason: "its thread has panicked; hint: restart the server".to_owned(),
            since: self.shared.clock.now(),
        };
    }
}

/// With what the system said.
fn described(error: &IndexError) -> String {
    match error {
        IndexError::Io { source, .. } => format!("{error}: {source}"),
        error => error.to_string(),
    }
}

/// The repositories that a group is about.
fn names(taken: &Taken) -> impl Iterator<Item = &RepositoryName> {
    taken.items.iter().filter_map(|item| match item {
        Item::Events { name, .. } => Some(name),
        Item::Content(_) | Item::Settle(_) => None,
    })
}

fn is_settling(item: &Item) -> bool {
    matches!(item, Item::Settle(_))
}
