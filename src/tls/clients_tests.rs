//! Which clients get past the handshake, by `http.tls.clientauth`.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::ClientConnection;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ServerConnection;
use rustls::{ClientConfig, RootCertStore};

use super::tests::{Lab, START};
use super::*;

const YEAR: Duration = Duration::from_hours(365 * 24);

struct Authority {
    key: rcgen::KeyPair,
    params: rcgen::CertificateParams,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = params(name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self { key, params }
    }

    fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    /// A client's certificate and key.
    fn issue(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = params("client");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (certificate.der().clone(), key)
    }
}

/// Valid for a year on the clock of the lab.
fn params(name: &str) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let start = time::OffsetDateTime::from_unix_timestamp(i64::try_from(START).unwrap()).unwrap();
    (params.not_before, params.not_after) = (start, start + YEAR);
    params
}

/// Whether a client with this certificate gets past the handshake.
fn connects(
    lab: &Lab,
    tls: &Tls,
    certificate: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> bool {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(lab.path("ca.crt")).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let time = Arc::new(clients::TimeOf(Arc::new(lab.clock.clone())));
    let client = ClientConfig::builder_with_details(provider, time)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let client = match certificate {
        Some((certificate, key)) => client
            .with_client_auth_cert(vec![certificate], key)
            .unwrap(),
        None => client.with_no_client_auth(),
    };
    let name = ServerName::try_from("lab1.local").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(tls.server_config(true, &[], None)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut io::Cursor::new(wire)).unwrap();
        if server.process_new_packets().is_err() {
            return false;
        }
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut io::Cursor::new(wire)).unwrap();
        client.process_new_packets().unwrap();
    }
    true
}

fn opened(lab: &Lab, asks_for: ClientCertificate) -> Result<Tls, TlsError> {
    lab.open_with(&Settings::Files {
        certificate: lab.path("keys/tls.crt"),
        key: lab.path("keys/tls.key"),
        minimum: MinimumVersion::Tls12,
        offers: Offers::default(),
        clients: Some(Clients {
            authorities: vec![lab.path("clients.crt")],
            asks_for,
        }),
    })
}

fn server(lab: &Lab, asks_for: ClientCertificate) -> Tls {
    opened(lab, asks_for).unwrap()
}

#[test]
fn each_word_takes_the_clients_that_it_says() {
    let (trusted, stranger) = (Authority::new("trusted"), Authority::new("stranger"));
    for (asks_for, with_none, with_strange, with_trusted) in [
        (ClientCertificate::Requested, true, true, true),
        (ClientCertificate::Any, false, true, true),
        (ClientCertificate::VerifiedIfGiven, true, false, true),
        (ClientCertificate::Verified, false, false, true),
    ] {
        let lab = Lab::new();
        lab.open();
        fs::write(lab.path("clients.crt"), trusted.pem()).unwrap();
        let tls = server(&lab, asks_for);
        assert_eq!(connects(&lab, &tls, None), with_none, "{asks_for:?}");
        let strange = connects(&lab, &tls, Some(stranger.issue()));
        assert_eq!(strange, with_strange, "{asks_for:?}");
        let known = connects(&lab, &tls, Some(trusted.issue()));
        assert_eq!(known, with_trusted, "{asks_for:?}");
    }
}

#[test]
fn a_clients_certificate_ends_by_the_clock() {
    let trusted = Authority::new("trusted");
    let lab = Lab::new();
    lab.open();
    fs::write(lab.path("clients.crt"), trusted.pem()).unwrap();
    let tls = server(&lab, ClientCertificate::Verified);
    assert!(connects(&lab, &tls, Some(trusted.issue())));
    lab.clock.advance(YEAR + Duration::from_hours(1));
    assert!(!connects(&lab, &tls, Some(trusted.issue())));
}

#[test]
fn a_file_without_an_authority_is_refused() {
    let lab = Lab::new();
    lab.open();
    for text in ["", "nothing"] {
        fs::write(lab.path("clients.crt"), text).unwrap();
        let opened = opened(&lab, ClientCertificate::Verified);
        assert!(matches!(opened, Err(TlsError::Pem { .. })), "{text}");
    }
}
