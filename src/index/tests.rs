//! What the registry is told, on the model and on sled.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::queue::QUEUED_EVENTS_MAX;
use super::recorder::RecordingDisk;
use super::*;
use crate::clock::ManualClock;
use crate::heartbeat::{Pulse, STILL_AFTER};
use crate::oci::Algorithm;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at_unix_secs(1_000))
}

pub(super) fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

pub(super) fn digest(number: u64) -> Digest {
    Digest::of(Algorithm::Sha256, &number.to_be_bytes())
}

pub(super) fn tag(text: &str, number: u64) -> Fact {
    Fact::Tag(text.parse().unwrap(), digest(number))
}

fn stamp(text: &str) -> Stamp {
    Stamp(text.into())
}

pub(super) fn revision(number: u64, subject: Option<u64>) -> Revision {
    Revision {
        digest: digest(number),
        size_bytes: number,
        is_index: false,
        subject: subject.map(digest),
    }
}

pub(super) async fn tag_names(index: &Index, of: &str) -> Vec<String> {
    let name = name(of);
    let tags = index.read(move |view| view.tags(&name, None).into_vec());
    let tags = tags.await.unwrap();
    tags.into_iter().map(|(tag, _)| tag.to_string()).collect()
}

/// An index on sled, and the directory that must outlive it.
pub(super) fn on_disk(
    disk: &Arc<RecordingDisk>,
    clock: &Arc<ManualClock>,
) -> (Index, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        directory: directory.path().join("index"),
        store_id: "store".to_owned(),
    };
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    (Index::open_on(&settings, clock, disk).unwrap(), directory)
}

#[tokio::test]
async fn the_model_lists_what_was_recorded() {
    lists(&Index::in_memory(clock())).await;
}

#[tokio::test]
async fn sled_lists_what_was_recorded() {
    let (index, _directory) = on_disk(&RecordingDisk::new(), &clock());
    lists(&index).await;
}

async fn lists(index: &Index) {
    for repository in ["b", "a-b", "a/b", "a"] {
        index.record(&name(repository), vec![Fact::Known]);
    }
    let facts = vec![
        tag("v10", 1),
        tag("v9", 1),
        tag("V1", 2),
        Fact::Revision(revision(1, None)),
        Fact::Revision(revision(7, Some(1))),
        Fact::Revision(revision(8, Some(1))),
        Fact::Revision(revision(9, Some(2))),
        Fact::Opaque(digest(9)),
        Fact::Layer(digest(5)),
        Fact::Size(digest(5), 55),
        Fact::Edge {
            parent: digest(1),
            child: Child {
                digest: digest(5),
                size_bytes: 55,
                kind: ChildKind::Blob,
            },
        },
        Fact::Stamp(stamp("one")),
    ];
    index.record(&name("a"), facts);
    index.record(&name("a/b"), vec![Fact::Layer(digest(5)), tag("x", 3)]);
    index.settle().await;

    index.read(first_answers).await.unwrap();
    index.forget(
        &name("a"),
        vec![
            Forget::Tag("v9".parse().unwrap()),
            Forget::Revision(digest(7)),
            Forget::Revision(digest(9)),
            Forget::Layer(digest(5)),
            Forget::Stamp,
        ],
    );
    index.forget_content(vec![digest(1)]);
    index.settle().await;
    assert_eq!(tag_names(index, "a").await, ["V1", "v10"]);
    index.read(last_answers).await.unwrap();
    let totals = Totals {
        repositories: 4,
        tags: 3,
        revisions: 2,
        referrers: 1,
        layers: 1,
        edges: 0,
        sizes: 1,
        blobs: 3,
        held_bytes: 55,
        stored_bytes: 55,
        // With three holders and the totals of two repositories.
        keys: 17,
    };
    assert_eq!(index.totals(), totals);
}

fn first_answers(view: &View) -> Result<(), IndexError> {
    let names = view.repositories(None).into_vec()?;
    assert_eq!(names, ["a", "a-b", "a/b", "b"].map(name));
    let names = view.repositories(Some("a")).at_most(2).into_vec()?;
    assert_eq!(names, ["a-b", "a/b"].map(name));
    let tags = view.tags(&name("a"), None).into_vec()?;
    let tags: Vec<&str> = tags.iter().map(|(tag, _)| tag.as_str()).collect();
    assert_eq!(tags, ["V1", "v10", "v9"]);
    let page = view.tags(&name("a"), Some("V1")).at_most(1).into_vec()?;
    assert_eq!(page, [("v10".parse().unwrap(), digest(1))]);
    assert!(view.tags(&name("b"), None).into_vec()?.is_empty());

    let mut expected = vec![digest(7), digest(8)];
    expected.sort_unstable();
    let all = view.referrers(&name("a"), digest(1), None).into_vec()?;
    assert_eq!(all, expected);
    let first = expected.first().copied();
    let rest = view.referrers(&name("a"), digest(1), first).into_vec()?;
    assert_eq!(rest, expected[1..]);
    let revisions = view.revisions(&name("a")).into_vec()?;
    assert_eq!(revisions.len(), 4);
    assert!(revisions.contains(&revision(9, Some(2))));
    assert_eq!(view.opaque(&name("a")).into_vec()?, [digest(9)]);
    assert!(view.opaque(&name("a/b")).into_vec()?.is_empty());

    assert_eq!(view.layers(&name("a")).into_vec()?, [digest(5)]);
    let holders = view.holders(digest(5)).into_vec()?;
    assert_eq!(holders, ["a", "a/b"].map(name));
    assert!(view.is_shared(digest(5))? && !view.is_shared(digest(1))?);
    let children = view.children(digest(1)).into_vec()?;
    assert_eq!(children[0].size_bytes, 55);
    assert_eq!(view.size(digest(6))?, None);
    assert_eq!(view.size(digest(5))?, Some(55));
    assert_eq!(view.blobs().into_vec()?, [(digest(5), 55)]);
    assert_eq!(view.stamp(&name("a"))?, Some(stamp("one")));
    assert_eq!(view.stamp(&name("b"))?, None);
    let totals = RepositoryTotals {
        tags: 3,
        revisions: 4,
        referrers: 3,
        layers: 1,
        bytes: 55,
        unique_bytes: 0,
    };
    assert_eq!(view.repository_totals(&name("a"))?, totals);
    assert_eq!(
        view.repository_totals(&name("b"))?,
        RepositoryTotals::default()
    );
    Ok(())
}

fn last_answers(view: &View) -> Result<(), IndexError> {
    let left = view.referrers(&name("a"), digest(1), None).into_vec()?;
    assert_eq!(left, [digest(8)]);
    assert_eq!(view.holders(digest(5)).into_vec()?, ["a/b"].map(name));
    assert!(view.children(digest(1)).into_vec()?.is_empty());
    assert!(view.opaque(&name("a")).into_vec()?.is_empty());
    assert_eq!(view.stamp(&name("a"))?, None);
    assert_eq!(view.repository_totals(&name("a/b"))?.unique_bytes, 55);
    Ok(())
}

#[tokio::test]
async fn a_revision_that_comes_and_goes_in_one_group_leaves_nothing() {
    let index = Index::in_memory(clock());
    for _ in 0..20 {
        index.record(&name("a"), vec![Fact::Revision(revision(7, Some(1)))]);
        index.forget(&name("a"), vec![Forget::Revision(digest(7))]);
    }
    index.settle().await;
    assert_eq!(index.totals().referrers, 0);
    assert_eq!(index.totals().revisions, 0);
}

#[tokio::test]
async fn a_re_read_replaces_everything_and_loses_nothing_that_happened_meanwhile() {
    let index = Index::in_memory(clock());
    let a = name("a");
    let facts = vec![tag("old", 1), tag("kept", 1), Fact::Layer(digest(5))];
    index.record(&a, facts);
    index.settle().await;
    let reread = index.reread(&a);
    // Written to the store after the listing had passed its place.
    index.record(&a, vec![tag("new", 2)]);
    index.forget(&a, vec![Forget::Tag("gone".parse().unwrap())]);
    index.settle().await;
    let facts = vec![tag("kept", 3), tag("gone", 1)];
    index
        .replace_repository(reread, facts, Some(stamp("s")))
        .await
        .unwrap();
    assert_eq!(tag_names(&index, "a").await, ["kept", "new"]);
    assert_eq!(index.stamp(&a).await.unwrap(), Some(stamp("s")));
    assert_eq!(index.totals().layers, 0);
    let holders = index.read(|view| view.holders(digest(5)).into_vec()).await;
    assert!(holders.unwrap().is_empty());

    let reread = index.reread(&a);
    let forgotten = index.replace_repository(reread, Vec::new(), None).await;
    forgotten.unwrap();
    assert_eq!(index.totals(), Totals::default());
}

#[tokio::test]
async fn a_large_repository_is_replaced_in_many_commits() {
    let index = Index::in_memory(clock());
    let facts =
        |to: u64| -> Vec<Fact> { (0..to).map(|at| tag(&format!("t{at:05}"), at)).collect() };
    let reread = index.reread(&name("a"));
    index
        .replace_repository(reread, facts(5_000), Some(stamp("1")))
        .await
        .unwrap();
    assert_eq!(index.totals().tags, 5_000);
    assert!(index.statistics().commits >= 5);
    let reread = index.reread(&name("a"));
    index
        .replace_repository(reread, facts(3), Some(stamp("2")))
        .await
        .unwrap();
    assert_eq!(tag_names(&index, "a").await, ["t00000", "t00001", "t00002"]);
    assert_eq!(index.totals().tags, 3);
}

#[tokio::test]
async fn what_does_not_fit_leaves_its_repository_unread() {
    let disk = RecordingDisk::new();
    let (index, _directory) = on_disk(&disk, &clock());
    let (a, b) = (name("a"), name("b"));
    index.record(&a, vec![tag("t", 1), Fact::Stamp(stamp("s"))]);
    index.record(&b, vec![Fact::Stamp(stamp("s"))]);
    index.settle().await;
    let held = disk.gate.lock().unwrap();
    let many = || vec![tag("full", 2); QUEUED_EVENTS_MAX / 2];
    // The first is on its way to the disk or waits; then there is no room.
    for _ in 0..4 {
        index.record(&a, many());
    }
    index.record(&a, vec![Fact::Stamp(stamp("newer"))]);
    assert!(index.freshness().is_in_doubt(&a) && !index.freshness().is_in_doubt(&b));
    assert!(index.statistics().dropped_batches > 0);
    drop(held);
    index.settle().await;
    index.record(&a, vec![Fact::Stamp(stamp("vouches for what was dropped"))]);
    index.settle().await;
    assert_eq!(index.stamp(&a).await.unwrap(), None);
    let recorded = index.read(|view| view.stamp(&name("a"))).await.unwrap();
    assert_eq!(recorded, None, "a restart would not see what is missing");
    assert_eq!(index.stamp(&b).await.unwrap(), Some(stamp("s")));

    let reread = index.reread(&a);
    let facts = vec![tag("read", 3)];
    index
        .replace_repository(reread, facts, Some(stamp("read")))
        .await
        .unwrap();
    assert!(!index.freshness().is_in_doubt(&a));
    assert_eq!(index.stamp(&a).await.unwrap(), Some(stamp("read")));
    assert_eq!(tag_names(&index, "a").await, ["read"]);
}

#[tokio::test]
async fn a_drop_during_a_re_read_asks_for_another() {
    let disk = RecordingDisk::new();
    let (index, _directory) = on_disk(&disk, &clock());
    let reread = index.reread(&name("a"));
    index.record(&name("a"), vec![Fact::Known; QUEUED_EVENTS_MAX + 1]);
    let facts = vec![tag("t", 1)];
    index
        .replace_repository(reread, facts, Some(stamp("s")))
        .await
        .unwrap();
    assert!(index.freshness().is_in_doubt(&name("a")));
    assert_eq!(index.stamp(&name("a")).await.unwrap(), None);
    assert_eq!(tag_names(&index, "a").await, ["t"]);
}

#[tokio::test]
async fn more_events_during_a_re_read_than_it_can_keep_ask_for_another() {
    let index = Index::in_memory(clock());
    let a = name("a");
    let reread = index.reread(&a);
    for number in 0..=queue::REREAD_EVENTS_MAX as u64 {
        index.record(&a, vec![tag(&format!("t{number}"), number)]);
        if number % 1_000 == 0 {
            index.settle().await;
        }
    }
    // As the store was before all of that.
    let replaced = index.replace_repository(reread, vec![tag("old", 1)], Some(stamp("s")));
    replaced.await.unwrap();
    assert!(
        !index.freshness().may_list(&a),
        "a list would show what the re-read has not kept"
    );
    assert!(index.freshness().take_waiting().read.contains(&a));
    assert_eq!(index.stamp(&a).await.unwrap(), None);
}

#[tokio::test]
async fn a_full_disk_degrades_and_room_heals() {
    let (disk, clock) = (RecordingDisk::new(), clock());
    let (index, _directory) = on_disk(&disk, &clock);
    index.record(&name("a"), vec![tag("before", 1)]);
    index.settle().await;
    disk.is_full.store(true, Ordering::Relaxed);
    index.record(&name("a"), vec![tag("lost", 1)]);
    index.settle().await;
    let Health::Degraded { reason, since } = index.health() else {
        panic!("{:?}", index.health());
    };
    assert!(
        reason.starts_with("too little free space for the index"),
        "{reason}"
    );
    assert_eq!(since, clock.now());
    assert!(index.freshness().is_in_doubt(&name("a")));
    let asked = index
        .read(|view| view.tags(&name("a"), None).into_vec())
        .await;
    assert!(matches!(asked, Err(IndexError::Unavailable { .. })));

    // Still full at the first attempt.
    clock.advance(Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(matches!(index.health(), Health::Degraded { .. }));
    disk.is_full.store(false, Ordering::Relaxed);
    clock.advance(Duration::from_mins(1));
    until(&index, |health| matches!(health, Health::Rebuilding { .. })).await;
    assert_eq!(index.statistics().quarantines, 0);
    assert!(tag_names(&index, "a").await.contains(&"before".to_owned()));
    assert_eq!(index.stamp(&name("a")).await.unwrap(), None);
}

pub(super) async fn until(index: &Index, wanted: impl Fn(&Health) -> bool) {
    for _ in 0..400 {
        if wanted(&index.health()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("still {:?}", index.health());
}

#[tokio::test]
async fn what_was_settled_survives_a_power_cut() {
    let (disk, clock) = (RecordingDisk::new(), clock());
    let (index, directory) = on_disk(&disk, &clock);
    let after = directory.path().join("after");
    for round in 0..10_u64 {
        let facts = vec![tag(&format!("t{round}"), round), Fact::Layer(digest(round))];
        index.record(&name("a"), facts);
        index.settle().await;
        let to = after.join(round.to_string());
        disk.cut_power(&directory.path().join("index"), &to);
    }
    for round in 0..10_usize {
        let settings = Settings {
            directory: after.join(round.to_string()).join("index"),
            store_id: "store".to_owned(),
        };
        let index = Index::open(&settings, Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
        index.settle().await;
        let tags = tag_names(&index, "a").await;
        assert!(
            tags.len() == round + 1 && index.statistics().quarantines == 0,
            "settled, and lost by the power cut in round {round}: {tags:?}"
        );
        assert_eq!(index.totals().layers, round as u64 + 1);
    }
}

#[tokio::test]
async fn nothing_is_written_where_nothing_changes() {
    let disk = RecordingDisk::new();
    let (index, _directory) = on_disk(&disk, &clock());
    index.record(&name("a"), vec![tag("t", 1)]);
    index.settle().await;
    let syncs = disk.file_syncs.load(Ordering::Relaxed);
    index.record(&name("a"), vec![tag("t", 1)]);
    index.settle().await;
    assert_eq!(disk.file_syncs.load(Ordering::Relaxed), syncs);
}

#[tokio::test]
async fn a_writer_that_hangs_shows_and_one_that_rests_does_not() {
    let (disk, clock) = (RecordingDisk::new(), clock());
    let (index, _directory) = on_disk(&disk, &clock);
    index.settle().await;
    let heartbeat = index.heartbeat();
    clock.advance(STILL_AFTER);
    // It rests a moment after it has answered.
    for _ in 0..400 {
        if heartbeat.pulse() == Pulse::Well {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(heartbeat.pulse(), Pulse::Well);
    let held = disk.gate.lock().unwrap();
    index.record(&name("a"), vec![Fact::Known]);
    while !matches!(heartbeat.pulse(), Pulse::Still(_)) {
        clock.advance(STILL_AFTER);
        std::thread::sleep(Duration::from_millis(25));
    }
    drop(held);
    index.settle().await;
    assert_eq!(heartbeat.pulse(), Pulse::Well);
}

/// Opens once, and panics when it is to begin anew.
struct Fragile(Memory);

impl Source for Fragile {
    fn open(&mut self) -> Result<home::Opened, IndexError> {
        self.0.open()
    }

    fn set_aside(&mut self, _why: &str) -> Result<(), IndexError> {
        panic!("on purpose")
    }

    fn closed(&mut self, books: &ledger::Books) -> Result<(), IndexError> {
        self.0.closed(books)
    }
}

#[tokio::test]
async fn nobody_waits_for_a_writer_that_has_panicked() {
    let clock = clock();
    let index = Index::start(Box::new(Fragile(Memory)), None, clock).unwrap();
    index.start_over("a test says so");
    until(&index, |health| matches!(health, Health::Degraded { .. })).await;
    index.settle().await;
    let reread = index.reread(&name("a"));
    let replaced = index.replace_repository(reread, vec![Fact::Known], None);
    assert!(matches!(
        replaced.await,
        Err(IndexError::Unavailable { .. })
    ));
    index.record(&name("a"), vec![Fact::Known]);
    assert!(
        index.freshness().is_in_doubt(&name("a")),
        "lists must come from the store"
    );
    let heartbeat = index.heartbeat();
    for _ in 0..400 {
        if heartbeat.has_ended() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(matches!(heartbeat.pulse(), Pulse::Still(standing) if standing.has_ended));
}

/// Waits at each new beginning until a test lets it go on.
struct Gated(Memory, std::sync::mpsc::Receiver<()>);

impl Source for Gated {
    fn open(&mut self) -> Result<home::Opened, IndexError> {
        self.0.open()
    }

    fn set_aside(&mut self, _why: &str) -> Result<(), IndexError> {
        self.1.recv().unwrap();
        Ok(())
    }

    fn closed(&mut self, books: &ledger::Books) -> Result<(), IndexError> {
        self.0.closed(books)
    }
}

#[tokio::test]
async fn a_stamp_that_waited_does_not_vouch_for_a_new_database() {
    let (go_on, gate) = std::sync::mpsc::channel();
    let index = Index::start(Box::new(Gated(Memory, gate)), None, clock()).unwrap();
    let set_aside = || index.statistics().quarantines;
    index.start_over("a test says so");
    while set_aside() < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // In this order in one group: the stamp was recorded for the database that the writer gives up first.
    index.record(&name("a"), vec![Fact::Known, Fact::Stamp(stamp("old"))]);
    index.start_over("a test says so again");
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    while set_aside() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    index.settle().await;
    assert_eq!(
        index.stamp(&name("a")).await.unwrap(),
        None,
        "a stamp vouches for what is not in the database"
    );
}

#[tokio::test]
async fn as_many_links_are_read_for_a_blob_that_is_nowhere_as_for_one_of_thousands() {
    let index = Index::in_memory(clock());
    for number in 0..1_000 {
        let facts = vec![Fact::Layer(digest(1)), Fact::Layer(digest(1_000 + number))];
        index.record(&name(&format!("other/{number}")), facts);
    }
    index.record(&name("team/base"), vec![Fact::Layer(digest(1))]);
    index.settle().await;
    let mut nowhere: Vec<u64> = (5_000..5_050).collect();
    nowhere.push(1);
    for number in nowhere {
        let (wanted, near) = (digest(number), name("team/app"));
        let links = index.read(move |view| view.links_near(wanted, &near, 16));
        let links = links.await.unwrap();
        assert_eq!(links.len(), 32, "the time tells who has {number}");
        let found = links.contains(&(digest(1), name("team/base")));
        assert!(found || number != 1, "not found in its own name space");
    }
}
