//! Upload sessions: their owners, the request at work on each, and how they ended.
//!
//! Design: DESIGN D7. A session id carries a MAC over its repository and owner, so that nothing about sessions needs to be
//! stored. Must not know the bytes. Invariant: at most one request works on a session at a time, and a session is taken up
//! by its owner only.

mod shares;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::shares::Owner;
pub(super) use self::shares::TooManySessions;
use self::shares::{Idle, Shares};
use crate::clock::Clock;
use crate::layout::{Prefix, UploadId};
use crate::oci::{Digest, RepositoryName};
use crate::store::Upload;

/// How long a finished session is remembered, so that a client that lost the answer may finish again.
const REMEMBERED: Duration = Duration::from_hours(1);

/// How long a request waits for another one that receives bytes of its session. A client that comes back after a broken
/// connection is often quicker than the registry, which still reads what is left of the broken one. A connection that was
/// lost without a word (sleep, another network) would hold the session until the stall limit, which is far away.
const OVERLAP: Duration = Duration::from_secs(2);

/// How many ended sessions are remembered at most: 10,000 of about 200 bytes; the oldest is forgotten first.
const REMEMBERED_MAX: usize = 10_000;

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its bytes became this blob.
    Finished(Digest),
    /// Its owner gave it up.
    Cancelled,
    /// Making a blob of it failed: what is there of that may be seen, and is not durable.
    Failed,
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
    /// Those of `open` that are idle, by age.
    idle: Idle,
    /// Owners of the sessions that have not ended.
    shares: Shares,
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

/// Upload sessions that were ended before.
#[derive(Default)]
pub(super) struct EndedUploads {
    /// How many.
    pub(super) count: u64,
    /// What they held.
    pub(super) bytes: u64,
    /// Those that another registry began, still to be removed.
    pub(super) foreign: Vec<Prefix>,
}

/// How many upload sessions there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadFigures {
    /// That were used within the last hour and have not ended; of an owner with very many, only some.
    pub open: u64,
    /// That a request works on.
    pub active: u64,
    /// What the open ones hold, as far as it is in memory: sessions of before the start count once they go on.
    pub bytes: u64,
}

/// An upload between two requests.
pub(super) struct Kept {
    pub(super) upload: Box<dyn Upload>,
    /// How many bytes the client was last told that there are. More are there if a request broke off since.
    pub(super) told_bytes: u64,
}

impl Kept {
    /// An upload of which the client knows all.
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

    /// Starts work on a session: the holder of the returned value is the only one at work. Waits for a request that finds out
    /// how far the session is, or finishes it, and for a while for a request that receives. After that while it takes over if
    /// the other client has sent nothing meanwhile (its connection was lost), and is refused otherwise.
    pub(super) async fn enter(&self, id: UploadId) -> Result<Taken<'_>, UploadBusy> {
        let mut told_before = None;
        loop {
            let mut other = match self.try_enter(id) {
                Ok((mut entered, kept)) => {
                    entered.told_before = told_before;
                    return Ok((entered, kept));
                }
                Err(other) => other,
            };
            told_before = told_before.or_else(|| other.told_bytes());
            let Some(before_bytes) = other.receiving_at() else {
                // An error says that it has left, which is a change as well.
                let _ = other.progress.changed().await;
                continue;
            };
            tokio::select! {
                _ = other.progress.wait_for(|progress| !progress.is_receiving()) => continue,
                () = self.clock.sleep(OVERLAP) => {}
            }
            if let Some(offset_bytes) = other.receiving_at()
                && offset_bytes != before_bytes
            {
                return Err(UploadBusy { offset_bytes });
            }
            other.cancel.cancel();
            while other.progress.changed().await.is_ok() {}
        }
    }

    /// Starts work on a session in any case: a request that receives is ended, and one that finishes it is waited for.
    pub(super) async fn take_over(&self, id: UploadId) -> Taken<'_> {
        loop {
            match self.try_enter(id) {
                Ok(taken) => return taken,
                Err(mut other) => {
                    other.cancel.cancel();
                    while other.progress.changed().await.is_ok() {}
                }
            }
        }
    }

    /// How far the session is, if a request at work on it knows. Its client counts as told.
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
                state.idle.remove(id);
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
            told_before: None,
        };
        if let Some(kept) = &kept {
            entered.take_up(kept);
        }
        Ok((entered, kept))
    }

    /// How the session ended, if that is remembered.
    pub(super) fn ended(&self, id: UploadId) -> Option<Ended> {
        let mut state = self.lock();
        forget_old(&mut state, self.clock.elapsed());
        state.ended.get(&id).cloned()
    }

    /// Counts a session that `owner` begins, unless too many of theirs have not ended.
    pub(super) fn admit(&self, id: UploadId, owner: &Owner) -> Result<(), TooManySessions> {
        let now = self.clock.elapsed();
        self.lock().shares.admit(id, owner, now)
    }

    /// A session of `owner` is worked on; counts one that was begun before this process.
    pub(super) fn use_of(&self, id: UploadId, owner: &Owner) {
        let now = self.clock.elapsed();
        self.lock().shares.note(id, owner, now);
    }

    /// The session has nothing left that could be taken up.
    pub(super) fn forget(&self, id: UploadId) {
        self.lock().shares.forget(id);
    }

    /// Closes what has been idle for too long; the next request takes it up again from the store.
    pub(super) fn close_old(&self) {
        let now = self.clock.elapsed();
        let mut state = self.lock();
        let mut closed = Vec::new();
        while let Some(id) = state.idle.take_old(now) {
            closed.extend(state.open.remove(&id));
        }
        drop(state);
        // Files are closed with the guard released.
        drop(closed);
    }

    /// How many sessions have not ended, on how many of them a request works, and what they hold.
    pub(super) fn figures(&self) -> UploadFigures {
        let state = self.lock();
        let held = state.open.values().map(|entry| match entry {
            Entry::Busy(busy) => busy.progress.borrow().offset_bytes().unwrap_or_default(),
            Entry::Idle(kept) => kept.upload.offset_bytes(),
        });
        let bytes = held.sum();
        UploadFigures {
            open: state.shares.count() as u64,
            active: (state.open.len() - state.idle.count()) as u64,
            bytes,
        }
    }

    /// Remembers how the session ended.
    pub(super) fn remember(&self, id: UploadId, ended: Ended) {
        let mut state = self.lock();
        let now = self.clock.elapsed();
        state.shares.forget(id);
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

impl Busy {
    /// How far it is, if it takes in bytes; what changes from now on is a change.
    fn receiving_at(&mut self) -> Option<u64> {
        let progress = *self.progress.borrow_and_update();
        progress.offset_bytes().filter(|_| progress.is_receiving())
    }

    /// What the client was told of the session, as far as that is known.
    fn told_bytes(&self) -> Option<u64> {
        let is_known = self.progress.borrow().offset_bytes().is_some();
        is_known.then(|| self.told_bytes.load(Ordering::Relaxed))
    }
}

/// How far a request is with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is still finding out the session's offset.
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
    fn is_receiving(&self) -> bool {
        matches!(self, Self::Receiving { .. })
    }

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
    /// What the client was told at the beginning, or others meanwhile.
    told_bytes: Arc<AtomicU64>,
    /// What the client had been told when this request came and had to wait.
    told_before: Option<u64>,
}

impl Entered<'_> {
    /// Lets others see how far the work is.
    pub(super) fn tell(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    /// Lets others see the upload that the work is on, and what its client was told of it.
    pub(super) fn take_up(&self, kept: &Kept) {
        self.told_bytes
            .fetch_max(kept.told_bytes, Ordering::Relaxed);
        let offset_bytes = kept.upload.offset_bytes();
        self.tell(Progress::Receiving { offset_bytes });
    }

    /// Whether the client was told something after it had sent this request, which waited. Then it has sent another one
    /// since, and does not wait for the answer to this one.
    pub(super) fn is_overtaken(&self, kept: &Kept) -> bool {
        self.told_before
            .is_some_and(|told_bytes| told_bytes != kept.told_bytes)
    }

    /// Resolves when another request wants to go on in the place of this one, whose client says nothing.
    pub(super) async fn taken_over(&self) {
        self.cancel.cancelled().await;
    }

    /// Ends the work and keeps the upload open for the next request. Where too many are open, the oldest of the owner with
    /// most is closed: its bytes are in the store, from which its next request takes it up.
    pub(super) fn leave(self, mut kept: Kept) {
        let told_bytes = self.told_bytes.load(Ordering::Relaxed);
        kept.told_bytes = kept.told_bytes.max(told_bytes);
        let now = self.sessions.clock.elapsed();
        let mut state = self.sessions.lock();
        let holder = state.shares.holder_of(self.id);
        state.open.insert(self.id, Entry::Idle(kept));
        state.idle.insert(self.id, holder, now);
        let closed = state.idle.take_beyond(self.sessions.idle_max);
        let closed = closed.and_then(|id| state.open.remove(&id));
        drop(state);
        // A file is closed with the guard released.
        drop(closed);
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
mod tests;
