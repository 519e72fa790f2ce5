//! Bodies on their way out.
//!
//! Must not know what is in them. Invariant: an answer is as long as it said, or breaks off; and one that its reader has
//! stopped reading gives back what it holds after the stall limit (over HTTP/2 nothing else would notice: the connection
//! lives on while one of its streams stands still).

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream as _;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::access_log::Line;
use super::incoming::{Patience, RATE_GRACE};
use super::pressure::InUse;
use crate::store::{ByteStream, StoreError};

/// What every answer carries.
pub(super) struct ResponseBody {
    source: Source,
    /// How many bytes are still to come.
    remaining_bytes: u64,
    /// Written when the body has ended, or been given up.
    line: Option<Line>,
    /// Says that the connection is in use.
    in_use: Option<InUse>,
}

enum Source {
    Whole(Bytes),
    Stream(Watched),
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
            in_use: None,
        }
    }

    /// `size_bytes` bytes from the store, for as long as somebody reads them.
    pub(super) fn stream(bytes: ByteStream, size_bytes: u64, patience: Patience) -> Self {
        let source = Source::Stream(Watched::new(bytes, patience));
        Self {
            source,
            remaining_bytes: size_bytes,
            line: None,
            in_use: None,
        }
    }

    /// Writes `line` to the access log when the body ends, and keeps the connection in use until then.
    pub(super) fn attended(mut self, line: Line, in_use: InUse) -> Self {
        self.line = Some(line);
        self.in_use = Some(in_use);
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
            Source::Stream(watched) => match watched.poll_next(context) {
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

/// A stream that is taken away from a reader who does not read.
struct Watched {
    shared: Arc<Shared>,
    watcher: AbortHandle,
}

struct Shared {
    /// Gone once the reader has been given up.
    stream: Mutex<Option<ByteStream>>,
    /// How often the reader has asked for more.
    asked: AtomicU64,
    sent_bytes: AtomicU64,
}

impl Watched {
    fn new(stream: ByteStream, patience: Patience) -> Self {
        let shared = Arc::new(Shared {
            stream: Mutex::new(Some(stream)),
            asked: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        });
        let watcher = tokio::spawn(watch(Arc::clone(&shared), patience)).abort_handle();
        Self { shared, watcher }
    }

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StoreError>>> {
        let mut stream = self.shared.lock();
        let Some(stream) = stream.as_mut() else {
            let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
            let doing = "go on with an answer that nobody has read for a while".to_owned();
            return Poll::Ready(Some(Err(StoreError::Io { doing, source })));
        };
        self.shared.asked.fetch_add(1, Ordering::Relaxed);
        let piece = Pin::new(stream).poll_next(context);
        if let Poll::Ready(Some(Ok(bytes))) = &piece {
            self.shared
                .sent_bytes
                .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        piece
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<ByteStream>> {
        // A stream that panicked while it was polled is not polled again.
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks now and then whether the reader still reads, and takes the stream away when it does not.
async fn watch(shared: Arc<Shared>, patience: Patience) {
    let stall = Duration::from_secs(patience.stall_secs);
    let began = patience.clock.elapsed();
    let mut last = (0, began);
    loop {
        patience.clock.sleep(RATE_GRACE.min(stall)).await;
        let now = patience.clock.elapsed();
        let asked = shared.asked.load(Ordering::Relaxed);
        if asked != last.0 {
            last = (asked, now);
        }
        let is_stalled = now.saturating_sub(last.1) >= stall;
        let sent_bytes = shared.sent_bytes.load(Ordering::Relaxed);
        if is_stalled || patience.is_too_slow(now.saturating_sub(began), sent_bytes) {
            *shared.lock() = None;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::clock::ManualClock;
    use crate::server::pressure::Pressure;

    const STALL: Duration = Duration::from_mins(2);

    fn endless(clock: &ManualClock, pressure: Pressure) -> ResponseBody {
        let patience = Patience {
            clock: Arc::new(clock.clone()),
            stall_secs: STALL.as_secs(),
            floor_bytes_per_sec: 1_024,
            pressure,
        };
        let bytes = stream::repeat_with(|| Ok(Bytes::from_static(b"0123456789"))).boxed();
        ResponseBody::stream(bytes, u64::MAX, patience)
    }

    /// Lets time pass in steps, so that whoever sleeps gets to look.
    async fn pass(clock: &ManualClock, time: Duration) {
        for _ in 0..time.as_secs() / 10 {
            tokio::task::yield_now().await;
            clock.advance(Duration::from_secs(10));
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_reader_who_has_stopped_is_given_up_and_one_who_crawls_is_not() {
        let clock = ManualClock::at_unix_secs(0);
        let mut body = endless(&clock, Pressure::new(10));
        for _ in 0..10 {
            pass(&clock, STALL / 2).await;
            body.frame().await.expect("more").expect("still there");
        }
        pass(&clock, STALL + RATE_GRACE).await;
        let error = body.frame().await.expect("an end").expect_err("given up");
        assert!(error.to_string().contains("nobody has read"), "{error}");
    }

    #[tokio::test]
    async fn a_crawling_reader_makes_room_when_connections_are_scarce() {
        let clock = ManualClock::at_unix_secs(0);
        let pressure = Pressure::new(5);
        let mut permits = Vec::new();
        let mut body = endless(&clock, pressure.clone());
        for _ in 0..5 {
            permits.push(pressure.permit().await);
        }
        pass(&clock, RATE_GRACE * 2).await;
        assert!(body.frame().await.expect("an end").is_err());
    }
}
