//! All repositories of a store and all their links, read without an index: for copies of the whole.
//!
//! Must not know what is done with them. Invariant: what cannot be read is an error: a copy without it would look complete.

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use crate::layout::{self, Key, OwnedPlace, Prefix, repositories_directory};
use crate::oci::{Digest, RepositoryName};
use crate::store::{Depth, Entry, ObjectStore, Small, StoreError};

/// A link holds a digest as text, and perhaps white space that other tools leave.
const LINK_BYTES_MAX: u64 = 256;

/// How many links are read at once.
const LINKS_AT_ONCE: usize = 256;

/// The links of one repository.
#[derive(Debug, Default)]
pub struct AllLinks {
    /// Each link, and the bytes in it.
    pub links: Vec<(Key, Bytes)>,
    /// Links that hold no digest.
    pub damaged: Vec<Key>,
}

/// All repositories, sorted.
pub async fn repositories_of(store: &dyn ObjectStore) -> Result<Vec<RepositoryName>, StoreError> {
    let root = repositories_directory();
    let mut repositories = Vec::new();
    let mut unread = vec![root.clone()];
    while let Some(prefix) = unread.pop() {
        let mut is_repository = false;
        let mut entries = store.list(&prefix, Depth::One);
        while let Some(Entry { key }) = entries.try_next().await? {
            let below = key.strip_prefix(prefix.as_str());
            match below.and_then(|below| below.strip_suffix('/')) {
                Some("_layers" | "_manifests") => is_repository = true,
                // A name that no repository can have: `lost+found` of a volume.
                Some(directory) if !directory.starts_with('_') => {
                    unread.extend(name_of(&root, &key).and(key.parse::<Prefix>().ok()));
                }
                _ => {}
            }
        }
        repositories.extend(name_of(&root, prefix.as_str()).filter(|_| is_repository));
    }
    repositories.sort_unstable();
    Ok(repositories)
}

/// All links of one repository.
pub async fn links_of(
    store: &dyn ObjectStore,
    name: &RepositoryName,
) -> Result<AllLinks, StoreError> {
    let mut keys = Vec::new();
    for prefix in [
        layout::manifests_directory(name),
        layout::layers_directory(name),
    ] {
        let mut entries = store.list(&prefix, Depth::All);
        while let Some(Entry { key }) = entries.try_next().await? {
            match OwnedPlace::parse(&key) {
                Some(
                    OwnedPlace::BlobData(_)
                    | OwnedPlace::UploadData(..)
                    | OwnedPlace::UploadStartedAt(..),
                )
                | None => {}
                Some(link) => keys.push(link.key()),
            }
        }
    }
    let mut found = AllLinks::default();
    let mut left = keys.as_slice();
    while !left.is_empty() {
        let (part, _) = left.split_at(left.len().min(LINKS_AT_ONCE));
        let contents = store.read_each(part, LINK_BYTES_MAX).await?;
        let (read, rest) = left.split_at(contents.len().clamp(1, part.len()));
        for (key, content) in read.iter().zip(contents) {
            match content {
                Small::Whole(_, bytes) if digest_in(&bytes).is_some() => {
                    found.links.push((key.clone(), bytes));
                }
                Small::Whole(..) | Small::TooLarge(_) => found.damaged.push(key.clone()),
                Small::Absent => {}
            }
        }
        left = rest;
    }
    Ok(found)
}

/// The digest that a link holds.
pub fn digest_in(link: &[u8]) -> Option<Digest> {
    std::str::from_utf8(link).ok()?.trim().parse().ok()
}

/// The repository whose directory is `directory`, if it can be one.
fn name_of(root: &Prefix, directory: &str) -> Option<RepositoryName> {
    let name = directory.strip_prefix(root.as_str())?;
    name.strip_suffix('/')?.parse().ok()
}
