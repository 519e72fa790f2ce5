//! Bodies on their way out.
//!
//! Must not know what is in them. Invariant: an answer is as long as it said, or breaks off.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::access_log::Line;
use super::attendance::{InUse, Source};
use crate::registry::{BudgetSpent, Reservation};
use crate::store::{ByteStream, StoreError};

/// Shorter answers are not counted in the memory budget: what surrounds them takes as much.
const UNCOUNTED_BYTES_MAX: usize = 1024;

/// What every answer carries.
pub(super) struct ResponseBody {
    state: State,
    /// How many bytes are still to come.
    remaining_bytes: u64,
    /// Whether what is held in memory is counted in the budget, or needs not be.
    is_counted: bool,
    /// Written when the body has ended, or been given up.
    line: Option<Line>,
}

enum State {
    /// Not on its way yet, or an answer outside the registry.
    Alone(Source),
    /// Watched for as long as somebody reads it.
    Attended(InUse),
}

impl ResponseBody {
    pub(super) fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    pub(super) fn whole(bytes: Bytes) -> Self {
        Self {
            is_counted: bytes.len() < UNCOUNTED_BYTES_MAX,
            ..Self::counted(bytes)
        }
    }

    /// Bytes that are counted in the memory budget already.
    pub(super) fn counted(bytes: Bytes) -> Self {
        let size_bytes = bytes.len() as u64;
        Self::new(Source::Whole(bytes), size_bytes)
    }

    /// What the answer to a HEAD would have.
    pub(super) fn unsent(size_bytes: u64) -> Self {
        Self::new(Source::Whole(Bytes::new()), size_bytes)
    }

    /// `size_bytes` bytes from the store.
    pub(super) fn stream(bytes: ByteStream, size_bytes: u64) -> Self {
        Self::new(Source::Stream(bytes), size_bytes)
    }

    fn new(source: Source, size_bytes: u64) -> Self {
        Self {
            state: State::Alone(source),
            remaining_bytes: size_bytes,
            is_counted: true,
            line: None,
        }
    }

    /// How many bytes are to come.
    pub(super) fn size_bytes(&self) -> u64 {
        self.remaining_bytes
    }

    /// Counts what is held in memory until it is sent: how long that takes is for the client to say.
    pub(super) fn count(&mut self, mut reservation: Reservation) -> Result<(), BudgetSpent> {
        let State::Alone(Source::Whole(bytes)) = &mut self.state else {
            return Ok(());
        };
        if !self.is_counted {
            reservation.grow_to(bytes.len())?;
            *bytes = reservation.hold(std::mem::take(bytes));
            self.is_counted = true;
        }
        Ok(())
    }

    /// Writes `line` to the access log when the body ends, and keeps the connection in use until then.
    pub(super) fn attended(mut self, line: Line, in_use: InUse, now: Duration) -> Self {
        self.line = Some(line);
        self.state = match self.state {
            State::Alone(source) => {
                in_use.answer(source, now);
                State::Attended(in_use)
            }
            attended @ State::Attended(_) => attended,
        };
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
        let piece = match &mut this.state {
            State::Alone(source) => source.poll(context),
            State::Attended(in_use) => in_use.poll(context),
        };
        match piece {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(bytes))) => {
                this.remaining_bytes = this.remaining_bytes.saturating_sub(bytes.len() as u64);
                if let Some(line) = &mut this.line {
                    line.add_sent(bytes.len());
                }
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::error!(error = %super::error::chain(&error), "an answer broke off");
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.remaining_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining_bytes)
    }
}
