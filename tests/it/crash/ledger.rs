//! What the client knows: which changes it asked for, and which of them were acknowledged.
//!
//! Every key is a register with the writes that may be in it. A write holds from its request to its answer, so of writes
//! that overlapped any may have been the last, and one without an answer may or may not have happened. What is read after
//! a crash must be the value of a write that no acknowledged later one has replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use boathouse::oci::Digest;
use bytes::Bytes;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Blob(&'static str, Digest),
    Manifest(&'static str, Digest),
    Tag(&'static str, &'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Absent,
    Present,
    /// What a tag points at.
    Points(Digest),
}

#[derive(Debug, Clone)]
struct Write {
    change: u64,
    began: u64,
    /// When it was acknowledged, if it was.
    ended: Option<u64>,
    value: Value,
    /// It happens only where the tag points at this: the removal of a manifest takes its tags along.
    only_at: Option<Digest>,
}

impl Write {
    fn ended_before(&self, other: &Write) -> bool {
        self.ended.is_some_and(|ended| ended < other.began)
    }

    /// Whether it has certainly taken the place of `earlier`.
    fn replaces(&self, earlier: &Write) -> bool {
        let applies = match &self.only_at {
            Some(digest) => earlier.value == Value::Points(*digest),
            None => true,
        };
        self.ended.is_some() && applies && earlier.ended_before(self)
    }
}

#[derive(Debug)]
struct Register {
    writes: Vec<Write>,
}

impl Register {
    fn with(value: Value) -> Self {
        let first = Write {
            change: 0,
            began: 0,
            ended: Some(0),
            value,
            only_at: None,
        };
        Self {
            writes: vec![first],
        }
    }

    /// As it was known at a moment: what was acknowledged later may have happened by then, or not.
    fn as_of(&self, moment: u64) -> Self {
        let mut writes = self.writes.clone();
        for write in &mut writes {
            write.ended = write.ended.filter(|ended| *ended <= moment);
        }
        Self { writes }
    }

    fn may_hold(&self, value: &Value) -> bool {
        self.writes.iter().any(|write| {
            write.value == *value
                && self.may_have_happened(write)
                && !self.writes.iter().any(|later| later.replaces(write))
        })
    }

    fn may_have_happened(&self, write: &Write) -> bool {
        let Some(digest) = &write.only_at else {
            return true;
        };
        let target = Value::Points(*digest);
        self.writes.iter().any(|earlier| {
            let was_gone = self.writes.iter().any(|between| {
                between.only_at.is_none()
                    && between.replaces(earlier)
                    && between.ended_before(write)
            });
            earlier.value == target && !write.ended_before(earlier) && !was_gone
        })
    }
}

/// What a change writes: a key, its value, and the condition of [`Write::only_at`].
pub(super) type Effect = (Key, Value, Option<Digest>);

/// An upload session that the server has acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) repository: &'static str,
    pub(super) location: String,
    pub(super) content: Bytes,
    pub(super) acknowledged_bytes: u64,
    /// At most so many bytes can be there.
    pub(super) sent_bytes: u64,
    /// The PUT that ends it was sent.
    pub(super) is_finishing: bool,
}

#[derive(Default)]
struct State {
    time: u64,
    registers: BTreeMap<Key, Register>,
    contents: BTreeMap<Digest, Bytes>,
    sessions: BTreeMap<u64, Session>,
    acknowledged: u64,
    complaints: Vec<String>,
}

/// Shared by all that push at once.
#[derive(Default)]
pub(super) struct Ledger {
    state: Mutex<State>,
}

impl Ledger {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes a change before it is sent.
    pub(super) fn begin(&self, effects: Vec<Effect>) -> u64 {
        self.with(|state| {
            state.time += 1;
            let change = state.time;
            for (key, value, only_at) in effects {
                let register = state.registers.entry(key);
                let register = register.or_insert_with(|| Register::with(Value::Absent));
                register.writes.push(Write {
                    change,
                    began: change,
                    ended: None,
                    value,
                    only_at,
                });
            }
            change
        })
    }

    pub(super) fn acknowledge(&self, change: u64) {
        self.with(|state| {
            state.time += 1;
            state.acknowledged += 1;
            let ended = Some(state.time);
            for write in state.writes_of(change) {
                write.ended = ended;
            }
        });
    }

    /// The server has said that it did nothing.
    pub(super) fn refuse(&self, change: u64) {
        self.with(|state| {
            for register in state.registers.values_mut() {
                register.writes.retain(|write| write.change != change);
            }
        });
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.with(|state| state.acknowledged)
    }

    /// How many changes wait for an answer.
    pub(super) fn unanswered(&self) -> usize {
        self.with(|state| {
            let writes = state
                .registers
                .values()
                .flat_map(|register| &register.writes);
            let waiting = writes.filter(|write| write.ended.is_none());
            waiting
                .map(|write| write.change)
                .collect::<BTreeSet<_>>()
                .len()
        })
    }

    pub(super) fn add_content(&self, digest: &Digest, content: Bytes) {
        self.with(|state| state.contents.insert(*digest, content));
    }

    pub(super) fn content(&self, digest: &Digest) -> Option<Bytes> {
        self.with(|state| state.contents.get(digest).cloned())
    }

    /// One of the keys that `wanted` takes, by a random number; those that may be there are told apart.
    pub(super) fn pick(&self, number: u64, wanted: impl Fn(&Key, bool) -> bool) -> Option<Key> {
        self.with(|state| {
            let keys = state.registers.iter().filter(|(key, register)| {
                wanted(
                    key,
                    register
                        .writes
                        .iter()
                        .any(|write| write.value != Value::Absent),
                )
            });
            let count = keys.clone().count() as u64;
            let position = number.checked_rem(count)?;
            let mut keys = keys.map(|(key, _)| key.clone());
            keys.nth(usize::try_from(position).ok()?)
        })
    }

    /// An answer that no server in good health gives.
    pub(super) fn complain(&self, complaint: String) {
        self.with(|state| state.complaints.push(complaint));
    }

    pub(super) fn take_complaints(&self) -> Vec<String> {
        self.with(|state| std::mem::take(&mut state.complaints))
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.with(|state| state.registers.keys().cloned().collect())
    }

    /// A moment, for [`Ledger::may_hold`].
    pub(super) fn now(&self) -> u64 {
        self.with(|state| {
            state.time += 1;
            state.time
        })
    }

    /// Whether the key may hold this now; or, in a copy that was begun at a `moment`, there.
    pub(super) fn may_hold(&self, key: &Key, value: &Value, moment: Option<u64>) -> bool {
        self.with(|state| match (state.registers.get(key), moment) {
            (Some(register), Some(moment)) => register.as_of(moment).may_hold(value),
            (Some(register), None) => register.may_hold(value),
            (None, _) => *value == Value::Absent,
        })
    }

    /// How the key came to what it is allowed to hold, for a person who looks for the fault.
    pub(super) fn history(&self, key: &Key) -> String {
        self.with(|state| format!("{:?}", state.registers.get(key)))
    }

    /// From now on the key holds this: it was read after a crash, and what survived one crash must survive the next.
    pub(super) fn settle(&self, key: &Key, value: Value) {
        self.with(|state| state.registers.insert(key.clone(), Register::with(value)));
    }

    /// The whole session, at every step; `None` forgets it.
    pub(super) fn note_session(&self, number: u64, session: Option<Session>) {
        self.with(|state| match session {
            Some(session) => state.sessions.insert(number, session),
            None => state.sessions.remove(&number),
        });
    }

    /// An upload session's 202 is an acknowledgement that no register holds.
    pub(super) fn acknowledge_session(&self) {
        self.with(|state| state.acknowledged += 1);
    }

    pub(super) fn take_sessions(&self) -> Vec<Session> {
        let sessions = self.with(|state| std::mem::take(&mut state.sessions));
        sessions.into_values().collect()
    }
}

impl State {
    fn writes_of(&mut self, change: u64) -> impl Iterator<Item = &mut Write> {
        let writes = self.registers.values_mut();
        let writes = writes.flat_map(|register| register.writes.iter_mut());
        writes.filter(move |write| write.change == change)
    }
}

#[cfg(test)]
mod tests {
    use boathouse::oci::Algorithm;

    use super::*;

    fn may_hold(ledger: &Ledger, value: &Value) -> bool {
        ledger.may_hold(&TAG, value, None)
    }

    const TAG: Key = Key::Tag("a", "t");

    fn points(content: &str) -> Value {
        Value::Points(digest(content))
    }

    fn digest(content: &str) -> Digest {
        Digest::of(Algorithm::Sha256, content.as_bytes())
    }

    #[test]
    fn an_acknowledged_move_replaces_what_was_before_and_one_in_flight_may_or_may_not() {
        let ledger = Ledger::default();
        let first = ledger.begin(vec![(TAG, points("1"), None)]);
        assert!(may_hold(&ledger, &Value::Absent) && may_hold(&ledger, &points("1")));
        ledger.acknowledge(first);
        assert!(!may_hold(&ledger, &Value::Absent) && may_hold(&ledger, &points("1")));
        ledger.begin(vec![(TAG, points("2"), None)]);
        assert!(may_hold(&ledger, &points("1")) && may_hold(&ledger, &points("2")));
    }

    #[test]
    fn of_two_moves_at_once_either_may_be_the_last() {
        let ledger = Ledger::default();
        let moves = ["1", "2"].map(|to| ledger.begin(vec![(TAG, points(to), None)]));
        for change in moves {
            ledger.acknowledge(change);
        }
        assert!(may_hold(&ledger, &points("1")) && may_hold(&ledger, &points("2")));
        assert!(!may_hold(&ledger, &Value::Absent));
    }

    #[test]
    fn a_removed_manifest_takes_the_tags_along_that_point_at_it_and_no_others() {
        let ledger = Ledger::default();
        ledger.settle(&TAG, points("1"));
        let other = ledger.begin(vec![(TAG, Value::Absent, Some(digest("2")))]);
        ledger.acknowledge(other);
        assert!(may_hold(&ledger, &points("1")) && !may_hold(&ledger, &Value::Absent));
        let own = ledger.begin(vec![(TAG, Value::Absent, Some(digest("1")))]);
        assert!(may_hold(&ledger, &points("1")) && may_hold(&ledger, &Value::Absent));
        ledger.acknowledge(own);
        assert!(!may_hold(&ledger, &points("1")) && may_hold(&ledger, &Value::Absent));
    }

    #[test]
    fn in_a_copy_what_was_acknowledged_after_its_begin_may_be_or_not() {
        let ledger = Ledger::default();
        let first = ledger.begin(vec![(TAG, points("1"), None)]);
        ledger.acknowledge(first);
        let moment = Some(ledger.now());
        let second = ledger.begin(vec![(TAG, points("2"), None)]);
        ledger.acknowledge(second);
        for value in [points("1"), points("2")] {
            assert!(ledger.may_hold(&TAG, &value, moment));
        }
        assert!(!ledger.may_hold(&TAG, &Value::Absent, moment));
        assert!(!ledger.may_hold(&TAG, &points("1"), None));
    }

    #[test]
    fn what_was_refused_did_not_happen() {
        let ledger = Ledger::default();
        let change = ledger.begin(vec![(TAG, points("1"), None)]);
        ledger.refuse(change);
        assert!(!may_hold(&ledger, &points("1")) && may_hold(&ledger, &Value::Absent));
    }
}
