//! Answers: the shapes that endpoints share, and the body that every answer has.
//!
//! Must not know which endpoint answers, nor what is in a body. Invariants: every header value is made from types or
//! checked text, so that text from a client cannot end a header early; a body has the announced length, or the connection
//! is closed early.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use serde::Serialize;

use super::access_log::Line;
use super::open_requests::{RequestInFlight, Source};
use crate::oci::Digest;
use crate::registry::{BudgetSpent, Reservation};
use crate::store::{ByteStream, StoreError};

/// `Docker-Content-Digest`
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// `Docker-Upload-UUID`
pub(super) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// `OCI-Subject`
pub(super) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// `OCI-Tag`
pub(super) const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// `OCI-Filters-Applied`
pub(super) const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// `Docker-Distribution-Api-Version`
pub const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<ResponseBody> {
    let mut answer = Response::new(ResponseBody::empty());
    *answer.status_mut() = status;
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        answer
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    answer
}

/// An answer with a small body.
pub(super) fn bytes(
    status: StatusCode,
    content_type: &str,
    body: impl Into<bytes::Bytes>,
) -> Response<ResponseBody> {
    with_body(status, content_type, ResponseBody::whole(body.into()))
}

/// An answer with `body`.
pub(super) fn with_body(
    status: StatusCode,
    content_type: &str,
    body: ResponseBody,
) -> Response<ResponseBody> {
    let length = HeaderValue::from(body.size_bytes());
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    set(&mut answer, CONTENT_TYPE, content_type);
    answer
}

/// An answer with a JSON body.
pub(super) fn json(
    status: StatusCode,
    content_type: &'static str,
    value: &impl Serialize,
) -> Response<ResponseBody> {
    // Our own types have text keys only, so serialising them cannot fail.
    bytes(
        status,
        content_type,
        serde_json::to_vec(value).unwrap_or_default(),
    )
}

/// Sets a header, unless the text is not a valid value.
pub(super) fn set(answer: &mut Response<ResponseBody>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// Sets the headers that identify the content: `Docker-Content-Digest`, and the quoted digest as `ETag`.
pub(super) fn set_digest(answer: &mut Response<ResponseBody>, digest: &Digest) {
    let digest = digest.to_string();
    set(answer, http::header::ETAG, &format!("\"{digest}\""));
    set(answer, CONTENT_DIGEST, &digest);
}

/// The progress of a session, as the specification has it: the position of the last byte; `0-0` if it is empty.
pub(super) fn upload_range(offset_bytes: u64) -> String {
    format!("0-{}", offset_bytes.saturating_sub(1))
}

/// Shorter answers are not counted in the memory budget: the structures around them take as much.
const UNCOUNTED_BYTES_MAX: usize = 1024;

/// The body of every answer.
pub(super) struct ResponseBody {
    state: State,
    /// The bytes that are still to be sent.
    remaining_bytes: u64,
    /// Whether the memory budget counts the bytes in memory, or need not count them.
    is_counted: bool,
    /// Written to the access log when the body ends or is dropped.
    line: Option<Line>,
}

enum State {
    /// Not being sent yet.
    Pending(Source),
    /// Being sent; the connection tracks it.
    Tracked(RequestInFlight),
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

    /// Bytes that the memory budget counts already.
    pub(super) fn counted(bytes: Bytes) -> Self {
        let size_bytes = bytes.len() as u64;
        Self::new(Source::Whole(bytes), size_bytes)
    }

    /// The body that a GET would have, for the answer to a HEAD.
    pub(super) fn unsent(size_bytes: u64) -> Self {
        Self::new(Source::Whole(Bytes::new()), size_bytes)
    }

    /// `size_bytes` bytes from a stream.
    pub(super) fn stream(bytes: ByteStream, size_bytes: u64) -> Self {
        Self::new(Source::Stream(bytes), size_bytes)
    }

    fn new(source: Source, size_bytes: u64) -> Self {
        Self {
            state: State::Pending(source),
            remaining_bytes: size_bytes,
            is_counted: true,
            line: None,
        }
    }

    /// The bytes that are still to be sent.
    pub(super) fn size_bytes(&self) -> u64 {
        self.remaining_bytes
    }

    /// Counts the bytes in memory until they are sent, which may take as long as the client wants.
    pub(super) fn count(&mut self, mut reservation: Reservation) -> Result<(), BudgetSpent> {
        let State::Pending(Source::Whole(bytes)) = &mut self.state else {
            return Ok(());
        };
        if !self.is_counted {
            reservation.grow_to(bytes.len())?;
            *bytes = reservation.hold(std::mem::take(bytes));
            self.is_counted = true;
        }
        Ok(())
    }

    /// Begins to send: writes `line` to the access log when the body ends, and tracks the request until then.
    pub(super) fn tracked(mut self, line: Line, in_flight: RequestInFlight, now: Duration) -> Self {
        self.line = Some(line);
        self.state = match self.state {
            State::Pending(source) => {
                in_flight.answer(source, now);
                State::Tracked(in_flight)
            }
            tracked @ State::Tracked(_) => tracked,
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
            State::Pending(source) => source.poll(context),
            State::Tracked(in_flight) => in_flight.poll(context),
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
                tracing::error!(error = %crate::telemetry::chain(&error), "an answer was cut off");
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
