//! What can go wrong with certificates.
//!
//! Each message says what happened and where; a `hint:` line says what to do. Invariant: none carries key material.

use std::io;
use std::path::PathBuf;

use crate::clock::ClockIsBehind;

/// Why certificates cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are those that the message names")]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// A file holds no PEM block of the kind that is needed.
    #[error("{} does not hold a {wanted} in PEM", path.display())]
    Pem {
        path: PathBuf,
        wanted: &'static str,
        source: rustls::pki_types::pem::Error,
    },
    /// A file is PEM, but what is in it cannot be understood.
    #[error("the {what} in {} is damaged", path.display())]
    Malformed {
        path: PathBuf,
        what: &'static str,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate that no TLS library shows to clients.
    #[error(
        "the certificate in {} cannot be used by a server\nhint: it must be of X.509 version 3, with its names in \
         subjectAltName; `boathouse check` says what is wrong",
        certificate.display()
    )]
    Unusable {
        certificate: PathBuf,
        source: rustls::Error,
    },
    /// A private key is not the one of its certificate.
    #[error(
        "the key in {} does not belong to the certificate in {}\nhint: {hint}",
        key.display(), certificate.display()
    )]
    Mismatch {
        certificate: PathBuf,
        key: PathBuf,
        hint: &'static str,
    },
    /// A certificate authority without its key can sign nothing.
    #[error(
        "{} holds the certificate of an authority whose key {} is missing\nhint: restore the key from a backup, or make a new \
         authority with `boathouse up --new-ca` (every client must then trust that)",
        certificate.display(), key.display()
    )]
    AuthorityKeyMissing { certificate: PathBuf, key: PathBuf },
    /// The authority has gone while the program runs.
    #[error("{} is missing\nhint: restore it from a backup, or restart to have a new authority made (every client must then trust that)", path.display())]
    AuthorityGone { path: PathBuf },
    /// What would be made now would be dated wrongly, and every client would have to trust another one later.
    #[error("no certificate authority can be made now")]
    ClockIsBehind(#[from] ClockIsBehind),
    /// The authority is from the future.
    #[error(
        "the certificate authority in {} is not valid yet, so the clock of this machine is wrong\nhint: set the clock (for \
         example `timedatectl set-ntp true`), check with `date`, and start again",
        path.display()
    )]
    AuthorityNotYetValid { path: PathBuf },
    /// The authority's time is over.
    #[error(
        "the certificate authority in {} has expired\nhint: make a new one with `boathouse up --new-ca` (every client must \
         then trust that)",
        path.display()
    )]
    AuthorityExpired { path: PathBuf },
    /// A configured host is neither a DNS name nor an address.
    #[error(
        "`{host}` is neither a host name nor an IP address\nhint: write it without scheme, port and path, for example \
         `registry.lab.example` or `10.0.0.5`"
    )]
    Host { host: String },
    /// A certificate cannot be made.
    #[error("cannot make a certificate")]
    Generate(#[from] rcgen::Error),
    /// Clients would not accept the certificate that was made.
    #[error("the certificate that {} signs is not one that clients accept\nhint: make a new authority with `boathouse up --new-ca`", authority.display())]
    Unacceptable {
        authority: PathBuf,
        source: rustls::Error,
    },
    /// A certificate in `http.tls.clientcas` is not one of an authority.
    #[error("a certificate in {} is not that of an authority", path.display())]
    ClientAuthority {
        path: PathBuf,
        source: rustls::Error,
    },
    /// Nobody could connect, or everybody.
    #[error("certificates of clients cannot be checked")]
    ClientVerifier(#[from] rustls::server::VerifierBuilderError),
    /// The TLS library refuses.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}
