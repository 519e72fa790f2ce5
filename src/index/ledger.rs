//! An engine with its books: every value sealed, every key counted, and a stamp that says whose it is.
//!
//! Must not know which engine it is, nor what keys mean beyond what `totals` makes of them. Invariant: counts and totals
//! change in the same commit as what they count; a value whose seal does not fit its key is never returned.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::IndexError;
use super::engine::{Engine, Op, Pair, Place, SCAN_MAX, Tree};
use super::facts::Totals;
use super::totals::{self, Overall, Recount};

/// How keys and values are laid out (`keys`, `records`), and what is read from a manifest: stamps do not tell that the same
/// bytes are read differently now. Another number: the index is filled again. 2: artifact manifests, and manifests that
/// only Go read before, have edges and subjects; a child of an index may be a blob. 3: holders of manifests, manifests
/// that cannot be understood, running totals.
pub(super) const SCHEMA: u32 = 3;

/// The first byte of every value.
const SEAL_VERSION: u8 = 1;
/// The version and the checksum.
const SEAL_BYTES: usize = 5;

const BOOKS_KEY: &[u8] = b"books";

/// What is to become of each key: a value, or nothing.
pub(super) type Changes = BTreeMap<Place, Option<Vec<u8>>>;

/// One key that a commit changes.
pub(super) struct Edit {
    pub(super) tree: Tree,
    pub(super) key: Vec<u8>,
    /// The value before; `None` where there is none.
    pub(super) old: Option<Vec<u8>>,
    /// The value after; `None` deletes the key.
    pub(super) new: Option<Vec<u8>>,
}

/// The order in which `changes` are carried out, so that an end between two commits leaves nothing that the next
/// replacement of the repository does not find: see [`Tree`].
pub(super) fn in_order(changes: Changes) -> impl Iterator<Item = (Place, Option<Vec<u8>>)> {
    let (puts, deletions): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|(_, value)| value.is_some());
    deletions.into_iter().rev().chain(puts)
}

/// What the database says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Books {
    pub(super) schema: u32,
    pub(super) store_id: String,
    /// One more at each opening.
    pub(super) generation: u64,
    /// One more at each commit.
    pub(super) sequence: u64,
    /// Whether it was filled to the end.
    pub(super) is_complete: bool,
    /// Keys per tree, in the order of [`Tree::ALL`]; those of [`Tree::Meta`] are not counted.
    counts: [u64; Tree::ALL.len()],
    pub(super) overall: Overall,
}

/// Whose database it is, in every layout since the first.
#[derive(Deserialize)]
struct Origin {
    schema: u32,
}

impl Books {
    pub(super) fn new(store_id: &str, is_complete: bool) -> Self {
        Self {
            schema: SCHEMA,
            store_id: store_id.to_owned(),
            generation: 0,
            sequence: 0,
            is_complete,
            counts: [0; Tree::ALL.len()],
            overall: Overall::default(),
        }
    }

    pub(super) fn count(&self, tree: Tree) -> u64 {
        self.counts.get(tree as usize).copied().unwrap_or_default()
    }

    fn add(&mut self, tree: Tree, difference: i64) {
        if let Some(count) = self.counts.get_mut(tree as usize) {
            *count = count.saturating_add_signed(difference);
        }
    }
}

pub(super) struct Ledger {
    engine: Box<dyn Engine>,
    books: Mutex<Books>,
}

impl Ledger {
    /// What an engine says about itself; `None` if it says nothing.
    pub(super) fn read_books(engine: &dyn Engine) -> Result<Option<Books>, IndexError> {
        let Some(sealed) = engine.get(Tree::Meta, BOOKS_KEY)? else {
            return Ok(None);
        };
        let value = unseal(Tree::Meta, BOOKS_KEY, &sealed)?;
        let origin: Origin = serde_json::from_slice(value).map_err(|_| damaged(Tree::Meta))?;
        if origin.schema != SCHEMA {
            return Err(IndexError::Damaged {
                what: "it was written by another version".to_owned(),
            });
        }
        serde_json::from_slice(value)
            .map(Some)
            .map_err(|_| damaged(Tree::Meta))
    }

    pub(super) fn new(engine: Box<dyn Engine>, books: Books) -> Self {
        Self {
            engine,
            books: Mutex::new(books),
        }
    }

    pub(super) fn books(&self) -> Books {
        self.books
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How much is recorded.
    pub(super) fn totals(&self) -> Totals {
        let books = self.books();
        Totals {
            repositories: books.count(Tree::Repositories),
            tags: books.count(Tree::Tags),
            revisions: books.count(Tree::Revisions),
            referrers: books.count(Tree::Referrers),
            layers: books.count(Tree::Layers),
            edges: books.count(Tree::Edges),
            sizes: books.count(Tree::Sizes),
            blobs: books.overall.blobs,
            held_bytes: totals::shown(books.overall.held_bytes),
            stored_bytes: totals::shown(books.overall.stored_bytes),
            keys: Tree::ALL.into_iter().map(|tree| books.count(tree)).sum(),
        }
    }

    /// Changes what the database says about itself.
    pub(super) fn amend(&self, change: impl FnOnce(&mut Books)) -> Result<(), IndexError> {
        let mut books = self.books();
        change(&mut books);
        self.write(Vec::new(), books)
    }

    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let sealed = self.engine.get(tree, key)?;
        sealed
            .map(|sealed| unseal(tree, key, &sealed).map(<[u8]>::to_vec))
            .transpose()
    }

    pub(super) fn scan(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, IndexError> {
        let mut pairs = self.engine.scan(tree, prefix, after, limit)?;
        for (key, value) in &mut pairs {
            unseal(tree, key, value)?;
            value.drain(..SEAL_BYTES);
        }
        Ok(pairs)
    }

    /// Calls `visit` with every pair below `prefix`, a page at a time.
    pub(super) fn each(
        &self,
        tree: Tree,
        prefix: &[u8],
        mut visit: impl FnMut(Vec<u8>, Vec<u8>),
    ) -> Result<u64, IndexError> {
        let mut after: Option<Vec<u8>> = None;
        let mut count = 0;
        loop {
            let page = self.scan(tree, prefix, after.as_deref(), SCAN_MAX)?;
            count += page.len() as u64;
            let is_last = page.len() < SCAN_MAX;
            after = page.last().map(|(key, _)| key.clone());
            for (key, value) in page {
                visit(key, value);
            }
            if is_last {
                return Ok(count);
            }
        }
    }

    /// Carries out `changes`, at most `limit` in one commit, in their order ([`in_order`]); what is so already costs
    /// nothing. Called by one thread only, which is why counting before writing is safe. Returns the number of commits.
    pub(super) fn commit(&self, changes: Changes, limit: usize) -> Result<u64, IndexError> {
        let mut commits = 0;
        let mut edits = Vec::new();
        for ((tree, key), new) in in_order(changes) {
            let old = self.get(tree, &key)?;
            if old == new {
                continue;
            }
            edits.push(Edit {
                tree,
                key,
                old,
                new,
            });
            if edits.len() >= limit {
                self.write(std::mem::take(&mut edits), self.books())?;
                commits += 1;
            }
        }
        if !edits.is_empty() {
            self.write(edits, self.books())?;
            commits += 1;
        }
        Ok(commits)
    }

    fn write(&self, mut edits: Vec<Edit>, mut books: Books) -> Result<(), IndexError> {
        self.engine.health()?;
        let followed = totals::follow(self, &edits, &mut books.overall)?;
        edits.extend(followed);
        let mut ops = Vec::with_capacity(edits.len() + 1);
        for edit in edits {
            let Edit {
                tree,
                key,
                old,
                new,
            } = edit;
            books.add(tree, i64::from(new.is_some()) - i64::from(old.is_some()));
            let value = new.map(|value| seal(tree, &key, &value));
            ops.push(Op { tree, key, value });
        }
        books.sequence += 1;
        let text = serde_json::to_vec(&books).map_err(|_| damaged(Tree::Meta))?;
        ops.push(Op {
            tree: Tree::Meta,
            key: BOOKS_KEY.to_vec(),
            value: Some(seal(Tree::Meta, BOOKS_KEY, &text)),
        });
        self.engine.commit(ops)?;
        *self.books.lock().unwrap_or_else(PoisonError::into_inner) = books;
        Ok(())
    }

    /// Looks at every value, counts every key and adds up the totals. Nothing may be written meanwhile.
    pub(super) fn verify(&self) -> Result<(), IndexError> {
        let books = self.books();
        let mut recount = Recount::default();
        for tree in Tree::ALL {
            let mut seen = Ok(());
            let found = self.each(tree, &[], |key, value| {
                if seen.is_ok() {
                    seen = recount.see(self, tree, &key, &value);
                }
            })?;
            seen?;
            let expected = books.count(tree);
            if tree != Tree::Meta && found != expected {
                return Err(IndexError::Damaged {
                    what: format!("{} holds {found} keys, not {expected}", tree.name()),
                });
            }
        }
        recount.end(self, &books.overall)
    }
}

/// The checksum covers the key and its tree too, so that a value that turns up in another place is found.
fn checksum(tree: Tree, key: &[u8], value: &[u8]) -> [u8; 4] {
    let sum = crc32c::crc32c(tree.name().as_bytes());
    let sum = crc32c::crc32c_append(sum, key);
    crc32c::crc32c_append(sum, value).to_le_bytes()
}

pub(super) fn seal(tree: Tree, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(SEAL_BYTES + value.len());
    sealed.push(SEAL_VERSION);
    sealed.extend(checksum(tree, key, value));
    sealed.extend(value);
    sealed
}

fn unseal<'a>(tree: Tree, key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], IndexError> {
    match sealed.split_at_checked(SEAL_BYTES) {
        Some(([SEAL_VERSION, sum @ ..], value)) if *sum == checksum(tree, key, value) => Ok(value),
        _ => Err(damaged(tree)),
    }
}

fn damaged(tree: Tree) -> IndexError {
    IndexError::Damaged {
        what: format!("a value in {} is not what was written", tree.name()),
    }
}
