//! Bodies on their way in.
//!
//! Design: DESIGN D7. No clock limits a body that moves; one that stands still for the stall limit is ended, and while
//! connections are scarce one that creeps too. Must not know what is in them. Invariant: a body that breaks off is an error,
//! never a shorter body.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::ServerError;
use super::pressure::Pressure;
use crate::clock::Clock;
use crate::registry::{self, BodyError};

/// A request's body, which notes when it is given up before its end.
pub(super) struct RequestBody {
    incoming: Incoming,
    has_ended: bool,
    was_refused: Arc<AtomicBool>,
}

impl RequestBody {
    /// `was_refused` becomes true if not all of the body is read.
    pub(super) fn new(incoming: Incoming, was_refused: Arc<AtomicBool>) -> Self {
        let has_ended = incoming.is_end_stream();
        Self {
            incoming,
            has_ended,
            was_refused,
        }
    }

    /// Whether there is nothing in it, which shows before it is read.
    pub(super) fn is_empty(&self) -> bool {
        self.incoming.is_end_stream()
    }

    async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        let frame = self.incoming.frame().await;
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
}

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

    /// The whole of a small body.
    pub(super) async fn collect(
        &self,
        body: RequestBody,
        limit_bytes: usize,
    ) -> Result<Bytes, ServerError> {
        if body.incoming.size_hint().lower() > limit_bytes as u64 {
            return Err(ServerError::BodyTooLarge { limit_bytes });
        }
        let mut body = self.receive(body);
        let mut bytes = BytesMut::new();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(registry::RegistryError::from)?;
            if bytes.len() + piece.len() > limit_bytes {
                return Err(ServerError::BodyTooLarge { limit_bytes });
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
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
