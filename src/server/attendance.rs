//! Whether a connection is still worth its place.
//!
//! Every request of a connection is an [`Exchange`] until its answer's last byte is handed over. Must not know what is
//! asked or answered. Invariants: an answer that its reader has stopped reading gives back what it holds after the stall
//! limit (over HTTP/2 nothing else would notice: the connection lives on while one of its streams stands still); a
//! connection counts as idle only when no exchange is open but those.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream as _;

use super::incoming::Patience;
use super::pulse::{Pulse, Turn};
use crate::store::{ByteStream, StoreError};

/// How much of an answer is handed over at once: what the HTTP library holds for a reader who has stopped is at most this,
/// for each of its streams.
const PIECE_BYTES: usize = 64 * 1024;

/// How many exchanges are listed before those that have ended are dropped from the list.
const SWEEP_AT: usize = 256;

/// Where the bytes of an answer come from.
pub(super) enum Source {
    /// They are all there.
    Whole(Bytes),
    /// The store gives them.
    Stream(ByteStream),
}

impl Source {
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, StoreError>>> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => {
                Poll::Ready(Some(Ok(bytes.split_to(bytes.len().min(PIECE_BYTES)))))
            }
            Self::Stream(stream) => Pin::new(stream).poll_next(context),
        }
    }
}

/// The exchanges of one connection.
#[derive(Clone)]
pub(super) struct Attendance {
    listed: Arc<Mutex<Listed>>,
    pulse: Arc<Pulse>,
}

#[derive(Default)]
struct Listed {
    open: Vec<Arc<Exchange>>,
    begun: u64,
}

/// A request and its answer.
pub(super) struct Exchange(Mutex<Phase>);

enum Phase {
    /// The request is being read or worked on; what it waits for has limits of its own.
    Handling,
    /// The answer is being handed over.
    Answering(Answering),
    /// Its reader was given up.
    GivenUp,
    /// All was handed over, or nobody wants it any more.
    Ended,
}

struct Answering {
    source: Source,
    began: Duration,
    /// How often the reader has asked for more, and what of it was seen when.
    asked: u64,
    seen: (u64, Duration),
    sent_bytes: u64,
}

impl Attendance {
    /// Of the connection with this pulse.
    pub(super) fn new(pulse: Arc<Pulse>) -> Self {
        Self {
            listed: Arc::default(),
            pulse,
        }
    }

    /// Another request has come.
    pub(super) fn begin(&self) -> InUse {
        let exchange = Arc::new(Exchange(Mutex::new(Phase::Handling)));
        let mut listed = self.lock();
        listed.begun += 1;
        if listed.open.len() >= SWEEP_AT {
            listed.open.retain(|exchange| !exchange.has_ended());
        }
        listed.open.push(Arc::clone(&exchange));
        let turn = Arc::new(self.pulse.begin());
        InUse { exchange, turn }
    }

    /// Gives up readers who do not read. Tells how many requests have come so far, if none of them is open any more.
    pub(super) fn look(&self, patience: &Patience) -> Option<u64> {
        let mut listed = self.lock();
        listed.open.retain(|exchange| !exchange.has_ended());
        let mut is_idle = true;
        for exchange in &listed.open {
            is_idle &= exchange.is_given_up(patience);
        }
        is_idle.then_some(listed.begun)
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        // A list stays whole whoever panics.
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exchange {
    fn lock(&self) -> MutexGuard<'_, Phase> {
        // A source that panicked while it was polled is not polled again: its task is gone.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        matches!(*self.lock(), Phase::Ended)
    }

    /// Judges the reader, and takes the answer away from one who has stopped, or creeps while others wait.
    fn is_given_up(&self, patience: &Patience) -> bool {
        let mut phase = self.lock();
        let Phase::Answering(answering) = &mut *phase else {
            return matches!(*phase, Phase::GivenUp);
        };
        let now = patience.clock.elapsed();
        if answering.asked != answering.seen.0 {
            answering.seen = (answering.asked, now);
        }
        let stood_still = now.saturating_sub(answering.seen.1);
        let took = now.saturating_sub(answering.began);
        let is_stalled = stood_still >= Duration::from_secs(patience.stall_secs);
        if is_stalled || patience.is_too_slow(took, answering.sent_bytes) {
            *phase = Phase::GivenUp;
            return true;
        }
        false
    }
}

/// The right to the connection's place; ends when dropped.
pub(super) struct InUse {
    exchange: Arc<Exchange>,
    turn: Arc<Turn>,
}

impl InUse {
    /// Whose turn it is, for whoever reads the request's body.
    pub(super) fn turn(&self) -> Arc<Turn> {
        Arc::clone(&self.turn)
    }

    /// The answer begins.
    pub(super) fn answer(&self, source: Source, now: Duration) {
        let seen = (0, now);
        self.turn.answers();
        *self.exchange.lock() = Phase::Answering(Answering {
            source,
            began: now,
            asked: 0,
            seen,
            sent_bytes: 0,
        });
    }

    /// The reader asks for more.
    pub(super) fn poll(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, StoreError>>> {
        let mut phase = self.exchange.lock();
        let Phase::Answering(answering) = &mut *phase else {
            let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
            let doing = "go on with an answer that nobody has read for a while".to_owned();
            return Poll::Ready(Some(Err(StoreError::Io { doing, source })));
        };
        answering.asked += 1;
        let piece = answering.source.poll(context);
        match &piece {
            // The store has not got it yet.
            Poll::Pending => self.turn.ours(),
            Poll::Ready(Some(Ok(bytes))) => {
                answering.sent_bytes += bytes.len() as u64;
                self.turn.moved(bytes.len());
                self.turn.clients();
            }
            Poll::Ready(_) => self.turn.clients(),
        }
        piece
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        *self.exchange.lock() = Phase::Ended;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::{StreamExt as _, stream};

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::server::pressure::Pressure;

    const STALL: Duration = Duration::from_mins(2);

    fn patience(clock: &ManualClock, pressure: Pressure) -> Patience {
        Patience {
            clock: Arc::new(clock.clone()),
            stall_secs: STALL.as_secs(),
            floor_bytes_per_sec: 1_024,
            pressure,
            whole_body_secs: 120,
            memory: crate::registry::MemoryBudget::new(1024),
        }
    }

    fn endless() -> Source {
        Source::Stream(stream::repeat_with(|| Ok(Bytes::from_static(b"0123456789"))).boxed())
    }

    fn read(in_use: &InUse) -> Result<Bytes, StoreError> {
        match in_use.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(piece)) => piece,
            other => panic!("an endless answer gave {other:?}"),
        }
    }

    #[test]
    fn a_reader_who_has_stopped_is_given_up_and_one_who_crawls_is_not() {
        let clock = ManualClock::at_unix_secs(0);
        let patience = patience(
            &clock,
            Pressure::new(10, Vec::new(), Arc::new(clock.clone())),
        );
        for source in [
            endless(),
            Source::Whole(Bytes::from(vec![0; PIECE_BYTES * 100])),
        ] {
            let attendance = Attendance::new(Pulse::new(Arc::new(ManualClock::at_unix_secs(0))));
            let in_use = attendance.begin();
            assert_eq!(
                attendance.look(&patience),
                None,
                "a request is being handled, for however long"
            );
            in_use.answer(source, clock.elapsed());
            for _ in 0..10 {
                clock.advance(STALL / 2);
                read(&in_use).expect("still there");
                assert_eq!(attendance.look(&patience), None);
            }
            clock.advance(STALL);
            assert_eq!(
                attendance.look(&patience),
                Some(1),
                "nothing holds the connection now"
            );
            assert!(read(&in_use).is_err());
        }
    }

    #[test]
    fn a_small_answer_that_is_never_asked_for_is_given_up_too() {
        let clock = ManualClock::at_unix_secs(0);
        let patience = patience(
            &clock,
            Pressure::new(10, Vec::new(), Arc::new(clock.clone())),
        );
        let attendance = Attendance::new(Pulse::new(Arc::new(ManualClock::at_unix_secs(0))));
        let in_use = attendance.begin();
        in_use.answer(Source::Whole(Bytes::from_static(b"ok")), clock.elapsed());
        clock.advance(STALL);
        assert_eq!(attendance.look(&patience), Some(1));
    }

    #[tokio::test]
    async fn a_crawling_reader_makes_room_when_connections_are_scarce() {
        let clock = ManualClock::at_unix_secs(0);
        let pressure = Pressure::new(5, Vec::new(), Arc::new(clock.clone()));
        let _places: Vec<_> = (0..5)
            .map(|last| pressure.admit([192, 0, 2, last].into()))
            .collect();
        let patience = patience(&clock, pressure);
        let attendance = Attendance::new(Pulse::new(Arc::new(ManualClock::at_unix_secs(0))));
        let in_use = attendance.begin();
        in_use.answer(endless(), clock.elapsed());
        clock.advance(STALL / 2);
        read(&in_use).expect("still there");
        assert_eq!(attendance.look(&patience), Some(1));
        assert!(read(&in_use).is_err());
    }

    #[test]
    fn ended_exchanges_are_not_kept() {
        let attendance = Attendance::new(Pulse::new(Arc::new(ManualClock::at_unix_secs(0))));
        for _ in 0..SWEEP_AT * 10 {
            drop(attendance.begin());
        }
        assert!(attendance.lock().open.len() <= SWEEP_AT);
    }
}
