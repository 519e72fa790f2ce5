//! A connection that gives up on a peer who has stopped reading.
//!
//! Design: DESIGN D7. The reading side is watched where bodies are read (`body`), since an idle connection is no fault. Must
//! not know what is written. Invariant: as long as bytes move, nothing is ended, however long it takes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{Clock, Sleep};

/// Ends writes that have not moved for `limit`.
pub(super) struct StallGuard<S> {
    inner: S,
    clock: Arc<dyn Clock>,
    limit: Duration,
    /// Runs while a write is waiting.
    waiting: Option<Sleep>,
}

impl<S> StallGuard<S> {
    pub(super) fn new(inner: S, clock: Arc<dyn Clock>, limit: Duration) -> Self {
        Self {
            inner,
            clock,
            limit,
            waiting: None,
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

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
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
        let progress = Pin::new(&mut this.inner).poll_shutdown(context);
        this.watch(context, progress)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::clock::ManualClock;

    const LIMIT: Duration = Duration::from_mins(2);

    #[tokio::test]
    async fn a_peer_that_stops_reading_is_given_up_after_the_limit() {
        let clock = ManualClock::at_unix_secs(0);
        let (near, _far) = tokio::io::duplex(4);
        let mut guard = StallGuard::new(near, Arc::new(clock.clone()), LIMIT);
        let write = tokio::spawn(async move { guard.write_all(b"more than four").await });
        tokio::task::yield_now().await;
        clock.advance(LIMIT);
        let error = write.await.expect("runs").expect_err("gives up");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_crawls_is_not() {
        let clock = ManualClock::at_unix_secs(0);
        let (near, mut far) = tokio::io::duplex(1);
        let mut guard = StallGuard::new(near, Arc::new(clock.clone()), LIMIT);
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
