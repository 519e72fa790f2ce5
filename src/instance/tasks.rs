//! The background tasks of an instance, supervised.
//!
//! A new one is one line, `tasks.spawn(heartbeat, work)`, in `instance/mod.rs`. Must not know what a task does. Invariants: a task that ends before
//! its instance, by a panic or by returning, is logged once, and `/readyz` and `boathouse status` show it from then on; no task
//! outlives [`Tasks::close`].

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::heartbeat::Heartbeat;
use crate::registry::Registry;

/// The running tasks.
pub(crate) struct Tasks {
    registry: Arc<Registry>,
    running: TaskTracker,
    ending: CancellationToken,
}

impl Tasks {
    /// None runs. `/readyz` is answered by `registry`.
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            running: TaskTracker::new(),
            ending: CancellationToken::new(),
        }
    }

    /// Starts a task that runs until [`Tasks::close`]. Its `heartbeat` has its name, and counts in `/readyz`.
    pub(crate) fn spawn(
        &self,
        heartbeat: Arc<Heartbeat>,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.registry.health.watch(Arc::clone(&heartbeat));
        let ending = self.ending.clone();
        // A task that ends before its own loop has begun counts as ended too.
        let beating = heartbeat.begin();
        heartbeat.rest();
        self.running.spawn(async move {
            let result = tokio::select! {
                () = ending.cancelled() => return,
                result = AssertUnwindSafe(work).catch_unwind() => result,
            };
            let cause = match &result {
                Ok(()) => "it returned",
                Err(panic) => panic_message(panic.as_ref()),
            };
            tracing::error!(
                task = heartbeat.name(),
                cause,
                "a background task has ended; /readyz says 503; hint: restart Boathouse, and report this as a bug"
            );
            drop(beating);
        });
    }

    /// [`Tasks::spawn`] for work of something that others share.
    pub(crate) fn spawn_of<T: Send + Sync + 'static>(
        &self,
        owner: &Arc<T>,
        heartbeat: Arc<Heartbeat>,
        work: for<'a> fn(&'a T) -> BoxFuture<'a, ()>,
    ) {
        let owner = Arc::clone(owner);
        self.spawn(heartbeat, async move { work(&owner).await });
    }

    /// Stops all tasks, and waits until they have stopped.
    pub(super) async fn close(&self) {
        self.ending.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // An instance that is dropped instead of closed leaves no task behind.
        self.ending.cancel();
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it panicked")
}
