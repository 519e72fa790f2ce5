//! What is below a prefix: listings, and fingerprints made of the times of directories.
//!
//! Must not know what the keys mean. Invariants: entries come in byte order of the full key; a directory is read once, and its
//! names are held once; names that are not UTF-8 are left out. A link that is not followed is listed as the file that it is,
//! so that its directory does not count as empty.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt as _, stream};

use super::blocking;
use super::boundary::not_followed;
use super::disk::is_absent;
use super::volume::Volume;
use crate::layout::{OWN_DIRECTORY, Prefix};
use crate::store::{Depth, Entry, Fingerprint, Listing, StoreError};

/// How coarse a file system's times may be (a tick of the kernel is 10 ms at most): a directory that is changed twice within
/// it may show the same time after both.
const TIME_STEP: Duration = Duration::from_millis(100);

/// Lists what is below `prefix`.
pub(super) fn list(volume: &Arc<Volume>, prefix: &Prefix, depth: Depth) -> Listing {
    let walk = Walk {
        volume: Arc::clone(volume),
        depth,
        unread: Some(prefix.to_string()),
        levels: Vec::new(),
    };
    stream::try_unfold(walk, Walk::advance).boxed()
}

/// The directories that a listing is in, innermost last.
struct Walk {
    volume: Arc<Volume>,
    depth: Depth,
    /// The next one to be read.
    unread: Option<String>,
    levels: Vec<Level>,
}

/// A directory, and the names in it that are still to come. Those of directories end in `/`: so they sort as the keys below
/// them do.
struct Level {
    prefix: String,
    names: std::vec::IntoIter<String>,
}

impl Walk {
    async fn advance(mut self) -> Result<Option<(Entry, Self)>, StoreError> {
        loop {
            if let Some(prefix) = self.unread.take() {
                let (volume, directory) = (Arc::clone(&self.volume), prefix.clone());
                let is_first = self.levels.is_empty();
                let names = blocking(move || names_in(&volume, &directory, is_first)).await?;
                let names = names
                    .map_err(|source| StoreError::from_io(format!("list {prefix}"), source))?
                    .into_iter();
                self.levels.push(Level { prefix, names });
            }
            let Some(level) = self.levels.last_mut() else {
                return Ok(None);
            };
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            let key = format!("{}{name}", level.prefix);
            if self.depth == Depth::All && key.ends_with('/') {
                self.unread = Some(key);
                continue;
            }
            return Ok(Some((Entry { key }, self)));
        }
    }
}

/// The names in a directory, sorted; none if it is not there. Blocks.
fn names_in(volume: &Volume, prefix: &str, is_first: bool) -> io::Result<Vec<String>> {
    let path = volume.root().join(prefix);
    // Below it, links are looked at one by one.
    if is_first && !volume.boundary.is_followed(&path) {
        return Err(not_followed());
    }
    let entries = match volume.disk.read_directory(&path) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(mut name) = entry.file_name().into_string() else {
            continue;
        };
        if prefix.is_empty() && name == OWN_DIRECTORY {
            continue;
        }
        // What vanishes meanwhile is left out.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let is_directory = if kind.is_symlink() {
            match linked_kind(volume, &entry) {
                Some(kind) => kind.is_dir(),
                None => continue,
            }
        } else {
            kind.is_dir()
        };
        if is_directory {
            name.push('/');
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}

/// What the link leads to, or the link itself where it is not followed; `None` if it leads nowhere.
fn linked_kind(volume: &Volume, link: &fs::DirEntry) -> Option<fs::FileType> {
    let path = link.path();
    let metadata = if volume.boundary.is_listed(&path) {
        fs::metadata(path)
    } else {
        fs::symlink_metadata(path)
    };
    metadata.ok().map(|metadata| metadata.file_type())
}

/// The times of the directories of `prefixes`; blocks. `None` where the file system has no times.
pub(super) fn fingerprint(volume: &Volume, prefixes: &[Prefix]) -> io::Result<Option<Fingerprint>> {
    let mut value = String::new();
    let mut newest = UNIX_EPOCH;
    for prefix in prefixes {
        let path = volume.directory(prefix);
        if !volume.boundary.is_followed(&path) {
            return Err(not_followed());
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                let Ok(modified) = metadata.modified() else {
                    return Ok(None);
                };
                newest = newest.max(modified);
                let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
                value.push_str(&since.as_nanos().to_string());
            }
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
        value.push(' ');
    }
    let is_settled = distance(newest, volume.clock.now()) >= TIME_STEP;
    Ok(Some(Fingerprint { value, is_settled }))
}

fn distance(one: SystemTime, other: SystemTime) -> Duration {
    let apart = one.duration_since(other);
    apart.unwrap_or_else(|other_is_later| other_is_later.duration())
}
