//! How much storage each repository and tag uses, and how much its deletion would free.
//!
//! The index has running totals of repositories. The usage of tags is computed from the index's edges and links; the store
//! says where each tag points. Must not know how it is printed. Invariants: bytes that two rows need are unique in neither;
//! a manifest that cannot be parsed needs every layer of its repository; deleting a row frees at least what it says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::error::{IndexedError, RegistryError};
use super::listings::Listings;
use crate::index::{ChildKind, IndexError, View};
use crate::layout::{Key, Place};
use crate::oci::{Digest, Reference, RepositoryName, Tag};

/// What to report on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Every repository.
    Everything,
    /// The tags of a repository.
    Repository(RepositoryName),
    /// One tag.
    Tag(RepositoryName, Tag),
}

/// How much storage one repository or tag uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The repository, or the tag; `None` for the manifests of a repository that no tag reaches.
    pub name: Option<String>,
    /// The manifest that the tag points to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// Everything that it needs.
    pub bytes: u64,
    /// The part that others need as well.
    pub shared_bytes: u64,
    /// The part that only this row needs: what a collection frees after this repository, or this tag and its manifest, was
    /// deleted.
    pub unique_bytes: u64,
}

impl Listings {
    /// The usage of the subject: one row for each repository, each tag, or the one tag.
    pub async fn usage(&self, subject: &Subject) -> Result<Vec<Usage>, IndexedError> {
        let index = &self.core.gate.index;
        index.settle().await;
        match subject {
            Subject::Everything => Ok(index.read(repositories).await?),
            Subject::Repository(name) => {
                let rows = self.tags_usage(name).await?;
                if rows.is_empty() && !self.core.repository_exists(name).await? {
                    return Err(RegistryError::NameUnknown(name.clone()).into());
                }
                Ok(rows)
            }
            Subject::Tag(name, tag) => {
                let mut rows = self.tags_usage(name).await?;
                rows.retain(|row| row.name.as_deref() == Some(tag.as_str()));
                if rows.is_empty() {
                    let reference = Reference::Tag(tag.clone());
                    return Err(RegistryError::ManifestUnknown(reference).into());
                }
                Ok(rows)
            }
        }
    }

    async fn tags_usage(&self, name: &RepositoryName) -> Result<Vec<Usage>, IndexedError> {
        let tags = self.tag_targets(name).await?;
        self.usage_of(name, tags).await
    }

    /// One row for each of `tags`, in their order, and one without a name for manifests that none of them reaches.
    pub(super) async fn usage_of(
        &self,
        name: &RepositoryName,
        tags: Vec<(Tag, Digest)>,
    ) -> Result<Vec<Usage>, IndexedError> {
        let name = name.clone();
        let index = &self.core.gate.index;
        let rows = index.read(move |view| usage_of_tags(view, &name, &tags));
        Ok(rows.await?)
    }

    /// The usage of one manifest with all its tags, as a row without a name.
    pub(super) async fn usage_of_manifest(
        &self,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Usage, IndexedError> {
        let mut others: Vec<Digest> = Vec::new();
        others.extend(self.tag_targets(name).await?.into_iter().map(|(_, at)| at));
        others.retain(|other| *other != digest);
        let name = name.clone();
        let index = &self.core.gate.index;
        let row = index.read(move |view| usage_of_one(view, &name, digest, others));
        Ok(row.await?)
    }

    /// All tags of a repository and what they point to, in byte order.
    pub(super) async fn tag_targets(
        &self,
        name: &RepositoryName,
    ) -> Result<Vec<(Tag, Digest)>, IndexedError> {
        let index = &self.core.gate.index;
        let asked = name.clone();
        let tags = index.read(move |view| view.tags(&asked, None).into_vec());
        let tags: Vec<Tag> = tags.await?.into_iter().map(|(tag, _)| tag).collect();
        let current = |tag: &Tag| Place::TagCurrent(name, tag).key();
        let links: Vec<Key> = tags.iter().map(current).collect();
        // From the store: when another registry moves a tag, no directory's time changes, so the index may be out of date.
        let digests = self.core.read_links(&links).await?;
        let tags = tags.into_iter().zip(digests);
        Ok(tags
            .filter_map(|(tag, digest)| Some((tag, digest?)))
            .collect())
    }
}

fn repositories(view: &View) -> Result<Vec<Usage>, IndexError> {
    let row = |name: Result<RepositoryName, IndexError>| {
        let name = name?;
        let totals = view.repository_totals(&name)?;
        Ok(Usage {
            name: Some(name.to_string()),
            digest: None,
            bytes: totals.bytes,
            shared_bytes: totals.bytes.saturating_sub(totals.unique_bytes),
            unique_bytes: totals.unique_bytes,
        })
    };
    view.repositories(None).map(row).collect()
}

/// A digest that a root needs, and whether another root needs it too.
struct Needed {
    size_bytes: u64,
    root: usize,
    is_shared: bool,
}

/// A digest that is needed, with its size.
type Need = (Digest, u64, ChildKind);

/// Which digests the manifests of one repository need.
struct Needs<'a> {
    view: &'a View,
    name: &'a RepositoryName,
    /// Manifests that cannot be parsed.
    opaque: BTreeSet<Digest>,
    needed: HashMap<Digest, Needed>,
}

/// One row for each tag, and one without a name for manifests that no tag reaches.
fn usage_of_tags(
    view: &View,
    name: &RepositoryName,
    tags: &[(Tag, Digest)],
) -> Result<Vec<Usage>, IndexError> {
    let mut tags_of: BTreeMap<Digest, u64> = BTreeMap::new();
    for (_, digest) in tags {
        *tags_of.entry(*digest).or_default() += 1;
    }
    let mut needs = Needs::new(view, name)?;
    let mut bytes_of = Vec::with_capacity(tags_of.len());
    for (root, digest) in tags_of.keys().enumerate() {
        bytes_of.push(needs.walk(&[*digest], root)?);
    }
    // A manifest without a tag keeps its blobs until it is deleted.
    let mut untagged = Vec::new();
    for revision in view.revisions(name) {
        let digest = revision?.digest;
        if !needs.needed.contains_key(&digest) {
            untagged.push(digest);
        }
    }
    let untagged_bytes = needs.walk(&untagged, tags_of.len())?;
    let unique_bytes = needs.unique_bytes(tags_of.len() + 1)?;
    let row = |name, digest, bytes: u64, unique_bytes: u64| Usage {
        name,
        digest,
        bytes,
        shared_bytes: bytes.saturating_sub(unique_bytes),
        unique_bytes,
    };
    let roots: HashMap<&Digest, (u64, u64)> = tags_of
        .iter()
        .zip(bytes_of.iter().zip(&unique_bytes))
        // Where two tags share a manifest, deleting one frees nothing.
        .map(|((digest, tags), (bytes, unique))| {
            (digest, (*bytes, if *tags == 1 { *unique } else { 0 }))
        })
        .collect();
    let mut rows = Vec::with_capacity(tags.len() + 1);
    for (tag, digest) in tags {
        let (bytes, unique_bytes) = roots.get(digest).copied().unwrap_or_default();
        let (tag, digest) = (tag.to_string(), digest.to_string());
        rows.push(row(Some(tag), Some(digest), bytes, unique_bytes));
    }
    if untagged_bytes > 0 {
        let unique_bytes = unique_bytes.last().copied().unwrap_or_default();
        rows.push(row(None, None, untagged_bytes, unique_bytes));
    }
    Ok(rows)
}

/// What `digest` needs, and what of it nothing else in the registry needs: neither the targets of the other tags nor manifests
/// without a tag.
fn usage_of_one(
    view: &View,
    name: &RepositoryName,
    digest: Digest,
    mut others: Vec<Digest>,
) -> Result<Usage, IndexError> {
    let mut needs = Needs::new(view, name)?;
    let bytes = needs.walk(&[digest], 0)?;
    for revision in view.revisions(name) {
        let revision = revision?.digest;
        if !needs.needed.contains_key(&revision) {
            others.push(revision);
        }
    }
    needs.walk(&others, 1)?;
    let unique_bytes = needs.unique_bytes(2)?;
    let unique_bytes = unique_bytes.first().copied().unwrap_or_default();
    Ok(Usage {
        name: None,
        digest: Some(digest.to_string()),
        bytes,
        shared_bytes: bytes.saturating_sub(unique_bytes),
        unique_bytes,
    })
}

impl<'a> Needs<'a> {
    fn new(view: &'a View, name: &'a RepositoryName) -> Result<Self, IndexError> {
        Ok(Self {
            view,
            name,
            opaque: view.opaque(name).collect::<Result<_, _>>()?,
            needed: HashMap::new(),
        })
    }

    /// For each of `roots` roots, the bytes that it alone needs, in this repository and in all others.
    fn unique_bytes(self, roots: usize) -> Result<Vec<u64>, IndexError> {
        let mut unique_bytes = vec![0_u64; roots];
        for (digest, one) in self.needed {
            if !one.is_shared
                && let Some(unique) = unique_bytes.get_mut(one.root)
                && !self.view.is_shared(digest)?
            {
                *unique = unique.saturating_add(one.size_bytes);
            }
        }
        Ok(unique_bytes)
    }

    /// Records that `root` needs everything that `starts` need. Returns the bytes.
    fn walk(&mut self, starts: &[Digest], root: usize) -> Result<u64, IndexError> {
        let mut unread: Vec<Need> = Vec::with_capacity(starts.len());
        for digest in starts {
            let size_bytes = self.view.size(*digest)?.unwrap_or_default();
            unread.push((*digest, size_bytes, ChildKind::Listed));
        }
        let mut seen = HashSet::new();
        let mut bytes = 0_u64;
        while let Some((digest, size_bytes, kind)) = unread.pop() {
            if !seen.insert(digest) {
                continue;
            }
            // A manifest may claim any size for content that is not in the store.
            bytes = bytes.saturating_add(size_bytes);
            match kind {
                // This may be a blob, which has no children.
                ChildKind::Listed => self.add_children(digest, &mut unread)?,
                ChildKind::Blob => {}
            }
            self.needed
                .entry(digest)
                .and_modify(|one: &mut Needed| one.is_shared = true)
                .or_insert(Needed {
                    size_bytes,
                    root,
                    is_shared: false,
                });
        }
        Ok(bytes)
    }

    /// The real sizes are used where they are known, because the sizes in a manifest may be wrong.
    fn add_children(&self, parent: Digest, unread: &mut Vec<Need>) -> Result<(), IndexError> {
        for child in self.view.children(parent) {
            let child = child?;
            let size_bytes = self.view.size(child.digest)?.unwrap_or(child.size_bytes);
            unread.push((child.digest, size_bytes, child.kind));
        }
        if self.opaque.contains(&parent) {
            for layer in self.view.layers(self.name) {
                let layer = layer?;
                let size_bytes = self.view.size(layer)?.unwrap_or_default();
                unread.push((layer, size_bytes, ChildKind::Blob));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
