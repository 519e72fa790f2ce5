//! What stands in a token.
//!
//! Must not know keys, users or rules. Invariant: what is written here, a registry 2.8 and 3.x reads.

pub(super) mod endpoint;
pub(super) mod keys;
pub(super) mod own_names;
pub(super) mod refresh;
pub(super) mod verifier;
#[cfg(test)]
mod verifier_tests;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize};

use crate::oci::scope::Scope;
use keys::SigningKey;

/// Clocks differ: a token holds from so long before it was issued.
pub(super) const BACKDATED_SECS: u64 = 10;

/// The first part of a token.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    /// `JWT`; not looked at.
    #[serde(default)]
    pub typ: Option<String>,
    /// Name of the algorithm.
    pub alg: String,
    /// The key's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// Certificates, base64 DER, the key's own first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x5c: Option<Vec<String>>,
    /// Extensions that must be understood: none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crit: Option<Vec<String>>,
}

/// The second part of a token.
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

/// A signed token.
pub(super) fn sign(claims: &Claims, key: &SigningKey) -> Result<String, ()> {
    let header = Header {
        typ: Some("JWT".to_owned()),
        alg: key.algorithm().name().to_owned(),
        kid: Some(key.public_key().libtrust_id().to_owned()),
        x5c: Some(key.x5c.clone()),
        crit: None,
    };
    let header = serde_json::to_vec(&header).map_err(|_| ())?;
    let claims = serde_json::to_vec(claims).map_err(|_| ())?;
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let signature = key.sign(message.as_bytes())?;
    Ok(format!("{message}.{signature}"))
}

/// 16 random bytes as text.
pub(super) fn random_id() -> Result<String, ()> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ())?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
