//! Looking through the whole store for damage, and for what another registry of the same layout would not serve.
//!
//! Nothing is changed, and nothing is taken from the index: it works on a store that another process serves. Must not know
//! who reads the findings. Invariants: no damage ends the walk; what cannot be read is itself a finding.

mod finding;
mod repository;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::TryStreamExt as _;

pub use self::finding::{Finding, Kind, LinkTo, Meaning};
use self::repository::Look;
use super::core::Core;
use super::index_sync::comparing::{Progress, Tell};
use crate::layout::{self, Key, OwnedPlace, Prefix};
use crate::oci::RepositoryName;
use crate::store::{Depth, Small};

/// The room of inspections.
pub struct Inspection {
    core: Arc<Core>,
}

/// Receives findings.
pub type Found<'a> = &'a mut (dyn FnMut(Finding) + Send);

/// The names directly below a prefix.
#[derive(Default)]
struct Names {
    directories: Vec<String>,
    files: Vec<String>,
}

/// One inspection.
struct Walk<'a> {
    core: &'a Core,
    found: Found<'a>,
}

impl Inspection {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
        }
    }

    /// Shows `found` everything; returns how many repositories there are.
    pub async fn run(&self, tell: Tell<'_>, found: Found<'_>) -> u64 {
        let mut walk = Walk {
            core: &self.core,
            found,
        };
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
    fn tell(&mut self, kind: Kind, place: impl Into<String>, detail: impl Into<String>) {
        (self.found)(Finding {
            kind,
            place: place.into(),
            detail: detail.into(),
        });
    }

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
                let core = self.core;
                let mut entries = core.store.list(&part, Depth::All);
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

    /// The names directly below `prefix`; those that came before it could no longer be read.
    async fn names(&mut self, prefix: &Prefix) -> Names {
        let core = self.core;
        let mut entries = core.store.list(prefix, Depth::One);
        let mut names = Names::default();
        loop {
            match entries.try_next().await {
                Ok(None) => break,
                Err(error) => {
                    self.unreadable(prefix.as_str(), &error);
                    break;
                }
                Ok(Some(entry)) => {
                    let name = entry.key.strip_prefix(prefix.as_str());
                    let name = name.unwrap_or_default();
                    match name.strip_suffix('/') {
                        Some(directory) => names.directories.push(directory.to_owned()),
                        None => names.files.push(name.to_owned()),
                    }
                }
            }
        }
        names
    }

    /// What is at `keys`; what cannot be read is left out.
    async fn read(&mut self, keys: &[Key], size_max_bytes: u64) -> BTreeMap<Key, Small> {
        let mut contents = BTreeMap::new();
        let core = self.core;
        let gather = |key: &Key, content| drop(contents.insert(key.clone(), content));
        if core.read_each(keys, size_max_bytes, gather).await.is_ok() {
            return contents;
        }
        // One of them cannot be read, and the others were not reached.
        for key in keys {
            if contents.contains_key(key) {
                continue;
            }
            let gather = |key: &Key, content| drop(contents.insert(key.clone(), content));
            let key = std::slice::from_ref(key);
            if let Err(error) = core.read_each(key, size_max_bytes, gather).await {
                self.unreadable(key.iter().map(Key::as_str).collect::<String>(), &error);
            }
        }
        contents
    }

    fn unreadable(&mut self, place: impl Into<String>, error: &dyn std::error::Error) {
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        self.tell(Kind::Unreadable, place, cause.to_string());
    }
}
