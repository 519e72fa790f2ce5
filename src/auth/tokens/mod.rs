//! Tokens: what is in them, who signs them, which of them are believed, and the endpoint that issues them.
//!
//! This file has the claims. Must not know rules. Invariant: registries 2.8 and 3.x read what is written here.

mod certificates;
pub(super) mod endpoint;
pub(super) mod jwks;
#[cfg(test)]
mod jwks_tests;
pub(super) mod keys;
pub(super) mod own_names;
pub(super) mod refresh;
pub(super) mod verifier;
#[cfg(test)]
mod verifier_tests;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize};

pub use certificates::{EndingCertificate, ending_certificates, is_vouched_for};
pub use jwks::{JwkSet, JwkSetError};

use crate::auth::accounts::Labels;
use crate::oci::scope::Scope;

/// Clocks differ: a token holds from so long before it was issued.
pub(super) const BACKDATED_SECS: u64 = 10;

/// Why a token is refused, in the order of the checks. Only for the log: the client's answer says just that the token is
/// invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFault {
    /// It is not a token, or a part of it cannot be read.
    Malformed,
    /// `none`, HMAC, or an algorithm that does not fit the key.
    Algorithm,
    /// No key has its `kid`, or its certificate holds a key of a kind that signs no tokens.
    KeyUnknown,
    /// Its certificate does not lead to one of the configuration.
    CertificateUntrusted,
    /// A certificate that vouches for its key has expired.
    CertificateExpired,
    /// The same, before its time.
    CertificateNotYetValid,
    /// The key did not sign it.
    Signature,
    /// `iss` is another one.
    Issuer,
    /// `exp` is past.
    Expired,
    /// `nbf` is to come.
    NotYetValid,
    /// `aud` is another service.
    Audience,
    /// Its account was removed or has ended, its tokens were revoked, or its password was changed.
    Revoked,
}

impl TokenFault {
    /// Its text in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "invalid token: malformed",
            Self::Algorithm => "invalid token: algorithm not accepted",
            Self::KeyUnknown => "invalid token: unknown key",
            Self::CertificateUntrusted => "invalid token: issuer certificate not trusted",
            Self::CertificateExpired => "invalid token: issuer certificate expired",
            Self::CertificateNotYetValid => "invalid token: issuer certificate not yet valid",
            Self::Signature => "invalid token: wrong signature",
            Self::Issuer => "invalid token: wrong issuer",
            Self::Expired => "invalid token: expired",
            Self::NotYetValid => "invalid token: not yet valid",
            Self::Audience => "invalid token: wrong audience",
            Self::Revoked => "invalid token: account changed, ended or removed since it was issued",
        }
    }
}

/// What a token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Claims {
    /// Who issued it.
    pub iss: String,
    /// The account; empty for anonymous.
    #[serde(default)]
    pub sub: String,
    /// The service.
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Audience,
    /// Not before, seconds since 1970.
    #[serde(default)]
    pub nbf: u64,
    /// Issued at.
    #[serde(default)]
    pub iat: u64,
    /// Expires.
    pub exp: u64,
    /// Its own id.
    #[serde(default)]
    pub jti: String,
    /// What it grants.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub access: Vec<Scope>,
    /// Present in tokens of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bh: Option<OurClaim>,
}

/// The services that a token is for; ours name exactly one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Audience(pub Vec<String>);

impl Serialize for Audience {
    /// As one string: 2.8 reads nothing else.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.first().map_or("", String::as_str))
    }
}

/// What only our tokens carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OurClaim {
    /// Version of this claim.
    pub v: u32,
    /// Generation of the account's credentials.
    #[serde(rename = "gen")]
    pub generation: String,
    /// Labels that an external authenticator gave an account that is in no list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// Positions in `access` of the scopes that `ext_authz` granted, and no rule.
    #[serde(default, rename = "ext_authz", skip_serializing_if = "Vec::is_empty")]
    pub by_program: Vec<usize>,
}

/// The version of [`OurClaim`] that is written and believed.
pub(super) const OUR_CLAIM_VERSION: u32 = 1;

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Audience, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => Audience(vec![one]),
        OneOrMany::Many(many) => Audience(many),
    })
}

fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Scope>, D::Error> {
    // docker_auth's access entries may have null actions too, where nothing was granted.
    #[derive(Deserialize)]
    struct Entry {
        r#type: String,
        name: String,
        actions: Option<Vec<String>>,
    }
    let entries: Option<Vec<Entry>> = Option::deserialize(deserializer)?;
    let scope = |entry: Entry| Scope {
        resource_type: entry.r#type,
        name: entry.name,
        actions: entry.actions.unwrap_or_default(),
    };
    Ok(entries.unwrap_or_default().into_iter().map(scope).collect())
}

/// 16 random bytes as text.
pub(super) fn random_id() -> Result<String, ()> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ())?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
