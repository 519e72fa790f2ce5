//! What all requests share, and what a request is to its handler.
//!
//! Must not know what an endpoint does. Invariant: an [`Allowed`] exists only for a request whose access was checked.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderName};

use super::access_log::RequestId;
use super::admission::Admission;
use super::incoming::BodyLimits;
use super::{Locations, Routes, ServerError, Services, Settings, Site};
use crate::auth::{Access, Caller, FairQueue, Origin};
use crate::registry::{ActingRequest, Actor, Holder, Registry, Reservation};
use crate::tls::Tls;

/// What all requests to one listener share.
pub(super) struct State {
    pub(super) services: Services,
    pub(super) site: Site,
    /// Certificates; `None` for plain HTTP.
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) routes: Routes,
    pub(super) settings: Settings,
    pub(super) admission: Admission,
    /// Turns for TLS handshakes.
    pub(super) handshakes: FairQueue,
    /// `http.headers`; a name may have several values.
    pub(super) configured_headers: HeaderMap,
}

/// The peer of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Of a Unix socket, which has none: an address of this machine.
    pub(super) address: SocketAddr,
    pub(super) is_unix: bool,
    pub(super) is_tls: bool,
    /// Whether the connection is in the reserve: only health requests are answered.
    pub(super) is_reserve: bool,
}

impl Peer {
    /// A client over plain TCP.
    pub(super) fn tcp(address: SocketAddr) -> Self {
        Self {
            address,
            is_unix: false,
            is_tls: false,
            is_reserve: false,
        }
    }
}

/// A request that is permitted. Its body is passed separately.
pub(super) struct Allowed {
    pub(super) registry: Arc<Registry>,
    pub(super) head: Parts,
    pub(super) origin: Origin,
    pub(super) caller: Caller,
    /// The access that was checked.
    pub(super) access: Access,
    pub(super) id: RequestId,
    pub(super) peer: SocketAddr,
}

impl Allowed {
    /// Who changes the registry by this request, with a permit that is confirmed when its body has come.
    pub(super) fn actor<'a>(&'a self, state: &'a State) -> Actor<'a> {
        let auth = &state.services.auth;
        let about = ActingRequest {
            id: self.id.as_str(),
            account: self.caller.account(),
            peer: self.peer,
            host: &self.origin.host,
            method: self.head.method.as_str(),
            user_agent: header_text(&self.head, USER_AGENT).unwrap_or_default(),
        };
        let permit = auth.permit(&self.caller, &self.access, &self.origin);
        Actor::request(about, permit)
    }
}

impl State {
    /// The limits for bodies.
    pub(super) fn body_limits(&self) -> BodyLimits {
        BodyLimits {
            clock: Arc::clone(&self.services.clock),
            stall_secs: self.settings.limits.stall_secs,
            floor_bytes_per_sec: self.settings.limits.floor_bytes_per_sec,
            admission: self.admission.clone(),
            whole_body_secs: self.settings.limits.whole_body_secs,
            memory: self.services.memory.clone(),
            counters: Arc::clone(&self.services.metrics.counters),
        }
    }

    /// A reservation for what a request or its answer holds in memory.
    pub(super) fn reservation(&self, origin: &Origin) -> Reservation {
        let client = Holder::Client(origin.client);
        self.services.memory.reservation(client)
    }

    /// The path of something below `/v2/`, as the client sees it.
    pub(super) fn path(&self, below: &str) -> String {
        format!("{}v2/{below}", self.settings.prefix)
    }

    /// The value of `Location` for something below `/v2/`. It is relative unless `http.host` or `http.relativeurls: false`
    /// require an absolute one, because a relative one is correct behind every proxy. `Link` is always relative, as in
    /// distribution.
    pub(super) fn location(&self, origin: &Origin, below: &str) -> String {
        let path = self.path(below);
        let base = match &self.settings.locations {
            Locations::Relative => None,
            Locations::Requested => origin.base_url(),
            Locations::Host(address) => Some(address.clone()),
        };
        base.unwrap_or_default() + &path
    }
}

/// `http.headers` as they are sent.
pub(super) fn configured_headers(settings: &Settings) -> HeaderMap {
    let header = |(name, value): &(String, String)| {
        Some((name.parse::<HeaderName>().ok()?, value.parse().ok()?))
    };
    settings.headers.iter().filter_map(header).collect()
}

/// The values of the `Authorization` headers.
pub(super) fn authorization(head: &Parts) -> Result<Vec<&str>, ServerError> {
    let values = head.headers.get_all(AUTHORIZATION).iter();
    let text = |value: &'static str| ServerError::BadHeader(value);
    values
        .map(|value| {
            value
                .to_str()
                .map_err(|_| text("`Authorization` is not text"))
        })
        .collect()
}

/// The value of a header, if it is present and text.
pub(super) fn header_text(head: &Parts, name: impl http::header::AsHeaderName) -> Option<&str> {
    head.headers.get(name).and_then(|value| value.to_str().ok())
}

/// `Content-Type`
pub(super) fn content_type(head: &Parts) -> Option<&str> {
    header_text(head, CONTENT_TYPE)
}

/// `Content-Length`. hyper has already refused malformed and contradictory ones.
pub(super) fn content_length(head: &Parts) -> Option<u64> {
    header_text(head, CONTENT_LENGTH)?.parse().ok()
}
