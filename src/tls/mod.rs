//! Certificates: our own authority and leaf, or the user's files; reloaded without dropping a request.
//!
//! Must not know HTTP.
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Clock;

/// Where certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// Plain HTTP.
    None,
    /// The user's own (`http.tls.certificate`, `http.tls.key`, minimum version 1.2 or 1.3).
    Files {
        certificate: PathBuf,
        key: PathBuf,
        minimum: MinimumVersion,
    },
    /// `tls: auto` or `tls: {hosts: […]}`.
    Automatic {
        /// `ca.crt`
        ca_certificate: PathBuf,
        /// `keys/`: `ca.key`, `tls.crt`, `tls.key`
        keys_directory: PathBuf,
        /// Configured extra names and addresses.
        hosts: Vec<String>,
    },
}

/// `http.tls.minimumtls`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinimumVersion {
    Tls12,
    Tls13,
}

pub struct Tls {}

impl Tls {
    /// Reads or makes what is needed. `None` for plain HTTP.
    pub fn open(_settings: &Settings, _clock: Arc<dyn Clock>) -> Result<Option<Self>, TlsError> {
        todo!()
    }
    /// For the acceptor; follows reloads by itself. ALPN h2 and http/1.1 (only http/1.1 if `http2` is false).
    pub fn server_config(&self, _http2: bool) -> Arc<rustls::ServerConfig> {
        todo!()
    }
    /// Our own CA certificate, for `GET /ca.crt`; `None` with the user's files.
    pub fn authority_pem(&self) -> Option<Arc<str>> {
        todo!()
    }
    /// SHA-256 of the CA certificate, `AB:CD:…`.
    pub fn authority_fingerprint(&self) -> Option<String> {
        todo!()
    }
    /// Reads the files again; keeps the old ones on an error.
    pub fn reload(&self) -> Result<(), TlsError> {
        todo!()
    }
    /// Hourly: renews or remakes the leaf when due. Never returns.
    pub async fn keep_fresh(&self) {
        todo!()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct TlsError;
