//! The way of an upload's segments from the spool to the bucket, and what the bucket makes of them.
//!
//! Segments that were cut are sent as parts, in a task of their own, and their files are removed. All handles of a session share
//! its [`Shipper`]. Must not know how bytes are received or hashed. Invariants: a file is removed only after the journal says
//! that the bucket has its bytes; what was sent to one key
//! is the beginning of the whole, once [`Shipper::freeze`] has returned.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::attempts::Patience;
use super::file_body::body_of;
use super::journal::{Fact, Journal, Target};
use super::multipart::{Multipart, Part};
use super::requests::{Body, Bucket, Checksum};
use super::spool_room::{Share, SpoolRoom};
use super::storing::blob_key;
use crate::clock::Clock;
use crate::oci::Digest;
use crate::store::StoreError;
use crate::store::filesystem::session::{Segment, Session};

/// How many parts of one upload are sent at once. One connection does not fill a fast line, and others want to send, too.
pub(super) const PARTS_AT_ONCE: usize = 4;

/// How long a client waits while no part arrives at the bucket, besides the time that those on their way take on a slow line:
/// docker's gives up after 30 s.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// A line that is not called slow while parts are waited for.
const WAITED_BYTES_PER_SEC: u64 = 32 * 1024 * 1024;

/// What a client is asked to wait then.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Shipper {
    pub(super) session: Arc<Session>,
    pub(super) bucket: Bucket,
    clock: Arc<dyn Clock>,
    room: Arc<SpoolRoom>,
    share: Arc<Share>,
    journal: Journal,
    /// The key of the session's own data.
    pub(super) session_key: String,
    state: Mutex<State>,
    /// Something arrived at the bucket, or the task has ended.
    changed: Notify,
    /// There is something to be sent.
    more: Notify,
    given_up: CancellationToken,
}

#[derive(Default)]
pub(super) struct State {
    /// The blob that the client has named.
    aim: Option<Digest>,
    /// All uploads in parts that were begun for this session.
    pub(super) begun: Vec<(Multipart, Target)>,
    /// That of `begun` which segments are sent to.
    pub(super) target: Option<(Multipart, Target)>,
    /// All that were cut, in order: the first is part 1.
    pub(super) segments: Vec<Cut>,
    /// The length of what was not cut off yet.
    open_bytes: u64,
    /// Nothing more is sent to the session's key.
    pub(super) is_frozen: bool,
    /// The session's key holds all that was sent.
    pub(super) is_joined: bool,
    is_running: bool,
    failure: Option<StoreError>,
}

pub(super) struct Cut {
    pub(super) segment: Segment,
    at: At,
}

/// Where the bytes of a segment are.
enum At {
    Spool,
    /// In the spool, and on their way.
    Sending,
    Bucket(Part),
}

impl Shipper {
    /// The shipper of a session with this journal.
    pub(super) fn new(
        session: Arc<Session>,
        bucket: Bucket,
        clock: Arc<dyn Clock>,
        room: Arc<SpoolRoom>,
        (journal, facts): (Journal, Vec<Fact>),
    ) -> Self {
        let mut state = State::default();
        for fact in facts {
            state.take(fact);
        }
        Self {
            share: room.share(&session.directory),
            session_key: format!("{}data", session.name),
            session,
            bucket,
            clock,
            room,
            journal,
            state: Mutex::new(state),
            changed: Notify::new(),
            more: Notify::new(),
            given_up: CancellationToken::new(),
        }
    }

    /// Writes down that `segment` was cut; blocks.
    pub(super) fn cut(&self, segment: &Segment) -> io::Result<()> {
        self.journal.append(&Fact::Cut(segment.clone()))?;
        let mut state = self.lock();
        state.open_bytes = state.open_bytes.saturating_sub(segment.length_bytes);
        state.take(Fact::Cut(segment.clone()));
        self.count(&state);
        Ok(())
    }

    /// So much has not been cut off yet.
    pub(super) fn set_open(&self, open_bytes: u64) {
        let mut state = self.lock();
        state.open_bytes = open_bytes;
        self.count(&state);
    }

    /// The client has named the blob: what is sent from now on goes there, if nothing was sent before.
    pub(super) fn aim_at(&self, digest: &Digest) {
        self.lock().aim = Some(*digest);
    }

    /// The number of the part that is cut next.
    pub(super) fn next_number(&self) -> u16 {
        let count = self.lock().segments.len();
        u16::try_from(count + 1).unwrap_or(u16::MAX)
    }

    /// How much of the session is in the spool.
    pub(super) fn held_bytes(&self) -> u64 {
        self.share.held_bytes()
    }

    /// Whether something was sent, or is about to be.
    pub(super) fn has_begun(&self) -> bool {
        let state = self.lock();
        state.target.is_some() || state.is_running
    }

    /// Sends what was cut, in a task of its own.
    pub(super) fn start(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.is_running {
            self.more.notify_one();
            return;
        }
        // Of an earlier attempt.
        state.failure = None;
        if state.next().is_none() {
            return;
        }
        state.is_running = true;
        drop(state);
        let shipper = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = shipper.run().await {
                shipper.stopped(error);
            }
            shipper.changed.notify_waiters();
        });
    }

    /// The task has failed: another one sends what was on its way.
    fn stopped(&self, error: StoreError) {
        let mut state = self.lock();
        for cut in &mut state.segments {
            if matches!(cut.at, At::Sending) {
                cut.at = At::Spool;
            }
        }
        state.is_running = false;
        if self.given_up.is_cancelled() {
            return;
        }
        tracing::warn!(
            %error,
            uploads = self.session.place(),
            "an upload cannot be sent to the bucket; what was received stays in the spool"
        );
        state.failure = Some(error);
    }

    /// Sends until nothing is left; then the next cut begins another task.
    async fn run(&self) -> Result<(), StoreError> {
        let multipart = self.begin().await?;
        let mut flights = FuturesUnordered::new();
        loop {
            let more = self.more.notified();
            while flights.len() < PARTS_AT_ONCE
                && let Some((number, segment)) = self.next()
            {
                flights.push(self.send(&multipart, number, segment));
            }
            if flights.is_empty() {
                let mut state = self.lock();
                if state.next().is_none() {
                    // Under the same guard, so that what is cut from now on finds no task.
                    state.is_running = false;
                    return Ok(());
                }
                continue;
            }
            tokio::select! {
                Some(sent) = flights.next() => sent?,
                () = more => {}
                () = self.given_up.cancelled() => return Err(StoreError::NotFound),
            }
        }
    }

    /// The upload in parts that segments are sent to.
    async fn begin(&self) -> Result<Multipart, StoreError> {
        let aim = {
            let state = self.lock();
            if let Some((multipart, _)) = &state.target {
                return Ok(multipart.clone());
            }
            state.aim
        };
        let (key, target) = match aim {
            Some(digest) => (blob_key(&digest), Target::Blob(digest)),
            None => (self.session_key.clone(), Target::Session),
        };
        let background = self.bucket.with_patience(Patience::Background);
        let multipart = background.begin_multipart(&key).await?;
        self.note(Fact::Begun(multipart.clone(), target))?;
        Ok(multipart)
    }

    /// The next segment to be sent, and its number.
    fn next(&self) -> Option<(u16, Segment)> {
        let mut state = self.lock();
        let position = state.next()?;
        let cut = state.segments.get_mut(position)?;
        cut.at = At::Sending;
        let number = u16::try_from(position + 1).ok()?;
        Some((number, cut.segment.clone()))
    }

    async fn send(
        &self,
        multipart: &Multipart,
        number: u16,
        segment: Segment,
    ) -> Result<(), StoreError> {
        let body = self.body(&segment).await?;
        let background = self.bucket.with_patience(Patience::Background);
        let part = background.put_part(multipart, number, &body).await?;
        self.note(Fact::Sent(part))?;
        let file = self.session.segment(segment.start_bytes);
        // What cannot be removed now is removed with the session.
        let _ = blocking(move || std::fs::remove_file(file)).await?;
        self.changed.notify_waiters();
        Ok(())
    }

    /// The bytes of a segment, with the checksum that they had when they were received.
    pub(super) async fn body(&self, segment: &Segment) -> Result<Body, StoreError> {
        let file = (
            self.session.segment(segment.start_bytes),
            segment.length_bytes,
        );
        let body = self.body_of(vec![file]).await?;
        Ok(body.with_checksum(Checksum::Crc32(segment.checksum)))
    }

    pub(super) async fn body_of(&self, files: Vec<(PathBuf, u64)>) -> Result<Body, StoreError> {
        let body = blocking(move || body_of(&files)).await?;
        body.map_err(|source| self.session.failed(source))
    }

    /// Writes down a fact, then goes by it.
    pub(super) fn note(&self, fact: Fact) -> Result<(), StoreError> {
        // The line is short: a hop would take longer.
        let written = self.journal.append(&fact);
        written.map_err(|source| self.session.failed(source))?;
        let mut state = self.lock();
        state.take(fact);
        self.count(&state);
        Ok(())
    }

    /// Waits until everything that was cut is in the bucket.
    pub(super) async fn all_sent(self: &Arc<Self>) -> Result<(), StoreError> {
        self.start();
        while self.wait(State::has_unsent).await? {}
        Ok(())
    }

    /// Waits until something has changed if `is_waiting`, and says whether it was. An error is that of the task; or the bucket
    /// takes nothing.
    pub(super) async fn wait(
        &self,
        is_waiting: impl Fn(&State) -> bool,
    ) -> Result<bool, StoreError> {
        let changed = self.changed.notified();
        let freed = self.room.freed();
        let sending_bytes = {
            let mut state = self.lock();
            if let Some(error) = state.failure.take() {
                return Err(error);
            }
            if !is_waiting(&state) {
                return Ok(false);
            }
            state.sending_bytes()
        };
        let patience = WAIT_MAX + Duration::from_secs(sending_bytes / WAITED_BYTES_PER_SEC);
        tokio::select! {
            () = changed => match self.lock().failure.take() {
                Some(error) => Err(error),
                None => Ok(true),
            },
            () = freed => Ok(true),
            () = self.clock.sleep(patience) => Err(StoreError::Busy { retry_after: RETRY_AFTER }),
        }
    }

    /// Ends sending to the session's key; what is not there then stays in the spool, and follows what is there.
    pub(super) async fn freeze(self: &Arc<Self>) -> Result<(), StoreError> {
        self.lock().is_frozen = true;
        self.start();
        while self
            .wait(|state| state.is_running || state.next().is_some())
            .await?
        {}
        Ok(())
    }

    /// The segments that are in the spool, from the first on.
    pub(super) fn unsent(&self) -> Vec<Segment> {
        self.lock().unsent()
    }

    /// The session has nothing left that could be taken up: removes what was begun for it at the bucket, then the session. What
    /// the bucket does not let go now stays written down, and is removed later.
    pub(super) async fn give_up(&self) {
        self.given_up.cancel();
        let (begun, is_joined) = {
            let state = self.lock();
            (state.begun.clone(), state.is_joined)
        };
        let removed = async {
            for (multipart, _) in begun.into_iter().filter(|(_, target)| {
                // What was joined is an object now.
                !(is_joined && *target == Target::Session)
            }) {
                self.bucket.abort_multipart(&multipart).await?;
            }
            if is_joined {
                self.bucket.delete(&self.session_key).await?;
            }
            Ok::<_, StoreError>(())
        };
        if removed.await.is_err() {
            // A session that cannot be marked is removed by its age.
            let _ = self.journal.append(&Fact::Ended);
            return;
        }
        let session = Arc::clone(&self.session);
        // As above.
        let _ = blocking(move || session.forget()).await;
        self.room.forget(&self.session.directory);
    }

    /// The session cannot be finished any more; its client begins anew.
    pub(super) async fn lost(&self, why: &'static str) -> StoreError {
        self.give_up().await;
        self.session.failed(io::Error::other(why))
    }

    /// The object at the session's key.
    pub(super) fn session_key(&self) -> &str {
        &self.session_key
    }

    fn count(&self, state: &State) {
        let cuts = state.segments.iter().filter(|cut| cut.is_here());
        let cut_bytes: u64 = cuts.map(|cut| cut.segment.length_bytes).sum();
        self.room.set(&self.share, cut_bytes + state.open_bytes);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cut {
    fn is_here(&self) -> bool {
        matches!(self.at, At::Spool | At::Sending)
    }
}

impl State {
    fn take(&mut self, fact: Fact) {
        match fact {
            Fact::Begun(multipart, target) => {
                self.begun.push((multipart.clone(), target.clone()));
                if target != Target::Copy {
                    self.target = Some((multipart, target));
                }
            }
            Fact::Cut(segment) => self.segments.push(Cut {
                segment,
                at: At::Spool,
            }),
            Fact::Sent(part) => {
                let position = usize::from(part.number).saturating_sub(1);
                if let Some(cut) = self.segments.get_mut(position) {
                    cut.at = At::Bucket(part);
                }
            }
            Fact::Joined => {
                self.is_frozen = true;
                self.is_joined = true;
            }
            Fact::Ended => {}
        }
    }

    /// Whether something that was cut is not in the bucket.
    pub(super) fn has_unsent(&self) -> bool {
        self.segments.iter().any(Cut::is_here)
    }

    /// The position of the next segment to be sent. Where nothing more is to be sent, gaps are still filled: what was sent must
    /// be the beginning of the whole.
    fn next(&self) -> Option<usize> {
        let end = if self.is_frozen {
            let last = |cut: &Cut| matches!(cut.at, At::Bucket(_));
            self.segments.iter().rposition(last).unwrap_or(0)
        } else {
            self.segments.len()
        };
        let mut before = self.segments.iter().take(end);
        before.position(|cut| matches!(cut.at, At::Spool))
    }

    pub(super) fn sent(&self) -> Vec<Part> {
        let sent = self.segments.iter().filter_map(|cut| match &cut.at {
            At::Bucket(part) => Some(part.clone()),
            At::Spool | At::Sending => None,
        });
        sent.collect()
    }

    pub(super) fn unsent(&self) -> Vec<Segment> {
        let unsent = self.segments.iter().filter(|cut| cut.is_here());
        unsent.map(|cut| cut.segment.clone()).collect()
    }

    fn sending_bytes(&self) -> u64 {
        let sending = self.segments.iter();
        let sending = sending.filter(|cut| matches!(cut.at, At::Sending));
        sending.map(|cut| cut.segment.length_bytes).sum()
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    let done = spawn_blocking(work).await;
    done.map_err(|source| StoreError::from_io("work on the spool", io::Error::other(source)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Version;

    #[test]
    fn what_was_sent_is_the_beginning_of_the_whole_before_it_is_put_together() {
        let mut state = State::default();
        let sent = |number| {
            Fact::Sent(Part {
                number,
                version: Version::default(),
                size_bytes: 1,
            })
        };
        for start_bytes in 0..4 {
            state.take(Fact::Cut(Segment {
                start_bytes,
                length_bytes: 1,
                checksum: 0,
                hashers: Vec::new(),
            }));
        }
        state.is_frozen = true;
        assert_eq!(state.next(), None, "nothing was sent");
        // The third has overtaken the others: they cannot follow it any more.
        state.take(sent(3));
        assert_eq!(state.next(), Some(0), "a gap is left");
        state.take(sent(1));
        assert_eq!(state.next(), Some(1), "a gap is left");
        state.take(sent(2));
        assert_eq!(state.next(), None);
        assert_eq!((state.sent().len(), state.unsent().len()), (3, 1));
    }
}
