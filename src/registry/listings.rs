//! Lists: repositories and tags, in pages.
//!
//! Walks the directories of the store until the index takes over. Must not know how a page is printed. Invariant: a list is
//! in byte order of the names, a page begins right after `last`, and every name in it was there when it was looked at.

use super::{Registry, RegistryError};
use crate::auth::Viewer;
use crate::layout::{self, Place, Prefix};
use crate::oci::{RepositoryName, Tag};
use crate::store::{Depth, Entry};

/// Entries taken from the store at a time: bounds memory, not the list.
const BATCH: usize = 1_000;

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
        let mut tags = self.tag_directories(name).await?;
        if tags.is_empty() && !self.repository_exists(name).await? {
            return Err(RegistryError::NameUnknown(name.clone()));
        }
        tags.sort_unstable();
        let count = page_count(request, self.settings.limits.list_page);
        let mut items = Vec::new();
        for tag in tags
            .into_iter()
            .filter(|tag| is_after(tag.as_str(), request))
        {
            if self
                .find(&Place::TagCurrent(name.clone(), tag.clone()).key())
                .await?
                .is_none()
            {
                continue;
            }
            // One more than the page holds tells that there are more.
            if items.len() == count {
                return Ok(Page {
                    items,
                    has_more: count > 0,
                });
            }
            items.push(tag);
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
        let mut names = self
            .repositories(|name| viewer.may_list(name), usize::MAX)
            .await?;
        names.sort_unstable();
        names.retain(|name| is_after(name.as_str(), request));
        let count = page_count(request, self.settings.limits.catalog_page);
        let has_more = count > 0 && names.len() > count;
        names.truncate(count);
        Ok(Page {
            items: names,
            has_more,
        })
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

    async fn repository_exists(&self, name: &RepositoryName) -> Result<bool, RegistryError> {
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
            self.each_directory(&prefix, |directory| match directory {
                "_layers" | "_manifests" => is_repository = true,
                other if other.starts_with('_') => {}
                other => unread.extend(format!("{prefix}{other}/").parse::<Prefix>()),
            })
            .await?;
            let name = prefix
                .as_str()
                .strip_prefix(root.as_str())
                .and_then(|text| text.strip_suffix('/'));
            let name = name
                .and_then(|text| text.parse().ok())
                .filter(|name| is_repository && wanted(name));
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

fn page_count(request: &PageRequest, most: usize) -> usize {
    request.count.unwrap_or(most).min(most)
}

fn is_after(name: &str, request: &PageRequest) -> bool {
    request.last.as_deref().is_none_or(|last| name > last)
}
