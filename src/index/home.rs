//! The files beside the database: lock, marker of an opening, state, and what was set aside.
//!
//! Must not know what is in the database. Invariant: nothing is written before the lock is held; each file here is whole or
//! absent after a power cut; of the databases set aside, the newest is kept.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::IndexError;
use super::disk::Disk;
use crate::durable_file;

pub(super) struct Home {
    /// The database's directory.
    pub(super) directory: PathBuf,
    /// In which all of this lies.
    parent: PathBuf,
    name: String,
    pub(super) disk: Arc<dyn Disk>,
    /// Unlocked by the system when it is closed, however the process ends.
    _lock: File,
}

/// What is known of the database from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) generation: u64,
    /// The number of the last commit, if it was closed in order.
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

    /// How many openings in a row did not come to an end.
    pub(super) fn unfinished_openings(&self) -> u64 {
        let text = fs::read_to_string(self.beside("opening")).unwrap_or_default();
        // A marker that cannot be read was left behind all the same.
        let marked = self.beside("opening").exists();
        text.trim().parse().unwrap_or(u64::from(marked))
    }

    pub(super) fn mark_opening(&self, number: u64) -> Result<(), IndexError> {
        self.write("opening", &number.to_string())
    }

    pub(super) fn unmark_opening(&self) -> Result<(), IndexError> {
        self.remove("opening")
    }

    /// `None` if there is none that can be read.
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

    /// Whether anything lies where the database belongs.
    pub(super) fn is_empty(&self) -> bool {
        match fs::read_dir(&self.directory) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Removes what an opening that was cut short wrote of a snapshot: sled would take it for the newest one.
    pub(super) fn remove_torn_snapshots(&self) -> Result<(), IndexError> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A file in the place of the directory is found when it is opened.
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

    /// Makes what sled wrote while it was being closed durable too.
    pub(super) fn sync_database(&self) -> Result<(), IndexError> {
        let path = self.directory.join("db");
        let synced = File::open(&path)
            .and_then(|file| self.disk.sync_file(&path, &file))
            .and_then(|()| self.disk.sync_directory(&self.directory));
        synced.map_err(|source| self.failed("sync", &path, source))
    }

    /// Moves the database out of the way and tells where to; `None` if there was none.
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

    /// Whole or not at all, and durable.
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
