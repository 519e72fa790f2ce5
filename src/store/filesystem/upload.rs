//! An upload while it receives: gathers, and hashes and writes in one hop with one in flight.
//!
//! Must not know keys of blobs. Invariant: what `offset_bytes` counts is in the file and in the hashes, in flight, or
//! gathered; after an error it counts only what is in the file and in the hashes. Nothing is answered while the disk still
//! has to say whether it took what it was asked to write.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use super::blocking;
use super::committer::Writer;
use super::session::{Received, Segment, Session, Sink};
use crate::layout::Place;
use crate::oci::{Algorithm, Digest, Hasher};
use crate::store::{Step, StoreError, Upload};

/// How much is gathered for one hop: hashing it takes about a millisecond, which makes the hop's own cost vanish.
const GATHER_BYTES: usize = 1024 * 1024;

/// What all uploads together gather before they do with smaller hops: slow clients in great number must not fill the memory.
const GATHER_ALL_BYTES: usize = 32 * 1024 * 1024;

/// What each gathers then: less than what a connection receives at a time.
const GATHER_SCARCE_BYTES: usize = 16 * 1024;

/// How many pieces are gathered for one hop: a client that sends a byte at a time must not fill the memory with handles.
const GATHER_PIECES: usize = 1024;

/// How much may be dirty before writeback starts, so that the sync at the end finds little to do.
const WRITEBACK_BYTES: u64 = 32 * 1024 * 1024;

/// How much a restart may have to hash again: a fifth of a second's worth.
const CHECKPOINT_BYTES: u64 = 256 * 1024 * 1024;

pub(super) struct FileUpload {
    receiving: Receiving,
    writer: Arc<Writer>,
}

/// The bytes of an upload on their way into the files of its session.
pub(in crate::store) struct Receiving {
    pub(in crate::store) session: Arc<Session>,
    gathered: Gathered,
    sink: Slot,
    offset_bytes: u64,
}

/// Pieces that are not in the file yet, counted among those of all uploads.
struct Gathered {
    pieces: Vec<Bytes>,
    bytes: usize,
    of_all_bytes: Arc<AtomicUsize>,
}

impl Gathered {
    fn new(session: &Session) -> Self {
        Self {
            pieces: Vec::new(),
            bytes: 0,
            of_all_bytes: Arc::clone(&session.sessions.gathered_bytes),
        }
    }

    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.of_all_bytes.fetch_add(piece.len(), Ordering::Relaxed);
        self.pieces.push(piece);
    }

    fn is_enough(&self) -> bool {
        let is_scarce = self.of_all_bytes.load(Ordering::Relaxed) > GATHER_ALL_BYTES;
        self.bytes >= GATHER_BYTES
            || self.pieces.len() >= GATHER_PIECES
            || (is_scarce && self.bytes >= GATHER_SCARCE_BYTES)
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.of_all_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

enum Slot {
    Free(Sink),
    Busy(JoinHandle<(Sink, Result<(), StoreError>)>),
    /// The task that had it panicked; the session can be resumed.
    Lost,
}

impl Receiving {
    pub(in crate::store) fn new(session: Arc<Session>, sink: Sink) -> Self {
        Self {
            gathered: Gathered::new(&session),
            session,
            offset_bytes: sink.offset_bytes,
            sink: Slot::Free(sink),
        }
    }

    /// How many bytes were appended.
    pub(in crate::store) fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// See [`Upload::append`].
    pub(in crate::store) async fn append(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.offset_bytes += bytes.len() as u64;
        self.gathered.push(bytes);
        if self.gathered.is_enough() {
            self.flush().await?;
        }
        Ok(())
    }

    /// See [`Upload::persist`].
    pub(in crate::store) async fn persist(&mut self) -> Result<u64, StoreError> {
        self.flush().await?;
        self.finish_flight().await?;
        self.start(|session, sink| session.write_checkpoint(sink))
            .await?;
        self.finish_flight().await?;
        self.finish_writeback().await?;
        Ok(self.offset_bytes)
    }

    /// The digest of all that was appended, if it was computed while receiving.
    pub(in crate::store) async fn computed(
        &mut self,
        algorithm: Algorithm,
    ) -> Result<Option<Digest>, StoreError> {
        self.flush().await?;
        let hasher = self.finish_flight().await?.hasher(algorithm).cloned();
        Ok(hasher.map(Hasher::finish))
    }

    /// Computes one more hash from now on; `hasher` has all bytes before the present file.
    pub(in crate::store) async fn add_hasher(&mut self, hasher: Hasher) -> Result<(), StoreError> {
        self.flush().await?;
        self.finish_flight().await?;
        self.start(move |_, sink| sink.add_hasher(hasher)).await?;
        self.finish_flight().await?;
        Ok(())
    }

    /// Ends the present file, and begins the next: see [`Session::cut`].
    pub(in crate::store) async fn cut(
        &mut self,
        note: impl FnOnce(&Session, &Segment) -> io::Result<()> + Send + 'static,
    ) -> Result<Segment, StoreError> {
        self.flush().await?;
        self.finish_flight().await?;
        let (answer, cut) = oneshot::channel();
        self.start(move |session, sink| {
            let segment = session.cut(sink, |segment| note(session, segment))?;
            // It fails only where the caller has gone away; the segment is on the disk.
            let _ = answer.send(segment);
            Ok(())
        })
        .await?;
        self.finish_flight().await?;
        cut.await.map_err(|_| lost(&self.session))
    }

    /// Waits until nothing is in flight.
    pub(in crate::store) async fn settle(mut self) {
        // Whether the last bytes could be written makes no difference now.
        let _ = self.finish_flight().await;
        // What it finds must not be held against a session that is begun in the same place.
        let _ = self.finish_writeback().await;
    }

    /// Forgets the session and its bytes.
    async fn abort(self) -> Result<(), StoreError> {
        let session = Arc::clone(&self.session);
        self.settle().await;
        // What cannot be removed is purged later, as an old session.
        blocking(move || session.forget().unwrap_or_default()).await
    }

    async fn into_received(mut self) -> Result<Received, StoreError> {
        self.flush().await?;
        self.finish_flight().await?;
        self.finish_writeback().await?;
        match self.sink {
            Slot::Free(sink) => Ok(Received {
                data: self.session.data(),
                directory: self.session.directory.clone(),
                file: sink.file,
                session: self.session,
            }),
            Slot::Busy(_) | Slot::Lost => Err(lost(&self.session)),
        }
    }

    /// Sends off what is gathered, once what was sent before has arrived.
    async fn flush(&mut self) -> Result<(), StoreError> {
        if self.gathered.pieces.is_empty() {
            return Ok(());
        }
        self.finish_flight().await?;
        let gathered = std::mem::replace(&mut self.gathered, Gathered::new(&self.session));
        self.start(move |session, sink| write(session, sink, &gathered.pieces))
            .await
    }

    /// Works on the sink where blocking is allowed; the slot is busy until then, also where the caller goes away.
    async fn start(
        &mut self,
        work: impl FnOnce(&Arc<Session>, &mut Sink) -> io::Result<()> + Send + 'static,
    ) -> Result<(), StoreError> {
        let guard = Arc::clone(&self.session.shared.flight).lock_owned().await;
        let Slot::Free(mut sink) = std::mem::replace(&mut self.sink, Slot::Lost) else {
            return Err(lost(&self.session));
        };
        let session = Arc::clone(&self.session);
        self.sink = Slot::Busy(spawn_blocking(move || {
            let result = work(&session, &mut sink).map_err(|source| session.failed(source));
            drop(guard);
            (sink, result)
        }));
        Ok(())
    }

    /// Waits until the slot is free. After an error, only what is in the file counts.
    async fn finish_flight(&mut self) -> Result<&mut Sink, StoreError> {
        if let Slot::Busy(task) = &mut self.sink {
            let ended = task.await;
            self.sink = Slot::Lost;
            if let Ok((sink, result)) = ended {
                let offset_bytes = sink.offset_bytes;
                self.sink = Slot::Free(sink);
                if result.is_err() {
                    self.gathered = Gathered::new(&self.session);
                    self.offset_bytes = offset_bytes;
                }
                result?;
            }
        }
        match &mut self.sink {
            Slot::Free(sink) => Ok(sink),
            Slot::Busy(_) | Slot::Lost => Err(lost(&self.session)),
        }
    }

    /// Waits until the disk has answered for what it was asked to write. At most what came meanwhile is left to be written
    /// after it, which the sync at the end waits for anyway.
    async fn finish_writeback(&self) -> Result<(), StoreError> {
        drop(self.session.shared.writeback.lock().await);
        let checked = self.session.check();
        checked.map_err(|source| self.session.failed(source))
    }
}

impl FileUpload {
    pub(super) fn new((session, sink): (Arc<Session>, Sink), writer: &Arc<Writer>) -> Self {
        Self {
            receiving: Receiving::new(session, sink),
            writer: Arc::clone(writer),
        }
    }
}

#[async_trait]
impl Upload for FileUpload {
    fn offset_bytes(&self) -> u64 {
        self.receiving.offset_bytes()
    }

    async fn append(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.receiving.append(bytes).await
    }

    async fn persist(&mut self) -> Result<u64, StoreError> {
        self.receiving.persist().await
    }

    async fn digest(&mut self, algorithm: Algorithm) -> Result<Digest, StoreError> {
        if let Some(digest) = self.receiving.computed(algorithm).await? {
            return Ok(digest);
        }
        self.receiving.add_hasher(Hasher::new(algorithm)).await?;
        let digest = self.receiving.computed(algorithm).await?;
        // Just added.
        digest.ok_or_else(|| lost(&self.receiving.session))
    }

    async fn finish(
        mut self: Box<Self>,
        digest: &Digest,
        then: Vec<Step>,
    ) -> Result<(), StoreError> {
        if self.digest(digest.algorithm()).await? != *digest {
            return Err(StoreError::not_its_digest(&self.receiving.session.name));
        }
        let key = Place::BlobData(*digest).key();
        let received = self.receiving.into_received().await?;
        self.writer.write(Some((received, key)), then).await
    }

    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        self.receiving.abort().await
    }
}

fn write(session: &Arc<Session>, sink: &mut Sink, pieces: &[Bytes]) -> io::Result<()> {
    session.check()?;
    let disk = &session.sessions.volume.disk;
    let mut hashers = sink.hashers.clone();
    let mut checksum = sink.checksum.clone();
    let mut end_bytes = sink.offset_bytes;
    for piece in pieces {
        if let Err(error) = disk.write(&sink.file, piece, end_bytes - sink.start_bytes) {
            // Shrinking needs no room. Should it fail all the same, the end of the file is unknown. And only a lack of room
            // says nothing of earlier bytes: other errors may tell of what was taken before (NFS), once.
            let kept_bytes = sink.offset_bytes - sink.start_bytes;
            let is_kept = is_lack_of_room(&error) && sink.file.set_len(kept_bytes).is_ok();
            if !is_kept {
                session.refuse();
            }
            return Err(error);
        }
        // Right after it was written, while it is in the processor's cache: all pieces are too much for that.
        for hasher in &mut hashers {
            hasher.update(piece);
        }
        if let Some(checksum) = &mut checksum {
            checksum.update(piece);
        }
        end_bytes += piece.len() as u64;
    }
    sink.hashers = hashers;
    sink.checksum = checksum;
    sink.offset_bytes = end_bytes;
    if !session.sessions.is_spool
        && end_bytes - sink.writeback_bytes >= WRITEBACK_BYTES
        && start_writeback(session)
    {
        sink.writeback_bytes = end_bytes;
    }
    if end_bytes - sink.checkpoint_bytes.unwrap_or(0) >= CHECKPOINT_BYTES {
        session.write_checkpoint(sink)?;
    }
    Ok(())
}

/// Lets the disk begin with what was written; false if this upload, or the store, is at its limit.
fn start_writeback(session: &Arc<Session>) -> bool {
    let Ok(permit) = Arc::clone(&session.sessions.writebacks).try_acquire_owned() else {
        return false;
    };
    let Ok(turn) = Arc::clone(&session.shared.writeback).try_lock_owned() else {
        return false;
    };
    let session = Arc::clone(session);
    // A handle of its own: syncing needs no turn at the one that bytes are written to.
    spawn_blocking(move || {
        let disk = &session.sessions.volume.disk;
        // Where it cannot be opened, nothing is lost but time.
        if let Ok(file) = File::open(session.data())
            && let Err(error) = disk.sync_file(&file)
        {
            tracing::error!(
                error = %error,
                uploads = session.place(),
                "the disk has lost bytes of an upload, which ends; hint: check the disk"
            );
            // A piece in flight would write behind what is removed.
            let _flight = session.shared.flight.blocking_lock();
            session.refuse();
        }
        drop(turn);
        drop(permit);
    });
    true
}

fn is_lack_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

fn lost(session: &Session) -> StoreError {
    session.failed(io::Error::other("the upload was interrupted; resume it"))
}
