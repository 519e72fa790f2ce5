//! What the system asks of a running program: to end, or to reload its files.
//!
//! Must not know what is reloaded. Invariants: from the moment these are made, no such signal ends the process by itself; a
//! reload that fails ends nothing, and is logged once, in its own words.

use std::fmt;
use std::future::Future;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM.
#[derive(Debug)]
pub(crate) struct Endings {
    interrupt: Signal,
    terminate: Signal,
}

impl Endings {
    /// Needs a running tokio runtime.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Resolves when the program is asked to end.
    pub(crate) async fn received(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// SIGHUP.
#[derive(Debug)]
pub(crate) struct Hangups(Signal);

impl Hangups {
    /// Needs a running tokio runtime.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        listen(SignalKind::hangup()).map(Self)
    }

    /// Calls `reload` on each signal; never returns. An error says what stays as it was.
    pub(super) async fn call<F, T, E>(mut self, reload: impl Fn() -> F)
    where
        F: Future<Output = Result<T, E>>,
        E: fmt::Display,
    {
        while self.0.recv().await.is_some() {
            if let Err(error) = reload().await {
                // `{:#}`: with its causes, on one line.
                tracing::error!("{error:#}");
            }
        }
    }
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("cannot listen for signals")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn a_hangup_reloads_and_goes_on_even_after_a_failure_and_terminate_ends() {
        let hangups = Hangups::listen().unwrap();
        let ending = tokio::spawn(Endings::listen().unwrap().received());
        let reloads = Arc::new(AtomicUsize::new(0));
        let counted = reloads.clone();
        let running = tokio::spawn(hangups.call(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Err::<(), _>("a bad file"))
        }));
        for expected in 1..=2 {
            kill_process(getpid(), Signal::HUP).unwrap();
            while reloads.load(Ordering::SeqCst) < expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert!(!running.is_finished() && !ending.is_finished());
        kill_process(getpid(), Signal::TERM).unwrap();
        ending.await.unwrap();
        running.abort();
    }
}
