//! Running totals over random histories that end at any commit: against a recount of the database, and against a model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::engine::{Engine, MemoryEngine, Op, Pair, Tree};
use super::ledger::{Books, Changes, Ledger};
use super::records::Event;
use super::tests::{digest, name, revision, tag};
use super::*;

const NAMES: [&str; 3] = ["a", "a-b", "a/b"];
const DIGESTS: u64 = 5;

/// An engine of a process that ends before a commit.
struct Fragile {
    engine: Arc<MemoryEngine>,
    commits_left: Arc<AtomicUsize>,
}

impl Engine for Fragile {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.engine.get(tree, key)
    }

    fn scan(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, IndexError> {
        self.engine.scan(tree, prefix, after, limit)
    }

    fn commit(&self, ops: Vec<Op>) -> Result<(), IndexError> {
        let left = self.commits_left.load(Ordering::Relaxed);
        let Some(left) = left.checked_sub(1) else {
            return Err(queue::closed());
        };
        self.commits_left.store(left, Ordering::Relaxed);
        self.engine.commit(ops)
    }

    fn health(&self) -> Result<(), IndexError> {
        Ok(())
    }
}

/// What is true of a repository.
#[derive(Debug, Clone, Default)]
struct Truth {
    tags: BTreeSet<u64>,
    revisions: BTreeSet<u64>,
    layers: BTreeSet<u64>,
    opaque: BTreeSet<u64>,
}

impl Truth {
    fn held(&self) -> BTreeSet<u64> {
        self.layers.union(&self.revisions).copied().collect()
    }

    fn facts(&self, sizes: &BTreeMap<u64, u64>) -> Vec<Fact> {
        let mut facts = vec![Fact::Known];
        facts.extend(self.tags.iter().map(|at| tag(&format!("t{at}"), *at)));
        let revisions = self.revisions.iter();
        facts.extend(revisions.map(|at| Fact::Revision(revision(*at, subject_of(*at)))));
        facts.extend(self.layers.iter().map(|at| Fact::Layer(digest(*at))));
        facts.extend(self.opaque.iter().map(|at| Fact::Opaque(digest(*at))));
        let size = |at: &u64| Fact::Size(digest(*at), sizes.get(at).copied().unwrap_or_default());
        facts.extend(self.held().iter().map(size));
        facts
    }
}

/// The same bytes have the same subject wherever they are.
fn subject_of(number: u64) -> Option<u64> {
    number.is_multiple_of(2).then_some(number + 1)
}

#[derive(Debug, Clone, Copy)]
enum Thing {
    Tag,
    Revision,
    Layer,
    Opaque,
}

#[derive(Debug, Clone)]
enum Action {
    /// Things that come (or go) one after the other, recorded in one group.
    Record(usize, Vec<(Thing, u64, bool)>),
    /// The repository is read again; things have changed behind the index's back.
    Replace(usize, Vec<(Thing, u64, bool)>),
    /// The repository goes.
    Forget(usize),
    /// A digest turns out to have another size.
    Resize(u64, u64),
    /// Content that nobody holds is forgotten.
    ForgetContent(u64),
}

struct World {
    engine: Arc<MemoryEngine>,
    commits_left: Arc<AtomicUsize>,
    ledger: Ledger,
    truth: BTreeMap<usize, Truth>,
    sizes: BTreeMap<u64, u64>,
}

impl World {
    fn new() -> Self {
        let engine = Arc::new(MemoryEngine::default());
        let commits_left = Arc::new(AtomicUsize::new(usize::MAX));
        Self {
            ledger: Self::ledger(&engine, &commits_left, Books::new("store", true)),
            engine,
            commits_left,
            truth: BTreeMap::new(),
            sizes: (0..DIGESTS).map(|at| (at, at)).collect(),
        }
    }

    fn ledger(engine: &Arc<MemoryEngine>, left: &Arc<AtomicUsize>, books: Books) -> Ledger {
        let engine = Fragile {
            engine: Arc::clone(engine),
            commits_left: Arc::clone(left),
        };
        Ledger::new(Box::new(engine), books)
    }

    /// Does what `action` says, to the truth and in `changes`.
    fn act(&mut self, action: &Action, changes: &mut Changes) {
        match action {
            Action::Record(at, things) => {
                let of = name(NAMES[*at]);
                for (thing, number, comes) in things {
                    let events = self.change(*at, *thing, *number, *comes);
                    for event in events {
                        records::apply(&self.ledger, &of, &event, changes).unwrap();
                    }
                }
            }
            Action::Replace(at, things) => {
                for (thing, number, comes) in things {
                    self.change(*at, *thing, *number, *comes);
                }
                self.replace(*at, changes);
            }
            Action::Forget(at) => {
                self.truth.remove(at);
                self.replace(*at, changes);
            }
            Action::Resize(number, size_bytes) => {
                self.sizes.insert(*number, *size_bytes);
                let event = Event::Is(Fact::Size(digest(*number), *size_bytes));
                let of = name(NAMES[0]);
                self.truth.entry(0).or_default();
                records::apply(&self.ledger, &of, &event, changes).unwrap();
            }
            Action::ForgetContent(number) => {
                if !self
                    .truth
                    .values()
                    .any(|truth| truth.held().contains(number))
                {
                    records::forget_content(&self.ledger, &digest(*number), changes).unwrap();
                }
            }
        }
    }

    fn change(&mut self, at: usize, thing: Thing, number: u64, comes: bool) -> Vec<Event> {
        // What goes makes no repository known.
        let mut nowhere = Truth::default();
        let truth = if comes {
            self.truth.entry(at).or_default()
        } else {
            self.truth.get_mut(&at).unwrap_or(&mut nowhere)
        };
        let numbers = match thing {
            Thing::Tag => &mut truth.tags,
            Thing::Revision => &mut truth.revisions,
            Thing::Layer => &mut truth.layers,
            Thing::Opaque => &mut truth.opaque,
        };
        if comes {
            numbers.insert(number);
        } else {
            numbers.remove(&number);
        }
        let of = digest(number);
        let size = Fact::Size(of, self.sizes[&number]);
        match (thing, comes) {
            (Thing::Tag, true) => vec![Event::Is(tag(&format!("t{number}"), number))],
            (Thing::Tag, false) => {
                let gone = Forget::Tag(format!("t{number}").parse().unwrap());
                vec![Event::IsGone(gone)]
            }
            (Thing::Revision, true) => {
                let one = Fact::Revision(revision(number, subject_of(number)));
                vec![Event::Is(one), Event::Is(size)]
            }
            (Thing::Revision, false) => {
                truth.opaque.remove(&number);
                vec![Event::IsGone(Forget::Revision(of))]
            }
            (Thing::Layer, true) => vec![Event::Is(Fact::Layer(of)), Event::Is(size)],
            (Thing::Layer, false) => vec![Event::IsGone(Forget::Layer(of))],
            (Thing::Opaque, true) => vec![Event::Is(Fact::Opaque(of))],
            // It goes with its revision.
            (Thing::Opaque, false) => {
                truth.revisions.remove(&number);
                vec![Event::IsGone(Forget::Revision(of))]
            }
        }
    }

    fn replace(&self, at: usize, changes: &mut Changes) {
        let truth = self.truth.get(&at);
        let facts = truth.map_or_else(Vec::new, |truth| truth.facts(&self.sizes));
        let (of, keep) = (name(NAMES[at]), truth.is_some());
        records::replace(&self.ledger, &of, &facts, keep, changes).unwrap();
    }

    /// What a process does that starts after the end of another: the database is checked, and every repository is read.
    fn restart(&mut self, limit: usize) {
        self.commits_left.store(usize::MAX, Ordering::Relaxed);
        let books = Ledger::read_books(&*self.engine).unwrap();
        let books = books.unwrap_or_else(|| Books::new("store", true));
        self.ledger = Self::ledger(&self.engine, &self.commits_left, books);
        self.ledger
            .verify()
            .expect("wrong after the end of a process");
        for at in 0..NAMES.len() {
            let mut changes = Changes::new();
            self.replace(at, &mut changes);
            self.ledger.commit(changes, limit).unwrap();
        }
    }

    fn check(&self) {
        self.ledger.verify().expect("not what a recount finds");
        let mut holders: BTreeMap<u64, u64> = BTreeMap::new();
        for truth in self.truth.values() {
            for number in truth.held() {
                *holders.entry(number).or_default() += 1;
            }
        }
        let bytes =
            |numbers: &mut dyn Iterator<Item = u64>| numbers.map(|at| self.sizes[&at]).sum();
        let mut all = Totals::default();
        for (at, of) in NAMES.iter().enumerate() {
            let truth = self.truth.get(&at).cloned().unwrap_or_default();
            let held = truth.held();
            let expected = RepositoryTotals {
                tags: truth.tags.len() as u64,
                revisions: truth.revisions.len() as u64,
                referrers: truth
                    .revisions
                    .iter()
                    .filter(|at| subject_of(**at).is_some())
                    .count() as u64,
                layers: truth.layers.len() as u64,
                bytes: bytes(&mut held.iter().copied()),
                unique_bytes: bytes(&mut held.iter().copied().filter(|at| holders[at] == 1)),
            };
            let row = self.ledger.get(Tree::Totals, of.as_bytes()).unwrap();
            let found = totals::of_repository(row.as_deref()).unwrap();
            assert_eq!(found, expected, "{of}");
            all.tags += expected.tags;
            all.revisions += expected.revisions;
            all.referrers += expected.referrers;
            all.layers += expected.layers;
            all.held_bytes += expected.bytes;
        }
        let found = self.ledger.totals();
        let expected = Totals {
            repositories: self.truth.len() as u64,
            blobs: holders.len() as u64,
            stored_bytes: bytes(&mut holders.keys().copied()),
            edges: 0,
            // Not what repositories hold.
            sizes: found.sizes,
            keys: found.keys,
            ..all
        };
        assert_eq!(found, expected);
    }
}

fn things() -> impl Strategy<Value = Vec<(Thing, u64, bool)>> {
    let thing = prop_oneof![
        Just(Thing::Tag),
        Just(Thing::Revision),
        Just(Thing::Layer),
        Just(Thing::Opaque)
    ];
    proptest::collection::vec((thing, 0..DIGESTS, any::<bool>()), 0..8)
}

fn action() -> impl Strategy<Value = Action> {
    let at = 0..NAMES.len();
    prop_oneof![
        4 => (at.clone(), things()).prop_map(|(at, things)| Action::Record(at, things)),
        2 => (at.clone(), things()).prop_map(|(at, things)| Action::Replace(at, things)),
        1 => at.prop_map(Action::Forget),
        1 => (0..DIGESTS, 0..9_u64).prop_map(|(at, size_bytes)| Action::Resize(at, size_bytes)),
        1 => (0..DIGESTS).prop_map(Action::ForgetContent),
    ]
}

proptest! {
    #[test]
    fn totals_are_what_a_recount_finds_wherever_a_process_ends(
        history in proptest::collection::vec((action(), proptest::option::of(0..6_usize)), 1..30),
        limit in 1..5_usize,
    ) {
        let mut world = World::new();
        for (action, end) in history {
            world.commits_left.store(end.unwrap_or(usize::MAX), Ordering::Relaxed);
            let mut changes = Changes::new();
            world.act(&action, &mut changes);
            if world.ledger.commit(changes, limit).is_err() {
                world.restart(limit);
            }
            world.check();
        }
    }
}

#[tokio::test]
async fn totals_survive_a_restart_and_a_rebuild() {
    let clock = Arc::new(crate::clock::ManualClock::at_unix_secs(1_000));
    let (index, directory) = tests::on_disk(&recorder::RecordingDisk::new(), &clock);
    let facts = || {
        vec![
            tag("t", 1),
            Fact::Revision(revision(1, None)),
            Fact::Layer(digest(1)),
            Fact::Size(digest(1), 10),
            Fact::Layer(digest(2)),
            Fact::Size(digest(2), 20),
        ]
    };
    index.record(&name("a"), facts());
    index.record(&name("b"), facts());
    index.settle().await;
    let before = index.totals();
    let bytes = (before.blobs, before.held_bytes, before.stored_bytes);
    assert_eq!(bytes, (2, 60, 30));
    index.close().await;
    let settings = Settings {
        directory: directory.path().join("index"),
        store_id: "store".to_owned(),
    };
    let index = Index::open(&settings, clock).unwrap();
    assert_eq!(index.totals(), before);
    index.start_over("a test says so");
    index.settle().await;
    assert_eq!(index.totals(), Totals::default());
    let rebuild = index.begin_rebuild(Some(2));
    for of in ["a", "b"] {
        let reread = index.reread(&name(of));
        rebuild.load(reread, facts(), None).await.unwrap();
    }
    rebuild.finish().await.unwrap();
    assert_eq!(index.totals(), before);
}
