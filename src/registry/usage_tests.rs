//! Tests of what is counted and compared: `usage`, `status` and `comparing`.

use std::sync::Arc;

use super::*;
use crate::clock::{Clock as _, ManualClock};
use crate::index::Index;
use crate::index::{Child, Fact, Health, Revision};
use crate::layout::OwnedPlace;
use crate::oci::Algorithm;
use crate::registry::core::put_link;
use crate::registry::{References, Registry, Settings};
use crate::store::bucket_like::BucketLike;
use crate::store::{ObjectStore, Step};

struct Lab {
    clock: Arc<ManualClock>,
    store: Arc<BucketLike>,
    index: Arc<Index>,
    registry: Registry,
}

impl Lab {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at_unix_secs(1_800_000_000));
        let store = Arc::new(BucketLike::new(1));
        let index = Arc::new(Index::in_memory(clock.clone()));
        let mut settings = Settings::for_tests();
        settings.references = References::Any;
        let registry = Registry::new(
            Arc::clone(&store) as Arc<dyn ObjectStore>,
            Arc::clone(&index),
            settings,
            &[7; 32],
            clock.clone(),
        );
        Self {
            clock,
            store,
            index,
            registry,
        }
    }

    async fn apply(&self, steps: Vec<Step>) {
        self.store.apply(steps).await.unwrap();
    }

    /// A blob of the store, linked by a repository.
    async fn put_blob(&self, name: &str, content: &'static [u8]) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, content);
        let bytes = Step::put(OwnedPlace::BlobData(digest).key(), content);
        let link = put_link(&OwnedPlace::LayerLink(self::name(name), digest), &digest);
        self.apply(vec![bytes, link]).await;
        digest
    }
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn number(number: u64) -> Digest {
    Digest::of(Algorithm::Sha256, &number.to_be_bytes())
}

fn manifest(digest: u64, size_bytes: u64, children: &[(u64, u64, ChildKind)]) -> Vec<Fact> {
    let parent = number(digest);
    let mut facts = vec![
        Fact::Size(parent, size_bytes),
        Fact::Revision(Revision {
            digest: parent,
            size_bytes,
            is_index: false,
            subject: None,
        }),
    ];
    for (child, size_bytes, kind) in children {
        let child = Child {
            digest: number(*child),
            size_bytes: *size_bytes,
            kind: *kind,
        };
        facts.push(Fact::Edge { parent, child });
    }
    facts
}

fn tag(tag: &str, digest: u64) -> Fact {
    Fact::Tag(tag.parse().unwrap(), number(digest))
}

fn row(name: Option<&str>, bytes: u64, unique_bytes: u64) -> (Option<String>, u64, u64, u64) {
    let name = name.map(str::to_owned);
    (name, bytes, bytes - unique_bytes, unique_bytes)
}

type Row = (Option<String>, u64, u64, u64);

fn shown(rows: Vec<Usage>) -> Vec<Row> {
    let row = |row: Usage| {
        let (shared, unique) = (row.shared_bytes.unwrap(), row.unique_bytes.unwrap());
        (row.name, row.bytes, shared, unique)
    };
    rows.into_iter().map(row).collect()
}

async fn rows(lab: &Lab, subject: Subject) -> Vec<Row> {
    let seen = lab.registry.listings.usage(&subject).await.unwrap();
    assert_eq!(seen.from_store, None);
    shown(seen.value)
}

/// Of what was recorded by hand, which no store has.
async fn recorded(lab: &Lab, subject: Subject) -> Vec<Row> {
    lab.index.settle().await;
    let Subject::Repository(name) = subject else {
        let rows = lab.index.read(usage_of_repositories).await.unwrap();
        return shown(rows.into_iter().map(Usage::from).collect());
    };
    let tags = lab.registry.core.tag_targets(&name).await.unwrap();
    let look = move |view: &View| usage_of_tags(view, &name, &tags, true);
    shown(lab.index.read(look).await.unwrap().rows)
}

#[tokio::test]
async fn a_child_that_two_indexes_list_is_unique_in_neither() {
    let lab = Lab::new();
    let blob = ChildKind::Blob;
    let mut facts = manifest(1, 10, &[(100, 1_000, blob)]);
    facts.extend(manifest(2, 20, &[(1, 10, ChildKind::Listed)]));
    let children = [(1, 10, ChildKind::Listed), (101, 2_000, blob)];
    facts.extend(manifest(3, 30, &children));
    facts.extend([tag("x", 2), tag("y", 3)]);
    // Of the other blob only a manifest says how long it is: nothing is promised for what may not be there.
    facts.push(Fact::Size(number(101), 2_000));
    // A manifest that lists itself, and one whose size nobody has noted, end the walk all the same.
    facts.extend(manifest(4, 40, &[(4, 40, ChildKind::Listed)]));
    facts.extend([tag("self", 4), tag("unknown", 5)]);
    // One that the old registry has moved meanwhile, and one that it has removed: neither shows in the index.
    let moved = [
        ("x", 2),
        ("y", 3),
        ("self", 4),
        ("unknown", 5),
        ("moved", 1),
    ];
    facts.extend([tag("moved", 3), tag("gone", 3)]);
    let place = |text: &str| OwnedPlace::TagCurrent(name("a"), text.parse().unwrap());
    let links = moved.map(|(text, at)| put_link(&place(text), &number(at)));
    lab.apply(links.into()).await;
    lab.index.record(&name("a"), facts);
    assert_eq!(
        recorded(&lab, Subject::Repository(name("a"))).await,
        [
            row(Some("moved"), 10 + 1_000, 0),
            row(Some("self"), 40, 40),
            row(Some("unknown"), 0, 0),
            row(Some("x"), 20 + 10 + 1_000, 20),
            row(Some("y"), 30 + 10 + 1_000 + 2_000, 30 + 2_000),
        ]
    );
}

#[tokio::test]
async fn what_is_held_is_counted_over_more_than_a_page() {
    const MANY: u64 = crate::index::PAGE_MAX as u64 + 500;
    let lab = Lab::new();
    for at in 0..MANY {
        let layer = [(at, at, ChildKind::Blob)];
        let mut facts = vec![Fact::Layer(number(at)), Fact::Size(number(at), at)];
        facts.extend(manifest(MANY + at, 3, &layer));
        lab.index.record(&name("a"), facts);
        if at % 3 == 0 {
            let mut facts = vec![Fact::Layer(number(at))];
            facts.extend(manifest(MANY + at, 3, &layer));
            lab.index.record(&name("a-b"), facts);
        }
        if at % 100 == 0 {
            lab.index.settle().await;
        }
    }
    // Room for what no repository has any more is not counted.
    let facts = vec![Fact::Size(number(u64::MAX), 1 << 40)];
    lab.index.record(&name("a/b"), facts);
    let all: u64 = (0..MANY).sum::<u64>() + 3 * MANY;
    let shared: u64 = (0..MANY).step_by(3).sum::<u64>() + 3 * (MANY / 3);
    assert_eq!(
        recorded(&lab, Subject::Everything).await,
        [
            row(Some("a"), all, all - shared),
            row(Some("a-b"), shared, 0),
            row(Some("a/b"), 0, 0),
        ]
    );
    let status = lab.registry.listings.status().await.unwrap();
    assert_eq!(
        (status.blobs, status.stored_bytes, status.logical_bytes),
        (2 * MANY, all, all + shared)
    );
    assert_eq!((status.repositories, status.tags), (3, 0));
    assert_eq!(status.manifests, MANY + MANY / 3);
    assert!(!status.lists_from_index, "nobody has read the store");
}

#[tokio::test]
async fn a_manifest_that_cannot_be_understood_takes_its_room() {
    let lab = Lab::new();
    let digest = Digest::of(Algorithm::Sha256, b"nothing that we know");
    let bytes = OwnedPlace::BlobData(digest).key();
    let link = OwnedPlace::RevisionLink(name("a"), digest);
    let tag = OwnedPlace::TagCurrent(name("a"), "v1".parse().unwrap());
    let links = [put_link(&link, &digest), put_link(&tag, &digest)];
    lab.apply(vec![Step::put(bytes, "nothing that we know")])
        .await;
    lab.apply(links.into()).await;
    lab.registry.index_sync.read_everything().await.unwrap();
    assert_eq!(
        rows(&lab, Subject::Repository(name("a"))).await,
        [row(Some("v1"), 20, 20)]
    );
    assert_eq!(
        rows(&lab, Subject::Everything).await,
        [row(Some("a"), 20, 20)]
    );
}

#[tokio::test]
async fn a_digest_that_is_blob_and_manifest_counts_once() {
    let lab = Lab::new();
    // The first manifest of an empty repository gets a blob link as well.
    let mut facts = manifest(1, 10, &[]);
    facts.push(Fact::Layer(number(1)));
    lab.index.record(&name("a"), facts);
    assert_eq!(
        recorded(&lab, Subject::Everything).await,
        [row(Some("a"), 10, 10)]
    );
    // One repository has it as a blob only, another one as a manifest only.
    lab.index.record(&name("b"), vec![Fact::Layer(number(1))]);
    lab.index.record(&name("c"), manifest(1, 10, &[]));
    // A link alone holds nothing: a deleted image leaves such links.
    let held = [("a", 10), ("b", 0), ("c", 10)];
    assert_eq!(
        recorded(&lab, Subject::Everything).await,
        held.map(|(name, bytes)| row(Some(name), bytes, 0))
    );
    let status = lab.registry.listings.status().await.unwrap();
    let found = (status.blobs, status.stored_bytes, status.logical_bytes);
    assert_eq!(found, (1, 10, 30));
}

#[tokio::test]
async fn a_manifest_that_cannot_be_understood_needs_every_layer_of_its_repository() {
    for content in ["nothing that we know".to_owned(), " ".repeat(17 << 20)] {
        let lab = Lab::new();
        lab.put_blob("a", b"layer").await;
        lab.put_blob("b", b"another").await;
        let size_bytes = content.len() as u64;
        let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
        let link = OwnedPlace::RevisionLink(name("a"), digest);
        let tag = OwnedPlace::TagCurrent(name("a"), "v1".parse().unwrap());
        let links = [put_link(&link, &digest), put_link(&tag, &digest)];
        let bytes = Place::BlobData(digest).key();
        lab.apply(vec![Step::put(bytes, content)]).await;
        lab.apply(links.into()).await;
        lab.registry.index_sync.read_everything().await.unwrap();
        let needed = size_bytes + 5;
        assert_eq!(
            rows(&lab, Subject::Repository(name("a"))).await,
            [row(Some("v1"), needed, needed)],
            "the collector would free what it needs"
        );
    }
}

#[tokio::test]
async fn what_is_asked_about_must_be_there() {
    let lab = Lab::new();
    let unknown = lab
        .registry
        .listings
        .usage(&Subject::Repository(name("nowhere")))
        .await;
    let unknown = unknown.unwrap_err().to_string();
    assert!(unknown.contains("nowhere"), "{unknown}");
    lab.put_blob("a", b"blob").await;
    lab.registry.index_sync.read_everything().await.unwrap();
    assert!(rows(&lab, Subject::Repository(name("a"))).await.is_empty());
    let tag = Subject::Tag(name("a"), "v1".parse().unwrap());
    let unknown = lab
        .registry
        .listings
        .usage(&tag)
        .await
        .unwrap_err()
        .to_string();
    assert!(unknown.contains("v1"), "{unknown}");
    assert_eq!(
        rows(&lab, Subject::Everything).await,
        [row(Some("a"), 0, 0)],
        "no image needs the blob"
    );
}

#[tokio::test]
async fn each_kind_of_difference_is_found_and_named() {
    let lab = Lab::new();
    let linked = lab.put_blob("a", b"blob").await;
    let place = OwnedPlace::TagCurrent(name("a"), "v1".parse().unwrap());
    lab.apply(vec![put_link(&place, &number(1))]).await;
    lab.put_blob("gone", b"other").await;
    lab.registry.index_sync.read_everything().await.unwrap();
    assert_eq!(lab.index.health(), Health::Healthy);
    let compare = async || lab.registry.index_sync.compare(&|_| {}).await.unwrap();
    let found = compare().await;
    assert_eq!((found.repositories, found.differences), (2, 0));
    // Two repositories, two links, two sizes, one tag.
    assert_eq!(found.facts, 7);

    // Behind its back: what the index says too much, too little, and otherwise.
    let facts = vec![tag("v1", 2), tag("v2", 2), Fact::Size(linked, 5)];
    lab.index.record(&name("a"), facts);
    lab.index.record(&name("nowhere"), vec![Fact::Known]);
    let other = Digest::of(Algorithm::Sha256, b"other");
    lab.index
        .forget(&name("gone"), vec![crate::index::Forget::Layer(other)]);
    let mut expected = vec![
        format!("a: only in the store: tag v1 -> {}", number(1)),
        format!("a: only in the index: tag v1 -> {}", number(2)),
        format!("a: only in the index: tag v2 -> {}", number(2)),
        format!("a: only in the store: {linked} has 4 bytes"),
        format!("a: only in the index: {linked} has 5 bytes"),
        format!("gone: only in the store: blob {other}"),
        format!("gone: only in the store: {other} has 5 bytes"),
        "nowhere: only in the index: the repository".to_owned(),
    ];
    let mut found = compare().await;
    expected.sort_unstable();
    found.told.sort_unstable();
    assert_eq!(found.told, expected);
    assert_eq!((found.repositories, found.differences), (3, 8));

    // The first hundred are told, all are counted.
    let facts = (0..150).map(|at| tag(&format!("t{at}"), 1)).collect();
    lab.index.record(&name("a"), facts);
    let found = compare().await;
    assert_eq!((found.differences, found.told.len()), (158, 100));
}

#[tokio::test]
async fn a_filling_is_waited_for_and_mends_what_differs() {
    let lab = Lab::new();
    lab.put_blob("a", b"blob").await;
    lab.registry.index_sync.read_everything().await.unwrap();
    lab.index.record(&name("a"), vec![tag("nowhere", 1)]);
    let registry = Arc::new(lab.registry);
    let keeper = Arc::clone(&registry);
    let keeper = tokio::spawn(async move { keeper.index_sync.run().await });
    let filling = Arc::clone(&registry);
    let filling = tokio::spawn(async move { filling.index_sync.rebuild(&|_| {}).await });
    // The clock stands still until it is moved.
    while !filling.is_finished() {
        lab.clock.advance(std::time::Duration::from_millis(100));
        tokio::task::yield_now().await;
    }
    let filled = filling.await.unwrap().unwrap();
    assert_eq!((filled.repositories, filled.links), (1, 1));
    keeper.abort();
    let _ = keeper.await;
    assert_eq!(lab.index.statistics().quarantines, 1);
    let found = registry.index_sync.compare(&|_| {}).await.unwrap();
    assert_eq!(found.differences, 0, "{:?}", found.told);
    assert!(lab.clock.elapsed() > std::time::Duration::ZERO);
}
