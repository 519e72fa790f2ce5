//! The index as a view: what [`super::Index::read`] shows.
//!
//! Lists are iterators that read the database in parts of at most 1,000 entries; between two parts the database may be
//! swapped. Must not know who asks. Invariants: a list is in the byte order of its names; what cannot be read back as what
//! it stands for is damage, never left out in silence; once the database has been set aside, a view that saw it answers
//! with an error and nothing else, so answers of two databases never mix.

use std::sync::Arc;

use super::IndexError;
use super::engine::{Pair, SCAN_MAX, Tree};
use super::facts::{Child, RepositoryTotals, Revision, Stamp, Totals};
use super::ledger::Ledger;
use super::records::{self, HOLDER_KINDS, HOLDS_LAYER};
use super::shared::Shared;
use super::totals;
use crate::oci::{Digest, RepositoryName, Tag};

/// What is recorded.
pub struct View {
    shared: Arc<Shared>,
    /// The database with which the view began.
    era: u64,
}

/// A lazy list. Ends after the first error.
pub struct Scan<'a, T> {
    view: &'a View,
    tree: Tree,
    prefix: Vec<u8>,
    /// The key that the next part begins after.
    after: Option<Vec<u8>>,
    /// Reads what follows the prefix in a key, and its value.
    read: fn(&[u8], &[u8]) -> Option<T>,
    part: std::vec::IntoIter<Pair>,
    /// How many entries may still be read.
    left: usize,
}

impl View {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let era = shared.queue.freshness.era();
        Self { shared, era }
    }

    /// Repositories after `after`, by name.
    pub fn repositories(&self, after: Option<&str>) -> Scan<'_, RepositoryName> {
        let after = after.map(str::as_bytes);
        self.scan(Tree::Repositories, Vec::new(), after, |name, _| {
            records::text(name)
        })
    }

    /// The tags of a repository after `after`, by name, with what each pointed at when it was recorded.
    pub fn tags(&self, name: &RepositoryName, after: Option<&str>) -> Scan<'_, (Tag, Digest)> {
        let after = after.map(str::as_bytes);
        self.scan(Tree::Tags, records::below(name), after, |tag, digest| {
            Some((records::text(tag)?, records::digest(digest)?))
        })
    }

    /// The manifests of a repository, by digest.
    pub fn revisions(&self, name: &RepositoryName) -> Scan<'_, Revision> {
        self.scan(
            Tree::Revisions,
            records::below(name),
            None,
            |digest, value| records::revision(records::digest(digest)?, value),
        )
    }

    /// The manifests of a repository that cannot be understood, by digest. Each needs every blob that the repository links.
    pub fn opaque(&self, name: &RepositoryName) -> Scan<'_, Digest> {
        self.digests(Tree::Opaque, records::below(name), None)
    }

    /// The manifests of a repository whose subject is `subject`, after `after`, by digest.
    pub fn referrers(
        &self,
        name: &RepositoryName,
        subject: Digest,
        after: Option<Digest>,
    ) -> Scan<'_, Digest> {
        let prefix = records::repository_key(name, &subject);
        self.digests(Tree::Referrers, prefix, after)
    }

    /// The blobs that a repository links, by digest.
    pub fn layers(&self, name: &RepositoryName) -> Scan<'_, Digest> {
        self.digests(Tree::Layers, records::below(name), None)
    }

    /// What a manifest references, by digest.
    pub fn children(&self, parent: Digest) -> Scan<'_, Child> {
        self.scan(
            Tree::Edges,
            records::of_digest(&parent),
            None,
            |child, value| records::child(records::digest(child)?, value),
        )
    }

    /// Who holds a digest, as a blob or as a manifest, by name. Who holds it as both comes twice.
    pub fn holders(&self, digest: Digest) -> Scan<'_, RepositoryName> {
        self.scan(
            Tree::Holders,
            records::of_digest(&digest),
            None,
            |row, _| {
                let [name @ .., 0, _] = row else {
                    return None;
                };
                records::text(name)
            },
        )
    }

    /// Whether more than one repository holds a digest.
    pub fn is_shared(&self, digest: Digest) -> Result<bool, IndexError> {
        let mut holders = self.holders(digest).at_most(HOLDER_KINDS.len() + 1);
        let Some(first) = holders.next().transpose()? else {
            return Ok(false);
        };
        for other in holders {
            if other? != first {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The manifests of all repositories, by name and then by digest.
    pub fn manifests(&self) -> Scan<'_, (RepositoryName, Revision)> {
        self.scan(Tree::Revisions, Vec::new(), None, |key, value| {
            let (name, digest) = records::split_name(key)?;
            let revision = records::revision(records::digest(digest)?, value)?;
            Some((records::text(name)?, revision))
        })
    }

    /// Everything that repositories hold, by digest and then by name: blobs and manifests. Who holds a digest as both comes
    /// twice.
    pub fn links(&self) -> Scan<'_, (Digest, RepositoryName)> {
        self.scan(Tree::Holders, Vec::new(), None, |key, _| link(key))
    }

    /// All recorded blobs with their sizes, by digest.
    pub fn blobs(&self) -> Scan<'_, (Digest, u64)> {
        self.scan(Tree::Sizes, Vec::new(), None, |digest, size| {
            Some((records::digest(digest)?, records::size(size)?))
        })
    }

    /// Links to `digest` in repositories of the same name space as `near` (what stands before its first slash) and in the
    /// first ones by name, among links to other blobs: 2 × `half` in all, however many have it, so that the time does not
    /// show how many that are.
    pub fn links_near(
        &self,
        digest: Digest,
        near: &RepositoryName,
        half: usize,
    ) -> Result<Vec<(Digest, RepositoryName)>, IndexError> {
        let name_space = near.as_str().split_inclusive('/').next();
        let mut links = Vec::with_capacity(2 * half);
        for from in [name_space.unwrap_or_default(), ""] {
            let after = records::joined(records::of_digest(&digest), from.as_bytes());
            let all = |after| self.scan(Tree::Holders, Vec::new(), after, |key, _| link(key));
            let mut found = 0;
            for row in all(Some(after.as_slice())).at_most(half) {
                links.push(row?);
                found += 1;
            }
            // Behind the last one, the first.
            for row in all(None).at_most(half - found) {
                links.push(row?);
            }
        }
        Ok(links)
    }

    /// Whether the repository is known.
    pub fn knows(&self, name: &RepositoryName) -> Result<bool, IndexError> {
        let value = self.get(Tree::Repositories, name.as_str().as_bytes())?;
        Ok(value.is_some())
    }

    /// Whether the repository is recorded as one that links the blob.
    pub fn is_holder(&self, name: &RepositoryName, digest: Digest) -> Result<bool, IndexError> {
        let key = records::holder(&digest, name, HOLDS_LAYER);
        Ok(self.get(Tree::Holders, &key)?.is_some())
    }

    /// Whether the manifest is recorded as one that cannot be understood.
    pub fn is_opaque(&self, name: &RepositoryName, digest: Digest) -> Result<bool, IndexError> {
        let key = records::repository_key(name, &digest);
        Ok(self.get(Tree::Opaque, &key)?.is_some())
    }

    /// Whether the manifest is recorded among the holders of its digest, and among the referrers of its subject.
    pub fn is_listed_in_reverse(
        &self,
        name: &RepositoryName,
        revision: &Revision,
    ) -> Result<bool, IndexError> {
        let key = records::holder(&revision.digest, name, records::HOLDS_REVISION);
        let is_held = self.get(Tree::Holders, &key)?.is_some();
        let Some(subject) = &revision.subject else {
            return Ok(is_held);
        };
        let key = records::referrer_key(name, subject, &revision.digest);
        Ok(is_held && self.get(Tree::Referrers, &key)?.is_some())
    }

    /// How long a blob is, in bytes; `None` where that is not recorded.
    pub fn size(&self, digest: Digest) -> Result<Option<u64>, IndexError> {
        let value = self.get(Tree::Sizes, &records::of_digest(&digest))?;
        let size = |value: Vec<u8>| self.judged(Tree::Sizes, records::size(&value));
        value.map(size).transpose()
    }

    /// The stamp that is recorded of a repository.
    pub fn stamp(&self, name: &RepositoryName) -> Result<Option<Stamp>, IndexError> {
        let value = self.get(Tree::Stamps, name.as_str().as_bytes())?;
        Ok(value.map(Stamp))
    }

    /// What the repository holds; nothing if it is not known.
    pub fn repository_totals(&self, name: &RepositoryName) -> Result<RepositoryTotals, IndexError> {
        self.on(|ledger| {
            let value = ledger.get(Tree::Totals, name.as_str().as_bytes())?;
            totals::of_repository(value.as_deref())
        })
    }

    /// What all repositories hold, and how much is recorded.
    pub fn totals(&self) -> Result<Totals, IndexError> {
        self.on(|ledger| Ok(ledger.totals()))
    }

    fn digests(&self, tree: Tree, prefix: Vec<u8>, after: Option<Digest>) -> Scan<'_, Digest> {
        let after = after.map(|after| records::of_digest(&after));
        self.scan(tree, prefix, after.as_deref(), |digest, _| {
            records::digest(digest)
        })
    }

    fn scan<T>(
        &self,
        tree: Tree,
        prefix: Vec<u8>,
        after: Option<&[u8]>,
        read: fn(&[u8], &[u8]) -> Option<T>,
    ) -> Scan<'_, T> {
        let after = after.map(|after| records::joined(prefix.clone(), after));
        Scan {
            view: self,
            tree,
            prefix,
            after,
            read,
            part: Vec::new().into_iter(),
            left: usize::MAX,
        }
    }

    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.on(|ledger| ledger.get(tree, key))
    }

    fn judged<T>(&self, tree: Tree, read: Option<T>) -> Result<T, IndexError> {
        read.ok_or_else(|| self.reported(IndexError::unreadable(tree)))
    }

    /// Looks at the database, if it is the one that the view began with. A swap waits for one look, not for the view.
    fn on<T>(&self, look: impl FnOnce(&Ledger) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let looked = self.shared.with_ledger(|ledger| {
            // It changes before another database takes the place of the one that was seen.
            if self.shared.queue.freshness.era() != self.era {
                return Err(IndexError::Unavailable {
                    reason: "it was set aside while it was read".to_owned(),
                });
            }
            look(ledger)
        });
        looked.map_err(|error| self.reported(error))
    }

    /// The writer deals with what is wrong with the database.
    fn reported(&self, error: IndexError) -> IndexError {
        if matches!(error, IndexError::Unavailable { .. }) {
            return error;
        }
        let reason = error.to_string();
        self.shared.queue.report(error);
        IndexError::Unavailable { reason }
    }
}

impl<T> Scan<'_, T> {
    /// Ends after `count` entries, and reads no more than those.
    #[must_use]
    pub fn at_most(mut self, count: usize) -> Self {
        self.left = count;
        self
    }

    /// All of them, in memory.
    pub fn into_vec(self) -> Result<Vec<T>, IndexError> {
        self.collect()
    }

    fn read_part(&mut self) -> Result<(), IndexError> {
        let limit = self.left.min(SCAN_MAX);
        let after = self.after.as_deref();
        let part = self
            .view
            .on(|ledger| ledger.scan(self.tree, &self.prefix, after, limit))?;
        // One that is not full is the last.
        self.left = if part.len() < limit {
            0
        } else {
            self.left - limit
        };
        self.after = part.last().map(|(key, _)| key.clone());
        self.part = part.into_iter();
        Ok(())
    }
}

impl<T> Iterator for Scan<'_, T> {
    type Item = Result<T, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.part.len() == 0
            && self.left > 0
            && let Err(error) = self.read_part()
        {
            self.left = 0;
            return Some(Err(error));
        }
        let (key, value) = self.part.next()?;
        let read = key.get(self.prefix.len()..);
        let read = read.and_then(|rest| (self.read)(rest, &value));
        let judged = self.view.judged(self.tree, read);
        if judged.is_err() {
            (self.left, self.part) = (0, Vec::new().into_iter());
        }
        Some(judged)
    }
}

/// The digest and the name in a key of holders.
fn link(key: &[u8]) -> Option<(Digest, RepositoryName)> {
    let (digest, name, _) = records::split_holder(key)?;
    Some((records::digest(digest)?, records::text(name)?))
}
