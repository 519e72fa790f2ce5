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
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::layout::UploadId;
use crate::oci::{Digest, RepositoryName};
use crate::store::Upload;

/// How long a finished session is remembered, so that a client that lost the answer may finish again.
const REMEMBERED: Duration = Duration::from_hours(1);

/// How long a client may say nothing before another request for its session takes over. A client that has lost its
/// connection without a word (sleep, another network) comes back at once, and the stall limit is far away.
const SILENCE: Duration = Duration::from_secs(2);

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
    /// A request is at work.
    Busy(Busy),
    /// Kept open for the next request.
    Idle(Kept),
}

/// An upload between two requests.
pub(super) struct Kept {
    pub(super) upload: Box<dyn Upload>,
    /// How many bytes the client was last told that there are. More are there if a request broke off since.
    pub(super) told_bytes: u64,
}

impl Kept {
    /// One of which the client knows all.
    pub(super) fn told(upload: Box<dyn Upload>) -> Self {
        Self {
            told_bytes: upload.offset_bytes(),
            upload,
        }
    }
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

    /// Starts work on a session: whoever holds the returned value is the only one. Waits for one who is finding out how
    /// far the session is, or finishing it; takes over from one whose client has fallen silent, as one does whose
    /// connection was lost; refuses beside one who is receiving.
    pub(super) async fn enter(&self, id: UploadId) -> Result<Taken<'_>, UploadBusy> {
        loop {
            let mut other = match self.try_enter(id) {
                Ok(entered) => return Ok(entered),
                Err(other) => other,
            };
            let before = *other.progress.borrow_and_update();
            if !matches!(before, Progress::Receiving { .. }) {
                // An error says that it has left, which is a change as well.
                let _ = other.progress.changed().await;
                continue;
            }
            let changed = tokio::select! {
                changed = other.progress.changed() => Some(changed.is_ok()),
                () = self.clock.sleep(SILENCE) => None,
            };
            match (changed, *other.progress.borrow()) {
                (Some(true), Progress::Receiving { offset_bytes }) => {
                    return Err(UploadBusy { offset_bytes });
                }
                (Some(_), _) => continue,
                (None, _) => other.cancel.cancel(),
            }
            while other.progress.changed().await.is_ok() {}
        }
    }

    /// How far the session is, if a request is at work on it that knows. Its client counts as told.
    pub(super) async fn progress(&self, id: UploadId) -> Option<u64> {
        let mut other = match self.lock().open.get(&id) {
            Some(Entry::Busy(other)) => other.clone(),
            Some(Entry::Idle(_)) | None => return None,
        };
        let known = other
            .progress
            .wait_for(|progress| progress.offset_bytes().is_some());
        let offset_bytes = known.await.ok()?.offset_bytes()?;
        other.told_bytes.fetch_max(offset_bytes, Ordering::Relaxed);
        Some(offset_bytes)
    }

    fn try_enter(&self, id: UploadId) -> Result<Taken<'_>, Busy> {
        let mut state = self.lock();
        let kept = match state.open.remove(&id) {
            Some(Entry::Busy(other)) => {
                state.open.insert(id, Entry::Busy(other.clone()));
                return Err(other);
            }
            Some(Entry::Idle(kept)) => {
                state.idle -= 1;
                Some(kept)
            }
            None => None,
        };
        let (progress, others) = watch::channel(Progress::Unknown);
        let cancel = CancellationToken::new();
        let told_bytes = Arc::default();
        let busy = Busy {
            progress: others,
            cancel: cancel.clone(),
            told_bytes: Arc::clone(&told_bytes),
        };
        state.open.insert(id, Entry::Busy(busy));
        let entered = Entered {
            sessions: self,
            id,
            progress,
            cancel,
            told_bytes,
        };
        if let Some(kept) = &kept {
            entered.tell(Progress::Receiving {
                offset_bytes: kept.upload.offset_bytes(),
            });
        }
        Ok((entered, kept))
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

/// A request at work, as others see it.
#[derive(Clone)]
struct Busy {
    progress: watch::Receiver<Progress>,
    cancel: CancellationToken,
    told_bytes: Arc<AtomicU64>,
}

/// How far a request is with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is still finding out where the session stands.
    Unknown,
    /// It takes in bytes.
    Receiving {
        /// So many are there.
        offset_bytes: u64,
    },
    /// It has all bytes, and makes a blob of them.
    Finishing {
        /// So many are there.
        offset_bytes: u64,
    },
}

impl Progress {
    fn offset_bytes(self) -> Option<u64> {
        match self {
            Self::Unknown => None,
            Self::Receiving { offset_bytes } | Self::Finishing { offset_bytes } => {
                Some(offset_bytes)
            }
        }
    }
}

/// The session, alone, with its upload if that was kept open.
pub(super) type Taken<'a> = (Entered<'a>, Option<Kept>);

/// Another request is receiving bytes for the session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UploadBusy {
    /// How far it is.
    pub(super) offset_bytes: u64,
}

/// The right to work on a session; ends when dropped.
pub(super) struct Entered<'a> {
    sessions: &'a Sessions,
    id: UploadId,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
    /// What others were told meanwhile.
    told_bytes: Arc<AtomicU64>,
}

impl Entered<'_> {
    /// Lets others see how far the work is.
    pub(super) fn tell(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    /// Resolves when another request wants to go on in the place of this one, whose client says nothing.
    pub(super) async fn taken_over(&self) {
        self.cancel.cancelled().await;
    }

    /// Ends the work and keeps the upload open for the next request, if there is room for it.
    pub(super) fn leave(self, mut kept: Kept) {
        let told_bytes = self.told_bytes.load(Ordering::Relaxed);
        kept.told_bytes = kept.told_bytes.max(told_bytes);
        let mut state = self.sessions.lock();
        if state.idle < self.sessions.idle_max {
            state.idle += 1;
            state.open.insert(self.id, Entry::Idle(kept));
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

    #[tokio::test]
    async fn one_at_a_time_while_bytes_come() {
        let clock = ManualClock::at_unix_secs(0);
        let sessions = sessions(&clock);
        let id = UploadId::from_parts(1, 2);
        let (entered, _) = sessions.enter(id).await.ok().unwrap();
        entered.tell(Progress::Receiving { offset_bytes: 7 });
        assert_eq!(sessions.progress(id).await, Some(7));
        let asks = async { sessions.enter(id).await.err() };
        let goes_on = async {
            tokio::task::yield_now().await;
            entered.tell(Progress::Receiving { offset_bytes: 8 });
        };
        let (answer, ()) = tokio::join!(asks, goes_on);
        assert_eq!(answer, Some(UploadBusy { offset_bytes: 8 }));
        drop(entered);
        assert!(sessions.enter(id).await.is_ok());
        assert_eq!(sessions.progress(id).await, None);
    }

    #[tokio::test]
    async fn a_silent_client_is_taken_over_from() {
        let clock = ManualClock::at_unix_secs(0);
        let sessions = sessions(&clock);
        let id = UploadId::from_parts(1, 2);
        let (entered, _) = sessions.enter(id).await.ok().unwrap();
        entered.tell(Progress::Receiving { offset_bytes: 7 });
        let gives_way = async {
            entered.taken_over().await;
            drop(entered);
        };
        let time_passes = async {
            for _ in 0..SILENCE.as_secs() {
                tokio::task::yield_now().await;
                clock.advance(Duration::from_secs(1));
            }
        };
        let (entered, (), ()) = tokio::join!(sessions.enter(id), gives_way, time_passes);
        assert!(entered.is_ok());
    }

    #[tokio::test]
    async fn what_is_not_known_yet_or_being_finished_is_waited_for() {
        let clock = ManualClock::at_unix_secs(0);
        let sessions = sessions(&clock);
        let id = UploadId::from_parts(1, 2);
        let (entered, _) = sessions.enter(id).await.ok().unwrap();
        let finds_out_and_finishes = async {
            tokio::task::yield_now().await;
            entered.tell(Progress::Finishing { offset_bytes: 9 });
            tokio::task::yield_now().await;
            drop(entered);
        };
        let both = async { tokio::join!(sessions.progress(id), sessions.enter(id)) };
        let ((offset_bytes, entered), ()) = tokio::join!(both, finds_out_and_finishes);
        assert_eq!(offset_bytes, Some(9));
        assert!(entered.is_ok());
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
