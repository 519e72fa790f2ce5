//! Tests of `locks`.

use super::super::open_mode::OpenMode;
use super::*;
use crate::clock::ManualClock;
use crate::index::Index;
use crate::oci::Algorithm;
use crate::store::bucket_like::BucketLike;

struct Lab {
    clock: ManualClock,
    locks: Arc<Locks>,
    open: OpenMode,
    name: RepositoryName,
}

fn digest(number: u32) -> Digest {
    Digest::of(Algorithm::Sha256, &number.to_be_bytes())
}

fn digests(numbers: impl IntoIterator<Item = u32>) -> Vec<Digest> {
    numbers.into_iter().map(digest).collect()
}

impl Lab {
    async fn new() -> Self {
        let clock = ManualClock::at_unix_secs(0);
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let index = Arc::new(Index::in_memory(Arc::clone(&shared)));
        let store = Arc::new(BucketLike::new(1));
        let gate = IndexGate::new(index, store, Arc::clone(&shared), false);
        Self {
            clock,
            locks: Arc::new(Locks::new(shared, Arc::new(gate))),
            open: OpenMode::new().await,
            name: "a".parse().unwrap(),
        }
    }

    async fn sharing(&self, numbers: &[u32]) -> Result<Held<'_, Digests>, RegistryError> {
        let held = self.locks.hold(self.open.actor(), &self.name);
        let digests = digests(numbers.iter().copied());
        held.changing().await?.sharing(&digests).await
    }

    async fn removing(&self, number: u32) -> Result<Held<'_, Digests>, RegistryError> {
        let held = self.locks.hold(self.open.actor(), &self.name);
        held.changing().await?.removing(&digest(number)).await
    }
}

#[tokio::test]
async fn shared_holders_wait_only_for_an_exclusive_holder() {
    let lab = Lab::new().await;
    let first = lab.sharing(&[1, 2]).await.unwrap();
    let second = lab.sharing(&[2, 3]).await.unwrap();
    assert_eq!(lab.locks.longest_wait(), None);
    let mut exclusive = Box::pin(lab.removing(2));
    assert!(futures_util::poll!(&mut exclusive).is_pending());
    lab.clock.advance(Duration::from_secs(7));
    assert_eq!(lab.locks.longest_wait(), Some(Duration::from_secs(7)));
    drop((first, second));
    let exclusive = exclusive.await.unwrap();
    assert_eq!(lab.locks.longest_wait(), None);
    let mut shared = Box::pin(lab.sharing(&[2]));
    assert!(futures_util::poll!(&mut shared).is_pending());
    drop(exclusive);
    shared.await.unwrap();
}

#[tokio::test]
async fn a_repository_is_quiet_only_without_changes_and_its_tags_are_locked_apart() {
    let lab = Lab::new().await;
    let held = lab.locks.hold(lab.open.actor(), &lab.name);
    let tags = held.tags(Mode::Exclusive).await.unwrap();
    // Tags alone are no change yet.
    let task = || Actor::task("a test");
    drop(lab.locks.quiet(task(), &lab.name).await.unwrap());
    let changing = tags.changing().await.unwrap();
    let mut quiet = Box::pin(lab.locks.quiet(task(), &lab.name));
    assert!(futures_util::poll!(&mut quiet).is_pending());
    // A task waits as long as it takes.
    lab.clock.advance(WAIT_MAX * 10);
    assert!(futures_util::poll!(&mut quiet).is_pending());
    let mut others = Box::pin(lab.locks.hold(task(), &lab.name).tags(Mode::Shared));
    assert!(futures_util::poll!(&mut others).is_pending());
    drop(changing);
    others.await.unwrap();
    let quiet = quiet.await.unwrap();
    let mut change = Box::pin(lab.locks.hold(task(), &lab.name).changing());
    assert!(futures_util::poll!(&mut change).is_pending());
    drop(quiet);
    change.await.unwrap();
}

#[tokio::test]
async fn an_operation_that_waits_for_a_busy_repository_holds_nothing_that_another_needs() {
    let lab = Lab::new().await;
    let (locks, other) = (&lab.locks, "b".parse().unwrap());
    let quiet = locks.quiet(Actor::task("a test"), &lab.name).await.unwrap();
    let mut waits = Box::pin(lab.sharing(&[1]));
    assert!(futures_util::poll!(&mut waits).is_pending());
    let held = locks
        .hold(lab.open.actor(), &other)
        .changing()
        .await
        .unwrap();
    let digest = digest(1);
    let mut removes = Box::pin(held.removing(&digest));
    assert!(
        futures_util::poll!(&mut removes).is_ready(),
        "a digest was held while its holder waited for its repository"
    );
    drop(quiet);
    waits.await.unwrap();
}

#[tokio::test]
async fn thousands_of_digests_keep_only_their_own_from_others() {
    let lab = Lab::new().await;
    let numbers: Vec<u32> = (0..4_000).collect();
    let held = lab.sharing(&numbers).await.unwrap();
    for other in 4_000..8_000 {
        let mut exclusive = Box::pin(lab.removing(other));
        assert!(
            futures_util::poll!(&mut exclusive).is_ready(),
            "another digest was held up"
        );
    }
    drop(held);
    let _last = lab.removing(9_000).await.unwrap();
    let kept = lab.locks.digests.0.lock().unwrap().locks.len();
    assert!(kept <= 8_000 + 1, "locks that nobody holds pile up: {kept}");
}

#[tokio::test]
async fn no_request_waits_for_ever_and_one_that_gives_up_holds_nothing() {
    let lab = Lab::new().await;
    let held = lab.removing(2).await.unwrap();
    let mut all = Box::pin(lab.sharing(&[1, 2, 3]));
    assert!(futures_util::poll!(&mut all).is_pending());
    lab.clock.advance(WAIT_MAX);
    assert!(matches!(all.await.err(), Some(RegistryError::Busy)));
    drop(held);
    for number in 1..=3 {
        lab.removing(number).await.unwrap();
    }
    let quiet = lab.locks.quiet(Actor::task("a test"), &lab.name);
    quiet.await.unwrap();
}

#[tokio::test]
async fn a_removal_shows_to_what_was_looked_up_before_or_during_it() {
    let lab = Lab::new().await;
    let before = lab.locks.calm();
    assert!(lab.locks.is_calm_since(before));
    drop(lab.sharing(&[1]).await.unwrap());
    assert!(lab.locks.is_calm_since(before), "sharing removes nothing");
    let removal = lab.removing(1).await.unwrap();
    assert!(!lab.locks.is_calm_since(before));
    let during = lab.locks.calm();
    drop(removal);
    assert!(!lab.locks.is_calm_since(before));
    assert!(!lab.locks.is_calm_since(during));
    let after = lab.locks.calm();
    assert!(lab.locks.is_calm_since(after));
}

#[tokio::test]
async fn overlapping_sets_in_any_order_do_not_wait_for_each_other_for_ever() {
    let locks = Lab::new().await.locks;
    let mut tasks = Vec::new();
    for task in 0..16_u32 {
        let locks = Arc::clone(&locks);
        tasks.push(tokio::spawn(async move {
            for round in 0..50_u32 {
                let numbers = (0..40).map(|number| (number * 7 + task * 13 + round) % 64);
                let mut numbers: Vec<u32> = numbers.collect();
                if task % 3 > 0 {
                    numbers.reverse();
                }
                let mode = if task % 3 < 2 {
                    Mode::Exclusive
                } else {
                    Mode::Shared
                };
                let actor = Actor::task("a test");
                let wanted = numbers.into_iter().map(|number| (number, mode));
                let guards = locks.take(locks.digests.locks_of(wanted), &actor);
                let guards = guards.await.unwrap();
                tokio::task::yield_now().await;
                drop(guards);
            }
        }));
    }
    for task in tasks {
        task.await.expect("ends");
    }
}
