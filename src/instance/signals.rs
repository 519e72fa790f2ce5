//! What the system asks of a running program: to end, or to read its files again.
//!
//! Must not know what is read again. Invariant: a reload that fails ends nothing, and is said once, in its own words.

use std::fmt;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that we answer, from the moment this is made.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Needs a running tokio runtime.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Resolves when the program is to end; until then calls `reload` on each SIGHUP. What went wrong is said once per
    /// signal; the error itself says what stays as it was.
    pub(crate) async fn until_shutdown<E: fmt::Display>(
        mut self,
        reload: impl Fn() -> Result<(), E>,
    ) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                received = self.hangup.recv() => match received.map(|()| reload()) {
                    Some(Ok(())) => tracing::info!("users, rules and certificates were read again"),
                    // `{:#}`: with its causes, on one line.
                    Some(Err(error)) => tracing::error!("{error:#}"),
                    None => return,
                },
            }
        }
    }
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
        let signals = Signals::listen().unwrap();
        let reloads = Arc::new(AtomicUsize::new(0));
        let counted = reloads.clone();
        let running = tokio::spawn(signals.until_shutdown(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Err("a bad file")
        }));
        for expected in 1..=2 {
            kill_process(getpid(), Signal::HUP).unwrap();
            while reloads.load(Ordering::SeqCst) < expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert!(!running.is_finished());
        kill_process(getpid(), Signal::TERM).unwrap();
        running.await.unwrap();
    }
}
