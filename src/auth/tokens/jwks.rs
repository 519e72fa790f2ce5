//! A file of public keys (JWKS, RFC 7517) whose holders' tokens are believed: `auth.token.jwks`.
//!
//! Must not know claims. Invariants: keys come from the configuration only, never from a token's header; of a private key in
//! the file only the public half is kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::keys::{KeyKind, PublicKey, rsa_key};

/// The keys of one file.
#[derive(Debug, Clone, Default)]
pub struct JwkSet {
    /// By `kid`.
    keys: Vec<(String, PublicKey)>,
    /// What cannot be used in the file, and why; never a value of it.
    pub left_out: Vec<String>,
}

/// Why a file is not a set of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwkSetError {
    /// Not JSON of this form.
    #[error("not a JWKS: must be JSON like {{\"keys\": [{{\"kty\": …, \"kid\": …}}]}}")]
    Malformed,
    /// Distribution insists on one key too.
    #[error("holds no key that can check the signature of a token")]
    NoKey,
}

#[derive(Deserialize)]
struct Wire {
    keys: Vec<WireKey>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireKey {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

impl JwkSet {
    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self, JwkSetError> {
        let wire: Wire = serde_json::from_str(text).map_err(|_| JwkSetError::Malformed)?;
        let mut set = Self::default();
        for (position, key) in wire.keys.into_iter().enumerate() {
            if key.d.is_some() {
                set.left_out.push(format!(
                    "keys[{position}] is a private key, of which only the public half is used; keep that file with the issuer alone"
                ));
            }
            match key.read() {
                Ok(read) => set.keys.push(read),
                Err(why) => set
                    .left_out
                    .push(format!("keys[{position}] is not used: {why}")),
            }
        }
        if set.keys.is_empty() {
            return Err(JwkSetError::NoKey);
        }
        Ok(set)
    }

    /// The keys with this id.
    pub(super) fn keys_of_id<'a>(&'a self, key_id: &str) -> impl Iterator<Item = &'a PublicKey> {
        let key_id = key_id.to_owned();
        let keys = self.keys.iter();
        keys.filter(move |(id, _)| *id == key_id)
            .map(|(_, key)| key)
    }
}

impl WireKey {
    /// The key and its id. distribution finds a key by its `kid` only; here one without is found by its thumbprint (RFC 7638).
    fn read(&self) -> Result<(String, PublicKey), &'static str> {
        if self.r#use.as_deref().is_some_and(|usage| usage != "sig") {
            return Err("its `use` is not `sig`");
        }
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => rsa_key(&part(self.n.as_ref())?, &part(self.e.as_ref())?),
            ("EC", Some("P-256")) => self.point(KeyKind::P256, 32)?,
            ("EC", Some("P-384")) => self.point(KeyKind::P384, 48)?,
            ("EC", Some("P-521")) => self.point(KeyKind::P521, 66)?,
            ("OKP", Some("Ed25519")) => {
                let bytes = part(self.x.as_ref())?;
                if bytes.len() != 32 {
                    return Err("its `x` has another length than its curve asks for");
                }
                PublicKey::of_kind(KeyKind::Ed25519, bytes)
            }
            ("oct", _) => return Err("a shared secret would let this registry sign tokens too"),
            _ => return Err("its `kty` or `crv` is not known here"),
        };
        let id = match &self.kid {
            Some(id) if !id.is_empty() => id.clone(),
            _ => key.thumbprint().ok_or("it has no `kid`")?.to_owned(),
        };
        Ok((id, key))
    }

    /// The point, uncompressed.
    fn point(&self, kind: KeyKind, length_bytes: usize) -> Result<PublicKey, &'static str> {
        let (x, y) = (part(self.x.as_ref())?, part(self.y.as_ref())?);
        if x.len() != length_bytes || y.len() != length_bytes {
            return Err("its `x` or `y` has another length than its curve asks for");
        }
        Ok(PublicKey::of_kind(kind, [vec![4], x, y].concat()))
    }
}

fn part(text: Option<&String>) -> Result<Vec<u8>, &'static str> {
    let bytes = text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let bytes = bytes.filter(|bytes| !bytes.is_empty());
    bytes.ok_or("a part of it is missing, or is not base64url")
}
