//! Bodies on their way in.
//!
//! Design: DESIGN D7. No clock limits a body that moves; one that stands still for the stall limit is ended, and while
//! connections are scarce one that creeps too. A body that is held whole is another thing: it takes memory for as long as
//! it comes, so it has a time, and a place in the memory budget. Must not know what is in them. Invariant: a body that breaks off is an error,
//! never a shorter body.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::ServerError;
use super::pressure::Pressure;
use super::pulse::Turn;
use crate::clock::Clock;
use crate::registry::{self, BodyError, MemoryBudget, Reservation};

/// A request's body, which notes when it is given up before its end.
pub(super) struct RequestBody {
    incoming: Incoming,
    has_ended: bool,
    was_refused: Arc<AtomicBool>,
    turn: Arc<Turn>,
}

impl RequestBody {
    /// `was_refused` becomes true if not all of the body is read.
    pub(super) fn new(incoming: Incoming, was_refused: Arc<AtomicBool>, turn: Arc<Turn>) -> Self {
        let has_ended = incoming.is_end_stream();
        Self {
            incoming,
            has_ended,
            was_refused,
            turn,
        }
    }

    /// Whether there is nothing in it, which shows before it is read.
    pub(super) fn is_empty(&self) -> bool {
        self.incoming.is_end_stream()
    }

    async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        self.turn.clients();
        let frame = self.incoming.frame().await;
        self.turn.ours();
        if let Some(Ok(frame)) = &frame {
            self.turn.moved(frame.data_ref().map_or(0, Bytes::len));
        }
        // After an error there is nobody left to send more.
        self.has_ended = !matches!(frame, Some(Ok(_)));
        frame
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.has_ended {
            self.was_refused.store(true, Ordering::Release);
        }
    }
}

/// What decides when a body has stood still, or crept, for too long.
#[derive(Clone)]
pub(super) struct Patience {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stall_secs: u64,
    pub(super) floor_bytes_per_sec: u64,
    pub(super) pressure: Pressure,
    pub(super) whole_body_secs: u64,
    pub(super) memory: MemoryBudget,
}

/// How often it is looked whether memory is scarce, in the time that a body has which is held whole.
const WHOLE_BODY_LOOKS: u32 = 4;

/// How long a body may take before its rate is judged at all.
const RATE_GRACE: Duration = Duration::from_secs(30);

impl Patience {
    /// Whether `moved_bytes` in `took` is less than the floor rate, and somebody else needs the connection.
    pub(super) fn is_too_slow(&self, took: Duration, moved_bytes: u64) -> bool {
        let floor_bytes = took.as_secs().saturating_mul(self.floor_bytes_per_sec);
        took > RATE_GRACE && moved_bytes < floor_bytes && self.pressure.is_high()
    }

    /// The pieces of `incoming`, for as long as they come.
    pub(super) fn receive(&self, body: RequestBody) -> registry::Body {
        let state = Receiving {
            body,
            began: self.clock.elapsed(),
            received_bytes: 0,
            patience: self.clone(),
        };
        stream::try_unfold(state, Receiving::next).boxed()
    }

    /// The whole of a body, which is counted in the memory budget as it comes: what a client says of its length costs
    /// nobody anything.
    pub(super) async fn collect(
        &self,
        body: RequestBody,
        limit_bytes: usize,
        reservation: Reservation,
    ) -> Result<Bytes, ServerError> {
        let told_bytes = body.incoming.size_hint();
        if told_bytes.lower() > limit_bytes as u64 {
            return Err(ServerError::BodyTooLarge { limit_bytes });
        }
        let told_bytes = told_bytes
            .exact()
            .and_then(|size| usize::try_from(size).ok());
        let room = Room {
            bytes: Vec::new(),
            told_bytes: told_bytes.unwrap_or(limit_bytes).min(limit_bytes),
            limit_bytes,
            reservation,
        };
        let pieces = self.receive(body);
        tokio::select! {
            collected = room.gather(pieces) => collected,
            limit_secs = self.collected_in_time() => Err(ServerError::BodyTooLate { limit_secs }),
        }
    }

    /// Resolves when a body that is held whole has had its time, which is a quarter while memory for these is scarce.
    async fn collected_in_time(&self) -> u64 {
        let part = Duration::from_secs(self.whole_body_secs) / WHOLE_BODY_LOOKS;
        let began = self.clock.elapsed();
        for look in 1..=WHOLE_BODY_LOOKS {
            let next = began + part * look;
            let left = next.saturating_sub(self.clock.elapsed());
            self.clock.sleep(left).await;
            if self.memory.is_scarce() {
                return (part * look).as_secs();
            }
        }
        self.whole_body_secs
    }
}

/// A body that is held whole, as it grows.
struct Room {
    bytes: Vec<u8>,
    /// How long it will be at most.
    told_bytes: usize,
    limit_bytes: usize,
    reservation: Reservation,
}

impl Room {
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
            let doubled_bytes = (self.bytes.capacity() * 2).min(self.told_bytes);
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
    patience: Patience,
}

impl Receiving {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, BodyError> {
        let limit_secs = self.patience.stall_secs;
        loop {
            let stall = self.patience.clock.sleep(Duration::from_secs(limit_secs));
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => frame,
                () = stall => return Err(BodyError::Stalled { limit_secs }),
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(BodyError::Broken(error.to_string())),
                Some(Ok(frame)) => {
                    // Trailers say nothing that we need.
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
        let took = self.patience.clock.elapsed().saturating_sub(self.began);
        if self.patience.is_too_slow(took, self.received_bytes) {
            return Err(BodyError::TooSlow);
        }
        Ok(())
    }
}
