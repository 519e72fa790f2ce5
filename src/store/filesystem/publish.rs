//! Carries out changes of names, and makes them durable.
//!
//! Only the committer's thread uses it, so that thread is the lock of every key. Must not know requests or groups.
//! Invariant: every directory whose names were changed is among [`Changed`], with those above it whose own names this
//! process has not synced yet, and nothing counts as durable before [`Publisher::sync`] has succeeded for it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::absent_or_failed;
use super::boundary::not_followed;
use super::disk::Reach;
use super::disk::is_absent;
use super::staging::{Change, HiddenDirectory, Placement};
use super::volume::sync_directories;
use super::volume::{Corner, Volume, meta_of};
use crate::layout::Prefix;
use crate::store::{Condition, StoreError};

/// How many directories are remembered as durable: about 10 MB of paths. Beyond that all are forgotten, which only costs
/// syncs.
const SETTLED_DIRECTORIES_MAX: usize = 65_536;

pub(super) struct Publisher {
    volume: Arc<Volume>,
    /// Directories whose names, up to the root, are known to be durable. Others may have been made by a process that died
    /// before it synced them.
    settled: BTreeSet<PathBuf>,
}

/// Directories in which names have changed since the last sync.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) directories: BTreeSet<PathBuf>,
    /// Will be settled once all of `directories` are synced.
    settling: BTreeSet<PathBuf>,
    /// Directories that were removed with all below them.
    removed: Vec<PathBuf>,
    /// Another program removes directories too: nothing that was seen before counts.
    has_lost_track: bool,
    /// What was renamed out of sight, to be removed once that is durable.
    pub(super) trash: Vec<PathBuf>,
}

impl Changed {
    /// The directory exists, and will be durable once the one above it is synced.
    fn made(&mut self, directory: &Path) {
        self.directories
            .extend(directory.parent().map(Path::to_owned));
        self.settling.insert(directory.to_owned());
    }
}

/// The directories that a phase settles. Each request finds out for itself what it must have synced, so that none counts
/// on a directory which another made and could not sync.
#[derive(Default)]
pub(super) struct Settling(BTreeSet<PathBuf>);

impl Settling {
    /// Adds what the next request of the phase has changed.
    pub(super) fn add(&mut self, changed: Changed) {
        if changed.has_lost_track {
            self.0.clear();
        }
        for path in &changed.removed {
            forget_below(&mut self.0, path);
        }
        self.0.extend(changed.settling);
    }
}

impl Publisher {
    pub(super) fn new(volume: Arc<Volume>) -> Self {
        Self {
            volume,
            settled: BTreeSet::new(),
        }
    }

    /// Prepares the store for its first group.
    ///
    /// An earlier process may have died between a rename and the syncs of its directories. What it left is visible, so
    /// requests build on it: they mount such a blob, or put a manifest over it. All of it is made durable first.
    ///
    /// Then the directories are made that every push needs. If one cannot be made now, the push that needs it makes it.
    pub(super) fn prepare(&mut self) {
        if !self.volume.is_readonly {
            for own in self.volume.boundary.own_directories() {
                if let Err(error) = self.volume.disk.sync_file_system(&own) {
                    tracing::error!(
                        %error,
                        directory = %own.display(),
                        "the file system could not be synced: a power cut may lose what an earlier process wrote; hint: check the disk"
                    );
                }
            }
        }
        self.settled = self.volume.make_blob_directories().unwrap_or_default();
    }

    /// Carries out one change; what it leaves to be synced is added to `changed`, also where it fails half-way.
    pub(super) fn publish(
        &mut self,
        change: Change,
        changed: &mut Changed,
    ) -> Result<(), StoreError> {
        match change {
            // Also over bytes that are there. Data of a blob are the same where the disk kept them, and this is their repair
            // where it did not: cut, emptied, filled with zeros by a crash of a program that does not sync what it renames,
            // or never written, which the kernel reports only once.
            Change::Place(placement) => self.place(&placement, changed),
            Change::Remove(key) => {
                let path = self.volume.path(&key);
                let gone = self.volume.disk.remove_file(&path);
                self.removed(gone, &path, changed)
                    .map_err(|source| StoreError::from_io(format!("remove {key}"), source))
            }
            Change::RemoveTree(prefix) => {
                let path = self.volume.directory(&prefix);
                self.remove_tree(&path, changed)
                    .map_err(|source| StoreError::from_io(format!("remove {prefix}"), source))
            }
            Change::Settle(key) => {
                let path = self.volume.path(&key);
                self.settle_path(&path, changed)
                    .map_err(|source| absent_or_failed(format!("make {key} durable"), source))
            }
            Change::Whole {
                directory,
                hidden,
                placements,
            } => self.place_whole(&directory, hidden, placements, changed),
        }
    }

    /// Syncs directories; returns the positions of those that failed. `moved` is called after each.
    pub(super) fn sync(
        &self,
        directories: &[&Path],
        moved: &(dyn Fn() + Sync),
    ) -> Vec<(usize, io::Error)> {
        sync_directories(&self.volume, directories, Reach::Medium, moved)
    }

    /// Remembers what is durable now, after all directories of a phase were synced.
    pub(super) fn settle(&mut self, settling: Settling) {
        if self.settled.len() > SETTLED_DIRECTORIES_MAX {
            self.settled.clear();
        }
        // Not `append`, which builds the whole set anew.
        self.settled.extend(settling.0);
    }

    fn place(&mut self, placement: &Placement, changed: &mut Changed) -> Result<(), StoreError> {
        let Placement {
            file,
            key,
            condition,
        } = placement;
        let target = self.volume.path(key);
        if let Condition::Match(version) = condition {
            match fs::metadata(&target) {
                Ok(metadata) if meta_of(&metadata).version == *version => {}
                _ => return Err(StoreError::Conflict),
            }
        }
        let renamed = self.rename_into_place(
            &file.path,
            &target,
            *condition == Condition::Absent,
            changed,
        );
        match renamed {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(StoreError::Conflict),
            other => other.map_err(|source| StoreError::from_io(format!("write {key}"), source)),
        }
    }

    fn rename_into_place(
        &mut self,
        from: &Path,
        to: &Path,
        only_if_absent: bool,
        changed: &mut Changed,
    ) -> io::Result<()> {
        let disk = Arc::clone(&self.volume.disk);
        let rename = || {
            if only_if_absent {
                disk.rename_if_absent(from, to)
            } else {
                disk.rename(from, to)
            }
        };
        self.below_parents(to, changed, &rename)
    }

    /// Renames something to `to`, whose parents are made if they are missing.
    fn below_parents(
        &mut self,
        to: &Path,
        changed: &mut Changed,
        rename: &dyn Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        let done = self.make_parents(to, changed).and_then(|()| rename());
        match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Another program has removed a directory that we had seen: look again.
                self.settled.clear();
                changed.settling.clear();
                changed.has_lost_track = true;
                self.make_parents(to, changed)?;
                rename()
            }
            done => done,
        }
    }

    /// Makes the directories above `path` that are missing, and marks all for a sync that are not known to be durable.
    fn make_parents(&mut self, path: &Path, changed: &mut Changed) -> io::Result<()> {
        let Some(parent) = path.parent() else {
            return Ok(());
        };
        changed.directories.insert(parent.to_owned());
        let unsettled = self.unsettled(path, changed);
        if !unsettled.is_empty() && !self.volume.boundary.is_followed(parent) {
            return Err(not_followed());
        }
        for directory in unsettled.into_iter().rev() {
            match self.volume.disk.make_directory(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            changed.made(directory);
        }
        Ok(())
    }

    /// Gives a directory that was built out of sight its name. Where something has the name, each file gets its own.
    fn place_whole(
        &mut self,
        directory: &Prefix,
        hidden: Option<HiddenDirectory>,
        mut placements: Vec<Placement>,
        changed: &mut Changed,
    ) -> Result<(), StoreError> {
        let failed = |source| StoreError::from_io(format!("write {directory}"), source);
        let target = self.volume.directory(directory);
        if target.exists() {
            self.show_above(&target, changed).map_err(failed)?;
            return placements
                .iter()
                .try_for_each(|placement| self.place(placement, changed));
        }
        let is_match = |placement: &Placement| matches!(placement.condition, Condition::Match(_));
        if placements.iter().any(is_match) {
            return Err(StoreError::Conflict);
        }
        let hidden = match hidden {
            Some(hidden) => hidden,
            // It was there when the files came.
            None => {
                HiddenDirectory::fill(&self.volume, &target, &mut placements).map_err(failed)?
            }
        };
        let disk = Arc::clone(&self.volume.disk);
        let rename = || disk.rename(&hidden.path, &target);
        self.below_parents(&target, changed, &rename)
            .map_err(failed)
    }

    /// Gives the directory above a new time before something in `directory` is replaced. By itself it would keep its time,
    /// and a fingerprint taken before would not show, after a crash, that a tag was moved.
    fn show_above(&self, directory: &Path, changed: &mut Changed) -> io::Result<()> {
        let Some(above) = directory.parent() else {
            return Ok(());
        };
        changed.directories.insert(above.to_owned());
        self.volume.set_stamp(&fs::File::open(above)?)
    }

    fn remove_tree(&mut self, path: &Path, changed: &mut Changed) -> io::Result<()> {
        if self.volume.root().starts_with(path) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let above = path.parent().unwrap_or(path);
        if !self.volume.boundary.is_followed(above) {
            return Err(not_followed());
        }
        let trash = self.volume.new_path(Corner::Trash, path);
        let gone = self.volume.disk.rename(path, &trash);
        if gone.is_ok() {
            changed.trash.push(trash);
            forget_below(&mut self.settled, path);
            forget_below(&mut changed.settling, path);
            changed.removed.push(path.to_owned());
        }
        self.removed(gone, path, changed)
    }

    /// Makes a file durable that another process may have left without a sync of it or of its name.
    fn settle_path(&self, path: &Path, changed: &mut Changed) -> io::Result<()> {
        if !self.volume.boundary.is_followed(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = fs::File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.volume.disk.sync_file(&file)?;
        changed
            .directories
            .extend(path.parent().map(Path::to_owned));
        for directory in self.unsettled(path, changed) {
            changed.made(directory);
        }
        Ok(())
    }

    /// The directories above `path`, innermost first, that are not known to be durable.
    fn unsettled<'a>(&self, path: &'a Path, changed: &Changed) -> Vec<&'a Path> {
        let root = self.volume.root();
        let above = path.ancestors().skip(1);
        let is_unsettled = |directory: &&Path| {
            *directory != root
                && !self.settled.contains(*directory)
                && !changed.settling.contains(*directory)
        };
        above.take_while(is_unsettled).collect()
    }

    /// Marks the parent for a sync even where there was nothing to remove: a process may have removed it and died before the
    /// sync.
    fn removed(&self, gone: io::Result<()>, path: &Path, changed: &mut Changed) -> io::Result<()> {
        match gone {
            Err(error) if !is_absent(&error) => return Err(error),
            _ => {}
        }
        let existing = path.ancestors().skip(1).find(|above| above.is_dir());
        if let Some(existing) = existing
            && existing.starts_with(self.volume.root())
        {
            changed.directories.insert(existing.to_owned());
        }
        Ok(())
    }
}

/// Paths sort by component, so all below `path` stand together.
fn forget_below(directories: &mut BTreeSet<PathBuf>, path: &Path) {
    let below: Vec<PathBuf> = directories
        .range(path.to_owned()..)
        .take_while(|directory| directory.starts_with(path))
        .cloned()
        .collect();
    for directory in below {
        directories.remove(&directory);
    }
}
