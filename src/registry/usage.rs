//! How much storage repositories and images use, and how much their deletion would free.
//!
//! This file alone says what the words mean that `list`, `show`, `du` and `delete` print; `docs/operations.md` repeats it:
//!
//! - An **image** is a manifest, the manifests that it lists, and those about it (signatures), as far as the repository has them.
//! - A repository **holds** its manifests and what they reference. A manifest that cannot be parsed holds every blob that its
//!   repository links. A blob that is only linked, since its image was deleted or never pushed, is held by nothing.
//! - **Free once collected** is what only the deleted image or repository holds: a collection frees it after the deletion.
//! - **Free at once** is what the deletion itself removes from the disk (`repositories.rs`).
//!
//! Must not know how it is printed. Invariants: the deletion of a row frees at least what the row promises, and nothing is
//! promised while the index is incomplete; bytes that two rows hold are unique in neither.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::core::Core;
use super::error::{IndexedError, RegistryError};
use super::listings::Listings;
use super::seen::Seen;
use crate::index::{ChildKind, IndexError, View};
use crate::layout::{Key, Place};
use crate::oci::{Digest, Reference, RepositoryName, Tag};

/// How many digests are in memory at the same time while all repositories are compared, at about 100 bytes each.
const DIGESTS_AT_ONCE: u64 = 1_000_000;

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
    /// The repository, or the tag; `None` for the manifests of a repository that belong to no tagged image.
    pub name: Option<String>,
    /// The manifest that the tag points to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// Everything that it holds.
    pub bytes: u64,
    /// The part that others hold as well; `None` while that is not known.
    pub shared_bytes: Option<u64>,
    /// The part that only this row holds: what a collection frees after this repository, or this tag and its image, was
    /// deleted; `None` while that is not known.
    pub unique_bytes: Option<u64>,
}

/// What one repository holds.
pub(super) struct RepositoryUsage {
    pub(super) name: RepositoryName,
    pub(super) tags: u64,
    pub(super) manifests: u64,
    pub(super) bytes: u64,
    /// `None` while it is not known what others hold.
    unique_bytes: Option<u64>,
}

/// The tags of a repository, and what they use.
pub(super) struct TagsUsage {
    /// One row for each tag in its order, and one without a name if there are manifests that belong to no tagged image.
    pub(super) rows: Vec<Usage>,
    /// Those manifests.
    pub(super) untagged: Vec<Digest>,
}

impl Listings {
    /// The usage of the subject: one row for each repository, each tag, or the one tag.
    pub async fn usage(&self, subject: &Subject) -> Result<Seen<Vec<Usage>>, IndexedError> {
        match subject {
            Subject::Everything => {
                let rows = self.core.repositories_usage().await?;
                Ok(rows.map(|rows| rows.into_iter().map(Usage::from).collect()))
            }
            Subject::Repository(name) => {
                let tags = self.core.tag_targets(name).await?;
                let seen = self.core.usage_of(name, tags).await?;
                if seen.value.rows.is_empty() && !self.core.repository_exists(name).await? {
                    return Err(RegistryError::NameUnknown(name.clone()).into());
                }
                Ok(seen.map(|usage| usage.rows))
            }
            Subject::Tag(name, tag) => {
                let tags = self.core.tag_targets(name).await?;
                if !tags.iter().any(|(one, _)| one == tag) {
                    let reference = Reference::Tag(tag.clone());
                    return Err(RegistryError::ManifestUnknown(reference).into());
                }
                let seen = self.core.usage_of(name, tags).await?;
                Ok(seen.map(|usage| {
                    let mut rows = usage.rows;
                    rows.retain(|row| row.name.as_deref() == Some(tag.as_str()));
                    rows
                }))
            }
        }
    }
}

impl Core {
    /// All tags of a repository and what they point to, in byte order. From the store: when another registry moves a tag, no
    /// directory's time changes, so the index may be out of date.
    pub(super) async fn tag_targets(
        &self,
        name: &RepositoryName,
    ) -> Result<Vec<(Tag, Digest)>, RegistryError> {
        let mut tags = self.tag_directories(name).await?;
        tags.sort_unstable();
        let current = |tag: &Tag| Place::TagCurrent(name, tag).key();
        let links: Vec<Key> = tags.iter().map(current).collect();
        let digests = self.read_links(&links).await?;
        let tags = tags.into_iter().zip(digests);
        Ok(tags
            .filter_map(|(tag, digest)| Some((tag, digest?)))
            .collect())
    }

    /// What the repositories hold, in byte order of their names.
    pub(super) async fn repositories_usage(
        &self,
    ) -> Result<Seen<Vec<RepositoryUsage>>, IndexedError> {
        if let Some(rows) = self.ask_of_all(usage_of_repositories).await {
            return Ok(Seen::in_index(rows));
        }
        let mut names = self.repositories(|_| true, usize::MAX).await?;
        names.sort_unstable();
        let mut rows = Vec::with_capacity(names.len());
        for name in names {
            let look = |view: &View| usage_of_repositories(view);
            for row in self.read_aside(&name, look).await? {
                let unique_bytes = None;
                rows.push(RepositoryUsage {
                    unique_bytes,
                    ..row
                });
            }
        }
        Ok(Seen::in_store(rows, self.why_not_index()))
    }

    /// What each of `tags` uses.
    pub(super) async fn usage_of(
        &self,
        name: &RepositoryName,
        tags: Vec<(Tag, Digest)>,
    ) -> Result<Seen<TagsUsage>, IndexedError> {
        let asked = name.clone();
        let look = move |view: &View, is_whole| usage_of_tags(view, &asked, &tags, is_whole);
        self.look_at(name, look).await
    }

    /// What only the manifests `removed` of `name`, or all of its manifests, hold: what a collection frees after they were
    /// deleted. `None` while that is not known.
    pub(super) async fn freed_by(
        &self,
        name: &RepositoryName,
        removed: Option<Vec<Digest>>,
    ) -> Option<u64> {
        let asked = name.clone();
        let look = move |view: &View| {
            let removed: Option<HashSet<Digest>> = removed.map(HashSet::from_iter);
            let goes = |one: &Digest| removed.as_ref().is_none_or(|removed| removed.contains(one));
            let holdings = Holdings::new(view, &asked)?;
            let manifests = holdings.manifests.keys().copied();
            let (gone, kept) = manifests.partition(goes);
            let held = holdings.split(&[gone, kept], true)?;
            Ok(held.first().and_then(|held| held.unique_bytes))
        };
        self.ask_of_all(look).await.flatten()
    }
}

impl From<RepositoryUsage> for Usage {
    fn from(usage: RepositoryUsage) -> Self {
        let RepositoryUsage {
            name,
            tags: _,
            manifests: _,
            bytes,
            unique_bytes,
        } = usage;
        let held = Held {
            bytes,
            unique_bytes,
        };
        held.row(Some(name.to_string()), None)
    }
}

/// How many bytes are held together, and how many of them by nothing else.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    bytes: u64,
    /// `None` while it is not known what others hold.
    unique_bytes: Option<u64>,
}

impl Held {
    fn row(self, name: Option<String>, digest: Option<Digest>) -> Usage {
        let Self {
            bytes,
            unique_bytes,
        } = self;
        Usage {
            name,
            digest: digest.map(|digest| digest.to_string()),
            bytes,
            shared_bytes: unique_bytes.map(|unique| bytes.saturating_sub(unique)),
            unique_bytes,
        }
    }
}

/// Every repository with what it holds.
fn usage_of_repositories(view: &View) -> Result<Vec<RepositoryUsage>, IndexError> {
    let mut rows = Vec::new();
    for name in view.repositories(None) {
        let name = name?;
        let totals = view.repository_totals(&name)?;
        rows.push(RepositoryUsage {
            name,
            tags: totals.tags,
            manifests: totals.revisions,
            bytes: 0,
            unique_bytes: Some(0),
        });
    }
    let parts = view.totals()?.sizes / DIGESTS_AT_ONCE + 1;
    for part in 0..parts {
        add_part(view, &mut rows, |digest| part_of(digest, parts) == part)?;
    }
    Ok(rows)
}

/// Which of `parts` parts the digest belongs to.
fn part_of(digest: &Digest, parts: u64) -> u64 {
    let first = digest.bytes().first_chunk().copied();
    u64::from_be_bytes(first.unwrap_or_default()) % parts
}

/// Adds what the repositories hold of the digests that `is_wanted`.
fn add_part(
    view: &View,
    rows: &mut [RepositoryUsage],
    is_wanted: impl Fn(&Digest) -> bool,
) -> Result<(), IndexError> {
    // Which row holds a digest, and how long it is; `None` if several do.
    let mut holders: HashMap<Digest, Option<(usize, u64)>> = HashMap::new();
    for (at, row) in rows.iter_mut().enumerate() {
        let holdings = Holdings::new(view, &row.name)?;
        let mut seen = HashSet::new();
        for manifest in holdings.manifests.keys() {
            for (digest, claimed_bytes) in holdings.needs(*manifest)? {
                if !is_wanted(&digest) || !seen.insert(digest) {
                    continue;
                }
                let known_bytes = view.size(digest)?;
                row.bytes = row
                    .bytes
                    .saturating_add(known_bytes.unwrap_or(claimed_bytes));
                let holder = holders.entry(digest);
                holder
                    .and_modify(|holder| *holder = None)
                    .or_insert(Some((at, known_bytes.unwrap_or_default())));
            }
        }
    }
    for (at, bytes) in holders.into_values().flatten() {
        if let Some(RepositoryUsage {
            unique_bytes: Some(unique_bytes),
            ..
        }) = rows.get_mut(at)
        {
            *unique_bytes = unique_bytes.saturating_add(bytes);
        }
    }
    Ok(())
}

/// The usage of `tags`. `is_whole`: the view shows all repositories, so it is known what others hold.
fn usage_of_tags(
    view: &View,
    name: &RepositoryName,
    tags: &[(Tag, Digest)],
    is_whole: bool,
) -> Result<TagsUsage, IndexError> {
    let holdings = Holdings::new(view, name)?;
    let mut tags_of: BTreeMap<Digest, u64> = BTreeMap::new();
    for (_, digest) in tags {
        *tags_of.entry(*digest).or_default() += 1;
    }
    let mut groups = Vec::with_capacity(tags_of.len() + 1);
    for digest in tags_of.keys() {
        groups.push(holdings.image(*digest)?);
    }
    let tagged: HashSet<Digest> = groups.iter().flatten().copied().collect();
    let manifests = holdings.manifests.keys().copied();
    let untagged: BTreeSet<Digest> = manifests.filter(|one| !tagged.contains(one)).collect();
    groups.push(holdings.images(&untagged)?);
    let mut held = holdings.split(&groups, is_whole)?;
    let rest = held.pop().unwrap_or_default();
    let mut of_digest = HashMap::with_capacity(held.len());
    for ((digest, tags), mut held) in tags_of.into_iter().zip(held) {
        if tags > 1 {
            // Where two tags point to one image, deleting one of them frees nothing.
            held.unique_bytes = held.unique_bytes.map(|_| 0);
        }
        of_digest.insert(digest, held);
    }
    let row = |(tag, digest): &(Tag, Digest)| {
        let held = of_digest.get(digest).copied().unwrap_or_default();
        held.row(Some(tag.to_string()), Some(*digest))
    };
    let mut rows: Vec<Usage> = tags.iter().map(row).collect();
    if !untagged.is_empty() {
        rows.push(rest.row(None, None));
    }
    Ok(TagsUsage {
        rows,
        untagged: untagged.into_iter().collect(),
    })
}

/// What the image `digest` holds with all its tags; `others` are the targets of the other tags.
pub(super) fn usage_of_image(
    view: &View,
    name: &RepositoryName,
    digest: Digest,
    others: &BTreeSet<Digest>,
    is_whole: bool,
) -> Result<Usage, IndexError> {
    let holdings = Holdings::new(view, name)?;
    let image = holdings.image(digest)?;
    let own: HashSet<Digest> = image.iter().copied().collect();
    let strangers = holdings.manifests.keys().filter(|one| !own.contains(one));
    let others = others.iter().chain(strangers).copied().collect();
    let groups = [image, holdings.images(&others)?];
    let held = holdings.split(&groups, is_whole)?;
    let held = held.first().copied().unwrap_or_default();
    Ok(held.row(None, Some(digest)))
}

/// What is held by several groups of manifests of one repository.
struct Needed {
    bytes: u64,
    group: usize,
    is_shared: bool,
}

/// The manifests of one repository, and what they reference.
struct Holdings<'a> {
    view: &'a View,
    name: &'a RepositoryName,
    /// With their lengths.
    manifests: HashMap<Digest, u64>,
    /// Those that cannot be parsed.
    opaque: BTreeSet<Digest>,
}

impl<'a> Holdings<'a> {
    fn new(view: &'a View, name: &'a RepositoryName) -> Result<Self, IndexError> {
        let revisions = view.revisions(name);
        let manifests =
            revisions.map(|one| one.map(|revision| (revision.digest, revision.size_bytes)));
        Ok(Self {
            view,
            name,
            manifests: manifests.collect::<Result<_, _>>()?,
            opaque: view.opaque(name).collect::<Result<_, _>>()?,
        })
    }

    /// The manifests of the image `root`, as [`super::Manifests::delete_image`] sees it; none if the repository does not have it.
    fn image(&self, root: Digest) -> Result<Vec<Digest>, IndexError> {
        self.images(&BTreeSet::from([root]))
    }

    /// The manifests of several images.
    fn images(&self, roots: &BTreeSet<Digest>) -> Result<Vec<Digest>, IndexError> {
        let is_there = |one: &Digest| self.manifests.contains_key(one);
        let mut members: Vec<Digest> = roots.iter().copied().filter(is_there).collect();
        if !self.opaque.is_empty() {
            // One that cannot be parsed may list any of the others, so none of them goes with an image.
            return Ok(members);
        }
        let mut seen: HashSet<Digest> = members.iter().copied().collect();
        let mut unread = members.clone();
        while let Some(member) = unread.pop() {
            let mut related = Vec::new();
            for child in self.view.children(member) {
                let child = child?;
                match child.kind {
                    // This may be a blob, which the repository does not have as a manifest.
                    ChildKind::Listed => related.push(child.digest),
                    ChildKind::Blob => {}
                }
            }
            for referrer in self.view.referrers(self.name, member, None) {
                related.push(referrer?);
            }
            for one in related {
                if is_there(&one) && seen.insert(one) {
                    members.push(one);
                    unread.push(one);
                }
            }
        }
        Ok(members)
    }

    /// What a manifest of the repository needs: itself, and what it references, each with the length that is claimed for it.
    fn needs(&self, manifest: Digest) -> Result<Vec<(Digest, u64)>, IndexError> {
        let size_bytes = self.manifests.get(&manifest).copied().unwrap_or_default();
        let mut needs = vec![(manifest, size_bytes)];
        for child in self.view.children(manifest) {
            let child = child?;
            needs.push((child.digest, child.size_bytes));
        }
        if self.opaque.contains(&manifest) {
            for layer in self.view.layers(self.name) {
                needs.push((layer?, 0));
            }
        }
        Ok(needs)
    }

    /// What each of `groups` holds. `is_whole`: the view shows all repositories, so it is known what others hold.
    fn split(&self, groups: &[Vec<Digest>], is_whole: bool) -> Result<Vec<Held>, IndexError> {
        let mut needed: HashMap<Digest, Needed> = HashMap::new();
        let mut rows = Vec::with_capacity(groups.len());
        for (group, manifests) in groups.iter().enumerate() {
            let mut seen = HashSet::new();
            let mut bytes = 0_u64;
            for manifest in manifests {
                for (digest, claimed_bytes) in self.needs(*manifest)? {
                    if !seen.insert(digest) {
                        continue;
                    }
                    // A manifest may claim any size for content that is not in the store.
                    let known_bytes = self.view.size(digest)?;
                    bytes = bytes.saturating_add(known_bytes.unwrap_or(claimed_bytes));
                    let one = needed.entry(digest);
                    one.and_modify(|one| one.is_shared = true)
                        .or_insert(Needed {
                            bytes: known_bytes.unwrap_or_default(),
                            group,
                            is_shared: false,
                        });
                }
            }
            let unique_bytes = is_whole.then_some(0);
            rows.push(Held {
                bytes,
                unique_bytes,
            });
        }
        if is_whole {
            needed.retain(|_, one| !one.is_shared);
            self.leave_out_held_elsewhere(&mut needed)?;
        }
        for one in needed.values() {
            if let Some(Held {
                unique_bytes: Some(unique_bytes),
                ..
            }) = rows.get_mut(one.group)
            {
                *unique_bytes = unique_bytes.saturating_add(one.bytes);
            }
        }
        Ok(rows)
    }

    /// Removes from `needed` what any other repository holds. Links are not asked: a deleted image leaves them, and a manifest
    /// may reference a blob that its repository does not link.
    fn leave_out_held_elsewhere(
        &self,
        needed: &mut HashMap<Digest, Needed>,
    ) -> Result<(), IndexError> {
        for other in self.view.repositories(None) {
            let other = other?;
            if needed.is_empty() {
                break;
            }
            if other == *self.name {
                continue;
            }
            let holdings = Holdings::new(self.view, &other)?;
            for manifest in holdings.manifests.keys() {
                for (digest, _) in holdings.needs(*manifest)? {
                    needed.remove(&digest);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
