//! What a request is to the committer: its bytes lie in synced files, so that only names are left to be changed.
//!
//! Must not change a name that a reader sees. Invariants: what fails here leaves the store as it was; all that lies below a
//! [`HiddenDirectory`] is durable, so that one rename shows it whole or not at all; [`start_phases`] never lets a request overtake an
//! earlier one that touches the same keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::Reach;
use super::session::Received;
use super::volume::sync_directories;
use super::volume::{Corner, Incoming, Volume};
use crate::layout::{self, Key, Prefix};
use crate::store::{Condition, Step, StoreError};

/// The changes between two barriers.
pub(super) type Phase = Vec<Change>;

pub(super) enum Change {
    Place(Placement),
    Remove(Key),
    RemoveTree(Prefix),
    /// The content of the key is made durable.
    Settle(Key),
    /// All that is put into a directory which must appear whole.
    Whole {
        directory: Prefix,
        /// Holds the files as they will be in the directory, if that was missing when they were staged.
        hidden: Option<HiddenDirectory>,
        placements: Vec<Placement>,
    },
}

/// A synced file on its way to its key.
pub(super) struct Placement {
    pub(super) file: Incoming,
    pub(super) key: Key,
    pub(super) condition: Condition,
}

/// Puts together what must appear together, at the place of the last of it; a removal in between ends the togetherness.
pub(super) fn gather_whole_directories(phase: Phase) -> Phase {
    let mut gathered: Phase = Vec::with_capacity(phase.len());
    // From here on, nothing was removed.
    let mut start = 0;
    for change in phase {
        let Change::Place(placement) = change else {
            if matches!(change, Change::Remove(_) | Change::RemoveTree(_)) {
                start = gathered.len() + 1;
            }
            gathered.push(change);
            continue;
        };
        let Some(whole) = layout::whole_directory(&placement.key) else {
            gathered.push(Change::Place(placement));
            continue;
        };
        let earlier = gathered.iter().skip(start).position(
            |change| matches!(change, Change::Whole { directory, .. } if *directory == whole),
        );
        let mut placements = match earlier.map(|position| gathered.remove(start + position)) {
            Some(Change::Whole { placements, .. }) => placements,
            _ => Vec::new(),
        };
        placements.push(placement);
        gathered.push(Change::Whole {
            directory: whole,
            hidden: None,
            placements,
        });
    }
    gathered
}

/// In which phase of the group each request begins. All begin in the first, except one that touches what an earlier
/// request touches: it begins in the last phase of that one, where it comes after it.
pub(super) fn start_phases(requests: &[&[Phase]]) -> Vec<usize> {
    // What was touched, and the last phase of the last request that did. Trees end in `/`.
    let mut touched: BTreeMap<String, usize> = BTreeMap::new();
    let mut starts = Vec::with_capacity(requests.len());
    for phases in requests {
        let areas: Vec<String> = phases.iter().flatten().map(Change::area).collect();
        let start = areas
            .iter()
            .filter_map(|area| last_touch(&touched, area))
            .max()
            .unwrap_or(0);
        let last = start + phases.len().saturating_sub(1);
        for area in areas {
            let phase = touched.entry(area).or_default();
            *phase = last.max(*phase);
        }
        starts.push(start);
    }
    starts
}

fn last_touch(touched: &BTreeMap<String, usize>, area: &str) -> Option<usize> {
    let around = area
        .match_indices('/')
        .filter_map(|(position, _)| touched.get(area.get(..=position)?));
    let inside = touched
        .range(area.to_owned()..)
        .take_while(|(other, _)| {
            other.as_str() == area || (area.ends_with('/') && other.starts_with(area))
        })
        .map(|(_, phase)| phase);
    around.chain(inside).copied().max()
}

impl Change {
    /// The key, or the prefix of all keys, that this touches.
    fn area(&self) -> String {
        match self {
            Self::Place(placement) => placement.key.to_string(),
            // A key of a whole directory stands for all of it, as it does when it is put.
            Self::Remove(key) | Self::Settle(key) => match layout::whole_directory(key) {
                Some(directory) => directory.to_string(),
                None => key.to_string(),
            },
            Self::RemoveTree(prefix)
            | Self::Whole {
                directory: prefix, ..
            } => prefix.to_string(),
        }
    }
}

/// Writes and syncs all bytes of a request.
pub(super) fn stage(
    volume: &Volume,
    received: Option<(Received, Key)>,
    steps: Vec<Step>,
) -> Result<Vec<Phase>, StoreError> {
    let mut phases = Vec::new();
    let mut phase = Phase::new();
    // What may become visible in any order.
    let mut stretch = Phase::new();
    if let Some((received, key)) = received {
        let file = arrive(volume, &received, &key);
        stretch.push(Change::Place(Placement {
            file: file.map_err(|source| StoreError::from_io(format!("write {key}"), source))?,
            key,
            condition: Condition::Any,
        }));
    }
    for step in steps {
        match step {
            Step::Put {
                key,
                bytes,
                condition,
            } => {
                let file = volume.write_temporary(&bytes, &key);
                stretch.push(Change::Place(Placement {
                    file: file
                        .map_err(|source| StoreError::from_io(format!("write {key}"), source))?,
                    key,
                    condition,
                }));
            }
            Step::Remove(key) => stretch.push(Change::Remove(key)),
            Step::RemoveTree { prefix, first: _ } => stretch.push(Change::RemoveTree(prefix)),
            Step::Settle(key) => stretch.push(Change::Settle(key)),
            Step::Then => prepare(volume, &mut phase, std::mem::take(&mut stretch))?,
            Step::Barrier => {
                prepare(volume, &mut phase, std::mem::take(&mut stretch))?;
                phases.push(std::mem::take(&mut phase));
            }
        }
    }
    prepare(volume, &mut phase, stretch)?;
    phases.push(phase);
    Ok(phases)
}

/// Makes the bytes of an upload durable, where they can be renamed to `key` from.
fn arrive(volume: &Volume, received: &Received, key: &Key) -> io::Result<Incoming> {
    received.sync()?;
    if volume.boundary.is_apart(&received.data, &volume.path(key)) {
        // The administrator has moved the blobs, or the repositories, to a disk of their own.
        return volume.copy_temporary(&received.file, key);
    }
    // The session keeps them if this fails.
    Ok(Incoming::kept(received.data.clone()))
}

/// Adds a stretch to a phase. What must appear together is put into a directory that is synced here, in parallel with other
/// requests, and not in the committer.
fn prepare(volume: &Volume, phase: &mut Phase, stretch: Phase) -> Result<(), StoreError> {
    for mut change in gather_whole_directories(stretch) {
        if let Change::Whole {
            directory,
            hidden,
            placements,
        } = &mut change
        {
            let target = volume.directory(directory);
            if !target.exists() {
                let filled = HiddenDirectory::fill(volume, &target, placements);
                let failed = |source| StoreError::from_io(format!("write {directory}"), source);
                *hidden = Some(filled.map_err(failed)?);
            }
        }
        phase.push(change);
    }
    Ok(())
}

/// A directory below `tmp/`; removed with what is left in it when dropped, unless it was renamed by then.
pub(super) struct HiddenDirectory {
    pub(super) path: PathBuf,
}

impl HiddenDirectory {
    /// Moves the files of `placements` to where they will be once it is renamed to `target`, and sets their paths.
    pub(super) fn fill(
        volume: &Volume,
        target: &Path,
        placements: &mut [Placement],
    ) -> io::Result<Self> {
        let disk = &volume.disk;
        let path = volume.new_path(Corner::Temporary, target);
        disk.make_directory(&path)?;
        // Made before the next thing that can fail, so that it is removed then.
        let hidden = Self { path };
        let mut made = BTreeSet::from([hidden.path.clone()]);
        for placement in placements {
            let path = volume.path(&placement.key);
            let path = hidden
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
            None => Ok(hidden),
        }
    }
}

impl Drop for HiddenDirectory {
    fn drop(&mut self) {
        // Not there any more in the good case; what cannot be removed now is removed at the next start.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remove(key: &str) -> Change {
        Change::Remove(key.parse().expect("a key"))
    }

    fn remove_tree(prefix: &str) -> Change {
        Change::RemoveTree(prefix.parse().expect("a prefix"))
    }

    #[test]
    fn requests_that_share_nothing_begin_together() {
        let first = [vec![remove("a/b")], vec![remove("a/c")]];
        let second = [vec![remove("a/bc")], vec![remove_tree("b/")]];
        assert_eq!(start_phases(&[&first, &second]), [0, 0]);
    }

    #[test]
    fn a_request_does_not_overtake_one_that_touches_the_same() {
        let first = [vec![remove("a/b")], vec![remove("a/c/d")]];
        for second in [remove("a/c/d"), remove_tree("a/c/"), remove_tree("a/")] {
            let second = [vec![second], vec![remove("x")]];
            let third = [vec![remove("x")]];
            assert_eq!(start_phases(&[&first, &second, &third]), [0, 1, 2]);
        }
        let tree = [vec![], vec![remove_tree("a/")]];
        assert_eq!(start_phases(&[&tree, &[vec![remove("a/b/c")]]]), [0, 1]);
    }
}
