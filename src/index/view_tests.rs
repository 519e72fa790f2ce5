//! Views, on the model and on sled: lists over many parts, databases that are swapped, and names that begin alike.

use super::tests::{digest, name, on_disk, revision};
use super::*;
use crate::clock::ManualClock;

/// Names whose order as keys differs from their order as paths.
const ALIKE: [&str; 4] = ["a", "a-b", "a/b", "b"];

/// More than a page, and not a multiple of it.
const MANY: u64 = PAGE_MAX as u64 * 2 + 7;

#[tokio::test]
async fn the_model_walks_over_everything() {
    let clock = Arc::new(ManualClock::at_unix_secs(1_000));
    walks(&Index::in_memory(clock)).await;
}

#[tokio::test]
async fn sled_walks_over_everything() {
    let clock = Arc::new(ManualClock::at_unix_secs(1_000));
    let (index, _directory) = on_disk(&recorder::RecordingDisk::new(), &clock);
    assert_eq!(index.statistics().slow_commit, None);
    walks(&index).await;
    // The clock of this test stands still: there is a time, and it is nothing.
    assert_eq!(
        index.statistics().slow_commit,
        Some(std::time::Duration::ZERO)
    );
    assert!(index.disk_bytes().await > Some(0));
}

async fn walks(index: &Index) {
    let mut links = Vec::new();
    let mut manifests = Vec::new();
    for number in 0..MANY {
        // Every blob in one repository, every seventh in all of them.
        let holders = ALIKE.iter().enumerate().filter(|(at, _)| {
            let owner = usize::try_from(number % 4).unwrap();
            *at == owner || number % 7 == 0
        });
        for (_, holder) in holders {
            let facts = vec![
                Fact::Layer(digest(number)),
                Fact::Revision(revision(number, None)),
            ];
            index.record(&name(holder), facts);
            links.push((digest(number), name(holder)));
            manifests.push((name(holder), revision(number, None)));
        }
        if number % 100 == 0 {
            index.settle().await;
        }
    }
    index.settle().await;
    assert_eq!(index.statistics().dropped_batches, 0);
    links.sort_unstable();
    manifests.sort_unstable_by_key(|(name, revision)| (name.clone(), revision.digest));

    // As a blob and as a manifest.
    let twice = links.iter().flat_map(|link| [link.clone(), link.clone()]);
    let twice: Vec<_> = twice.collect();
    for limit in [7, PAGE_MAX, PAGE_MAX * 2, usize::MAX] {
        let found = index.read(move |view| view.links().at_most(limit).into_vec());
        let expected = &twice[..limit.min(twice.len())];
        assert!(found.await.unwrap() == expected, "links, up to {limit}");
        let found = index.read(move |view| view.manifests().at_most(limit).into_vec());
        let expected = &manifests[..limit.min(manifests.len())];
        assert!(found.await.unwrap() == expected, "manifests, up to {limit}");
    }
}

#[tokio::test]
async fn a_view_of_a_database_that_is_set_aside_fails() {
    let clock = Arc::new(ManualClock::at_unix_secs(1_000));
    let (index, _directory) = on_disk(&recorder::RecordingDisk::new(), &clock);
    let tags = (0..MANY).map(|at| super::tests::tag(&format!("t{at:04}"), at));
    let reread = index.reread(&name("a"));
    let replaced = index.replace_repository(reread, tags.collect(), None);
    replaced.await.unwrap();
    index.begin_rebuild(None).finish().await.unwrap();
    let index = Arc::new(index);
    let writer = Arc::clone(&index);
    let read = index.read(move |view| {
        let mut tags = view.tags(&name("a"), None);
        tags.next().unwrap()?;
        writer.start_over("a test says so");
        // Until the new one is in use.
        while writer.health() == Health::Healthy {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // What was read before is still shown; then the list fails once and ends.
        let left: Vec<_> = tags.by_ref().collect();
        assert_eq!(left.iter().filter(|tag| tag.is_ok()).count(), PAGE_MAX - 1);
        assert!(
            left.last().unwrap().is_err(),
            "a list went on in another database"
        );
        assert!(tags.next().is_none());
        Ok(())
    });
    read.await.unwrap();
    index.settle().await;
    let view = index.read(|view| view.knows(&name("a")));
    assert!(!view.await.unwrap(), "a new view shows the new database");
}

#[tokio::test]
async fn a_long_look_keeps_no_rebuild_waiting() {
    let clock = Arc::new(ManualClock::at_unix_secs(1_000));
    let (index, _directory) = on_disk(&recorder::RecordingDisk::new(), &clock);
    let index = Arc::new(index);
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (end, may_end) = std::sync::mpsc::channel::<()>();
    let looking = Arc::clone(&index);
    let looking = tokio::spawn(async move {
        let looked = looking.read(move |view| {
            let mut names = view.repositories(None);
            assert!(names.next().is_none());
            begun.send(()).unwrap();
            may_end.recv().unwrap();
            view.knows(&name("a"))
        });
        looked.await
    });
    has_begun.await.unwrap();
    // Closes the database and opens it again.
    index.begin_rebuild(Some(0)).finish().await.unwrap();
    end.send(()).unwrap();
    // It is the same database, so the look goes on.
    assert!(!looking.await.unwrap().unwrap());
}

#[tokio::test]
async fn who_is_asked_about_is_not_taken_for_one_that_begins_alike() {
    let clock = Arc::new(ManualClock::at_unix_secs(1_000));
    let index = Index::in_memory(clock);
    let facts = vec![
        Fact::Layer(digest(1)),
        Fact::Layer(digest(3)),
        Fact::Revision(revision(2, Some(9))),
    ];
    index.record(&name("a/b"), facts);
    index.settle().await;
    let asked = [digest(3), digest(2), digest(1)];
    for (asked_of, is_it) in [
        ("a", false),
        ("a-b", false),
        ("a/b", true),
        ("a/b/c", false),
    ] {
        let of = name(asked_of);
        let looked = index.read(move |view| {
            assert_eq!(view.knows(&of)?, is_it, "{asked_of}");
            for (digest, is_its) in asked.iter().zip([is_it, false, is_it]) {
                assert_eq!(view.is_holder(&of, *digest)?, is_its, "{asked_of}");
            }
            let is_listed = |revision| view.is_listed_in_reverse(&of, &revision);
            assert_eq!(is_listed(revision(2, Some(9)))?, is_it, "{asked_of}");
            assert!(!is_listed(revision(2, Some(8)))?);
            assert_eq!(is_listed(revision(2, None))?, is_it, "{asked_of}");
            assert!(!is_listed(revision(3, None))?);
            Ok(())
        });
        looked.await.unwrap();
    }
    let gone = vec![Forget::Layer(digest(1)), Forget::Revision(digest(2))];
    index.forget(&name("a/b"), gone);
    index.settle().await;
    let looked = index.read(move |view| {
        let of = name("a/b");
        for (digest, is_its) in asked.iter().zip([true, false, false]) {
            assert_eq!(view.is_holder(&of, *digest)?, is_its);
        }
        assert!(!view.is_listed_in_reverse(&of, &revision(2, Some(9)))?);
        assert_eq!(view.links().into_vec()?, [(digest(3), of)]);
        assert!(view.manifests().into_vec()?.is_empty());
        Ok(())
    });
    looked.await.unwrap();
}

#[tokio::test]
async fn starting_over_forgets_everything_and_says_so() {
    let clock = Arc::new(ManualClock::at_unix_secs(1_000));
    let (index, directory) = on_disk(&recorder::RecordingDisk::new(), &clock);
    index.record(&name("a"), vec![Fact::Layer(digest(1))]);
    index.begin_rebuild(Some(0)).finish().await.unwrap();
    assert_eq!(index.health(), Health::Healthy);

    index.start_over("a test says so");
    index.settle().await;
    assert!(matches!(index.health(), Health::Rebuilding { .. }));
    assert_eq!(index.statistics().quarantines, 1);
    assert_eq!(index.totals(), Totals::default());
    let links = index.read(|view| view.links().into_vec()).await;
    assert!(links.unwrap().is_empty());
    let bad = std::fs::read_dir(directory.path()).unwrap().flatten();
    let bad = bad.filter(|entry| entry.file_name().to_string_lossy().contains(".bad-"));
    assert_eq!(bad.count(), 1, "what was there is kept for a look");
}
