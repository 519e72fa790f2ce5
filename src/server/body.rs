//! Bodies on their way in and out.
//!
//! Design: DESIGN D7. No clock limits a body that moves; one that stands still for the stall limit is ended, and while
//! connections are scarce one that creeps too. Must not know what is in them. Invariant: a body that breaks off is an error,
//! never a shorter body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::ServerError;
use super::access_log::Line;
use super::pressure::Pressure;
use crate::clock::Clock;
use crate::registry::{self, BodyError};
use crate::store::{ByteStream, StoreError};

/// What every answer carries.
pub(super) struct ResponseBody {
    source: Source,
    /// How many bytes are still to come.
    remaining_bytes: u64,
    /// Written when the body has ended, or been given up.
    line: Option<Line>,
}

enum Source {
    Whole(Bytes),
    Stream(ByteStream),
}

impl ResponseBody {
    pub(super) fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    pub(super) fn whole(bytes: Bytes) -> Self {
        let remaining_bytes = bytes.len() as u64;
        Self {
            source: Source::Whole(bytes),
            remaining_bytes,
            line: None,
        }
    }

    /// `size_bytes` bytes from the store.
    pub(super) fn stream(bytes: ByteStream, size_bytes: u64) -> Self {
        Self {
            source: Source::Stream(bytes),
            remaining_bytes: size_bytes,
            line: None,
        }
    }

    /// Writes `line` to the access log when the body ends.
    pub(super) fn logged(mut self, line: Line) -> Self {
        self.line = Some(line);
        self
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = StoreError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StoreError>>> {
        let this = self.get_mut();
        let piece = match &mut this.source {
            Source::Whole(bytes) if bytes.is_empty() => None,
            Source::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Source::Stream(stream) => match Pin::new(stream).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(piece) => piece,
            },
        };
        match piece {
            Some(Ok(bytes)) => {
                this.remaining_bytes = this.remaining_bytes.saturating_sub(bytes.len() as u64);
                if let Some(line) = &mut this.line {
                    line.add_sent(bytes.len());
                }
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Err(error)) => {
                tracing::error!(error = %super::error::chain(&error), "an answer broke off");
                Poll::Ready(Some(Err(error)))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.remaining_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining_bytes)
    }
}

/// What decides when a body that comes in has stood still for too long.
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
    /// The pieces of `incoming`, for as long as they come.
    pub(super) fn receive(&self, incoming: Incoming) -> registry::Body {
        let state = Receiving {
            incoming,
            began: self.clock.elapsed(),
            received_bytes: 0,
            patience: self.clone(),
        };
        stream::try_unfold(state, Receiving::next).boxed()
    }

    /// The whole of a small body.
    pub(super) async fn collect(
        &self,
        incoming: Incoming,
        limit_bytes: usize,
    ) -> Result<Bytes, ServerError> {
        if incoming.size_hint().lower() > limit_bytes as u64 {
            return Err(ServerError::BodyTooLarge { limit_bytes });
        }
        let mut body = self.receive(incoming);
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
    incoming: Incoming,
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
                frame = self.incoming.frame() => frame,
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
        let is_slow = self.received_bytes
            < took
                .as_secs()
                .saturating_mul(self.patience.floor_bytes_per_sec);
        if took > RATE_GRACE && is_slow && self.patience.pressure.is_high() {
            return Err(BodyError::TooSlow);
        }
        Ok(())
    }
}

/// Reads on for a moment, so that a client in the middle of sending sees the answer rather than a reset connection.
pub(super) async fn drain(mut incoming: Incoming, clock: &dyn Clock) {
    let mut left = super::error::DRAIN_BYTES;
    let mut time = clock.sleep(super::error::DRAIN_TIME);
    loop {
        tokio::select! {
            frame = incoming.frame() => match frame {
                Some(Ok(frame)) => {
                    let size = frame.data_ref().map_or(0, Bytes::len);
                    if size > left {
                        return;
                    }
                    left -= size;
                }
                Some(Err(_)) | None => return,
            },
            () = &mut time => return,
        }
    }
}
