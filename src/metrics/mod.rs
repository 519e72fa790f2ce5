//! Metrics: what is counted while the server runs, and the page that Prometheus reads.
//!
//! Source: the Prometheus text format; names of distribution's metrics where the meaning is the same, `boathouse_` otherwise
//! (`docs/metrics.md`). Must not know HTTP, nor who may read the page. Invariants: counting takes no lock and allocates nothing
//! for a piece of a body; everything that is not a counter is read when the page is asked for.

mod counters;
mod exposition;
mod figures;
mod process;

use std::sync::{Arc, Mutex, PoisonError};

pub use counters::{CountedRequest, Counters, Direction, Handler, HandlerCounters, Refused, Stop};
pub use exposition::CONTENT_TYPE;

use crate::auth::Auth;
use crate::clock::Clock;
use crate::health::HealthChecks;
use crate::registry::Registry;
use crate::tls::Tls;

/// Where figures are read from when the page is asked for.
pub struct Sources {
    /// The operations; `None` for an issuer of tokens without a registry.
    pub registry: Option<Arc<Registry>>,
    /// Logins and accounts.
    pub auth: Arc<Auth>,
    /// The health checks of the configuration.
    pub health: Option<Arc<HealthChecks>>,
    /// The certificates of each listener, by the name of what it serves.
    pub certificates: Vec<(&'static str, Arc<Tls>)>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// The connections of one listener, at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Connections {
    /// The most that may be open, without the reserve.
    pub limit: usize,
    /// In their TLS handshake.
    pub handshake: usize,
    /// Without a request.
    pub idle: usize,
    /// With a request on which the server works.
    pub working: usize,
    /// With requests that all wait for the client, and moved bytes within the last seconds.
    pub waiting: usize,
    /// With requests that all wait for the client, and have not moved for seconds.
    pub stalled: usize,
}

/// A look at the connections of one listener.
pub type LookAtConnections = Box<dyn Fn() -> Connections + Send + Sync>;

/// What is counted, and where the other figures are read.
pub struct Metrics {
    /// What is counted while the server runs.
    pub counters: Arc<Counters>,
    sources: Sources,
    /// By the name of what the listener serves.
    connections: Mutex<Vec<(&'static str, LookAtConnections)>>,
    started_unix_secs: u64,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new(sources: Sources) -> Self {
        Self {
            counters: Arc::default(),
            started_unix_secs: sources.clock.unix_secs(),
            sources,
            connections: Mutex::default(),
        }
    }

    /// A listener was opened, for what `site` names.
    pub fn add_listener(&self, site: &'static str, look: LookAtConnections) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        connections.push((site, look));
    }

    /// The page, in the text format. It changes nothing, and waits for the store no longer than `/readyz` does.
    pub async fn page(&self) -> String {
        let mut page = exposition::Page::default();
        self.counters.show(&mut page);
        self.show_figures(&mut page).await;
        page.text()
    }
}
