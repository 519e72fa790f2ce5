//! An S3 server in this process, for tests: one bucket in memory.
//!
//! It is exact where a store depends on it: conditions are decided with the write, under one lock; checksums and signatures
//! are really verified, and what is refused is not stored. It answers what it does not know with 501, so that no parameter is
//! ignored without notice. [`Manners`] switches to what real servers do otherwise, [`Plan`] brings trouble.
//!
//! It runs in a thread of its own, so that a test may block, and may outlive its own runtime. Must not know who asks.

mod answer;
mod checksums;
mod connections;
mod contents;
mod endpoint;
mod faults;
mod handling;
mod listing;
mod manners;
mod request;
mod signature;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::mpsc::UnboundedSender;

use self::connections::Command;
use self::contents::Contents;
pub(crate) use self::endpoint::Endpoint;
pub(crate) use self::faults::{Fault, Plan};
pub(crate) use self::manners::Manners;
pub(crate) use self::request::Kind;

/// The one account.
pub(crate) const ACCESS_KEY: &str = "an-access-key";
/// Its secret.
pub(crate) const SECRET_KEY: &str = "a-secret/key+of=the-account";
/// The region for which requests must be signed.
pub(crate) const REGION: &str = "eu-test-1";
/// The one bucket.
pub(crate) const BUCKET: &str = "a-bucket";

/// A running server; ends when dropped.
pub(crate) struct S3Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    commands: UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// What the connections share. Everything is behind one lock, so a request happens at one moment.
struct Shared(Mutex<State>);

struct State {
    contents: Contents,
    manners: Manners,
    plans: faults::Plans,
    /// How far the server's clock is ahead of the machine's.
    clock_ahead: time::Duration,
    requests: BTreeMap<Kind, u64>,
    connections: usize,
    connections_peak: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The time on the server's clock: real time, as its clients have another clock, and another process its own.
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + self.clock_ahead
    }
}

impl S3Server {
    /// An empty bucket on a free port, with the manners that AWS documents.
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared(Mutex::new(State {
            contents: Contents::default(),
            manners: Manners::aws(),
            plans: faults::Plans::default(),
            clock_ahead: time::Duration::ZERO,
            requests: BTreeMap::new(),
            connections: 0,
            connections_peak: 0,
        })));
        let (commands, received) = tokio::sync::mpsc::unbounded_channel();
        let (ready, address) = mpsc::channel();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || connections::run(shared, received, &ready)
        });
        let address = address.recv().expect("the server listens");
        Self {
            address,
            shared,
            commands,
            thread: Some(thread),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how it behaves from now on.
    pub(crate) fn set_manners(&self, manners: Manners) {
        self.shared.lock().manners = manners;
    }

    /// Plans trouble, besides what is planned already.
    pub(crate) fn plan(&self, plan: Plan) {
        self.shared.lock().plans.add(plan);
    }

    /// Forgets all plans. What is held back already stays so.
    pub(crate) fn end_trouble(&self) {
        self.shared.lock().plans = faults::Plans::default();
    }

    /// How many requests had trouble since the last [`S3Server::end_trouble`].
    pub(crate) fn struck(&self) -> u64 {
        self.shared.lock().plans.struck()
    }

    /// Sets the server's clock ahead of the machine's (or behind, for a negative number).
    pub(crate) fn set_clock_ahead(&self, secs: i64) {
        self.shared.lock().clock_ahead = time::Duration::seconds(secs);
    }

    /// Ends all connections and refuses new ones, as if the process had ended. What is stored stays.
    pub(crate) fn go_away(&self) {
        self.command(Command::GoAway);
    }

    /// Listens again, on the same port.
    pub(crate) fn come_back(&self) {
        self.command(Command::ComeBack);
    }

    fn command(&self, command: fn(mpsc::Sender<()>) -> Command) {
        let (done, is_done) = mpsc::channel();
        let sent = self.commands.send(command(done));
        sent.expect("the server runs");
        is_done.recv().expect("the server obeys");
    }

    /// How many requests of this kind have arrived.
    pub(crate) fn requests(&self, kind: Kind) -> u64 {
        let state = self.shared.lock();
        state.requests.get(&kind).copied().unwrap_or(0)
    }

    /// How many requests have arrived.
    pub(crate) fn requests_in_all(&self) -> u64 {
        self.shared.lock().requests.values().sum()
    }

    /// The most connections that were open at once.
    pub(crate) fn connections_peak(&self) -> usize {
        self.shared.lock().connections_peak
    }

    /// All objects.
    pub(crate) fn objects(&self) -> BTreeMap<String, Bytes> {
        self.shared.lock().contents.everything()
    }

    /// The content of one key.
    pub(crate) fn content(&self, key: &str) -> Option<Bytes> {
        self.shared.lock().contents.content(key)
    }

    /// A header that was stored with the object at `key`.
    pub(crate) fn header(&self, key: &str, name: &str) -> Option<String> {
        self.shared.lock().contents.header(key, name)
    }

    /// Writes a key as another program does.
    pub(crate) fn put(&self, key: &str, content: impl Into<Bytes>) {
        let mut state = self.shared.lock();
        let now = state.now();
        state.contents.put(key, content.into(), Vec::new(), now);
    }

    /// Removes keys as another program does; returns whether there were any.
    pub(crate) fn remove(&self, is_removed: impl Fn(&str) -> bool) -> bool {
        self.shared.lock().contents.remove_where(is_removed)
    }

    /// The keys of all multipart uploads that are neither completed nor aborted.
    pub(crate) fn open_uploads(&self) -> Vec<String> {
        self.shared.lock().contents.open_uploads()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // It ends when nothing commands it any more.
        let (closed, _) = tokio::sync::mpsc::unbounded_channel();
        self.commands = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
