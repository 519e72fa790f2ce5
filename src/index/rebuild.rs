//! Re-reads and rebuilds: how a repository is replaced, in turns between the groups of what is recorded.
//!
//! A turn is one commit of at most 1,000 keys, shared by as many small repositories as fit. Must not know where the facts
//! come from. Invariants: a repository has no stamp while it is being replaced, and gets one only when all that happened
//! meanwhile has been applied on top; the index is declared complete only when all that was loaded is durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec::IntoIter;

use tokio::sync::oneshot;

use super::IndexError;
use super::engine::Place;
use super::facts::{Fact, Forget, Health, Stamp};
use super::ledger::{Changes, in_order};
use super::queue::{self, Answer, Job, Replacement, Reread};
use super::records::{self, Event};
use super::shared::Shared;

/// Keys in one commit of a rebuild: 60,000 keys a second were measured with it.
const TURN_KEYS_MAX: usize = 1_000;

/// Filling the index; dropping it leaves the index incomplete, and a later one goes on.
pub struct Rebuild {
    shared: Arc<Shared>,
    epoch: u64,
}

impl Rebuild {
    pub(super) fn new(shared: Arc<Shared>, epoch: u64) -> Self {
        Self { shared, epoch }
    }

    /// As [`super::Index::replace_repository`], but many small repositories share a commit: returns once there is room for the
    /// next.
    pub async fn load(
        &self,
        reread: Reread,
        facts: Vec<Fact>,
        stamp: Option<Stamp>,
    ) -> Result<(), IndexError> {
        let room = self.shared.queue.room_for(facts.len()).await;
        self.shared.queue.put(Job::Replace(Replacement {
            reread,
            facts,
            stamp,
            answer: None,
            room,
        }))?;
        self.shared.count_rebuilt();
        Ok(())
    }

    /// Counts one repository that needed no load (its stamp equals the store's).
    pub fn skip(&self) {
        self.shared.count_rebuilt();
    }

    /// All repositories were loaded: makes it durable, closes and reopens the database once (damage is recognised by
    /// sled only after that), and declares the index complete ([`super::Health::Healthy`]).
    pub async fn finish(self) -> Result<(), IndexError> {
        let (answer, finished) = oneshot::channel();
        let epoch = self.epoch;
        self.shared
            .queue
            .put(Job::FinishRebuild { epoch, answer })?;
        finished.await.unwrap_or_else(|_| Err(queue::closed()))
    }
}

/// What is still to be written of a repository.
type Rest = IntoIter<(Place, Option<Vec<u8>>)>;

/// A job on its way.
pub(super) enum Work {
    Waiting(Job),
    Replacing(Replacement, Rest),
}

/// How a turn ended.
pub(super) enum Turn {
    Done,
    /// All that was loaded is written; the writer must end the rebuild.
    Finish {
        epoch: u64,
        answer: Answer,
    },
}

impl Work {
    pub(super) fn new(job: Job) -> Self {
        Self::Waiting(job)
    }

    pub(super) fn give_up(self, reason: &str) {
        let answer = match self {
            Self::Waiting(Job::Replace(replacement)) | Self::Replacing(replacement, _) => {
                replacement.answer
            }
            Self::Waiting(Job::FinishRebuild { answer, .. }) => Some(answer),
            Self::Waiting(Job::BeginRebuild { .. }) => None,
        };
        if let Some(answer) = answer {
            let reason = reason.to_owned();
            // The caller may have stopped waiting.
            let _ = answer.send(Err(IndexError::Unavailable { reason }));
        }
    }
}

impl Turn {
    /// Takes one turn at the front of `work`. On an error all of it that is unfinished is still in `work`, and the
    /// repositories that were just being ended have lost something.
    pub(super) fn take(shared: &Shared, work: &mut VecDeque<Work>) -> Result<Self, IndexError> {
        let mut changes = Changes::new();
        let mut ended: Vec<Replacement> = Vec::new();
        let mut outcome = Ok(Self::Done);
        while changes.len() < TURN_KEYS_MAX
            && let Some(next) = work.pop_front()
        {
            let nothing_open = changes.is_empty() && ended.is_empty();
            match next {
                Work::Waiting(Job::BeginRebuild { total }) => {
                    let begun = shared
                        .with_ledger(|ledger| ledger.amend(|books| books.is_complete = false));
                    if let Err(error) = begun {
                        outcome = Err(error);
                        break;
                    }
                    // The check after an unclean stop may have ended in between.
                    let mut health = shared.health();
                    if !matches!(*health, Health::Rebuilding { .. }) {
                        *health = Health::Rebuilding { done: 0, total };
                    }
                }
                Work::Waiting(Job::FinishRebuild { epoch, answer }) if nothing_open => {
                    return Ok(Self::Finish { epoch, answer });
                }
                // The one before must be written first: what is recorded is compared with.
                Work::Waiting(Job::Replace(replacement))
                    if !ended
                        .iter()
                        .any(|other| other.reread.name() == replacement.reread.name()) =>
                {
                    match begin(shared, &replacement) {
                        Ok(all) => work.push_front(Work::Replacing(replacement, all)),
                        Err(error) => {
                            work.push_front(Work::Waiting(Job::Replace(replacement)));
                            outcome = Err(error);
                            break;
                        }
                    }
                }
                waiting @ Work::Waiting(_) => {
                    work.push_front(waiting);
                    break;
                }
                Work::Replacing(replacement, mut rest) => {
                    changes.extend(rest.by_ref().take(TURN_KEYS_MAX - changes.len()));
                    if rest.len() > 0 {
                        work.push_front(Work::Replacing(replacement, rest));
                        continue;
                    }
                    let result = end(shared, &replacement, &mut changes);
                    ended.push(replacement);
                    if let Err(error) = result {
                        outcome = Err(error);
                        break;
                    }
                }
            }
        }
        let outcome = outcome.and_then(|turn| {
            shared.commit(changes, TURN_KEYS_MAX)?;
            Ok(turn)
        });
        answer(shared, ended, outcome.as_ref().err());
        outcome
    }
}

/// Drops the stamp, and finds out what must change.
fn begin(shared: &Shared, replacement: &Replacement) -> Result<Rest, IndexError> {
    let name = replacement.reread.name();
    let gone = Event::IsGone(Forget::Stamp);
    let mut changes = Changes::new();
    shared.with_ledger(|ledger| records::apply(ledger, name, &gone, &mut changes))?;
    shared.commit(changes, TURN_KEYS_MAX)?;
    let mut changes = Changes::new();
    shared.with_ledger(|ledger| {
        let is_known = replacement.is_known();
        records::replace(ledger, name, &replacement.facts, is_known, &mut changes)
    })?;
    Ok(in_order(changes).collect::<Vec<_>>().into_iter())
}

/// The stamp, and on top of it what happened meanwhile.
fn end(
    shared: &Shared,
    replacement: &Replacement,
    changes: &mut Changes,
) -> Result<(), IndexError> {
    let name = replacement.reread.name();
    let log = replacement.reread.log();
    shared.with_ledger(|ledger| {
        if let Some(stamp) = &replacement.stamp
            && !log.has_gaps
        {
            let event = Event::Is(Fact::Stamp(stamp.clone()));
            records::apply(ledger, name, &event, changes)?;
        }
        for event in &log.events {
            let is_stamp = matches!(event, Event::Is(Fact::Stamp(_)));
            if !(is_stamp && log.has_gaps) {
                records::apply(ledger, name, event, changes)?;
            }
        }
        Ok(())
    })
}

fn answer(shared: &Shared, ended: Vec<Replacement>, error: Option<&IndexError>) {
    for replacement in ended {
        if error.is_some() {
            let freshness = &shared.queue.freshness;
            freshness.lost_something(replacement.reread.name());
        } else {
            replacement.reread.end(replacement.is_known());
        }
        if let Some(answer) = replacement.answer {
            let result = match error {
                Some(error) => Err(IndexError::Unavailable {
                    reason: error.to_string(),
                }),
                None => Ok(()),
            };
            // The caller may have stopped waiting.
            let _ = answer.send(result);
        }
        drop(replacement.room);
    }
}
