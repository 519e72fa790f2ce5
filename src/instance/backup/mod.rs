//! A copy of a whole installation, made while it is served.
//!
//! The process that makes the copy reads the files itself: a server that is confined by its service manager could not write to
//! another disk. It asks the server for one thing only, to let nothing change in a repository while its links are read. Links
//! are read first and data after: only a deletion that also removes the last link removes data, so what a link leads to is still
//! there, or was deleted on purpose. (A collector must not run meanwhile; there is none yet.)
//!
//! In the destination, blobs have their final place. Everything else is written into [`UNFINISHED`], and takes the place of the
//! last backup when it is complete ([`finish`]), so that a run that is interrupted costs nothing but time, and leaves the last
//! backup as it was. Must not know who asks, nor print anything. Invariants: nothing of the installation is changed; a blob
//! that has its name in the destination was found to have its digest.

mod files;
mod record;
pub(crate) mod restore;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use futures_util::TryStreamExt as _;

use self::files::{CopyError, Durable, Target, digest_of, for_each};
pub(crate) use self::record::Record;
use self::record::{RECORD, Sums};
use super::keys::{derived_secret, keys_directory};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Relocated};
use crate::durable_file::PRIVATE_FILE;
use crate::layout::{self, Key, OWN_DIRECTORY, OwnedPlace, Place, blobs_directory};
use crate::oci::{Algorithm, Digest, RepositoryName};
use crate::platform;
use crate::registry::{AllLinks, Progress, Tell, digest_in, links_of, repositories_of};
use crate::store::{self, Depth, Entry, ObjectStore};
use crate::tls;

/// What is not complete yet.
const UNFINISHED: &str = "unfinished";

/// What is complete, and takes the place of the last backup.
const FINISHED: &str = "finished";

/// The configuration of the copy.
const CONFIG: &str = "boathouse.yml";

/// Of directories that hold secrets.
const PRIVATE_DIRECTORY: u32 = 0o700;

/// Files of our own, outside the old registry's tree, that a server needs again; the tombstones are a directory of their own.
const OWN_FILES: [&str; 3] = ["secret", "parts", "taken-over"];

/// Runs its argument while nothing changes in the repository. Where that cannot be kept, it runs it again, or fails.
pub(crate) type Quietly<'a> = &'a (
        dyn Fn(&RepositoryName, &mut dyn FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> + Sync
    );

/// What is copied, and where to.
pub(crate) struct Job<'a> {
    /// What the files say.
    pub(crate) config: &'a Config,
    /// The same for the copy.
    pub(crate) relocated: &'a Relocated,
    /// The directory of the first config file.
    pub(crate) config_directory: &'a Path,
    /// The directory of the backup.
    pub(crate) destination: &'a Path,
    /// Whether blobs that an earlier run has copied are read again.
    pub(crate) reads_all: bool,
    /// See there.
    pub(crate) quietly: Quietly<'a>,
    /// Where progress is reported.
    pub(crate) tell: Tell<'a>,
}

/// What a run has done.
#[derive(Debug)]
pub(crate) struct Made {
    /// What the backup holds.
    pub(crate) record: Record,
    /// How many blobs this run has copied, and their bytes.
    pub(crate) copied: (u64, u64),
}

/// Makes a backup, or brings the one that is there up to date.
pub(crate) fn back_up(job: &Job<'_>) -> anyhow::Result<Made> {
    let destination = job.destination;
    refuse_overlap(job)?;
    refuse_strangers(destination)?;
    let cannot = || format!("cannot write {}", destination.display());
    let target = Target::at(destination).with_context(cannot)?;
    let _alone = lock(destination)?;
    finish(&target, destination)?;
    let installation = installation_id(job.config)?;
    if let Some(before) = Record::read(destination)?
        && before.installation != installation
    {
        bail!(
            "{} holds the backup of another installation\nhint: name another directory",
            destination.display()
        );
    }
    let unfinished = target.path(UNFINISHED);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(cannot)?;
    }
    target
        .make_directory(Path::new(UNFINISHED), PRIVATE_DIRECTORY)
        .with_context(cannot)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store = job.config.storage.open(true, Arc::clone(&clock))?;
    let root = root_directory(job.config)?;
    let root_mode = fs::metadata(root)
        .with_context(|| format!("cannot read {}", root.display()))?
        .mode();
    let blobs = root.join(blobs_directory().as_str());
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let is_same_disk = device(destination) == device(&blobs).or_else(|| device(root));
    let run = Run {
        job,
        runtime,
        store,
        target: &target,
        root_mode,
        root,
        is_same_disk,
        sums: Mutex::new(Sums::create(&target, Path::new(UNFINISHED)).with_context(cannot)?),
        counts: Mutex::default(),
    };
    run.copy_everything()?;
    let Run { sums, counts, .. } = run;
    let counts = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    let record = Record {
        sums: sums
            .finish(&target, Path::new(UNFINISHED))
            .with_context(cannot)?,
        installation,
        same_disk: is_same_disk,
        ..counts.record
    };
    record
        .write(&target, Path::new(UNFINISHED))
        .with_context(cannot)?;
    platform::sync_file_system(destination).with_context(cannot)?;
    fs::rename(&unfinished, target.path(FINISHED)).with_context(cannot)?;
    finish(&target, destination)?;
    remove_blobs_without_name(destination, &counts.named).with_context(cannot)?;
    Ok(Made {
        record,
        copied: counts.copied,
    })
}

/// One run.
struct Run<'a> {
    job: &'a Job<'a>,
    runtime: tokio::runtime::Runtime,
    store: Arc<dyn ObjectStore>,
    target: &'a Target,
    /// The mode of the data's directory: that of all directories in it.
    root_mode: u32,
    /// The directory of the data.
    root: &'a Path,
    is_same_disk: bool,
    sums: Mutex<Sums>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    record: Record,
    copied: (u64, u64),
    /// All blobs that a link leads to.
    named: BTreeSet<Digest>,
    /// Those of the current repository that were deleted with it since its links were read.
    gone: BTreeSet<Digest>,
}

impl Run<'_> {
    fn count<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn damaged(&self, what: String) {
        self.count(|counts| counts.record.damaged.push(what));
    }

    /// Writes a small file of the copy, and its line in the list.
    fn write(
        &self,
        relative: &Path,
        bytes: &[u8],
        mode: u32,
        directory_mode: u32,
    ) -> anyhow::Result<()> {
        let path = Path::new(UNFINISHED).join(relative);
        let cannot = || format!("cannot write {}", self.target.path(&path).display());
        self.target
            .write(&path, bytes, mode, directory_mode)
            .with_context(cannot)?;
        self.list(&Digest::of(Algorithm::Sha256, bytes), relative)
            .with_context(cannot)
    }

    /// Copies a file as it is.
    fn copy(&self, source: &Path, relative: &Path, directory_mode: u32) -> anyhow::Result<()> {
        let read =
            fs::metadata(source).and_then(|metadata| Ok((metadata.mode(), fs::read(source)?)));
        let (mode, bytes) = read.with_context(|| format!("cannot read {}", source.display()))?;
        self.write(relative, &bytes, mode, directory_mode)
    }

    fn list(&self, digest: &Digest, relative: &Path) -> io::Result<()> {
        self.sums
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(digest, relative)
    }

    fn copy_everything(&self) -> anyhow::Result<()> {
        let repositories = self
            .runtime
            .block_on(repositories_of(self.store.as_ref()))?;
        let total = Some(repositories.len() as u64);
        for (done, repository) in repositories.iter().enumerate() {
            let done = done as u64;
            (self.job.tell)(Progress { done, total });
            self.copy_repository(repository)?;
        }
        self.copy_own_files()?;
        self.copy_configuration()
    }

    fn copy_repository(&self, name: &RepositoryName) -> anyhow::Result<()> {
        let mut found = AllLinks::default();
        (self.job.quietly)(name, &mut || {
            found = self.runtime.block_on(links_of(self.store.as_ref(), name))?;
            Ok(())
        })?;
        let AllLinks { mut links, damaged } = found;
        let damaged = damaged
            .into_iter()
            .map(|key: Key| format!("{key}: a damaged link"));
        damaged.for_each(|what| self.damaged(what));
        let digests = links.iter().filter_map(|(_, link)| digest_in(link));
        let new: Vec<Digest> = self.count(|counts| {
            digests
                .filter(|digest| counts.named.insert(*digest))
                .collect()
        });
        for_each(&new, |digest| self.copy_blob(name, digest))?;
        // They were deleted with their bytes, so the copy has neither.
        let gone = self.count(|counts| std::mem::take(&mut counts.gone));
        links.retain(|(_, link)| digest_in(link).is_none_or(|digest| !gone.contains(&digest)));
        for (key, link) in &links {
            let relative = Path::new(Relocated::DATA).join(key.as_str());
            self.write(&relative, link, self.root_mode & 0o666, self.root_mode)?;
        }
        self.count(|counts| {
            counts.record.repositories += 1;
            counts.record.links += links.len() as u64;
        });
        Ok(())
    }

    /// Copies one blob, unless an earlier run has. One that is missing, damaged or unreadable is noted, and the rest goes on:
    /// of a disk that is about to fail, everything else is wanted.
    fn copy_blob(&self, repository: &RepositoryName, digest: &Digest) -> anyhow::Result<()> {
        let key = Place::BlobData(*digest).key();
        let relative = Path::new(Relocated::DATA).join(key.as_str());
        let copy = self.target.path(&relative);
        let source = self.root.join(key.as_str());
        let note = |what: &str| self.damaged(format!("{digest} of {repository}: {what}"));
        let size_bytes = match fs::metadata(&copy) {
            Ok(metadata) if !self.job.reads_all => Some(metadata.len()),
            Ok(_) => match digest_of(&copy, digest.algorithm()) {
                Ok((found, size_bytes)) if found == *digest => Some(size_bytes),
                _ => None,
            },
            Err(_) => None,
        };
        let size_bytes = match size_bytes {
            Some(size_bytes) => size_bytes,
            None => match self.copy_anew(&source, &relative, digest) {
                Ok((found, size_bytes)) if found == *digest => {
                    self.count(|counts| {
                        counts.copied.0 += 1;
                        counts.copied.1 += size_bytes;
                    });
                    size_bytes
                }
                Ok(_) => {
                    note("its bytes are not what its digest says");
                    return Ok(());
                }
                // A repository that was deleted meanwhile, with bytes that nothing else needs.
                Err(CopyError::Read(error))
                    if error.kind() == io::ErrorKind::NotFound
                        && !self.is_linked(repository, digest) =>
                {
                    self.count(|counts| counts.gone.insert(*digest));
                    return Ok(());
                }
                Err(CopyError::Read(error)) => {
                    note(&format!("its bytes cannot be read: {error}"));
                    return Ok(());
                }
                Err(CopyError::Write(error)) => {
                    return Err(error).with_context(|| format!("cannot write {}", copy.display()));
                }
            },
        };
        self.count(|counts| {
            counts.record.blobs += 1;
            counts.record.bytes += size_bytes;
        });
        self.list(digest, &relative)
            .with_context(|| format!("cannot write in {}", self.job.destination.display()))
    }

    /// Whether the repository still has the blob or manifest.
    fn is_linked(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        [
            Place::LayerLink(repository, *digest),
            Place::RevisionLink(repository, *digest),
        ]
        .iter()
        .any(|link| self.root.join(link.key().as_str()).exists())
    }

    /// On the same disk, a second name of the same file takes no room. It was read before it gets that.
    fn copy_anew(
        &self,
        source: &Path,
        relative: &Path,
        digest: &Digest,
    ) -> Result<(Digest, u64), CopyError> {
        if self.is_same_disk {
            let (found, size_bytes) =
                digest_of(source, digest.algorithm()).map_err(CopyError::Read)?;
            if found != *digest {
                return Ok((found, size_bytes));
            }
            let copy = self.target.path(relative);
            let above = relative.parent().unwrap_or(Path::new(""));
            self.target
                .make_directory(above, self.root_mode)
                .map_err(CopyError::Write)?;
            // One that was found to be damaged.
            let _ = fs::remove_file(&copy);
            if fs::hard_link(source, &copy).is_ok() {
                return Ok((found, size_bytes));
            }
            // Some file systems and kernels let only the owner of a file give it another name.
        }
        self.target.copy(
            source,
            relative,
            digest,
            Durable::BeforeName,
            self.root_mode,
        )
    }

    /// Our own files outside the old registry's tree, but for locks and what is under way.
    fn copy_own_files(&self) -> anyhow::Result<()> {
        let config = self.job.config;
        let own = Path::new(Relocated::DATA).join(OWN_DIRECTORY);
        for name in OWN_FILES {
            if let Some(source) = own_file(config, name) {
                self.copy(&source, &own.join(name), PRIVATE_DIRECTORY)?;
            }
        }
        let tombstones = self.runtime.block_on(async {
            let entries = self.store.list(&layout::tombstones_directory(), Depth::All);
            entries.try_collect::<Vec<Entry>>().await
        })?;
        for Entry { key } in tombstones.iter().filter(|entry| !entry.is_prefix()) {
            let relative = Path::new(Relocated::DATA).join(key);
            self.write(&relative, b"", PRIVATE_FILE, PRIVATE_DIRECTORY)?;
        }
        Ok(())
    }

    fn copy_configuration(&self) -> anyhow::Result<()> {
        let Job {
            config,
            relocated,
            config_directory,
            ..
        } = self.job;
        let keys = keys_directory(config);
        for source in files_in(&keys).with_context(|| format!("cannot read {}", keys.display()))? {
            let name = source.file_name().unwrap_or_default();
            self.copy(
                &source,
                &Path::new(Relocated::KEYS).join(name),
                PRIVATE_DIRECTORY,
            )?;
        }
        let mut others = relocated.files.clone();
        if let tls::Settings::Automatic { ca_certificate, .. } = &config.tls {
            others.push((ca_certificate.clone(), Relocated::CA.into()));
        }
        if let Some(users) = &config.auth.users_file {
            others.push((users.clone(), Relocated::USERS.into()));
        }
        let password = "admin-password";
        others.push((config_directory.join(password), password.into()));
        for (source, relative) in others {
            // What is missing here would be missing there.
            if source.is_file() {
                self.copy(&source, &relative, PRIVATE_DIRECTORY)?;
            }
        }
        self.write(
            Path::new(CONFIG),
            relocated.text.as_bytes(),
            PRIVATE_FILE,
            PRIVATE_DIRECTORY,
        )
    }
}

/// The files directly in a directory; none if it is missing.
fn files_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The directory of the data.
fn root_directory(config: &Config) -> anyhow::Result<&Path> {
    match &config.storage {
        store::Settings::Filesystem { root_directory } => Ok(root_directory),
        store::Settings::Bucket(_) => {
            bail!(
                "the data are in a bucket, and this copies directories\nhint: back the bucket up by its own means (replication, versions, `rclone`), and copy the configuration, `keys/` and users.yml beside it"
            )
        }
    }
}

/// One of [`OWN_FILES`]. For data that can only be read, it is with the rest of the state.
fn own_file(config: &Config, name: &str) -> Option<PathBuf> {
    [&config.own_directory(), &config.state_directory]
        .into_iter()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Tells installations apart, and says nothing about the secret that it is made of. `None`: nothing was ever served.
fn installation_id(config: &Config) -> anyhow::Result<Option<String>> {
    let Some(path) = own_file(config, "secret") else {
        return Ok(None);
    };
    let secret = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let id = derived_secret(&secret, "backup")?;
    Ok(Some(Digest::of(Algorithm::Sha256, &id).to_string()))
}

/// A backup within the installation would copy itself, and one around it would be emptied by a restore.
fn refuse_overlap(job: &Job<'_>) -> anyhow::Result<()> {
    let real = |path: &Path| {
        let mut above = path.ancestors();
        let found = above
            .find_map(|above| Some((above.canonicalize().ok()?, path.strip_prefix(above).ok()?)));
        found.map_or_else(|| path.to_owned(), |(above, rest)| above.join(rest))
    };
    let destination = std::path::absolute(job.destination)
        .map_or_else(|_| job.destination.to_owned(), |path| real(&path));
    for part in [
        job.config.owned_directory(),
        &job.config.state_directory,
        job.config_directory,
    ] {
        let part = real(part);
        if destination.starts_with(&part) || part.starts_with(&destination) {
            bail!(
                "{} and {}, a part of the installation, contain each other\nhint: name a directory outside of the installation, on another disk",
                destination.display(),
                part.display()
            );
        }
    }
    Ok(())
}

/// Only an empty directory, or one with a backup of ours, is written to.
fn refuse_strangers(destination: &Path) -> anyhow::Result<()> {
    let entries = match fs::read_dir(destination) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot read {}", destination.display()))?,
    };
    // A volume of its own has this directory.
    let mut names = entries
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name != "lost+found")
        .peekable();
    let ours = [RECORD, UNFINISHED, FINISHED];
    if names.peek().is_some() && !names.any(|name| ours.iter().any(|ours| name == *ours)) {
        bail!(
            "{} holds something else than a backup\nhint: name a new directory, or an empty one",
            destination.display()
        );
    }
    Ok(())
}

/// Two runs would take each other's files for leftovers.
fn lock(destination: &Path) -> anyhow::Result<File> {
    let directory = File::open(destination)
        .with_context(|| format!("cannot open {}", destination.display()))?;
    match directory.try_lock() {
        Err(TryLockError::WouldBlock) => bail!(
            "another backup or restore is using {}\nhint: wait until it has ended",
            destination.display()
        ),
        // A file system without locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(directory),
    }
}

/// Puts what is complete in the place of the last backup. Interrupted, it goes on at the next run.
fn finish(target: &Target, destination: &Path) -> anyhow::Result<()> {
    let finished = target.path(FINISHED);
    if !finished.exists() {
        return Ok(());
    }
    let moved = move_into(&finished, destination)
        .and_then(|()| platform::sync_file_system(destination))
        .and_then(|()| fs::remove_dir_all(&finished))
        .and_then(|()| platform::sync_file_system(destination));
    moved.with_context(|| format!("cannot complete the backup in {}\nhint: run this again where the directory can be written", destination.display()))
}

/// Directories that hold blobs as well are gone through; everything else is replaced as a whole. The record comes last.
fn move_into(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(from)? {
        names.push(entry?.file_name());
    }
    names.sort_by_key(|name| name == RECORD);
    for name in names {
        let (new, old) = (from.join(&name), to.join(&name));
        let holds_blobs = ["data", "docker", "registry", "v2"]
            .iter()
            .any(|part| name == *part);
        if holds_blobs && old.is_dir() {
            move_into(&new, &old)?;
            continue;
        }
        match fs::remove_dir_all(&old).or_else(|_| fs::remove_file(&old)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::rename(&new, &old)?,
        }
    }
    Ok(())
}

/// Removes blobs that no link leads to any more, and parts of files.
fn remove_blobs_without_name(destination: &Path, named: &BTreeSet<Digest>) -> io::Result<()> {
    let data = destination.join(Relocated::DATA);
    let mut unread = vec![data.join(blobs_directory().as_str())];
    while let Some(directory) = unread.pop() {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                unread.push(path);
                continue;
            }
            let key = path.strip_prefix(&data).ok().and_then(Path::to_str);
            match key.and_then(OwnedPlace::parse) {
                Some(OwnedPlace::BlobData(digest)) if named.contains(&digest) => {}
                _ => {
                    fs::remove_file(&path)?;
                    // Kept if something else is in it.
                    let _ = fs::remove_dir(&directory);
                }
            }
        }
    }
    Ok(())
}
