//! Builds directories that must appear whole: a tag's.
//!
//! Must not know what the directory is. Invariant: all that lies below a [`Nursery`] is durable, so that one rename shows it
//! whole or not at all.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::change::Placement;
use super::disk::Reach;
use super::syncing::sync_directories;
use super::volume::{Corner, Volume};

/// A directory below `tmp/`; removed with what is left in it when dropped, unless it was renamed by then.
pub(super) struct Nursery {
    pub(super) path: PathBuf,
}

impl Nursery {
    /// Moves the files of `placements` to where they will be once the nursery is renamed to `target`, and tells them so.
    pub(super) fn fill(
        volume: &Volume,
        target: &Path,
        placements: &mut [Placement],
    ) -> io::Result<Self> {
        let disk = &volume.disk;
        let path = volume.new_path(Corner::Temporary, target);
        disk.make_directory(&path)?;
        // Made before the next thing that can fail, so that it is removed then.
        let nursery = Self { path };
        let mut made = BTreeSet::from([nursery.path.clone()]);
        for placement in placements {
            let path = volume.path(&placement.key);
            let path = nursery
                .path
                .join(path.strip_prefix(target).map_err(io::Error::other)?);
            let mut missing: Vec<&Path> = path
                .ancestors()
                .skip(1)
                .take_while(|directory| !made.contains(*directory))
                .collect();
            while let Some(directory) = missing.pop() {
                disk.make_directory(directory)?;
                made.insert(directory.to_owned());
            }
            disk.rename(&placement.file.path, &path)?;
            placement.file.path = path;
        }
        let made: Vec<&Path> = made.iter().map(PathBuf::as_path).collect();
        // The sync of the phase that shows the directory reaches through the drive's cache for this as well.
        match sync_directories(volume, &made, Reach::Drive, &|| {})
            .into_iter()
            .next()
        {
            Some((_, error)) => Err(error),
            None => Ok(nursery),
        }
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        // Not there any more in the good case; what cannot be removed now is removed at the next start.
        let _ = fs::remove_dir_all(&self.path);
    }
}
