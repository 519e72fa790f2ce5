//! PEM files: read with errors that name them, written so that they are there whole or not at all.
//!
//! Invariant: a private key is never readable by others, not even while it is written.

use std::fs;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::TlsError;
use crate::durable_file;

/// Anyone may read the authority's certificate.
pub(super) const PUBLIC: u32 = 0o644;
/// Only its owner may read what lies in `keys/`.
pub(super) const PRIVATE: u32 = 0o600;

/// The certificates of a PEM file, at least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let pem_error = |source| TlsError::Pem {
        path: path.to_owned(),
        wanted: "certificate",
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(pem_error)?;
    if certificates.is_empty() {
        return Err(pem_error(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

/// The parsed form of a certificate that was read from `path`.
pub(super) fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
    path: &Path,
) -> Result<X509Certificate<'a>, TlsError> {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => Ok(parsed),
        Err(error) => Err(TlsError::Malformed {
            path: path.to_owned(),
            what: "certificate",
            source: error.to_string().into(),
        }),
    }
}

/// The private key of a PEM file: PKCS #8, PKCS #1 or SEC1.
pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        wanted: "private key",
        source,
    })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// `NAME.ENDING` for the first, whose number is 0, `NAME-2.ENDING` for the second.
pub(super) fn numbered(name: &str, number: usize, ending: &str) -> String {
    match number {
        0 => format!("{name}.{ending}"),
        more => format!("{name}-{}.{ending}", more + 1),
    }
}

/// Writes `text` to `path`, there whole or not at all.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    durable_file::replace(path, text.as_bytes(), mode).map_err(|source| TlsError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Makes a directory that only its owner may enter; one that is there is closed to others.
pub(super) fn make_private_directory(path: &Path) -> Result<(), TlsError> {
    durable_file::make_private_directory(path).map_err(|source| TlsError::Write {
        path: path.to_owned(),
        source,
    })
}
