//! Upload sessions: whose they are, who is at work on one, and how they ended.
//!
//! Design: DESIGN D7. A session id carries a MAC over its repository and owner, so that nothing about sessions needs to be
//! stored. Must not know the bytes. Invariant: at most one request works on a session at a time, and a session is taken up
//! by its owner only.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::{hmac, rand};

use crate::clock::Clock;
use crate::layout::UploadId;
use crate::oci::{Digest, RepositoryName};
use crate::store::Upload;

/// How long a finished session is remembered, so that a client that lost the answer may finish again.
const REMEMBERED: Duration = Duration::from_hours(1);

/// How many ended sessions are remembered at most: 10,000 of about 200 bytes; the oldest is forgotten first.
const REMEMBERED_MAX: usize = 10_000;

/// To whom a session belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The account; empty in open mode.
    pub account: String,
    /// The generation of its credentials; empty in open mode and for foreign tokens.
    pub generation: String,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its bytes became this blob.
    Finished(Digest),
    /// Its owner gave it up.
    Cancelled,
}

/// All sessions that this process knows of.
pub(super) struct Sessions {
    key: hmac::Key,
    clock: Arc<dyn Clock>,
    idle_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<UploadId, Entry>,
    idle: usize,
    ended: HashMap<UploadId, Ended>,
    /// When each was ended, oldest first.
    ended_order: VecDeque<(Duration, UploadId)>,
}

enum Entry {
    /// A request is at work; its progress can be read.
    Busy(Arc<AtomicU64>),
    /// Kept open for the next request.
    Idle(Box<dyn Upload>),
}

impl Sessions {
    pub(super) fn new(secret: &[u8], idle_max: usize, clock: Arc<dyn Clock>) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self {
            key,
            clock,
            idle_max,
            state: Mutex::default(),
        }
    }

    /// A new id for `owner`'s session in `name`; `None` if the system has no randomness to give.
    pub(super) fn issue(&self, name: &RepositoryName, owner: &Owner) -> Option<UploadId> {
        let mut random = [0; 8];
        rand::fill(&mut random).ok()?;
        let random = UploadId::from_parts(u64::from_be_bytes(random), 0)
            .parts()
            .0;
        Some(UploadId::from_parts(random, self.mac(random, name, owner)))
    }

    /// Whether `id` was issued to `owner` for `name`.
    pub(super) fn is_genuine(&self, id: UploadId, name: &RepositoryName, owner: &Owner) -> bool {
        // 62 bits that are compared over the network: no timing tells enough of them in the life of a session.
        UploadId::from_parts(id.parts().0, self.mac(id.parts().0, name, owner)) == id
    }

    fn mac(&self, random: u64, name: &RepositoryName, owner: &Owner) -> u64 {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"upload session");
        context.update(&random.to_be_bytes());
        for part in [name.as_str(), &owner.account, &owner.generation] {
            // The length before each part keeps `a` + `bc` apart from `ab` + `c`.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let tag = context.sign();
        tag.as_ref()
            .iter()
            .take(8)
            .fold(0, |bits, &byte| (bits << 8) | u64::from(byte))
    }

    /// Starts work on a session: whoever holds the returned value is the only one. `Err` tells how far the other is.
    pub(super) fn enter(
        &self,
        id: UploadId,
    ) -> Result<(Entered<'_>, Option<Box<dyn Upload>>), u64> {
        let mut state = self.lock();
        let progress = Arc::new(AtomicU64::new(0));
        let kept = match state.open.remove(&id) {
            Some(Entry::Busy(other)) => {
                let offset_bytes = other.load(Ordering::Relaxed);
                state.open.insert(id, Entry::Busy(other));
                return Err(offset_bytes);
            }
            Some(Entry::Idle(upload)) => {
                state.idle -= 1;
                progress.store(upload.offset_bytes(), Ordering::Relaxed);
                Some(upload)
            }
            None => None,
        };
        state.open.insert(id, Entry::Busy(Arc::clone(&progress)));
        Ok((
            Entered {
                sessions: self,
                id,
                progress,
            },
            kept,
        ))
    }

    /// How the session ended, if that is remembered.
    pub(super) fn ended(&self, id: UploadId) -> Option<Ended> {
        let mut state = self.lock();
        forget_old(&mut state, self.clock.elapsed());
        state.ended.get(&id).cloned()
    }

    /// Remembers how the session ended.
    pub(super) fn remember(&self, id: UploadId, ended: Ended) {
        let mut state = self.lock();
        let now = self.clock.elapsed();
        forget_old(&mut state, now);
        if state.ended.insert(id, ended).is_none() {
            state.ended_order.push_back((now, id));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic happens under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget_old(state: &mut State, now: Duration) {
    while let Some(&(when, id)) = state.ended_order.front() {
        if now.saturating_sub(when) < REMEMBERED && state.ended_order.len() <= REMEMBERED_MAX {
            return;
        }
        state.ended_order.pop_front();
        state.ended.remove(&id);
    }
}

/// The right to work on a session; ends when dropped.
pub(super) struct Entered<'a> {
    sessions: &'a Sessions,
    id: UploadId,
    progress: Arc<AtomicU64>,
}

impl Entered<'_> {
    /// Lets others see how far the work is.
    pub(super) fn tell_progress(&self, offset_bytes: u64) {
        self.progress.store(offset_bytes, Ordering::Relaxed);
    }

    /// Ends the work and keeps the upload open for the next request, if there is room for it.
    pub(super) fn leave(self, upload: Box<dyn Upload>) {
        let mut state = self.sessions.lock();
        if state.idle < self.sessions.idle_max {
            state.idle += 1;
            state.open.insert(self.id, Entry::Idle(upload));
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut state = self.sessions.lock();
        if matches!(state.open.get(&self.id), Some(Entry::Busy(_))) {
            state.open.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::oci::Algorithm;

    fn owner(account: &str) -> Owner {
        Owner {
            account: account.into(),
            generation: "g".into(),
        }
    }

    fn sessions(clock: &ManualClock) -> Sessions {
        Sessions::new(b"secret", 2, Arc::new(clock.clone()))
    }

    #[test]
    fn a_session_is_its_owners_in_its_repository_only() {
        let clock = ManualClock::at_unix_secs(0);
        let sessions = sessions(&clock);
        let name: RepositoryName = "a/b".parse().unwrap();
        let id = sessions.issue(&name, &owner("ann")).unwrap();
        assert!(sessions.is_genuine(id, &name, &owner("ann")));
        assert!(!sessions.is_genuine(id, &"a/c".parse().unwrap(), &owner("ann")));
        assert!(!sessions.is_genuine(id, &name, &owner("bob")));
        let revoked = Owner {
            generation: "h".into(),
            ..owner("ann")
        };
        assert!(!sessions.is_genuine(id, &name, &revoked));
        let other = Sessions::new(b"other", 2, Arc::new(clock.clone()));
        assert!(!other.is_genuine(id, &name, &owner("ann")));
    }

    #[test]
    fn one_at_a_time() {
        let clock = ManualClock::at_unix_secs(0);
        let sessions = sessions(&clock);
        let id = UploadId::from_parts(1, 2);
        let (entered, _) = sessions.enter(id).ok().unwrap();
        entered.tell_progress(7);
        assert_eq!(sessions.enter(id).err(), Some(7));
        drop(entered);
        assert!(sessions.enter(id).is_ok());
    }

    #[test]
    fn an_end_is_remembered_for_an_hour() {
        let clock = ManualClock::at_unix_secs(0);
        let sessions = sessions(&clock);
        let id = UploadId::from_parts(1, 2);
        let ended = Ended::Finished(Digest::of(Algorithm::Sha256, b""));
        sessions.remember(id, ended.clone());
        clock.advance(Duration::from_secs(3_599));
        assert_eq!(sessions.ended(id), Some(ended));
        clock.advance(Duration::from_secs(1));
        assert_eq!(sessions.ended(id), None);
    }

    #[test]
    fn the_oldest_end_is_forgotten_when_there_are_too_many() {
        let clock = ManualClock::at_unix_secs(0);
        let sessions = sessions(&clock);
        for number in 0..=REMEMBERED_MAX as u64 {
            sessions.remember(UploadId::from_parts(number, 0), Ended::Cancelled);
        }
        assert_eq!(sessions.ended(UploadId::from_parts(0, 0)), None);
        assert_eq!(
            sessions.ended(UploadId::from_parts(1, 0)),
            Some(Ended::Cancelled)
        );
    }
}
