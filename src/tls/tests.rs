//! What clients see of the certificates, in real handshakes in memory.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proptest::prelude::*;
use rustls::client::ClientConnection;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ServerConnection;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::authority::Authority;
use super::machine::Machine;
use super::*;
use crate::clock::ManualClock;

pub(super) const START: u64 = 1_800_000_000;
const DAY: Duration = Duration::from_hours(24);

/// A machine in a temporary directory, whose clock and addresses the test decides.
pub(super) struct Lab {
    directory: tempfile::TempDir,
    pub(super) clock: ManualClock,
    pub(super) machine: Arc<Mutex<Machine>>,
}

impl Lab {
    pub(super) fn new() -> Self {
        let machine = Machine {
            short_name: "lab1".into(),
            full_name: Some("lab1.corp.example".into()),
            addresses: vec![
                "192.168.64.1".parse().unwrap(),
                "2001:db8::5".parse().unwrap(),
            ],
        };
        Self {
            directory: tempfile::tempdir().unwrap(),
            clock: ManualClock::at_unix_secs(START),
            machine: Arc::new(Mutex::new(machine)),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn settings(&self, hosts: &[&str]) -> Settings {
        Settings::Automatic {
            ca_certificate: self.path("ca.crt"),
            keys_directory: self.path("keys"),
            hosts: hosts.iter().copied().map(str::to_owned).collect(),
        }
    }

    pub(super) fn open_with(&self, settings: &Settings) -> Result<Tls, TlsError> {
        let machine = self.machine.clone();
        let machine = move || {
            machine
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        };
        Tls::open_on(settings, Arc::new(self.clock.clone()), Box::new(machine))
            .map(|tls| tls.expect("not plain HTTP"))
    }

    pub(super) fn open(&self) -> Tls {
        self.open_with(&self.settings(&[])).expect("certificates")
    }

    /// The chain that a client of `name` accepts, which trusts only the authorities in the file `authority`.
    pub(super) fn chain(
        &self,
        server: &Arc<ServerConfig>,
        authority: &Path,
        name: &str,
    ) -> Result<Vec<CertificateDer<'static>>, rustls::Error> {
        let provider = aws_lc_rs::default_provider();
        let client = self.connect(server, authority, name, provider)?;
        let chain = client.peer_certificates().unwrap();
        Ok(chain
            .iter()
            .cloned()
            .map(CertificateDer::into_owned)
            .collect())
    }

    /// A client of `name` that offers what `provider` has, after its handshake.
    fn connect(
        &self,
        server: &Arc<ServerConfig>,
        authority: &Path,
        name: &str,
        provider: CryptoProvider,
    ) -> Result<ClientConnection, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_file_iter(authority).unwrap() {
            roots.add(authority.unwrap()).unwrap();
        }
        let provider = Arc::new(provider);
        let time = Arc::new(FixedTime(self.clock.clone()));
        let mut client = ClientConfig::builder_with_details(provider, time)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(server.clone())?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut io::Cursor::new(wire)).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut io::Cursor::new(wire)).unwrap();
            client.process_new_packets()?;
        }
        assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
        Ok(client)
    }

    pub(super) fn accepts(&self, tls: &Tls, name: &str) -> bool {
        self.chain(
            &tls.server_config(true, &[], None),
            &self.path("ca.crt"),
            name,
        )
        .is_ok()
    }

    pub(super) fn first_authority(&self) -> Authority {
        let now = self.clock.now().into();
        let all = Authority::read_all(&self.path("ca.crt"), &self.path("keys"), now);
        all.unwrap().swap_remove(0)
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }
}

#[derive(Debug)]
struct FixedTime(ManualClock);

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            self.0.unix_secs(),
        )))
    }
}

#[test]
fn a_client_that_trusts_the_authority_accepts_every_name_of_the_machine() {
    let lab = Lab::new();
    let tls = lab
        .open_with(&lab.settings(&["registry.lab.example", "198.51.100.7"]))
        .unwrap();
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "lab1.local",
        "lab1.corp.example",
        "192.168.64.1",
        "registry.lab.example",
        "198.51.100.7",
    ] {
        let chain = lab.chain(
            &tls.server_config(true, &[], None),
            &lab.path("ca.crt"),
            name,
        );
        assert_eq!(chain.expect(name).len(), 2, "leaf and authority");
    }
    for name in [
        "other.local",
        "example.com",
        "192.168.64.2",
        "2001:db8::5",
        "x.lab1",
    ] {
        assert!(!lab.accepts(&tls, name), "{name}");
    }
    assert_eq!(lab.mode("ca.crt"), 0o644);
    assert_eq!(lab.mode("keys"), 0o700);
    for file in ["keys/ca.key", "keys/tls.key", "keys/tls.crt"] {
        assert_eq!(lab.mode(file), 0o600, "{file}");
    }
}

#[test]
fn a_name_outside_the_constraints_is_refused_even_when_the_authority_signs_it() {
    let lab = Lab::new();
    lab.open();
    let authority = lab.first_authority();
    let key = rcgen::KeyPair::generate().unwrap();
    let names = ["localhost".to_owned(), "example.com".to_owned()];
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(&key, &authority.issuer).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let pair = CertifiedKey::from_der(vec![leaf.der().clone()], key.into(), &provider).unwrap();
    let current = Current {
        first: Leaf::new(pair),
        others: Vec::new(),
        authorities: None,
        authority_ends: Vec::new(),
    };
    let served = Arc::new(Served(ArcSwap::from_pointee(current)));
    let config = server_config(MinimumVersion::Tls12, &provider, None, served).unwrap();
    for name in ["example.com", "localhost"] {
        let refusal = lab
            .chain(&Arc::new(config.clone()), &lab.path("ca.crt"), name)
            .unwrap_err();
        assert!(
            format!("{refusal:?}").contains("NameConstraintViolation"),
            "{refusal:?}"
        );
    }
}

#[test]
fn the_quickest_cipher_is_taken_unless_the_client_has_no_instructions_for_it() {
    let lab = Lab::new();
    let tls = lab.open();
    let suites = aws_lc_rs::default_provider().cipher_suites;
    let of = |name: CipherSuite| *suites.iter().find(|suite| suite.suite() == name).unwrap();
    let aes_256 = of(CipherSuite::TLS13_AES_256_GCM_SHA384);
    let aes_128 = of(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let chacha20 = of(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    for (offered, taken) in [
        (vec![aes_256, aes_128, chacha20], aes_128),
        (vec![aes_256, chacha20, aes_128], aes_128),
        (vec![aes_256], aes_256),
        (vec![chacha20, aes_256, aes_128], chacha20),
        (vec![chacha20], chacha20),
    ] {
        let names: Vec<CipherSuite> = offered.iter().map(SupportedCipherSuite::suite).collect();
        // Ours may begin with what nobody knows.
        let names = [&[CipherSuite::from(0x0a0a)], &*names].concat();
        let server = tls.server_config(true, &names, None);
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = offered;
        let client = lab.connect(&server, &lab.path("ca.crt"), "localhost", provider);
        let agreed = client.unwrap().negotiated_cipher_suite().unwrap();
        assert_eq!(agreed.suite(), taken.suite(), "{names:?}");
    }
}

#[test]
fn a_second_start_keeps_everything() {
    let lab = Lab::new();
    let first = lab.open().fingerprints();
    let leaf = fs::read(lab.path("keys/tls.crt")).unwrap();
    assert_eq!(lab.open().fingerprints(), first);
    assert_eq!(fs::read(lab.path("keys/tls.crt")).unwrap(), leaf);
}

#[test]
fn a_first_run_that_ended_half_way_is_completed() {
    let lab = Lab::new();
    lab.open();
    let key = fs::read(lab.path("keys/ca.key")).unwrap();
    fs::remove_file(lab.path("ca.crt")).unwrap();
    let tls = lab.open();
    assert_eq!(fs::read(lab.path("keys/ca.key")).unwrap(), key);
    assert!(lab.accepts(&tls, "lab1.local"));
    for file in ["keys/tls.key", "keys/tls.crt"] {
        fs::remove_file(lab.path(file)).unwrap();
        assert!(lab.accepts(&lab.open(), "lab1.local"));
        fs::write(lab.path(file), "no PEM").unwrap();
        assert!(lab.accepts(&lab.open(), "lab1.local"));
    }
}

#[test]
fn an_authority_without_its_own_key_is_a_clear_error() {
    let (lab, other) = (Lab::new(), Lab::new());
    lab.open();
    other.open();
    fs::copy(other.path("keys/ca.key"), lab.path("keys/ca.key")).unwrap();
    let error = lab.open_with(&lab.settings(&[])).unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    fs::remove_file(lab.path("keys/ca.key")).unwrap();
    let error = lab.open_with(&lab.settings(&[])).unwrap_err();
    assert!(
        matches!(error, TlsError::AuthorityKeyMissing { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("hint: "));
}

#[test]
fn a_malformed_host_is_named() {
    let lab = Lab::new();
    let error = lab.open_with(&lab.settings(&["https://a.b"])).unwrap_err();
    assert!(error.to_string().starts_with("`https://a.b` is neither"));
}

#[test]
fn an_authority_that_goes_away_is_not_replaced_while_running() {
    let lab = Lab::new();
    let tls = lab.open();
    let (kept, away) = (lab.path("ca.crt"), lab.path("away"));
    fs::rename(&kept, &away).unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::AuthorityGone { .. })));
    assert!(
        lab.chain(&tls.server_config(true, &[], None), &away, "localhost")
            .is_ok()
    );
}

#[test]
fn an_authority_past_its_time_is_a_clear_error() {
    let lab = Lab::new();
    lab.open();
    lab.clock.advance(DAY * 21 * 365);
    let error = lab.open_with(&lab.settings(&[])).unwrap_err();
    assert!(
        matches!(error, TlsError::AuthorityExpired { .. }),
        "{error}"
    );
}

/// Waits until what is served differs from `before`, while the lab's clock moves on by `step` each time it looks.
async fn changed(
    lab: &Lab,
    config: &Arc<ServerConfig>,
    before: &CertificateDer<'_>,
    step: Duration,
) -> bool {
    for _ in 0..2_000 {
        lab.clock.advance(step);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let chain = lab.chain(config, &lab.path("ca.crt"), "localhost").unwrap();
        if chain[0] != *before {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn the_leaf_is_renewed_before_its_end_and_when_an_address_comes() {
    let lab = Lab::new();
    let tls = Arc::new(lab.open());
    // Taken once, as the acceptor does.
    let config = tls.server_config(true, &[], None);
    let leaf = || {
        lab.chain(&config, &lab.path("ca.crt"), "localhost")
            .unwrap()[0]
            .clone()
    };
    let first = leaf();
    let keeper = tls.clone();
    let keeper = tokio::spawn(async move { keeper.keep_fresh().await });
    tokio::task::yield_now().await;

    lab.machine
        .lock()
        .unwrap()
        .addresses
        .push("10.9.8.7".parse().unwrap());
    lab.clock.advance(Duration::from_hours(1));
    assert!(changed(&lab, &config, &first, Duration::ZERO).await);
    assert!(lab.accepts(&tls, "10.9.8.7"));

    // Made for 820 days from the day before: on day 788 it has more than 30 left, on day 790 fewer.
    let second = leaf();
    lab.clock.advance(DAY * 788);
    tls.reload().unwrap();
    assert_eq!(leaf(), second);
    lab.clock.advance(DAY * 2);
    // The keeper may begin its next hour only now.
    assert!(changed(&lab, &config, &second, Duration::from_hours(1)).await);
    keeper.abort();
}

#[test]
fn new_files_of_the_user_are_served_after_a_reload_and_bad_ones_are_not() {
    let (lab, other) = (Lab::new(), Lab::new());
    lab.open();
    other.open();
    let own = |lab: &Lab, name: &str| lab.path(&format!("keys/{name}"));
    let settings = Settings::Files {
        certificate: lab.path("own.crt"),
        key: lab.path("own.key"),
        minimum: MinimumVersion::Tls13,
        offers: Offers::default(),
        clients: None,
    };
    fs::copy(own(&lab, "tls.crt"), lab.path("own.crt")).unwrap();
    fs::copy(own(&lab, "tls.key"), lab.path("own.key")).unwrap();
    let tls = lab.open_with(&settings).unwrap();
    assert!(tls.authority_pem().is_none());
    let config = tls.server_config(true, &[], None);
    assert!(
        lab.chain(&config, &lab.path("ca.crt"), "lab1.local")
            .is_ok()
    );

    fs::copy(own(&other, "tls.crt"), lab.path("own.crt")).unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::Mismatch { .. })));
    fs::write(lab.path("own.crt"), "nothing").unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::Pem { .. })));
    assert!(
        lab.chain(&config, &lab.path("ca.crt"), "lab1.local")
            .is_ok()
    );

    fs::copy(own(&other, "tls.crt"), lab.path("own.crt")).unwrap();
    fs::copy(own(&other, "tls.key"), lab.path("own.key")).unwrap();
    tls.reload().unwrap();
    assert!(
        lab.chain(&config, &other.path("ca.crt"), "lab1.local")
            .is_ok()
    );
}

#[test]
fn the_fingerprint_is_that_of_the_file_that_people_get() {
    let lab = Lab::new();
    let tls = lab.open();
    let pem = tls.authority_pem().unwrap();
    assert_eq!(pem.as_bytes(), fs::read(lab.path("ca.crt")).unwrap());
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    assert_eq!(
        tls.fingerprints(),
        [certificates::fingerprint(&certificate)]
    );
    assert_eq!(certificates::fingerprint(&certificate).len(), 95);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// `leaf::make` ends in a client's verifier, so this holds our reading of the constraints against webpki's.
    #[test]
    fn what_we_permit_is_what_clients_permit(
        name in prop_oneof![
            "[a-z]{1,3}(\\.[a-z]{1,3})?\\.(local|example|localhost)",
            "(x\\.|y)?lab1(\\.corp(\\.example)?)?",
            any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
            "(10|127|172|192)\\.(16|32|168)\\.1\\.1",
            "(fd|fe|fc|20)[0-9a-f]{2}::[0-9]",
        ]
    ) {
        let lab = Lab::new();
        lab.open();
        let now = lab.clock.now().into();
        let authority = lab.first_authority();
        let leaf = leaf::Place { certificate: lab.path("leaf.crt"), key: lab.path("leaf.key") };
        let machine = lab.machine.lock().unwrap().clone();
        let host = name.parse().unwrap();
        let permitted = authority.constraints.permits(&host);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let made = leaf::make(&leaf, &authority, &machine, &[host], now, &provider);
        prop_assert_eq!(made.is_ok(), permitted, "{}", name);
    }
}
