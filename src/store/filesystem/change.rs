//! What is left of steps once their bytes lie in synced files: only names are still to be changed.
//!
//! Must not touch the disk. Invariant: [`start_phases`] never lets a request overtake an earlier one that touches the same
//! keys.

use std::collections::BTreeMap;

use super::nursery::Nursery;
use super::volume::Incoming;
use crate::layout::{self, Key, Prefix};
use crate::store::Condition;

/// The changes between two barriers.
pub(super) type Phase = Vec<Change>;

pub(super) enum Change {
    Place(Placement),
    Remove(Key),
    RemoveTree(Prefix),
    /// What is there is made durable.
    Settle(Key),
    /// All that is put into a directory which must appear whole.
    Whole {
        directory: Prefix,
        /// Where the files lie as they will in the directory, if that was missing when they came.
        nursery: Option<Nursery>,
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
            nursery: None,
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
    fn nobody_overtakes_who_touches_the_same() {
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
