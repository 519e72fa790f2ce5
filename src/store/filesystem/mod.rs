//! The store over a directory, in distribution's layout.
//!
//! Bytes are written and synced by the caller (`volume`, `upload`); their names change in one place (`committer`,
//! `publish`). Must not know which links a registry writes. Invariant: a file has its final name only when its bytes are
//! durable. The caller of `open` holds the lock of the state directory: opening empties `tmp/` and `trash/`.

mod boundary;
#[cfg(test)]
mod boundary_tests;
mod committer;
mod disk;
#[cfg(test)]
mod durability;
mod listing;
mod publish;
mod reading;
#[cfg(test)]
mod recorder;
#[cfg(test)]
mod refusal_tests;
pub(in crate::store) mod session;
mod staging;
#[cfg(test)]
mod tests;
pub(in crate::store) mod upload;
mod volume;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::{StatVfs, StatVfsMountFlags};

use self::committer::Writer;
use self::disk::is_absent;
use self::disk::{Disk, RealDisk};
use self::reading::Buffers;
use self::reading::MustWait;
use self::session::Sessions;
use self::upload::FileUpload;
use self::volume::Volume;
use crate::clock::Clock;
use crate::heartbeat::Heartbeat;
use crate::layout::{Key, Prefix};
use crate::oci::Algorithm;
use crate::oci::range::ByteRange;
use crate::platform;
use crate::store::{
    Constraint, Content, Depth, Fingerprint, Gathered, Listing, Meta, ObjectStore, Room, Small,
    Step, StoreError, Upload,
};

/// How many keys are looked at, and read, before a hop to where waiting is allowed, as long as all is in memory: a few
/// microseconds each, less than the hop.
const AT_ONCE_MAX: usize = 4;

/// Less room than this, or than a hundredth of the disk if that is less, counts as none: what a push brings does not fit.
const ROOM_MIN_BYTES: u64 = 64 * 1024 * 1024;

/// Where the store lies, and in which life of the machine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `storage.filesystem.rootdirectory`
    pub root: PathBuf,
    /// Differs after every boot; `None` where it cannot be told, and then no checkpoint is trusted.
    pub boot_id: Option<String>,
    /// `storage.maintenance.readonly.enabled`: then nothing is made or removed, also not at start.
    pub is_readonly: bool,
}

impl Settings {
    /// The store at `root`, since this machine was last started.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            boot_id: platform::boot_id(),
            is_readonly: false,
        }
    }
}

/// See the module.
pub struct FilesystemStore {
    volume: Arc<Volume>,
    sessions: Arc<Sessions>,
    writer: Arc<Writer>,
    buffers: Arc<Buffers>,
}

impl FilesystemStore {
    /// Opens the store, making its directories where they are missing; blocks. The caller holds the lock of the state
    /// directory.
    pub fn open(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Self::open_on(settings, clock, Arc::new(RealDisk))
    }

    fn open_on(
        settings: Settings,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, StoreError> {
        let volume = Arc::new(Volume::open(
            settings.root,
            settings.is_readonly,
            disk,
            clock,
        )?);
        let writer = Arc::new(Writer::start(Arc::clone(&volume))?);
        let sessions = Sessions::new(Arc::clone(&volume), settings.boot_id);
        Ok(Self {
            sessions: Arc::new(sessions),
            writer,
            volume,
            buffers: Arc::default(),
        })
    }

    async fn volume_state(&self) -> Result<StatVfs, StoreError> {
        let root = self.volume.root().to_owned();
        let volume = blocking(move || rustix::fs::statvfs(&root)).await?;
        volume.map_err(|source| {
            StoreError::from_io("look at the disk of the store", io::Error::from(source))
        })
    }
}

#[async_trait]
impl ObjectStore for FilesystemStore {
    async fn read(&self, key: &Key, range: Option<ByteRange>) -> Result<Content, StoreError> {
        let content = reading::read(&self.volume, key, range, &self.buffers).await;
        content.map_err(|source| absent_or_failed(format!("read {key}"), source))
    }

    async fn head(&self, key: &Key) -> Result<Meta, StoreError> {
        let path = self.volume.boundary.path(key);
        let volume = Arc::clone(&self.volume);
        let found = match reading::head_at_once(&path) {
            Ok(found) => Ok(found),
            Err(MustWait) => blocking(move || reading::head(&volume, &path)).await?,
        };
        let found = found.and_then(|found| found.ok_or_else(|| io::ErrorKind::NotFound.into()));
        found.map_err(|source| absent_or_failed(format!("read {key}"), source))
    }

    async fn head_each(&self, keys: &[Key]) -> Result<Vec<Option<Meta>>, StoreError> {
        let mut heads = Vec::with_capacity(keys.len());
        for key in keys.iter().take(AT_ONCE_MAX) {
            let Ok(head) = reading::head_at_once(&self.volume.boundary.path(key)) else {
                break;
            };
            heads.push(head);
        }
        let Some(left) = keys.get(heads.len()..).filter(|left| !left.is_empty()) else {
            return Ok(heads);
        };
        let (volume, left) = (Arc::clone(&self.volume), left.to_vec());
        blocking(move || {
            for key in left {
                let head = reading::head(&volume, &volume.boundary.path(&key));
                heads.push(head.map_err(|source| read_failed(&key, source))?);
            }
            Ok(heads)
        })
        .await?
    }

    async fn read_each(&self, keys: &[Key], size_max_bytes: u64) -> Result<Vec<Small>, StoreError> {
        let mut gathered = Gathered::default();
        for key in keys.iter().take(AT_ONCE_MAX) {
            let path = self.volume.boundary.path(key);
            let Ok(content) = reading::small_at_once(&path, size_max_bytes) else {
                break;
            };
            gathered.push(content);
            if gathered.is_full() {
                return Ok(gathered.items);
            }
        }
        let left = keys.get(gathered.items.len()..);
        let Some(left) = left.filter(|left| !left.is_empty()) else {
            return Ok(gathered.items);
        };
        let (volume, left) = (Arc::clone(&self.volume), left.to_vec());
        blocking(move || {
            for key in left {
                let path = volume.boundary.path(&key);
                let content = reading::small(&volume, &path, size_max_bytes);
                gathered.push(content.map_err(|source| read_failed(&key, source))?);
                if gathered.is_full() {
                    break;
                }
            }
            Ok(gathered.items)
        })
        .await?
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> Listing {
        listing::list(&self.volume, prefix, depth)
    }

    async fn fingerprint(&self, prefixes: &[Prefix]) -> Result<Option<Fingerprint>, StoreError> {
        let (volume, prefixes) = (Arc::clone(&self.volume), prefixes.to_vec());
        blocking(move || listing::fingerprint(&volume, &prefixes))
            .await?
            .map_err(|source| StoreError::from_io("look at the times of directories", source))
    }

    async fn apply(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        self.writer.write(None, steps).await
    }

    async fn constraint(&self) -> Result<Option<Constraint>, StoreError> {
        let volume = self.volume_state().await?;
        if volume.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Ok(Some(Constraint::ReadOnly));
        }
        let room = room_of(&volume);
        let is_full = room.free_bytes < room.floor_bytes || room.free_bytes == 0;
        Ok(is_full.then_some(Constraint::Full))
    }

    async fn room(&self) -> Result<Option<Room>, StoreError> {
        let volume = self.volume_state().await?;
        Ok(Some(room_of(&volume)))
    }

    fn heartbeats(&self) -> Vec<Arc<Heartbeat>> {
        let committer = Arc::clone(&self.writer.committer.heartbeat);
        vec![committer, Arc::clone(&self.volume.writing)]
    }

    async fn open_upload(
        &self,
        prefix: &Prefix,
        algorithm: Option<Algorithm>,
    ) -> Result<Box<dyn Upload>, StoreError> {
        let session = Sessions::open(&self.sessions, prefix, algorithm).await?;
        Ok(Box::new(FileUpload::new(session, &self.writer)))
    }

    async fn resume_upload(&self, prefix: &Prefix) -> Result<Option<Box<dyn Upload>>, StoreError> {
        let session = Sessions::resume(&self.sessions, prefix).await?;
        Ok(session
            .map(|session| Box::new(FileUpload::new(session, &self.writer)) as Box<dyn Upload>))
    }
}

/// What a process without privileges may still write, and the size of the volume.
fn room_of(volume: &StatVfs) -> Room {
    let size_bytes = volume.f_blocks.saturating_mul(volume.f_frsize);
    Room {
        free_bytes: volume.f_bavail.saturating_mul(volume.f_frsize),
        size_bytes,
        floor_bytes: ROOM_MIN_BYTES.min(size_bytes / 100),
    }
}

/// Makes the root of a store where it is missing, and keeps this process from opening the tree wider than it; blocks.
pub fn make_root(root: &Path) -> io::Result<()> {
    volume::make_root(root)?;
    volume::tighten_umask(root)
}

/// Whether `directory` takes names that differ only by case for one; blocks.
pub fn is_case_insensitive(directory: &Path) -> io::Result<bool> {
    let name = format!(".case-probe-{}", std::process::id());
    let probe = directory.join(&name);
    fs::write(&probe, [])?;
    let found = directory.join(name.to_uppercase()).try_exists();
    fs::remove_file(&probe)?;
    found
}

/// Runs what blocks where blocking is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(interrupted)
}

fn interrupted(source: tokio::task::JoinError) -> StoreError {
    StoreError::from_io("finish work on the disk", io::Error::other(source))
}

fn read_failed(key: &Key, source: io::Error) -> StoreError {
    StoreError::from_io(format!("read {key}"), source)
}

fn absent_or_failed(doing: String, source: io::Error) -> StoreError {
    if is_absent(&source) {
        StoreError::NotFound
    } else {
        StoreError::from_io(doing, source)
    }
}
