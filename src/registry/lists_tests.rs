//! Tests of `lists`.

use super::*;
use crate::clock::ManualClock;
use crate::layout::Place;
use crate::oci::Algorithm;
use crate::registry::links::put_link;
use crate::registry::{Limits, PageRequest, References, Settings};
use crate::store::ObjectStore as _;
use crate::store::memory::MemoryStore;

#[tokio::test]
async fn an_index_that_is_set_aside_while_it_serves_is_filled_again() {
    let clock = Arc::new(ManualClock::at_unix_secs(1_800_000_000));
    let store = MemoryStore::new(clock.clone());
    let name: RepositoryName = "a".parse().unwrap();
    let tag: Tag = "v1".parse().unwrap();
    let digest = Digest::of(Algorithm::Sha256, b"manifest");
    let link = Place::TagCurrent(name.clone(), tag.clone());
    store.apply(vec![put_link(&link, &digest)]).await.unwrap();
    let index = Arc::new(Index::in_memory(clock.clone()));
    let settings = Settings {
        deletes_enabled: true,
        readonly: false,
        references: References::Strict,
        case_insensitive: false,
        limits: Limits {
            manifest_size_bytes: 1_000,
            mount_probes: 10,
            list_page: 10,
            catalog_page: 10,
            open_uploads: 10,
            grace_period_secs: 86_400,
        },
    };
    let shared = Arc::clone(&index);
    let registry = Registry::new(Arc::new(store), shared, settings, &[7; 32], clock);
    registry.read_everything().await.unwrap();
    let tags = || async {
        let page = registry.tags(&name, &PageRequest::default()).await;
        page.unwrap().items
    };
    assert_eq!(tags().await, std::slice::from_ref(&tag));

    index.find_damaged();
    index.settle().await;
    assert_eq!(index.statistics().quarantines, 1);
    assert!(index.tags(&name, None, 10).await.unwrap().is_empty());
    assert_eq!(
        tags().await,
        std::slice::from_ref(&tag),
        "listed from an empty index"
    );
    registry.catch_up().await;
    assert_eq!(index.tags(&name, None, 10).await.unwrap().len(), 1);
    assert_eq!(tags().await, [tag]);
}
