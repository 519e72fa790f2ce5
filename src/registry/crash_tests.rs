//! What a crash or a power cut in the middle of a push leaves (DESIGN D2).
//!
//! The store here stops in the middle of an `apply`, in every way that the seam allows: after any number of steps (the
//! process was killed), or with any one step of a phase done and the others lost (power was cut; only what lies before a
//! barrier is certain).

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use super::open_mode::OpenMode;
use super::*;
use crate::clock::ManualClock;
use crate::layout::{Key, OwnedPlace, UploadId};
use crate::oci::{Algorithm, Digest, Reference, RepositoryName};
use crate::store::bucket_like::BucketLike;
use crate::store::faulty::{Hook, HookedStore};
use crate::store::{Depth, Entry, Step, StoreError};

#[derive(Debug, Clone, Copy)]
enum Cut {
    /// So many steps were done.
    After(usize),
    /// All phases before this one, and of this one a single step.
    Single { phase: usize, step: usize },
    /// All steps, but the disk could not sync them.
    Unsynced,
}

#[derive(Default)]
struct Cuts {
    cut: Mutex<Option<Cut>>,
    /// How many writes pass before the one that is cut.
    passing: Mutex<usize>,
    settled: Mutex<Vec<Key>>,
}

impl Cuts {
    /// The steps that survive; `None` if the cut lies beyond the end.
    fn surviving(cut: Cut, steps: Vec<Step>) -> Option<Vec<Step>> {
        match cut {
            Cut::After(count) if count < steps.len() => {
                Some(steps.into_iter().take(count).collect())
            }
            Cut::After(_) => None,
            Cut::Unsynced => Some(steps),
            Cut::Single { phase, step } => {
                let mut phases = vec![Vec::new()];
                for step in steps {
                    match step {
                        Step::Barrier => phases.push(Vec::new()),
                        other => phases.last_mut().expect("never empty").push(other),
                    }
                }
                (phase < phases.len()).then_some(())?;
                let single = phases
                    .drain(phase..)
                    .next()
                    .and_then(|steps| steps.into_iter().nth(step));
                let before: Vec<Step> = phases.into_iter().flatten().collect();
                Some(before.into_iter().chain(single).collect())
            }
        }
    }
}

impl Hook for Cuts {
    fn write(&self, steps: Vec<Step>) -> (Vec<Step>, Result<(), StoreError>) {
        let settled = steps.iter().filter_map(|step| match step {
            Step::Settle(key) => Some(key.clone()),
            _ => None,
        });
        self.settled.lock().unwrap().extend(settled);
        let Some(cut) = *self.cut.lock().unwrap() else {
            return (steps, Ok(()));
        };
        let mut passing = self.passing.lock().unwrap();
        if *passing > 0 {
            *passing -= 1;
            return (steps, Ok(()));
        }
        let count = steps.len();
        let Some(surviving) = Self::surviving(cut, steps) else {
            return (Vec::new(), Err(StoreError::Conflict));
        };
        let source = std::io::Error::other(format!("cut within {count} steps"));
        let doing = "go on".into();
        (surviving, Err(StoreError::Io { doing, source }))
    }
}

struct Lab {
    store: HookedStore<Cuts>,
    registry: Registry,
    open: OpenMode,
    name: RepositoryName,
}

const BEFORE: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;
const AFTER: &[u8] = br#"{"schemaVersion":2,"manifests":[],"annotations":{"new":"yes"}}"#;
const INDEX: Option<&str> = Some("application/vnd.oci.image.index.v1+json");

fn owner() -> Owner {
    Owner {
        account: String::new(),
        generation: String::new(),
        client: [127, 0, 0, 1].into(),
    }
}

fn chunk(bytes: &'static [u8]) -> Chunk {
    Chunk {
        sent: None,
        length_bytes: Some(bytes.len() as u64),
        body: Box::pin(futures_util::stream::iter([Ok(Bytes::from_static(bytes))])),
    }
}

impl Lab {
    async fn with_a_tag() -> Self {
        let inner = Arc::new(BucketLike::new(1));
        let lab = Self::on(HookedStore::around(inner, Cuts::default())).await;
        lab.push("v1", BEFORE).await.expect("nothing is cut yet");
        lab
    }

    /// A process that starts on `store`.
    async fn on(store: HookedStore<Cuts>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at_unix_secs(0));
        let registry = Registry::new(
            Arc::new(store.clone()),
            Arc::new(Index::in_memory(Arc::clone(&clock))),
            Settings {
                fallback_tags: FallbackTags::Kept,
                ..Settings::for_tests()
            },
            b"s",
            Arc::clone(&clock),
        );
        Self {
            store,
            registry,
            open: OpenMode::new().await,
            name: "team/app".parse().unwrap(),
        }
    }

    async fn push(&self, tag: &str, bytes: &'static [u8]) -> Result<(), RegistryError> {
        let reference = Reference::Tag(tag.parse().unwrap());
        let bytes = Bytes::from_static(bytes);
        self.registry
            .manifests
            .put(&self.name, &reference, &[], INDEX, bytes, self.open.actor())
            .await
            .map(drop)
    }

    fn cut(&self, cut: Option<Cut>) {
        *self.store.hook.cut.lock().expect("no panic holds it") = cut;
    }

    /// Begins an upload and puts `bytes` into a blob whose sync fails.
    async fn put_unsynced(&self, owner: &Owner, digest: &Digest, bytes: &'static [u8]) -> UploadId {
        let (uploads, name) = (&self.registry.uploads, &self.name);
        let id = uploads.begin(name, owner, None).await.unwrap();
        self.cut(Some(Cut::Unsynced));
        let put = uploads.finish(name, id, owner, digest, chunk(bytes), self.open.actor());
        assert!(matches!(put.await, Err(RegistryError::Store(_))));
        self.cut(None);
        id
    }

    /// A tag that is there leads to a whole manifest.
    async fn check_tag(&self, tag: &str, cut: Cut) -> Option<Bytes> {
        let link = OwnedPlace::TagCurrent(self.name.clone(), tag.parse().unwrap()).key();
        self.registry
            .core
            .read_link(&link)
            .await
            .expect("readable")?;
        let found = self
            .registry
            .manifests
            .get(&self.name, &Reference::Tag(tag.parse().unwrap()))
            .await;
        let manifest = found
            .unwrap_or_else(|error| panic!("a tag without its manifest after {cut:?}: {error}"));
        let ManifestContent::InMemory(bytes) = manifest.content else {
            panic!("a small manifest is held");
        };
        assert_eq!(manifest.digest, Digest::of(Algorithm::Sha256, &bytes));
        Some(bytes)
    }
}

fn cuts() -> impl Iterator<Item = Cut> {
    let singles = (0..4).flat_map(|phase| (0..8).map(move |step| Cut::Single { phase, step }));
    (0..16).map(Cut::After).chain(singles)
}

#[tokio::test]
async fn a_cut_push_leaves_the_old_tag_or_the_new_one_whole() {
    let mut reached = 0;
    for cut in cuts() {
        let lab = Lab::with_a_tag().await;
        lab.cut(Some(cut));
        match lab.push("v1", AFTER).await {
            Err(RegistryError::Store(StoreError::Io { .. })) => reached += 1,
            _ => continue,
        }
        let bytes = lab
            .check_tag("v1", cut)
            .await
            .expect("the tag was there before");
        assert!(bytes == BEFORE || bytes == AFTER);
        // And what was cut can be done again.
        lab.cut(None);
        lab.push("v1", AFTER).await.expect("the retry works");
        assert_eq!(lab.check_tag("v1", cut).await.expect("tagged"), AFTER);
    }
    assert!(reached > 8, "the cuts must fall into the push: {reached}");
}

#[tokio::test]
async fn a_cut_push_of_a_new_tag_leaves_no_tag_or_a_whole_one() {
    for cut in cuts() {
        let lab = Lab::with_a_tag().await;
        lab.cut(Some(cut));
        let _ = lab.push("v2", AFTER).await;
        lab.check_tag("v2", cut).await;
    }
}

#[tokio::test]
async fn a_cut_delete_leaves_no_tag_without_its_manifest() {
    for cut in cuts() {
        let lab = Lab::with_a_tag().await;
        lab.push("v2", BEFORE)
            .await
            .expect("a second tag on the same manifest");
        lab.cut(Some(cut));
        let reference = Reference::Digest(Digest::of(Algorithm::Sha256, BEFORE));
        let _ = lab
            .registry
            .manifests
            .delete(&lab.name, &reference, lab.open.actor())
            .await;
        for tag in ["v1", "v2"] {
            lab.check_tag(tag, cut).await;
        }
    }
}

/// About [`BEFORE`].
const REFERRERS: [&[u8]; 2] = [
    br#"{"schemaVersion":2,"manifests":[],"annotations":{"number":"1"},"subject":{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:bc5857ac9458293d5111ab85c952172cd7f56bceb4e3014ddc4cafac8927b313","size":34}}"#,
    br#"{"schemaVersion":2,"manifests":[],"annotations":{"number":"2"},"subject":{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:bc5857ac9458293d5111ab85c952172cd7f56bceb4e3014ddc4cafac8927b313","size":34}}"#,
];

#[tokio::test]
async fn a_cut_change_of_a_fallback_tag_leaves_the_old_list_or_the_new_one_whole() {
    let subject = Digest::of(Algorithm::Sha256, BEFORE);
    let tag = format!("sha256-{}", subject.hex());
    let [first, second] = REFERRERS.map(|bytes| Digest::of(Algorithm::Sha256, bytes).to_string());
    let mut reached = 0;
    for cut in cuts() {
        let lab = Lab::with_a_tag().await;
        lab.push("one", REFERRERS[0]).await.expect("not cut yet");
        lab.cut(Some(cut));
        reached += usize::from(lab.push("two", REFERRERS[1]).await.is_err());
        let list = lab.check_tag(&tag, cut).await.expect("there was a list");
        let list = String::from_utf8(list.to_vec()).unwrap();
        assert!(list.contains(&first), "a referrer is lost after {cut:?}");
        lab.cut(None);
        lab.push("two", REFERRERS[1])
            .await
            .expect("the retry works");
        lab.cut(Some(cut));
        let deleted = Reference::Digest(first.parse().unwrap());
        let (manifests, actor) = (&lab.registry.manifests, lab.open.actor());
        reached += usize::from(manifests.delete(&lab.name, &deleted, actor).await.is_err());
        let list = lab.check_tag(&tag, cut).await.expect("there was a list");
        let list = String::from_utf8(list.to_vec()).unwrap();
        assert!(list.contains(&second), "a referrer is lost after {cut:?}");
    }
    assert!(
        reached > 20,
        "the cuts must fall into the changes: {reached}"
    );
}

#[tokio::test]
async fn a_blob_that_was_not_synced_is_not_answered_as_there_when_it_is_put_again() {
    let lab = Lab::with_a_tag().await;
    let owner = owner();
    let digest = Digest::of(Algorithm::Sha256, b"blob");
    let (uploads, name) = (&lab.registry.uploads, &lab.name);
    let id = lab.put_unsynced(&owner, &digest, b"blob").await;
    let again = uploads.finish(name, id, &owner, &digest, chunk(b""), lab.open.actor());
    let again = again.await;
    assert!(
        matches!(again, Err(RegistryError::UploadInvalid)),
        "a failed sync became a success: {again:?}"
    );
}

#[tokio::test]
async fn what_a_process_left_when_it_died_is_durable_before_its_put_is_answered_again() {
    let lab = Lab::with_a_tag().await;
    let owner = owner();
    let digest = Digest::of(Algorithm::Sha256, b"blob");
    let name = &lab.name;
    let id = lab.put_unsynced(&owner, &digest, b"blob").await;
    // The next process knows nothing of it, and finds the blob.
    let later = Lab::on(lab.store.clone()).await;
    let uploads = &later.registry.uploads;
    let again = uploads.finish(name, id, &owner, &digest, chunk(b""), later.open.actor());
    again.await.expect("the blob is there");
    let data = OwnedPlace::BlobData(digest).key();
    let link = OwnedPlace::LayerLink(name.clone(), digest).key();
    let settled = later.store.hook.settled.lock().unwrap();
    assert_eq!(*settled, [data, link], "201 for what a power cut may lose");
}

#[tokio::test]
async fn a_cut_delete_of_a_blob_leaves_its_link_or_its_tombstone() {
    let mut reached = 0;
    for cut in cuts() {
        let lab = Lab::with_a_tag().await;
        let digest = Digest::of(Algorithm::Sha256, b"blob");
        let link = OwnedPlace::LayerLink(lab.name.clone(), digest);
        let steps = vec![super::core::put_link(&link, &digest)];
        lab.store.inner.apply(steps).await.expect("nothing is cut");
        lab.cut(Some(cut));
        let (blobs, actor) = (&lab.registry.blobs, lab.open.actor());
        match blobs.delete(&lab.name, &digest, actor).await {
            Err(RegistryError::Store(StoreError::Io { .. })) => reached += 1,
            _ => continue,
        }
        let is_linked = lab.registry.core.find(&link.key()).await.expect("readable");
        let is_told = blobs.is_deleted_lately(&lab.name, &digest).await;
        assert!(
            is_linked.is_some() || is_told.expect("readable"),
            "gone without a tombstone after {cut:?}"
        );
    }
    assert!(reached > 4, "the cuts must fall into the delete: {reached}");
}

impl Lab {
    /// All keys of the repository.
    async fn keys(&self) -> Vec<String> {
        let directory = crate::layout::repository_directory(&self.name);
        let entries = self.store.inner.list(&directory, Depth::All);
        let entries: Vec<Entry> = entries.try_collect().await.expect("listed");
        entries.into_iter().map(|entry| entry.key).collect()
    }

    /// An image with a blob under two tags, and the same blob in a repository below.
    async fn with_an_image() -> (Self, Digest) {
        let lab = Self::with_a_tag().await;
        lab.push("v2", AFTER).await.expect("nothing is cut yet");
        let digest = Digest::of(Algorithm::Sha256, b"blob");
        let below: RepositoryName = "team/app/below".parse().unwrap();
        for name in [&lab.name, &below] {
            let link = OwnedPlace::LayerLink(name.clone(), digest);
            let data = Step::put(OwnedPlace::BlobData(digest).key(), "blob");
            let steps = vec![data, Step::Then, super::core::put_link(&link, &digest)];
            lab.store.inner.apply(steps).await.expect("nothing is cut");
        }
        (lab, digest)
    }
}

#[tokio::test]
async fn a_cut_removal_of_a_repository_leaves_whole_images_and_a_second_one_ends_it() {
    let below: RepositoryName = "team/app/below".parse().unwrap();
    let mut reached = [0; 2];
    // First the tags are committed, then all else.
    for (commit, cut) in (0..2).flat_map(|commit| cuts().map(move |cut| (commit, cut))) {
        let (lab, digest) = Box::pin(Lab::with_an_image()).await;
        *lab.store.hook.passing.lock().unwrap() = commit;
        lab.cut(Some(cut));
        let removed = lab
            .registry
            .remove_repository(&lab.name, Spares::Nothing, lab.open.actor());
        match removed.await {
            Err(RegistryError::Store(StoreError::Io { .. })) => reached[commit] += 1,
            _ => continue,
        }
        let tags = [
            lab.check_tag("v1", cut).await,
            lab.check_tag("v2", cut).await,
        ];
        let keys = lab.keys().await;
        let own = |key: &&String| !key.contains("/below/");
        let has = |part: &str| keys.iter().filter(own).any(|key| key.contains(part));
        if tags.iter().any(Option::is_some) {
            assert!(
                has("/_layers/"),
                "a tag without its blobs after {cut:?}: {keys:?}"
            );
        }
        if has("/_manifests/revisions/") {
            assert!(
                has("/_layers/"),
                "a manifest without its blobs after {cut:?}"
            );
        }
        lab.cut(None);
        // Another process ends it, by what the store says.
        let later = Lab::on(lab.store.clone()).await;
        let removed =
            later
                .registry
                .remove_repository(&lab.name, Spares::Nothing, later.open.actor());
        match removed.await {
            Ok(_) | Err(RegistryError::NameUnknown(_)) => {}
            Err(error) => panic!("cannot be ended after {cut:?}: {error}"),
        }
        let keys = lab.keys().await;
        assert!(
            !keys.iter().any(|key| own(&key)),
            "left after {cut:?}: {keys:?}"
        );
        let blob = later.registry.blobs.get(&below, &digest).await;
        assert!(
            blob.is_ok(),
            "a repository below has lost its blob after {cut:?}"
        );
    }
    assert!(
        reached.iter().all(|reached| *reached > 8),
        "the cuts must fall into both commits: {reached:?}"
    );
}

#[tokio::test]
async fn a_manifest_of_thousands_of_tags_goes_with_all_of_them() {
    let lab = Lab::with_a_tag().await;
    let digest = Digest::of(Algorithm::Sha256, BEFORE);
    let tags = (0..2_500).map(|number| {
        let tag = format!("t{number}").parse().unwrap();
        super::core::put_link(&OwnedPlace::TagCurrent(lab.name.clone(), tag), &digest)
    });
    lab.store.inner.apply(tags.collect()).await.expect("stored");
    let reference = Reference::Digest(digest);
    let deleted = lab
        .registry
        .manifests
        .delete(&lab.name, &reference, lab.open.actor())
        .await;
    deleted.expect("deleted");
    let left = lab.registry.core.tag_directories(&lab.name).await;
    assert_eq!(left.expect("readable"), []);
    let found = lab.registry.manifests.get(&lab.name, &reference).await;
    assert!(matches!(found, Err(RegistryError::ManifestUnknown(_))));
}
