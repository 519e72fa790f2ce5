//! The few calls that decide what a power cut leaves.
//!
//! The calls that give files and directories their names, bytes and durability go through [`Disk`], so that tests can put a
//! recorder in its place; so do reads of directories, which tests count. Must not know keys, groups or barriers. Invariant:
//! each call does exactly what its name says, and nothing is synced that was not asked for.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{CWD, RenameFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::heartbeat::Heartbeat;
use crate::platform;

/// How far a sync reaches. Only macOS knows the difference: there a plain fsync leaves the drive's own cache alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// To the drive.
    Drive,
    /// Through the drive's cache, for all that was synced before as well.
    Medium,
}

/// A modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NewTime {
    /// A certain one, which only the owner of a file may choose.
    At(SystemTime),
    /// The present one, by the system's clock; the right to write is enough for that.
    Now,
}

pub(super) trait Disk: Send + Sync {
    /// Makes one directory; its parent must exist.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Writes all of `bytes` at `offset_bytes`.
    fn write(&self, file: &File, bytes: &[u8], offset_bytes: u64) -> io::Result<()>;

    /// Makes the content of `file` durable, not its name.
    fn sync_file(&self, file: &File) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path, reach: Reach) -> io::Result<()>;

    /// Makes durable all that any process has written to the file system of `path`.
    fn sync_file_system(&self, path: &Path) -> io::Result<()>;

    /// Gives a file or directory another name; a file that has that name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file another name; `AlreadyExists` if something has that name.
    fn rename_if_absent(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file or directory another modification time.
    fn set_time(&self, file: &File, time: NewTime) -> io::Result<()>;

    /// The names in a directory.
    fn read_directory(&self, path: &Path) -> io::Result<fs::ReadDir>;

    /// Which file system `path` lies on: nothing is renamed from one to another.
    fn device(&self, path: &Path) -> io::Result<u64>;

    /// Removes one file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn write(&self, file: &File, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset_bytes)
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        Ok(rustix::fs::fsync(file)?)
    }

    fn sync_directory(&self, path: &Path, reach: Reach) -> io::Result<()> {
        let directory = File::open(path)?;
        match reach {
            Reach::Drive => Ok(rustix::fs::fsync(&directory)?),
            // The standard library asks macOS for F_FULLFSYNC here.
            Reach::Medium => directory.sync_all(),
        }
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        platform::sync_file_system(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_if_absent(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some file systems (NFS, older FUSE) cannot; link(2) refuses an existing name everywhere.
            Err(Errno::NOSYS | Errno::INVAL | Errno::NOTSUP) => {
                fs::hard_link(from, to)?;
                fs::remove_file(from)
            }
            done => Ok(done?),
        }
    }

    fn set_time(&self, file: &File, time: NewTime) -> io::Result<()> {
        match time {
            NewTime::At(time) => file.set_modified(time),
            NewTime::Now => {
                // Only if both times are "now" does the system ask for no more than the right to write.
                let now = Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_NOW,
                };
                let times = Timestamps {
                    last_access: now,
                    last_modification: now,
                };
                Ok(rustix::fs::futimens(file, &times)?)
            }
        }
    }

    fn read_directory(&self, path: &Path) -> io::Result<fs::ReadDir> {
        fs::read_dir(path)
    }

    fn device(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.dev())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }
}

/// A disk whose calls are counted, so that one that does not answer shows: it does what the disk inside does, and each call
/// that returns is a move.
pub(super) struct WatchedDisk {
    inner: Arc<dyn Disk>,
    heartbeat: Arc<Heartbeat>,
}

impl WatchedDisk {
    pub(super) fn new(inner: Arc<dyn Disk>, heartbeat: Arc<Heartbeat>) -> Self {
        Self { inner, heartbeat }
    }
}

impl Disk for WatchedDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.make_directory(path)
    }

    fn write(&self, file: &File, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.write(file, bytes, offset_bytes)
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.sync_file(file)
    }

    fn sync_directory(&self, path: &Path, reach: Reach) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.sync_directory(path, reach)
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        // As long as other programs have much to write.
        self.inner.sync_file_system(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.rename(from, to)
    }

    fn rename_if_absent(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.rename_if_absent(from, to)
    }

    fn set_time(&self, file: &File, time: NewTime) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.set_time(file, time)
    }

    fn read_directory(&self, path: &Path) -> io::Result<fs::ReadDir> {
        self.inner.read_directory(path)
    }

    fn device(&self, path: &Path) -> io::Result<u64> {
        self.inner.device(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.remove_file(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        // A tree of a million files takes minutes, and no request waits for it.
        self.inner.remove_tree(path)
    }
}

/// Whether `error` means that there is nothing at the path; a name too long for the file system names nothing.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
    )
}
