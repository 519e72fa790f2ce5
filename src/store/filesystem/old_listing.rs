//! Listings of directories in byte order of the full key.
//!
//! Must not know what the keys mean. Invariant: entries come strictly ascending, all greater than `after`; what vanishes
//! while listing, and names that are not UTF-8, are left out. A link that is not followed is listed as the file that it is,
//! so that whoever asks whether a directory is empty sees it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::boundary::{Boundary, not_followed};
use super::volume::{is_absent, meta_of};
use crate::layout::{OWN_DIRECTORY, Prefix};
use crate::store::{Depth, Entry};

/// Lists what lies below `prefix` of the store at `root`; blocks.
pub(super) fn list(
    root: &Path,
    boundary: &Boundary,
    prefix: &Prefix,
    after: Option<&str>,
    depth: Depth,
    limit: usize,
) -> io::Result<Vec<Entry>> {
    if !boundary.is_followed(&root.join(prefix.as_str())) {
        return Err(not_followed());
    }
    let mut found = Vec::new();
    // The directories that we are in, innermost last, each with what is still to come, greatest first.
    let mut open = vec![pending(
        root,
        boundary,
        prefix.as_str(),
        after,
        Wanted::of(depth, limit),
    )?];
    while found.len() < limit
        && let Some(level) = open.last_mut()
    {
        let Some((key, Child { path, is_followed })) = level.pop() else {
            open.pop();
            continue;
        };
        if depth == Depth::All && key.ends_with('/') {
            open.push(pending(root, boundary, &key, after, Wanted::Everything)?);
            continue;
        }
        let metadata = if is_followed {
            fs::metadata(path)
        } else {
            fs::symlink_metadata(path)
        };
        match metadata {
            Ok(metadata) => found.push(Entry {
                meta: meta_of(&metadata),
                key,
            }),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// How much of a directory is remembered while it is read.
#[derive(Clone, Copy)]
enum Wanted {
    Everything,
    First(usize),
}

impl Wanted {
    fn of(depth: Depth, limit: usize) -> Self {
        match depth {
            Depth::One => Self::First(limit),
            // A directory may turn out to be empty, so no number of entries is known to be enough.
            Depth::All => Self::Everything,
        }
    }
}

/// What is to be listed, or looked into.
struct Child {
    path: PathBuf,
    /// Whether a link there is followed.
    is_followed: bool,
}

/// The children of the directory `prefix` that can lead to something behind `after`, greatest first.
fn pending(
    root: &Path,
    boundary: &Boundary,
    prefix: &str,
    after: Option<&str>,
    wanted: Wanted,
) -> io::Result<Vec<(String, Child)>> {
    let entries = match fs::read_dir(root.join(prefix)) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut children = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if prefix.is_empty() && name == OWN_DIRECTORY {
            continue;
        }
        let path = entry.path();
        let (is_followed, is_directory) = match entry.file_type() {
            Ok(kind) if kind.is_symlink() => {
                let is_followed = boundary.is_listed(&path);
                (is_followed, is_followed && path.is_dir())
            }
            Ok(kind) => (true, kind.is_dir()),
            Err(_) => continue,
        };
        // With its slash, a directory sorts as the keys in it do.
        let key = format!("{prefix}{name}{}", if is_directory { "/" } else { "" });
        let is_wanted =
            after.is_none_or(|after| key.as_str() > after || leads_past(&key, after, wanted));
        if is_wanted {
            children.insert(key, Child { path, is_followed });
        }
        if let Wanted::First(limit) = wanted
            && children.len() > limit
        {
            children.pop_last();
        }
    }
    Ok(children.into_iter().rev().collect())
}

/// Whether a directory that sorts before `after` can hold keys that sort behind it.
fn leads_past(key: &str, after: &str, wanted: Wanted) -> bool {
    matches!(wanted, Wanted::Everything) && key.ends_with('/') && after.starts_with(key)
}
