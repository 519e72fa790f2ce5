//! Upload sessions on disk: how they begin, and how they are taken up again.
//!
//! A session is a directory with `data`, `startedat` and perhaps a checkpoint. The spool of a bucket cuts its content into
//! several files (`store/s3/spool.rs`); a directory never does. Must not know how bytes are gathered.
//! Invariants: the hashes of a [`Sink`] are those of the first `offset_bytes` of the content, and its file ends there; a
//! session whose bytes the disk has lost ([`Session::refuse`]) is never taken up again.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::boundary::not_followed;
use super::disk::{RealDisk, is_absent};
use super::volume::Volume;
use super::{absent_or_failed, blocking};
use crate::clock::Clock;
use crate::layout::Prefix;
use crate::oci::{Algorithm, Digest, Hasher};
use crate::store::StoreError;

/// How many uploads of a store are written back at once: enough to keep a disk busy, few enough to leave it to readers.
const WRITEBACKS_MAX: usize = 4;

/// How much is read at once to hash it again.
const READ_BYTES: usize = 1024 * 1024;

/// What the sessions of one store share.
pub(in crate::store) struct Sessions {
    pub(super) volume: Arc<Volume>,
    pub(in crate::store) boot_id: Option<String>,
    /// Whether content is cut into segments that are sent elsewhere. Then nothing here has to survive a power cut.
    pub(super) is_spool: bool,
    pub(super) writebacks: Arc<Semaphore>,
    /// What all uploads have received and not yet written.
    pub(super) gathered_bytes: Arc<AtomicUsize>,
    shared: Mutex<HashMap<PathBuf, Weak<Shared>>>,
    /// Sessions whose bytes the disk has lost and which could not be removed: refused for as long as this process lives.
    unremoved: Mutex<HashMap<PathBuf, Arc<Shared>>>,
}

/// What all handles of one session share. The kernel reports a lost write once per open file, so the handle that gets the
/// error marks it here for the others.
#[derive(Default)]
pub(super) struct Shared {
    /// Held while bytes are in flight.
    pub(super) flight: Arc<AsyncMutex<()>>,
    /// Held while the disk is asked to write what it has, until it has answered.
    pub(super) writeback: Arc<AsyncMutex<()>>,
    /// The disk has lost bytes that it had taken: the content of the file is unknown.
    is_refused: AtomicBool,
}

impl Sessions {
    pub(super) fn new(volume: Arc<Volume>, boot_id: Option<String>) -> Self {
        Self {
            volume,
            boot_id,
            is_spool: false,
            writebacks: Arc::new(Semaphore::new(WRITEBACKS_MAX)),
            gathered_bytes: Arc::default(),
            shared: Mutex::default(),
            unremoved: Mutex::default(),
        }
    }

    /// Sessions whose content is cut into segments, in the directory `root`; blocks.
    pub(in crate::store) fn spool(
        root: PathBuf,
        boot_id: Option<String>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        // Nothing is made before the first session is.
        let volume = Volume::without_blobs(root, true, Arc::new(RealDisk), clock)?;
        Ok(Self {
            is_spool: true,
            ..Self::new(Arc::new(volume), boot_id)
        })
    }

    pub(in crate::store) async fn open(
        sessions: &Arc<Self>,
        prefix: &Prefix,
        algorithm: Option<Algorithm>,
    ) -> Result<(Arc<Session>, Sink), StoreError> {
        let session = Arc::new(Session::new(sessions, prefix));
        let started_at = OffsetDateTime::from(sessions.volume.clock.now())
            .replace_nanosecond(0)
            .ok()
            .and_then(|time| time.format(&Rfc3339).ok())
            .unwrap_or_default();
        let mut hashers = vec![Hasher::new(Algorithm::Sha256)];
        if algorithm == Some(Algorithm::Sha512) {
            hashers.push(Hasher::new(Algorithm::Sha512));
        }
        let place = Arc::clone(&session);
        let writing = Arc::clone(&sessions.volume.writing);
        let file = blocking(move || {
            let _under_way = writing.enter();
            if !place.sessions.volume.boundary.is_followed(&place.directory) {
                return Err(not_followed());
            }
            fs::create_dir_all(&place.directory)?;
            fs::write(place.directory.join("startedat"), started_at)?;
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(place.data())
        })
        .await?
        .map_err(|source| StoreError::from_io(format!("open the upload {prefix}"), source))?;
        let mut sink = Sink::new(file, 0, hashers);
        sink.checksum = sessions.is_spool.then(crc32fast::Hasher::new);
        Ok((session, sink))
    }

    pub(super) async fn resume(
        sessions: &Arc<Self>,
        prefix: &Prefix,
    ) -> Result<Option<(Arc<Session>, Sink)>, StoreError> {
        let resumed = Self::resume_by(sessions, prefix, |session| Ok((session.resume()?, ())));
        Ok(resumed.await?.map(|(session, sink, ())| (session, sink)))
    }

    /// Takes up the session in the directory `prefix` as `resume` finds it, which blocks; `None` if its bytes are gone.
    pub(in crate::store) async fn resume_by<T: Send + 'static>(
        sessions: &Arc<Self>,
        prefix: &Prefix,
        resume: impl FnOnce(&Session) -> io::Result<(Sink, T)> + Send + 'static,
    ) -> Result<Option<(Arc<Session>, Sink, T)>, StoreError> {
        let session = Arc::new(Session::new(sessions, prefix));
        // What an earlier handle still has in flight ends first.
        let guard = Arc::clone(&session.shared.flight).lock_owned().await;
        let place = Arc::clone(&session);
        let resumed = blocking(move || {
            // Held by the work and not by who waits for it: a caller who leaves does not let the next hash beside it.
            let _guard = guard;
            resume(&place)
        })
        .await?
        .map_err(|source| absent_or_failed(format!("resume the upload {prefix}"), source));
        match resumed {
            Ok((sink, more)) => Ok(Some((session, sink, more))),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The session in the directory `prefix`, whatever is left of it.
    pub(in crate::store) fn session(sessions: &Arc<Self>, prefix: &Prefix) -> Arc<Session> {
        Arc::new(Session::new(sessions, prefix))
    }

    /// What the handles of the session in `directory` share.
    fn shared(&self, directory: &Path) -> Arc<Shared> {
        if let Some(shared) = self.lock_unremoved().get(directory) {
            return Arc::clone(shared);
        }
        let mut all = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, shared| shared.strong_count() > 0);
        if let Some(shared) = all.get(directory).and_then(Weak::upgrade) {
            return shared;
        }
        let shared = Arc::default();
        all.insert(directory.to_owned(), Arc::downgrade(&shared));
        shared
    }

    fn lock_unremoved(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Shared>>> {
        let unremoved = self.unremoved.lock();
        unremoved.unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session, for all who work on it.
pub(in crate::store) struct Session {
    pub(super) sessions: Arc<Sessions>,
    pub(in crate::store) directory: PathBuf,
    /// The directory as the seam names it, for messages.
    pub(in crate::store) name: String,
    pub(super) shared: Arc<Shared>,
}

impl Session {
    fn new(sessions: &Arc<Sessions>, prefix: &Prefix) -> Self {
        let directory = sessions.volume.directory(prefix);
        Self {
            shared: sessions.shared(&directory),
            sessions: Arc::clone(sessions),
            directory,
            name: prefix.to_string(),
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.segment(0)
    }

    /// The file of the content from `start_bytes` on.
    pub(in crate::store) fn segment(&self, start_bytes: u64) -> PathBuf {
        self.directory.join(match start_bytes {
            0 => SEGMENT_NAME.to_owned(),
            _ => format!("{SEGMENT_NAME}.{start_bytes}"),
        })
    }

    /// Where the content of a file of this directory begins; `None` if it is not a segment.
    pub(in crate::store) fn segment_start(name: &str) -> Option<u64> {
        match name.strip_prefix(SEGMENT_NAME)? {
            "" => Some(0),
            start => start.strip_prefix('.')?.parse().ok(),
        }
    }

    /// Where the session lies, without its secret name; for logs.
    pub(in crate::store) fn place(&self) -> &str {
        let name = self.name.trim_end_matches('/');
        name.rsplit_once('/').map_or("", |(place, _)| place)
    }

    pub(in crate::store) fn failed(&self, source: io::Error) -> StoreError {
        StoreError::from_io(format!("write to the upload {}", self.name), source)
    }

    /// Removes the session with all it holds.
    pub(in crate::store) fn forget(&self) -> io::Result<()> {
        match self.sessions.volume.disk.remove_tree(&self.directory) {
            Err(error) if !is_absent(&error) => return Err(error),
            _ => {}
        }
        self.sessions.lock_unremoved().remove(&self.directory);
        Ok(())
    }

    /// Ends the session because the disk has lost bytes of it: later syncs would succeed, without these bytes. Removes it
    /// before any request is answered, and refuses all further work on it. Nothing else must be in flight.
    ///
    /// The removal is not synced: within this boot it is seen without that, and after another boot the session is hashed
    /// from what the disk really has.
    pub(super) fn refuse(&self) {
        self.shared.is_refused.store(true, Ordering::Release);
        let Err(error) = self.forget() else {
            return;
        };
        tracing::error!(
            error = %error,
            uploads = self.place(),
            "the disk has lost bytes of an upload, which cannot be removed either; it is refused; hint: check the disk"
        );
        let mut unremoved = self.sessions.lock_unremoved();
        unremoved.insert(self.directory.clone(), Arc::clone(&self.shared));
        drop(unremoved);
        // For a later process: an empty file is shorter than the checkpoint says, so that both count for nothing.
        if let Ok(data) = OpenOptions::new().write(true).open(self.data()) {
            let _ = data.set_len(0);
        }
    }

    /// An error if the disk has lost bytes of this session.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.shared.is_refused.load(Ordering::Acquire) {
            return Err(io::Error::other("the disk lost bytes of this upload"));
        }
        Ok(())
    }

    fn resume(&self) -> io::Result<Sink> {
        if !self.sessions.volume.boundary.is_followed(&self.data()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.check().is_err() {
            self.forget()?;
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.data())?;
        let metadata = file.metadata()?;
        if metadata.nlink() > 1 {
            // Published already, where renaming takes a link and a removal: what is left is only this name for a blob.
            return Err(io::ErrorKind::NotFound.into());
        }
        let length_bytes = metadata.len();
        let checkpoint = self
            .read_checkpoint()?
            .filter(|checkpoint| checkpoint.offset_bytes <= length_bytes);
        let mut sink = match checkpoint {
            Some(Checkpoint {
                offset_bytes,
                hashers,
                checksum: _,
            }) => Sink::new(file, offset_bytes, hashers),
            None => Sink::new(file, 0, vec![Hasher::new(Algorithm::Sha256)]),
        };
        sink.hash_to(length_bytes)?;
        Ok(sink)
    }

    /// Takes up the last segment of the content, which begins at `start_bytes`: the bytes before it have `hashers`.
    pub(in crate::store) fn resume_segment(
        &self,
        start_bytes: u64,
        hashers: Vec<Hasher>,
    ) -> io::Result<Sink> {
        if self.check().is_err() {
            self.forget()?;
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.segment(start_bytes))?;
        let end_bytes = start_bytes + file.metadata()?.len();
        let checkpoint = self.read_checkpoint()?.filter(|checkpoint| {
            // One at the very start may have been written before the cut, with the checksum of the segment before.
            checkpoint.offset_bytes > start_bytes && checkpoint.offset_bytes <= end_bytes
        });
        let mut sink = match checkpoint {
            Some(Checkpoint {
                offset_bytes,
                hashers,
                checksum: Some(checksum),
            }) => {
                let length_bytes = offset_bytes - start_bytes;
                let checksum = crc32fast::Hasher::new_with_initial_len(checksum, length_bytes);
                Sink {
                    checksum: Some(checksum),
                    ..Sink::new(file, offset_bytes, hashers)
                }
            }
            _ => Sink {
                checksum: Some(crc32fast::Hasher::new()),
                ..Sink::new(file, start_bytes, hashers)
            },
        };
        sink.start_bytes = start_bytes;
        sink.hash_to(end_bytes)?;
        Ok(sink)
    }

    /// Ends the file of `sink`, and begins the next. `note` is called with the ended one before the next is there, so
    /// that what it writes down is there whenever the next is.
    pub(in crate::store) fn cut(
        &self,
        sink: &mut Sink,
        note: impl FnOnce(&Segment) -> io::Result<()>,
    ) -> io::Result<Segment> {
        let checksum = sink.checksum.clone().unwrap_or_default();
        let segment = Segment {
            start_bytes: sink.start_bytes,
            length_bytes: sink.offset_bytes - sink.start_bytes,
            checksum: checksum.finalize(),
            hashers: sink.hashers.clone(),
        };
        note(&segment)?;
        sink.file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.segment(sink.offset_bytes))?;
        sink.start_bytes = sink.offset_bytes;
        sink.checksum = Some(crc32fast::Hasher::new());
        Ok(segment)
    }

    fn read_checkpoint(&self) -> io::Result<Option<Checkpoint>> {
        let Some(boot_id) = &self.sessions.boot_id else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        match File::open(self.directory.join(FILE_NAME)) {
            Ok(file) => file.take(LENGTH_BYTES_MAX).read_to_end(&mut bytes)?,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8(bytes).ok();
        Ok(text.and_then(|text| Checkpoint::decode(&text, boot_id)))
    }

    /// Leaves what a later process of this boot needs to go on from where `sink` is.
    pub(super) fn write_checkpoint(&self, sink: &mut Sink) -> io::Result<()> {
        let Some(boot_id) = &self.sessions.boot_id else {
            return Ok(());
        };
        if sink.checkpoint_bytes == Some(sink.offset_bytes) {
            return Ok(());
        }
        let checksum = sink.checksum.clone().map(crc32fast::Hasher::finalize);
        let text = Checkpoint::encode(sink.offset_bytes, &sink.hashers, checksum, boot_id);
        let path = self.directory.join(FILE_NAME);
        let new = path.with_extension("new");
        fs::write(&new, text)?;
        self.sessions.volume.disk.rename(&new, &path)?;
        sink.checkpoint_bytes = Some(sink.offset_bytes);
        Ok(())
    }
}

/// A part of the content that has a file of its own, and does not grow any more.
#[derive(Debug, Clone)]
pub(in crate::store) struct Segment {
    pub(in crate::store) start_bytes: u64,
    pub(in crate::store) length_bytes: u64,
    /// The CRC32 of its bytes, taken when they were written.
    pub(in crate::store) checksum: u32,
    /// Of all bytes of the content up to its end.
    pub(in crate::store) hashers: Vec<Hasher>,
}

/// The file of a session while it grows, and the hashes of the content.
pub(in crate::store) struct Sink {
    pub(super) file: File,
    /// Where in the content the file begins.
    pub(super) start_bytes: u64,
    /// Where in the content it ends: written and hashed.
    pub(super) offset_bytes: u64,
    pub(super) hashers: Vec<Hasher>,
    /// The CRC32 of the file, in a spool.
    pub(super) checksum: Option<crc32fast::Hasher>,
    /// The offset of the last checkpoint that this handle wrote.
    pub(super) checkpoint_bytes: Option<u64>,
    /// How far writeback was started.
    pub(super) writeback_bytes: u64,
}

impl Sink {
    fn new(file: File, offset_bytes: u64, hashers: Vec<Hasher>) -> Self {
        Self {
            file,
            start_bytes: 0,
            offset_bytes,
            hashers,
            checksum: None,
            checkpoint_bytes: None,
            writeback_bytes: offset_bytes,
        }
    }

    pub(super) fn hasher(&self, algorithm: Algorithm) -> Option<&Hasher> {
        self.hashers
            .iter()
            .find(|hasher| hasher.algorithm() == algorithm)
    }

    /// Computes one more hash from now on. `hasher` has all bytes of the content before the file.
    pub(super) fn add_hasher(&mut self, hasher: Hasher) -> io::Result<()> {
        if self.hasher(hasher.algorithm()).is_some() {
            return Ok(());
        }
        let mut added = [hasher];
        let length_bytes = self.offset_bytes - self.start_bytes;
        read_again(&self.file, 0, length_bytes, |bytes| {
            hash(&mut added, bytes);
        })?;
        self.hashers.extend(added);
        Ok(())
    }

    /// Takes into the hashes what the file has up to `end_bytes` of the content.
    fn hash_to(&mut self, end_bytes: u64) -> io::Result<()> {
        let (from, to) = (self.offset_bytes, end_bytes);
        let (hashers, checksum) = (&mut self.hashers, &mut self.checksum);
        let start_bytes = self.start_bytes;
        read_again(&self.file, from - start_bytes, to - start_bytes, |bytes| {
            hash(hashers, bytes);
            if let Some(checksum) = checksum {
                checksum.update(bytes);
            }
        })?;
        self.offset_bytes = end_bytes;
        Ok(())
    }
}

/// All bytes of an upload, in its file but not yet synced.
pub(super) struct Received {
    pub(super) session: Arc<Session>,
    pub(super) file: File,
    pub(super) data: PathBuf,
    pub(super) directory: PathBuf,
}

impl Received {
    /// Makes the bytes durable. A disk that refuses may have dropped them and say so only once, so the session ends.
    pub(super) fn sync(&self) -> io::Result<()> {
        let volume = &self.session.sessions.volume;
        self.session.check()?;
        let synced = volume
            .set_stamp(&self.file)
            .and_then(|()| volume.disk.sync_file(&self.file));
        if synced.is_err() {
            self.session.refuse();
        }
        synced
    }
}

/// Shows the bytes `from..to` of the file to `visit`.
pub(in crate::store) fn read_again(
    file: &File,
    mut from: u64,
    to: u64,
    mut visit: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    while from < to {
        let length = file.read_at(&mut buffer, from)?;
        // No more than asked for, even if another process writes behind `to`.
        let left = usize::try_from(to - from).unwrap_or(usize::MAX);
        let read = buffer.get(..length.min(left)).unwrap_or_default();
        if read.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        visit(read);
        from += read.len() as u64;
    }
    Ok(())
}

fn hash(hashers: &mut [Hasher], bytes: &[u8]) {
    for hasher in hashers {
        hasher.update(bytes);
    }
}

/// The name of the file of the content; of its first segment, where it has several.
const SEGMENT_NAME: &str = "data";

/// Its name in the session's directory; the old registry reads only the names it knows there.
pub(super) const FILE_NAME: &str = "boathouse.checkpoint";

/// Changes when the format does, or the library whose states are kept.
const HEADING: &str = "boathouse checkpoint 1";

/// Larger files are not ours; two states take about 500 bytes.
pub(super) const LENGTH_BYTES_MAX: u64 = 4096;

#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) offset_bytes: u64,
    pub(super) hashers: Vec<Hasher>,
    /// The CRC32 of the last file up to there, in a spool.
    pub(super) checksum: Option<u32>,
}

impl Checkpoint {
    /// As text, closed by a digest of itself.
    pub(super) fn encode(
        offset_bytes: u64,
        hashers: &[Hasher],
        checksum: Option<u32>,
        boot_id: &str,
    ) -> String {
        let mut text = format!("{HEADING}\nboot {boot_id}\noffset {offset_bytes}\n");
        if let Some(checksum) = checksum {
            let _ = writeln!(text, "crc32 {checksum}");
        }
        for hasher in hashers {
            let state = BASE64.encode(hasher.state());
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{} {state}", hasher.algorithm());
        }
        let sum = Digest::of(Algorithm::Sha256, text.as_bytes());
        let _ = writeln!(text, "sum {sum}");
        text
    }

    /// `None` unless the text is whole, of this boot, and holds at least the state of sha256.
    pub(super) fn decode(text: &str, boot_id: &str) -> Option<Self> {
        let (body, sum) = text.strip_suffix('\n')?.rsplit_once("sum ")?;
        if Digest::of(Algorithm::Sha256, body.as_bytes()).to_string() != sum {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != HEADING {
            return None;
        }
        if lines.next()?.strip_prefix("boot ")? != boot_id {
            return None;
        }
        let offset_bytes = lines.next()?.strip_prefix("offset ")?.parse().ok()?;
        let mut lines = lines.peekable();
        let checksum = lines.next_if(|line| line.starts_with("crc32 "));
        let checksum = match checksum.and_then(|line| line.strip_prefix("crc32 ")) {
            Some(checksum) => Some(checksum.parse().ok()?),
            None => None,
        };
        let hashers = lines
            .map(|line| {
                let (algorithm, state) = line.split_once(' ')?;
                let algorithm = Algorithm::from_str(algorithm).ok()?;
                Hasher::from_state(algorithm, &BASE64.decode(state).ok()?)
            })
            .collect::<Option<Vec<_>>>()?;
        let has_sha256 = hashers
            .iter()
            .any(|hasher| hasher.algorithm() == Algorithm::Sha256);
        has_sha256.then_some(Self {
            offset_bytes,
            hashers,
            checksum,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> String {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"abc");
        let wide = Hasher::new(Algorithm::Sha512);
        Checkpoint::encode(3, &[hasher, wide], Some(7), "this-boot")
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let checkpoint = Checkpoint::decode(&sample(), "this-boot").expect("own text");
        assert_eq!(checkpoint.offset_bytes, 3);
        assert_eq!(
            (checkpoint.hashers.len(), checkpoint.checksum),
            (2, Some(7))
        );
        let first = checkpoint.hashers[0].clone();
        assert_eq!(first.finish(), Digest::of(Algorithm::Sha256, b"abc"));
        assert!(sample().len() as u64 <= LENGTH_BYTES_MAX);
    }

    #[test]
    fn another_boot_counts_as_absent() {
        assert!(Checkpoint::decode(&sample(), "another-boot").is_none());
    }

    #[test]
    fn every_damaged_byte_and_every_cut_counts_as_absent() {
        let text = sample();
        for position in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[position] ^= 1;
            let damaged = String::from_utf8(damaged).expect("ASCII stays ASCII");
            assert!(
                Checkpoint::decode(&damaged, "this-boot").is_none(),
                "byte {position}"
            );
            assert!(Checkpoint::decode(&text[..position], "this-boot").is_none());
        }
    }
}
