//! An engine with its books: every value sealed, every key counted, and a stamp that says whose it is.
//!
//! Must not know what keys mean, nor which engine it is. Invariant: the counts change in the same commit as what they
//! count; a value whose seal does not fit its key is never returned.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::IndexError;
use super::engine::{Engine, Op, Pair, Place, SCAN_MAX, Tree};

/// How keys and values are laid out (`keys`, `records`), and what is read from a manifest: stamps do not tell that the same
/// bytes are read differently now. Another number: the index is filled again. 2: artifact manifests, and manifests that
/// only Go read before, have edges and subjects; a child of an index may be a blob.
pub(super) const SCHEMA: u32 = 2;

/// The first byte of every value.
const SEAL_VERSION: u8 = 1;
/// The version and the checksum.
const SEAL_BYTES: usize = 5;

const BOOKS_KEY: &[u8] = b"books";

/// What is to become of each key: a value, or nothing.
pub(super) type Changes = BTreeMap<Place, Option<Vec<u8>>>;

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

    /// Carries out `changes`, at most `limit` in one commit, in the order of their trees; what is so already costs nothing.
    /// Called by one thread only, which is why counting before writing is safe. Returns the number of commits.
    pub(super) fn commit(&self, changes: Changes, limit: usize) -> Result<u64, IndexError> {
        let mut commits = 0;
        let mut books = self.books();
        let mut ops = Vec::new();
        for ((tree, key), value) in changes {
            let old = self.get(tree, &key)?;
            if old == value {
                continue;
            }
            match (&old, &value) {
                (None, Some(_)) => books.add(tree, 1),
                (Some(_), None) => books.add(tree, -1),
                _ => {}
            }
            let value = value.map(|value| seal(tree, &key, &value));
            ops.push(Op { tree, key, value });
            if ops.len() >= limit {
                self.write(std::mem::take(&mut ops), books)?;
                books = self.books();
                commits += 1;
            }
        }
        if !ops.is_empty() {
            self.write(ops, books)?;
            commits += 1;
        }
        Ok(commits)
    }

    fn write(&self, mut ops: Vec<Op>, mut books: Books) -> Result<(), IndexError> {
        self.engine.health()?;
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

    /// Looks at every value and counts every key. Nothing may be written meanwhile.
    pub(super) fn verify(&self) -> Result<(), IndexError> {
        let books = self.books();
        for tree in Tree::ALL {
            let found = self.each(tree, &[], |_, _| {})?;
            let expected = books.count(tree);
            if tree != Tree::Meta && found != expected {
                return Err(IndexError::Damaged {
                    what: format!("{} holds {found} keys, not {expected}", tree.name()),
                });
            }
        }
        Ok(())
    }
}

/// The checksum covers the key and its tree too, so that a value that turns up in another place is found.
fn checksum(tree: Tree, key: &[u8], value: &[u8]) -> [u8; 4] {
    let sum = crc32c::crc32c(tree.name().as_bytes());
    let sum = crc32c::crc32c_append(sum, key);
    crc32c::crc32c_append(sum, value).to_le_bytes()
}

fn seal(tree: Tree, key: &[u8], value: &[u8]) -> Vec<u8> {
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
