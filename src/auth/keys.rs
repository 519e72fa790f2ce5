//! Public keys of token issuers: from certificates, by key id, for checking signatures.
//!
//! Must not know claims. Invariant: a signature is only checked with an algorithm that fits the key.

use aws_lc_rs::signature;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo, X509Certificate};

use super::SetupError;

/// RFC 4648.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A libtrust key id is made of so many bytes of the hash: 12 groups of 4 letters.
const LIBTRUST_BYTES: usize = 30;

/// The algorithms of tokens that are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenAlgorithm {
    /// RSA PKCS#1 v1.5
    Rsa(jsonwebtoken::Algorithm),
    /// P-256
    Es256,
    /// P-384
    Es384,
    /// P-521
    Es512,
}

impl TokenAlgorithm {
    /// `none`, HMAC and everything else is no algorithm here.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rsa(jsonwebtoken::Algorithm::RS256)),
            "RS384" => Some(Self::Rsa(jsonwebtoken::Algorithm::RS384)),
            "RS512" => Some(Self::Rsa(jsonwebtoken::Algorithm::RS512)),
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            "ES512" => Some(Self::Es512),
            _ => None,
        }
    }

    /// Its name in a header.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rsa(jsonwebtoken::Algorithm::RS384) => "RS384",
            Self::Rsa(jsonwebtoken::Algorithm::RS512) => "RS512",
            Self::Rsa(_) => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
        }
    }
}

/// A public key that may sign tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    kind: KeyKind,
    /// RSA: PKCS#1. EC: the uncompressed point.
    bytes: Vec<u8>,
    key_ids: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Rsa,
    P256,
    P384,
    P521,
}

impl PublicKey {
    /// The key of a certificate.
    pub(super) fn of_certificate(certificate: &X509Certificate<'_>) -> Option<Self> {
        Self::from_info(certificate.public_key())
    }

    fn from_info(info: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let bytes = info.subject_public_key.data.to_vec();
        let algorithm = info.algorithm.algorithm.to_id_string();
        let kind = match (algorithm.as_str(), bytes.len()) {
            ("1.2.840.113549.1.1.1", _) => KeyKind::Rsa,
            ("1.2.840.10045.2.1", 65) => KeyKind::P256,
            ("1.2.840.10045.2.1", 97) => KeyKind::P384,
            ("1.2.840.10045.2.1", 133) => KeyKind::P521,
            _ => return None,
        };
        let mut key_ids = vec![libtrust_id(info.raw)];
        if let Some(jwk) = thumbprint_input(kind, &bytes) {
            key_ids.push(URL_SAFE_NO_PAD.encode(Sha256::digest(jwk)));
        }
        key_ids.extend(docker_auth_id(kind).map(str::to_owned));
        Some(Self {
            kind,
            bytes,
            key_ids,
        })
    }

    /// Whether a token with this `kid` may be signed by this key: libtrust, RFC 7638, or `docker_auth`'s broken one, which
    /// is the same for every key of a curve, so that the signature alone tells.
    pub(super) fn has_id(&self, key_id: &str) -> bool {
        self.key_ids.iter().any(|known| known == key_id)
    }

    /// The libtrust form of the id.
    pub(super) fn libtrust_id(&self) -> &str {
        self.key_ids.first().map_or("", String::as_str)
    }

    /// The algorithm with which a token is signed by such a key.
    pub(super) fn algorithm(&self) -> TokenAlgorithm {
        match self.kind {
            KeyKind::Rsa => TokenAlgorithm::Rsa(jsonwebtoken::Algorithm::RS256),
            KeyKind::P256 => TokenAlgorithm::Es256,
            KeyKind::P384 => TokenAlgorithm::Es384,
            KeyKind::P521 => TokenAlgorithm::Es512,
        }
    }

    /// Checks a token's signature (base64url) over `message`.
    pub(super) fn verify_token(
        &self,
        algorithm: TokenAlgorithm,
        message: &[u8],
        signed: &str,
    ) -> bool {
        let check = |key: &DecodingKey, algorithm| {
            jsonwebtoken::crypto::verify(signed, message, key, algorithm).unwrap_or(false)
        };
        match (self.kind, algorithm) {
            (KeyKind::Rsa, TokenAlgorithm::Rsa(rsa)) => {
                check(&DecodingKey::from_rsa_der(&self.bytes), rsa)
            }
            (KeyKind::P256, TokenAlgorithm::Es256) => check(
                &DecodingKey::from_ec_der(&self.bytes),
                jsonwebtoken::Algorithm::ES256,
            ),
            (KeyKind::P384, TokenAlgorithm::Es384) => check(
                &DecodingKey::from_ec_der(&self.bytes),
                jsonwebtoken::Algorithm::ES384,
            ),
            (KeyKind::P521, TokenAlgorithm::Es512) => {
                URL_SAFE_NO_PAD.decode(signed).is_ok_and(|signed| {
                    signature::UnparsedPublicKey::new(
                        &signature::ECDSA_P521_SHA512_FIXED,
                        &self.bytes,
                    )
                    .verify(message, &signed)
                    .is_ok()
                })
            }
            _ => false,
        }
    }
}

/// The certificates (DER) in a PEM text.
pub(super) fn certificates_of_pem(pem: &str) -> Result<Vec<Vec<u8>>, SetupError> {
    let mut certificates = Vec::new();
    for block in x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|_| SetupError::Certificate)?;
        if block.label == "CERTIFICATE" {
            X509Certificate::from_der(&block.contents).map_err(|_| SetupError::Certificate)?;
            certificates.push(block.contents);
        }
    }
    if certificates.is_empty() {
        return Err(SetupError::Certificate);
    }
    Ok(certificates)
}

/// `ABCD:EFGH:…`: the hash of the key, as docker's libtrust writes it.
fn libtrust_id(info_der: &[u8]) -> String {
    let hash = Sha256::digest(info_der);
    let mut bits = 0_u32;
    let mut count = 0;
    let mut id = String::new();
    let mut letters = 0;
    for byte in hash.iter().take(LIBTRUST_BYTES) {
        bits = (bits << 8) | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            let index = (bits >> count) & 31;
            if letters > 0 && letters % 4 == 0 {
                id.push(':');
            }
            id.extend(BASE32.get(index as usize).map(|&letter| char::from(letter)));
            letters += 1;
        }
    }
    id
}

/// What RFC 7638 hashes.
fn thumbprint_input(kind: KeyKind, bytes: &[u8]) -> Option<String> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let curve = match kind {
        KeyKind::Rsa => {
            let (_, key) = x509_parser::public_key::RSAPublicKey::from_der(bytes).ok()?;
            let unpadded = |bytes: &[u8]| {
                let start = bytes.iter().position(|&byte| byte != 0).unwrap_or(0);
                encode(bytes.get(start..).unwrap_or_default())
            };
            return Some(format!(
                r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#,
                unpadded(key.exponent),
                unpadded(key.modulus)
            ));
        }
        KeyKind::P256 => "P-256",
        KeyKind::P384 => "P-384",
        KeyKind::P521 => "P-521",
    };
    let coordinates = bytes.get(1..)?;
    let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
    Some(format!(
        r#"{{"crv":"{curve}","kty":"EC","x":"{}","y":"{}"}}"#,
        encode(x),
        encode(y)
    ))
}

/// `docker_auth` hashes the curve's generator instead of the key.
fn docker_auth_id(kind: KeyKind) -> Option<&'static str> {
    match kind {
        KeyKind::Rsa => None,
        KeyKind::P256 => Some("xx0BcA-wMohw8atYDJOe6peGModklG2wRHBlXHMvl0M"),
        KeyKind::P384 => Some("-W6Wzot_wuerYbKBVKfGEks3iY2EALna-hBqObnPuJE"),
        KeyKind::P521 => Some("67t2ktf21o_Z2-ygUyR0zriEF9PMHtlT1l4q9rGSYOM"),
    }
}
