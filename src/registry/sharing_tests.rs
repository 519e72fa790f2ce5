//! Operations that link or name one digest do not wait for each other, and a manifest's references are looked up in batches.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::Notify;

use super::core::put_link;
use super::locks::Mode;
use super::open_mode::OpenMode;
use super::*;
use crate::clock::ManualClock;
use crate::layout::Place;
use crate::oci::{Algorithm, Digest, Reference, RepositoryName, Tag};
use crate::store::bucket_like::BucketLike;
use crate::store::faulty::{Hook, HookedStore, Operation};
use crate::store::{Step, StoreError};

/// Much longer than it takes on a busy machine: what waits for longer waits for ever here.
const PATIENCE: Duration = Duration::from_secs(10);

/// Counts calls, and holds one back until it is told to go on.
#[derive(Default)]
struct Slow {
    calls: AtomicUsize,
    lists: AtomicUsize,
    holds_next_write: AtomicBool,
    holds_next_read: AtomicBool,
    go_on: Notify,
}

#[async_trait]
impl Hook for Slow {
    async fn before(&self, operation: Operation) -> Result<(), StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if operation == Operation::List {
            self.lists.fetch_add(1, Ordering::SeqCst);
        }
        let holds = match operation {
            Operation::Apply | Operation::Finish => &self.holds_next_write,
            Operation::ReadEach => &self.holds_next_read,
            _ => return Ok(()),
        };
        if holds.swap(false, Ordering::SeqCst) {
            self.go_on.notified().await;
        }
        Ok(())
    }
}

struct Lab {
    store: HookedStore<Slow>,
    registry: Registry,
    open: OpenMode,
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn digest(number: u32) -> Digest {
    Digest::of(Algorithm::Sha256, &number.to_be_bytes())
}

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn manifest(layers: Range<u32>) -> (Bytes, Digest) {
    let descriptor = |number: u32| {
        format!(
            r#"{{"mediaType":"a/b","digest":"{}","size":4}}"#,
            digest(number)
        )
    };
    let layers: Vec<String> = layers.map(descriptor).collect();
    let (config, layers) = (&layers[0], layers.join(","));
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[{layers}]}}"#
    );
    let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
    (text.into(), digest)
}

impl Lab {
    async fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at_unix_secs(1_800_000_000));
        let mut settings = Settings::for_tests();
        settings.limits.manifest_size_bytes = 16 << 20;
        let inner = Arc::new(BucketLike::new(1));
        let store = HookedStore::around(inner, Slow::default());
        let index = Arc::new(Index::in_memory(Arc::clone(&clock)));
        let registry = Registry::new(Arc::new(store.clone()), index, settings, b"s", clock);
        Self {
            store,
            registry,
            open: OpenMode::new().await,
        }
    }

    /// Puts the blobs into the store, linked in `repository`.
    async fn store_blobs(&self, repository: &str, numbers: Range<u32>) {
        let name = name(repository);
        let steps = numbers.flat_map(|number| {
            let digest = digest(number);
            let link = Place::LayerLink(&name, digest).key();
            [
                Step::put(Place::BlobData(digest).key(), number.to_be_bytes().to_vec()),
                Step::put(link, digest.to_string()),
            ]
        });
        self.store.inner.apply(steps.collect()).await.unwrap();
    }

    async fn put(&self, repository: &str, bytes: Bytes) -> Result<(), RegistryError> {
        let reference = Reference::Tag("v1".parse().unwrap());
        let (name, actor) = (name(repository), self.open.actor());
        let manifests = &self.registry.manifests;
        let put = manifests.put(&name, &reference, &[], Some(OCI_MANIFEST), bytes, actor);
        put.await.map(drop)
    }

    async fn push_blob(&self, repository: &str, number: u32) {
        let owner = Owner {
            account: String::new(),
            generation: String::new(),
            client: [127, 0, 0, 1].into(),
        };
        let bytes = Bytes::copy_from_slice(&number.to_be_bytes());
        let chunk = Chunk {
            sent: None,
            length_bytes: Some(4),
            body: futures_util::stream::iter([Ok(bytes)]).boxed(),
        };
        let (name, digest) = (name(repository), digest(number));
        let (uploads, actor) = (&self.registry.uploads, self.open.actor());
        let pushed = uploads.receive_whole(&name, &owner, &digest, chunk, actor);
        pushed.await.unwrap();
    }

    async fn mount(&self, repository: &str, number: u32, from: &str) -> bool {
        let (name, from, digest) = (name(repository), name(from), digest(number));
        let (blobs, actor) = (&self.registry.blobs, self.open.actor());
        let mounted = blobs.mount(&name, &digest, Some(&from), actor);
        mounted.await.unwrap()
    }
}

#[tokio::test]
async fn a_manifest_that_is_being_written_holds_up_no_push_and_no_mount_of_its_layers() {
    let lab = Lab::new().await;
    lab.store_blobs("a", 0..2_047).await;
    lab.store
        .hook
        .holds_next_write
        .store(true, Ordering::SeqCst);
    let put = lab.put("a", manifest(0..2_047).0);
    let others = async {
        while lab.store.hook.holds_next_write.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        // The manifest is in the store's hands now, and all its digests are held.
        let done = async {
            lab.push_blob("b", 7).await;
            assert!(lab.mount("b", 8, "a").await);
        };
        let done = tokio::time::timeout(PATIENCE, done).await;
        lab.store.hook.go_on.notify_one();
        assert!(
            done.is_ok(),
            "a push or mount waited for a manifest that names the same blob"
        );
    };
    let (put, ()) = tokio::join!(put, others);
    put.unwrap();
}

#[tokio::test]
async fn a_blob_that_is_being_finished_holds_up_no_manifest_and_no_mount() {
    let lab = Lab::new().await;
    lab.store_blobs("a", 0..8).await;
    lab.store
        .hook
        .holds_next_write
        .store(true, Ordering::SeqCst);
    let push = lab.push_blob("b", 3);
    let others = async {
        while lab.store.hook.holds_next_write.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        let done = async {
            lab.put("a", manifest(0..8).0).await.unwrap();
            assert!(lab.mount("c", 3, "a").await);
        };
        let done = tokio::time::timeout(PATIENCE, done).await;
        lab.store.hook.go_on.notify_one();
        assert!(
            done.is_ok(),
            "a manifest or mount waited for a push of the same blob"
        );
    };
    tokio::join!(push, others);
}

#[tokio::test]
async fn layers_to_mount_are_looked_up_in_batches() {
    for by_index in [true, false] {
        let lab = Lab::new().await;
        lab.store_blobs("a", 0..1_400).await;
        if by_index {
            lab.registry.index_sync.read_everything().await.unwrap();
        }
        let before = lab.store.hook.calls.load(Ordering::SeqCst);
        lab.put("b", manifest(0..1_400).0).await.unwrap();
        let calls = lab.store.hook.calls.load(Ordering::SeqCst) - before;
        assert!(
            calls <= 60,
            "{calls} calls of the store for 1,400 layers, by index: {by_index}"
        );
    }
}

#[tokio::test]
async fn a_manifest_of_unknown_layers_is_refused_with_few_calls_and_no_lock() {
    let lab = Lab::new().await;
    lab.store_blobs("a", 0..1).await;
    lab.registry.index_sync.read_everything().await.unwrap();
    let (bytes, _) = manifest(0..30_000);
    let before = lab.store.hook.calls.load(Ordering::SeqCst);
    lab.store.hook.holds_next_read.store(true, Ordering::SeqCst);
    let put = lab.put("b", bytes);
    let delete = async {
        while lab.store.hook.holds_next_read.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        let (name, digest) = (name("a"), digest(0));
        let (blobs, actor) = (&lab.registry.blobs, lab.open.actor());
        let deleted = blobs.delete(&name, &digest, actor);
        let deleted = tokio::time::timeout(PATIENCE, deleted).await;
        lab.store.hook.go_on.notify_one();
        deleted
            .expect("a delete waited for a manifest that only looks")
            .unwrap();
    };
    let (put, ()) = tokio::join!(put, delete);
    assert!(
        matches!(put, Err(RegistryError::ReferencesUnknown { .. })),
        "{put:?}"
    );
    let calls = lab.store.hook.calls.load(Ordering::SeqCst) - before;
    assert!(
        calls <= 300,
        "{calls} calls of the store for 30,000 unknown layers"
    );
}

#[tokio::test]
async fn what_was_looked_up_without_a_lock_is_confirmed_only_where_something_was_removed() {
    for is_removed in [false, true] {
        let lab = Lab::new().await;
        lab.store_blobs("a", 0..8).await;
        lab.store_blobs("b", 8..16).await;
        let locks = &lab.registry.core.locks;
        let held = locks.hold(Actor::task("a test"), &name("a"));
        let held = held.tags(Mode::Exclusive).await.unwrap();
        let mut put = Box::pin(lab.put("a", manifest(0..16).0));
        // Until it waits for the tags, and nothing but for them.
        while lab.registry.core.locks.longest_wait().is_none() {
            assert!(futures_util::poll!(&mut put).is_pending());
            tokio::task::yield_now().await;
        }
        let before = lab.store.hook.calls.load(Ordering::SeqCst);
        if is_removed {
            let (name, digest) = (name("b"), digest(9));
            let deleted = lab.registry.blobs.delete(&name, &digest, lab.open.actor());
            deleted.await.unwrap();
        }
        drop(held);
        match put.await {
            Ok(()) => {
                assert!(
                    !is_removed,
                    "a blob was linked from a repository that had lost it"
                );
                let calls = lab.store.hook.calls.load(Ordering::SeqCst) - before;
                assert_eq!(calls, 1, "nothing but the commit");
            }
            Err(RegistryError::ReferencesUnknown { named, total: 1 }) => {
                assert!(is_removed && named == [digest(9)], "{named:?}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_manifest_of_ten_thousand_tags_is_removed_in_few_calls_and_holds_up_no_other_repository()
{
    const TAGS: usize = 10_000;
    let lab = Lab::new().await;
    lab.store_blobs("a", 0..4).await;
    lab.store_blobs("b", 0..4).await;
    let (bytes, digest) = manifest(0..4);
    lab.put("a", bytes.clone()).await.unwrap();
    let (repository, reference) = (name("a"), Reference::Digest(digest));
    let tags = (0..TAGS).map(|number| {
        let tag = format!("t{number}").parse().unwrap();
        put_link(&Place::TagCurrent(&repository, &tag), &digest)
    });
    lab.store.inner.apply(tags.collect()).await.unwrap();
    let before = lab.store.hook.calls.load(Ordering::SeqCst);
    lab.store
        .hook
        .holds_next_write
        .store(true, Ordering::SeqCst);
    let manifests = &lab.registry.manifests;
    let delete = manifests.delete(&repository, &reference, lab.open.actor());
    let other = async {
        while lab.store.hook.holds_next_write.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        let calls = lab.store.hook.calls.load(Ordering::SeqCst) - before;
        let put = tokio::time::timeout(PATIENCE, lab.put("b", bytes)).await;
        lab.store.hook.go_on.notify_one();
        put.expect("a push waited for tags of another repository")
            .unwrap();
        calls
    };
    let (deleted, calls) = tokio::join!(delete, other);
    deleted.unwrap();
    assert!(
        calls <= TAGS / 256 + 10,
        "{calls} calls to find {TAGS} tags"
    );
    let left = lab.registry.core.tag_directories(&repository).await;
    assert_eq!(left.unwrap(), []);
}

#[tokio::test]
async fn tags_are_read_from_the_store_in_one_pass_for_a_page_and_for_a_removal() {
    // More than were once read from the store at a time.
    const TAGS: usize = 25_000;
    let lab = Lab::new().await;
    lab.store_blobs("a", 0..4).await;
    let (bytes, digest) = manifest(0..4);
    lab.put("a", bytes).await.unwrap();
    let repository = name("a");
    let tags = (0..TAGS).map(|number| format!("t{number:05}"));
    let tags = tags.chain(["v1".to_owned()]);
    let tags: Vec<Tag> = tags.map(|tag| tag.parse().unwrap()).collect();
    let steps = tags
        .iter()
        .map(|tag| put_link(&Place::TagCurrent(&repository, tag), &digest));
    lab.store.inner.apply(steps.collect()).await.unwrap();
    let lists = || lab.store.hook.lists.swap(0, Ordering::SeqCst);
    lists();
    // No index: nothing has compared it with the store.
    for (last, first) in [
        (None, 0),
        (Some("t12499"), 12_500),
        (Some("t24995"), 24_996),
    ] {
        let request = PageRequest {
            count: Some(5),
            last: last.map(str::to_owned),
        };
        let page = lab
            .registry
            .listings
            .tags(&repository, &request)
            .await
            .unwrap();
        let expected = &tags[first..tags.len().min(first + 5)];
        assert_eq!(page.items, expected);
        assert_eq!(page.has_more, first + 5 < tags.len());
        assert_eq!(lists(), 1, "after {last:?}");
    }
    let reference = Reference::Digest(digest);
    let manifests = &lab.registry.manifests;
    let deleted = manifests.delete(&repository, &reference, lab.open.actor());
    deleted.await.unwrap();
    assert_eq!(lists(), 1);
}
