//! The open requests of one connection.
//!
//! A request is open until the last byte of its answer is handed over. Must not know what is asked or answered. Invariants:
//! if the client stops reading an answer, its memory and files are freed after the stall limit (over HTTP/2 no other limit
//! applies: the connection lives on while one of its streams has stalled); a connection counts as idle only if it has no
//! other open requests.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream as _;

use super::activity::{Activity, RequestActivity};
use super::incoming::BodyLimits;
use crate::metrics::{Direction, Stop};
use crate::store::{ByteStream, StoreError};

/// How much of an answer is handed over at a time. For a client that has stopped reading, the HTTP library holds at most
/// this much of each stream.
const PIECE_BYTES: usize = 64 * 1024;

/// If the list has this many requests, those that have ended are removed.
const SWEEP_AT: usize = 256;

/// Where the bytes of an answer come from.
pub(super) enum Source {
    /// Memory.
    Whole(Bytes),
    /// The store.
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

/// The open requests of one connection.
#[derive(Clone)]
pub(super) struct OpenRequests {
    listed: Arc<Mutex<Registered>>,
    activity: Arc<Activity>,
}

#[derive(Default)]
struct Registered {
    open: Vec<Arc<OpenRequest>>,
    begun: u64,
}

/// A request and its answer.
pub(super) struct OpenRequest(Mutex<Phase>);

enum Phase {
    /// The request is read or worked on. Other limits apply to what it waits for.
    Handling,
    /// The answer is being handed over.
    Answering(Answering),
    /// The client has stopped reading; the answer was dropped.
    GivenUp,
    /// The answer is complete, or was cancelled.
    Ended,
}

struct Answering {
    source: Source,
    began: Duration,
    /// How often the client has asked for more; and the count and the time of the last change that was seen.
    asked: u64,
    seen: (u64, Duration),
    sent_bytes: u64,
}

impl OpenRequests {
    /// No requests yet.
    pub(super) fn new(activity: Arc<Activity>) -> Self {
        Self {
            listed: Arc::default(),
            activity,
        }
    }

    /// A request has begun.
    pub(super) fn begin(&self) -> RequestInFlight {
        let request = Arc::new(OpenRequest(Mutex::new(Phase::Handling)));
        let mut listed = self.lock();
        listed.begun += 1;
        if listed.open.len() >= SWEEP_AT {
            listed.open.retain(|request| !request.has_ended());
        }
        listed.open.push(Arc::clone(&request));
        let activity = Arc::new(self.activity.begin());
        RequestInFlight { request, activity }
    }

    /// Drops the answers of clients that have stopped reading. If no other request is open, returns how many requests have
    /// begun so far.
    pub(super) fn look(&self, body_limits: &BodyLimits) -> Option<u64> {
        let mut listed = self.lock();
        listed.open.retain(|request| !request.has_ended());
        let mut is_idle = true;
        for request in &listed.open {
            is_idle &= request.is_given_up(body_limits);
        }
        is_idle.then_some(listed.begun)
    }

    fn lock(&self) -> MutexGuard<'_, Registered> {
        // The list is consistent even after a panic.
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenRequest {
    fn lock(&self) -> MutexGuard<'_, Phase> {
        // If polling a source panicked, its task has ended and does not poll it again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        matches!(*self.lock(), Phase::Ended)
    }

    /// Whether the client has stopped reading, or reads too slowly while connections are scarce. If so, drops the answer.
    fn is_given_up(&self, body_limits: &BodyLimits) -> bool {
        let mut phase = self.lock();
        let Phase::Answering(answering) = &mut *phase else {
            return matches!(*phase, Phase::GivenUp);
        };
        let now = body_limits.clock.elapsed();
        if answering.asked != answering.seen.0 {
            answering.seen = (answering.asked, now);
        }
        let stood_still = now.saturating_sub(answering.seen.1);
        let took = now.saturating_sub(answering.began);
        let is_stalled = stood_still >= Duration::from_secs(body_limits.stall_secs);
        let why = if is_stalled {
            Stop::Stalled
        } else if body_limits.is_too_slow(took, answering.sent_bytes) {
            Stop::TooSlow
        } else {
            return false;
        };
        body_limits.counters.stop(Direction::Send, why);
        *phase = Phase::GivenUp;
        true
    }
}

/// A request that is being handled or answered. Dropping it ends the request.
pub(super) struct RequestInFlight {
    request: Arc<OpenRequest>,
    activity: Arc<RequestActivity>,
}

impl RequestInFlight {
    /// The activity of this request, for the code that reads its body.
    pub(super) fn activity(&self) -> Arc<RequestActivity> {
        Arc::clone(&self.activity)
    }

    /// The answer begins.
    pub(super) fn answer(&self, source: Source, now: Duration) {
        let seen = (0, now);
        self.activity.answer_begins();
        *self.request.lock() = Phase::Answering(Answering {
            source,
            began: now,
            asked: 0,
            seen,
            sent_bytes: 0,
        });
    }

    /// The client asks for more.
    pub(super) fn poll(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, StoreError>>> {
        let mut phase = self.request.lock();
        let Phase::Answering(answering) = &mut *phase else {
            let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
            let doing = "continue an answer that the client has stopped reading".to_owned();
            return Poll::Ready(Some(Err(StoreError::Io { doing, source })));
        };
        answering.asked += 1;
        let piece = answering.source.poll(context);
        match &piece {
            // Waiting for the store.
            Poll::Pending => self.activity.waits_for_server(),
            Poll::Ready(Some(Ok(bytes))) => {
                answering.sent_bytes += bytes.len() as u64;
                self.activity.transferred(bytes.len());
                self.activity.waits_for_client();
            }
            Poll::Ready(_) => self.activity.waits_for_client(),
        }
        piece
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        *self.request.lock() = Phase::Ended;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::{StreamExt as _, stream};

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::server::admission::Admission;

    const STALL: Duration = Duration::from_mins(2);

    fn body_limits(clock: &ManualClock, admission: Admission) -> BodyLimits {
        BodyLimits {
            clock: Arc::new(clock.clone()),
            stall_secs: STALL.as_secs(),
            floor_bytes_per_sec: 1_024,
            admission,
            whole_body_secs: 120,
            memory: crate::registry::MemoryBudget::new(1024),
            counters: Arc::default(),
        }
    }

    fn endless() -> Source {
        Source::Stream(stream::repeat_with(|| Ok(Bytes::from_static(b"0123456789"))).boxed())
    }

    fn read(in_flight: &RequestInFlight) -> Result<Bytes, StoreError> {
        match in_flight.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(piece)) => piece,
            other => panic!("an endless answer gave {other:?}"),
        }
    }

    #[test]
    fn a_reader_who_has_stopped_is_given_up_and_one_who_crawls_is_not() {
        let clock = ManualClock::at_unix_secs(0);
        let body_limits = body_limits(
            &clock,
            Admission::new(10, Vec::new(), Arc::new(clock.clone())),
        );
        for source in [
            endless(),
            Source::Whole(Bytes::from(vec![0; PIECE_BYTES * 100])),
        ] {
            let open_requests =
                OpenRequests::new(Activity::new(Arc::new(ManualClock::at_unix_secs(0))));
            let in_flight = open_requests.begin();
            assert_eq!(
                open_requests.look(&body_limits),
                None,
                "a request is being handled, for however long"
            );
            in_flight.answer(source, clock.elapsed());
            for _ in 0..10 {
                clock.advance(STALL / 2);
                read(&in_flight).expect("still there");
                assert_eq!(open_requests.look(&body_limits), None);
            }
            clock.advance(STALL);
            assert_eq!(
                open_requests.look(&body_limits),
                Some(1),
                "nothing holds the connection now"
            );
            assert!(read(&in_flight).is_err());
        }
    }

    #[test]
    fn a_small_answer_that_is_never_asked_for_is_given_up_too() {
        let clock = ManualClock::at_unix_secs(0);
        let body_limits = body_limits(
            &clock,
            Admission::new(10, Vec::new(), Arc::new(clock.clone())),
        );
        let open_requests =
            OpenRequests::new(Activity::new(Arc::new(ManualClock::at_unix_secs(0))));
        let in_flight = open_requests.begin();
        in_flight.answer(Source::Whole(Bytes::from_static(b"ok")), clock.elapsed());
        clock.advance(STALL);
        assert_eq!(open_requests.look(&body_limits), Some(1));
    }

    #[tokio::test]
    async fn a_crawling_reader_makes_room_when_connections_are_scarce() {
        let clock = ManualClock::at_unix_secs(0);
        let admission = Admission::new(5, Vec::new(), Arc::new(clock.clone()));
        let _places: Vec<_> = (0..5)
            .map(|last| admission.admit([192, 0, 2, last].into()))
            .collect();
        let body_limits = body_limits(&clock, admission);
        let open_requests =
            OpenRequests::new(Activity::new(Arc::new(ManualClock::at_unix_secs(0))));
        let in_flight = open_requests.begin();
        in_flight.answer(endless(), clock.elapsed());
        clock.advance(STALL / 2);
        read(&in_flight).expect("still there");
        assert_eq!(open_requests.look(&body_limits), Some(1));
        assert!(read(&in_flight).is_err());
    }

    #[test]
    fn ended_exchanges_are_not_kept() {
        let open_requests =
            OpenRequests::new(Activity::new(Arc::new(ManualClock::at_unix_secs(0))));
        for _ in 0..SWEEP_AT * 10 {
            drop(open_requests.begin());
        }
        assert!(open_requests.lock().open.len() <= SWEEP_AT);
    }
}
