//! What a power cut leaves, at every moment: DESIGN's invariant "bytes before link, link before tag".

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tempfile::TempDir;

use super::recorder::{Cut, RecordingDisk};
use super::tests::left_in;
use super::{FilesystemStore, Settings};
use crate::clock::ManualClock;
use crate::layout::{Key, OwnedPlace, UploadId, tag_directory, upload_directory};
use crate::oci::{Algorithm, Digest, RepositoryName, Tag};
use crate::store::memory::MemoryStore;
use crate::store::{Depth, ObjectStore, Step};

struct Bench {
    store: Arc<FilesystemStore>,
    disk: Arc<RecordingDisk>,
    root: TempDir,
}

fn bench() -> Bench {
    let root = tempfile::tempdir().unwrap();
    let disk = Arc::new(RecordingDisk::new(root.path()));
    Bench::open(root, disk)
}

impl Bench {
    fn open(root: TempDir, disk: Arc<RecordingDisk>) -> Self {
        let settings = Settings {
            root: root.path().to_owned(),
            boot_id: Some("this-boot".to_owned()),
            is_readonly: false,
        };
        let clock = Arc::new(ManualClock::at_unix_secs(1_700_000_000));
        let store = FilesystemStore::open_on(settings, clock, disk.clone()).unwrap();
        disk.take_cuts();
        Self {
            store: Arc::new(store),
            disk,
            root,
        }
    }
}

fn name() -> RepositoryName {
    "team/app".parse().unwrap()
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

fn digest(content: &str) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_bytes())
}

/// What a manifest PUT by tag does.
fn put_manifest(tag: &Tag, content: &str) -> Vec<Step> {
    let digest = digest(content);
    let link = Bytes::from(digest.to_string());
    let put = |place: OwnedPlace| Step::put(place.key(), link.clone());
    vec![
        Step::put(OwnedPlace::BlobData(digest).key(), content.to_owned()),
        put(OwnedPlace::RevisionLink(name(), digest)),
        Step::Barrier,
        put(OwnedPlace::TagIndex(name(), tag.clone(), digest)),
        put(OwnedPlace::TagCurrent(name(), tag.clone())),
    ]
}

fn remove_tag(tag: &Tag) -> Step {
    Step::remove_tree(tag_directory(&name(), tag), current(tag))
}

fn current(tag: &Tag) -> Key {
    OwnedPlace::TagCurrent(name(), tag.clone()).key()
}

/// Holds at every moment: whatever may be seen after a power cut is whole.
fn check_all_that_is_visible_is_whole(cut: &Cut) {
    let call = &cut.call;
    for path in cut.visible().keys() {
        if path.starts_with("docker/") && !path.contains("/_uploads/") {
            assert!(cut.is_whole(path), "{path} without its bytes after: {call}");
        }
    }
    let durable = cut.durable();
    for path in cut.visible_directories() {
        let Some((_, tag)) = path.split_once("/_manifests/tags/") else {
            continue;
        };
        if tag.matches('/').count() == 1 {
            let below = cut.durable_below(path);
            assert!(
                below.contains_key("current/link"),
                "tag {tag} without current/link after: {call}"
            );
        }
    }
    for (path, link) in cut.visible() {
        if path.ends_with("/current/link") && path.starts_with("docker/") {
            let digest: Digest = std::str::from_utf8(link).unwrap().parse().unwrap();
            for before in [
                OwnedPlace::BlobData(digest),
                OwnedPlace::RevisionLink(name(), digest),
            ] {
                assert!(
                    durable.contains_key(before.key().as_str()),
                    "a tag before {} after: {call}",
                    before.key()
                );
            }
        }
    }
}

/// What a blob PUT does.
async fn push_blob(store: &dyn ObjectStore, number: u64, content: &str, then: Vec<Step>) {
    let directory = upload_directory(&name(), UploadId::from_parts(number, number));
    let mut upload = store.open_upload(&directory, None).await.unwrap();
    upload.append(content.to_owned().into()).await.unwrap();
    upload.finish(&digest(content), then).await.unwrap();
}

#[tokio::test]
async fn what_was_applied_survives_a_power_cut() {
    let bench = bench();
    let model = MemoryStore::new(Arc::new(ManualClock::at_unix_secs(0)));
    let stores: [&dyn ObjectStore; 2] = [&*bench.store, &model];
    for round in 0..8 {
        for store in stores {
            let layer = OwnedPlace::LayerLink(name(), digest("layer")).key();
            let steps = match round {
                0 => {
                    push_blob(store, 1, "layer", vec![Step::put(layer, "link")]).await;
                    continue;
                }
                1 => put_manifest(&tag("v1"), "first"),
                2 => put_manifest(&tag("v1"), "second"),
                3 => put_manifest(&tag("v2"), "second"),
                4 => {
                    push_blob(store, 2, "layer", Vec::new()).await;
                    continue;
                }
                5 => vec![remove_tag(&tag("v1"))],
                6 => put_manifest(&tag("v1"), "third"),
                _ => vec![Step::Remove(layer)],
            };
            store.apply(steps).await.unwrap();
        }
        let mut durable = bench.disk.cut_now().durable();
        durable.retain(|path, _| path.starts_with("docker/") && !path.contains("/_uploads/"));
        let everything = crate::layout::Prefix::everything();
        let listed = model.list(&everything, Depth::All);
        let expected = listed.map_ok(|listed| listed.key);
        let expected: Vec<String> = expected.try_collect().await.unwrap();
        for key in &expected {
            assert!(
                durable.contains_key(key),
                "lost by the power cut in round {round}: {key}"
            );
        }
        assert_eq!(durable.len(), expected.len(), "came back in round {round}");
    }
    for cut in bench.disk.take_cuts() {
        check_all_that_is_visible_is_whole(&cut);
    }
}

#[tokio::test]
async fn at_every_moment_of_a_tag_move_the_tag_is_whole() {
    let bench = bench();
    let tag = tag("v1");
    bench.store.apply(put_manifest(&tag, "old")).await.unwrap();
    bench.store.apply(put_manifest(&tag, "new")).await.unwrap();
    let cuts = bench.disk.take_cuts();
    let mut has_been_there = false;
    for cut in &cuts {
        check_all_that_is_visible_is_whole(cut);
        let durable = cut.durable();
        let link = durable.get(current(&tag).as_str());
        assert!(link.is_some() || !has_been_there, "the tag was gone");
        has_been_there |= link.is_some();
    }
    assert!(has_been_there);
}

#[tokio::test]
async fn a_tag_that_was_removed_in_the_same_step_is_built_anew() {
    let bench = bench();
    let tag = tag("v1");
    bench.store.apply(put_manifest(&tag, "old")).await.unwrap();
    // There when the bytes are written, and gone when they get their names.
    let mut steps = vec![remove_tag(&tag)];
    steps.extend(put_manifest(&tag, "new"));
    bench.store.apply(steps).await.unwrap();
    let cuts = bench.disk.take_cuts();
    cuts.iter().for_each(check_all_that_is_visible_is_whole);
    let durable = cuts.last().unwrap().durable();
    assert_eq!(
        durable[current(&tag).as_str()],
        digest("new").to_string().into_bytes()
    );
    let old = OwnedPlace::TagIndex(name(), tag, digest("old")).key();
    assert!(!durable.contains_key(old.as_str()), "came back");
}

#[tokio::test]
async fn a_new_tag_that_cannot_be_synced_is_not_shown() {
    let bench = bench();
    let tag = tag("v1");
    *bench.disk.refused_directory.lock().unwrap() = Some("/current");
    bench
        .store
        .apply(put_manifest(&tag, "text"))
        .await
        .unwrap_err();
    let cut = bench.disk.cut_now();
    assert!(!cut.visible().contains_key(current(&tag).as_str()));
    assert_eq!(left_in(bench.root.path(), "tmp"), 0, "left in tmp");
    *bench.disk.refused_directory.lock().unwrap() = None;
    bench.store.apply(put_manifest(&tag, "text")).await.unwrap();
    assert!(
        bench
            .disk
            .cut_now()
            .durable()
            .contains_key(current(&tag).as_str())
    );
}

#[tokio::test]
async fn requests_that_share_groups_keep_their_barriers() {
    let bench = bench();
    let tasks: Vec<_> = (0..24)
        .map(|number| {
            let store = Arc::clone(&bench.store);
            // Three tags, so that some requests touch the same keys and some do not.
            let tag = tag(&format!("v{}", number % 3));
            tokio::spawn(
                async move { store.apply(put_manifest(&tag, &format!("m{number}"))).await },
            )
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let cuts = bench.disk.take_cuts();
    cuts.iter().for_each(check_all_that_is_visible_is_whole);
    // Also where a tag was new to several requests, and only one of them could show its directory.
    assert_eq!(left_in(bench.root.path(), "tmp"), 0, "left in tmp");
    let durable = cuts.last().unwrap().durable();
    for number in 0..24 {
        let manifest = OwnedPlace::BlobData(digest(&format!("m{number}"))).key();
        assert!(durable.contains_key(manifest.as_str()));
    }
}

#[tokio::test]
async fn directories_of_a_process_that_died_before_syncing_them_are_synced() {
    let bench = bench();
    let key = OwnedPlace::LayerLink(name(), digest("layer")).key();
    let path = bench.root.path().join(key.as_str());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let steps = vec![Step::put(key.clone(), "link")];
    bench.store.apply(steps).await.unwrap();
    let durable = bench.disk.cut_now().durable();
    assert!(durable.contains_key(key.as_str()), "lost by the power cut");
}

#[tokio::test]
async fn a_blob_of_a_process_that_died_before_syncing_it_is_synced_and_repaired() {
    for left_behind in ["layer", "lay", "", "lllll"] {
        let bench = bench();
        let key = OwnedPlace::BlobData(digest("layer")).key();
        let path = bench.root.path().join(key.as_str());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, left_behind).unwrap();
        push_blob(&*bench.store, 1, "layer", Vec::new()).await;
        let durable = bench.disk.cut_now().durable();
        assert_eq!(durable[key.as_str()], b"layer");
    }
}

#[tokio::test]
async fn what_a_process_left_visible_when_it_died_is_settled() {
    let bench = bench();
    let blob = OwnedPlace::BlobData(digest("layer")).key();
    let link = OwnedPlace::LayerLink(name(), digest("layer")).key();
    for key in [&blob, &link] {
        let path = bench.root.path().join(key.as_str());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "layer").unwrap();
        let durable = bench.disk.cut_now().durable();
        assert!(!durable.contains_key(key.as_str()));
    }
    let steps = [&blob, &link].map(|key| Step::Settle(key.clone()));
    bench.store.apply(steps.into()).await.unwrap();
    let durable = bench.disk.cut_now().durable();
    for key in [&blob, &link] {
        let kept = durable.get(key.as_str()).map(Vec::as_slice);
        assert_eq!(kept, Some(&b"layer"[..]), "lost by the power cut: {key}");
    }
}

#[tokio::test]
async fn what_an_earlier_process_left_visible_is_durable_before_the_first_change() {
    let root = tempfile::tempdir().unwrap();
    let blob = OwnedPlace::BlobData(digest("layer")).key();
    let path = root.path().join(blob.as_str());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "layer").unwrap();
    let disk = Arc::new(RecordingDisk::new(root.path()));
    disk.syncs_file_system.store(true, Ordering::SeqCst);
    let bench = Bench::open(root, disk);
    // A mount: nothing is known of the blob but that it is there.
    let link = OwnedPlace::LayerLink(name(), digest("layer")).key();
    let steps = vec![Step::put(link.clone(), "link")];
    bench.store.apply(steps).await.unwrap();
    let durable = bench.disk.cut_now().durable();
    assert!(durable.contains_key(link.as_str()));
    let kept = durable.get(blob.as_str()).map(Vec::as_slice);
    assert_eq!(
        kept,
        Some(&b"layer"[..]),
        "a link to what the power cut has lost"
    );
}
