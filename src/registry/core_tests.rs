//! Tests of `core`: what is read and parsed keeps no other request waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::clock::{Clock, ManualClock};
use crate::index::Index;
use crate::layout::OwnedPlace;
use crate::oci::{Algorithm, Digest, READ_HERE_BYTES, Reference, RepositoryName};
use crate::registry::open_mode::OpenMode;
use crate::registry::{ManifestContent, PageRequest, Registry, Settings};
use crate::store::bucket_like::BucketLike;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn registry() -> Registry {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at_unix_secs(1_800_000_000));
    Registry::new(
        Arc::new(BucketLike::new(1)),
        Arc::new(Index::in_memory(Arc::clone(&clock))),
        Settings::for_tests(),
        &[7; 32],
        Arc::clone(&clock),
    )
}

/// The runtime of this test has one thread, which is this one.
#[tokio::test]
async fn a_long_manifest_is_never_read_on_an_async_thread() {
    let registry = registry();
    let open = OpenMode::new().await;
    let name = "a".parse().unwrap();
    let subject = Digest::of(Algorithm::Sha256, b"");
    let filling = "[],".repeat(50_000);
    let about = format!(r#""subject":{{"digest":"{subject}","size":0}}"#);
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],{about},"x":[[{filling}0]]}}"#
    );
    let body = bytes::Bytes::from(body);
    let reference = Reference::Tag("v1".parse().unwrap());
    let before = READ_HERE_BYTES.get();
    // One that is taken, and one that is not.
    let manifests = &registry.manifests;
    let put = |body| manifests.put(&name, &reference, &[], Some(INDEX), body, open.actor());
    put(body.clone()).await.unwrap();
    put(body.slice(1..)).await.unwrap_err();
    let found = manifests.get(&name, &reference).await.unwrap();
    assert!(matches!(found.content, ManifestContent::InMemory(bytes) if bytes == body));
    let page = PageRequest::default();
    let referrers = registry.listings.referrers(&name, &subject, None, &page);
    assert_eq!(referrers.await.unwrap().items.len(), 1, "not read at all");
    registry.index_sync.read_everything().await.unwrap();
    let read_bytes = READ_HERE_BYTES.get() - before;
    assert_eq!(read_bytes, 0, "a long manifest was read on an async thread");
}

#[tokio::test]
async fn ten_thousand_links_are_not_read_in_one_go() {
    let registry = registry();
    let name: RepositoryName = "a".parse().unwrap();
    let link = |number: u32| {
        let digest = Digest::of(Algorithm::Sha256, &number.to_be_bytes());
        OwnedPlace::LayerLink(name.clone(), digest).key()
    };
    let links: Vec<_> = (0..10_000).map(link).collect();
    let turns = Arc::new(AtomicUsize::new(0));
    let others = Arc::clone(&turns);
    let other = tokio::spawn(async move {
        loop {
            others.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    registry.core.linked_each(&links).await.unwrap();
    other.abort();
    let turns = turns.load(Ordering::Relaxed);
    assert!(turns >= 10_000 / 256, "others had {turns} turns");
}
