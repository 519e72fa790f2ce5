//! What a crash or a power cut in the middle of a push leaves (DESIGN D2).
//!
//! The store here stops in the middle of an `apply`, in every way that the seam allows: after any number of steps (the
//! process was killed), or with any one step of a phase done and the others lost (power was cut; only what lies before a
//! barrier is certain).

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::open_mode::OpenMode;
use super::*;
use crate::clock::ManualClock;
use crate::layout::{Key, OwnedPlace, Prefix};
use crate::oci::range::ByteRange;
use crate::oci::{Algorithm, Digest, Reference, RepositoryName};
use crate::store::memory::MemoryStore;
use crate::store::{Content, Depth, Fingerprint, Listing, Meta, Step, StoreError, Upload};

#[derive(Debug, Clone, Copy)]
enum Cut {
    /// So many steps were done.
    After(usize),
    /// All phases before this one, and of this one a single step.
    Single { phase: usize, step: usize },
    /// All steps, but the disk could not sync them.
    Unsynced,
}

struct CutStore {
    inner: MemoryStore,
    cut: Mutex<Option<Cut>>,
}

impl CutStore {
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

#[async_trait]
impl ObjectStore for CutStore {
    async fn read(&self, key: &Key, range: Option<ByteRange>) -> Result<Content, StoreError> {
        self.inner.read(key, range).await
    }
    async fn head(&self, key: &Key) -> Result<Meta, StoreError> {
        self.inner.head(key).await
    }
    async fn fingerprint(&self, prefixes: &[Prefix]) -> Result<Option<Fingerprint>, StoreError> {
        self.inner.fingerprint(prefixes).await
    }
    fn entries(&self, prefix: &Prefix, depth: Depth) -> Listing {
        self.inner.entries(prefix, depth)
    }
    async fn apply(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        let cut = *self.cut.lock().expect("no panic holds it");
        let Some(cut) = cut else {
            return self.inner.apply(steps).await;
        };
        let count = steps.len();
        match Self::surviving(cut, steps) {
            Some(steps) => {
                self.inner.apply(steps).await?;
                let source = std::io::Error::other(format!("cut within {count} steps"));
                Err(StoreError::Io {
                    doing: "go on".into(),
                    source,
                })
            }
            None => Err(StoreError::Conflict),
        }
    }
    async fn begin_upload(
        &self,
        prefix: &Prefix,
        algorithm: Option<Algorithm>,
    ) -> Result<Box<dyn Upload>, StoreError> {
        self.inner.begin_upload(prefix, algorithm).await
    }
    async fn resume_upload(&self, prefix: &Prefix) -> Result<Option<Box<dyn Upload>>, StoreError> {
        self.inner.resume_upload(prefix).await
    }
}

struct Lab {
    store: Arc<CutStore>,
    registry: Registry,
    open: OpenMode,
    name: RepositoryName,
}

const BEFORE: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;
const AFTER: &[u8] = br#"{"schemaVersion":2,"manifests":[],"annotations":{"new":"yes"}}"#;
const INDEX: Option<&str> = Some("application/vnd.oci.image.index.v1+json");

impl Lab {
    async fn with_a_tag() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at_unix_secs(0));
        let inner = MemoryStore::new(Arc::clone(&clock));
        let store = Arc::new(CutStore {
            inner,
            cut: Mutex::new(None),
        });
        let registry = Registry::new(
            Arc::clone(&store) as Arc<dyn ObjectStore>,
            Arc::new(Index::in_memory(Arc::clone(&clock))),
            Settings::for_tests(),
            b"s",
            Arc::clone(&clock),
        );
        let open = OpenMode::new().await;
        let lab = Self {
            store,
            registry,
            open,
            name: "team/app".parse().unwrap(),
        };
        lab.push("v1", BEFORE).await.expect("nothing is cut yet");
        lab
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
        *self.store.cut.lock().expect("no panic holds it") = cut;
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

#[tokio::test]
async fn a_blob_that_was_not_synced_is_not_answered_as_there_when_it_is_put_again() {
    let lab = Lab::with_a_tag().await;
    let owner = Owner {
        account: String::new(),
        generation: String::new(),
        client: [127, 0, 0, 1].into(),
    };
    let chunk = |bytes: &'static [u8]| Chunk {
        sent: None,
        length_bytes: Some(bytes.len() as u64),
        body: Box::pin(futures_util::stream::iter([Ok(Bytes::from_static(bytes))])),
    };
    let digest = Digest::of(Algorithm::Sha256, b"blob");
    let (uploads, name) = (&lab.registry.uploads, &lab.name);
    let id = uploads.begin(name, &owner, None).await.unwrap();
    lab.cut(Some(Cut::Unsynced));
    let put = uploads.finish(name, id, &owner, &digest, chunk(b"blob"), lab.open.actor());
    assert!(matches!(put.await, Err(RegistryError::Store(_))));
    lab.cut(None);
    let again = uploads.finish(name, id, &owner, &digest, chunk(b""), lab.open.actor());
    let again = again.await;
    assert!(
        matches!(again, Err(RegistryError::UploadInvalid)),
        "a failed sync became a success: {again:?}"
    );
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
