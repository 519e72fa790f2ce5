//! Streams of file content.
//!
//! What the system has in memory is read right where it is sent from; what it must fetch from the disk is read on another
//! thread, and the next piece with it, so that the disk works while a piece is sent. Must not know keys. Invariant: a stream
//! gives exactly the bytes asked for or ends with an error, also where the file shrinks underneath.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::task::{JoinHandle, spawn_blocking};

use super::buffers::{BUFFER_BYTES, Buffers};
use super::reading::{MustWait, Opened, exactly_at_once, length, open, open_at_once};
use super::volume::Volume;
use crate::layout::Key;
use crate::oci::range::ByteRange;
use crate::platform;
use crate::store::{Content, Meta, StoreError};

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
