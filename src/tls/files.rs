//! PEM files: read with errors that name them, written so that they are there whole or not at all.
//!
//! Invariant: a private key is never readable by others, not even while it is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

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

/// Writes `text` to `path` under a temporary name, and gives it its name once it is on disk.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let write = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let temporary = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        // The mode above is cut by the umask, and a file left by a crash keeps the mode it had.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| TlsError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Makes a directory that only its owner may enter; one that is there is closed to others.
pub(super) fn make_private_directory(path: &Path) -> Result<(), TlsError> {
    let make = || -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path)?;
        if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    };
    make().map_err(|source| TlsError::Write {
        path: path.to_owned(),
        source,
    })
}
