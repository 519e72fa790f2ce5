//! The engine over sled; the only file that names sled.
//!
//! sled 0.34 is durable only with an fsync of our own after each flush, panics where an error would do, and deadlocks if
//! transactions are nested. This file handles all of that. Must not know what the keys mean.
//! Invariant: a commit is one transaction over all trees whose closure touches nothing but transactional views, then a
//! flush, then a sync of `db` through our own handle; no panic leaves this file; the first failed write is the last.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional as _};

use super::IndexError;
use super::engine::{Disk, Engine, Op, Pair, SCAN_MAX, Tree, check_sizes};
use crate::durable_file;

#[cfg(not(panic = "unwind"))]
compile_error!(
    "sled panics on damaged files, and the server must survive that: build with panic = unwind"
);

/// The size of sled's page cache. The process grows by this and about 0.2 GB.
const CACHE_BYTES: u64 = 128 << 20;

/// The interval of sled's own flusher, which also does its housekeeping. Durability does not depend on it.
const FLUSH_EVERY_MS: u64 = 500;

/// An opening that takes longer than this hangs: 1.3 million keys open within three seconds from a cold disk.
const OPEN_SECS_MAX: u64 = 60;

/// How often an opening tries again, with pauses of [`LOCK_PAUSE`]. The threads of an earlier database in this process
/// release sled's lock a moment after it was dropped.
const LOCK_ATTEMPTS_MAX: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct SledEngine {
    directory: PathBuf,
    /// In the order of [`Tree::ALL`]. The database stays open while one of them is open.
    trees: Vec<sled::Tree>,
    /// A second handle to `db`, to sync it with.
    file: File,
    disk: Arc<dyn Disk>,
    has_failed: AtomicBool,
}

impl SledEngine {
    /// Opens or creates the database in `directory`, on a thread of its own, which is abandoned if it hangs.
    pub(super) fn open(directory: &Path, disk: Arc<dyn Disk>) -> Result<Self, IndexError> {
        let (answer, opened) = mpsc::channel();
        let path = directory.to_owned();
        std::thread::Builder::new()
            .name("index-opening".to_owned())
            .spawn(move || {
                let result = guarded(|| open_here(&path, disk));
                // After the time limit, nothing receives this.
                let _ = answer.send(result);
            })
            .map_err(|source| IndexError::Io {
                doing: "start the thread that opens the index".to_owned(),
                source,
            })?;
        opened
            .recv_timeout(Duration::from_secs(OPEN_SECS_MAX))
            .unwrap_or_else(|_| {
                Err(IndexError::Damaged {
                    what: format!("opening it took longer than {OPEN_SECS_MAX} s"),
                })
            })
    }

    fn tree(&self, tree: Tree) -> Result<&sled::Tree, IndexError> {
        // `open_here` opens every tree in the order of their numbers.
        self.trees
            .get(tree as usize)
            .ok_or_else(|| damaged("a tree is missing"))
    }

    fn write(&self, ops: &[Op]) -> Result<(), IndexError> {
        let sorted = |error| sort(&self.directory, "write to", error);
        let written = self.trees.as_slice().transaction(|views| {
            for op in ops {
                let view = views.get(op.tree as usize).ok_or_else(|| {
                    ConflictableTransactionError::Abort(damaged("a tree is missing"))
                })?;
                match &op.value {
                    Some(value) => view.insert(op.key.as_slice(), value.as_slice())?,
                    None => view.remove(op.key.as_slice())?,
                };
            }
            Ok(())
        });
        written.map_err(|error| match error {
            TransactionError::Abort(error) => error,
            TransactionError::Storage(error) => sorted(error),
        })?;
        self.tree(Tree::Meta)?.flush().map_err(sorted)?;
        self.sync()
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.disk
            .sync_file(&self.directory.join("db"), &self.file)
            .map_err(|source| from_io(&self.directory, "sync", source))
    }
}

impl Engine for SledEngine {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        guarded(|| {
            let value = self.tree(tree)?.get(key);
            let value = value.map_err(|error| sort(&self.directory, "read", error))?;
            Ok(value.map(|value| value.to_vec()))
        })
    }

    fn scan(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, IndexError> {
        guarded(|| {
            let start = match after {
                Some(after) if after >= prefix => Bound::Excluded(after),
                _ => Bound::Included(prefix),
            };
            let range = (start, Bound::<&[u8]>::Unbounded);
            let mut pairs = Vec::new();
            for pair in self
                .tree(tree)?
                .range::<&[u8], _>(range)
                .take(limit.min(SCAN_MAX))
            {
                let (key, value) = pair.map_err(|error| sort(&self.directory, "read", error))?;
                if !key.starts_with(prefix) {
                    break;
                }
                pairs.push((key.to_vec(), value.to_vec()));
            }
            Ok(pairs)
        })
    }

    fn commit(&self, ops: Vec<Op>) -> Result<(), IndexError> {
        self.health()?;
        check_sizes(&ops)?;
        let written = guarded(|| self.write(&ops));
        if written.is_err() {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        written
    }

    fn health(&self) -> Result<(), IndexError> {
        if self.has_failed.load(Ordering::Relaxed) {
            let reason = "an earlier write failed".to_owned();
            return Err(IndexError::Unavailable { reason });
        }
        Ok(())
    }
}

impl Drop for SledEngine {
    fn drop(&mut self) {
        // Closing writes to the disk, so it can panic. The next opening checks whether the database was closed properly.
        let trees = std::mem::take(&mut self.trees);
        let _ = guarded(|| {
            drop(trees);
            Ok(())
        });
    }
}

fn open_here(directory: &Path, disk: Arc<dyn Disk>) -> Result<SledEngine, IndexError> {
    // sled creates its files with permissions for all users.
    match durable_file::make_private_directory_if_ours(directory) {
        // sled reports this itself, and then the index is set aside.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
        made => made.map_err(|source| from_io(directory, "make", source))?,
    }
    let mut attempts = 0;
    let database = loop {
        let config = sled::Config::new()
            .path(directory)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        match config.open() {
            // We hold our own lock, so this can only be an earlier database of this process that is being closed.
            Err(sled::Error::Io(error)) if is_lock(&error) && attempts < LOCK_ATTEMPTS_MAX => {
                attempts += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(error) => return Err(sort(directory, "open", error)),
            Ok(database) => break database,
        }
    };
    let trees = Tree::ALL
        .into_iter()
        .map(|tree| database.open_tree(tree.name()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| sort(directory, "open", error))?;
    database
        .flush()
        .map_err(|error| sort(directory, "write to", error))?;
    let file =
        File::open(directory.join("db")).map_err(|source| from_io(directory, "open", source))?;
    let engine = SledEngine {
        directory: directory.to_owned(),
        trees,
        file,
        disk,
        has_failed: AtomicBool::new(false),
    };
    engine.sync()?;
    let parent = directory.parent().unwrap_or(directory);
    for changed in [directory, parent] {
        let synced = engine.disk.sync_directory(changed);
        synced.map_err(|source| from_io(changed, "sync", source))?;
    }
    Ok(engine)
}

/// Turns a panic of sled into an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    // After a panic the database is dropped and opened again, so no half-changed state is used.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text
            .and_then(|text| text.lines().next())
            .unwrap_or("no message");
        Err(damaged(&format!("the database panicked: {text}")))
    })
}

fn is_lock(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// Distinguishes errors of the machine from damaged files.
fn sort(directory: &Path, doing: &str, error: sled::Error) -> IndexError {
    match error {
        sled::Error::Io(source) => from_io(directory, doing, source),
        error @ (sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. }) => damaged(&error.to_string()),
    }
}

fn from_io(directory: &Path, doing: &str, source: io::Error) -> IndexError {
    use io::ErrorKind::{
        InvalidInput, IsADirectory, NotADirectory, NotFound, QuotaExceeded, StorageFull,
    };
    match source.kind() {
        StorageFull | QuotaExceeded => IndexError::Full {
            path: directory.to_owned(),
        },
        // Impossible offsets, and files that are missing or of the wrong kind.
        InvalidInput | IsADirectory | NotADirectory | NotFound => damaged(&source.to_string()),
        // From the operating system, not from sled's own checks.
        _ if source.raw_os_error().is_some() || is_lock(&source) => IndexError::Io {
            doing: format!("{doing} the index {}", directory.display()),
            source,
        },
        _ => damaged(&source.to_string()),
    }
}

fn damaged(what: &str) -> IndexError {
    IndexError::Damaged {
        what: what.to_owned(),
    }
}
