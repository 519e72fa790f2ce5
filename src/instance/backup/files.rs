//! Files and directories of a copy: written whole, with the modes of the originals, and hashed on their way.
//!
//! Must not know what the files mean. Invariants: a file has its final name only when its bytes are on the disk, or before the
//! whole file system is synced; where root writes, everything belongs to the owner of the directory that the copy is in.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::durable_file::{PRIVATE_FILE, directory_of};
use crate::oci::{Algorithm, Digest, Hasher};
use crate::platform;

/// What one read takes: large enough that the calls cost little beside the hashing.
const PIECE_BYTES: usize = 1024 * 1024;

/// How many files are copied at once: hashing takes a processor each, and a disk is full of work with a few.
const COPIES_AT_ONCE: usize = 4;

/// The permissions of a mode.
const PERMISSIONS: u32 = 0o777;

/// The directory that a copy is in.
pub(super) struct Target {
    root: PathBuf,
    /// To whom everything is given, where this process is root and the directory another user's.
    owner: Option<(u32, u32)>,
}

/// Why a file was not copied.
#[derive(Debug)]
pub(super) enum CopyError {
    /// The original cannot be read.
    Read(io::Error),
    /// The copy cannot be written.
    Write(io::Error),
}

/// Whether a file must be on the disk when it gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durable {
    /// Yes: a later run relies on the name.
    BeforeName,
    /// No: the caller syncs the file system before it relies on it.
    Later,
}

impl Target {
    /// The directory at `root`, made for its owner alone if it is missing.
    pub(super) fn at(root: &Path) -> io::Result<Self> {
        let is_new = !root.exists();
        if is_new {
            DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        }
        let is_root = platform::effective_user_id() == 0;
        let above = if is_new { directory_of(root) } else { root };
        let metadata = fs::metadata(above)?;
        let target = Self {
            root: root.to_owned(),
            owner: (is_root && metadata.uid() != 0).then(|| (metadata.uid(), metadata.gid())),
        };
        target.give(&File::open(root)?)?;
        Ok(target)
    }

    /// Where something is in it.
    pub(super) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    fn give(&self, file: &File) -> io::Result<()> {
        match self.owner {
            Some((user, group)) => fchown(file, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    /// Makes a directory with those above it.
    pub(super) fn make_directory(&self, relative: &Path, mode: u32) -> io::Result<()> {
        let path = self.path(relative);
        match DirBuilder::new().mode(mode & PERMISSIONS).create(&path) {
            Ok(()) if self.owner.is_some() => self.give(&File::open(&path)?),
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match relative
                    .parent()
                    .filter(|above| !above.as_os_str().is_empty())
                {
                    Some(above) => self.make_directory(above, mode)?,
                    None => return Err(error),
                }
                self.make_directory(relative, mode)
            }
            Err(error) => Err(error),
        }
    }

    /// A new file, in place of what has its name. Directories above it are open as far as `directory_mode` says.
    pub(super) fn create(
        &self,
        relative: &Path,
        mode: u32,
        directory_mode: u32,
    ) -> io::Result<File> {
        self.make_directory(relative.parent().unwrap_or(Path::new("")), directory_mode)?;
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(PRIVATE_FILE);
        let file = options.open(self.path(relative))?;
        self.give(&file)?;
        file.set_permissions(Permissions::from_mode(mode & PERMISSIONS))?;
        Ok(file)
    }

    /// Writes a small file whole.
    pub(super) fn write(
        &self,
        relative: &Path,
        bytes: &[u8],
        mode: u32,
        directory_mode: u32,
    ) -> io::Result<()> {
        self.create(relative, mode, directory_mode)?
            .write_all(bytes)
    }

    /// Copies the file at `source` to `relative` if its bytes have the digest `expected`. Returns the digest that was found, and
    /// how many bytes there are.
    pub(super) fn copy(
        &self,
        source: &Path,
        relative: &Path,
        expected: &Digest,
        durable: Durable,
        directory_mode: u32,
    ) -> Result<(Digest, u64), CopyError> {
        let mut original = File::open(source).map_err(CopyError::Read)?;
        let metadata = original.metadata().map_err(CopyError::Read)?;
        if !metadata.is_file() {
            return Err(CopyError::Read(io::ErrorKind::InvalidInput.into()));
        }
        let mut part = relative.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let copied = self.copy_part(
            &mut original,
            &part,
            metadata.mode(),
            expected,
            directory_mode,
        );
        let copied = copied.and_then(|(file, digest, size_bytes)| {
            if digest != *expected {
                return Ok((digest, size_bytes));
            }
            if durable == Durable::BeforeName {
                file.sync_all().map_err(CopyError::Write)?;
            }
            fs::rename(self.path(&part), self.path(relative)).map_err(CopyError::Write)?;
            Ok((digest, size_bytes))
        });
        // It has its name, or is of no use.
        let _ = fs::remove_file(self.path(&part));
        copied
    }

    fn copy_part(
        &self,
        original: &mut File,
        part: &Path,
        mode: u32,
        expected: &Digest,
        directory_mode: u32,
    ) -> Result<(File, Digest, u64), CopyError> {
        let file = self.create(part, mode, directory_mode);
        let mut file = file.map_err(CopyError::Write)?;
        let mut hasher = Hasher::new(expected.algorithm());
        let mut size_bytes = 0;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = read(original, &mut piece).map_err(CopyError::Read)?;
            let Some(bytes) = piece.get(..length).filter(|bytes| !bytes.is_empty()) else {
                return Ok((file, hasher.finish(), size_bytes));
            };
            hasher.update(bytes);
            file.write_all(bytes).map_err(CopyError::Write)?;
            size_bytes += length as u64;
        }
    }
}

/// The digest of the file at `path`, and its length.
pub(super) fn digest_of(path: &Path, algorithm: Algorithm) -> io::Result<(Digest, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new(algorithm);
    let mut size_bytes = 0;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = read(&mut file, &mut piece)?;
        match piece.get(..length).filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => hasher.update(bytes),
            None => return Ok((hasher.finish(), size_bytes)),
        }
        size_bytes += length as u64;
    }
}

fn read(file: &mut File, piece: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Does `work` for each of `items`, for a few at once. Ends early with the first error.
pub(super) fn for_each<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let one_by_one = || -> anyhow::Result<()> {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item).inspect_err(|_| next.store(items.len(), Ordering::Relaxed))?;
        }
        Ok(())
    };
    if items.len() < 2 {
        return one_by_one();
    }
    thread::scope(|scope| {
        let workers = COPIES_AT_ONCE.min(items.len());
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(one_by_one)).collect();
        let ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        // All have ended before the first error is reported.
        let ended: Vec<_> = ended.collect();
        ended.into_iter().collect()
    })
}
