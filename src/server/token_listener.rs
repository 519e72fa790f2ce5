//! `docker_auth`'s own listener: the token endpoint alone, where and as `docker_auth` serves it.
//!
//! Source: `docker_auth`'s answers as recorded in `tests/oracle`. Must not know who gets a token (`token` asks `auth`), nor
//! anything of the registry. Invariant: only the paths of `docker_auth` and the one for monitoring exist here, compared whole and
//! below `server.path_prefix`.

use http::{Method, Response, StatusCode};

use super::response::ResponseBody;
use super::route::{RequestPath, RouteError};
use super::state::{Peer, State};
use super::{ServerError, response};

/// The methods of every path. `docker_auth` takes any method for a GET.
pub(super) const METHODS: &str = "GET, HEAD, POST";

/// What a request to this listener asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenRoute {
    /// `/`: a page with the name of the issuer.
    Index,
    /// `/auth`, `/auth/token`: a token.
    Token,
    /// `/readyz`, which `docker_auth` does not have: whether the accounts are as their files say.
    Ready,
}

impl TokenRoute {
    /// Parses a request; `prefix` is `server.path_prefix`.
    pub(super) fn parse(
        method: &Method,
        path: &RequestPath,
        prefix: &str,
    ) -> Result<Self, RouteError> {
        let route = match path.as_str().strip_prefix(prefix) {
            Some("/") => Self::Index,
            Some("/auth" | "/auth/token") => Self::Token,
            Some("/readyz") => Self::Ready,
            _ => return Err(RouteError::NotFound),
        };
        match *method {
            Method::GET | Method::HEAD | Method::POST => Ok(route),
            _ => Err(RouteError::Method),
        }
    }

    /// A name for logs.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Index => "token-index",
            Self::Token => "token",
            Self::Ready => "ready",
        }
    }
}

/// The page at `/`.
pub(super) fn index(state: &State) -> Response<ResponseBody> {
    let issuer = state.services.auth.issuer();
    let issuer = issuer
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let page = format!("<h1>{issuer}</h1>\n");
    response::bytes(StatusCode::OK, "text/html; charset=utf-8", page)
}

/// As the registry's `/readyz`, but for the registry: tokens are issued whatever its store does.
pub(super) async fn ready(state: &State) -> Response<ResponseBody> {
    let trouble = state.services.auth.trouble().await;
    let degraded = trouble.map(|what| format!("degraded: {what}\n"));
    let text = format!("ready\n{}", degraded.unwrap_or_default());
    response::bytes(StatusCode::OK, "text/plain", text)
}

/// Whether the client's address is known, as a token needs it: a Unix socket has none, so a header must bring it.
pub(super) fn check_address(state: &State, peer: Peer) -> Result<(), ServerError> {
    if peer.is_unix && state.settings.real_ip.is_none() {
        return Err(ServerError::BadHeader(
            "no client address: a Unix socket needs `server.real_ip_header`",
        ));
    }
    Ok(())
}
