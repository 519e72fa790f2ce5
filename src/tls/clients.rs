//! Certificates of clients: `http.tls.clientcas` and `http.tls.clientauth`.
//!
//! Must not know accounts: a client's certificate opens the connection and nothing else, as in distribution. Invariant: where
//! certificates are required, no connection without one gets past its handshake.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::TlsError;
use super::files;
use crate::clock::Clock;

/// Which clients may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// `http.tls.clientcas`: the certificates of their authorities, as PEM.
    pub authorities: Vec<PathBuf>,
    /// `http.tls.clientauth`
    pub asks_for: ClientCertificate,
}

/// What is asked of a client, by distribution's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// `request-client-cert`: any certificate, or none.
    Requested,
    /// `require-any-client-cert`: any certificate.
    Any,
    /// `verify-client-cert-if-given`: one that an authority has issued, or none.
    VerifiedIfGiven,
    /// `require-and-verify-client-cert`: one that an authority has issued.
    Verified,
}

/// What checks the certificates of clients.
pub(super) fn verifier(
    clients: &Clients,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut authorities = RootCertStore::empty();
    for path in &clients.authorities {
        for certificate in files::read_certificates(path)? {
            authorities
                .add(certificate)
                .map_err(|source| TlsError::ClientAuthority {
                    path: path.clone(),
                    source,
                })?;
        }
    }
    let builder =
        || WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(provider));
    Ok(match clients.asks_for {
        ClientCertificate::Verified => builder().build()?,
        ClientCertificate::VerifiedIfGiven => builder().allow_unauthenticated().build()?,
        ClientCertificate::Requested => AnyCertificate::new(provider, false),
        ClientCertificate::Any => AnyCertificate::new(provider, true),
    })
}

/// Takes every certificate whose key the client holds.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
    is_required: bool,
}

impl AnyCertificate {
    fn new(provider: &Arc<CryptoProvider>, is_required: bool) -> Arc<Self> {
        Arc::new(Self {
            provider: Arc::clone(provider),
            is_required,
        })
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// The time by which certificates of clients are judged.
pub(super) struct TimeOf(pub(super) Arc<dyn Clock>);

impl TimeProvider for TimeOf {
    fn current_time(&self) -> Option<UnixTime> {
        let since = std::time::Duration::from_secs(self.0.unix_secs());
        Some(UnixTime::since_unix_epoch(since))
    }
}

impl fmt::Debug for TimeOf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TimeOf")
    }
}
