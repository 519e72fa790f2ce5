//! What is at a path: whether there is a file, and a small one's content.
//!
//! Each question can be put where waiting is allowed, and at once: then it is answered only if the system has the answer in
//! memory, which is the common case and takes microseconds, a fraction of the way to another thread and back. Must not know
//! keys. Invariant: an answer at once is the one that waiting would give.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;

use super::volume::{Volume, is_absent, meta_of};
use crate::platform;
use crate::store::{Meta, Small};

/// What is asked is not in memory, or what is wrong is not for this way to say.
pub(super) struct MustWait;

/// What is known of the file at `path`, if there is one; blocks.
pub(super) fn head(volume: &Volume, path: &Path) -> io::Result<Option<Meta>> {
    if !volume.boundary.is_followed(path) {
        return Ok(None);
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(None),
        Ok(metadata) => Ok(Some(meta_of(&metadata))),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// [`head`], without waiting.
pub(super) fn head_at_once(path: &Path) -> Result<Option<Meta>, MustWait> {
    match Opened::at_once(path, false)? {
        Opened::File(_, meta) => Ok(Some(meta)),
        Opened::Nothing => Ok(None),
    }
}

/// The whole file at `path`, if it is no longer than `size_max_bytes`; blocks.
pub(super) fn small(volume: &Volume, path: &Path, size_max_bytes: u64) -> io::Result<Small> {
    let (file, meta) = match open(volume, path)? {
        Opened::File(file, meta) => (file, meta),
        Opened::Nothing => return Ok(Small::Absent),
    };
    if meta.size_bytes > size_max_bytes {
        return Ok(Small::TooLarge(meta));
    }
    let mut bytes = vec![0; length(meta.size_bytes)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Small::Whole(meta, bytes.into()))
}

/// [`small`], without waiting.
pub(super) fn small_at_once(path: &Path, size_max_bytes: u64) -> Result<Small, MustWait> {
    let (file, meta) = match open_at_once(path)? {
        Opened::File(file, meta) => (file, meta),
        Opened::Nothing => return Ok(Small::Absent),
    };
    if meta.size_bytes > size_max_bytes {
        return Ok(Small::TooLarge(meta));
    }
    let length = length(meta.size_bytes).map_err(|_| MustWait)?;
    let bytes = exactly_at_once(&file, length, 0).ok_or(MustWait)?;
    Ok(Small::Whole(meta, bytes))
}

/// `length` bytes from `offset_bytes` on, if all of them are in memory.
pub(super) fn exactly_at_once(file: &File, length: usize, offset_bytes: u64) -> Option<Bytes> {
    let mut bytes = vec![0; length];
    let is_whole = length == 0
        || platform::read_at_once(file, &mut bytes, offset_bytes).is_ok_and(|read| read == length);
    is_whole.then(|| bytes.into())
}

/// What is at a path.
pub(super) enum Opened {
    /// A file, and what is known of it.
    File(File, Meta),
    /// No file.
    Nothing,
}

impl Opened {
    fn at_once(path: &Path, is_read: bool) -> Result<Self, MustWait> {
        Self::of(platform::open_at_once(path, is_read)).map_err(|_| MustWait)
    }

    fn of(opened: io::Result<File>) -> io::Result<Self> {
        let metadata = opened.and_then(|file| {
            let metadata = file.metadata()?;
            Ok((file, metadata))
        });
        match metadata {
            Ok((file, metadata)) if metadata.is_file() => Ok(Self::File(file, meta_of(&metadata))),
            Ok(_) => Ok(Self::Nothing),
            Err(error) if is_absent(&error) => Ok(Self::Nothing),
            Err(error) => Err(error),
        }
    }
}

/// Opens what is at `path`; blocks. A link out of the tree leads to nothing.
pub(super) fn open(volume: &Volume, path: &Path) -> io::Result<Opened> {
    if !volume.boundary.is_followed(path) {
        return Ok(Opened::Nothing);
    }
    Opened::of(File::open(path))
}

/// [`open`], without waiting.
pub(super) fn open_at_once(path: &Path) -> Result<Opened, MustWait> {
    Opened::at_once(path, true)
}

pub(super) fn length(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(io::Error::other)
}
