//! Who takes how much room, and what would be free without them.
//!
//! Counted in the index, from edges and links; only where a tag points is asked of the store. Must not know how it is printed. Invariant: bytes that two of the rows need
//! are unique in neither; what a row would free is never more than what is really freed, but for manifests, which are small
//! and whose other repositories are not looked for when one repository is asked about.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::error::{IndexedError, RegistryError};
use super::listings::Listings;
use super::status::{SizesInOrder, each_manifest, mark_of};

use crate::index::{ChildKind, Index, IndexError, PAGE_MAX};
use crate::layout::{Key, Place};
use crate::oci::{Digest, Reference, RepositoryName, Tag};

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Every repository.
    Everything,
    /// The tags of a repository.
    Repository(RepositoryName),
    /// One of them.
    Tag(RepositoryName, Tag),
}

/// How much one repository or tag takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The repository, or the tag; `None` for the manifests of a repository that no tag leads to.
    pub name: Option<String>,
    /// What the tag points at.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// All that it needs.
    pub bytes: u64,
    /// What others need as well.
    pub shared_bytes: u64,
    /// What nobody else needs: what collection frees once this repository, or this tag with its manifest, is deleted.
    pub unique_bytes: u64,
}

impl Listings {
    /// How much the subject takes: a row for each repository, for each tag, or for one tag.
    pub async fn usage(&self, subject: &Subject) -> Result<Vec<Usage>, IndexedError> {
        let index = &self.core.freshness.index;
        index.settle().await;
        match subject {
            Subject::Everything => Ok(repositories(index).await?),
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
        let index = &self.core.freshness.index;
        let tags = all_tags(index, name).await?;
        let current = |tag: &Tag| Place::TagCurrent(name, tag).key();
        let links: Vec<Key> = tags.iter().map(current).collect();
        // What the index says of it may be out of date: the old registry moves a tag and no directory's time tells.
        let digests = self.core.read_links(&links).await?;
        let tags = tags.into_iter().zip(digests);
        let tags = tags.filter_map(|(tag, digest)| Some((tag, digest?)));
        Ok(usage_of_tags(index, name, tags.collect()).await?)
    }
}

async fn repositories(index: &Index) -> Result<Vec<Usage>, IndexError> {
    let mut rows: BTreeMap<RepositoryName, (u64, u64)> = BTreeMap::new();
    let mut after: Option<RepositoryName> = None;
    loop {
        let page = index
            .repositories(after.as_ref().map(RepositoryName::as_str), PAGE_MAX)
            .await?;
        after = page.last().cloned();
        let is_last = page.len() < PAGE_MAX;
        rows.extend(page.into_iter().map(|name| (name, (0, 0))));
        if is_last {
            break;
        }
    }
    add_blobs(index, &mut rows).await?;
    add_manifests(index, &mut rows).await?;
    let rows = rows.into_iter().map(|(name, (bytes, unique_bytes))| Usage {
        name: Some(name.to_string()),
        digest: None,
        bytes,
        shared_bytes: bytes - unique_bytes,
        unique_bytes,
    });
    Ok(rows.collect())
}

/// All bytes, and those that nobody else has.
type Row = (u64, u64);

async fn add_blobs(
    index: &Index,
    rows: &mut BTreeMap<RepositoryName, Row>,
) -> Result<(), IndexError> {
    let mut sizes = SizesInOrder::new(index);
    let mut links = Vec::new();
    // Whoever holds the digest that is being gone through.
    let mut group: (Option<Digest>, Vec<RepositoryName>) = (None, Vec::new());
    loop {
        links = index.links(links.last(), PAGE_MAX).await?;
        let is_last = links.len() < PAGE_MAX;
        for (digest, name) in &links {
            if group.0.as_ref() != Some(digest) {
                let ended = std::mem::replace(&mut group, (Some(*digest), Vec::new()));
                add_group(&mut sizes, ended, rows).await?;
            }
            group.1.push(name.clone());
        }
        if is_last {
            return add_group(&mut sizes, group, rows).await;
        }
    }
}

async fn add_group(
    sizes: &mut SizesInOrder<'_>,
    (digest, holders): (Option<Digest>, Vec<RepositoryName>),
    rows: &mut BTreeMap<RepositoryName, Row>,
) -> Result<(), IndexError> {
    let Some(digest) = digest else {
        return Ok(());
    };
    let size_bytes = sizes.of(&digest).await?.unwrap_or_default();
    let is_unique = holders.len() == 1;
    for name in holders {
        add(rows, &name, size_bytes, is_unique);
    }
    Ok(())
}

fn add(
    rows: &mut BTreeMap<RepositoryName, Row>,
    name: &RepositoryName,
    size_bytes: u64,
    is_unique: bool,
) {
    let row = rows.entry(name.clone()).or_default();
    row.0 += size_bytes;
    if is_unique {
        row.1 += size_bytes;
    }
}

/// Twice through the manifests: first for who has one alone, then for the bytes.
async fn add_manifests(
    index: &Index,
    rows: &mut BTreeMap<RepositoryName, Row>,
) -> Result<(), IndexError> {
    let (mut seen, mut shared) = (HashSet::new(), HashSet::new());
    each_manifest(index, |_, revision| {
        let mark = mark_of(&revision.digest);
        if !seen.insert(mark) {
            shared.insert(mark);
        }
    })
    .await?;
    each_manifest(index, |name, revision| {
        let is_unique = !shared.contains(&mark_of(&revision.digest));
        add(rows, name, revision.size_bytes, is_unique);
    })
    .await
}

/// What one root needs, and whether that is all its own.
struct Needed {
    size_bytes: u64,
    root: usize,
    is_shared: bool,
}

/// A row for each tag, and one without a name for what no tag leads to.
async fn usage_of_tags(
    index: &Index,
    name: &RepositoryName,
    tags: Vec<(Tag, Digest)>,
) -> Result<Vec<Usage>, IndexError> {
    let mut tags_of: BTreeMap<Digest, u64> = BTreeMap::new();
    for (_, digest) in &tags {
        *tags_of.entry(*digest).or_default() += 1;
    }
    let mut needed = HashMap::new();
    let mut bytes_of = Vec::with_capacity(tags_of.len());
    for (root, digest) in tags_of.keys().enumerate() {
        bytes_of.push(walk(index, vec![*digest], root, &mut needed).await?);
    }
    // What no tag leads to keeps its blobs all the same, until it is deleted itself.
    let mut untagged = all_revisions(index, name).await?;
    untagged.retain(|digest| !needed.contains_key(digest));
    let untagged_bytes = walk(index, untagged, tags_of.len(), &mut needed).await?;
    let mut unique_bytes = vec![0_u64; tags_of.len() + 1];
    for (digest, one) in needed {
        if !one.is_shared
            && let Some(unique) = unique_bytes.get_mut(one.root)
            && index.repositories_with(&digest, None, 2).await?.len() < 2
        {
            *unique = unique.saturating_add(one.size_bytes);
        }
    }
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
        // Two tags of one manifest: neither frees anything alone.
        .map(|((digest, tags), (bytes, unique))| {
            (digest, (*bytes, if *tags == 1 { *unique } else { 0 }))
        })
        .collect();
    let mut rows = Vec::with_capacity(tags.len() + 1);
    for (tag, digest) in &tags {
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

/// Notes everything that `starts` need as needed by `root`; returns its bytes.
async fn walk(
    index: &Index,
    starts: Vec<Digest>,
    root: usize,
    needed: &mut HashMap<Digest, Needed>,
) -> Result<u64, IndexError> {
    let sizes = index.sizes(starts.clone()).await?;
    let sizes = sizes.into_iter().map(Option::unwrap_or_default);
    let mut unread: Vec<(Digest, u64, ChildKind)> = starts
        .into_iter()
        .zip(sizes)
        .map(|(digest, size_bytes)| (digest, size_bytes, ChildKind::Listed))
        .collect();
    let mut seen = HashSet::new();
    let mut bytes = 0;
    while let Some((digest, size_bytes, kind)) = unread.pop() {
        if !seen.insert(digest) {
            continue;
        }
        // A manifest may claim any size of what is not here.
        bytes = size_bytes.saturating_add(bytes);
        match kind {
            // It may be a blob, which has no children.
            ChildKind::Listed => unread.extend(children(index, &digest).await?),
            ChildKind::Blob => {}
        }
        needed
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

/// With the sizes that the content has, where those are known: what a manifest says of them may be wrong.
async fn children(
    index: &Index,
    parent: &Digest,
) -> Result<Vec<(Digest, u64, ChildKind)>, IndexError> {
    let mut all: Vec<(Digest, u64, ChildKind)> = Vec::new();
    loop {
        let after = all.last().map(|(digest, _, _)| digest);
        let page = index.children(parent, after, PAGE_MAX).await?;
        let is_last = page.len() < PAGE_MAX;
        let digests = page.iter().map(|child| child.digest).collect();
        let sizes = index.sizes(digests).await?;
        all.extend(page.into_iter().zip(sizes).map(|(child, size_bytes)| {
            let size_bytes = size_bytes.unwrap_or(child.size_bytes);
            (child.digest, size_bytes, child.kind)
        }));
        if is_last {
            return Ok(all);
        }
    }
}

async fn all_tags(index: &Index, name: &RepositoryName) -> Result<Vec<Tag>, IndexError> {
    let mut all: Vec<Tag> = Vec::new();
    loop {
        let page = index
            .tags(name, all.last().map(Tag::as_str), PAGE_MAX)
            .await?;
        let is_last = page.len() < PAGE_MAX;
        all.extend(page.into_iter().map(|(tag, _)| tag));
        if is_last {
            return Ok(all);
        }
    }
}

async fn all_revisions(index: &Index, name: &RepositoryName) -> Result<Vec<Digest>, IndexError> {
    let mut all: Vec<Digest> = Vec::new();
    loop {
        let page = index.revisions(name, all.last(), PAGE_MAX).await?;
        let is_last = page.len() < PAGE_MAX;
        all.extend(page.into_iter().map(|revision| revision.digest));
        if is_last {
            return Ok(all);
        }
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
