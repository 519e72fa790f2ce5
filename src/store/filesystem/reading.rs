//! Content of files: streams of it, small ones whole, and what is known without it.
//!
//! Must not know keys beyond what an error message says. Invariant: a stream gives exactly the bytes asked for or ends
//! with an error, also where the file shrinks underneath.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::task::{JoinHandle, spawn_blocking};

use super::blocking;
use super::volume::{is_absent, meta_of};
use crate::layout::Key;
use crate::store::{ByteStream, Meta, Small, StoreError};

/// How much one read takes: larger ones were measured to be slower, smaller ones pay for more hops between threads.
const PIECE_BYTES: u64 = 256 * 1024;

/// What is known of the file at `path`, if there is one; blocks.
pub(super) fn head(path: &Path, key: &Key) -> Result<Option<Meta>, StoreError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(None),
        Ok(metadata) => Ok(Some(meta_of(&metadata))),
        Err(error) if is_absent(&error) => Ok(None),
        Err(source) => Err(StoreError::from_io(format!("read {key}"), source)),
    }
}

/// The whole file at `path`, if it is no longer than `size_max_bytes`; blocks.
pub(super) fn small(path: &Path, key: &Key, size_max_bytes: u64) -> Result<Small, StoreError> {
    let read = || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(Small::Absent);
        }
        let meta = meta_of(&metadata);
        if meta.size_bytes > size_max_bytes {
            return Ok(Small::TooLarge(meta));
        }
        let bytes = read_piece(&file, meta.size_bytes)?;
        Ok(Small::Whole(meta, bytes))
    };
    match read() {
        Err(error) if is_absent(&error) => Ok(Small::Absent),
        read => read.map_err(|source| StoreError::from_io(format!("read {key}"), source)),
    }
}

/// The file at `path`, or `range` of it; `doing` tells in an error what was done.
pub(super) async fn get(
    path: PathBuf,
    range: Option<Range<u64>>,
    doing: String,
) -> Result<(Meta, ByteStream), StoreError> {
    let failed = {
        let doing = doing.clone();
        move |source: io::Error| {
            if is_absent(&source) {
                StoreError::NotFound
            } else {
                StoreError::from_io(doing, source)
            }
        }
    };
    // The first piece is read in the same hop, so a small file takes only one.
    let (meta, reader) = blocking(move || {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let meta = meta_of(&metadata);
        let range = range.unwrap_or(0..meta.size_bytes);
        if range.start > range.end || range.end > meta.size_bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if range.start > 0 {
            file.seek(SeekFrom::Start(range.start))?;
        }
        let mut reader = Reader {
            file: Arc::new(file),
            left_bytes: range.end - range.start,
            next: Next::Nothing,
            doing,
        };
        let first_bytes = reader.take_length();
        if first_bytes > 0 {
            reader.next = Next::Ready(read_piece(&reader.file, first_bytes)?);
        }
        Ok((meta, reader))
    })
    .await?
    .map_err(failed)?;
    Ok((meta, stream::unfold(reader, Reader::advance).boxed()))
}

struct Reader {
    file: Arc<File>,
    /// Behind what `next` holds or brings.
    left_bytes: u64,
    next: Next,
    doing: String,
}

enum Next {
    Ready(Bytes),
    Coming(JoinHandle<io::Result<Bytes>>),
    Nothing,
}

impl Reader {
    async fn advance(mut self) -> Option<(Result<Bytes, StoreError>, Self)> {
        let piece = match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Ready(piece) => Ok(piece),
            Next::Coming(task) => task.await.map_err(io::Error::other).flatten(),
            Next::Nothing => return None,
        };
        if piece.is_ok() {
            self.read_ahead();
        }
        let piece = piece.map_err(|source| StoreError::from_io(self.doing.clone(), source));
        Some((piece, self))
    }

    /// Starts the next read, so that it runs while the piece before it is sent.
    fn read_ahead(&mut self) {
        let length = self.take_length();
        if length > 0 {
            let file = Arc::clone(&self.file);
            self.next = Next::Coming(spawn_blocking(move || read_piece(&file, length)));
        }
    }

    fn take_length(&mut self) -> u64 {
        let length = self.left_bytes.min(PIECE_BYTES);
        self.left_bytes -= length;
        length
    }
}

/// Reads on from where the file stands. Only one read of a stream runs at a time, so they share the position.
fn read_piece(mut file: &File, length: u64) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
    file.by_ref().take(length).read_to_end(&mut piece)?;
    if piece.len() as u64 == length {
        Ok(piece.into())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
