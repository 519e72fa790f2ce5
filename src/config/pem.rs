//! Looks at the certificates and keys that a configuration names, so that a wrong path is found by `check` and not at start.
//!
//! Must not keep keys, nor say anything of what they hold.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::prelude::X509Version;

use super::error::shell_word;
use super::key::{Key, OptionalPath};
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

/// The two files that hold a key that signs, or may sign, tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPair {
    /// What verifiers of its tokens trust.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The algorithm of a key, and the texts of both files. `None` if they cannot be read, which is an error, or are not to be
/// read now.
type Content = Option<(SignatureAlgorithm, SigningKeyPem)>;

/// The pair that two keys name.
pub(super) struct Pair {
    pub(super) files: TokenPair,
    pub(super) content: Content,
}

/// The pair at two keys, read by `check`; one without the other is an error.
pub(super) fn pair(
    reader: &mut Reader<'_>,
    certificate: &Key<OptionalPath>,
    key: &Key<OptionalPath>,
    check: impl FnOnce(&mut Reader<'_>, (&str, &str), &TokenPair) -> Content,
) -> Option<Pair> {
    let keys = (certificate.path, key.path);
    let (present, missing) = match (reader.get(certificate), reader.get(key)) {
        (None, None) => return None,
        (Some(certificate), Some(key)) => {
            let files = TokenPair { certificate, key };
            let content = check(reader, keys, &files);
            return Some(Pair { files, content });
        }
        (Some(_), None) => keys,
        (None, Some(_)) => (keys.1, keys.0),
    };
    reader.refuse(present, &format!("given without {missing}"), "give both");
    None
}

/// [`check_pair`] for the pair that signs tokens. A pair that does not exist is one error, with the command that makes it;
/// half a pair is never completed: another key could not sign what the certificate vouches for.
pub(super) fn check_token_pair(
    reader: &mut Reader<'_>,
    (certificate_key, key_key): (&str, &str),
    pair: &TokenPair,
) -> Option<(SignatureAlgorithm, SigningKeyPem)> {
    let TokenPair { certificate, key } = pair;
    if !reader.looks_at_certificates {
        return None;
    }
    let command = make_token_key_command(reader);
    let (certificate_shown, key_shown) = (certificate.display(), key.display());
    match (is_missing(certificate), is_missing(key)) {
        (false, false) => {
            return check_pair(reader, (certificate_key, certificate), (key_key, key));
        }
        (true, true) => reader.refuse(
            certificate_key,
            &format!("{certificate_shown} and the key {key_shown} do not exist, so no token can be signed"),
            &format!("bring them from the old token server, or make them: {command}"),
        ),
        (true, false) => reader.refuse(
            certificate_key,
            &format!("{certificate_shown} does not exist, but its key {key_shown} does"),
            &format!(
                "restore the certificate; or, for a new pair, move the key away, then: {command} (every registry that checks its tokens needs the new certificate)"
            ),
        ),
        (false, true) => reader.refuse(
            key_key,
            &format!("{key_shown} does not exist, but its certificate {certificate_shown} does"),
            &format!(
                "restore the key; or, for a new pair, move the certificate away, then: {command} (every registry that checks its tokens needs the new certificate)"
            ),
        ),
    }
    None
}

/// The certificates that vouch for tokens of others. If the file is the certificate of our own pair and does not exist,
/// [`check_token_pair`] has said so.
pub(super) fn trusted_certificates(
    reader: &mut Reader<'_>,
    key: &str,
    path: &Path,
    own: Option<&TokenPair>,
) -> Option<String> {
    if is_missing(path) {
        if own.is_none_or(|own| own.certificate != path) {
            reader.refuse(
                key,
                &format!("{}: no such file", path.display()),
                "copy the token server's certificate here: in docker_auth's auth_config.yml, token.certificate names it (else server.certificate)",
            );
        }
        return None;
    }
    certificates(reader, key, path).map(|(text, _)| text)
}

/// What makes the pair that the files of this configuration name.
fn make_token_key_command(reader: &Reader<'_>) -> String {
    let mut command = "boathouse token-key make".to_owned();
    for file in reader.files {
        command.push_str(" --config ");
        command.push_str(&shell_word(&file.to_string_lossy()));
    }
    command
}

/// What cannot be looked at may be there: reading it says why.
fn is_missing(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    })
}

/// What a server can show to clients at all, and what they will think of it.
pub(super) fn check_server_certificate(reader: &mut Reader<'_>, key: &str, path: &Path) {
    if !reader.looks_at_certificates {
        return;
    }
    // What cannot be read was refused as a pair.
    let Some(leaf) = read_text(path)
        .ok()
        .and_then(|text| CertificateDer::pem_slice_iter(text.as_bytes()).next()?.ok())
    else {
        return;
    };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&leaf) else {
        return;
    };
    let path = path.display();
    if parsed.version() != X509Version::V3 {
        reader.refuse(
            key,
            &format!(
                "{path}: this certificate is of X.509 version {}; TLS libraries of today take version 3 only",
                parsed.version().0.saturating_add(1)
            ),
            "make it again with extensions: `openssl x509 -req … -extfile FILE`, where FILE holds `subjectAltName=DNS:NAME`; or remove `http.tls` and write `tls: auto`",
        );
        return;
    }
    if let Err(error) = ParsedCertificate::try_from(&leaf) {
        reader.refuse(
            key,
            &format!("{path}: this certificate cannot be used by a server ({error})"),
            "make it again; or remove `http.tls` and write `tls: auto`",
        );
        return;
    }
    if parsed.subject_alternative_name().ok().flatten().is_none() {
        reader.warn(
            key,
            &format!("{path}: this certificate has no subjectAltName, and clients of today look for the host's name nowhere else; `-addext subjectAltName=DNS:NAME` adds it"),
        );
    }
    if parsed.is_ca() && parsed.subject() == parsed.issuer() {
        reader.notes.push(format!(
            "{key}: {path} is self-signed and may sign others; where it is trusted, docker, podman, skopeo and other Go or OpenSSL clients accept it, and clients built on rustls do not"
        ));
    }
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

/// Whether a file begins as every certificate and key in DER does: with an ASN.1 sequence.
fn is_der(path: &Path) -> bool {
    let mut first = [0];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut first));
    read.is_ok() && first == [0x30]
}

pub(super) fn readable(reader: &mut Reader<'_>, key: &str, path: &Path) -> Option<String> {
    match read_text(path) {
        Ok(text) => Some(text),
        Err(_) if is_der(path) => {
            reader.refuse(
                key,
                &format!("{}: a DER file, not a PEM file", path.display()),
                "convert it: `openssl x509 -inform der -in FILE -out FILE.pem` for a certificate, `openssl pkey` for a key",
            );
            None
        }
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
