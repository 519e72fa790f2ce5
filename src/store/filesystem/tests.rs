//! What only this store has: its directory, checkpoints, and disks that fill up or break.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tempfile::TempDir;

use super::recorder::RecordingDisk;
use super::{FilesystemStore, Settings, session};
use crate::clock::ManualClock;
use crate::heartbeat::{Pulse, STILL_AFTER};
use crate::layout::{Key, Place, Prefix};
use crate::oci::{Algorithm, Digest};
use crate::store::{Depth, ObjectStore, Step, StoreError, Upload, conformance};

const SESSION: &str = "docker/registry/v2/repositories/a/_uploads/1/";

pub(super) fn open(root: &Path, boot_id: Option<&str>) -> FilesystemStore {
    let settings = Settings {
        root: root.to_owned(),
        boot_id: boot_id.map(str::to_owned),
        is_readonly: false,
    };
    let clock = Arc::new(ManualClock::at_unix_secs(1_700_000_000));
    FilesystemStore::open(settings, clock).unwrap()
}

pub(super) fn on_recorder() -> (TempDir, Arc<RecordingDisk>, FilesystemStore) {
    let root = tempfile::tempdir().unwrap();
    let disk = Arc::new(RecordingDisk::new(root.path()));
    let clock = Arc::new(ManualClock::at_unix_secs(1_700_000_000));
    let store = FilesystemStore::open_on(Settings::at(root.path()), clock, disk.clone());
    (root, disk, store.unwrap())
}

pub(super) fn session() -> Prefix {
    SESSION.parse().unwrap()
}

pub(super) fn key(text: &str) -> Key {
    text.parse().unwrap()
}

pub(super) async fn begin(store: &FilesystemStore) -> Box<dyn Upload> {
    let opened = store.open_upload(&session(), None).await;
    opened.unwrap()
}

async fn resumed_digest(store: &FilesystemStore) -> Digest {
    let mut upload = store.resume_upload(&session()).await.unwrap().unwrap();
    upload.digest(Algorithm::Sha256).await.unwrap()
}

pub(super) async fn keys_below(
    store: &FilesystemStore,
    prefix: &Prefix,
    depth: Depth,
) -> Vec<String> {
    let keys = store.list(prefix, depth).map_ok(|listed| listed.key);
    keys.try_collect().await.unwrap()
}

pub(super) fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

pub(super) fn left_in(root: &Path, corner: &str) -> usize {
    let corner = root.join("boathouse").join(corner);
    fs::read_dir(corner).unwrap().count()
}

#[tokio::test]
async fn conforms() {
    let base = tempfile::tempdir().unwrap();
    let number = std::sync::atomic::AtomicU32::new(0);
    conformance::check_all(|| {
        let number = number.fetch_add(1, Ordering::Relaxed).to_string();
        let store = open(&base.path().join(number), Some("this-boot"));
        let docker = store.volume.root().join("docker");
        // The committer makes them beside us, and would make one where we have just removed the others.
        let blobs = store.volume.blob_directories_parent();
        while fs::read_dir(&blobs).unwrap().count() < 256 {
            std::thread::yield_now();
        }
        // The checks list all there is, also directories.
        fs::remove_dir_all(docker).unwrap();
        store
    })
    .await;
}

#[tokio::test]
async fn lists_only_what_belongs_to_the_registry() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), None);
    let odd = std::ffi::OsStr::from_bytes(b"not-\xff-text");
    fs::write(root.path().join(odd), "").unwrap();
    fs::write(root.path().join("boathouse/secret"), "").unwrap();
    for depth in [Depth::One, Depth::All] {
        let keys = keys_below(&store, &Prefix::everything(), depth).await;
        let expected: &[&str] = if depth == Depth::One {
            &["docker/"]
        } else {
            &[]
        };
        assert_eq!(keys, expected);
    }
    // The first change comes after what a start makes beside the first answers.
    let nothing = Step::Remove(Place::BlobData(sha256(b"nothing")).key());
    store.apply(vec![nothing]).await.unwrap();
    let blobs: Prefix = "docker/registry/v2/blobs/sha256/".parse().unwrap();
    let spread = keys_below(&store, &blobs, Depth::One).await;
    assert_eq!(spread.len(), 256);
}

#[tokio::test]
async fn a_listing_reads_each_directory_once_and_none_before_it_comes_to_it() {
    let (root, disk, store) = on_recorder();
    for directory in 0..5 {
        let path = root.path().join(format!("a/{directory}"));
        fs::create_dir_all(&path).unwrap();
        for number in 0..500 {
            fs::write(path.join(number.to_string()), "").unwrap();
        }
    }
    let reads = || disk.directories_read.swap(0, Ordering::SeqCst);
    reads();
    let below: Prefix = "a/0/".parse().unwrap();
    assert_eq!(keys_below(&store, &below, Depth::One).await.len(), 500);
    assert_eq!(reads(), 1);
    let all: Prefix = "a/".parse().unwrap();
    assert_eq!(keys_below(&store, &all, Depth::All).await.len(), 2_500);
    assert_eq!(reads(), 6);
    let mut listed = store.list(&all, Depth::All);
    assert_eq!(reads(), 0);
    listed.try_next().await.unwrap().unwrap();
    assert_eq!(reads(), 2);
}

#[tokio::test]
async fn a_fingerprint_is_settled_when_a_tick_of_the_clock_has_passed() {
    let root = tempfile::tempdir().unwrap();
    let clock = ManualClock::at_unix_secs(1_700_000_000);
    let settings = Settings::at(root.path());
    let store = FilesystemStore::open(settings, Arc::new(clock.clone())).unwrap();
    let tags = "docker/registry/v2/repositories/a/_manifests/tags/";
    let look = async || {
        let found = store.fingerprint(&[tags.parse().unwrap()]).await;
        found.unwrap().unwrap()
    };
    for content in ["1", "2"] {
        let tag = key(&format!("{tags}v1/current/link"));
        store.apply(vec![Step::put(tag, content)]).await.unwrap();
        // A new directory has the time of the system's clock, a changed one that of ours.
        let directory = fs::File::open(root.path().join(tags)).unwrap();
        let modified = directory.metadata().unwrap().modified().unwrap();
        directory
            .set_modified(crate::clock::Clock::now(&clock))
            .unwrap();
        assert!(!look().await.is_settled, "{modified:?}");
        clock.advance(std::time::Duration::from_millis(100));
        assert!(look().await.is_settled);
    }
}

#[tokio::test]
async fn a_start_empties_what_the_last_one_left() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path(), None));
    fs::write(root.path().join("boathouse/tmp/1"), "half").unwrap();
    fs::create_dir_all(root.path().join("boathouse/trash/1/a/b")).unwrap();
    let store = open(root.path(), None);
    store.apply(vec![Step::put(key("a/b"), "c")]).await.unwrap();
    let trees = vec![Step::remove_tree("a/".parse().unwrap(), None)];
    store.apply(trees).await.unwrap();
    assert_eq!(left_in(root.path(), "tmp"), 0);
    assert_eq!(left_in(root.path(), "trash"), 0);
}

#[tokio::test]
async fn a_directory_that_somebody_else_removed_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), None);
    for content in ["1", "2"] {
        let steps = vec![Step::put(key("docker/a/b/link"), content)];
        store.apply(steps).await.unwrap();
        fs::remove_dir_all(root.path().join("docker/a")).unwrap();
    }
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), None);
    let steps = vec![Step::put(key("a"), vec![1; 3_000_000])];
    store.apply(steps).await.unwrap();
    let content = store.read(&key("a"), None).await.unwrap();
    let file = fs::File::options().write(true).open(root.path().join("a"));
    file.unwrap().set_len(1_000_000).unwrap();
    let read: Result<Vec<Bytes>, StoreError> = content.bytes.try_collect().await;
    assert!(matches!(read, Err(StoreError::Io { .. })));
}

#[tokio::test]
async fn the_old_registry_can_read_when_a_session_began() {
    let root = tempfile::tempdir().unwrap();
    drop(begin(&open(root.path(), None)).await);
    let started_at = fs::read_to_string(root.path().join(SESSION).join("startedat"));
    assert_eq!(started_at.unwrap(), "2023-11-14T22:13:20Z");
    assert!(root.path().join(SESSION).join("data").is_file());
}

/// A session with `abc`, checkpointed, whose process has died.
async fn dead_session(boot_id: Option<&str>) -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), boot_id);
    let mut upload = begin(&store).await;
    upload.append("abc".into()).await.unwrap();
    assert_eq!(upload.persist().await.unwrap(), 3);
    let directory = root.path().join(SESSION);
    (root, directory)
}

#[tokio::test]
async fn a_checkpoint_of_this_boot_spares_the_hashing() {
    let (root, directory) = dead_session(Some("first")).await;
    // Changed behind its back, so that the digest shows whether these bytes were read again.
    fs::write(directory.join("data"), "xyzdef").unwrap();
    let digest = resumed_digest(&open(root.path(), Some("first"))).await;
    assert_eq!(digest, sha256(b"abcdef"));
}

#[tokio::test]
async fn a_checkpoint_of_another_boot_is_not_trusted() {
    for (written, resumed) in [
        (Some("first"), Some("second")),
        (Some("first"), None),
        (None, Some("first")),
        (None, None),
    ] {
        let (root, directory) = dead_session(written).await;
        // What a power cut may leave: the checkpoint, and other bytes than it was made from.
        fs::write(directory.join("data"), "xyzdef").unwrap();
        let digest = resumed_digest(&open(root.path(), resumed)).await;
        assert_eq!(
            digest,
            sha256(b"xyzdef"),
            "damaged bytes would be stored under a digest that is not theirs"
        );
    }
}

#[tokio::test]
async fn a_checkpoint_that_is_ahead_or_damaged_is_not_trusted() {
    let (root, directory) = dead_session(Some("first")).await;
    fs::write(directory.join("data"), "xy").unwrap();
    let store = open(root.path(), Some("first"));
    assert_eq!(resumed_digest(&store).await, sha256(b"xy"));
    fs::write(directory.join("data"), "xyz").unwrap();
    for damage in [
        "",
        "nonsense",
        "boathouse checkpoint 1\nboot first\noffset 3\n",
    ] {
        fs::write(directory.join(session::FILE_NAME), damage).unwrap();
        assert_eq!(resumed_digest(&store).await, sha256(b"xyz"));
    }
}

#[tokio::test]
async fn a_full_disk_leaves_an_upload_where_it_was() {
    let (root, disk, store) = on_recorder();
    let mut upload = begin(&store).await;
    upload.append("abc".into()).await.unwrap();
    upload.persist().await.unwrap();
    disk.room_bytes.store(5, Ordering::SeqCst);
    upload.append("defg".into()).await.unwrap();
    upload.append("hijk".into()).await.unwrap();
    assert!(matches!(upload.persist().await, Err(StoreError::Full)));
    assert_eq!(upload.offset_bytes(), 3);
    let data = root.path().join(SESSION).join("data");
    assert_eq!(fs::read(&data).unwrap(), b"abc");
    // Room was made, and the client goes on from where it was told.
    disk.room_bytes.store(u64::MAX, Ordering::SeqCst);
    upload.append("def".into()).await.unwrap();
    assert_eq!(upload.persist().await.unwrap(), 6);
    let digest = upload.digest(Algorithm::Sha256).await.unwrap();
    assert_eq!(digest, sha256(b"abcdef"));
}

#[tokio::test]
async fn a_full_disk_is_also_told_of_in_the_middle_of_a_long_upload() {
    let (_root, disk, store) = on_recorder();
    let mut upload = begin(&store).await;
    disk.room_bytes.store(1_500_000, Ordering::SeqCst);
    let piece = Bytes::from(vec![1; 400_000]);
    let mut result = Ok(());
    for _ in 0..20 {
        result = upload.append(piece.clone()).await;
        if result.is_err() {
            break;
        }
    }
    assert!(matches!(result, Err(StoreError::Full)));
    // One hop of three pieces had room.
    assert_eq!(upload.offset_bytes(), 1_200_000);
    let digest = upload.digest(Algorithm::Sha256).await.unwrap();
    assert_eq!(digest, sha256(&vec![1; 1_200_000]));
}

#[tokio::test]
async fn a_full_disk_leaves_no_temporary_behind() {
    let (root, disk, store) = on_recorder();
    disk.room_bytes.store(5, Ordering::SeqCst);
    let steps = vec![Step::put(key("a"), "abc"), Step::put(key("b"), "def")];
    assert!(matches!(store.apply(steps).await, Err(StoreError::Full)));
    assert_eq!(left_in(root.path(), "tmp"), 0);
    assert!(matches!(
        store.head(&key("a")).await,
        Err(StoreError::NotFound)
    ));
}

#[tokio::test]
async fn a_session_whose_bytes_the_disk_refused_is_not_resumed() {
    let (_root, disk, store) = on_recorder();
    let mut upload = begin(&store).await;
    upload.append("abc".into()).await.unwrap();
    disk.refuses_file_syncs.store(true, Ordering::SeqCst);
    assert!(upload.finish(&sha256(b"abc"), Vec::new()).await.is_err());
    disk.refuses_file_syncs.store(false, Ordering::SeqCst);
    // The next sync would succeed, and the bytes would be lost.
    assert!(store.resume_upload(&session()).await.unwrap().is_none());
    let blob = store.head(&Place::BlobData(sha256(b"abc")).key()).await;
    assert!(matches!(blob, Err(StoreError::NotFound)));
}

#[tokio::test]
async fn a_directory_that_cannot_be_synced_fails_only_who_changed_it() {
    let (_root, disk, store) = on_recorder();
    let put = |path: &str| {
        let behind = key(&format!("{path}-behind"));
        store.apply(vec![
            Step::put(key(path), "1"),
            Step::Barrier,
            Step::put(behind, "2"),
        ])
    };
    *disk.refused_directory.lock().unwrap() = Some("/broken");
    let (good, broken) = tokio::join!(put("good/a"), put("broken/a"));
    good.unwrap();
    assert!(matches!(broken, Err(StoreError::Io { .. })));
    let behind = store.head(&key("broken/a-behind")).await;
    assert!(matches!(behind, Err(StoreError::NotFound)));
    // What could not be synced does not count as durable the next time.
    *disk.refused_directory.lock().unwrap() = None;
    put("broken/a").await.unwrap();
    assert!(disk.cut_now().durable().contains_key("broken/a-behind"));
}

#[tokio::test]
async fn nobody_counts_on_a_directory_that_another_request_could_not_sync() {
    let (_root, disk, store) = on_recorder();
    *disk.refused_directory.lock().unwrap() = Some("/up");
    // Enough that some share a group, and all put below the directory that the first of them makes.
    let puts =
        (0..64).map(|number| store.apply(vec![Step::put(key(&format!("up/mid/{number}")), "1")]));
    for (number, result) in futures_util::future::join_all(puts)
        .await
        .into_iter()
        .enumerate()
    {
        assert!(result.is_err(), "request {number} was answered as durable");
    }
}

#[tokio::test]
async fn a_directory_that_another_program_removed_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), Some("first"));
    let tags = "docker/registry/v2/repositories/a/_manifests/tags";
    for tag in ["v1", "v2"] {
        let current = key(&format!("{tags}/{tag}/current/link"));
        store.apply(vec![Step::put(current, "1")]).await.unwrap();
        std::fs::remove_dir_all(root.path().join(tags)).unwrap();
    }
    // Also where only a directory further up was seen before.
    store
        .apply(vec![Step::put(key("r/seen/a"), "1")])
        .await
        .unwrap();
    std::fs::remove_dir_all(root.path().join("r")).unwrap();
    store
        .apply(vec![Step::put(key("r/new/deep/a"), "1")])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_session_whose_bytes_are_a_blob_already_is_not_taken_up() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), Some("first"));
    let mut upload = begin(&store).await;
    upload.append(Bytes::from_static(b"content")).await.unwrap();
    upload.persist().await.unwrap();
    drop(upload);
    assert!(store.resume_upload(&session()).await.unwrap().is_some());
    // What a volume without an exclusive rename leaves when the process dies between link and removal.
    let data = root.path().join(session().as_str()).join("data");
    std::fs::hard_link(&data, root.path().join("blob")).unwrap();
    assert!(store.resume_upload(&session()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_long_upload_is_written_back_while_it_arrives() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), Some("first"));
    let mut upload = begin(&store).await;
    let piece = Bytes::from(vec![5; 1_000_000]);
    for _ in 0..70 {
        upload.append(piece.clone()).await.unwrap();
    }
    let digest = sha256(&vec![5; 70_000_000]);
    upload.finish(&digest, Vec::new()).await.unwrap();
    let meta = store.head(&Place::BlobData(digest).key()).await.unwrap();
    assert_eq!(meta.size_bytes, 70_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_answer_shows() {
    let root = tempfile::tempdir().unwrap();
    let disk = Arc::new(RecordingDisk::new(root.path()));
    let clock = ManualClock::at_unix_secs(1_700_000_000);
    let shared = Arc::new(clock.clone());
    let store = FilesystemStore::open_on(Settings::at(root.path()), shared, disk.clone());
    let store = Arc::new(store.unwrap());
    store
        .apply(vec![Step::put(key("a/before"), "1")])
        .await
        .unwrap();
    let pulses = || -> Vec<Pulse> { store.heartbeats().iter().map(|beat| beat.pulse()).collect() };
    // The committer rests a moment after it has answered.
    let until_idle = async || {
        while pulses() != [Pulse::Well, Pulse::Well] {
            tokio::task::yield_now().await;
        }
    };
    clock.advance(STILL_AFTER);
    until_idle().await;

    let held = disk.gate.lock().unwrap();
    let applies = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.apply(vec![Step::put(key("a/after"), "2")]).await }
    });
    let shown = root.path().join("a/after");
    // The name is changed before the directory is synced, which is held.
    while !shown.exists() {
        std::thread::yield_now();
    }
    let names = ["the committer of the store", "writing to the store's disk"];
    let still = |pulse: Pulse| match pulse {
        Pulse::Still(standing) if !standing.has_ended => Some(standing.name),
        _ => None,
    };
    // The call may just be on its way to the gate, which is a move.
    while !pulses().into_iter().filter_map(still).eq(names) {
        clock.advance(STILL_AFTER);
        std::thread::yield_now();
    }
    drop(held);
    applies.await.unwrap().unwrap();
    until_idle().await;
}

#[tokio::test]
async fn a_committer_that_has_panicked_fails_what_is_written_and_shows() {
    let (_root, disk, store) = on_recorder();
    let poison = std::thread::spawn({
        let disk = Arc::clone(&disk);
        move || {
            let _held = disk.gate.lock().unwrap();
            panic!("on purpose: who syncs after this panics too");
        }
    });
    assert!(poison.join().is_err());
    let put = || store.apply(vec![Step::put(key("a/b"), "1")]);
    assert!(put().await.is_err());
    assert!(
        put().await.is_err(),
        "nobody waits for a thread that has ended"
    );
    let committer = store.heartbeats().remove(0);
    // The thread answers before it has ended.
    while !committer.has_ended() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(committer.pulse(), Pulse::Still(standing) if standing.has_ended));
}
