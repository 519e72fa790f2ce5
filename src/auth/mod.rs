//! Who is calling, and what they may do: users, ACL, tokens, challenges, slowing of failed logins.
//!
//! Design: `docs/security.md`. Must not know HTTP beyond header values as text, nor where users and rules were read from.
//! Invariant: every right is judged by the users and rules of now; nothing that a token says widens it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Clock;
use crate::oci::RepositoryName;

pub struct Auth {}

impl Auth {
    pub fn new(_settings: Settings, _clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        todo!()
    }

    /// Replaces users, rules and revocations; everything else stays as it was at start.
    pub fn reload(&self, _settings: Settings) -> Result<(), SetupError> {
        todo!()
    }

    /// Who is calling: from the values of the `Authorization` headers. No header = the anonymous caller (open mode: the
    /// open caller), which `authorise` then judges. Refuses bad credentials.
    pub async fn caller(
        &self,
        _authorization: &[&str],
        _origin: &Origin,
    ) -> Result<Caller, Refusal> {
        todo!()
    }

    /// Whether `caller` may do what `access` asks; the refusal carries the right challenge.
    pub fn authorise(
        &self,
        _caller: &Caller,
        _access: &Access,
        _origin: &Origin,
    ) -> Result<(), Refusal> {
        todo!()
    }

    /// The token endpoint as a function.
    pub async fn token(&self, _request: &TokenRequest<'_>) -> Result<TokenAnswer, TokenRefusal> {
        todo!()
    }

    /// What this caller may see beyond the repository that was asked for (DESIGN D8).
    pub fn viewer<'a>(&'a self, _caller: &'a Caller, _origin: &'a Origin) -> Viewer<'a> {
        todo!()
    }
}

/// Judged by the ACL of the account alone (our tokens, Basic), by `access` (foreign tokens), or always yes (open mode).
pub struct Viewer<'a> {
    _auth: &'a Auth,
}

impl Viewer<'_> {
    /// May this caller pull from `name`?
    pub fn may_pull(&self, _name: &RepositoryName) -> bool {
        todo!()
    }
    /// May the catalog name `name` to this caller? As `may_pull`; a foreign token that holds `registry:catalog:*` sees all.
    pub fn may_list(&self, _name: &RepositoryName) -> bool {
        todo!()
    }
}

/// Where a request comes from, as the server established it.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The client's address (behind trusted proxies: the one that they tell).
    pub client: IpAddr,
    /// Whether the client sees `https`.
    pub is_https: bool,
    /// The Host that the client used, empty if it named none.
    pub host: String,
}

/// What a route asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Nothing: health, the CA certificate, the token endpoint itself.
    Public,
    /// Any valid credential (`/v2/`).
    Any,
    /// Reading this repository.
    Pull(RepositoryName),
    /// Writing to this repository: pull and push.
    Push(RepositoryName),
    /// Removing from this repository.
    Delete(RepositoryName),
    /// An upload session that exists: push (status: pull), also with a token expired for up to 24 h. `registry` checks the owner.
    Session(RepositoryName, SessionUse),
    /// The list of repositories.
    Catalog,
}

/// What is done with an upload session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionUse {
    /// Asking how far it is.
    Status,
    /// Sending bytes, finishing, cancelling.
    Write,
}

/// An authenticated (or anonymous, or open) caller.
#[derive(Debug, Clone)]
pub struct Caller {}

impl Caller {
    /// The account: for logs and for the owner of an upload session. Empty for anonymous and in open mode; `sub` of a foreign token.
    pub fn account(&self) -> &str {
        todo!()
    }
    /// The generation of the account's credentials (`bh.gen`); empty for foreign tokens and in open mode.
    pub fn generation(&self) -> &str {
        todo!()
    }
    /// For how long the token has been expired; 0 if it is not.
    pub fn expired_secs(&self) -> u64 {
        todo!()
    }
}

/// Why a request is refused; `server/error.rs` makes the answer of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 401 UNAUTHORIZED with this `WWW-Authenticate` value.
    #[error("{reason}")]
    Unauthorized {
        challenge: String,
        reason: &'static str,
    },
    /// 403 DENIED: the password is right, the right is missing.
    #[error("requested access to the resource is denied")]
    Denied,
    /// 429 TOOMANYREQUESTS.
    #[error("too many failed logins")]
    TooManyFailures { retry_after_secs: u64 },
    /// 400: the Host cannot stand in a challenge.
    #[error("{0}")]
    Malformed(&'static str),
}

/// A request to the token endpoint: GET, HEAD or POST, already bounded by the server.
#[derive(Debug)]
pub struct TokenRequest<'a> {
    /// The raw query, without `?`.
    pub query: &'a str,
    /// The raw form body of a POST.
    pub form: Option<&'a str>,
    /// The values of the `Authorization` headers.
    pub authorization: &'a [&'a str],
    /// Where it comes from.
    pub origin: &'a Origin,
}

/// A token, given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenAnswer {
    pub token: String,
    pub expires_in_secs: u64,
}

/// Why no token was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// 400
    #[error("{0}")]
    Malformed(String),
    /// 401 with this `WWW-Authenticate` (Basic) value
    #[error("authentication failed")]
    Unauthorized { challenge: String },
    /// 429
    #[error("too many failed logins")]
    TooManyFailures { retry_after_secs: u64 },
    /// 404: only foreign tokens are accepted here, nothing is issued.
    #[error("this registry issues no tokens")]
    NoIssuer,
    /// 500
    #[error("cannot sign a token")]
    Internal,
}

pub struct Settings {}

#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct SetupError;
