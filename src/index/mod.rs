//! What a store cannot list cheaply: sorted repositories and tags, referrers, edges of manifests, who holds a blob.
//!
//! The index is told what happened ([`Index::record`], [`Index::forget`]) and never makes a request wait; it answers in
//! pages. It may be behind the store and it may have been lost: the store is the truth, an answer is a candidate until the
//! store confirms it, and an index that cannot be trusted is set aside and filled again. Must not know which keys a
//! registry writes, nor HTTP. Invariant: a repository's [`Stamp`] is never newer than what is recorded of it, so that a
//! stamp which equals the store's means that nothing is missing.

mod engine;
mod error;
mod facts;
mod freshness;
mod home;
mod ledger;
mod queue;
mod rebuild;
mod records;
mod shared;
mod sled_engine;
mod totals;
mod view;
mod writer;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod figures;
#[cfg(test)]
mod recorder;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod totals_tests;
#[cfg(test)]
mod view_tests;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub use error::IndexError;
pub use facts::{
    Child, ChildKind, Fact, Forget, Health, RepositoryTotals, Revision, Stamp, Statistics, Totals,
};
pub use freshness::{Comparing, Freshness, Waiting};
pub use queue::Reread;
pub use rebuild::Rebuild;
pub use view::{Scan, View};

use tokio::sync::oneshot;

use self::engine::{Disk, RealDisk};
use self::home::{Files, Home, Memory, Source};
use self::queue::{Job, Replacement};
use self::records::Event;
use self::shared::Shared;
use self::writer::{Running, Writer};
use crate::clock::Clock;
use crate::heartbeat::Heartbeat;
use crate::oci::{Digest, RepositoryName};

/// The longest page: what one answer holds in memory, and for how long one look keeps a rebuild from swapping the database.
pub const PAGE_MAX: usize = 1_000;

/// Where the index is and what it belongs to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The database's directory; its lock, state and a set-aside predecessor lie beside it (`index.lock`, `index.state`,
    /// `index.bad-<time>`).
    pub directory: PathBuf,
    /// Names the store that is indexed: an index of another store is set aside.
    pub store_id: String,
}

/// The index. Cheap to ask, safe to lose.
pub struct Index {
    shared: Arc<Shared>,
    /// `None` for an index in memory.
    directory: Option<PathBuf>,
    /// Ends when the queue is closed.
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Index {
    /// Opens or makes the index in `settings.directory`; blocks for up to a minute. A damaged, foreign or outdated index is
    /// no error: it is set aside, an empty one takes its place ([`Health::Rebuilding`]), and the log says so. Fails when
    /// another instance has it, and when the machine refuses (no room, no permission).
    pub fn open(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self, IndexError> {
        Self::open_on(settings, clock, Arc::new(RealDisk))
    }

    /// As [`Index::open`], but returns when the lock is taken: the index's own thread opens the database; until then it is
    /// [`Health::Checking`]. Where the machine refuses, it is [`Health::Degraded`] and tried again.
    pub fn open_beside(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self, IndexError> {
        Self::open_beside_on(settings, clock, Arc::new(RealDisk))
    }

    fn open_beside_on(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, IndexError> {
        let home = Home::enter(&settings.directory, disk)?;
        let files = Files::new(home, &settings.store_id, Arc::clone(&clock));
        let shared = Arc::new(Shared::new(clock));
        let writer = Writer::new(Arc::clone(&shared), Box::new(files));
        Self::run(shared, Some(settings.directory.clone()), move || {
            writer.open_and_run();
        })
    }

    /// An index in memory; complete from the start ([`Health::Healthy`]).
    pub fn in_memory(clock: Arc<dyn Clock>) -> Self {
        Self::start(Box::new(Memory), None, Arc::clone(&clock)).unwrap_or_else(|error| {
            // No thread to be had: it answers as one that is out of order.
            let shared = Arc::new(Shared::new(clock));
            shared.queue.close();
            *shared.health() = Health::Degraded {
                reason: error.to_string(),
                since: shared.clock.now(),
            };
            Self {
                shared,
                directory: None,
                writer: Mutex::default(),
            }
        })
    }

    fn open_on(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, IndexError> {
        let home = Home::enter(&settings.directory, disk)?;
        let files = Files::new(home, &settings.store_id, Arc::clone(&clock));
        Self::start(Box::new(files), Some(settings.directory.clone()), clock)
    }

    fn start(
        mut source: Box<dyn Source>,
        directory: Option<PathBuf>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IndexError> {
        let opened = source.open()?;
        let shared = Arc::new(Shared::new(clock));
        let writer = Writer::new(Arc::clone(&shared), source);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let index = Self::run(shared, directory, move || writer.run(opened, &ready))?;
        // Questions may be asked from now on; an error would mean that the thread ended, which they find out.
        let _ = is_ready.recv();
        Ok(index)
    }

    /// Starts the index's thread.
    fn run(
        shared: Arc<Shared>,
        directory: Option<PathBuf>,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<Self, IndexError> {
        let running = Running::begin(Arc::clone(&shared));
        let writer = std::thread::Builder::new()
            .name("index-writer".to_owned())
            .spawn(move || running.during(work))
            .map_err(|source| IndexError::Io {
                doing: "start the thread of the index".to_owned(),
                source,
            })?;
        Ok(Self {
            shared,
            directory,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Notes what is now true of a repository; any fact makes the repository known. Never waits: what does not fit into the
    /// queue is dropped and counted, and the repository has lost something ([`Freshness`]) until it is read again. Changes
    /// take effect in the order of the calls. Facts about content (edges, sizes) go with the repository they were read
    /// for, so that its next re-read brings them back.
    pub fn record(&self, name: &RepositoryName, facts: Vec<Fact>) {
        let events = facts.into_iter().map(Event::Is).collect();
        self.put(name, events);
    }

    /// Records the stamp of a repository, which was Fresh in `era` ([`Freshness::era`]). A database of another era does not
    /// get it: it holds something else.
    pub fn record_stamp(&self, name: &RepositoryName, stamp: Stamp, era: u64) {
        let events = vec![Event::Is(Fact::Stamp(stamp))];
        self.shared.queue.record(name, events, era);
    }

    fn put(&self, name: &RepositoryName, events: Vec<Event>) {
        let era = self.freshness().era();
        self.shared.queue.record(name, events, era);
    }

    /// Notes what is no longer true of a repository; as [`Index::record`].
    pub fn forget(&self, name: &RepositoryName, gone: Vec<Forget>) {
        let events = gone.into_iter().map(Event::IsGone).collect();
        self.put(name, events);
    }

    /// Forgets size and edges of content that was removed from the store; lost ones only waste room.
    pub fn forget_content(&self, digests: Vec<Digest>) {
        self.shared.queue.forget_content(digests);
    }

    /// How far the entries of each repository can be relied on. In memory; after a restart the stamps tell.
    pub fn freshness(&self) -> &Freshness {
        &self.shared.queue.freshness
    }

    /// Resolves when all that was recorded so far is durable, or was given up (degraded, closed).
    pub async fn settle(&self) {
        // An error means that the index was closed: nothing waits any more.
        let _ = self.shared.queue.settle().await;
    }

    /// To be called **before** the first look at the store for a re-read: what is recorded from now on is kept and applied
    /// again on top of what [`Index::replace_repository`] brings, so that nothing that happens meanwhile is lost. The
    /// stamp given there must have been taken after this call and before the listing.
    pub fn reread(&self, name: &RepositoryName) -> Reread {
        self.shared.queue.reread(name)
    }

    /// Makes `facts` all that is recorded of the repository, in commits of at most 1,000 keys, the stamp last; durable on
    /// return. No facts and no stamp: the repository is forgotten. Waits for its turn, so it slows its caller and not the
    /// requests.
    pub async fn replace_repository(
        &self,
        reread: Reread,
        facts: Vec<Fact>,
        stamp: Option<Stamp>,
    ) -> Result<(), IndexError> {
        let (answer, replaced) = oneshot::channel();
        let room = self.shared.queue.room_for(facts.len()).await;
        self.shared.queue.put(Job::Replace(Replacement {
            reread,
            facts,
            stamp,
            answer: Some(answer),
            room,
        }))?;
        replaced.await.unwrap_or_else(|_| Err(queue::closed()))
    }

    /// Begins (or goes on with) filling the index from the store; `total` is how many repositories there are, if known.
    /// Repositories given in byte order load fastest. What was loaded before an interruption has its stamp already.
    pub fn begin_rebuild(&self, total: Option<u64>) -> Rebuild {
        let epoch = self.shared.begin_rebuild(total);
        Rebuild::new(Arc::clone(&self.shared), epoch)
    }

    /// Shows `look` what is recorded, on a thread that may block. A look that takes long keeps no rebuild waiting, and fails
    /// when the database is set aside meanwhile.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&View) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let shared = Arc::clone(&self.shared);
        let looked = tokio::task::spawn_blocking(move || look(&View::new(shared)));
        looked.await.unwrap_or_else(|_| Err(queue::closed()))
    }

    /// The stamp of a repository: `None` if it is not known or must be read again.
    pub async fn stamp(&self, name: &RepositoryName) -> Result<Option<Stamp>, IndexError> {
        if self.freshness().is_in_doubt(name) {
            return Ok(None);
        }
        let name = name.clone();
        self.read(move |view| view.stamp(&name)).await
    }

    /// How much is recorded; cheap.
    pub fn totals(&self) -> Totals {
        let totals = self.shared.with_ledger(|ledger| Ok(ledger.totals()));
        totals.unwrap_or_default()
    }

    /// Whether lists may come from here.
    pub fn health(&self) -> Health {
        self.shared.health().clone()
    }

    /// Of the thread that writes.
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.shared.heartbeat)
    }

    /// Figures about the index itself.
    pub fn statistics(&self) -> Statistics {
        let (queued, dropped_batches, unread_repositories) = self.shared.queue.figures();
        Statistics {
            queued,
            dropped_batches,
            unread_repositories,
            commits: self.shared.commits.load(Ordering::Relaxed),
            quarantines: self.shared.quarantines.load(Ordering::Acquire),
            slow_commit: self.shared.slow_commit(),
        }
    }

    /// How much room the database takes on its volume; `None` for one in memory.
    pub async fn disk_bytes(&self) -> Option<u64> {
        let directory = self.directory.clone()?;
        let counted = tokio::task::spawn_blocking(move || {
            let entries = std::fs::read_dir(directory).ok()?;
            let sizes = entries.flatten().filter_map(|entry| entry.metadata().ok());
            Some(sizes.map(|metadata| metadata.len()).sum())
        });
        counted.await.ok().flatten()
    }

    /// Settles, then closes the database in order; later records are dropped. Dropping the index does the same, and blocks.
    pub async fn close(&self) {
        self.shared.queue.close();
        let writer = self.writer.lock();
        let writer = writer.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A thread that panicked has closed nothing, which the next opening finds out.
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }

    /// Sets aside what is recorded, as if it were damaged, and begins with nothing; the log tells `why`.
    pub fn start_over(&self, why: &str) {
        let what = why.to_owned();
        self.shared.queue.report(IndexError::Damaged { what });
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.shared.queue.close();
        let writer = self.writer.get_mut();
        if let Some(writer) = writer.unwrap_or_else(PoisonError::into_inner).take() {
            // As in `close`.
            let _ = writer.join();
        }
    }
}
