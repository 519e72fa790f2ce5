//! A copy of all data in another store: from a directory to a bucket, or back.
//!
//! A pass may run while the source is served, and copies what the destination lacks; the last one runs while nothing changes, and
//! also removes what the source has lost since. Until then a mark in the destination keeps every instance from serving it. What is
//! copied of a repository is in the order of the layout: bytes, links, tags. Uploads in progress are not copied; their clients
//! begin them again. Must not know which stores these are. Invariants: the source is only read; a blob that has its key in the
//! destination had its digest when it was written; only a destination that is empty, or has an earlier copy of the same data, is
//! written to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::all_links::{AllLinks, digest_in, links_of, repositories_of};
use super::index_sync::comparing::{Progress, Tell};
use crate::layout::{
    self, Key, OwnedPlace, Place, Prefix, UploadId, repositories_directory, tombstones_directory,
};
use crate::oci::{Algorithm, Digest, RepositoryName};
use crate::store::{Depth, ObjectStore, Small, Step, StoreError};

/// How many blobs are copied at once: enough to keep a disk and a network busy.
const BLOBS_AT_ONCE: usize = 8;

/// How many links are written at once.
const STEPS_AT_ONCE: usize = 256;

/// Of our own small files.
const OWN_BYTES_MAX: u64 = 4_096;

/// Our own files that follow the data.
const OWN_FILES: [&str; 2] = ["secret", "taken-over"];

/// From one store to another.
pub struct Move {
    /// Where the data are.
    pub from: Arc<dyn ObjectStore>,
    /// Where they are to be.
    pub to: Arc<dyn ObjectStore>,
}

/// What one pass has done.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// Repositories in the source.
    pub repositories: u64,
    /// Different blobs and manifests that are in the destination now.
    pub blobs: u64,
    /// How many of them this pass has copied.
    pub copied_blobs: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Links that this pass has written.
    pub written_links: u64,
    /// Links that this pass has removed, since the source has lost them.
    pub removed_links: u64,
    /// What is damaged or missing in the source, and is not in the destination.
    pub damaged: Vec<String>,
}

/// Why a pass has ended early. Everything that was copied stays, and the next pass goes on there.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The destination has other data.
    #[error("the destination holds data that are not a copy of these")]
    NotEmpty,
    /// A store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of a blob.
enum Copied {
    /// It was there.
    Present,
    /// Bytes copied.
    Now(u64),
    /// Why it is not there.
    Damaged(String),
}

impl Move {
    /// One pass. `is_last`: nothing changes in the source until it has returned, and the destination may then be served.
    pub async fn run(&self, is_last: bool, tell: Tell<'_>) -> Result<Moved, MoveError> {
        self.begin().await?;
        let mut moved = Moved::default();
        let mut known = BTreeSet::new();
        let repositories = repositories_of(self.from.as_ref()).await?;
        let total = Some(repositories.len() as u64);
        for (done, name) in repositories.iter().enumerate() {
            tell(Progress {
                done: done as u64,
                total,
            });
            self.copy_repository(name, &mut known, &mut moved).await?;
            moved.repositories += 1;
        }
        for name in repositories_of(self.to.as_ref()).await? {
            if repositories.binary_search(&name).is_err() {
                let AllLinks { links, .. } = links_of(self.to.as_ref(), &name).await?;
                self.remove(&name, links.iter().map(|(key, _)| key), &mut moved)
                    .await?;
                // What would list a repository without links.
                for prefix in [
                    layout::manifests_directory(&name),
                    layout::layers_directory(&name),
                ] {
                    let step = Step::remove_tree(prefix, None);
                    self.to.apply(vec![step]).await?;
                }
            }
        }
        self.copy_tombstones().await?;
        if is_last {
            self.to
                .apply(vec![Step::Remove(layout::unfinished_move())])
                .await?;
        }
        Ok(moved)
    }

    /// Marks the destination, with the secret of the data: the mark of other data, or data without this secret, are refused.
    async fn begin(&self) -> Result<(), MoveError> {
        let [secret, taken_over] = OWN_FILES.map(layout::own_key);
        let mark = layout::unfinished_move();
        let ours = small(self.from.as_ref(), &secret).await?;
        let id = Digest::of(Algorithm::Sha256, ours.as_deref().unwrap_or_default()).to_string();
        if let Some(marked) = small(self.to.as_ref(), &mark).await? {
            if marked != id.as_bytes() {
                return Err(MoveError::NotEmpty);
            }
        } else {
            let theirs = small(self.to.as_ref(), &secret).await?;
            let is_copy = theirs.is_some() && theirs == ours;
            let holds_data = theirs.is_some() || {
                let mut entries = self.to.list(&repositories_directory(), Depth::One);
                entries.try_next().await?.is_some()
            };
            if holds_data && !is_copy {
                return Err(MoveError::NotEmpty);
            }
            self.to.apply(vec![Step::put(mark, id)]).await?;
        }
        let mut steps = Vec::new();
        for key in [secret, taken_over] {
            if let Some(bytes) = small(self.from.as_ref(), &key).await? {
                steps.push(Step::put(key, bytes));
            }
        }
        Ok(self.to.apply(steps).await?)
    }

    async fn copy_repository(
        &self,
        name: &RepositoryName,
        known: &mut BTreeSet<Digest>,
        moved: &mut Moved,
    ) -> Result<(), MoveError> {
        let AllLinks { links, damaged } = links_of(self.from.as_ref(), name).await?;
        let damaged = damaged.iter().map(|key| format!("{key}: a damaged link"));
        moved.damaged.extend(damaged);
        let digests = links.iter().filter_map(|(_, link)| digest_in(link));
        let new: Vec<Digest> = digests.filter(|digest| known.insert(*digest)).collect();
        let mut copies = stream::iter(new)
            .map(|digest| async move {
                let copied = self.copy_blob(name, &digest).await;
                copied.map(|copied| (digest, copied))
            })
            .buffer_unordered(BLOBS_AT_ONCE);
        while let Some((digest, copied)) = copies.try_next().await? {
            match copied {
                Copied::Present => moved.blobs += 1,
                Copied::Now(bytes) => {
                    moved.blobs += 1;
                    moved.copied_blobs += 1;
                    moved.copied_bytes += bytes;
                }
                Copied::Damaged(why) => moved.damaged.push(format!("{digest} of {name}: {why}")),
            }
        }
        let AllLinks { links: there, .. } = links_of(self.to.as_ref(), name).await?;
        let there: BTreeMap<Key, Bytes> = there.into_iter().collect();
        let is_tag = |key: &Key| {
            matches!(
                OwnedPlace::parse(key.as_str()),
                Some(OwnedPlace::TagCurrent(..))
            )
        };
        let (tags, others): (Vec<_>, Vec<_>) = links
            .iter()
            .filter(|(key, link)| there.get(key) != Some(link))
            .partition(|(key, _)| is_tag(key));
        for part in others
            .chunks(STEPS_AT_ONCE)
            .chain(tags.chunks(STEPS_AT_ONCE))
        {
            let steps = part
                .iter()
                .map(|(key, link)| Step::put(key.clone(), link.clone()));
            self.to.apply(steps.collect()).await?;
            moved.written_links += part.len() as u64;
        }
        let wanted: BTreeSet<&Key> = links.iter().map(|(key, _)| key).collect();
        let lost = there.keys().filter(|key| !wanted.contains(key));
        self.remove(name, lost, moved).await
    }

    /// Removes links that the source does not have: tags first.
    async fn remove(
        &self,
        name: &RepositoryName,
        links: impl Iterator<Item = &Key>,
        moved: &mut Moved,
    ) -> Result<(), MoveError> {
        let (mut tags, mut others) = (Vec::new(), Vec::new());
        for key in links {
            if let Some(OwnedPlace::TagCurrent(_, tag)) = OwnedPlace::parse(key.as_str()) {
                let directory = layout::tag_directory(name, &tag);
                tags.push(Step::remove_tree(directory, key.clone()));
            } else if let Some(Ok(directory)) =
                key.as_str().strip_suffix("link").map(str::parse::<Prefix>)
            {
                others.push(Step::remove_tree(directory, key.clone()));
            }
        }
        moved.removed_links += (tags.len() + others.len()) as u64;
        for steps in [tags, others] {
            if !steps.is_empty() {
                self.to.apply(steps).await?;
            }
        }
        Ok(())
    }

    async fn copy_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<Copied, MoveError> {
        let key = Place::BlobData(*digest).key();
        let content = match self.from.read(&key, None).await {
            Err(StoreError::NotFound) => {
                return Ok(Copied::Damaged("its bytes are missing".to_owned()));
            }
            content => content?,
        };
        let size_bytes = content.meta.size_bytes;
        match self.to.head(&key).await {
            Ok(there) if there.size_bytes == size_bytes => return Ok(Copied::Present),
            Ok(_) | Err(StoreError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        let prefix = layout::upload_directory(name, upload_id()?);
        let mut upload = self
            .to
            .open_upload(&prefix, Some(digest.algorithm()))
            .await?;
        upload.expect(digest, Some(size_bytes));
        let mut bytes = content.bytes;
        while let Some(piece) = bytes.try_next().await? {
            upload.append(piece).await?;
        }
        if upload.digest(digest.algorithm()).await? != *digest {
            upload.abort().await?;
            return Ok(Copied::Damaged(
                "its bytes are not what its digest says".to_owned(),
            ));
        }
        upload.finish(digest, Vec::new()).await?;
        Ok(Copied::Now(size_bytes))
    }

    async fn copy_tombstones(&self) -> Result<(), MoveError> {
        let entries = self.from.list(&tombstones_directory(), Depth::All);
        let entries: Vec<_> = entries.try_collect().await?;
        let keys = entries
            .iter()
            .filter_map(|entry| entry.key.parse::<Key>().ok());
        let steps: Vec<Step> = keys.map(|key| Step::put(key, Bytes::new())).collect();
        if !steps.is_empty() {
            self.to.apply(steps).await?;
        }
        Ok(())
    }
}

/// A small file of ours; `None` if there is none.
async fn small(store: &dyn ObjectStore, key: &Key) -> Result<Option<Bytes>, StoreError> {
    let read = store
        .read_each(std::slice::from_ref(key), OWN_BYTES_MAX)
        .await?;
    Ok(match read.into_iter().next() {
        Some(Small::Whole(_, bytes)) => Some(bytes),
        Some(Small::Absent | Small::TooLarge(_)) | None => None,
    })
}

fn upload_id() -> Result<UploadId, StoreError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| StoreError::from_io("begin a copy", std::io::Error::other(error)))?;
    let (one, other) = random.split_at(8);
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |number: u64, byte| number << 8 | u64::from(*byte))
    };
    Ok(UploadId::from_parts(number(one), number(other)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::clock::ManualClock;
    use crate::store::bucket_like::BucketLike;
    use crate::store::filesystem::{self, FilesystemStore};

    fn directory(root: &Path) -> Arc<dyn ObjectStore> {
        let clock = Arc::new(ManualClock::at_unix_secs(1_800_000_000));
        Arc::new(FilesystemStore::open(filesystem::Settings::at(root), clock).unwrap())
    }

    /// Puts an image of one layer as another program would.
    async fn push(store: &dyn ObjectStore, name: &str, tag: &str, content: &str) -> Digest {
        let (name, tag) = (name.parse().unwrap(), tag.parse().unwrap());
        let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
        let link = || digest.to_string();
        let steps = vec![
            Step::put(Place::BlobData(digest).key(), content.to_owned()),
            Step::Then,
            Step::put(Place::LayerLink(&name, digest).key(), link()),
            Step::put(Place::RevisionLink(&name, digest).key(), link()),
            Step::put(Place::TagIndex(&name, &tag, digest).key(), link()),
            Step::Barrier,
            Step::put(Place::TagCurrent(&name, &tag).key(), link()),
        ];
        store.apply(steps).await.unwrap();
        digest
    }

    /// All keys below `docker/`, with their content.
    async fn everything(store: &dyn ObjectStore) -> BTreeMap<String, Bytes> {
        let mut all = BTreeMap::new();
        let mut entries = store.list(&"docker/".parse().unwrap(), Depth::All);
        while let Some(entry) = entries.try_next().await.unwrap() {
            if let Ok(key) = entry.key.parse::<Key>() {
                let content = small(store, &key).await.unwrap();
                all.insert(entry.key, content.unwrap_or_default());
            }
        }
        all
    }

    fn moving(from: &Arc<dyn ObjectStore>, to: &Arc<dyn ObjectStore>) -> Move {
        Move {
            from: Arc::clone(from),
            to: Arc::clone(to),
        }
    }

    async fn is_marked(store: &dyn ObjectStore) -> bool {
        small(store, &layout::unfinished_move())
            .await
            .unwrap()
            .is_some()
    }

    #[tokio::test]
    async fn a_directory_moves_to_a_bucket_and_back_while_it_changes() {
        let root = tempfile::tempdir().unwrap();
        let (first, bucket) = (directory(root.path()), BucketLike::new(5));
        let second: Arc<dyn ObjectStore> = Arc::new(bucket.clone());
        first
            .apply(vec![Step::put(layout::own_key("secret"), "s".repeat(32))])
            .await
            .unwrap();
        push(first.as_ref(), "team/app", "v1", "one").await;
        push(first.as_ref(), "team/app", "gone", "one").await;
        push(first.as_ref(), "old", "v1", "two").await;
        let there = moving(&first, &second);
        let online = there.run(false, &|_| ()).await.unwrap();
        assert_eq!((online.repositories, online.copied_blobs), (2, 2));
        assert!(
            is_marked(second.as_ref()).await,
            "served before it is complete"
        );

        // What changes while the first pass runs, or after it.
        push(first.as_ref(), "team/app", "v1", "three").await;
        let (app, old): (RepositoryName, RepositoryName) =
            ("team/app".parse().unwrap(), "old".parse().unwrap());
        let gone = layout::tag_directory(&app, &"gone".parse().unwrap());
        let removed = vec![
            Step::remove_tree(gone, None),
            Step::remove_tree(layout::repository_directory(&old), None),
        ];
        first.apply(removed).await.unwrap();
        let last = there.run(true, &|_| ()).await.unwrap();
        assert_eq!((last.repositories, last.copied_blobs), (1, 1), "{last:?}");
        assert!(!is_marked(second.as_ref()).await);
        let mut expected = everything(first.as_ref()).await;
        // A blob that nothing refers to any more was copied when something did.
        let of_old = Place::BlobData(Digest::of(Algorithm::Sha256, b"two")).key();
        expected.insert(of_old.to_string(), Bytes::from("two"));
        assert_eq!(everything(second.as_ref()).await, expected);
        assert_eq!(bucket.content("boathouse/secret").unwrap(), b"s".repeat(32));

        // Back, into a new directory and into the old one.
        push(second.as_ref(), "team/app", "v2", "four").await;
        let new = tempfile::tempdir().unwrap();
        for root in [new.path(), root.path()] {
            let back = directory(root);
            let moved = moving(&second, &back).run(true, &|_| ()).await.unwrap();
            assert!(moved.damaged.is_empty(), "{moved:?}");
            let (mut here, mut there) = (
                everything(back.as_ref()).await,
                everything(second.as_ref()).await,
            );
            here.remove(of_old.as_str());
            there.remove(of_old.as_str());
            assert_eq!(here, there);
        }
        let left = fs::read_dir(root.path().join("docker/registry/v2/repositories/team/app"));
        let left: Vec<_> = left
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(!left.iter().any(|name| name == "old"), "{left:?}");
    }

    #[tokio::test]
    async fn a_pass_that_ends_early_is_gone_on_with() {
        let (first, second) = (BucketLike::new(1), BucketLike::new(2));
        let from: Arc<dyn ObjectStore> = Arc::new(first.clone());
        for number in 0..30 {
            push(
                from.as_ref(),
                "app",
                &format!("v{number}"),
                &format!("content {number}"),
            )
            .await;
        }
        let to: Arc<dyn ObjectStore> = Arc::new(second.clone());
        second.be_busy(40);
        let (mut passes, mut copied) = (0, 0);
        let moved = loop {
            passes += 1;
            assert!(passes < 1_000);
            match moving(&from, &to).run(true, &|_| ()).await {
                Ok(moved) => break moved,
                Err(error) => assert!(matches!(error, MoveError::Store(_)), "{error}"),
            }
            copied += 1;
        };
        assert!(
            copied > 0 && moved.blobs == 30 && moved.copied_blobs < 30,
            "{moved:?}"
        );
        second.be_busy(0);
        assert_eq!(
            everything(to.as_ref()).await,
            everything(from.as_ref()).await
        );
    }

    #[tokio::test]
    async fn damage_is_named_and_not_copied() {
        let first = BucketLike::new(1);
        let from: Arc<dyn ObjectStore> = Arc::new(first.clone());
        let whole = push(from.as_ref(), "app", "v1", "whole").await;
        let broken = push(from.as_ref(), "app", "v2", "broken").await;
        first.put_by_another_program(Place::BlobData(broken).key().as_str(), b"brok3n");
        let to: Arc<dyn ObjectStore> = Arc::new(BucketLike::new(2));
        let moved = moving(&from, &to).run(true, &|_| ()).await.unwrap();
        let expected = format!("{broken} of app: its bytes are not what its digest says");
        assert_eq!(moved.damaged, [expected]);
        to.head(&Place::BlobData(whole).key()).await.unwrap();
        let absent = to.head(&Place::BlobData(broken).key()).await;
        assert!(
            matches!(absent, Err(StoreError::NotFound)),
            "damaged bytes under a digest"
        );
    }

    #[tokio::test]
    async fn other_data_in_the_destination_are_left_alone() {
        let from: Arc<dyn ObjectStore> = Arc::new(BucketLike::new(1));
        push(from.as_ref(), "app", "v1", "one").await;
        for key in [
            "boathouse/secret",
            "docker/registry/v2/repositories/x/_layers/y",
            "boathouse/moving",
        ] {
            let bucket = BucketLike::new(2);
            bucket.put_by_another_program(key, b"of another");
            let before = bucket.everything();
            let to: Arc<dyn ObjectStore> = Arc::new(bucket.clone());
            let refused = moving(&from, &to).run(true, &|_| ()).await;
            assert!(matches!(refused, Err(MoveError::NotEmpty)), "{key}");
            assert_eq!(bucket.everything(), before);
        }
    }
}
