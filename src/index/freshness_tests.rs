//! Freshness: a table of transitions, and any order of them.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];
const IN_DOUBT_MAX: usize = 2;

fn name(at: usize) -> RepositoryName {
    NAMES[at].parse().unwrap()
}

#[derive(Debug, Clone, Copy)]
enum Event {
    ChangeBegun,
    ChangeMade,
    ChangeFailed,
    LostSomething,
    BeginComparing,
    ComparedEqual,
    ReadSoon,
    BeginReading,
    EndReading(bool),
    GiveUpReading,
    StampLater,
    /// The writer removes void stamps, and does what is in the queue.
    Settle,
    TakeWaiting,
    Replaced,
    BeginEverything,
    EndEverything,
}

/// What has happened to one repository, with the times at which it did.
#[derive(Default)]
struct Story {
    changes: u32,
    /// When something was last lost, failed or replaced.
    tainted: u64,
    /// When something was last lost.
    lost: u64,
    /// When the last look at the store began that has shown how things are.
    looked: u64,
    /// The stamp in the database may be the store's although something is missing.
    does_stamp_lie: bool,
    /// A comparison under way, and when it began.
    comparing: Option<(Comparing, u64)>,
    /// A reading under way: its number, and when it began.
    reading: Option<(u64, u64)>,
}

#[derive(Default)]
struct World {
    now: u64,
    stories: [Story; NAMES.len()],
    /// A reading of everything under way, and when it began.
    everything: Option<(Comparing, u64)>,
}

impl World {
    fn happen(&mut self, freshness: &Freshness, at: usize, event: Event) {
        self.now += 1;
        let (now, of) = (self.now, name(at));
        let story = &mut self.stories[at];
        match event {
            Event::ChangeBegun => {
                story.changes += 1;
                freshness.change_begun(&of);
            }
            Event::ChangeMade if story.changes > 0 => {
                story.changes -= 1;
                freshness.change_made(&of);
            }
            Event::ChangeFailed if story.changes > 0 => {
                story.changes -= 1;
                (story.tainted, story.does_stamp_lie) = (now, true);
                freshness.change_failed(&of);
            }
            Event::LostSomething => {
                (story.tainted, story.lost, story.does_stamp_lie) = (now, now, true);
                freshness.lost_something(&of);
            }
            Event::BeginComparing => {
                let comparing = freshness.begin_comparing(&of);
                story.comparing = comparing.map(|comparing| (comparing, now));
            }
            Event::ComparedEqual => {
                let Some((comparing, began)) = story.comparing.take() else {
                    return;
                };
                freshness.compared_equal(&of, comparing);
                if !story.does_stamp_lie && began > story.tainted {
                    story.looked = story.looked.max(began);
                }
            }
            Event::ReadSoon => freshness.read_soon(&of),
            Event::BeginReading => {
                story.reading = Some((freshness.begin_reading(&of), now));
            }
            Event::EndReading(is_whole) => {
                let Some((number, began)) = story.reading.take() else {
                    return;
                };
                let found = if is_whole {
                    Found::Whole
                } else {
                    Found::Dangling
                };
                if freshness.is_reading(&of, number) {
                    story.looked = story.looked.max(began);
                    story.does_stamp_lie = false;
                }
                freshness.end_reading(&of, number, found);
            }
            Event::GiveUpReading => {
                if let Some((number, _)) = story.reading.take() {
                    freshness.give_up_reading(&of, number);
                }
            }
            Event::StampLater => freshness.stamp_later(&of),
            Event::Settle => self.settle(freshness),
            Event::TakeWaiting => {
                if freshness.is_all_in_doubt() {
                    self.settle(freshness);
                }
                freshness.take_waiting();
            }
            Event::Replaced => {
                for story in &mut self.stories {
                    (story.tainted, story.does_stamp_lie) = (now, false);
                }
                freshness.replaced();
            }
            Event::BeginEverything => {
                self.everything = Some((freshness.begin_reading_everything(), now));
            }
            Event::EndEverything => {
                let Some((reading, began)) = self.everything.take() else {
                    return;
                };
                // It has looked at whatever had lost something when it began.
                let is_looked_at = |story: &Story| story.lost > began || story.looked >= story.lost;
                let is_whole = self.stories.iter().all(is_looked_at);
                freshness.end_reading_everything(reading, is_whole);
            }
            Event::ChangeMade | Event::ChangeFailed => {}
        }
    }

    fn settle(&mut self, freshness: &Freshness) {
        freshness.voided(&freshness.void());
        for story in &mut self.stories {
            story.does_stamp_lie = false;
        }
    }

    fn check(&self, freshness: &Freshness) {
        for (at, story) in self.stories.iter().enumerate() {
            let of = name(at);
            if freshness.may_list(&of) {
                assert!(story.looked > story.tainted, "{of} is listed after a loss");
            }
            if freshness.may_stamp(&of) {
                assert!(freshness.may_list(&of));
                assert_eq!(story.changes, 0, "{of} is stamped while it is changed");
            }
            if freshness.may_list_all() {
                assert!(story.looked >= story.lost, "{of} may be missing");
            }
        }
        let table = freshness.lock();
        let standings = || table.entries.values().map(|entry| entry.standing);
        assert_eq!(table.lost, standings().filter(|one| one.is_lost()).count());
        let waiting = [Standing::Lost, Standing::Doubtful];
        let in_doubt = standings().filter(|one| waiting.contains(one)).count();
        assert_eq!(table.in_doubt, in_doubt);
        assert!(table.in_doubt <= IN_DOUBT_MAX && table.to_stamp.len() <= IN_DOUBT_MAX);
        assert!(table.to_void.len() <= IN_DOUBT_MAX && table.to_read.len() <= IN_DOUBT_MAX);
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::ChangeBegun),
        Just(Event::ChangeMade),
        Just(Event::ChangeFailed),
        Just(Event::LostSomething),
        Just(Event::BeginComparing),
        Just(Event::ComparedEqual),
        Just(Event::ReadSoon),
        Just(Event::BeginReading),
        any::<bool>().prop_map(Event::EndReading),
        Just(Event::GiveUpReading),
        Just(Event::StampLater),
        Just(Event::Settle),
        Just(Event::TakeWaiting),
        Just(Event::Replaced),
        Just(Event::BeginEverything),
        Just(Event::EndEverything),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn nothing_is_fresh_that_was_tainted_since_it_was_looked_at(
        events in proptest::collection::vec((0..NAMES.len(), event()), 1..60),
    ) {
        let freshness = Freshness::with_bound(IN_DOUBT_MAX);
        let mut world = World::default();
        for (at, event) in events {
            world.happen(&freshness, at, event);
            world.check(&freshness);
        }
    }
}

/// Each row: what happens one after the other, and whether lists, lists of referrers and a stamp are allowed then.
#[test]
fn each_transition_leads_where_it_should() {
    use Event::*;
    let read = [BeginReading, EndReading(true)];
    let compared = [BeginComparing, ComparedEqual];
    let rows: &[(&[Event], &[Event], [bool; 3])] = &[
        (&[], &[], [false, false, false]),
        (&compared, &[], [true, true, true]),
        (&read, &[], [true, true, true]),
        (&read, &[ChangeBegun], [true, true, false]),
        (&read, &[ChangeBegun, ChangeMade], [true, true, true]),
        (&read, &[ChangeBegun, ChangeFailed], [false, false, false]),
        (&read, &[LostSomething], [false, false, false]),
        (&read, &[ReadSoon], [true, true, true]),
        (&read, &[BeginReading], [false, false, false]),
        (&read, &[BeginReading, GiveUpReading], [false, false, false]),
        (&read, &[Replaced], [false, false, false]),
        (
            &[BeginReading, EndReading(false)],
            &[],
            [true, false, false],
        ),
        (
            &[BeginReading, LostSomething],
            &[EndReading(true)],
            [false, false, false],
        ),
        (
            &[BeginReading, Replaced],
            &[EndReading(true)],
            [false, false, false],
        ),
        (
            &[BeginComparing, Replaced],
            &[ComparedEqual],
            [false, false, false],
        ),
        (&[LostSomething], &compared, [false, false, false]),
        (&[LostSomething], &read, [true, true, true]),
        (&[ReadSoon], &compared, [false, false, false]),
    ];
    for (first, then, expected) in rows {
        let freshness = Freshness::default();
        let mut world = World::default();
        for event in first.iter().chain(*then) {
            world.happen(&freshness, 0, *event);
        }
        let of = name(0);
        let found = [
            freshness.may_list(&of),
            freshness.may_list_referrers(&of),
            freshness.may_stamp(&of),
        ];
        assert_eq!(found, *expected, "{first:?} {then:?}");
    }
}

#[test]
fn one_doubt_too_many_puts_all_in_doubt_until_everything_is_read() {
    let freshness = Freshness::with_bound(IN_DOUBT_MAX);
    let comparing = freshness.begin_comparing(&name(0)).unwrap();
    assert!(freshness.compared_equal(&name(0), comparing));
    for number in 0..=IN_DOUBT_MAX {
        let other = format!("other/{number}").parse().unwrap();
        freshness.change_begun(&other);
        freshness.change_failed(&other);
    }
    assert!(freshness.is_all_in_doubt() && !freshness.may_list(&name(0)));
    assert!(freshness.begin_comparing(&name(1)).is_none());
    let waiting = freshness.take_waiting();
    assert!(waiting.is_everything && waiting.read.is_empty());
    assert!(!freshness.is_all_in_doubt() && !freshness.may_list(&name(0)));
    assert!(freshness.begin_comparing(&name(1)).is_some());
}
