//! Builds directories that must appear whole: a tag's.
//!
//! Must not know what the directory is. Invariant: all below the nursery is durable when [`fill`] returns, so that one
//! rename shows it whole or not at all.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::change::Placement;
use super::syncing::sync_directories;
use super::volume::Volume;

/// Moves files to where they will be below `nursery` once that is renamed to `target`.
pub(super) fn fill(
    volume: &Volume,
    nursery: &Path,
    target: &Path,
    placements: &[Placement],
) -> io::Result<()> {
    let disk = &volume.disk;
    let mut made = BTreeSet::from([nursery.to_owned()]);
    disk.make_directory(nursery)?;
    for placement in placements {
        let path = volume.path(&placement.key);
        let path = nursery.join(path.strip_prefix(target).map_err(io::Error::other)?);
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
    }
    let made: Vec<&Path> = made.iter().map(PathBuf::as_path).collect();
    match sync_directories(volume, &made).into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}
