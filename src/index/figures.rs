//! How fast the index is. Prints figures and expects none:
//! `cargo test --release --lib index::figures -- --ignored --nocapture`

use std::sync::Arc;
use std::time::Duration;

use super::tests::{digest, name, tag};
use super::*;
use crate::clock::SystemClock;

/// One repository with many tags, and many small ones: about 400,000 keys.
const TAGS: u64 = 100_000;
const REPOSITORIES: u64 = 10_000;
const LAYERS: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: minutes unoptimised, and nothing to compare with"]
async fn figures() {
    // A place on a disk: the usual one for temporaries may be memory.
    let place = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(place.parent().unwrap()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let settings = Settings {
        directory: directory.path().join("index"),
        store_id: "store".to_owned(),
    };
    let index = Index::open(&settings, Arc::clone(&clock)).unwrap();

    let start = clock.elapsed();
    let rebuild = index.begin_rebuild(Some(REPOSITORIES + 1));
    let large = name("a-large-one");
    let facts = (0..TAGS).map(|at| tag(&format!("v{at:06}"), at)).collect();
    let stamp = || Some(Stamp(vec![0; 60]));
    let reread = index.reread(&large);
    rebuild.load(reread, facts, stamp()).await.unwrap();
    for number in 0..REPOSITORIES {
        let facts = (0..LAYERS).map(|at| Fact::Layer(digest(number * 3 + at)));
        let facts = facts.chain([tag("latest", number)]).collect();
        let reread = index.reread(&name(&format!("team/app-{number:05}")));
        rebuild.load(reread, facts, stamp()).await.unwrap();
    }
    rebuild.finish().await.unwrap();
    let keys = TAGS + REPOSITORIES * (2 * LAYERS + 3);
    let took = clock.elapsed().checked_sub(start).unwrap();
    print(&format!("rebuild, {keys} keys"), took, keys, "keys");

    let rounds = 200_u64;
    for (what, after) in [("first", None), ("last", Some("v098999"))] {
        let start = clock.elapsed();
        for _ in 0..rounds {
            let large = large.clone();
            let page =
                index.read(move |view| view.tags(&large, after).at_most(PAGE_MAX).into_vec());
            assert_eq!(page.await.unwrap().len(), PAGE_MAX);
        }
        let took = clock.elapsed().checked_sub(start).unwrap();
        print(&format!("{what} page of 1,000 tags"), took, rounds, "pages");
    }
    let start = clock.elapsed();
    for _ in 0..rounds {
        let page = index.read(|view| view.repositories(None).at_most(100).into_vec());
        page.await.unwrap();
    }
    let took = clock.elapsed().checked_sub(start).unwrap();
    print("first page of 100 repositories", took, rounds, "pages");

    let start = clock.elapsed();
    for number in 0..rounds {
        index.record(&large, vec![tag("moving", number)]);
        index.settle().await;
    }
    let took = clock.elapsed().checked_sub(start).unwrap();
    print("record and settle, one by one", took, rounds, "commits");

    let start = clock.elapsed();
    let records = 20_000_u64;
    for number in 0..records {
        index.record(&large, vec![tag(&format!("new-{number}"), number)]);
    }
    let queued = clock.elapsed().checked_sub(start).unwrap();
    index.settle().await;
    let took = clock.elapsed().checked_sub(start).unwrap();
    print("record in bulk, until queued", queued, records, "records");
    print("record in bulk, until durable", took, records, "records");
    assert_eq!(index.statistics().dropped_batches, 0);
    index.close().await;

    let start = clock.elapsed();
    let index = Index::open(&settings, Arc::clone(&clock)).unwrap();
    let took = clock.elapsed().checked_sub(start).unwrap();
    print("open after a clean stop", took, 1, "openings");
    drop(index);
}

fn print(what: &str, took: Duration, count: u64, of: &str) {
    let took_us = took.as_micros().max(1);
    let per_second = u128::from(count) * 1_000_000 / took_us;
    let each_us = took_us / u128::from(count.max(1));
    println!("{what:<36} {took:>10.1?} {per_second:>12} {of}/s {each_us:>8} µs each");
}
