//! What routes ask for, who callers are, and how they are refused.
//!
//! Must not know how identities are established. Invariant: a [`Caller`] is made by `Auth` only.

use std::net::IpAddr;
use std::sync::Arc;

use super::accounts::Labels;
use super::settings::TokenSettings;
use super::tokens::TokenFault;
use super::tokens::verifier::Genuine;
use crate::host_port::is_authority;
use crate::oci::RepositoryName;

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

impl Origin {
    /// The address that the client used, `scheme://host[:port]`; `None` if its Host is none.
    pub fn base_url(&self) -> Option<String> {
        let scheme = if self.is_https { "https" } else { "http" };
        let is_usable = !self.host.is_empty() && is_authority(&self.host);
        is_usable.then(|| format!("{scheme}://{}", self.host))
    }
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
    /// An upload session that exists: pull and push (status: pull), also with a token expired for up to 24 h. `registry`
    /// checks the owner.
    Session(RepositoryName, SessionUse),
    /// The list of repositories.
    Catalog,
    /// The page of metrics.
    Metrics,
}

/// What is done with an upload session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionUse {
    /// Asking how far it is.
    Status,
    /// Sending bytes, finishing, cancelling.
    Write,
}

impl Access {
    /// The scope that covers this, in parts; none for what needs none.
    pub(super) fn scope(&self) -> Option<(&'static str, &str, &'static [&'static str])> {
        const REPOSITORY: &str = "repository";
        const REGISTRY: &str = "registry";
        match self {
            Self::Public | Self::Any => None,
            Self::Pull(name) | Self::Session(name, SessionUse::Status) => {
                Some((REPOSITORY, name.as_str(), &["pull"]))
            }
            Self::Push(name) | Self::Session(name, SessionUse::Write) => {
                Some((REPOSITORY, name.as_str(), &["pull", "push"]))
            }
            Self::Delete(name) => Some((REPOSITORY, name.as_str(), &["delete"])),
            Self::Catalog => Some((REGISTRY, "catalog", &["*"])),
            Self::Metrics => Some((REGISTRY, "metrics", &["*"])),
        }
    }

    /// The same as text, as challenges and logs have it.
    pub(super) fn scope_text(&self) -> Option<String> {
        let (resource_type, name, actions) = self.scope()?;
        Some(format!("{resource_type}:{name}:{}", actions.join(",")))
    }
}

/// An authenticated (or anonymous, or open) caller; or one whose credentials were no good, which `authorise` refuses with
/// the challenge of what was asked for.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(super) identity: Identity,
    pub(super) expired_secs: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Identity {
    /// Authentication is off.
    Open,
    /// No credentials.
    Nobody,
    /// A password that is wrong, or an `Authorization` that cannot be read; with the account that was named, as in
    /// [`Details::claimed_account`].
    WrongPassword(Option<String>),
    /// A token that is not believed.
    InvalidToken(TokenFault),
    /// A right password, or an account without one.
    Basic {
        account: String,
        generation: String,
        /// Of an account that is in no list.
        labels: Option<Arc<Labels>>,
    },
    /// Our own token, whose account and generation are those of now.
    Ours {
        token: Arc<Genuine>,
        generation: String,
    },
    /// A trusted token that speaks for itself.
    Foreign(Arc<Genuine>),
}

impl Caller {
    /// The account: for logs and for the owner of an upload session. Empty for anonymous and in open mode; `sub` of a
    /// foreign token.
    pub fn account(&self) -> &str {
        match &self.identity {
            Identity::Open
            | Identity::Nobody
            | Identity::WrongPassword(_)
            | Identity::InvalidToken(_) => "",
            Identity::Basic { account, .. } => account,
            Identity::Ours { token, .. } | Identity::Foreign(token) => &token.claims.sub,
        }
    }

    /// The generation of the account's credentials (`bh.gen`); empty for foreign tokens and in open mode.
    pub fn generation(&self) -> &str {
        match &self.identity {
            Identity::Basic { generation, .. } | Identity::Ours { generation, .. } => generation,
            Identity::Open
            | Identity::Nobody
            | Identity::WrongPassword(_)
            | Identity::InvalidToken(_)
            | Identity::Foreign(_) => "",
        }
    }

    /// The labels that an external authenticator gave the account at its login; `None` if the account is in a list, whose
    /// labels are those of now.
    pub(super) fn external_labels(&self) -> Option<&Labels> {
        match &self.identity {
            Identity::Basic { labels, .. } => labels.as_deref(),
            Identity::Ours { token, .. } => token.claims.bh.as_ref()?.labels.as_ref(),
            Identity::Open
            | Identity::Nobody
            | Identity::WrongPassword(_)
            | Identity::InvalidToken(_)
            | Identity::Foreign(_) => None,
        }
    }

    /// Whether `ext_authz` granted all of this when the caller's token was made, and the token has not expired since.
    pub(super) fn has_from_program(
        &self,
        resource_type: &str,
        name: &str,
        actions: &[&str],
    ) -> bool {
        let Identity::Ours { token, .. } = &self.identity else {
            return false;
        };
        let positions = token.claims.bh.iter().flat_map(|claim| &claim.by_program);
        let mut scopes = positions.filter_map(|&position| token.claims.access.get(position));
        self.expired_secs == 0
            && scopes.any(|scope| {
                scope.resource_type == resource_type
                    && scope.name == name
                    && actions.iter().all(|action| scope.allows(action))
            })
    }

    /// Whether this is a token that was asked for without a service.
    pub(super) fn is_for_no_service(&self) -> bool {
        match &self.identity {
            Identity::Ours { token, .. } | Identity::Foreign(token) => {
                token.claims.aud.0.iter().all(String::is_empty)
            }
            Identity::Open
            | Identity::Nobody
            | Identity::WrongPassword(_)
            | Identity::InvalidToken(_)
            | Identity::Basic { .. } => false,
        }
    }

    /// For how long the token has been expired; 0 if it is not.
    pub fn expired_secs(&self) -> u64 {
        self.expired_secs
    }
}

/// Why a request is refused; `server/error.rs` makes the answer of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 401 UNAUTHORIZED with this `WWW-Authenticate` value.
    #[error("{reason}")]
    Unauthorized {
        /// The header's value.
        challenge: String,
        /// For the answer's body.
        reason: Reason,
        /// For the log.
        details: Details,
    },
    /// 403 DENIED: the password is right, the right is missing.
    #[error("requested access to the resource is denied")]
    Denied(Details),
    /// 429 TOOMANYREQUESTS.
    #[error("too many failed logins")]
    TooManyFailures {
        /// `Retry-After`
        retry_after_secs: u64,
        /// For the log.
        details: Details,
    },
    /// 503: what decides about the account or the right is unavailable. The text is for the log.
    #[error("{0}")]
    Unavailable(String),
    /// 400: the Host cannot stand in a challenge, or there are several `Authorization` headers.
    #[error("{0}")]
    Malformed(&'static str),
}

/// What the log says of a refusal, and the client is not told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// The account that a failed login named, if it exists: any other name may be a password that was typed into the wrong
    /// field.
    pub claimed_account: Option<String>,
    /// The right that is missing, as a scope: `repository:team/app:pull,push`.
    pub needed: Option<String>,
    /// Where the rule is written that decided (`file:line`), or what else did.
    pub decided_by: Option<String>,
}

/// Why a request needs another credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It has none.
    NoCredential,
    /// The password is wrong, there is no such account, or the header cannot be read.
    WrongPassword,
    /// The token is not believed, or has expired. What is wrong with it is for the log: the client is not told.
    InvalidToken(TokenFault),
    /// The token does not permit this.
    InsufficientScope,
}

impl Reason {
    /// For the client.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoCredential => "authentication required",
            Self::WrongPassword => "authentication failed",
            Self::InvalidToken(TokenFault::Expired) => "expired token",
            Self::InvalidToken(_) => "invalid token",
            Self::InsufficientScope => "insufficient scope",
        }
    }

    /// For the log.
    pub fn logged(self) -> &'static str {
        match self {
            Self::InvalidToken(fault) => fault.as_str(),
            Self::NoCredential | Self::WrongPassword | Self::InsufficientScope => self.as_str(),
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A token, given.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenAnswer {
    /// Whose it is, for logs; empty for callers without an account.
    pub account: String,
    /// For `token` and `access_token`.
    pub token: String,
    /// For `expires_in`.
    pub expires_in_secs: u64,
    /// For `refresh_token`, where one was asked for and is given.
    pub refresh_token: Option<String>,
}

impl std::fmt::Debug for TokenAnswer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TokenAnswer")
            .field("expires_in_secs", &self.expires_in_secs)
            .finish_non_exhaustive()
    }
}

/// Why no token was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// 400
    #[error("{0}")]
    Malformed(String),
    /// 401 with this `WWW-Authenticate` (Basic) value
    #[error("authentication failed")]
    Unauthorized {
        /// The header's value.
        challenge: String,
        /// For the log.
        details: Details,
    },
    /// 429
    #[error("too many failed logins")]
    TooManyFailures {
        /// `Retry-After`
        retry_after_secs: u64,
        /// For the log.
        details: Details,
    },
    /// 404: only foreign tokens are accepted here, nothing is issued.
    #[error("this registry issues no tokens")]
    NoIssuer,
    /// 500, as in `docker_auth`: what decides about the account or the right is unavailable. The text is for the log.
    #[error("{0}")]
    Unavailable(String),
    /// 500
    #[error("cannot sign a token")]
    Internal,
}

/// Where the token endpoint is, below this registry's own address.
const TOKEN_PATH: &str = "token";

/// `Bearer realm="…",service="…"[,scope="…"][,error="…"]`
pub(super) fn bearer(
    settings: &TokenSettings,
    origin: &Origin,
    access: &Access,
    error: Option<&str>,
) -> Result<String, Refusal> {
    let mut challenge = format!(
        "Bearer realm={},service={}",
        quoted(&realm(settings, origin)?),
        quoted(&settings.service)
    );
    if let Some(scope) = access.scope_text() {
        challenge.push_str(",scope=");
        challenge.push_str(&quoted(&scope));
    }
    if let Some(error) = error {
        challenge.push_str(",error=");
        challenge.push_str(&quoted(error));
    }
    Ok(challenge)
}

/// `Basic realm="…"`
pub(super) fn basic(realm: &str) -> String {
    format!("Basic realm={}", quoted(realm))
}

fn realm(settings: &TokenSettings, origin: &Origin) -> Result<String, Refusal> {
    let no_host = Refusal::Malformed("the Host header is not a host");
    if let Some(redirect) = &settings.auto_redirect {
        let seen = Origin {
            is_https: origin.is_https || redirect.assumes_https,
            ..origin.clone()
        };
        let base = seen.base_url().ok_or(no_host)?;
        return Ok(format!("{base}{}", redirect.path));
    }
    if let Some(realm) = &settings.realm {
        return Ok(realm.clone());
    }
    let base = match &settings.external_host {
        Some(url) => url.to_string(),
        None => origin.base_url().ok_or(no_host)?,
    };
    Ok(format!("{base}{}{TOKEN_PATH}", settings.prefix))
}

/// A quoted string; control characters, which no header may hold, become spaces.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => quoted.push(' '),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
