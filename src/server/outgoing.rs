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
use crate::store::{ByteStream, StoreError};

/// What every answer carries.
pub(super) struct ResponseBody {
    state: State,
    /// How many bytes are still to come.
    remaining_bytes: u64,
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
        let remaining_bytes = bytes.len() as u64;
        Self {
            state: State::Alone(Source::Whole(bytes)),
            remaining_bytes,
            line: None,
        }
    }

    /// `size_bytes` bytes from the store.
    pub(super) fn stream(bytes: ByteStream, size_bytes: u64) -> Self {
        Self {
            state: State::Alone(Source::Stream(bytes)),
            remaining_bytes: size_bytes,
            line: None,
        }
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
