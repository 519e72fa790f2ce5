//! Public keys of token issuers: from certificates and from their parts, by key id, for checking signatures.
//!
//! Must not know claims. Invariant: a signature is only checked with an algorithm that fits the key.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo, X509Certificate};

use super::TokenFault;
use crate::auth::SetupError;
use crate::auth::settings::SigningKeyPem;
use crate::clock::Clock;

/// RFC 4648.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A libtrust key id is made of so many bytes of the hash: 12 groups of 4 letters.
const LIBTRUST_BYTES: usize = 30;

/// An algorithm of signatures; which of them are accepted depends on the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenAlgorithm {
    /// One that the library has.
    Library(Algorithm),
    /// ES512, which the library lacks, and `docker_auth` and registries 2.8 and 3 accept.
    Es512,
}

impl TokenAlgorithm {
    /// By its name in a header.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "ES512" => Some(Self::Es512),
            name => name.parse().ok().map(Self::Library),
        }
    }
}

/// A public key that may sign tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::auth) struct PublicKey {
    kind: KeyKind,
    /// RSA: PKCS#1. EC: the uncompressed point. Ed25519: the 32 bytes of RFC 8032.
    bytes: Vec<u8>,
    /// The libtrust form, then the thumbprint.
    key_ids: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
}

impl KeyKind {
    /// The algorithm that such a key signs with here.
    fn signs_by(self) -> TokenAlgorithm {
        match self {
            Self::Rsa => TokenAlgorithm::Library(Algorithm::RS256),
            Self::P256 => TokenAlgorithm::Library(Algorithm::ES256),
            Self::P384 => TokenAlgorithm::Library(Algorithm::ES384),
            Self::P521 => TokenAlgorithm::Es512,
            Self::Ed25519 => TokenAlgorithm::Library(Algorithm::EdDSA),
        }
    }

    /// Whether such a key can check a signature of this algorithm. HMAC, with the public key as secret, is in none.
    fn accepts(self, algorithm: TokenAlgorithm) -> bool {
        let other_hash = [
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ]
        .map(TokenAlgorithm::Library);
        algorithm == self.signs_by() || (self == Self::Rsa && other_hash.contains(&algorithm))
    }

    /// The `AlgorithmIdentifier` of such keys (RFC 3279, 5480, 8410), as DER.
    fn identifier(self) -> &'static [u8] {
        match self {
            Self::Rsa => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00",
            Self::P256 => {
                b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
            }
            Self::P384 => b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
            Self::P521 => b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23",
            Self::Ed25519 => b"\x30\x05\x06\x03\x2b\x65\x70",
        }
    }
}

/// One value of DER: its tag, its length, and the parts of its content.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut value = vec![tag];
    match length.as_slice() {
        [] => value.push(0),
        [short] if *short < 0x80 => value.push(*short),
        // A length has eight bytes at most.
        long => {
            value.push(0x80 | u8::try_from(long.len()).unwrap_or_default());
            value.extend(long);
        }
    }
    value.extend(content);
    value
}

/// An RSA key by its modulus and exponent, big-endian.
pub(super) fn rsa_key(modulus: &[u8], exponent: &[u8]) -> PublicKey {
    let integer = |bytes: &[u8]| {
        let start = bytes.iter().position(|&byte| byte != 0).unwrap_or(0);
        let bytes = bytes.get(start..).unwrap_or_default();
        // Without the zero, a first bit that is set would mean a negative number.
        let sign: &[u8] = match bytes.first() {
            Some(first) if *first < 0x80 => &[],
            _ => &[0],
        };
        der(0x02, &[sign, bytes])
    };
    let bytes = der(0x30, &[&integer(modulus), &integer(exponent)]);
    PublicKey::of_kind(KeyKind::Rsa, bytes)
}

impl PublicKey {
    /// The key of a certificate.
    pub(in crate::auth) fn of_certificate(certificate: &X509Certificate<'_>) -> Option<Self> {
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
            ("1.3.101.112", 32) => KeyKind::Ed25519,
            _ => return None,
        };
        Some(Self::new(kind, bytes, info.raw))
    }

    /// A key in the form of its kind.
    pub(super) fn of_kind(kind: KeyKind, bytes: Vec<u8>) -> Self {
        let bits = der(0x03, &[&[0], &bytes]);
        let info = der(0x30, &[kind.identifier(), &bits]);
        Self::new(kind, bytes, &info)
    }

    fn new(kind: KeyKind, bytes: Vec<u8>, info_der: &[u8]) -> Self {
        let mut key_ids = vec![libtrust_id(info_der)];
        if let Some(jwk) = thumbprint_input(kind, &bytes) {
            key_ids.push(URL_SAFE_NO_PAD.encode(Sha256::digest(jwk)));
        }
        key_ids.extend(docker_auth_id(kind).map(str::to_owned));
        Self {
            kind,
            bytes,
            key_ids,
        }
    }

    /// The id of RFC 7638.
    pub(super) fn thumbprint(&self) -> Option<&str> {
        self.key_ids.get(1).map(String::as_str)
    }

    /// The algorithm that this key signs with here.
    pub(super) fn signs_by(&self) -> TokenAlgorithm {
        self.kind.signs_by()
    }

    /// Whether a token with this `kid` may be signed by this key: libtrust, RFC 7638, or `docker_auth`'s broken one, which
    /// is the same for every key of a curve, so that the signature alone tells.
    pub(in crate::auth) fn has_id(&self, key_id: &str) -> bool {
        self.key_ids.iter().any(|known| known == key_id)
    }

    /// The libtrust form of the id.
    pub(in crate::auth) fn libtrust_id(&self) -> &str {
        self.key_ids.first().map_or("", String::as_str)
    }

    /// What a token says, if this key signed it. Issuer, audience and times are judged by others: the library would ask the
    /// system for the time.
    pub(super) fn decode<C: DeserializeOwned>(
        &self,
        token: &str,
        algorithm: TokenAlgorithm,
    ) -> Result<C, TokenFault> {
        match algorithm {
            _ if !self.kind.accepts(algorithm) => Err(TokenFault::Algorithm),
            TokenAlgorithm::Library(algorithm) => {
                let key = match self.kind {
                    KeyKind::Rsa => DecodingKey::from_rsa_der(&self.bytes),
                    KeyKind::Ed25519 => DecodingKey::from_ed_der(&self.bytes),
                    KeyKind::P256 | KeyKind::P384 | KeyKind::P521 => {
                        DecodingKey::from_ec_der(&self.bytes)
                    }
                };
                decode(token, &key, algorithm)
            }
            TokenAlgorithm::Es512 => self.decode_es512(token).ok_or(TokenFault::Malformed)?,
        }
    }

    /// `None`: it is malformed.
    fn decode_es512<C: DeserializeOwned>(&self, token: &str) -> Option<Result<C, TokenFault>> {
        let (message, signed) = token.rsplit_once('.')?;
        let (_, claims) = message.split_once('.')?;
        let signed = URL_SAFE_NO_PAD.decode(signed).ok()?;
        let key = UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, &self.bytes);
        if key.verify(message.as_bytes(), &signed).is_err() {
            return Some(Err(TokenFault::Signature));
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        serde_json::from_slice(&claims).ok().map(Ok)
    }
}

/// What a token says, if its signature is right.
pub(super) fn decode<C: DeserializeOwned>(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
) -> Result<C, TokenFault> {
    let mut only_signature = Validation::new(algorithm);
    only_signature.required_spec_claims.clear();
    only_signature.validate_exp = false;
    only_signature.validate_aud = false;
    match jsonwebtoken::decode(token, key, &only_signature) {
        Ok(token) => Ok(token.claims),
        Err(error) if *error.kind() == ErrorKind::InvalidSignature => Err(TokenFault::Signature),
        Err(_) => Err(TokenFault::Malformed),
    }
}

/// The certificates (DER) in a PEM text.
pub(in crate::auth) fn certificates_of_pem(pem: &str) -> Result<Vec<Vec<u8>>, SetupError> {
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
        KeyKind::Ed25519 => {
            let x = encode(bytes);
            return Some(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
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
        KeyKind::Rsa | KeyKind::Ed25519 => None,
        KeyKind::P256 => Some("xx0BcA-wMohw8atYDJOe6peGModklG2wRHBlXHMvl0M"),
        KeyKind::P384 => Some("-W6Wzot_wuerYbKBVKfGEks3iY2EALna-hBqObnPuJE"),
        KeyKind::P521 => Some("67t2ktf21o_Z2-ygUyR0zriEF9PMHtlT1l4q9rGSYOM"),
    }
}

/// Registries that trust our certificate keep it for years; nothing revokes it but its removal there.
const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(20 * 365 * 24);

/// Clocks of other machines may be behind ours.
const CERTIFICATE_BACKDATED: Duration = Duration::from_hours(24);

/// A key that signs tokens.
pub(in crate::auth) struct SigningKey {
    signer: Signer,
    public_key: PublicKey,
    /// Base64 of the certificate and those that issued it: the header's `x5c`.
    pub x5c: Vec<String>,
    /// The certificate itself.
    pub certificate_der: Vec<u8>,
}

enum Signer {
    Library(EncodingKey, Algorithm),
    P521(EcdsaKeyPair),
}

impl SigningKey {
    /// Reads key and certificate, and tries whether they belong together.
    pub(in crate::auth) fn from_pem(pem: &SigningKeyPem) -> Result<Self, SetupError> {
        let certificates = certificates_of_pem(&pem.certificate_pem)?;
        let certificate_der = certificates.first().ok_or(SetupError::Certificate)?;
        let (_, certificate) =
            X509Certificate::from_der(certificate_der).map_err(|_| SetupError::Certificate)?;
        let public_key = PublicKey::of_certificate(&certificate).ok_or(SetupError::KeyKind)?;
        let signer = read_private_key(&pem.key_pem, public_key.kind)?;
        let key = Self {
            signer,
            x5c: certificates
                .iter()
                .map(|der| STANDARD.encode(der))
                .collect(),
            certificate_der: certificate_der.clone(),
            public_key,
        };
        let trial = key.sign(&json!({})).map_err(|()| SetupError::Key)?;
        let algorithm = key.public_key.kind.signs_by();
        match key
            .public_key
            .decode::<serde_json::Value>(&trial, algorithm)
        {
            Ok(_) => Ok(key),
            Err(_) => Err(SetupError::KeyMismatch),
        }
    }

    /// Its public half.
    pub(super) fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// A token that says `claims`.
    pub(super) fn sign(&self, claims: &impl Serialize) -> Result<String, ()> {
        let kid = self.public_key.libtrust_id().to_owned();
        match &self.signer {
            Signer::Library(key, algorithm) => {
                let header = Header {
                    kid: Some(kid),
                    x5c: Some(self.x5c.clone()),
                    ..Header::new(*algorithm)
                };
                jsonwebtoken::encode(&header, claims, key).map_err(|_| ())
            }
            Signer::P521(key) => {
                let header = json!({"typ": "JWT", "alg": "ES512", "kid": kid, "x5c": self.x5c});
                let claims = serde_json::to_vec(claims).map_err(|_| ())?;
                let encoded = [header.to_string().into_bytes(), claims];
                let message = encoded.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
                let signed = key.sign(&SystemRandom::new(), message.as_bytes());
                let signed = URL_SAFE_NO_PAD.encode(signed.map_err(|_| ())?);
                Ok(format!("{message}.{signed}"))
            }
        }
    }
}

fn read_private_key(pem: &str, kind: KeyKind) -> Result<Signer, SetupError> {
    let block = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes())
        .filter_map(Result::ok)
        .find(|block| block.label.ends_with("PRIVATE KEY"))
        .ok_or(SetupError::Key)?;
    let der = block.contents.as_slice();
    let curve = match kind {
        KeyKind::Rsa => {
            let der = match block.label.as_str() {
                "RSA PRIVATE KEY" => der.to_vec(),
                _ => inside_pkcs8(der).ok_or(SetupError::Key)?,
            };
            let key = EncodingKey::from_rsa_der(&der);
            return Ok(Signer::Library(key, Algorithm::RS256));
        }
        KeyKind::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
        KeyKind::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        KeyKind::P521 => &ECDSA_P521_SHA512_FIXED_SIGNING,
        // Registries 2.8 cannot check its signatures.
        KeyKind::Ed25519 => return Err(SetupError::KeyKind),
    };
    // It takes PKCS#8 and SEC1 alike; the library only PKCS#8.
    let key = EcdsaKeyPair::from_private_key_der(curve, der).map_err(|_| SetupError::Key)?;
    match kind.signs_by() {
        TokenAlgorithm::Library(algorithm) => {
            let pkcs8 = key.to_pkcs8v1().map_err(|_| SetupError::Key)?;
            let key = EncodingKey::from_ec_der(pkcs8.as_ref());
            Ok(Signer::Library(key, algorithm))
        }
        TokenAlgorithm::Es512 => Ok(Signer::P521(key)),
    }
}

/// The key within `SEQUENCE { version, algorithm, OCTET STRING }`.
pub(super) fn inside_pkcs8(der: &[u8]) -> Option<Vec<u8>> {
    let (_, object) = x509_parser::der_parser::parse_der(der).ok()?;
    let key = object.as_sequence().ok()?.get(2)?;
    Some(key.as_slice().ok()?.to_vec())
}

/// Makes a token key (P-256) and a certificate for it that real registries accept in their bundle: self-signed, not a CA,
/// with a subject of its own.
pub fn make_token_key(clock: &dyn Clock) -> Result<SigningKeyPem, SetupError> {
    make_token_key_of("Boathouse token issuer", clock)
}

/// [`make_token_key`] with this name as the subject of the certificate.
pub fn make_token_key_of(name: &str, clock: &dyn Clock) -> Result<SigningKeyPem, SetupError> {
    let failed = |_| SetupError::Making;
    let key = loop {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        // Registries 2.8 and 3 drop leading zeros of a coordinate when they compute key ids.
        let starts_with_zero = |at: usize| key.public_key_raw().get(at) == Some(&0);
        if !starts_with_zero(1) && !starts_with_zero(33) {
            break key;
        }
    };
    let mut certificate = rcgen::CertificateParams::default();
    let mut subject = rcgen::DistinguishedName::new();
    subject.push(rcgen::DnType::CommonName, name);
    certificate.distinguished_name = subject;
    certificate.is_ca = rcgen::IsCa::ExplicitNoCa;
    certificate.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    certificate.not_before = (clock.now() - CERTIFICATE_BACKDATED).into();
    certificate.not_after = (clock.now() + CERTIFICATE_LIFETIME).into();
    let certificate = certificate.self_signed(&key).map_err(failed)?;
    Ok(SigningKeyPem {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        let text = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    #[test]
    fn reads_every_kind_and_form_of_key() {
        for (kind, name) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, "ES256"),
            (&rcgen::PKCS_ECDSA_P384_SHA384, "ES384"),
            (&rcgen::PKCS_ECDSA_P521_SHA512, "ES512"),
            (&rcgen::PKCS_RSA_SHA256, "RS256"),
        ] {
            let key = rcgen::KeyPair::generate_for(kind).expect("a key");
            let certificate = rcgen::CertificateParams::default()
                .self_signed(&key)
                .expect("a certificate");
            let inner = inside_pkcs8(key.serialized_der()).expect("PKCS#8");
            let label = if name == "RS256" {
                "RSA PRIVATE KEY"
            } else {
                "EC PRIVATE KEY"
            };
            let mut forms = vec![key.serialize_pem()];
            // What PKCS#8 wraps of an elliptic key may leave out the curve, which SEC1 must name.
            if name == "RS256" {
                forms.push(pem(label, &inner));
            } else {
                let curve = match name {
                    "ES256" => &ECDSA_P256_SHA256_FIXED_SIGNING,
                    "ES384" => &ECDSA_P384_SHA384_FIXED_SIGNING,
                    _ => &ECDSA_P521_SHA512_FIXED_SIGNING,
                };
                let key = EcdsaKeyPair::from_pkcs8(curve, key.serialized_der()).expect("a key");
                let private = key.private_key();
                let sec1: aws_lc_rs::encoding::EcPrivateKeyRfc5915Der =
                    aws_lc_rs::encoding::AsDer::as_der(&private).expect("SEC1");
                forms.push(pem(label, sec1.as_ref()));
            }
            for key_pem in forms {
                let read = SigningKey::from_pem(&SigningKeyPem {
                    certificate_pem: certificate.pem(),
                    key_pem,
                });
                let read = read.expect("a key");
                let token = read.sign(&json!({"sub": "alice"})).expect("a token");
                let algorithm = read.public_key().kind.signs_by();
                assert_eq!(TokenAlgorithm::from_name(name), Some(algorithm));
                let claims: serde_json::Value = read
                    .public_key()
                    .decode(&token, algorithm)
                    .expect("our signature");
                assert_eq!(claims["sub"], "alice");
            }
        }
    }
}
