//! The HTTP server. Only this module and the client of commands use hyper.
//!
//! The path of a request: `connection` (accept, TLS, limits) → `dispatch` (route → caller → access → handler) → `blobs`,
//! `uploads`, `manifests`, `listings`, `token` → `response` or `error`. `docker_auth`'s own listener (`token_listener`) has
//! the token endpoint alone. Must not know how anything is stored. Invariant: a request is handled only after its route's
//! access rule was checked.

mod access_log;
mod activity;
mod admission;
mod blobs;
mod connection;
pub mod control;
mod debug_listener;
mod dispatch;
mod error;
mod forwarded;
mod incoming;
mod listings;
mod manifests;
mod open_requests;
mod origin;
mod response;
mod route;
mod socket;
mod stall;
mod state;
pub mod status;
mod token;
mod token_listener;
mod uploads;

use std::net::SocketAddr;
use std::sync::Arc;

pub use self::connection::{Listener, Routes, Server};
pub use self::origin::token_client;
pub use self::response::API_VERSION;
pub use self::route::{RequestPath, Route, RouteError, Takes, UploadStart};
pub use self::socket::{Address, BindError, BoundAddress, PassedSockets, UnexpectedSocket};
pub use self::token::is_form;

use self::error::ServerError;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::health::HealthChecks;
use crate::host_port::HostPort;
use crate::metrics::Metrics;
use crate::registry::{MemoryBudget, Registry};

/// What every listener needs.
#[derive(Clone)]
pub struct Services {
    /// Authentication and authorisation.
    pub auth: Arc<Auth>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The memory that bodies may take which are held whole.
    pub memory: MemoryBudget,
    /// While one fails, the registry is not served.
    pub health: Option<Arc<HealthChecks>>,
    /// What is counted, and the page of all figures.
    pub metrics: Arc<Metrics>,
}

/// What a listener serves.
#[derive(Clone)]
pub enum Site {
    /// The registry, with its token endpoint.
    Registry(Arc<Registry>),
    /// The token endpoint alone, as `docker_auth` serves it. Of the settings, `prefix` is `server.path_prefix`.
    TokenIssuer,
    /// The health checks that fail (`http.debug.addr`), and metrics.
    Debug {
        /// `http.debug.prometheus.path`; `None` where metrics are not shown here.
        metrics_path: Option<String>,
    },
}

impl Site {
    /// A name for metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::Registry(_) => "registry",
            Self::TokenIssuer => "token",
            Self::Debug { .. } => "debug",
        }
    }
}

/// The configuration of the server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `http.addr`
    pub address: Address,
    /// `http.prefix`: `/` or `/…/`.
    pub prefix: String,
    /// `http.headers`: added to every answer.
    pub headers: Vec<(String, String)>,
    /// `http.host` and `http.relativeurls`: what `Location` begins with.
    pub locations: Locations,
    /// `http.trusted_proxies`: the peers whose `Forwarded` and `X-Forwarded-*` headers are used.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// `server.real_ip_header` and `server.real_ip_pos`, as `docker_auth` has them.
    pub real_ip: Option<RealIp>,
    /// `http.http2.disabled`
    pub http2_disabled: bool,
    /// `http.h2c.enabled`: HTTP/2 without TLS, also where it is disabled otherwise.
    pub h2c: bool,
    /// `http.draintimeout`: the time for open requests when the server shuts down.
    pub drain_secs: u64,
    /// `limits`
    pub limits: Limits,
}

/// What `Location` begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locations {
    /// Nothing: it is relative to the address that the client used.
    Relative,
    /// The scheme and host that the client used (`http.relativeurls: false`).
    Requested,
    /// This address (`http.host`): `scheme://host[:port]`.
    Host(String),
}

/// The header with the client's address, and the position among its comma-separated values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealIp {
    /// The header's name.
    pub header: String,
    /// 0 = first, -1 = last.
    pub position: i32,
}

/// The limits of connections and requests (each a key of `limits:`).
#[derive(Debug, Clone)]
pub struct Limits {
    /// `connections`: each holds a few buffers, and one or two file descriptors.
    pub connections: usize,
    /// `stall_secs`: a body without progress for this time is ended, in either direction.
    pub stall_secs: u64,
    /// `header_secs`: the time for the head of a request, and for an idle connection until the next request.
    pub header_secs: u64,
    /// `handshake_secs`: time for the TLS handshake.
    pub handshake_secs: u64,
    /// `token_body_bytes`: the form posted to the token endpoint.
    pub token_body_bytes: usize,
    /// `whole_body_secs`: the time for a body that is held in memory, a manifest or a form; a quarter of it while
    /// memory for these bodies is scarce.
    pub whole_body_secs: u64,
    /// `floor_bytes_per_sec`: the minimum rate of a body while more than 80 % of the connections are taken.
    pub floor_bytes_per_sec: u64,
}

/// How long a stop waits for open requests, if no key says otherwise. distribution's own default is 0, which breaks them all.
pub const DRAIN_SECS_DEFAULT: u64 = 10;

impl Limits {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        connections: 1_024,
        stall_secs: 120,
        header_secs: 30,
        handshake_secs: 10,
        token_body_bytes: 64 * 1024,
        floor_bytes_per_sec: 1_024,
        whole_body_secs: 120,
    };
}

impl Settings {
    /// The default limits, on a free port of the loopback interface.
    pub fn for_tests() -> Self {
        Self {
            address: HostPort::from(SocketAddr::from(([127, 0, 0, 1], 0))).into(),
            prefix: "/".into(),
            headers: Vec::new(),
            locations: Locations::Relative,
            trusted_proxies: Vec::new(),
            real_ip: None,
            http2_disabled: false,
            h2c: false,
            drain_secs: DRAIN_SECS_DEFAULT,
            limits: Limits::DEFAULT,
        }
    }
}
