//! Lists of repositories and tags, in pages.
//!
//! Names come from the index and are confirmed in the store. While the index cannot be used, the names come from the store's
//! directories. Must not know how a page is printed. Invariant: a list is in byte order of the names, a page begins after
//! `last`, and every name in it existed when it was confirmed.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Semaphore;

use super::core::{Core, LINK_SIZE_MIN_BYTES};
use super::error::RegistryError;
use crate::auth::Viewer;
use crate::index::PAGE_MAX;
use crate::layout::{self, Key, Place};
use crate::oci::{RepositoryName, Tag};
use crate::store::Meta;

/// How many repositories one catalog request confirms at the same time: a hop to a blocking thread takes longer than the
/// look itself.
const LOOKS_AT_ONCE: usize = 8;

/// Which page of a list is requested.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// `n`: the most items; the limit of the list if it is absent or larger.
    pub count: Option<usize>,
    /// `last`: the page begins after this name, which need not exist.
    pub last: Option<String>,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The names.
    pub items: Vec<T>,
    /// Whether more names follow.
    pub has_more: bool,
}

/// How many pages of referrers are built at the same time: each needs megabytes of memory for a moment.
const REFERRER_PAGES_AT_ONCE: usize = 2;

/// Lists, and the usage of storage.
pub struct Listings {
    pub(super) core: Arc<Core>,
    pub(super) referrer_pages: Arc<Semaphore>,
}

impl Listings {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
            referrer_pages: Arc::new(Semaphore::new(REFERRER_PAGES_AT_ONCE)),
        }
    }

    /// The tags of a repository.
    pub async fn tags(
        &self,
        name: &RepositoryName,
        request: &PageRequest,
    ) -> Result<Page<Tag>, RegistryError> {
        let count = page_count(request, self.core.settings.limits.tags_page);
        let mut items = Vec::new();
        let mut after = request.last.clone();
        let gate = &self.core.gate;
        let mut by_index = gate.may_list(name).await;
        let mut is_last = false;
        let mut limit = first_limit(count);
        while !is_last {
            let page = if by_index {
                gate.tags(name, after.as_deref(), limit).await
            } else {
                None
            };
            let candidates = if let Some(page) = page {
                page
            } else {
                by_index = false;
                self.tags_by_store(name, after.as_deref(), limit).await?
            };
            is_last |= candidates.len() < limit;
            limit = PAGE_MAX;
            after = candidates
                .last()
                .map(|tag| tag.as_str().to_owned())
                .or(after);
            let mut candidates = candidates.into_iter();
            while candidates.len() > 0 {
                // One more than requested shows whether more follow.
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
        if items.is_empty() && !self.core.repository_exists(name).await? {
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
        viewer: &dyn Viewer,
        request: &PageRequest,
    ) -> Result<Page<RepositoryName>, RegistryError> {
        let count = page_count(request, self.core.settings.limits.catalog_page);
        let mut items = Vec::new();
        let mut after = request.last.clone();
        let mut is_last = false;
        let mut limit = first_limit(count);
        while !is_last {
            let gate = &self.core.gate;
            let page = gate.repositories(after.as_deref(), limit).await;
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

    /// Those of `tags` that exist.
    async fn present_tags(
        &self,
        name: &RepositoryName,
        tags: Vec<Tag>,
    ) -> Result<Vec<Tag>, RegistryError> {
        let current = |tag: &Tag| Place::TagCurrent(name, tag).key();
        let keys: Vec<Key> = tags.iter().map(current).collect();
        let found = self.core.find_each(&keys).await?;
        let tags = tags.into_iter().zip(found);
        let is_link = |meta: &Meta| meta.size_bytes >= LINK_SIZE_MIN_BYTES;
        let present = tags.filter(|(_, meta)| meta.as_ref().is_some_and(is_link));
        Ok(present.map(|(tag, _)| tag).collect())
    }

    /// Those of `names` that exist.
    async fn present_repositories(
        &self,
        names: Vec<RepositoryName>,
    ) -> Result<Vec<RepositoryName>, RegistryError> {
        let looks = stream::iter(names).map(|name| async {
            match self.core.repository_exists(&name).await {
                Ok(is_there) => Ok(is_there.then_some(name)),
                Err(error) if error.is_unreadable() => {
                    self.core
                        .damage
                        .pass_over(layout::repository_directory(&name).as_str(), &error);
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        });
        let found: Vec<_> = looks.buffered(LOOKS_AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The first `limit` tags after `after`, from one pass over the tags directory, which is not sorted. No more than
    /// `limit` names are kept in memory.
    async fn tags_by_store(
        &self,
        name: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Tag>, RegistryError> {
        let mut first: BTreeSet<Tag> = BTreeSet::new();
        let visit = |directory: &str| {
            let is_behind = after.is_none_or(|after| directory > after);
            if is_behind && let Ok(tag) = directory.parse() {
                first.insert(tag);
            }
            if first.len() > limit {
                first.pop_last();
            }
        };
        let prefix = layout::tags_directory(name);
        self.core.each_directory(&prefix, visit).await?;
        Ok(first.into_iter().collect())
    }

    async fn repositories_by_store(
        &self,
        viewer: &dyn Viewer,
        after: Option<&str>,
    ) -> Result<Vec<RepositoryName>, RegistryError> {
        let is_wanted = |name: &RepositoryName| {
            viewer.may_list(name) && after.is_none_or(|after| name.as_str() > after)
        };
        let mut names = self.core.repositories(is_wanted, usize::MAX).await?;
        names.sort_unstable();
        Ok(names)
    }
}

/// How many names the first question to the index asks for: one more than requested shows whether more follow. If some are
/// gone or not visible to this viewer, full pages follow.
fn first_limit(count: usize) -> usize {
    count.saturating_add(1).min(PAGE_MAX)
}

fn page_count(request: &PageRequest, most: usize) -> usize {
    request.count.unwrap_or(most).min(most)
}
