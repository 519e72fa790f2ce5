//! Lists: repositories and tags, in pages.
//!
//! The index proposes, the store confirms; where the index cannot be asked, the store's directories are walked. Must not
//! know how a page is printed. Invariant: a list is in byte order of the names, a page begins right after `last`, and every
//! name in it was there when it was looked at.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::links::LINK_SIZE_MIN_BYTES;
use super::{Registry, RegistryError};
use crate::auth::Viewer;
use crate::index::PAGE_MAX;
use crate::layout::{self, Key, Place, Prefix};
use crate::oci::{RepositoryName, Tag};
use crate::store::{Depth, Entry, Meta};

/// Entries taken from the store at a time: bounds memory (3 MB), not the list. Each time the whole directory is read, so a
/// hundred thousand tags are read ten times.
const BATCH: usize = 10_000;

/// Repositories that one catalog looks at together: the way to the store and back takes longer than the look.
const LOOKS_AT_ONCE: usize = 8;

/// Which part of a list is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// `n`: how many at most; `limits.list_page` where absent or larger.
    pub count: Option<usize>,
    /// `last`: begin right after this name, which need not exist.
    pub last: Option<String>,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The names.
    pub items: Vec<T>,
    /// Whether there are more.
    pub has_more: bool,
}

impl Registry {
    /// The tags of a repository.
    pub async fn tags(
        &self,
        name: &RepositoryName,
        request: &PageRequest,
    ) -> Result<Page<Tag>, RegistryError> {
        let count = page_count(request, self.settings.limits.list_page);
        let mut items = Vec::new();
        let mut after = request.last.clone();
        let mut by_index = self.may_list_from_index(name).await;
        let mut is_last = false;
        let mut limit = first_limit(count);
        while !is_last {
            let page = self
                .tags_by_index(name, after.as_deref(), limit, by_index)
                .await;
            let candidates = if let Some(page) = page {
                page
            } else {
                by_index = false;
                is_last = true;
                self.tags_by_store(name, after.as_deref()).await?
            };
            is_last |= candidates.len() < limit;
            limit = PAGE_MAX;
            after = candidates
                .last()
                .map(|tag| tag.as_str().to_owned())
                .or(after);
            let mut candidates = candidates.into_iter();
            while candidates.len() > 0 {
                // As many as are wanted, and one that tells whether there are more.
                let wanted = (count - items.len()).saturating_add(1);
                let part: Vec<Tag> = candidates.by_ref().take(wanted).collect();
                items.extend(self.present_tags(name, part).await?);
                if items.len() > count {
                    items.truncate(count);
                    return Ok(Page {
                        items,
                        has_more: count > 0,
                    });
                }
            }
        }
        if items.is_empty() && !self.repository_exists(name).await? {
            return Err(RegistryError::NameUnknown(name.clone()));
        }
        Ok(Page {
            items,
            has_more: false,
        })
    }

    /// The repositories that `viewer` may see.
    pub async fn catalog(
        &self,
        viewer: &Viewer<'_>,
        request: &PageRequest,
    ) -> Result<Page<RepositoryName>, RegistryError> {
        let count = page_count(request, self.settings.limits.catalog_page);
        let mut items = Vec::new();
        let mut after = request.last.clone();
        let mut is_last = false;
        let mut limit = first_limit(count);
        while !is_last {
            let page = self.repositories_by_index(after.as_deref(), limit).await;
            let candidates = if let Some(page) = page {
                page
            } else {
                is_last = true;
                self.repositories_by_store(viewer, after.as_deref()).await?
            };
            is_last |= candidates.len() < limit;
            limit = PAGE_MAX;
            after = candidates
                .last()
                .map(|name| name.as_str().to_owned())
                .or(after);
            let mut candidates = candidates.into_iter().filter(|name| viewer.may_list(name));
            loop {
                let wanted = (count - items.len()).saturating_add(1);
                let part: Vec<RepositoryName> = candidates.by_ref().take(wanted).collect();
                if part.is_empty() {
                    break;
                }
                items.extend(self.present_repositories(part).await?);
                if items.len() > count {
                    items.truncate(count);
                    return Ok(Page {
                        items,
                        has_more: count > 0,
                    });
                }
            }
        }
        Ok(Page {
            items,
            has_more: false,
        })
    }

    /// Those of `tags` that are there.
    async fn present_tags(
        &self,
        name: &RepositoryName,
        tags: Vec<Tag>,
    ) -> Result<Vec<Tag>, RegistryError> {
        let current = |tag: &Tag| Place::TagCurrent(name, tag).key();
        let keys: Vec<Key> = tags.iter().map(current).collect();
        let found = self.find_each(&keys).await?;
        let tags = tags.into_iter().zip(found);
        let is_link = |meta: &Meta| meta.size_bytes >= LINK_SIZE_MIN_BYTES;
        let present = tags.filter(|(_, meta)| meta.as_ref().is_some_and(is_link));
        Ok(present.map(|(tag, _)| tag).collect())
    }

    /// Those of `names` that are there.
    async fn present_repositories(
        &self,
        names: Vec<RepositoryName>,
    ) -> Result<Vec<RepositoryName>, RegistryError> {
        let looks = stream::iter(names).map(|name| async {
            match self.repository_exists(&name).await {
                Ok(is_there) => Ok(is_there.then_some(name)),
                Err(error) if error.is_unreadable() => {
                    self.pass_over(layout::repository_directory(&name).as_str(), &error);
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        });
        let found: Vec<_> = looks.buffered(LOOKS_AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn tags_by_store(
        &self,
        name: &RepositoryName,
        after: Option<&str>,
    ) -> Result<Vec<Tag>, RegistryError> {
        let mut tags = self.tag_directories(name).await?;
        tags.retain(|tag| after.is_none_or(|after| tag.as_str() > after));
        tags.sort_unstable();
        Ok(tags)
    }

    async fn repositories_by_store(
        &self,
        viewer: &Viewer<'_>,
        after: Option<&str>,
    ) -> Result<Vec<RepositoryName>, RegistryError> {
        let is_wanted = |name: &RepositoryName| {
            viewer.may_list(name) && after.is_none_or(|after| name.as_str() > after)
        };
        let mut names = self.repositories(is_wanted, usize::MAX).await?;
        names.sort_unstable();
        Ok(names)
    }

    /// Names of directories in the tags directory: candidates, not yet confirmed.
    pub(super) async fn tag_directories(
        &self,
        name: &RepositoryName,
    ) -> Result<Vec<Tag>, RegistryError> {
        let prefix = layout::tags_directory(name);
        let mut tags = Vec::new();
        self.each_directory(&prefix, |directory| tags.extend(directory.parse()))
            .await?;
        Ok(tags)
    }

    pub(super) async fn repository_exists(
        &self,
        name: &RepositoryName,
    ) -> Result<bool, RegistryError> {
        for prefix in [
            layout::layers_directory(name),
            layout::manifests_directory(name),
        ] {
            if !self
                .store
                .list(&prefix, None, Depth::One, 1)
                .await?
                .is_empty()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Up to `limit` repositories for which `wanted` says yes, in no order.
    pub(super) async fn repositories(
        &self,
        wanted: impl Fn(&RepositoryName) -> bool + Send,
        limit: usize,
    ) -> Result<Vec<RepositoryName>, RegistryError> {
        let root = layout::repositories_directory();
        let mut names = Vec::new();
        let mut unread = vec![root.clone()];
        while let Some(prefix) = unread.pop() {
            let mut is_repository = false;
            let looked = self.each_directory(&prefix, |directory| match directory {
                "_layers" | "_manifests" => is_repository = true,
                other if other.starts_with('_') => {}
                other => {
                    let below = format!("{prefix}{other}/");
                    // `lost+found` of a volume, `@eaDir` of a NAS, `.snapshot`: no repository can lie below either.
                    if name_of(&root, &below).is_some() {
                        unread.extend(below.parse::<Prefix>());
                    } else {
                        self.pass_over_stranger(&below);
                    }
                }
            });
            match looked.await {
                Err(error) if error.is_unreadable() && prefix != root => {
                    self.pass_over(prefix.as_str(), &error);
                    continue;
                }
                looked => looked?,
            }
            let name = name_of(&root, prefix.as_str());
            let name = name.filter(|name| is_repository && wanted(name));
            names.extend(name);
            if names.len() >= limit {
                break;
            }
        }
        Ok(names)
    }

    /// Calls `visit` with the name of each directory directly below `prefix`.
    pub(super) async fn each_directory(
        &self,
        prefix: &Prefix,
        mut visit: impl FnMut(&str) + Send,
    ) -> Result<(), RegistryError> {
        let mut after: Option<String> = None;
        loop {
            let entries = self
                .store
                .list(prefix, after.as_deref(), Depth::One, BATCH)
                .await?;
            for Entry { key, .. } in entries.iter().filter(|entry| entry.meta.is_prefix) {
                if let Some(directory) = key
                    .strip_prefix(prefix.as_str())
                    .and_then(|name| name.strip_suffix('/'))
                {
                    visit(directory);
                }
            }
            match entries.last() {
                Some(last) if entries.len() == BATCH => after = Some(last.key.clone()),
                _ => return Ok(()),
            }
        }
    }
}

/// The repository whose directory is `directory`, if it can be one.
fn name_of(root: &Prefix, directory: &str) -> Option<RepositoryName> {
    let name = directory.strip_prefix(root.as_str())?;
    name.strip_suffix('/')?.parse().ok()
}

/// How many names the index is asked for first: one more than wanted tells whether there are more. Where that does not do,
/// because some are gone or not for this viewer, full pages follow.
fn first_limit(count: usize) -> usize {
    count.saturating_add(1).min(PAGE_MAX)
}

fn page_count(request: &PageRequest, most: usize) -> usize {
    request.count.unwrap_or(most).min(most)
}
