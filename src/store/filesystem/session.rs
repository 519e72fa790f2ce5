//! Upload sessions on disk: how they begin, and how they are taken up again.
//!
//! A session is a directory with `data`, `startedat` and perhaps a checkpoint. Must not know how bytes are gathered.
//! Invariants: the hashes of a [`Sink`] are those of the first `offset_bytes` of its file, and the file ends there; a
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
use super::disk::is_absent;
use super::volume::Volume;
use super::{absent_or_failed, blocking};
use crate::layout::Prefix;
use crate::oci::{Algorithm, Digest, Hasher};
use crate::store::StoreError;

/// How many uploads of a store are written back at once: enough to keep a disk busy, few enough to leave it to readers.
const WRITEBACKS_MAX: usize = 4;

/// How much is read at once to hash it again.
const READ_BYTES: usize = 1024 * 1024;

/// What the sessions of one store share.
pub(super) struct Sessions {
    pub(super) volume: Arc<Volume>,
    pub(super) boot_id: Option<String>,
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
            writebacks: Arc::new(Semaphore::new(WRITEBACKS_MAX)),
            gathered_bytes: Arc::default(),
            shared: Mutex::default(),
            unremoved: Mutex::default(),
        }
    }

    pub(super) async fn open(
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
        Ok((session, Sink::new(file, 0, hashers)))
    }

    pub(super) async fn resume(
        sessions: &Arc<Self>,
        prefix: &Prefix,
    ) -> Result<Option<(Arc<Session>, Sink)>, StoreError> {
        let session = Arc::new(Session::new(sessions, prefix));
        // What an earlier handle still has in flight ends first.
        let guard = Arc::clone(&session.shared.flight).lock_owned().await;
        let place = Arc::clone(&session);
        let resumed = blocking(move || {
            // Held by the work and not by who waits for it: a caller who leaves does not let the next hash beside it.
            let _guard = guard;
            place.resume()
        })
        .await?
        .map_err(|source| absent_or_failed(format!("resume the upload {prefix}"), source));
        match resumed {
            Ok(sink) => Ok(Some((session, sink))),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
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
pub(super) struct Session {
    pub(super) sessions: Arc<Sessions>,
    pub(super) directory: PathBuf,
    /// The directory as the seam names it, for messages.
    pub(super) name: String,
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
        self.directory.join("data")
    }

    /// Where the session lies, without its secret name; for logs.
    pub(super) fn place(&self) -> &str {
        let name = self.name.trim_end_matches('/');
        name.rsplit_once('/').map_or("", |(place, _)| place)
    }

    pub(super) fn failed(&self, source: io::Error) -> StoreError {
        StoreError::from_io(format!("write to the upload {}", self.name), source)
    }

    /// Removes the session with all it holds.
    pub(super) fn forget(&self) -> io::Result<()> {
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
            }) => Sink::new(file, offset_bytes, hashers),
            None => Sink::new(file, 0, vec![Hasher::new(Algorithm::Sha256)]),
        };
        hash_again(
            &sink.file,
            &mut sink.hashers,
            sink.offset_bytes,
            length_bytes,
        )?;
        sink.offset_bytes = length_bytes;
        Ok(sink)
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
        let text = Checkpoint::encode(sink.offset_bytes, &sink.hashers, boot_id);
        let path = self.directory.join(FILE_NAME);
        let new = path.with_extension("new");
        fs::write(&new, text)?;
        self.sessions.volume.disk.rename(&new, &path)?;
        sink.checkpoint_bytes = Some(sink.offset_bytes);
        Ok(())
    }
}

/// The file of a session while it grows, and its hashes.
pub(super) struct Sink {
    pub(super) file: File,
    /// Written and hashed.
    pub(super) offset_bytes: u64,
    pub(super) hashers: Vec<Hasher>,
    /// The offset of the last checkpoint that this handle wrote.
    pub(super) checkpoint_bytes: Option<u64>,
    /// How far writeback was started.
    pub(super) writeback_bytes: u64,
}

impl Sink {
    fn new(file: File, offset_bytes: u64, hashers: Vec<Hasher>) -> Self {
        Self {
            file,
            offset_bytes,
            hashers,
            checkpoint_bytes: None,
            writeback_bytes: offset_bytes,
        }
    }

    pub(super) fn hasher(&self, algorithm: Algorithm) -> Option<&Hasher> {
        self.hashers
            .iter()
            .find(|hasher| hasher.algorithm() == algorithm)
    }

    /// Computes `algorithm` as well from now on, and over all that is there.
    pub(super) fn add_hasher(&mut self, algorithm: Algorithm) -> io::Result<()> {
        if self.hasher(algorithm).is_some() {
            return Ok(());
        }
        let mut added = [Hasher::new(algorithm)];
        hash_again(&self.file, &mut added, 0, self.offset_bytes)?;
        self.hashers.extend(added);
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

/// Takes the bytes `from..to` of the file into all `hashers`.
fn hash_again(file: &File, hashers: &mut [Hasher], mut from: u64, to: u64) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    while from < to {
        let length = file.read_at(&mut buffer, from)?;
        // No more than asked for, even if another process writes behind `to`.
        let left = usize::try_from(to - from).unwrap_or(usize::MAX);
        let read = buffer.get(..length.min(left)).unwrap_or_default();
        if read.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for hasher in &mut *hashers {
            hasher.update(read);
        }
        from += read.len() as u64;
    }
    Ok(())
}

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
}

impl Checkpoint {
    /// As text, closed by a digest of itself.
    pub(super) fn encode(offset_bytes: u64, hashers: &[Hasher], boot_id: &str) -> String {
        let mut text = format!("{HEADING}\nboot {boot_id}\noffset {offset_bytes}\n");
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
        Checkpoint::encode(3, &[hasher, wide], "this-boot")
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let checkpoint = Checkpoint::decode(&sample(), "this-boot").expect("own text");
        assert_eq!(checkpoint.offset_bytes, 3);
        assert_eq!(checkpoint.hashers.len(), 2);
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
