//! The seam to the database: ordered trees of small keys and values; and the seam to the disk under it.
//!
//! Must not know what the keys mean. Invariant of every implementation: a commit happens whole or not at all and is durable
//! when it returns; a scan is in byte order; after a failed write nothing more is written until it was opened again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use super::IndexError;
use crate::durable_file;

/// The longest scan: bounds memory and the time for which a database cannot be swapped.
pub(super) const SCAN_MAX: usize = 1_000;

/// The longest value: sled keeps small values in its pages and turns pages past 128 KiB into files of their own.
pub(super) const VALUE_BYTES_MAX: usize = 4_096;

/// What is kept apart. A large change deletes in the reverse of this order and then puts in this order, so that a reverse
/// entry is never without the entry that it is deleted with, and stamps come after all that they vouch for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tree {
    Meta,
    Repositories,
    Tags,
    Revisions,
    Referrers,
    Layers,
    Holders,
    Edges,
    Sizes,
    Opaque,
    Totals,
    Stamps,
}

impl Tree {
    pub(super) const ALL: [Self; 12] = [
        Self::Meta,
        Self::Repositories,
        Self::Tags,
        Self::Revisions,
        Self::Referrers,
        Self::Layers,
        Self::Holders,
        Self::Edges,
        Self::Sizes,
        Self::Opaque,
        Self::Totals,
        Self::Stamps,
    ];

    /// Its name in the database.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Repositories => "repositories",
            Self::Tags => "tags",
            Self::Revisions => "revisions",
            Self::Referrers => "referrers",
            Self::Layers => "layers",
            Self::Holders => "holders",
            Self::Edges => "edges",
            Self::Sizes => "sizes",
            Self::Opaque => "opaque",
            Self::Totals => "totals",
            Self::Stamps => "stamps",
        }
    }
}

/// A key and where it is kept.
pub(super) type Place = (Tree, Vec<u8>);

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// One change: a value to put, or none to delete what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Op {
    pub(super) tree: Tree,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

/// A database. Reads come from many threads, commits from one at a time.
pub(super) trait Engine: Send + Sync {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;

    /// Up to `limit` (at most [`SCAN_MAX`]) pairs whose key starts with `prefix` and is greater than `after`.
    fn scan(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, IndexError>;

    /// Carries out all of `ops`, in order, or none.
    fn commit(&self, ops: Vec<Op>) -> Result<(), IndexError>;

    /// Whether it still takes commits.
    fn health(&self) -> Result<(), IndexError>;
}

/// Refuses what no engine takes.
pub(super) fn check_sizes(ops: &[Op]) -> Result<(), IndexError> {
    let length = |op: &Op| op.value.as_ref().map_or(0, Vec::len);
    match ops.iter().find(|op| length(op) > VALUE_BYTES_MAX) {
        Some(op) => Err(IndexError::Unavailable {
            reason: format!(
                "a value of {} bytes for {} is longer than {VALUE_BYTES_MAX}",
                length(op),
                op.tree.name()
            ),
        }),
        None => Ok(()),
    }
}

/// The model of an engine: sorted maps in memory. It does what sled must do; both pass one suite.
#[derive(Debug, Default)]
pub(super) struct MemoryEngine {
    pairs: RwLock<BTreeMap<Place, Vec<u8>>>,
}

impl Engine for MemoryEngine {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let pairs = self.pairs.read().unwrap_or_else(PoisonError::into_inner);
        Ok(pairs.get(&(tree, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, IndexError> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded((tree, after.to_vec())),
            _ => Bound::Included((tree, prefix.to_vec())),
        };
        let pairs = self.pairs.read().unwrap_or_else(PoisonError::into_inner);
        Ok(pairs
            .range((start, Bound::Unbounded))
            .take_while(|((of, key), _)| *of == tree && key.starts_with(prefix))
            .take(limit.min(SCAN_MAX))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&self, ops: Vec<Op>) -> Result<(), IndexError> {
        check_sizes(&ops)?;
        let mut pairs = self.pairs.write().unwrap_or_else(PoisonError::into_inner);
        for Op { tree, key, value } in ops {
            match value {
                Some(value) => pairs.insert((tree, key), value),
                None => pairs.remove(&(tree, key)),
            };
        }
        Ok(())
    }

    fn health(&self) -> Result<(), IndexError> {
        Ok(())
    }
}

/// The few calls on which the durability of the index rests. sled's own flush leaves file metadata and the drive's cache
/// alone on Linux, so the index syncs by itself, through this trait, in whose place tests put a recorder.
pub(super) trait Disk: Send + Sync {
    /// Makes the content of a file durable, at `path`.
    fn sync_file(&self, path: &Path, file: &File) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// How much can still be written to the volume of `path`.
    fn room_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// The file system of this machine.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn sync_file(&self, _: &Path, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        durable_file::sync_directory(path)
    }

    fn room_bytes(&self, path: &Path) -> io::Result<u64> {
        let volume = rustix::fs::statvfs(path)?;
        Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
    }
}
