//! A store that may only be read, and what its directories allow.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use super::tests::{key, open};
use super::{FilesystemStore, Settings};
use crate::clock::ManualClock;
use crate::store::{ObjectStore, Step};

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
