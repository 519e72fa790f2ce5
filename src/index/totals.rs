//! Running totals: what each repository holds, and all of them together.
//!
//! Kept by the writer in the same commit as what they count, so that no question walks for them. Must not know who asks.
//! Invariant: after every commit the totals are those that [`Recount`] finds, wherever a large change was cut. A digest
//! counts once for each repository that holds it, as a blob, as a manifest, or as both.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::IndexError;
use super::engine::{SCAN_MAX, Tree};
use super::facts::RepositoryTotals;
use super::ledger::{Edit, Ledger};
use super::records::{self, HOLDER_KINDS};

/// What all repositories hold. 128 bits: a damaged manifest may claim any size, and sums must come back when it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Overall {
    /// Different digests.
    pub(super) blobs: u64,
    /// The bytes of each repository, added up.
    pub(super) held_bytes: u128,
    /// Each digest once.
    pub(super) stored_bytes: u128,
}

/// What one repository holds: the value of a key in [`Tree::Totals`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    tags: u64,
    revisions: u64,
    referrers: u64,
    layers: u64,
    bytes: u128,
    unique_bytes: u128,
}

/// How [`Sums`] change.
#[derive(Default)]
struct Difference {
    tags: i64,
    revisions: i64,
    referrers: i64,
    layers: i64,
    bytes: i128,
    unique_bytes: i128,
}

/// What a commit does to the holders of one digest.
#[derive(Default)]
struct Moves<'a> {
    /// Name, kind, and whether the row comes (or goes).
    rows: Vec<(&'a [u8], u8, bool)>,
    /// The size before and after, if it changes.
    sizes: Option<(u128, u128)>,
}

/// The edits of [`Tree::Totals`] that follow from `edits`, none of which is written yet; `overall` is brought up to date.
pub(super) fn follow(
    ledger: &Ledger,
    edits: &[Edit],
    overall: &mut Overall,
) -> Result<Vec<Edit>, IndexError> {
    let mut differences: BTreeMap<Vec<u8>, Difference> = BTreeMap::new();
    let mut digests: BTreeMap<&[u8], Moves<'_>> = BTreeMap::new();
    for edit in edits {
        let by = i64::from(edit.new.is_some()) - i64::from(edit.old.is_some());
        match edit.tree {
            Tree::Tags | Tree::Revisions | Tree::Referrers | Tree::Layers => {
                let (name, _) = records::split_name(&edit.key).ok_or_else(|| damaged(edit.tree))?;
                let difference = differences.entry(name.to_vec()).or_default();
                match edit.tree {
                    Tree::Tags => difference.tags += by,
                    Tree::Revisions => difference.revisions += by,
                    Tree::Referrers => difference.referrers += by,
                    _ => difference.layers += by,
                }
            }
            Tree::Holders => {
                let row = records::split_holder(&edit.key).ok_or_else(|| damaged(edit.tree))?;
                let (digest, name, kind) = row;
                let moves = digests.entry(digest).or_default();
                if by != 0 {
                    moves.rows.push((name, kind, by > 0));
                }
            }
            Tree::Sizes => {
                let size = |value: &Option<Vec<u8>>| size_of(value.as_deref());
                let sizes = Some((size(&edit.old)?, size(&edit.new)?));
                digests.entry(edit.key.as_slice()).or_default().sizes = sizes;
            }
            Tree::Meta
            | Tree::Repositories
            | Tree::Edges
            | Tree::Opaque
            | Tree::Totals
            | Tree::Stamps => {}
        }
    }
    for (digest, moves) in digests {
        add_digest(ledger, digest, &moves, &mut differences, overall)?;
    }
    let mut followed = Vec::with_capacity(differences.len());
    for (name, difference) in differences {
        let old = ledger.get(Tree::Totals, &name)?;
        let before = Sums::decoded(old.as_deref())?;
        let after = before.changed(&difference)?;
        overall.held_bytes = changed_bytes(overall.held_bytes, difference.bytes)?;
        let new = after.encoded();
        if new != old {
            let (tree, key) = (Tree::Totals, name);
            followed.push(Edit {
                tree,
                key,
                old,
                new,
            });
        }
    }
    Ok(followed)
}

/// Adds what the moves of one digest mean for its holders and for all.
fn add_digest(
    ledger: &Ledger,
    digest: &[u8],
    moves: &Moves<'_>,
    differences: &mut BTreeMap<Vec<u8>, Difference>,
    overall: &mut Overall,
) -> Result<(), IndexError> {
    let (mut arrivals, mut departures) = (BTreeSet::new(), BTreeSet::new());
    let touched: BTreeSet<&[u8]> = moves.rows.iter().map(|(name, _, _)| *name).collect();
    for name in touched {
        let (mut is_before, mut is_after) = (false, false);
        for kind in HOLDER_KINDS {
            let is_this = |row: &&(&[u8], u8, bool)| (row.0, row.1) == (name, kind);
            let (before, after) = if let Some(row) = moves.rows.iter().find(is_this) {
                (!row.2, row.2)
            } else {
                let key = records::joined_holder(digest, name, kind);
                let is_there = ledger.get(Tree::Holders, &key)?.is_some();
                (is_there, is_there)
            };
            is_before |= before;
            is_after |= after;
        }
        match (is_before, is_after) {
            (false, true) => arrivals.insert(name),
            (true, false) => departures.insert(name),
            (true, true) | (false, false) => false,
        };
    }
    let (size_before, size_after) = if let Some(sizes) = moves.sizes {
        sizes
    } else {
        let size = size_of(ledger.get(Tree::Sizes, digest)?.as_deref())?;
        (size, size)
    };
    let resizes = size_before != size_after;
    if arrivals.is_empty() && departures.is_empty() && !resizes {
        return Ok(());
    }
    // With two holders more than leave, there is no only holder, before or after. A new size concerns every holder, which
    // is rare: a digest gets its size with its first holder.
    let enough = if resizes {
        usize::MAX
    } else {
        departures.len() + 2
    };
    let before = holders(ledger, digest, enough)?;
    let is_all = before.len() < enough;
    let mut after: BTreeSet<&[u8]> = before.iter().map(Vec::as_slice).collect();
    after.retain(|name| !departures.contains(name));
    after.extend(&arrivals);

    let (before_bytes, after_bytes) = (signed(size_before)?, signed(size_after)?);
    let mut add = |name: &[u8], bytes: i128, unique_bytes: i128| {
        let difference = differences.entry(name.to_vec()).or_default();
        difference.bytes += bytes;
        difference.unique_bytes += unique_bytes;
    };
    for name in &departures {
        add(name, -before_bytes, 0);
    }
    for name in &arrivals {
        add(name, after_bytes, 0);
    }
    if resizes {
        for name in after.iter().filter(|name| !arrivals.contains(*name)) {
            add(name, after_bytes - before_bytes, 0);
        }
    }
    if is_all {
        if let (1, Some(only)) = (before.len(), before.first()) {
            add(only, 0, -before_bytes);
        }
        if let (1, Some(only)) = (after.len(), after.first()) {
            add(only, 0, after_bytes);
        }
    }
    let (was_held, is_held) = (!before.is_empty(), !after.is_empty());
    overall.blobs = changed_count(overall.blobs, i64::from(is_held) - i64::from(was_held))?;
    let stored = if is_held { after_bytes } else { 0 } - if was_held { before_bytes } else { 0 };
    overall.stored_bytes = changed_bytes(overall.stored_bytes, stored)?;
    Ok(())
}

/// The names of up to `enough` repositories that hold `digest`.
fn holders(ledger: &Ledger, digest: &[u8], enough: usize) -> Result<BTreeSet<Vec<u8>>, IndexError> {
    let mut names = BTreeSet::new();
    let mut after: Option<Vec<u8>> = None;
    while names.len() < enough {
        // As many rows as may belong to the names that are missing.
        let limit = (enough - names.len())
            .saturating_mul(HOLDER_KINDS.len())
            .min(SCAN_MAX);
        let rows = ledger.scan(Tree::Holders, digest, after.as_deref(), limit)?;
        let is_last = rows.len() < limit;
        for (key, _) in &rows {
            let (_, name, _) = records::split_holder(key).ok_or_else(|| damaged(Tree::Holders))?;
            if names.len() < enough {
                names.insert(name.to_vec());
            }
        }
        after = rows.into_iter().next_back().map(|(key, _)| key);
        if is_last {
            break;
        }
    }
    Ok(names)
}

/// The totals as a look at every key finds them. Keys are shown to it in the order of [`Tree::ALL`].
#[derive(Default)]
pub(super) struct Recount {
    sums: BTreeMap<Vec<u8>, Sums>,
    overall: Overall,
    /// The digest that is being gone through, and who holds it.
    group: (Vec<u8>, BTreeSet<Vec<u8>>),
}

impl Recount {
    pub(super) fn see(
        &mut self,
        ledger: &Ledger,
        tree: Tree,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), IndexError> {
        match tree {
            Tree::Tags | Tree::Revisions | Tree::Referrers | Tree::Layers => {
                let (name, _) = records::split_name(key).ok_or_else(|| damaged(tree))?;
                let sums = self.sums.entry(name.to_vec()).or_default();
                match tree {
                    Tree::Tags => sums.tags += 1,
                    Tree::Revisions => sums.revisions += 1,
                    Tree::Referrers => sums.referrers += 1,
                    _ => sums.layers += 1,
                }
            }
            Tree::Holders => {
                let (digest, name, _) = records::split_holder(key).ok_or_else(|| damaged(tree))?;
                if self.group.0 != digest {
                    self.end_group(ledger)?;
                    self.group.0 = digest.to_vec();
                }
                self.group.1.insert(name.to_vec());
            }
            Tree::Totals => {
                self.end_group(ledger)?;
                let expected = self.sums.remove(key).unwrap_or_default();
                if Sums::decoded(Some(value))? != expected {
                    return Err(wrong());
                }
            }
            Tree::Meta
            | Tree::Repositories
            | Tree::Edges
            | Tree::Sizes
            | Tree::Opaque
            | Tree::Stamps => {}
        }
        Ok(())
    }

    fn end_group(&mut self, ledger: &Ledger) -> Result<(), IndexError> {
        let (digest, holders) = std::mem::take(&mut self.group);
        if holders.is_empty() {
            return Ok(());
        }
        let size = size_of(ledger.get(Tree::Sizes, &digest)?.as_deref())?;
        self.overall.blobs += 1;
        self.overall.stored_bytes += size;
        let is_unique = holders.len() == 1;
        for name in holders {
            self.overall.held_bytes += size;
            let sums = self.sums.entry(name).or_default();
            sums.bytes += size;
            if is_unique {
                sums.unique_bytes += size;
            }
        }
        Ok(())
    }

    /// Whether `overall` is what was found, and every repository has had its row.
    pub(super) fn end(mut self, ledger: &Ledger, overall: &Overall) -> Result<(), IndexError> {
        self.end_group(ledger)?;
        if self.overall == *overall && self.sums.values().all(|sums| *sums == Sums::default()) {
            return Ok(());
        }
        Err(wrong())
    }
}

/// What is recorded in a row of [`Tree::Totals`].
pub(super) fn of_repository(value: Option<&[u8]>) -> Result<RepositoryTotals, IndexError> {
    let sums = Sums::decoded(value)?;
    Ok(RepositoryTotals {
        tags: sums.tags,
        revisions: sums.revisions,
        referrers: sums.referrers,
        layers: sums.layers,
        bytes: shown(sums.bytes),
        unique_bytes: shown(sums.unique_bytes),
    })
}

/// A sum as it is shown: more than 16 EiB is a claim of a damaged manifest.
pub(super) fn shown(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Sums {
    fn changed(&self, difference: &Difference) -> Result<Self, IndexError> {
        Ok(Self {
            tags: changed_count(self.tags, difference.tags)?,
            revisions: changed_count(self.revisions, difference.revisions)?,
            referrers: changed_count(self.referrers, difference.referrers)?,
            layers: changed_count(self.layers, difference.layers)?,
            bytes: changed_bytes(self.bytes, difference.bytes)?,
            unique_bytes: changed_bytes(self.unique_bytes, difference.unique_bytes)?,
        })
    }

    /// Nothing for a repository that holds nothing.
    fn encoded(&self) -> Option<Vec<u8>> {
        if *self == Self::default() {
            return None;
        }
        let counts = [self.tags, self.revisions, self.referrers, self.layers];
        let mut value: Vec<u8> = counts.into_iter().flat_map(u64::to_be_bytes).collect();
        let bytes = [self.bytes, self.unique_bytes];
        value.extend(bytes.into_iter().flat_map(u128::to_be_bytes));
        Some(value)
    }

    fn decoded(value: Option<&[u8]>) -> Result<Self, IndexError> {
        let Some(mut rest) = value else {
            return Ok(Self::default());
        };
        let mut count = || {
            let (bytes, left) = rest.split_first_chunk()?;
            rest = left;
            Some(u64::from_be_bytes(*bytes))
        };
        let mut read = || {
            Some(Self {
                tags: count()?,
                revisions: count()?,
                referrers: count()?,
                layers: count()?,
                bytes: u128::from(count()?) << 64 | u128::from(count()?),
                unique_bytes: u128::from(count()?) << 64 | u128::from(count()?),
            })
        };
        read().ok_or_else(|| damaged(Tree::Totals))
    }
}

fn size_of(value: Option<&[u8]>) -> Result<u128, IndexError> {
    let Some(value) = value else {
        return Ok(0);
    };
    let size_bytes = records::size(value).ok_or_else(|| damaged(Tree::Sizes))?;
    Ok(size_bytes.into())
}

fn signed(size: u128) -> Result<i128, IndexError> {
    i128::try_from(size).map_err(|_| wrong())
}

fn changed_count(count: u64, difference: i64) -> Result<u64, IndexError> {
    count.checked_add_signed(difference).ok_or_else(wrong)
}

fn changed_bytes(bytes: u128, difference: i128) -> Result<u128, IndexError> {
    bytes.checked_add_signed(difference).ok_or_else(wrong)
}

fn wrong() -> IndexError {
    IndexError::Damaged {
        what: "the totals are not those of what it holds".to_owned(),
    }
}

fn damaged(tree: Tree) -> IndexError {
    IndexError::unreadable(tree)
}
