//! Tests of what is kept of the index, and of what comes from it.

use super::*;
use crate::clock::ManualClock;
use crate::index::Index;
use crate::layout::OwnedPlace;
use crate::oci::Algorithm;
use crate::oci::{Digest, Tag};
use crate::registry::core::put_link;
use crate::registry::open_mode::OpenMode;
use crate::registry::{PageRequest, Registry, Settings};
use crate::store::ObjectStore;
use crate::store::bucket_like::BucketLike;
use crate::store::faulty::{Fault, FaultyStore, Operation};

/// A store and its index, which outlive the registries over them.
struct Lab {
    clock: Arc<ManualClock>,
    store: FaultyStore,
    index: Arc<Index>,
}

impl Lab {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at_unix_secs(1_800_000_000));
        Self {
            store: FaultyStore::new(Arc::new(BucketLike::new(1))),
            index: Arc::new(Index::in_memory(clock.clone())),
            clock,
        }
    }

    fn registry(&self) -> Registry {
        let mut settings = Settings::for_tests();
        settings.limits.list_page = 10;
        let store: Arc<dyn ObjectStore> = Arc::new(self.store.clone());
        let index = Arc::clone(&self.index);
        Registry::new(store, index, settings, &[7; 32], self.clock.clone())
    }

    async fn link(&self, place: OwnedPlace, digest: &Digest) {
        let steps = vec![put_link(&place, digest)];
        self.store.apply(steps).await.unwrap();
    }
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

/// The tags that the index lists.
async fn listed(index: &Index, name: &RepositoryName) -> Vec<(Tag, Digest)> {
    let name = name.clone();
    let tags = index.read(move |view| view.tags(&name, None).into_vec());
    tags.await.unwrap()
}

async fn tags(registry: &Registry, name: &RepositoryName) -> Vec<Tag> {
    let page = registry.listings.tags(name, &PageRequest::default()).await;
    page.unwrap().items
}

#[tokio::test]
async fn an_index_that_is_set_aside_while_it_serves_is_filled_again() {
    let lab = Lab::new();
    let (name, tag): (_, Tag) = (name("a"), "v1".parse().unwrap());
    let digest = Digest::of(Algorithm::Sha256, b"manifest");
    lab.link(OwnedPlace::TagCurrent(name.clone(), tag.clone()), &digest)
        .await;
    let (registry, index) = (lab.registry(), &lab.index);
    registry.index_sync.read_everything().await.unwrap();
    assert_eq!(tags(&registry, &name).await, std::slice::from_ref(&tag));

    index.start_over("a test says so");
    index.settle().await;
    assert_eq!(index.statistics().quarantines, 1);
    assert!(listed(index, &name).await.is_empty());
    assert_eq!(
        tags(&registry, &name).await,
        std::slice::from_ref(&tag),
        "listed from an empty index"
    );
    registry.index_sync.catch_up().await;
    assert_eq!(listed(index, &name).await.len(), 1);
    assert_eq!(tags(&registry, &name).await, [tag]);
}

#[tokio::test]
async fn no_doubt_is_forgotten_however_many_there_are() {
    let lab = Lab::new();
    let (kept, new) = (name("kept"), name("new"));
    let digest = Digest::of(Algorithm::Sha256, b"manifest");
    let tag = |name: &RepositoryName, tag: &str| {
        let place = OwnedPlace::TagCurrent(name.clone(), tag.parse().unwrap());
        lab.link(place, &digest)
    };
    tag(&kept, "v1").await;
    let registry = lab.registry();
    lab.index.freshness().set_in_doubt_max(10);
    registry.index_sync.read_everything().await.unwrap();
    assert_eq!(tags(&registry, &kept).await.len(), 1);

    for number in 0..10 {
        let other = name(&format!("doubted/{number}"));
        lab.index.freshness().read_soon(&other);
    }
    // Two changes do more than they tell.
    for changed in [&kept, &new] {
        let held = registry.core.locks.hold(Actor::task("a test"), changed);
        let mut held = held.changing().await.unwrap();
        held.change.begin();
        tag(changed, "v2").await;
    }
    assert_eq!(
        tags(&registry, &kept).await.len(),
        2,
        "a doubt was forgotten, and the list came from the index"
    );
    registry.index_sync.catch_up().await;
    let repositories = lab.index.read(|view| view.repositories(None).into_vec());
    let repositories = repositories.await.unwrap();
    assert_eq!(repositories, [kept.clone(), new.clone()]);
    for (name, expected) in [(&kept, 2), (&new, 1)] {
        let found = listed(&lab.index, name).await;
        assert_eq!(found.len(), expected, "{name} was not read again");
        assert!(lab.index.freshness().may_list(name));
    }
    assert!(registry.core.gate.is_complete());
}

#[tokio::test]
async fn a_comparison_that_fails_is_tried_again() {
    let lab = Lab::new();
    let registry = lab.registry();
    lab.index.freshness().set_in_doubt_max(0);
    registry.index_sync.read_everything().await.unwrap();
    for (fails, next_try) in [(true, Some(RETRY_PAUSE)), (false, None)] {
        lab.index.freshness().read_soon(&name("a"));
        assert!(lab.index.freshness().is_in_doubt(&name("b")));
        if fails {
            lab.store.fail(Operation::List, 0, Fault::Io);
        }
        assert_eq!(registry.index_sync.catch_up().await, next_try);
        assert_eq!(registry.core.gate.is_complete(), !fails);
    }
}

#[tokio::test]
async fn a_change_that_fails_puts_its_repository_in_doubt() {
    let lab = Lab::new();
    let (registry, open, name) = (lab.registry(), OpenMode::new().await, name("a"));
    let digest = Digest::of(Algorithm::Sha256, b"blob");
    let (blobs, gate) = (&registry.blobs, &registry.core.gate);
    let delete = async || {
        lab.link(OwnedPlace::LayerLink(name.clone(), digest), &digest)
            .await;
        blobs.delete(&name, &digest, open.actor()).await
    };
    delete().await.unwrap();
    assert!(!gate.freshness().is_in_doubt(&name));
    // There is another way to delete.
    lab.store.fail(Operation::Apply, 1, Fault::Full);
    delete().await.unwrap();
    assert!(
        !gate.freshness().is_in_doubt(&name),
        "in doubt after a change that was made"
    );
    lab.store.fail(Operation::Apply, 1, Fault::Io);
    delete().await.unwrap_err();
    assert!(
        gate.freshness().is_in_doubt(&name),
        "not in doubt after a change that failed"
    );
    registry.index_sync.catch_up().await;
    assert!(!gate.freshness().is_in_doubt(&name), "not read again");
}
