//! Every damage is healed: set aside, said so, filled again.
//!
//! Each test damages an index that was filled and closed in order, opens it, and fills it again. A damaged index may answer
//! nothing, or what was recorded, never anything else.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::engine::{Engine as _, Op, Tree};
use super::recorder::RecordingDisk;
use super::sled_engine::SledEngine;
use super::tests::{digest, name, tag, tag_names, until};
use super::*;
use crate::clock::ManualClock;
use crate::telemetry::kept::KeptLog;

const TAGS: u64 = 300;

struct World {
    directory: tempfile::TempDir,
    clock: Arc<ManualClock>,
    log: KeptLog,
}

impl World {
    /// With an index that was filled, and closed in order.
    async fn new() -> Self {
        let world = Self {
            directory: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::at_unix_secs(1_000)),
            log: KeptLog::default(),
        };
        let index = world.open();
        assert_eq!(index.statistics().quarantines, 0);
        world.fill(&index).await;
        index.close().await;
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn settings(&self) -> Settings {
        Settings {
            directory: self.path("index"),
            store_id: "store".to_owned(),
        }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<dyn Clock>
    }

    /// Opens it; what is logged meanwhile by this thread is kept.
    fn open(&self) -> Index {
        let log = tracing_subscriber::fmt().with_writer(self.log.clone());
        tracing::subscriber::with_default(log.with_ansi(false).finish(), || {
            Index::open(&self.settings(), self.clock()).unwrap()
        })
    }

    async fn fill(&self, index: &Index) {
        until(index, |health| matches!(health, Health::Rebuilding { .. })).await;
        let rebuild = index.begin_rebuild(Some(3));
        for repository in ["a", "b", "c"] {
            let facts = (0..TAGS).map(|at| tag(&format!("t{at:03}"), at)).collect();
            let reread = index.reread(&name(repository));
            let stamp = Some(Stamp(b"stamp".to_vec()));
            rebuild.load(reread, facts, stamp).await.unwrap();
        }
        let health = index.health();
        assert_eq!(
            health,
            Health::Rebuilding {
                done: 3,
                total: Some(3)
            }
        );
        rebuild.finish().await.unwrap();
        assert_eq!(index.health(), Health::Healthy);
        assert!(self.is_right(index).await);
    }

    /// Whether everything is there; anything else than what was recorded is an error.
    async fn is_right(&self, index: &Index) -> bool {
        let mut is_whole = true;
        for repository in ["a", "b", "c"] {
            let tags = index.read(move |view| view.tags(&name(repository), None).into_vec());
            let Ok(tags) = tags.await else {
                return false;
            };
            for (tag, digest_of_tag) in &tags {
                let number = tag.as_str()[1..].parse().unwrap();
                assert_eq!(*digest_of_tag, digest(number), "a wrong answer");
            }
            is_whole &= tags.len() as u64 == TAGS;
        }
        is_whole
    }

    /// Opens the damaged index, checks that it was set aside because of `why`, and fills it again.
    async fn expect_healed(&self, why: &str) {
        let index = self.open();
        assert_eq!(index.statistics().quarantines, 1, "{why}");
        let log = self.log.text();
        for expected in [
            why,
            "set aside",
            "filled again from the store",
            "Nothing is lost",
            "index.bad-1000",
        ] {
            assert!(log.contains(expected), "{expected}: {log}");
        }
        assert!(self.path("index.bad-1000").exists());
        assert_eq!(tag_names(&index, "a").await, [""; 0]);
        self.fill(&index).await;
        index.close().await;
        let index = self.open();
        assert_eq!(index.health(), Health::Healthy);
        assert!(self.is_right(&index).await);
    }
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

fn snapshots(world: &World) -> Vec<PathBuf> {
    let entries = fs::read_dir(world.path("index")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_string_lossy().contains("/snap."))
        .collect()
}

#[tokio::test]
async fn a_filled_index_opens_again_and_has_a_snapshot() {
    let world = World::new().await;
    assert!(!snapshots(&world).is_empty());
    let index = world.open();
    assert_eq!(index.health(), Health::Healthy);
    assert_eq!(index.totals().tags, 3 * TAGS);
    assert!(world.is_right(&index).await);
}

#[tokio::test]
async fn a_flipped_byte_is_never_a_wrong_answer() {
    let world = World::new().await;
    let kept = world.path("kept");
    copy(&world.path("index"), &kept);
    let state = fs::read(world.path("index.state")).unwrap();
    let length = fs::metadata(kept.join("db")).unwrap().len();
    let mut healed = 0;
    for round in 0..24 {
        fs::remove_dir_all(world.path("index")).unwrap();
        copy(&kept, &world.path("index"));
        fs::write(world.path("index.state"), &state).unwrap();
        // Spread over the file, more where it begins, since its end is empty.
        flip(
            &world.path("index/db"),
            length * round * round / 24 / 24 + 20,
        );
        let index = world.open();
        let is_whole = world.is_right(&index).await;
        index.settle().await;
        until(&index, |health| match health {
            Health::Healthy => is_whole,
            Health::Rebuilding { .. } => true,
            Health::Checking | Health::Degraded { .. } => false,
        })
        .await;
        if index.health() != Health::Healthy {
            healed += 1;
            world.fill(&index).await;
        }
    }
    assert!(healed > 0, "no flip had any effect");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let new = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &new);
        } else {
            fs::copy(&path, &new).unwrap();
        }
    }
}

#[tokio::test]
async fn a_truncated_database_is_healed() {
    let world = World::new().await;
    let file = OpenOptions::new().write(true).open(world.path("index/db"));
    file.unwrap().set_len(4_096).unwrap();
    world.expect_healed("the index is not used any more").await;
}

#[tokio::test]
async fn a_deleted_database_is_healed() {
    let world = World::new().await;
    fs::remove_file(world.path("index/db")).unwrap();
    world.expect_healed("the index is not used any more").await;
}

#[tokio::test]
async fn a_deleted_database_without_a_snapshot_is_healed_although_sled_opens_it_as_empty() {
    let world = World::new().await;
    fs::remove_file(world.path("index/db")).unwrap();
    for snapshot in snapshots(&world) {
        fs::remove_file(snapshot).unwrap();
    }
    world.expect_healed("it is empty, or none of ours").await;
}

#[tokio::test]
async fn a_deleted_state_is_healed() {
    let world = World::new().await;
    fs::remove_file(world.path("index.state")).unwrap();
    world.expect_healed("index.state) is missing").await;
}

#[tokio::test]
async fn a_deleted_index_is_filled_again() {
    let world = World::new().await;
    fs::remove_dir_all(world.path("index")).unwrap();
    let index = world.open();
    assert_eq!(index.statistics().quarantines, 0);
    world.fill(&index).await;
}

#[tokio::test]
async fn foreign_files_are_healed() {
    let world = World::new().await;
    fs::write(world.path("index/db"), vec![b'?'; 1 << 20]).unwrap();
    world.expect_healed("the index is not used any more").await;
}

#[tokio::test]
async fn a_file_in_the_place_of_the_index_is_healed() {
    let world = World::new().await;
    fs::remove_dir_all(world.path("index")).unwrap();
    fs::write(world.path("index"), "not a database").unwrap();
    world.expect_healed("the index is not used any more").await;
}

#[tokio::test]
async fn the_index_of_another_store_is_set_aside() {
    let world = World::new().await;
    let settings = Settings {
        store_id: "another".to_owned(),
        ..world.settings()
    };
    let index = Index::open(&settings, world.clock()).unwrap();
    assert_eq!(index.statistics().quarantines, 1);
    drop(index);
    world.expect_healed("it belongs to another store").await;
}

#[tokio::test]
async fn an_index_of_an_older_layout_is_set_aside() {
    let world = World::new().await;
    // As version 2 wrote it, with one count for each of the trees that it had.
    let books = r#"{"schema":2,"store_id":"store","generation":2,"sequence":7,"is_complete":true,"counts":[0,3,900,0,0,0,0,0,0,3]}"#;
    let (tree, key) = (Tree::Meta, b"books".to_vec());
    let value = Some(ledger::seal(tree, &key, books.as_bytes()));
    tamper(&world, Op { tree, key, value });
    world
        .expect_healed("it was written by another version")
        .await;
}

#[tokio::test]
async fn an_older_copy_put_back_is_set_aside() {
    let world = World::new().await;
    copy(&world.path("index"), &world.path("kept"));
    let index = world.open();
    index.record(&name("a"), vec![tag("t999", 999)]);
    index.close().await;
    fs::remove_dir_all(world.path("index")).unwrap();
    fs::rename(world.path("kept"), world.path("index")).unwrap();
    world
        .expect_healed("it is not the one that was last in use")
        .await;
}

#[tokio::test]
async fn a_torn_snapshot_of_an_opening_that_was_killed_is_no_trap() {
    let world = World::new().await;
    let newest = snapshots(&world).into_iter().max().unwrap();
    let bytes = fs::read(&newest).unwrap();
    let torn = world.path("index/snap.FFFFFFFFFFFFFF00.generating");
    fs::write(&torn, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(world.path("index.opening"), "1").unwrap();
    let index = world.open();
    assert_eq!(index.health(), Health::Healthy);
    assert!(world.is_right(&index).await);
    assert!(!torn.exists() && !world.path("index.opening").exists());
}

#[tokio::test]
async fn two_openings_that_came_to_no_end_are_enough() {
    let world = World::new().await;
    fs::write(world.path("index.opening"), "2").unwrap();
    world
        .expect_healed("the last two starts ended while opening it")
        .await;
}

#[tokio::test]
async fn an_opening_on_a_full_disk_says_so_and_touches_nothing() {
    let world = World::new().await;
    let disk = RecordingDisk::new();
    disk.is_full.store(true, Ordering::Relaxed);
    let disk = disk as Arc<dyn Disk>;
    let error = Index::open_on(&world.settings(), world.clock(), disk)
        .err()
        .unwrap();
    assert!(matches!(error, IndexError::Full { .. }), "{error}");
    assert!(error.hint().unwrap().contains("make room"));
    let index = world.open();
    assert_eq!(index.health(), Health::Healthy);
    assert_eq!(index.statistics().quarantines, 0);
}

#[tokio::test]
async fn an_index_that_is_opened_beside_its_owner_answers_once_there_is_room() {
    let world = World::new().await;
    let disk = RecordingDisk::new();
    disk.is_full.store(true, Ordering::Relaxed);
    let shared_disk = Arc::clone(&disk) as Arc<dyn Disk>;
    let index = Index::open_beside_on(&world.settings(), world.clock(), shared_disk).unwrap();
    super::tests::until(&index, |health| matches!(health, Health::Degraded { .. })).await;
    let second = Index::open_beside(&world.settings(), world.clock()).err();
    assert!(matches!(second, Some(IndexError::InUse { .. })));
    // What comes meanwhile is not lost without a trace.
    index.record(&name("a"), vec![tag("late", 7)]);
    index.settle().await;
    assert!(index.freshness().is_in_doubt(&name("a")));
    disk.is_full.store(false, Ordering::Relaxed);
    world.clock.advance(std::time::Duration::from_secs(2));
    super::tests::until(&index, |health| *health == Health::Healthy).await;
    assert!(world.is_right(&index).await);
    assert_eq!(index.statistics().quarantines, 0);
}

#[tokio::test]
async fn a_second_opening_is_refused_while_the_first_lives() {
    let world = World::new().await;
    let first = world.open();
    let error = Index::open(&world.settings(), world.clock()).err().unwrap();
    assert!(matches!(error, IndexError::InUse { .. }));
    assert!(
        error
            .to_string()
            .starts_with("another instance is using the index")
    );
    assert!(error.hint().unwrap().contains("stop the other instance"));
    drop(first);
    let again = world.open();
    assert_eq!(again.health(), Health::Healthy);
}

#[tokio::test]
async fn an_index_deleted_after_a_kill_is_filled_again() {
    let world = World::new().await;
    forget_closing(&world);
    fs::remove_dir_all(world.path("index")).unwrap();
    let index = world.open();
    until(&index, |health| {
        matches!(
            health,
            Health::Rebuilding { .. } | Health::Checking | Health::Healthy
        )
    })
    .await;
    assert_eq!(
        index.statistics().quarantines,
        0,
        "nothing is left to set aside"
    );
    world.fill(&index).await;
    assert!(world.is_right(&index).await);
}

/// What a killed process leaves: nothing says that it was closed.
fn forget_closing(world: &World) {
    let state = fs::read_to_string(world.path("index.state")).unwrap();
    let generation = state.lines().next().unwrap();
    let open = format!("{generation}\nclosed no\n");
    fs::write(world.path("index.state"), open).unwrap();
}

#[tokio::test]
async fn an_index_that_was_not_closed_is_checked_and_goes_on() {
    let world = World::new().await;
    forget_closing(&world);
    let index = world.open();
    until(&index, |health| *health == Health::Healthy).await;
    assert_eq!(index.statistics().quarantines, 0);
    assert!(world.is_right(&index).await);
}

/// Changes the database behind the index's back.
fn tamper(world: &World, op: Op) {
    let disk = Arc::new(RealDisk);
    let engine = SledEngine::open(&world.path("index"), disk).unwrap();
    engine.commit(vec![op]).unwrap();
}

#[tokio::test]
async fn a_value_that_is_not_what_was_written_is_found_by_whoever_asks() {
    let world = World::new().await;
    let key = b"a\0t007".to_vec();
    let value = Some(vec![1; 38]);
    let tree = Tree::Tags;
    tamper(&world, Op { tree, key, value });
    let index = world.open();
    assert_eq!(index.health(), Health::Healthy);
    let asked = index
        .read(|view| view.tags(&name("a"), None).into_vec())
        .await;
    let error = asked.unwrap_err().to_string();
    assert!(error.contains("a value in tags is not what was written"));
    until(&index, |health| matches!(health, Health::Rebuilding { .. })).await;
    assert_eq!(index.statistics().quarantines, 1);
    world.fill(&index).await;
}

#[tokio::test]
async fn a_key_that_has_gone_is_found_after_an_unclean_stop() {
    let world = World::new().await;
    let (key, value) = (b"a\0t007".to_vec(), None);
    let tree = Tree::Tags;
    tamper(&world, Op { tree, key, value });
    forget_closing(&world);
    let index = world.open();
    until(&index, |health| matches!(health, Health::Rebuilding { .. })).await;
    assert_eq!(index.statistics().quarantines, 1);
    world.fill(&index).await;
}

#[tokio::test]
async fn a_rebuild_does_not_outlive_its_database() {
    let world = World::new().await;
    let index = world.open();
    let rebuild = index.begin_rebuild(None);
    let reread = index.reread(&name("a"));
    rebuild
        .load(reread, vec![tag("t001", 1)], None)
        .await
        .unwrap();
    let what = "said the test".to_owned();
    index.shared.queue.report(IndexError::Damaged { what });
    until(&index, |_| index.statistics().quarantines == 1).await;
    let error = rebuild.finish().await.unwrap_err();
    assert!(error.to_string().contains("begin again"), "{error}");
    world.fill(&index).await;
}

#[tokio::test]
async fn of_the_indexes_set_aside_the_newest_is_kept() {
    let world = World::new().await;
    fs::create_dir(world.path("index.bad-7")).unwrap();
    fs::write(world.path("index.bad-7/db"), "old").unwrap();
    fs::remove_file(world.path("index.state")).unwrap();
    world.expect_healed("index.state) is missing").await;
    assert!(!world.path("index.bad-7").exists());
}

#[tokio::test]
async fn a_rebuild_that_is_interrupted_goes_on() {
    let world = World::new().await;
    fs::remove_dir_all(world.path("index")).unwrap();
    let index = world.open();
    let rebuild = index.begin_rebuild(None);
    let reread = index.reread(&name("a"));
    let stamp = Stamp(b"stamp".to_vec());
    let facts = vec![tag("t001", 1)];
    rebuild
        .load(reread, facts, Some(stamp.clone()))
        .await
        .unwrap();
    drop(rebuild);
    index.close().await;
    let index = world.open();
    assert!(matches!(index.health(), Health::Rebuilding { .. }));
    assert_eq!(index.stamp(&name("a")).await.unwrap(), Some(stamp));
    world.fill(&index).await;
}
