//! Looking through the whole store for damage, and for what another registry of the same layout would not serve.
//!
//! Nothing is changed, and nothing is taken from the index: it works on a store that another process serves. Must not know
//! who reads the findings. Invariants: no damage ends the walk; what cannot be read is itself a finding.

mod finding;
mod repository;
mod walk;

use std::sync::Arc;

use futures_util::TryStreamExt as _;

pub use self::finding::{Finding, Kind, LinkTo, Meaning};
use self::repository::Look;
pub use self::walk::Found;
use self::walk::{Names, Walk};
use super::core::Core;
use super::index_sync::comparing::{Progress, Tell};
use crate::layout::{self, OwnedPlace, Prefix};
use crate::oci::RepositoryName;
use crate::store::Depth;

/// The room of inspections.
pub struct Inspection {
    core: Arc<Core>,
}

impl Inspection {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
        }
    }

    /// Shows `found` everything; returns how many repositories there are.
    pub async fn run(&self, tell: Tell<'_>, found: Found<'_>) -> u64 {
        let mut walk = Walk::new(&self.core, found);
        let repositories = walk.repositories().await;
        let total = repositories.len() as u64;
        for (done, name) in (0..).zip(&repositories) {
            let total = Some(total);
            tell(Progress { done, total });
            Look::at(&mut walk, name).await;
        }
        walk.blobs().await;
        total
    }
}

impl Walk<'_> {
    /// All repositories, in order.
    async fn repositories(&mut self) -> Vec<RepositoryName> {
        let root = layout::repositories_directory();
        let mut repositories = Vec::new();
        let mut unread = vec![root.clone()];
        while let Some(prefix) = unread.pop() {
            let Names { directories, files } = self.names(&prefix).await;
            let name = prefix.as_str().strip_prefix(root.as_str());
            let name = name.and_then(|name| name.strip_suffix('/')?.parse::<RepositoryName>().ok());
            let is_part =
                |directory: &&String| matches!(directory.as_str(), "_layers" | "_manifests");
            if let Some(name) = name
                && directories.iter().any(|directory| is_part(&directory))
            {
                repositories.push(name);
            }
            for directory in directories.iter().filter(|name| !name.starts_with('_')) {
                let below = format!("{prefix}{directory}/");
                let name = below.strip_prefix(root.as_str()).unwrap_or_default();
                if name.trim_end_matches('/').parse::<RepositoryName>().is_ok() {
                    unread.extend(below.parse::<Prefix>());
                } else {
                    self.tell(Kind::Stray, below, "not the name of a repository");
                }
            }
            for file in files {
                self.tell(Kind::Stray, format!("{prefix}{file}"), "");
            }
        }
        repositories.sort_unstable();
        repositories
    }

    /// What is not in its place among the blobs. Which blobs are damaged shows where they are linked.
    async fn blobs(&mut self) {
        let root = layout::blobs_directory();
        for algorithm in self.names(&root).await.directories {
            let Ok(below) = format!("{root}{algorithm}/").parse::<Prefix>() else {
                continue;
            };
            let Names { directories, files } = self.names(&below).await;
            for file in files {
                self.tell(Kind::Stray, format!("{below}{file}"), "");
            }
            for directory in directories {
                let Ok(part) = format!("{below}{directory}/").parse::<Prefix>() else {
                    continue;
                };
                let mut entries = self.core.store.list(&part, Depth::All);
                loop {
                    match entries.try_next().await {
                        Ok(None) => break,
                        Err(error) => {
                            self.unreadable(part.as_str(), &error);
                            break;
                        }
                        Ok(Some(entry)) => match OwnedPlace::parse(&entry.key) {
                            Some(OwnedPlace::BlobData(_)) => {}
                            Some(_) | None if entry.key.ends_with("/data") => {
                                self.tell(Kind::StrayRead, entry.key, "");
                            }
                            Some(_) | None => self.tell(Kind::Stray, entry.key, ""),
                        },
                    }
                }
            }
        }
    }
}
