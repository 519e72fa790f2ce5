//! The directory that a file store lies in: paths of keys, temporaries, time stamps, syncs of directories.
//!
//! Must not know what a group or an upload is. Invariants: whatever has a path from [`Volume::new_path`] is gone after the
//! next start at the latest; a directory without a failure is durable when [`sync_directories`] returns.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Seek as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::boundary::Boundary;
use super::disk::{Disk, NewTime, Reach, WatchedDisk, is_absent};
use crate::clock::Clock;
use crate::durable_file::accept_unsyncable;
use crate::heartbeat::Heartbeat;
use crate::layout::{Key, Place, Prefix};
use crate::oci::{Algorithm, Digest};
use crate::platform;
use crate::store::{Meta, StoreError, Version};

/// Where in our own directory something without a name of its own lies.
#[derive(Debug, Clone, Copy)]
pub(super) enum Corner {
    /// On its way in.
    Temporary,
    /// On its way out.
    Trash,
}

impl Corner {
    fn name(self) -> &'static str {
        match self {
            Self::Temporary => "tmp",
            Self::Trash => "trash",
        }
    }
}

pub(super) struct Volume {
    root: PathBuf,
    pub(super) is_readonly: bool,
    pub(super) boundary: Boundary,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    names: AtomicU64,
    last_stamp: Mutex<SystemTime>,
    /// Of all calls that write.
    pub(super) writing: Arc<Heartbeat>,
}

impl Volume {
    /// Prepares `root`: an empty `tmp/` and `trash/`, and the directory of the directories that blobs are spread over.
    pub(super) fn open(
        root: PathBuf,
        is_readonly: bool,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let volume = Self::without_blobs(root, is_readonly, disk, clock)?;
        if !is_readonly {
            volume.prepare().map_err(unprepared)?;
        }
        Ok(volume)
    }

    /// A directory of upload sessions alone.
    pub(super) fn without_blobs(
        root: PathBuf,
        is_readonly: bool,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        if !is_readonly {
            make_root(&root).map_err(unprepared)?;
        }
        let boundary = Boundary::open(&root, disk.as_ref()).map_err(unprepared)?;
        let writing = Heartbeat::new("writing to the store's disk", Arc::clone(&clock));
        Ok(Self {
            root,
            is_readonly,
            boundary,
            disk: Arc::new(WatchedDisk::new(disk, Arc::clone(&writing))),
            clock,
            writing,
            names: AtomicU64::new(0),
            last_stamp: Mutex::new(UNIX_EPOCH),
        })
    }

    fn prepare(&self) -> io::Result<()> {
        for own in self.boundary.own_directories() {
            for corner in [Corner::Temporary, Corner::Trash] {
                let path = own.join(corner.name());
                if path.exists() {
                    self.disk.remove_tree(&path)?;
                }
                fs::create_dir_all(path)?;
            }
        }
        let blobs = self.blob_directories_parent();
        fs::create_dir_all(&blobs)?;
        let below = blobs.ancestors().take_while(|above| *above != self.root);
        let directories: Vec<&Path> = below.chain([&*self.root]).collect();
        if let Some((_, error)) = sync_directories(self, &directories, Reach::Medium, &|| {}).pop()
        {
            return Err(error);
        }
        // The root's own name. The directory above may be closed to us; then another user has made this one.
        if let Ok(root) = self.root.canonicalize()
            && let Some(above) = root.parent()
        {
            let _ = self.sync_directory(above, Reach::Medium);
        }
        Ok(())
    }

    /// Makes the directories that blobs are spread over, where they are missing, and gives those that are durable now, with
    /// all above them: a push need not sync them. They take 20 ms, which a start does not wait for.
    pub(super) fn make_blob_directories(&self) -> io::Result<BTreeSet<PathBuf>> {
        if self.is_readonly {
            return Ok(BTreeSet::new());
        }
        let blobs = self.blob_directories_parent();
        let there: BTreeSet<OsString> = fs::read_dir(&blobs)?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                entry.file_type().ok()?.is_dir().then(|| entry.file_name())
            })
            .collect();
        let mut directories = BTreeSet::new();
        for number in 0..=u8::MAX {
            let name = format!("{number:02x}");
            let directory = blobs.join(&name);
            if !there.contains(OsStr::new(&name)) {
                fs::create_dir(&directory)?;
            }
            directories.insert(directory);
        }
        // The names above were synced when the volume was opened.
        self.sync_directory(&blobs, Reach::Medium)?;
        let above = blobs.ancestors().take_while(|above| *above != self.root);
        directories.extend(above.map(Path::to_owned));
        Ok(directories)
    }

    /// `…/blobs/sha256`, three levels above the data of any blob.
    pub(super) fn blob_directories_parent(&self) -> PathBuf {
        let blob = Place::BlobData(Digest::of(Algorithm::Sha256, b""));
        let data = self.path(&blob.key());
        data.ancestors().nth(3).unwrap_or(&self.root).to_owned()
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Keys have no empty, `.` or `..` components, so the path lies below the root.
    pub(super) fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// The directory of a prefix, without a slash at its end.
    pub(super) fn directory(&self, prefix: &Prefix) -> PathBuf {
        let text = prefix.as_str();
        self.root.join(text.strip_suffix('/').unwrap_or(text))
    }

    /// A path that nothing has had since the store was opened, on the file system of `near`.
    pub(super) fn new_path(&self, corner: Corner, near: &Path) -> PathBuf {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let own = self.boundary.own_directory(near);
        own.join(corner.name()).join(number.to_string())
    }

    /// The time now, later than every one given before: two contents of a key never share a modification time, so they
    /// never share a version, even where an inode number is used again within one tick of the kernel's clock.
    pub(super) fn new_stamp(&self) -> SystemTime {
        let mut last = self
            .last_stamp
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = self.clock.now().max(*last + Duration::from_nanos(1));
        *last
    }

    /// Gives a file or directory the time [`Volume::new_stamp`]; the present one where it belongs to another user, who lets
    /// us write (a tree of the old registry, a shared volume); none where the file system has no such call. No time is worth
    /// a refused push: what a store's reader relies on is in the files.
    pub(super) fn set_stamp(&self, file: &File) -> io::Result<()> {
        let chosen = self.disk.set_time(file, NewTime::At(self.new_stamp()));
        match chosen {
            Err(error) if is_not_ours_to_change(&error) => {}
            chosen => return chosen,
        }
        match self.disk.set_time(file, NewTime::Now) {
            Err(error) if is_not_ours_to_change(&error) => Ok(()),
            set => set,
        }
    }

    /// Makes the names in a directory durable, where the file system can do that.
    pub(super) fn sync_directory(&self, path: &Path, reach: Reach) -> io::Result<()> {
        accept_unsyncable(path, self.disk.sync_directory(path, reach))
    }

    /// A file with `bytes` in it, synced, without a name of its own, on its way to `key`.
    pub(super) fn write_temporary(&self, bytes: &Bytes, key: &Key) -> io::Result<Incoming> {
        let (temporary, file) = self.new_temporary(key)?;
        self.disk.write(&file, bytes, 0)?;
        self.set_stamp(&file)?;
        self.disk.sync_file(&file)?;
        Ok(temporary)
    }

    /// The same with all bytes of `source`, which lies on another file system than `key`.
    pub(super) fn copy_temporary(&self, source: &File, key: &Key) -> io::Result<Incoming> {
        let (temporary, mut file) = self.new_temporary(key)?;
        let mut source = source;
        source.rewind()?;
        io::copy(&mut source, &mut file)?;
        self.set_stamp(&file)?;
        self.disk.sync_file(&file)?;
        Ok(temporary)
    }

    fn new_temporary(&self, key: &Key) -> io::Result<(Incoming, File)> {
        let path = self.new_path(Corner::Temporary, &self.path(key));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        // Made before the first thing that can fail, so that it is removed then.
        let temporary = Incoming {
            path,
            is_kept: false,
        };
        Ok((temporary, file))
    }
}

fn unprepared(source: io::Error) -> StoreError {
    StoreError::from_io("prepare the directory of the store", source)
}

/// What a new store's root may: its owner everything, its group read (backups), others nothing.
const ROOT_MODE: u32 = 0o750;

/// Makes the store's root where it is missing; one that is there keeps its mode.
pub(super) fn make_root(root: &Path) -> io::Result<()> {
    match fs::metadata(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(above) = root.parent() {
                fs::create_dir_all(above)?;
            }
            match DirBuilder::new().mode(ROOT_MODE).create(root) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        _ => {}
    }
    Ok(())
}

/// Has this process make nothing that is open wider than the root of its store, which thereby decides for a tree of the old
/// registry and for one that a group writes to. No file is ever writable for all users.
pub(super) fn tighten_umask(root: &Path) -> io::Result<()> {
    let mode = fs::metadata(root)?.permissions().mode();
    platform::tighten_umask(umask_for(mode));
    Ok(())
}

/// Which permissions nothing below a root of `mode` gets.
fn umask_for(mode: u32) -> u32 {
    (!mode & 0o077) | 0o002
}

/// A file on its way to its key: below `tmp/`, and then removed when dropped unless it was renamed by then, or in the directory
/// of an upload.
pub(super) struct Incoming {
    pub(super) path: PathBuf,
    is_kept: bool,
}

impl Incoming {
    /// One that stays where it is if it is not renamed.
    pub(super) fn kept(path: PathBuf) -> Self {
        Self {
            path,
            is_kept: true,
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // Not there any more in the good case; what cannot be removed now is removed at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// What the file system tells of a file or directory, as the seam speaks of it.
pub(super) fn meta_of(metadata: &Metadata) -> Meta {
    Meta {
        size_bytes: metadata.len(),
        version: Version(format!(
            "{:x}-{:x}.{:x}-{:x}",
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.len()
        )),
        written: metadata.modified().ok(),
    }
}

/// Whether `error` means that a time cannot be set by us, or not here.
fn is_not_ours_to_change(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput
    )
}

/// How many directories are synced at once. Each sync ends in a flush of the drive, and the kernel joins those that
/// come together; a request alone changes about six directories.
const SYNCS_MAX: usize = 8;

/// Syncs each directory once; returns the positions of those that failed. The last one comes after the others, so that its
/// `reach` is that of all. `moved` hears of each.
pub(super) fn sync_directories(
    volume: &Volume,
    directories: &[&Path],
    reach: Reach,
    moved: &(dyn Fn() + Sync),
) -> Vec<(usize, io::Error)> {
    let Some((last, others)) = directories.split_last() else {
        return Vec::new();
    };
    let failures = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(directory) = others.get(position) else {
                return;
            };
            if let Err(error) = sync(volume, directory, Reach::Drive) {
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.push((position, error));
            }
            moved();
        }
    };
    thread::scope(|scope| {
        for _ in 1..others.len().min(SYNCS_MAX) {
            // Without helpers this thread does it all.
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let mut failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = sync(volume, last, reach) {
        failures.push((others.len(), error));
    }
    failures
}

/// Instead of a directory that was removed meanwhile, the root is synced, which reaches as far.
fn sync(volume: &Volume, directory: &Path, reach: Reach) -> io::Result<()> {
    match volume.sync_directory(directory, reach) {
        Err(error) if is_absent(&error) => volume.sync_directory(volume.root(), reach),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_open_wider_than_the_root_or_to_be_written_by_all() {
        let cases = [
            (0o750, 0o027),
            (0o755, 0o022),
            (0o700, 0o077),
            (0o2775, 0o002),
            (0o777, 0o002),
            (0o770, 0o007),
        ];
        for (root, umask) in cases {
            assert_eq!(umask_for(root), umask, "{root:o}");
        }
    }
}
