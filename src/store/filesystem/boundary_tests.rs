//! A store that may only be read, what its directories allow, and parts of it on disks of their own.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;

use super::recorder::RecordingDisk;
use super::tests::{begin, key, keys_below, open, session, sha256};
use super::{FilesystemStore, Settings};
use crate::clock::ManualClock;
use crate::layout::Place;
use crate::store::{Depth, ObjectStore, Step};

#[tokio::test]
async fn a_store_for_reading_makes_and_removes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), None);
    store
        .apply(vec![Step::put(key("docker/a"), "1")])
        .await
        .unwrap();
    drop(store);
    fs::remove_dir_all(root.path().join("docker/registry")).unwrap();
    fs::remove_dir_all(root.path().join("boathouse")).unwrap();
    let settings = Settings {
        is_readonly: true,
        ..Settings::at(root.path())
    };
    let clock = Arc::new(ManualClock::at_unix_secs(1_700_000_000));
    let store = FilesystemStore::open(settings, clock).unwrap();
    assert_eq!(store.head(&key("docker/a")).await.unwrap().size_bytes, 1);
    drop(store);
    assert!(!root.path().join("boathouse").exists());
    assert!(!root.path().join("docker/registry").exists());
}

#[tokio::test]
async fn a_new_root_is_closed_to_others_and_one_that_is_there_keeps_its_mode() {
    let base = tempfile::tempdir().unwrap();
    let mode = |name: &str| {
        let metadata = fs::metadata(base.path().join(name)).unwrap();
        metadata.permissions().mode() & 0o7777
    };
    drop(open(&base.path().join("above/data"), None));
    assert_eq!(mode("above/data") & 0o027, 0, "{:o}", mode("above/data"));
    for kept in [0o755, 0o2775] {
        let old = base.path().join(kept.to_string());
        fs::create_dir(&old).unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(kept)).unwrap();
        drop(open(&old, None));
        assert_eq!(mode(&kept.to_string()), kept);
    }
}

#[tokio::test]
async fn parts_of_the_store_may_lie_on_disks_of_their_own() {
    for parts in [
        &["docker"][..],
        &["docker/registry/v2/blobs"],
        &["docker/registry/v2/repositories"],
        &[
            "docker/registry/v2/blobs",
            "docker/registry/v2/repositories",
        ],
    ] {
        let (root, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = Arc::new(RecordingDisk::new(root.path()));
        for part in parts {
            let other = others
                .path()
                .canonicalize()
                .unwrap()
                .join(part.replace('/', "-"));
            let link = root.path().join(part);
            fs::create_dir_all(&other).unwrap();
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(&other, link).unwrap();
            disk.other_devices.lock().unwrap().push(other);
        }
        let clock = Arc::new(ManualClock::at_unix_secs(1_700_000_000));
        let settings = Settings::at(root.path());
        let store = FilesystemStore::open_on(settings, clock, disk).unwrap();
        let tags = "docker/registry/v2/repositories/a/_manifests/tags/";
        let tag = key(&format!("{tags}v1/current/link"));
        let tombstone = key("boathouse/deleted/1/a");
        for content in ["one", "two"] {
            let mut upload = begin(&store).await;
            upload.append(content.into()).await.unwrap();
            let digest = sha256(content.as_bytes());
            let blob = Place::BlobData(digest).key();
            let steps = vec![
                Step::Barrier,
                Step::put(tag.clone(), content),
                Step::put(tombstone.clone(), content),
            ];
            upload
                .finish(&digest, steps)
                .await
                .unwrap_or_else(|error| panic!("{parts:?}: {error:?}"));
            for key in [&blob, &tag, &tombstone] {
                assert_eq!(store.head(key).await.unwrap().size_bytes, 3, "{parts:?}");
            }
            assert!(store.resume_upload(&session()).await.unwrap().is_none());
        }
        let tree = Step::remove_tree(format!("{tags}v1/").parse().unwrap(), tag);
        store.apply(vec![tree]).await.unwrap();
        let left = keys_below(&store, &tags.parse().unwrap(), Depth::All).await;
        assert!(left.is_empty(), "{parts:?}");
    }
}
