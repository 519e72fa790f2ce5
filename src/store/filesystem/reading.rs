//! Reading files: whether there is one, a small one's content, and streams of large ones.
//!
//! Each question can be put where waiting is allowed, and at once: then it is answered only if the system has the answer in
//! memory, which is the common case and takes microseconds, a fraction of the way to another thread and back. A stream
//! sends what is in memory from where it is read; what must come from the disk is read on another thread, and the next piece
//! with it, so that the disk works while a piece is sent. Must not know what a key means. Invariants: an answer at once is
//! the one that waiting would give; a stream gives exactly the bytes asked for or ends with an error, also where the file
//! shrinks underneath.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::task::{JoinHandle, spawn_blocking};

use super::disk::is_absent;
use super::volume::{Volume, meta_of};
use crate::layout::Key;
use crate::oci::range::ByteRange;
use crate::platform;
use crate::store::{Content, Meta, Small, StoreError};

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

/// How much one read from memory takes: what is sent next should still be in the processor's cache.
const CACHED_PIECE_BYTES: usize = 128 * 1024;

/// How much one read from the disk takes: larger ones were measured to be slower, smaller ones pay for more hops between
/// threads.
const DISK_PIECE_BYTES: usize = BUFFER_BYTES;

/// What is shorter gets memory of its own: a buffer would be held for little.
const SMALL_BYTES: usize = 16 * 1024;

/// After how many pieces from the disk memory is tried again.
const DISK_PIECES: u32 = 16;

/// The content of `key`, or `range` of it.
pub(super) async fn read(
    volume: &Arc<Volume>,
    key: &Key,
    range: Option<ByteRange>,
    buffers: &Arc<Buffers>,
) -> io::Result<Content> {
    let (path, doing) = (volume.boundary.path(key), format!("read {key}"));
    let (volume, buffers) = (Arc::clone(volume), Arc::clone(buffers));
    let opened = match open_at_once(&path) {
        Ok(opened) => Reader::new(opened, range, buffers)?,
        Err(MustWait) => hop(move || Reader::new(open(&volume, &path)?, range, buffers)).await?,
    };
    let (meta, Some(mut reader)) = opened else {
        return Ok(Content::out_of_range(opened.0));
    };
    let range = Some(reader.left.clone());
    // The first piece now, so that an error at the start is returned before an answer has begun.
    if let Some(piece) = reader.next_piece().await {
        reader.first = Some(piece?);
    }
    let pieces = stream::unfold((reader, doing), |(reader, doing)| async {
        let (piece, reader) = reader.advance().await?;
        let piece = piece.map_err(|source| StoreError::from_io(doing.clone(), source));
        Some((piece, (reader, doing)))
    });
    Ok(Content {
        meta,
        range,
        bytes: pieces.boxed(),
    })
}

struct Reader {
    file: Arc<File>,
    buffers: Arc<Buffers>,
    /// What is not read, nor being read, yet.
    left: Range<u64>,
    first: Option<Bytes>,
    /// Read ahead.
    coming: Option<JoinHandle<io::Result<Bytes>>>,
    /// How many pieces are still taken from the disk before memory is tried again.
    disk_pieces: u32,
}

impl Reader {
    /// A reader of `range`, or of all; none if there is nothing in the range.
    fn new(
        opened: Opened,
        range: Option<ByteRange>,
        buffers: Arc<Buffers>,
    ) -> io::Result<(Meta, Option<Self>)> {
        let Opened::File(file, meta) = opened else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let left = match range {
            Some(range) => range.within(meta.size_bytes),
            None => Some(0..meta.size_bytes),
        };
        let reader = left.map(|left| Self {
            file: Arc::new(file),
            buffers,
            left,
            first: None,
            coming: None,
            disk_pieces: 0,
        });
        Ok((meta, reader))
    }

    async fn advance(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let piece = match self.first.take() {
            Some(first) => Ok(first),
            None => self.next_piece().await?,
        };
        if piece.is_err() {
            self.left = 0..0;
        }
        Some((piece, self))
    }

    async fn next_piece(&mut self) -> Option<io::Result<Bytes>> {
        if self.coming.is_none() && self.disk_pieces == 0 {
            if self.left.is_empty() {
                return None;
            }
            if let Some(piece) = self.piece_at_once() {
                return Some(Ok(piece));
            }
            self.disk_pieces = DISK_PIECES;
        }
        let coming = match self.coming.take() {
            Some(coming) => coming,
            None => self.read_ahead()?,
        };
        let piece = coming.await.map_err(io::Error::other).flatten();
        self.disk_pieces = self.disk_pieces.saturating_sub(1);
        if piece.is_ok() && self.disk_pieces > 0 {
            self.coming = self.read_ahead();
        }
        Some(piece)
    }

    /// The next bytes, as many as are in memory.
    fn piece_at_once(&mut self) -> Option<Bytes> {
        let wanted = self.wanted(CACHED_PIECE_BYTES);
        let piece = if wanted <= SMALL_BYTES {
            exactly_at_once(&self.file, wanted, self.left.start)?
        } else {
            let mut buffer = self.buffers.take();
            let read = platform::read_at_once(&self.file, buffer.front(wanted), self.left.start);
            let read = read.ok().filter(|read| *read > 0)?;
            buffer.filled(read)
        };
        self.left.start += piece.len() as u64;
        Some(piece)
    }

    /// Starts the next read where it may wait for the disk.
    fn read_ahead(&mut self) -> Option<JoinHandle<io::Result<Bytes>>> {
        let wanted = self.wanted(DISK_PIECE_BYTES);
        if wanted == 0 {
            return None;
        }
        let start = self.left.start;
        self.left.start += wanted as u64;
        let (file, buffers) = (Arc::clone(&self.file), Arc::clone(&self.buffers));
        Some(spawn_blocking(move || {
            let mut buffer = buffers.take();
            file.read_exact_at(buffer.front(wanted), start)?;
            Ok(buffer.filled(wanted))
        }))
    }

    fn wanted(&self, most: usize) -> usize {
        length(self.left.end - self.left.start).map_or(most, |left| left.min(most))
    }
}

async fn hop<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work)
        .await
        .map_err(io::Error::other)
        .flatten()
}

/// How long a buffer is.
pub(super) const BUFFER_BYTES: usize = 256 * 1024;

/// How many wait for their next use; what many readers needed at once is given back to the system.
const KEPT_MAX: usize = 32;

/// The buffers that are not in use.
#[derive(Default)]
pub(super) struct Buffers {
    free: Mutex<Vec<Box<[u8]>>>,
}

/// A buffer in use.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    buffers: Arc<Buffers>,
}

impl Buffers {
    /// A buffer with anything in it.
    pub(super) fn take(self: &Arc<Self>) -> Buffer {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = { free }.pop();
        Buffer {
            // Memory that the system gives is clear, and takes room only once it is used.
            bytes: bytes.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice()),
            filled: 0,
            buffers: Arc::clone(self),
        }
    }
}

impl Buffer {
    /// The first `count` bytes of it, or all, to be filled.
    pub(super) fn front(&mut self, count: usize) -> &mut [u8] {
        let count = count.min(self.bytes.len());
        let (front, _) = self.bytes.split_at_mut(count);
        front
    }

    /// The first `count` bytes as content.
    pub(super) fn filled(mut self, count: usize) -> Bytes {
        self.filled = count;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or(&self.bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let free = self.buffers.free.lock();
        let mut free = free.unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT_MAX {
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_part_is_gone_and_never_before() {
        let buffers = Arc::new(Buffers::default());
        let kept = || buffers.free.lock().unwrap().len();
        let mut buffer = buffers.take();
        buffer.front(4).copy_from_slice(b"abcd");
        let content = buffer.filled(4);
        let part = content.slice(1..3);
        drop(content);
        assert_eq!(kept(), 0);
        let mut other = buffers.take();
        other.front(4).copy_from_slice(b"efgh");
        assert_eq!(part, "bc");
        drop(part);
        assert_eq!(kept(), 1);
        let many: Vec<Buffer> = (0..=KEPT_MAX).map(|_| buffers.take()).collect();
        drop((other, many));
        assert_eq!(kept(), KEPT_MAX);
    }
}
