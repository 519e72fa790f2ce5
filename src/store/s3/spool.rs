//! The spool of a bucket: where uploads are received, how they are taken up again, and what is left of those that ended.
//!
//! The spool is a directory of sessions like that of a file store; each has a journal of what the bucket has of it. Must not know
//! how parts are sent. Invariant: an upload in parts is given up only if its session is in this spool, or its key has the name
//! of a session that a Boathouse has begun long ago; never one of another program.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Mutex as AsyncMutex;

use super::journal::{self, Fact, Journal};
use super::requests::Bucket;
use super::shipper::{Shipper, blocking};
use super::spool_room::SpoolRoom;
use super::upload::BucketUpload;
use crate::clock::Clock;
use crate::layout::{OwnedPlace, Prefix};
use crate::oci::{Algorithm, Hasher};
use crate::platform;
use crate::store::filesystem::session::{Session, Sessions};
use crate::store::filesystem::upload::Receiving;
use crate::store::{Step, StoreError, Upload};

/// A session that was not used for so long is removed, as the old registry does with its own.
const IDLE_MAX: Duration = Duration::from_hours(7 * 24);

/// An upload in parts of a session that this spool does not know is given up after so long: another machine may be at work on it.
const FOREIGN_AGE_MAX: Duration = Duration::from_hours(2 * 24);

/// The same where the spool is full: clients that still want to go on come back within seconds or minutes.
const IDLE_IN_NEED_MAX: Duration = Duration::from_hours(1);

/// How often such sessions are looked for at most.
const NEED_PAUSE: Duration = Duration::from_mins(1);

/// How often what is left is looked for.
const SWEEP_PAUSE: Duration = Duration::from_hours(24);

/// How the steps that follow an upload are carried out: [`crate::store::ObjectStore::apply`] of the store of this spool.
pub type Apply = Arc<dyn Fn(Vec<Step>) -> BoxFuture<'static, Result<(), StoreError>> + Send + Sync>;

/// See the module.
pub struct Spool {
    pub(super) bucket: Bucket,
    pub(super) room: Arc<SpoolRoom>,
    pub(super) apply: Apply,
    clock: Arc<dyn Clock>,
    root: PathBuf,
    sessions: Arc<Sessions>,
    /// When sessions were last removed to make room.
    made_room: AsyncMutex<Option<Duration>>,
    /// By the directory of the session.
    shippers: Mutex<HashMap<PathBuf, Weak<Shipper>>>,
}

impl Spool {
    /// Opens the spool of `bucket`; blocks. The caller holds the lock of the state directory.
    pub fn open(
        bucket: Bucket,
        clock: Arc<dyn Clock>,
        apply: Apply,
    ) -> Result<Arc<Self>, StoreError> {
        let root = bucket.settings().spool_directory.clone();
        let boot_id = platform::boot_id();
        let sessions = Sessions::spool(root.clone(), boot_id, Arc::clone(&clock))?;
        let spool_bytes = bucket.settings().spool_bytes;
        let spool = Arc::new(Self {
            bucket,
            room: Arc::new(SpoolRoom::new(spool_bytes)),
            apply,
            clock,
            sessions: Arc::new(sessions),
            made_room: AsyncMutex::default(),
            shippers: Mutex::default(),
            root,
        });
        let left = spool.directories();
        for directory in left.map_err(|error| StoreError::from_io("read the spool", error))? {
            let held_bytes = size_of(&directory);
            spool.room.set(&spool.room.share(&directory), held_bytes);
        }
        Ok(spool)
    }

    /// See [`crate::store::ObjectStore::open_upload`].
    pub async fn open_upload(
        self: &Arc<Self>,
        prefix: &Prefix,
        algorithm: Option<Algorithm>,
    ) -> Result<Box<dyn Upload>, StoreError> {
        let (session, sink) = Sessions::open(&self.sessions, prefix, algorithm).await?;
        let directory = session.directory.clone();
        let journal = blocking(move || Journal::open(&directory)).await?;
        let journal = journal.map_err(|source| session.failed(source))?;
        let shipper = self.keep(Arc::clone(&session), journal);
        let receiving = Receiving::new(session, sink);
        Ok(Box::new(BucketUpload::new(receiving, 0, shipper, self)))
    }

    /// See [`crate::store::ObjectStore::resume_upload`].
    pub async fn resume_upload(
        self: &Arc<Self>,
        prefix: &Prefix,
    ) -> Result<Option<Box<dyn Upload>>, StoreError> {
        let resumed = Sessions::resume_by(&self.sessions, prefix, |session| {
            let (facts, _) = journal::read(&session.directory)?;
            let start_bytes = check(session, &facts)?;
            let hashers = facts.iter().rev().find_map(|fact| match fact {
                Fact::Cut(segment) => Some(segment.hashers.clone()),
                _ => None,
            });
            let hashers = hashers.unwrap_or_else(|| vec![Hasher::new(Algorithm::Sha256)]);
            let sink = session.resume_segment(start_bytes, hashers)?;
            let journal = Journal::open(&session.directory)?;
            Ok((sink, (start_bytes, journal)))
        });
        let Some((session, sink, (start_bytes, journal))) = resumed.await? else {
            return Ok(None);
        };
        let live = self.live(&session.directory);
        let shipper = match live {
            Some(shipper) => shipper,
            None => self.keep(Arc::clone(&session), journal),
        };
        let receiving = Receiving::new(session, sink);
        let upload = BucketUpload::new(receiving, start_bytes, shipper, self);
        Ok(Some(Box::new(upload)))
    }

    fn keep(
        self: &Arc<Self>,
        session: Arc<Session>,
        journal: (Journal, Vec<Fact>),
    ) -> Arc<Shipper> {
        let directory = session.directory.clone();
        let (bucket, clock) = (self.bucket.clone(), Arc::clone(&self.clock));
        let shipper = Shipper::new(session, bucket, clock, Arc::clone(&self.room), journal);
        let shipper = Arc::new(shipper);
        let mut shippers = self.shippers.lock().unwrap_or_else(PoisonError::into_inner);
        shippers.retain(|_, shipper| shipper.strong_count() > 0);
        shippers.insert(directory, Arc::downgrade(&shipper));
        shipper
    }

    /// The shipper of a session that is in memory.
    fn live(&self, directory: &Path) -> Option<Arc<Shipper>> {
        let shippers = self.shippers.lock().unwrap_or_else(PoisonError::into_inner);
        shippers.get(directory).and_then(Weak::upgrade)
    }

    /// How much of this machine's disk the spool uses.
    pub fn used_bytes(&self) -> u64 {
        self.room.used_bytes()
    }

    /// The names of the sessions in the directory `prefix` (`…/_uploads/`); blocks.
    pub fn sessions_below(&self, prefix: &Prefix) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in entries(&self.root.join(prefix.as_str()))? {
            names.extend(entry.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// Removes what is left of sessions, at once and then daily; never returns.
    pub async fn sweep_daily(self: Arc<Self>) {
        loop {
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "what is left of old uploads cannot be removed now");
            }
            self.clock.sleep(SWEEP_PAUSE).await;
        }
    }

    /// Removes sessions that ended or are old, and gives up the uploads in parts that were begun for sessions of ours.
    pub async fn sweep(self: &Arc<Self>) -> Result<(), StoreError> {
        for directory in self.all().await? {
            self.sweep_session(&directory, IDLE_MAX).await?;
        }
        for begun in self.bucket.list_multiparts().await? {
            let key = &begun.multipart.key;
            // The name of a session says that it is one of ours: the old registry's are of another version.
            let Some(OwnedPlace::UploadData(..)) = OwnedPlace::parse(key) else {
                continue;
            };
            let session = self.root.join(key);
            let is_here = session.parent().is_some_and(Path::exists);
            if !is_here && self.is_older(begun.began, FOREIGN_AGE_MAX) {
                self.bucket.abort_multipart(&begun.multipart).await?;
            }
        }
        Ok(())
    }

    /// Removes sessions that have not been used for a while, because others need the room.
    pub(super) async fn make_room(self: &Arc<Self>) -> Result<(), StoreError> {
        let Ok(mut made_room) = self.made_room.try_lock() else {
            return Ok(());
        };
        let now = self.clock.elapsed();
        if made_room.is_some_and(|last| now.saturating_sub(last) < NEED_PAUSE) {
            return Ok(());
        }
        *made_room = Some(now);
        for directory in self.all().await? {
            self.sweep_session(&directory, IDLE_IN_NEED_MAX).await?;
        }
        Ok(())
    }

    async fn all(self: &Arc<Self>) -> Result<Vec<PathBuf>, StoreError> {
        let spool = Arc::clone(self);
        let directories = blocking(move || spool.directories()).await?;
        directories.map_err(|error| StoreError::from_io("read the spool", error))
    }

    async fn sweep_session(
        self: &Arc<Self>,
        directory: &Path,
        idle_max: Duration,
    ) -> Result<(), StoreError> {
        if self.live(directory).is_some() {
            return Ok(());
        }
        let Ok(name) = directory.strip_prefix(&self.root) else {
            return Ok(());
        };
        let Ok(prefix) = format!("{}/", name.display()).parse::<Prefix>() else {
            return Ok(());
        };
        let place = directory.to_owned();
        let found = blocking(move || Ok::<_, io::Error>((Journal::open(&place)?, used(&place))));
        let (journal, used) = found
            .await?
            .map_err(|error| StoreError::from_io("read the spool", error))?;
        let has_ended = journal.1.iter().any(|fact| matches!(fact, Fact::Ended));
        if !has_ended && !self.is_older(used, idle_max) {
            return Ok(());
        }
        let session = Sessions::session(&self.sessions, &prefix);
        self.keep(session, journal).give_up().await;
        Ok(())
    }

    fn is_older(&self, time: Option<SystemTime>, age: Duration) -> bool {
        let passed = time.and_then(|time| self.clock.now().duration_since(time).ok());
        passed.is_some_and(|passed| passed > age)
    }

    /// The directories of all sessions; blocks.
    fn directories(&self) -> io::Result<Vec<PathBuf>> {
        let (mut found, mut left) = (Vec::new(), vec![self.root.clone()]);
        while let Some(directory) = left.pop() {
            if directory.join("startedat").exists() {
                found.push(directory);
                continue;
            }
            for entry in entries(&directory)? {
                if entry.file_type()?.is_dir() {
                    left.push(entry.path());
                }
            }
        }
        Ok(found)
    }
}

/// Whether the session can be taken up: where the file begins that is written to. `NotFound` if bytes are missing, and if it has
/// ended.
fn check(session: &Session, facts: &[Fact]) -> io::Result<u64> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let mut cuts = Vec::new();
    let mut is_sent = Vec::new();
    for fact in facts {
        match fact {
            Fact::Ended => return Err(gone()),
            Fact::Cut(segment) => {
                cuts.push(segment);
                is_sent.push(false);
            }
            Fact::Sent(part) => {
                let position = usize::from(part.number).saturating_sub(1);
                *is_sent.get_mut(position).ok_or_else(gone)? = true;
            }
            Fact::Begun(..) | Fact::Joined => {}
        }
    }
    let mut end_bytes = 0;
    for (segment, is_sent) in cuts.iter().zip(is_sent) {
        let path = session.segment(segment.start_bytes);
        if segment.start_bytes != end_bytes {
            return Err(gone());
        }
        end_bytes += segment.length_bytes;
        if is_sent {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        } else if fs::metadata(&path)?.len() != segment.length_bytes {
            return Err(gone());
        }
    }
    let open = session.segment(end_bytes);
    if !cuts.is_empty() && !open.exists() {
        // The process died right after the cut.
        fs::File::create(open)?;
    }
    Ok(end_bytes)
}

/// When the session in `directory` was last used; blocks. The beginning counts as well: it was told by the clock that it is
/// compared with, which need not be that of the files.
fn used(directory: &Path) -> Option<SystemTime> {
    let files = entries(directory).ok()?;
    let times = files
        .iter()
        .filter_map(|file| file.metadata().ok()?.modified().ok());
    let began = fs::read_to_string(directory.join("startedat")).ok();
    let began = began.and_then(|text| OffsetDateTime::parse(text.trim(), &Rfc3339).ok());
    times.chain(began.map(SystemTime::from)).max()
}

fn size_of(directory: &Path) -> u64 {
    let files = entries(directory).unwrap_or_default();
    let lengths = files.iter().filter_map(|file| {
        let name = file.file_name();
        Session::segment_start(name.to_str()?)?;
        Some(file.metadata().ok()?.len())
    });
    lengths.sum()
}

/// What is in a directory; nothing where there is none.
fn entries(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
