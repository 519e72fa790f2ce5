//! Our own token key: reading it, making it, signing with it.
//!
//! Must not know claims. Invariant: the private key leaves this module only in the PEM of a key that was just made.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::SetupError;
use super::keys::{PublicKey, TokenAlgorithm, certificates_of_pem};
use super::settings::SigningKeyPem;
use crate::clock::Clock;

/// Registries that trust our certificate keep it for years; nothing revokes it but its removal there.
const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(20 * 365 * 24);

/// Clocks of other machines may be behind ours.
const CERTIFICATE_BACKDATED: Duration = Duration::from_hours(24);

/// A key that signs tokens.
pub(super) struct SigningKey {
    signer: Signer,
    public_key: PublicKey,
    /// Base64 of the certificate and those that issued it: the header's `x5c`.
    pub x5c: Vec<String>,
    /// The certificate itself.
    pub certificate_der: Vec<u8>,
}

enum Signer {
    Jwt(EncodingKey, Algorithm),
    P521(Arc<EcdsaKeyPair>),
}

impl SigningKey {
    /// Reads key and certificate, and tries whether they belong together.
    pub(super) fn from_pem(pem: &SigningKeyPem) -> Result<Self, SetupError> {
        let certificates = certificates_of_pem(&pem.certificate_pem)?;
        let certificate_der = certificates.first().ok_or(SetupError::Certificate)?;
        let (_, certificate) =
            X509Certificate::from_der(certificate_der).map_err(|_| SetupError::Certificate)?;
        let public_key = PublicKey::of_certificate(&certificate).ok_or(SetupError::KeyKind)?;
        let signer = read_private_key(&pem.key_pem, public_key.algorithm())?;
        let key = Self {
            signer,
            x5c: certificates
                .iter()
                .map(|der| STANDARD.encode(der))
                .collect(),
            certificate_der: certificate_der.clone(),
            public_key,
        };
        let trial = key.sign(b"trial").map_err(|()| SetupError::Key)?;
        if key
            .public_key
            .verify_token(key.algorithm(), b"trial", &trial)
        {
            Ok(key)
        } else {
            Err(SetupError::KeyMismatch)
        }
    }

    /// Its algorithm.
    pub(super) fn algorithm(&self) -> TokenAlgorithm {
        self.public_key.algorithm()
    }

    /// Its public half.
    pub(super) fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The signature of `message`, base64url.
    pub(super) fn sign(&self, message: &[u8]) -> Result<String, ()> {
        match &self.signer {
            Signer::Jwt(key, algorithm) => {
                jsonwebtoken::crypto::sign(message, key, *algorithm).map_err(|_| ())
            }
            Signer::P521(key) => key
                .sign(&SystemRandom::new(), message)
                .map(|signed| URL_SAFE_NO_PAD.encode(signed))
                .map_err(|_| ()),
        }
    }
}

fn read_private_key(pem: &str, algorithm: TokenAlgorithm) -> Result<Signer, SetupError> {
    let block = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes())
        .filter_map(Result::ok)
        .find(|block| block.label.ends_with("PRIVATE KEY"))
        .ok_or(SetupError::Key)?;
    let der = block.contents.as_slice();
    if let TokenAlgorithm::Rsa(rsa) = algorithm {
        let der = match block.label.as_str() {
            "RSA PRIVATE KEY" => der.to_vec(),
            _ => inside_pkcs8(der).ok_or(SetupError::Key)?,
        };
        return Ok(Signer::Jwt(EncodingKey::from_rsa_der(&der), rsa));
    }
    let (curve, jwt) = match algorithm {
        TokenAlgorithm::Es384 => (&ECDSA_P384_SHA384_FIXED_SIGNING, Some(Algorithm::ES384)),
        TokenAlgorithm::Es512 => (&ECDSA_P521_SHA512_FIXED_SIGNING, None),
        TokenAlgorithm::Es256 | TokenAlgorithm::Rsa(_) => {
            (&ECDSA_P256_SHA256_FIXED_SIGNING, Some(Algorithm::ES256))
        }
    };
    // Takes PKCS#8 and SEC1 alike; jsonwebtoken wants PKCS#8.
    let key = EcdsaKeyPair::from_private_key_der(curve, der).map_err(|_| SetupError::Key)?;
    match jwt {
        Some(jwt) => {
            let pkcs8 = key.to_pkcs8v1().map_err(|_| SetupError::Key)?;
            Ok(Signer::Jwt(EncodingKey::from_ec_der(pkcs8.as_ref()), jwt))
        }
        None => Ok(Signer::P521(Arc::new(key))),
    }
}

/// The key within `SEQUENCE { version, algorithm, OCTET STRING }`.
fn inside_pkcs8(der: &[u8]) -> Option<Vec<u8>> {
    let (_, object) = x509_parser::der_parser::parse_der(der).ok()?;
    let key = object.as_sequence().ok()?.get(2)?;
    Some(key.as_slice().ok()?.to_vec())
}

/// Makes a token key (P-256) and a certificate for it that real registries accept in their bundle: self-signed, not a CA,
/// with a subject of its own.
pub fn make_token_key(clock: &dyn Clock) -> Result<SigningKeyPem, SetupError> {
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
    subject.push(rcgen::DnType::CommonName, "Boathouse token issuer");
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
