//! The questions that walk over all repositories, on the model and on sled: paging, and names that begin alike.

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

    for limit in [7, PAGE_MAX, PAGE_MAX * 2] {
        let mut found: Vec<(Digest, RepositoryName)> = Vec::new();
        loop {
            let page = index.links(found.last(), limit).await.unwrap();
            assert!(page.len() <= limit.min(PAGE_MAX));
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert!(found == links, "links, {limit} at a time");

        let mut found: Vec<(RepositoryName, Revision)> = Vec::new();
        loop {
            let after = found.last();
            let after = after.map(|(name, revision)| (name.clone(), revision.digest));
            let page = index.manifests(after.as_ref(), limit).await.unwrap();
            assert!(page.len() <= limit.min(PAGE_MAX));
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert!(found == manifests, "manifests, {limit} at a time");
    }
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
    let asked = vec![digest(3), digest(2), digest(1)];
    for (asked_of, is_it) in [
        ("a", false),
        ("a-b", false),
        ("a/b", true),
        ("a/b/c", false),
    ] {
        let of = name(asked_of);
        assert_eq!(index.knows(&of).await.unwrap(), is_it, "{asked_of}");
        let is_holder = index.is_holder(&of, asked.clone()).await.unwrap();
        assert_eq!(is_holder, [is_it, false, is_it], "{asked_of}");
        let is_referrer = |revision| {
            let (index, of) = (&index, &of);
            async move { index.is_referrer(of, &revision).await.unwrap() }
        };
        assert_eq!(is_referrer(revision(2, Some(9))).await, is_it, "{asked_of}");
        assert!(!is_referrer(revision(2, Some(8))).await);
        assert!(!is_referrer(revision(2, None)).await);
    }
    let gone = vec![Forget::Layer(digest(1)), Forget::Revision(digest(2))];
    index.forget(&name("a/b"), gone);
    index.settle().await;
    let of = name("a/b");
    assert_eq!(
        index.is_holder(&of, asked).await.unwrap(),
        [true, false, false]
    );
    assert!(!index.is_referrer(&of, &revision(2, Some(9))).await.unwrap());
    assert_eq!(index.links(None, 9).await.unwrap(), [(digest(3), of)]);
    assert!(index.manifests(None, 9).await.unwrap().is_empty());
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
    assert_eq!(index.counts(), Counts::default());
    assert!(index.links(None, 9).await.unwrap().is_empty());
    let bad = std::fs::read_dir(directory.path()).unwrap().flatten();
    let bad = bad.filter(|entry| entry.file_name().to_string_lossy().contains(".bad-"));
    assert_eq!(bad.count(), 1, "what was there is kept for a look");
}
