//! Disks that lose bytes, and volumes that cannot do everything: what may be answered then.
//!
//! The kernel reports a lost write once per open file and keeps no record of it beyond that. So whoever hears of it first
//! must end the session, on disk, before anybody is answered.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::recorder::RecordingDisk;
use super::tests::{begin, key, keys_below, on_recorder, open, session, sha256};
use crate::layout::{Place, Prefix};
use crate::oci::Algorithm;
use crate::store::{Depth, ObjectStore, Step, Upload};

/// Enough for the disk to be asked to begin writing.
const MANY_BYTES: usize = 40_000_000;

/// A PATCH during which the disk loses what it had taken; whether it was answered as if nothing had happened.
async fn patch_that_the_disk_loses(upload: &mut dyn Upload, disk: &RecordingDisk) -> bool {
    upload.append("abc".into()).await.unwrap();
    upload.persist().await.unwrap();
    disk.refuses_file_syncs.store(true, Ordering::SeqCst);
    let mut left = MANY_BYTES;
    while left > 0 && upload.append(vec![7; 1_000_000].into()).await.is_ok() {
        left -= 1_000_000;
    }
    let is_answered = upload.persist().await.is_ok();
    // The kernel says it once.
    disk.refuses_file_syncs.store(false, Ordering::SeqCst);
    is_answered
}

#[tokio::test]
async fn a_failed_writeback_ends_the_session_before_any_answer() {
    let (root, disk, store) = on_recorder();
    let mut upload = begin(&store).await;
    let is_answered = patch_that_the_disk_loses(upload.as_mut(), &disk).await;
    assert!(!is_answered, "202 for bytes that the disk has lost");
    let directory = root.path().join(session().as_str());
    assert!(!directory.exists(), "lost bytes are kept for a restart");
    // The same sitting goes on: bytes, and the end.
    upload.append("more".into()).await.unwrap();
    assert!(upload.persist().await.is_err());
    assert!(
        upload
            .finish(&sha256(b"abcmore"), Vec::new())
            .await
            .is_err()
    );
    // The session was put out of memory; the process was started again.
    assert!(store.resume_upload(&session()).await.unwrap().is_none());
    drop(store);
    let store = open(root.path(), Some("this-boot"));
    assert!(store.resume_upload(&session()).await.unwrap().is_none());
    let blobs: Prefix = "docker/registry/v2/blobs/".parse().unwrap();
    assert!(keys_below(&store, &blobs, Depth::All).await.is_empty());
}

#[tokio::test]
async fn lost_bytes_are_refused_also_where_they_cannot_be_removed() {
    let (root, disk, store) = on_recorder();
    let mut upload = begin(&store).await;
    disk.refuses_removals.store(true, Ordering::SeqCst);
    let is_answered = patch_that_the_disk_loses(upload.as_mut(), &disk).await;
    assert!(!is_answered, "202 for bytes that the disk has lost");
    drop(upload);
    for _ in 0..2 {
        let resumed = store.resume_upload(&session()).await;
        assert!(
            !matches!(resumed, Ok(Some(_))),
            "lost bytes are taken up again"
        );
    }
    // Another process knows nothing of it, and finds nothing that it could trust.
    let later = open(root.path(), Some("this-boot"));
    if let Some(mut upload) = later.resume_upload(&session()).await.unwrap() {
        let digest = upload.digest(Algorithm::Sha256).await.unwrap();
        assert_eq!((upload.offset_bytes(), digest), (0, sha256(b"")));
    }
    disk.refuses_removals.store(false, Ordering::SeqCst);
    assert!(store.resume_upload(&session()).await.unwrap().is_none());
    assert!(!root.path().join(session().as_str()).exists());
    // The place is free for a session that is begun again.
    let mut upload = begin(&store).await;
    upload.append("abc".into()).await.unwrap();
    assert_eq!(upload.persist().await.unwrap(), 3);
}

#[tokio::test]
async fn a_write_that_fails_for_another_reason_than_room_ends_the_session() {
    let (_root, disk, store) = on_recorder();
    let mut upload = begin(&store).await;
    upload.append("abc".into()).await.unwrap();
    upload.persist().await.unwrap();
    disk.refuses_writes.store(true, Ordering::SeqCst);
    upload.append("def".into()).await.unwrap();
    assert!(upload.persist().await.is_err());
    disk.refuses_writes.store(false, Ordering::SeqCst);
    drop(upload);
    assert!(store.resume_upload(&session()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_session_that_is_given_up_leaves_nothing_to_one_in_the_same_place() {
    let (_root, disk, store) = on_recorder();
    let mut upload = begin(&store).await;
    patch_that_the_disk_loses(upload.as_mut(), &disk).await;
    upload.abort().await.unwrap();
    let mut upload = begin(&store).await;
    upload.append("abc".into()).await.unwrap();
    let digest = upload.digest(Algorithm::Sha256).await.unwrap();
    assert_eq!(digest, sha256(b"abc"));
    upload.finish(&digest, Vec::new()).await.unwrap();
}

async fn push(store: &dyn ObjectStore, content: &'static str) {
    let prefix = session();
    let mut upload = store.open_upload(&prefix, None).await.unwrap();
    upload
        .append(Bytes::from_static(content.as_bytes()))
        .await
        .unwrap();
    let digest = sha256(content.as_bytes());
    upload.finish(&digest, Vec::new()).await.unwrap();
}

#[tokio::test]
async fn a_push_replaces_what_is_there_whatever_became_of_it() {
    let (root, disk, store) = on_recorder();
    let data = Place::BlobData(sha256(b"content")).key();
    let path = root.path().join(data.as_str());
    for damaged in ["content", "", "cont", "\0\0\0\0\0\0\0", "content and more"] {
        push(&store, "content").await;
        fs::write(&path, damaged).unwrap();
        push(&store, "content").await;
        let kept = disk.cut_now().durable();
        let kept = kept.get(data.as_str()).map(Vec::as_slice);
        assert_eq!(kept, Some(&b"content"[..]), "over {damaged:?}");
    }
}

#[tokio::test]
async fn a_tree_of_others_that_may_be_written_is_enough() {
    let (root, disk, store) = on_recorder();
    let tag = |tag: &str| {
        key(&format!(
            "docker/registry/v2/repositories/a/_manifests/tags/{tag}/current/link"
        ))
    };
    store.apply(vec![Step::put(tag("v1"), "1")]).await.unwrap();
    disk.belongs_to_others.store(true, Ordering::SeqCst);
    let tags = root
        .path()
        .join("docker/registry/v2/repositories/a/_manifests/tags");
    let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let before = time(&tags);
    store.apply(vec![Step::put(tag("v2"), "1")]).await.unwrap();
    store.apply(vec![Step::put(tag("v1"), "2")]).await.unwrap();
    assert_ne!(time(&tags), before, "the move of a tag must show");
    push(&store, "content").await;
}

#[tokio::test]
async fn a_volume_that_cannot_sync_directories_is_served() {
    let (root, disk, store) = on_recorder();
    disk.cannot_sync_directories.store(true, Ordering::SeqCst);
    store
        .apply(vec![Step::put(key("a/b/c"), "1")])
        .await
        .unwrap();
    push(&store, "content").await;
    assert!(root.path().join("a/b/c").exists());
}
