//! A disk for tests: remembers what was synced, runs full, and can be held.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::engine::{Disk, RealDisk};

#[derive(Default)]
pub(super) struct RecordingDisk {
    /// Each file as it was when it was last synced.
    synced: Mutex<HashMap<PathBuf, Vec<u8>>>,
    pub(super) is_full: AtomicBool,
    pub(super) file_syncs: AtomicU64,
    /// While this is held, the database is not synced.
    pub(super) gate: Mutex<()>,
}

impl RecordingDisk {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Leaves in `to` what a power cut would leave of the index `from`: the database as it was synced, names as they are.
    pub(super) fn cut_power(&self, from: &Path, to: &Path) {
        let parent = from.parent().unwrap();
        fs::create_dir_all(to).unwrap();
        let synced = self.synced.lock().unwrap();
        for directory in [parent, from] {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let new = to.join(path.strip_prefix(parent).unwrap());
                if path.is_dir() {
                    fs::create_dir_all(&new).unwrap();
                } else if path.ends_with("db") {
                    fs::write(&new, synced.get(&path).map_or(&[][..], Vec::as_slice)).unwrap();
                } else {
                    fs::copy(&path, &new).unwrap();
                }
            }
        }
    }
}

impl Disk for RecordingDisk {
    fn sync_file(&self, path: &Path, file: &File) -> io::Result<()> {
        if path.ends_with("db") {
            drop(self.gate.lock().unwrap());
        }
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file_syncs.fetch_add(1, Ordering::Relaxed);
        RealDisk.sync_file(path, file)?;
        let mut synced = self.synced.lock().unwrap();
        synced.insert(path.to_owned(), fs::read(path)?);
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_directory(path)
    }

    fn room_bytes(&self, path: &Path) -> io::Result<u64> {
        if self.is_full.load(Ordering::Relaxed) {
            return Ok(1 << 20);
        }
        RealDisk.room_bytes(path)
    }
}
