//! Token issuers as they exist, and as an attacker would have them: keys, certificates, and tokens written header by header.
//!
//! Key ids and signatures are computed here, not by the program: a mistake that both sides share would show nothing.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{Certificate, CertificateParams, PublicKeyData as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::FromDer as _;

const DAY_SECS: u64 = 24 * 60 * 60;

/// Libtrust takes 240 bits of the hash of a key.
const LIBTRUST_BYTES: usize = 30;

/// A key and what it usually signs with.
pub(super) struct Key {
    pair: rcgen::KeyPair,
    algorithm: &'static str,
}

impl Key {
    fn new(algorithm: &'static str) -> Self {
        let kind = match algorithm {
            "ES256" => &rcgen::PKCS_ECDSA_P256_SHA256,
            "ES384" => &rcgen::PKCS_ECDSA_P384_SHA384,
            "ES512" => &rcgen::PKCS_ECDSA_P521_SHA512,
            "RS256" => &rcgen::PKCS_RSA_SHA256,
            "EdDSA" => &rcgen::PKCS_ED25519,
            other => panic!("{other}"),
        };
        loop {
            let pair = rcgen::KeyPair::generate_for(kind).unwrap();
            let key = Self { pair, algorithm };
            // Registry 3 drops leading zeros of a coordinate when it computes an id.
            if algorithm != "ES256" || key.coordinates().iter().all(|part| part[0] != 0) {
                return key;
            }
        }
    }

    /// x and y of an elliptic key.
    fn coordinates(&self) -> [&[u8]; 2] {
        let point = &self.pair.public_key_raw()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        [x, y]
    }

    /// `ABCD:EFGH:…`
    pub(super) fn libtrust_id(&self) -> String {
        let hash = Sha256::digest(self.pair.subject_public_key_info());
        let letters = data_encoding::BASE32_NOPAD.encode(&hash[..LIBTRUST_BYTES]);
        let groups = letters.as_bytes().chunks(4);
        let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
        groups.join(":")
    }

    /// The public key as RFC 7517 has it.
    pub(super) fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let curve = match self.algorithm {
            "RS256" => {
                let raw = self.pair.public_key_raw();
                let (_, key) = x509_parser::public_key::RSAPublicKey::from_der(raw).unwrap();
                let modulus = key.modulus.strip_prefix(&[0]).unwrap_or(key.modulus);
                return json!({"e": encode(key.exponent), "kty": "RSA", "n": encode(modulus)});
            }
            "EdDSA" => {
                let x = encode(self.pair.public_key_raw());
                return json!({"crv": "Ed25519", "kty": "OKP", "x": x});
            }
            "ES256" => "P-256",
            "ES384" => "P-384",
            _ => "P-521",
        };
        let [x, y] = self.coordinates().map(encode);
        json!({"crv": curve, "kty": "EC", "x": x, "y": y})
    }

    /// RFC 7638: the hash of [`Key::jwk`], whose names are in the alphabet's order already.
    pub(super) fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.jwk().to_string()))
    }

    /// What `docker_auth` hashes with `disable_legacy_key_id`: the curve's generator instead of the key.
    pub(super) fn generator_thumbprint(&self) -> &'static str {
        match self.algorithm {
            "ES256" => "xx0BcA-wMohw8atYDJOe6peGModklG2wRHBlXHMvl0M",
            "ES384" => "-W6Wzot_wuerYbKBVKfGEks3iY2EALna-hBqObnPuJE",
            "ES512" => "67t2ktf21o_Z2-ygUyR0zriEF9PMHtlT1l4q9rGSYOM",
            other => panic!("{other} has no curve"),
        }
    }

    /// A certificate that this key signs for itself.
    fn certificate(&self, subject: &str, now: u64, is_ca: bool) -> Certificate {
        params(subject, now, is_ca).self_signed(&self.pair).unwrap()
    }

    /// A token signed by this key, without any hint at the key so far.
    pub(super) fn token(&self, now: u64) -> Token<'_> {
        Token {
            key: self,
            header: json!({"typ": "JWT", "alg": self.algorithm}),
            claims: json!({
                "iss": ISSUER, "sub": "ann", "aud": SERVICE, "nbf": now - 10, "iat": now, "exp": now + 900, "jti": "1",
                "access": [{"type": "repository", "name": "team/app", "actions": ["pull"]}],
            }),
        }
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let der = self.pair.serialized_der();
        let random = SystemRandom::new();
        let elliptic = |kind: &'static EcdsaSigningAlgorithm| {
            let key = EcdsaKeyPair::from_pkcs8(kind, der).unwrap();
            key.sign(&random, message).unwrap().as_ref().to_vec()
        };
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let key = RsaKeyPair::from_pkcs8(der).unwrap();
            let mut signed = vec![0; key.public_modulus_len()];
            key.sign(encoding, &random, message, &mut signed).unwrap();
            signed
        };
        match algorithm {
            "ES256" => elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING),
            "ES512" => elliptic(&ECDSA_P521_SHA512_FIXED_SIGNING),
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "EdDSA" => {
                let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).unwrap();
                key.sign(message).as_ref().to_vec()
            }
            // The public key as the secret: everybody has it.
            "HS256" => {
                let secret = self.pair.subject_public_key_info();
                let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
                hmac::sign(&secret, message).as_ref().to_vec()
            }
            "none" => Vec::new(),
            other => panic!("{other}"),
        }
    }
}

/// `iss` of the tokens, and `auth.token.issuer`.
pub(super) const ISSUER: &str = "an-issuer";
/// `aud` of the tokens, and `auth.token.service`.
pub(super) const SERVICE: &str = "a-service";

/// A token that is being written.
pub(super) struct Token<'a> {
    key: &'a Key,
    header: Value,
    claims: Value,
}

impl Token<'_> {
    pub(super) fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    pub(super) fn kid(self, id: impl Into<Value>) -> Self {
        self.header("kid", id)
    }

    /// With these certificates, the key's first.
    pub(super) fn x5c(self, chain: &[&Certificate]) -> Self {
        self.header("x5c", x5c(chain))
    }

    pub(super) fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    pub(super) fn without_claim(mut self, name: &str) -> Self {
        self.claims.as_object_mut().unwrap().remove(name);
        self
    }

    pub(super) fn signed(self) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&self.header), encode(&self.claims));
        let algorithm = self.header["alg"].as_str().unwrap();
        let signed = self.key.sign(algorithm, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed))
    }
}

pub(super) fn x5c(chain: &[&Certificate]) -> Vec<String> {
    let encode = |certificate: &&Certificate| STANDARD.encode(certificate.der());
    chain.iter().map(encode).collect()
}

fn params(subject: &str, now: u64, is_ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    let name = (rcgen::DnType::CommonName, subject);
    params.distinguished_name.push(name.0, name.1);
    params.is_ca = if is_ca {
        rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)
    } else {
        rcgen::IsCa::ExplicitNoCa
    };
    params.not_before = time(now - 365 * DAY_SECS);
    params.not_after = time(now + 365 * DAY_SECS);
    params
}

fn time(unix_secs: u64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(i64::try_from(unix_secs).unwrap()).unwrap()
}

/// A key with a certificate of its own.
pub(super) struct Issuer {
    pub(super) key: Key,
    pub(super) certificate: Certificate,
}

impl Issuer {
    fn new(algorithm: &'static str, subject: &str, now: u64) -> Self {
        let key = Key::new(algorithm);
        let certificate = key.certificate(subject, now, false);
        Self { key, certificate }
    }
}

/// What a registry trusts: the content of `auth.token.rootcertbundle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bundle {
    /// RSA, P-256 (two of them), P-384, P-521, all self-signed and no authorities; and an authority.
    Usual,
    /// One whose time is over.
    Expired,
    /// An Ed25519 one beside a P-256 one.
    WithEd25519,
}

/// All issuers. The last two fields are trusted by nobody.
pub(super) struct Issuers {
    pub(super) now: u64,
    pub(super) rsa: Issuer,
    pub(super) p256: Issuer,
    /// Another of the same curve: `docker_auth`'s broken id is the same for both.
    pub(super) p256_other: Issuer,
    pub(super) p384: Issuer,
    pub(super) p521: Issuer,
    pub(super) ed25519: Issuer,
    pub(super) expired: Issuer,
    /// Its certificate comes from `authority`.
    pub(super) leaf: Issuer,
    authority: Issuer,
    pub(super) stranger: Issuer,
    /// With the name of `authority` and a certificate that it made for itself.
    pub(super) namesake: Issuer,
}

impl Issuers {
    pub(super) fn new(now: u64) -> Self {
        let authority = |key: Key| Issuer {
            certificate: key.certificate("an authority", now, true),
            key,
        };
        let trusted_authority = authority(Key::new("ES256"));
        let leaf_key = Key::new("ES256");
        let issuer = rcgen::Issuer::new(
            params("an authority", now, true),
            &trusted_authority.key.pair,
        );
        let leaf = params("leaf", now, false).signed_by(&leaf_key.pair, &issuer);
        let leaf = Issuer {
            certificate: leaf.unwrap(),
            key: leaf_key,
        };
        let expired_key = Key::new("ES256");
        let mut expired = params("expired", now, false);
        expired.not_after = time(now - DAY_SECS);
        let expired = Issuer {
            certificate: expired.self_signed(&expired_key.pair).unwrap(),
            key: expired_key,
        };
        Self {
            now,
            rsa: Issuer::new("RS256", "RSA", now),
            p256: Issuer::new("ES256", "P-256", now),
            p256_other: Issuer::new("ES256", "another P-256", now),
            p384: Issuer::new("ES384", "P-384", now),
            p521: Issuer::new("ES512", "P-521", now),
            ed25519: Issuer::new("EdDSA", "Ed25519", now),
            expired,
            leaf,
            authority: trusted_authority,
            stranger: Issuer::new("ES256", "a stranger", now),
            namesake: authority(Key::new("ES256")),
        }
    }

    /// The PEM text of a bundle.
    pub(super) fn bundle_pem(&self, bundle: Bundle) -> String {
        let usual = [
            &self.rsa,
            &self.p256,
            &self.p256_other,
            &self.p384,
            &self.p521,
            &self.authority,
        ];
        let issuers: &[&Issuer] = match bundle {
            Bundle::Usual => &usual,
            Bundle::Expired => &[&self.expired],
            Bundle::WithEd25519 => &[&self.ed25519, &self.p256],
        };
        let pem = |issuer: &&Issuer| issuer.certificate.pem();
        issuers.iter().map(pem).collect()
    }
}
