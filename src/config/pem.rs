//! Looks at the certificates and keys that a configuration names, so that a wrong path is found by `check` and not at start.
//!
//! Must not keep keys, nor say anything of what they hold.

use std::path::Path;
use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use super::reader::Reader;
use super::users_file::read_text;
use crate::auth::SigningKeyPem;

/// The pair must be readable, and the key the certificate's. Returns the key's algorithm and the texts.
pub(super) fn check_pair(
    reader: &mut Reader<'_>,
    (certificate_key, certificate): (&str, &Path),
    (key_key, key): (&str, &Path),
) -> Option<(SignatureAlgorithm, SigningKeyPem)> {
    if !reader.looks_at_certificates {
        return None;
    }
    let chain = certificates(reader, certificate_key, certificate);
    let key = signing_key(reader, key_key, key);
    let ((certificate_pem, chain), (key_pem, key)) = (chain?, key?);
    let algorithm = key.algorithm();
    if let Err(rustls::Error::InconsistentKeys(_)) = CertifiedKey::new(chain, key).keys_match() {
        reader.refuse(
            key_key,
            "not the key of the certificate",
            &format!("{certificate_key} and {key_key} must belong together"),
        );
    }
    let pem = SigningKeyPem {
        certificate_pem,
        key_pem,
    };
    Some((algorithm, pem))
}

/// The text of a file of certificates, and the certificates.
pub(super) fn certificates(
    reader: &mut Reader<'_>,
    key: &str,
    path: &Path,
) -> Option<(String, Vec<CertificateDer<'static>>)> {
    let text = readable(reader, key, path)?;
    let certificates: Option<Vec<_>> = CertificateDer::pem_slice_iter(text.as_bytes())
        .map(|certificate| {
            let certificate = certificate.ok()?;
            x509_parser::parse_x509_certificate(&certificate).ok()?;
            Some(certificate)
        })
        .collect();
    match certificates {
        Some(certificates) if !certificates.is_empty() => Some((text, certificates)),
        _ => {
            reader.refuse(
                key,
                "the file holds no certificate that can be read",
                "it must be PEM: `-----BEGIN CERTIFICATE-----`",
            );
            None
        }
    }
}

fn signing_key(
    reader: &mut Reader<'_>,
    key: &str,
    path: &Path,
) -> Option<(String, Arc<dyn SigningKey>)> {
    let text = readable(reader, key, path)?;
    let signing_key = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .ok()
        .and_then(|key| any_supported_type(&key).ok());
    if signing_key.is_none() {
        reader.refuse(
            key,
            "the file holds no private key that can be used",
            "it must be PEM, unencrypted: RSA, or EC on P-256, P-384 or P-521",
        );
    }
    Some((text, signing_key?))
}

fn readable(reader: &mut Reader<'_>, key: &str, path: &Path) -> Option<String> {
    match read_text(path) {
        Ok(text) => Some(text),
        Err(error) => {
            reader.refuse(
                key,
                &format!("{}: {}", path.display(), error.message),
                error.hint.as_deref().unwrap_or("check the path"),
            );
            None
        }
    }
}
