//! Which paths are the store's: a link that leads out of its tree is not followed.
//!
//! Links at or above `v2/blobs` and `v2/repositories` are the administrator's, who moves a part of the store to another disk
//! with them; they are resolved once, when the store is opened. Below them a link may lead to another place of the tree, but
//! not out of it, where files of other programs could be served or removed, nor back to a directory that it lies in. Must not know
//! what is stored. Invariant: before a path is read or listed, or
//! directories are made above it, [`Boundary::is_followed`] is asked; or the path is opened in a way that follows no link.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::disk::Disk;
use super::disk::is_absent;
use crate::layout::{
    Key, OWN_DIRECTORY, OWN_DIRECTORY_WITHIN, Prefix, blobs_directory, repositories_directory,
};

/// How many links are remembered as warned of. Beyond that all are forgotten, and warned of again.
const WARNED_MAX: usize = 10_000;

pub(super) struct Boundary {
    root: PathBuf,
    /// Prefixes of keys, and where these really lie; the last is the root itself.
    bases: Vec<(Prefix, PathBuf)>,
    /// Parts of the tree that lie on another file system than the root.
    elsewhere: Vec<Elsewhere>,
    warned: Mutex<HashSet<PathBuf>>,
}

/// A part of the tree on another file system.
struct Elsewhere {
    /// As the store names it.
    part: PathBuf,
    /// Our own directory there.
    own: PathBuf,
    device: u64,
}

impl Boundary {
    /// Resolves the administrator's links.
    pub(super) fn open(root: &Path, disk: &dyn Disk) -> io::Result<Self> {
        let own: Option<Prefix> = format!("{OWN_DIRECTORY}/").parse().ok();
        let prefixes = [blobs_directory(), repositories_directory()];
        let prefixes = prefixes.into_iter().chain(own);
        let prefixes = prefixes.chain([Prefix::everything()]);
        let bases = prefixes.map(|prefix| {
            let real = real(&root.join(prefix.as_str()))?;
            Ok((prefix, real))
        });
        let bases: Vec<(Prefix, PathBuf)> = bases.collect::<io::Result<_>>()?;
        let here = disk.device(root).ok();
        let elsewhere = bases.iter().filter_map(|(prefix, real)| {
            // What does not exist yet will be made where its parent is.
            let device = real.ancestors().find_map(|above| disk.device(above).ok())?;
            let part = root.join(prefix.as_str());
            let own = real.join(OWN_DIRECTORY_WITHIN);
            (Some(device) != here).then_some(Elsewhere { part, own, device })
        });
        Ok(Self {
            root: root.to_owned(),
            elsewhere: elsewhere.collect(),
            bases,
            warned: Mutex::default(),
        })
    }

    /// The path of `key`, free of the administrator's links, so that it can be opened without following any.
    pub(super) fn path(&self, key: &Key) -> PathBuf {
        let below = |(prefix, real): &(Prefix, PathBuf)| {
            let rest = key.as_str().strip_prefix(prefix.as_str())?;
            Some(real.join(rest))
        };
        let path = self.bases.iter().find_map(below);
        path.unwrap_or_else(|| self.root.join(key.as_str()))
    }

    /// Our own directory on the file system of `path`: from there and to there it can be renamed.
    pub(super) fn own_directory(&self, path: &Path) -> PathBuf {
        let part = self
            .elsewhere
            .iter()
            .find(|one| path.starts_with(&one.part));
        part.map_or_else(|| self.root.join(OWN_DIRECTORY), |one| one.own.clone())
    }

    /// All of them.
    pub(super) fn own_directories(&self) -> impl Iterator<Item = PathBuf> {
        let elsewhere = self.elsewhere.iter().map(|one| one.own.clone());
        std::iter::once(self.root.join(OWN_DIRECTORY)).chain(elsewhere)
    }

    /// Whether `from` cannot be renamed to `to`, because they lie on different file systems.
    pub(super) fn is_apart(&self, from: &Path, to: &Path) -> bool {
        let device = |path: &Path| {
            let part = self
                .elsewhere
                .iter()
                .find(|one| path.starts_with(&one.part));
            part.map(|one| one.device)
        };
        device(from) != device(to)
    }

    /// Whether what is at `path`, or will be made there, lies in the tree. Where it does not, the log says so, once. Blocks.
    pub(super) fn is_followed(&self, path: &Path) -> bool {
        match real(path) {
            Ok(real) if self.bases.iter().any(|(_, base)| real.starts_with(base)) => true,
            Ok(real) => {
                self.warn(
                    path,
                    &format!(
                        "leads to {}, out of the tree; hint: put the files there, or link v2/blobs or v2/repositories as a whole",
                        real.display()
                    ),
                );
                false
            }
            // The caller that opens it reports the error.
            Err(error) if is_absent(&error) => true,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => true,
            Err(error) => {
                self.warn(path, &error.to_string());
                false
            }
        }
    }

    /// Whether the link at `path`, which is to be listed, may be followed: into the tree, and not back to a directory that it
    /// lies in, from which the same would be listed again and again.
    pub(super) fn is_listed(&self, path: &Path) -> bool {
        if !self.is_followed(path) {
            return false;
        }
        let Ok(target) = path.canonicalize() else {
            return false;
        };
        let is_back = |above: &Path| {
            let above = above.canonicalize();
            above.is_ok_and(|above| above.starts_with(&target))
        };
        if path.ancestors().skip(1).any(is_back) {
            self.warn(path, "leads back to a directory that it lies in");
            return false;
        }
        true
    }

    fn warn(&self, path: &Path, why: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() >= WARNED_MAX {
            warned.clear();
        }
        if warned.insert(path.to_owned()) {
            tracing::warn!(
                path = %path.display(),
                "a link is not followed: it {why}"
            );
        }
    }
}

/// `path` without links; what does not exist yet lies where its parent does.
fn real(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => {
                    Ok(real(parent)?.join(name))
                }
                _ => Err(error),
            }
        }
        found => found,
    }
}

/// The answer where a path is not followed: nothing is missing there, it is only not for us to see.
pub(super) fn not_followed() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "a link leads out of the store's tree, or in a circle",
    )
}
