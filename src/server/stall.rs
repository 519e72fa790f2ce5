//! A connection that is closed if the peer stops reading, and stays open for a while if the peer is still sending.
//!
//! Stalled request bodies are handled where bodies are read (`incoming`), because an idle connection is not an error. Must
//! not know what is written. Invariant: nothing ends while bytes are transferred, however long it takes.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{Clock, Sleep};

/// How long a connection is read after the last answer. A client that is refused while it sends would otherwise see a
/// connection reset, and lose the answer that it has not read yet.
const LINGER: Duration = Duration::from_secs(5);

/// How much is read and discarded at a time.
const SCRATCH_BYTES: usize = 16 * 1024;

/// Ends a connection if a write has made no progress for `limit`.
pub(super) struct StallGuard<S> {
    inner: S,
    clock: Arc<dyn Clock>,
    limit: Duration,
    /// Runs while a write waits.
    waiting: Option<Sleep>,
    /// Whether the peer may still send a body that nothing reads.
    has_unread_body: Arc<AtomicBool>,
    /// Runs after the last answer to such a peer.
    lingering: Option<Sleep>,
}

impl<S> StallGuard<S> {
    /// At the end, `has_unread_body` says whether a request's body was not read to its end.
    pub(super) fn new(
        inner: S,
        clock: Arc<dyn Clock>,
        limit: Duration,
        has_unread_body: Arc<AtomicBool>,
    ) -> Self {
        Self {
            inner,
            clock,
            limit,
            waiting: None,
            has_unread_body,
            lingering: None,
        }
    }

    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.waiting = None;
            return progress;
        }
        let sleep = self
            .waiting
            .get_or_insert_with(|| self.clock.sleep(self.limit));
        ready!(sleep.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer has stopped reading",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.inner).poll_write(context, bytes);
        this.watch(context, progress)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.inner).poll_write_vectored(context, pieces);
        this.watch(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let progress = Pin::new(&mut this.inner).poll_flush(context);
        this.watch(context, progress)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            let progress = Pin::new(&mut this.inner).poll_shutdown(context);
            ready!(this.watch(context, progress))?;
        }
        if !this.has_unread_body.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let linger = this
            .lingering
            .get_or_insert_with(|| this.clock.sleep(LINGER));
        if linger.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [MaybeUninit::uninit(); SCRATCH_BYTES];
        loop {
            let mut buffer = ReadBuf::uninit(&mut scratch);
            match ready!(Pin::new(&mut this.inner).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The peer has closed the connection: it has our answer, or does not want it.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::clock::ManualClock;

    const LIMIT: Duration = Duration::from_mins(2);

    #[tokio::test]
    async fn a_connection_ends_if_its_peer_stops_reading_for_the_limit() {
        let clock = ManualClock::at_unix_secs(0);
        let (near, _far) = tokio::io::duplex(4);
        let mut guard = StallGuard::new(
            near,
            Arc::new(clock.clone()),
            LIMIT,
            Arc::new(AtomicBool::new(true)),
        );
        let write = tokio::spawn(async move { guard.write_all(b"more than four").await });
        tokio::task::yield_now().await;
        clock.advance(LIMIT);
        let error = write.await.expect("runs").expect_err("gives up");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_body_of_a_refused_request_is_read_for_a_while() {
        let clock = ManualClock::at_unix_secs(0);
        let (near, mut far) = tokio::io::duplex(16);
        let mut guard = StallGuard::new(
            near,
            Arc::new(clock.clone()),
            LIMIT,
            Arc::new(AtomicBool::new(true)),
        );
        let shutdown = tokio::spawn(async move { guard.shutdown().await });
        far.write_all(&[0; 1_000]).await.expect("is read");
        assert!(!shutdown.is_finished());
        clock.advance(LINGER);
        shutdown.await.expect("runs").expect("ends by itself");
    }

    #[tokio::test]
    async fn a_connection_to_a_slow_reader_does_not_end() {
        let clock = ManualClock::at_unix_secs(0);
        let (near, mut far) = tokio::io::duplex(1);
        let mut guard = StallGuard::new(
            near,
            Arc::new(clock.clone()),
            LIMIT,
            Arc::new(AtomicBool::new(true)),
        );
        let write = tokio::spawn(async move { guard.write_all(b"a byte a minute").await });
        for _ in 0..15 {
            tokio::task::yield_now().await;
            clock.advance(LIMIT / 2);
            far.read_u8().await.expect("a byte");
        }
        write
            .await
            .expect("runs")
            .expect("all was written, in fifteen minutes");
    }
}
