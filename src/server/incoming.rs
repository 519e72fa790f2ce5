//! Request bodies.
//!
//! A body may take any time while it makes progress. One that stalls for the stall limit is ended; while connections are
//! scarce, so is one that is too slow. Bodies that are held in memory have a time limit and count against the memory
//! budget. Must not know what is in a body. Invariant: a body that ends early is an error, never a shorter body.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::ServerError;
use super::activity::RequestActivity;
use super::admission::Admission;
use crate::clock::Clock;
use crate::metrics::{Counters, Direction, HandlerCounters, Stop};
use crate::registry::{self, BodyError, MemoryBudget, Reservation};

/// The body of a request. It records whether it was read to its end.
pub(super) struct RequestBody {
    incoming: Incoming,
    has_ended: bool,
    has_unread_body: Arc<AtomicBool>,
    activity: Arc<RequestActivity>,
    /// `None` until it is known what answers the request.
    counters: Option<Arc<HandlerCounters>>,
}

impl RequestBody {
    /// `has_unread_body` becomes true if this is dropped before the end of the body.
    pub(super) fn new(
        incoming: Incoming,
        has_unread_body: Arc<AtomicBool>,
        activity: Arc<RequestActivity>,
    ) -> Self {
        let has_ended = incoming.is_end_stream();
        Self {
            incoming,
            has_ended,
            has_unread_body,
            activity,
            counters: None,
        }
    }

    /// Counts its bytes from now on.
    pub(super) fn count(&mut self, counters: Arc<HandlerCounters>) {
        self.counters = Some(counters);
    }

    /// Whether the body is known to be empty before it is read.
    pub(super) fn is_empty(&self) -> bool {
        self.incoming.is_end_stream()
    }

    async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        self.activity.waits_for_client();
        let frame = self.incoming.frame().await;
        self.activity.waits_for_server();
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.activity.transferred(bytes);
            if let Some(counters) = &self.counters {
                counters.receive(bytes);
            }
        }
        // After an error the client sends no more.
        self.has_ended = !matches!(frame, Some(Ok(_)));
        frame
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.has_ended {
            self.has_unread_body.store(true, Ordering::Release);
        }
    }
}

/// The limits that decide when a body has stalled or is too slow.
#[derive(Clone)]
pub(super) struct BodyLimits {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stall_secs: u64,
    pub(super) floor_bytes_per_sec: u64,
    pub(super) admission: Admission,
    pub(super) whole_body_secs: u64,
    pub(super) memory: MemoryBudget,
    pub(super) counters: Arc<Counters>,
}

/// How often memory is checked during the time for a body that is held in memory.
const WHOLE_BODY_CHECKS: u32 = 4;

/// The time before the rate of a body is judged.
const RATE_GRACE: Duration = Duration::from_secs(30);

impl BodyLimits {
    /// Whether `moved_bytes` in `took` is below the minimum rate while connections are scarce.
    pub(super) fn is_too_slow(&self, took: Duration, moved_bytes: u64) -> bool {
        let floor_bytes = took.as_secs().saturating_mul(self.floor_bytes_per_sec);
        took > RATE_GRACE && moved_bytes < floor_bytes && self.admission.is_scarce()
    }

    /// The pieces of `incoming` as they arrive.
    pub(super) fn receive(&self, body: RequestBody) -> registry::Body {
        let state = Receiving {
            body,
            began: self.clock.elapsed(),
            received_bytes: 0,
            body_limits: self.clone(),
        };
        stream::try_unfold(state, Receiving::next).boxed()
    }

    /// Reads a whole body into memory. The memory budget counts what has arrived, not what the client announces.
    pub(super) async fn collect(
        &self,
        body: RequestBody,
        limit_bytes: usize,
        reservation: Reservation,
    ) -> Result<Bytes, ServerError> {
        let announced_bytes = body.incoming.size_hint();
        if announced_bytes.lower() > limit_bytes as u64 {
            return Err(ServerError::BodyTooLarge { limit_bytes });
        }
        let announced_bytes = announced_bytes
            .exact()
            .and_then(|size| usize::try_from(size).ok());
        let collected = BodyInMemory {
            bytes: Vec::new(),
            announced_bytes: announced_bytes.unwrap_or(limit_bytes).min(limit_bytes),
            limit_bytes,
            reservation,
        };
        let pieces = self.receive(body);
        tokio::select! {
            bytes = collected.gather(pieces) => bytes,
            limit_secs = self.collected_in_time() => Err(ServerError::BodyTooLate { limit_secs }),
        }
    }

    /// Resolves when the time for a body that is held in memory is over. The time is a quarter while memory for these
    /// bodies is scarce.
    async fn collected_in_time(&self) -> u64 {
        let part = Duration::from_secs(self.whole_body_secs) / WHOLE_BODY_CHECKS;
        let began = self.clock.elapsed();
        for check in 1..=WHOLE_BODY_CHECKS {
            let next = began + part * check;
            let left = next.saturating_sub(self.clock.elapsed());
            self.clock.sleep(left).await;
            if self.memory.is_scarce() {
                return (part * check).as_secs();
            }
        }
        self.whole_body_secs
    }
}

/// A body in memory, as it grows.
struct BodyInMemory {
    bytes: Vec<u8>,
    /// Its maximum length.
    announced_bytes: usize,
    limit_bytes: usize,
    reservation: Reservation,
}

impl BodyInMemory {
    async fn gather(mut self, mut pieces: registry::Body) -> Result<Bytes, ServerError> {
        while let Some(piece) = pieces.next().await {
            self.add(&piece.map_err(registry::RegistryError::from)?)?;
        }
        Ok(self.reservation.hold(self.bytes))
    }

    fn add(&mut self, piece: &[u8]) -> Result<(), ServerError> {
        let limit_bytes = self.limit_bytes;
        let size_bytes = self.bytes.len() + piece.len();
        if size_bytes > limit_bytes {
            return Err(ServerError::BodyTooLarge { limit_bytes });
        }
        if size_bytes > self.bytes.capacity() {
            let doubled_bytes = (self.bytes.capacity() * 2).min(self.announced_bytes);
            let capacity_bytes = size_bytes.max(doubled_bytes);
            self.reservation.grow_to(capacity_bytes)?;
            self.bytes.reserve_exact(capacity_bytes - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

struct Receiving {
    body: RequestBody,
    began: Duration,
    received_bytes: u64,
    body_limits: BodyLimits,
}

impl Receiving {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, BodyError> {
        let limit_secs = self.body_limits.stall_secs;
        loop {
            let stall = self
                .body_limits
                .clock
                .sleep(Duration::from_secs(limit_secs));
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => frame,
                () = stall => {
                    self.body_limits.counters.stop(Direction::Receive, Stop::Stalled);
                    return Err(BodyError::Stalled { limit_secs });
                }
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(BodyError::Broken(error.to_string())),
                Some(Ok(frame)) => {
                    // Trailers are ignored.
                    let Ok(bytes) = frame.into_data() else {
                        continue;
                    };
                    self.received_bytes += bytes.len() as u64;
                    self.check_rate()?;
                    return Ok(Some((bytes, self)));
                }
            }
        }
    }

    fn check_rate(&self) -> Result<(), BodyError> {
        let took = self.body_limits.clock.elapsed().saturating_sub(self.began);
        if self.body_limits.is_too_slow(took, self.received_bytes) {
            self.body_limits
                .counters
                .stop(Direction::Receive, Stop::TooSlow);
            return Err(BodyError::TooSlow);
        }
        Ok(())
    }
}
