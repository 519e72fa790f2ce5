//! Tests of `readiness`: stores that do not answer, loops that end, and what is only degraded.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use async_trait::async_trait;

use super::super::open_mode::OpenMode;
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::index::Index;
use crate::registry::event::Actor;
use crate::registry::locks::Mode;
use crate::registry::{IndexedError, Registry, Settings};
use crate::store::bucket_like::BucketLike;
use crate::store::faulty::{Hook, HookedStore, Operation};

const CALM: u8 = 0;
const HANGS: u8 = 1;
const PANICS: u8 = 2;
const IS_FULL: u8 = 3;

/// A store whose lists do what a broken disk does.
#[derive(Default)]
struct Wild {
    mood: AtomicU8,
    lists: AtomicUsize,
    applied: AtomicUsize,
}

#[async_trait]
impl Hook for Wild {
    async fn before(&self, operation: Operation) -> Result<(), StoreError> {
        if operation == Operation::Apply {
            self.applied.fetch_add(1, Ordering::SeqCst);
        }
        if operation == Operation::List {
            self.lists.fetch_add(1, Ordering::SeqCst);
            match self.mood.load(Ordering::SeqCst) {
                HANGS => std::future::pending().await,
                PANICS => panic!("on purpose"),
                _ => {}
            }
        }
        Ok(())
    }

    fn constraint(&self) -> Option<Constraint> {
        let is_full = self.mood.load(Ordering::SeqCst) == IS_FULL;
        is_full.then_some(Constraint::Full)
    }
}

struct Lab {
    clock: ManualClock,
    store: HookedStore<Wild>,
    registry: Arc<Registry>,
}

impl Lab {
    /// Whose index is up to the store.
    async fn new(readonly: bool) -> Self {
        let clock = ManualClock::at_unix_secs(1_800_000_000);
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let inner = Arc::new(BucketLike::new(1));
        let store = HookedStore::around(inner, Wild::default());
        let mut settings = Settings::for_tests();
        settings.readonly = readonly;
        let index = Arc::new(Index::in_memory(Arc::clone(&shared)));
        let registry = Registry::new(Arc::new(store.clone()), index, settings, b"s", shared);
        registry.index_sync.read_everything().await.unwrap();
        Self {
            clock,
            store,
            registry: Arc::new(registry),
        }
    }

    fn mood(&self, mood: u8) {
        self.store.hook.mood.store(mood, Ordering::SeqCst);
    }

    /// The answer, when it is given after the time that it may take.
    async fn readiness_in_time(&self) -> Readiness {
        let mut asked = Box::pin(self.registry.health.readiness());
        assert!(futures_util::poll!(&mut asked).is_pending());
        tokio::task::yield_now().await;
        self.clock.advance(PROBE_TIME);
        asked.await
    }
}

#[tokio::test]
async fn what_is_well_is_ready_and_what_is_full_or_read_only_is_degraded() {
    let lab = Lab::new(false).await;
    assert_eq!(lab.registry.health.readiness().await, Readiness::default());
    lab.mood(IS_FULL);
    let full = lab.registry.health.readiness().await;
    assert_eq!(full.still, []);
    assert_eq!(full.degraded, [Trouble::Constrained(Constraint::Full)]);

    let lab = Lab::new(true).await;
    let before = lab.store.hook.applied.load(Ordering::SeqCst);
    let readonly = lab.registry.health.readiness().await;
    assert_eq!(readonly.still, []);
    assert_eq!(readonly.degraded, [Trouble::Readonly]);
    assert_eq!(
        lab.store.hook.applied.load(Ordering::SeqCst),
        before,
        "whether a read-only store can serve was found out by writing"
    );
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_asked_once_and_named() {
    let lab = Lab::new(false).await;
    lab.mood(HANGS);
    let before = lab.store.hook.lists.load(Ordering::SeqCst);
    let first = lab.readiness_in_time().await;
    assert_eq!(first.degraded, [Trouble::Silent(0)]);
    lab.clock.advance(STILL_AFTER);
    for _ in 0..3 {
        let readiness = lab.readiness_in_time().await;
        assert!(!readiness.needs_restart(), "no restart mends a disk");
        let still = readiness.still;
        assert!(
            matches!(*still, [Trouble::Silent(secs)] if secs >= STILL_AFTER.as_secs()),
            "{still:?}"
        );
    }
    let asked = lab.store.hook.lists.load(Ordering::SeqCst) - before;
    assert_eq!(asked, 1, "each question holds a thread");
}

#[tokio::test]
async fn a_keeper_that_has_panicked_is_named_and_nobody_waits_for_it() {
    let lab = Lab::new(false).await;
    lab.mood(PANICS);
    let keeper = Arc::clone(&lab.registry);
    keeper.health.watch(keeper.index_sync.heartbeat());
    let keeper = tokio::spawn(async move { keeper.index_sync.run().await });
    assert!(keeper.await.unwrap_err().is_panic());
    lab.mood(CALM);
    lab.clock.advance(Duration::from_secs(7));
    let readiness = lab.registry.health.readiness().await;
    let told: Vec<String> = readiness.still.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["the keeper of the index has ended, 7 s ago"]);
    assert!(readiness.needs_restart());

    lab.registry.core.gate.freshness().registry_opened();
    let compared = lab.registry.index_sync.compare(&|_| {}).await;
    assert!(
        matches!(compared, Err(IndexedError::Index(_))),
        "{compared:?}"
    );
}

#[tokio::test]
async fn a_store_whose_look_panics_is_not_ready() {
    let lab = Lab::new(false).await;
    lab.mood(PANICS);
    let readiness = lab.registry.health.readiness().await;
    assert_eq!(readiness.still, [Trouble::Unreadable]);
    assert!(!readiness.needs_restart(), "no restart mends a disk");
    lab.mood(CALM);
    assert_eq!(lab.registry.health.readiness().await, Readiness::default());
}

#[tokio::test]
async fn who_waits_for_a_lock_makes_it_slow_and_is_sent_away_in_the_end() {
    let lab = Lab::new(false).await;
    let name = "a/b".parse().unwrap();
    let held = lab.registry.core.locks.hold(Actor::task("a test"), &name);
    let held = held.tags(Mode::Exclusive).await.unwrap();
    let reference = crate::oci::Reference::Tag("v1".parse().unwrap());
    let open = OpenMode::new().await;
    let manifests = &lab.registry.manifests;
    let mut deletes = Box::pin(manifests.delete(&name, &reference, open.actor()));
    assert!(futures_util::poll!(&mut deletes).is_pending());
    lab.clock.advance(SLOW_AFTER);
    let readiness = lab.registry.health.readiness().await;
    assert_eq!(readiness.still, []);
    assert_eq!(readiness.degraded, [Trouble::Waiting(5)]);
    lab.clock.advance(Duration::from_mins(2));
    let outcome = deletes.await;
    assert!(
        matches!(outcome, Err(crate::registry::RegistryError::Busy)),
        "{outcome:?}"
    );
    drop(held);
}
