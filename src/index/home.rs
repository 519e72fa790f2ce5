//! The files of the database: how it is opened, and set aside if it is damaged.
//!
//! Beside the database are its lock, a marker while it is being opened, its state, and the last damaged database. Must not
//! know what is recorded. Invariants: nothing is written before the lock is held; each file is complete or absent after a
//! power cut; a database that is opened belongs to this store, has this layout, and is not older than its state says; any
//! other is set aside (the newest is kept), but not because of an error of the machine.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::IndexError;
use super::engine::{Disk, Engine, MemoryEngine};
use super::ledger::{Books, Ledger};
use super::sled_engine::SledEngine;
use crate::clock::Clock;
use crate::durable_file;

/// The free space that an opening needs: sled writes at least a snapshot (7 MB at 1.3 million keys) and a segment, and a
/// snapshot that a full disk has cut short breaks the next opening.
const ROOM_BYTES_MIN: u64 = 64 << 20;

/// After this many openings in a row that did not end (abort, hang, out of memory), the next one would not end either.
const UNFINISHED_OPENINGS_MAX: u64 = 2;

/// A database that is ready for use.
pub(super) struct Opened {
    pub(super) ledger: Ledger,
    /// It was not closed properly, so it must be checked.
    pub(super) is_unclean: bool,
    /// There was no database before.
    pub(super) is_new: bool,
    /// How many databases were set aside while opening it.
    pub(super) quarantines: u64,
}

/// Opens databases.
pub(super) trait Source: Send {
    /// Opens the database, or an empty one if there is none. The database that was open before must have been dropped.
    fn open(&mut self) -> Result<Opened, IndexError>;

    /// Sets the database aside; the next opening creates an empty one.
    fn set_aside(&mut self, why: &str) -> Result<(), IndexError>;

    /// The database with these books was closed properly.
    fn closed(&mut self, books: &Books) -> Result<(), IndexError>;
}

/// The index of a store on disk.
pub(super) struct Files {
    home: Home,
    store_id: String,
    clock: Arc<dyn Clock>,
}

impl Files {
    pub(super) fn new(home: Home, store_id: &str, clock: Arc<dyn Clock>) -> Self {
        Self {
            home,
            store_id: store_id.to_owned(),
            clock,
        }
    }

    /// The steps during which a crash leaves the marker of an opening.
    fn open_marked(&mut self) -> Result<Opened, IndexError> {
        if self.home.room_bytes()? < ROOM_BYTES_MIN {
            let path = self.home.directory.clone();
            return Err(IndexError::Full { path });
        }
        self.home.remove_torn_snapshots()?;
        match self.open_once() {
            Err(IndexError::Damaged { what }) => {
                self.set_aside(&what)?;
                let opened = self.open_once()?;
                Ok(Opened {
                    quarantines: 1,
                    ..opened
                })
            }
            opened => opened,
        }
    }

    fn open_once(&self) -> Result<Opened, IndexError> {
        let is_new = self.home.is_empty();
        let state = self.home.state();
        let engine = SledEngine::open(&self.home.directory, Arc::clone(&self.home.disk))?;
        let found = Ledger::read_books(&engine)?;
        let (books, is_unclean) = if is_new {
            // A removed index is not damage: it is filled again.
            let mut books = Books::new(&self.store_id, false);
            books.generation = state.map_or(0, |state| state.generation);
            (books, false)
        } else {
            let books = self.check(found, state.as_ref())?;
            (books, state.is_none_or(|state| state.closed_at.is_none()))
        };
        let ledger = Ledger::new(Box::new(engine), books);
        // The database first: after a power cut in between, it is one generation ahead, which `check` accepts.
        ledger.amend(|books| books.generation += 1)?;
        self.home.set_state(&State {
            generation: ledger.books().generation,
            closed_at: None,
        })?;
        Ok(Opened {
            ledger,
            is_unclean,
            is_new,
            quarantines: 0,
        })
    }

    /// Compares the database's books with the state beside it.
    fn check(&self, found: Option<Books>, state: Option<&State>) -> Result<Books, IndexError> {
        let damaged = |what: &str| IndexError::Damaged {
            what: what.to_owned(),
        };
        let books = found.ok_or_else(|| damaged("it is empty, or none of ours"))?;
        if books.store_id != self.store_id {
            return Err(damaged("it belongs to another store"));
        }
        let state = state.ok_or_else(|| damaged("what is known of it (index.state) is missing"))?;
        let is_expected = match state.closed_at {
            Some(sequence) => books.generation == state.generation && books.sequence == sequence,
            None => books.generation == state.generation,
        };
        let is_ahead = books.generation == state.generation + 1;
        if is_expected || is_ahead {
            Ok(books)
        } else {
            Err(damaged("it is not the one that was last in use"))
        }
    }
}

impl Source for Files {
    fn open(&mut self) -> Result<Opened, IndexError> {
        let unfinished = self.home.unfinished_openings();
        let mut quarantines = 0;
        if unfinished >= UNFINISHED_OPENINGS_MAX {
            self.set_aside("the last two starts ended while opening it")?;
            quarantines = 1;
        }
        let number = if quarantines > 0 { 1 } else { unfinished + 1 };
        self.home.mark_opening(number)?;
        let opened = self.open_marked();
        // The opening has ended, with or without success.
        self.home.unmark_opening()?;
        let opened = opened?;
        Ok(Opened {
            quarantines: quarantines + opened.quarantines,
            ..opened
        })
    }

    fn set_aside(&mut self, why: &str) -> Result<(), IndexError> {
        let bad = self.home.set_aside(self.clock.unix_secs())?;
        let shown = |path: &Path| path.display().to_string();
        tracing::warn!(
            index = shown(&self.home.directory),
            set_aside = bad.as_deref().map(shown),
            "the index is not used any more ({why}); it was set aside and is filled again from the store. Nothing is lost: \
             images stay where they are, lists are slower until then. What was set aside may be removed."
        );
        Ok(())
    }

    fn closed(&mut self, books: &Books) -> Result<(), IndexError> {
        self.home.sync_database()?;
        self.home.set_state(&State {
            generation: books.generation,
            closed_at: Some(books.sequence),
        })
    }
}

/// An index in memory.
pub(super) struct Memory;

impl Source for Memory {
    fn open(&mut self) -> Result<Opened, IndexError> {
        let engine: Box<dyn Engine> = Box::new(MemoryEngine::default());
        Ok(Opened {
            ledger: Ledger::new(engine, Books::new("memory", true)),
            is_unclean: false,
            is_new: false,
            quarantines: 0,
        })
    }

    fn set_aside(&mut self, _: &str) -> Result<(), IndexError> {
        Ok(())
    }

    fn closed(&mut self, _: &Books) -> Result<(), IndexError> {
        Ok(())
    }
}

pub(super) struct Home {
    /// The database's directory.
    pub(super) directory: PathBuf,
    /// The directory with all of these files.
    parent: PathBuf,
    name: String,
    pub(super) disk: Arc<dyn Disk>,
    /// The system releases the lock when the process ends, however it ends.
    _lock: File,
}

/// What is known about the database without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) generation: u64,
    /// The number of the last commit, if the database was closed properly.
    pub(super) closed_at: Option<u64>,
}

impl Home {
    /// Takes the lock of the index in `directory`.
    pub(super) fn enter(directory: &Path, disk: Arc<dyn Disk>) -> Result<Self, IndexError> {
        let name = directory.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or("index").to_owned();
        let parent = match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let failed = |doing: &str| {
            let doing = format!("{doing} {}", parent.join(format!("{name}.lock")).display());
            move |source| IndexError::Io { doing, source }
        };
        fs::create_dir_all(&parent).map_err(failed("make the directory of"))?;
        let lock = durable_file::open_lock(&parent.join(format!("{name}.lock")))
            .map_err(failed("open"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let path = directory.to_owned();
                return Err(IndexError::InUse { path });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        Ok(Self {
            directory: directory.to_owned(),
            parent,
            name,
            disk,
            _lock: lock,
        })
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.parent.join(format!("{}.{suffix}", self.name))
    }

    /// How many openings in a row did not end.
    pub(super) fn unfinished_openings(&self) -> u64 {
        let text = fs::read_to_string(self.beside("opening")).unwrap_or_default();
        // A marker that cannot be parsed still counts as one.
        let marked = self.beside("opening").exists();
        text.trim().parse().unwrap_or(u64::from(marked))
    }

    pub(super) fn mark_opening(&self, number: u64) -> Result<(), IndexError> {
        self.write("opening", &number.to_string())
    }

    pub(super) fn unmark_opening(&self) -> Result<(), IndexError> {
        self.remove("opening")
    }

    /// `None` if it is missing or cannot be parsed.
    pub(super) fn state(&self) -> Option<State> {
        let text = fs::read_to_string(self.beside("state")).ok()?;
        let mut lines = text.lines();
        let generation = lines.next()?.strip_prefix("generation ")?.parse().ok()?;
        let closed_at = match lines.next()?.strip_prefix("closed ")? {
            "no" => None,
            sequence => Some(sequence.parse().ok()?),
        };
        Some(State {
            generation,
            closed_at,
        })
    }

    pub(super) fn set_state(&self, state: &State) -> Result<(), IndexError> {
        let closed = state
            .closed_at
            .map_or_else(|| "no".to_owned(), |sequence| sequence.to_string());
        let text = format!("generation {}\nclosed {closed}\n", state.generation);
        self.write("state", &text)
    }

    /// Whether there are no files of a database.
    pub(super) fn is_empty(&self) -> bool {
        match fs::read_dir(&self.directory) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Removes incomplete snapshots of an interrupted opening: sled would take them for the newest one.
    pub(super) fn remove_torn_snapshots(&self) -> Result<(), IndexError> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // If there is a file in place of the directory, opening it reports that.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
            entries => entries.map_err(|source| self.failed("list", &self.directory, source))?,
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("snap.") && name.ends_with(".generating") {
                let path = entry.path();
                fs::remove_file(&path).map_err(|source| self.failed("remove", &path, source))?;
            }
        }
        Ok(())
    }

    pub(super) fn room_bytes(&self) -> Result<u64, IndexError> {
        let room = self.disk.room_bytes(&self.parent);
        room.map_err(|source| self.failed("measure the room in", &self.parent, source))
    }

    /// Makes durable what sled wrote while it was closed.
    pub(super) fn sync_database(&self) -> Result<(), IndexError> {
        let path = self.directory.join("db");
        let synced = File::open(&path)
            .and_then(|file| self.disk.sync_file(&path, &file))
            .and_then(|()| self.disk.sync_directory(&self.directory));
        synced.map_err(|source| self.failed("sync", &path, source))
    }

    /// Sets the database aside and returns its new path; `None` if there was none.
    pub(super) fn set_aside(&self, unix_secs: u64) -> Result<Option<PathBuf>, IndexError> {
        self.remove("state")?;
        if fs::symlink_metadata(&self.directory).is_err() {
            return Ok(None);
        }
        let marker = format!("{}.bad-", self.name);
        let entries = fs::read_dir(&self.parent)
            .map_err(|source| self.failed("list", &self.parent, source))?;
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&marker) {
                let path = entry.path();
                let removed = if path.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                removed.map_err(|source| self.failed("remove", &path, source))?;
            }
        }
        let bad = self.beside(&format!("bad-{unix_secs}"));
        fs::rename(&self.directory, &bad)
            .map_err(|source| self.failed("set aside", &self.directory, source))?;
        self.sync_parent()?;
        Ok(Some(bad))
    }

    /// Writes a file durably; after a crash it is complete or absent.
    fn write(&self, suffix: &str, text: &str) -> Result<(), IndexError> {
        let path = self.beside(suffix);
        let new = self.beside(&format!("{suffix}.new"));
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            self.disk.sync_file(&new, &file)?;
            fs::rename(&new, &path)
        });
        written.map_err(|source| self.failed("write", &path, source))?;
        self.sync_parent()
    }

    fn remove(&self, suffix: &str) -> Result<(), IndexError> {
        let path = self.beside(suffix);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(self.failed("remove", &path, source)),
            Ok(()) => self.sync_parent(),
        }
    }

    fn sync_parent(&self) -> Result<(), IndexError> {
        let synced = self.disk.sync_directory(&self.parent);
        synced.map_err(|source| self.failed("sync", &self.parent, source))
    }

    fn failed(&self, doing: &str, path: &Path, source: io::Error) -> IndexError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IndexError::Full {
                path: self.directory.clone(),
            },
            _ => IndexError::Io {
                doing: format!("{doing} {}", path.display()),
                source,
            },
        }
    }
}
