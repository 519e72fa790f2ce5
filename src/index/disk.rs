//! The few calls on which the durability of the index rests.
//!
//! sled's own flush leaves file metadata and the drive's cache alone on Linux, so the index syncs by itself, through this
//! trait, in whose place tests put a recorder. Must not know what is synced. Invariant: each call does what its name says.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::durable_file;

pub(super) trait Disk: Send + Sync {
    /// Makes the content of a file durable, at `path`.
    fn sync_file(&self, path: &Path, file: &File) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// How much can still be written to the volume of `path`.
    fn room_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// The file system of this machine.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn sync_file(&self, _: &Path, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        durable_file::sync_directory(path)
    }

    fn room_bytes(&self, path: &Path) -> io::Result<u64> {
        let volume = rustix::fs::statvfs(path)?;
        Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
    }
}
