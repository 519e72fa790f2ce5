//! Certificates: our own authority and leaf, or the user's files; reloaded without dropping a request.
//!
//! Must not know HTTP, nor who asks for the authority's certificate. Invariant: what is served is always a whole, matching
//! pair; a change that fails leaves the old one in place.

mod authority;
#[cfg(test)]
mod authority_tests;
mod automatic;
mod clients;
#[cfg(test)]
mod clients_tests;
mod error;
mod files;
mod leaf;
mod machine;
mod names;
mod offers;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig, SupportedCipherSuite};
use time::OffsetDateTime;

use crate::client::certificates;
use crate::clock::{Clock, check_is_set};
use crate::heartbeat::Heartbeat;
use automatic::Automatic;
pub use clients::{ClientCertificate, Clients};
pub use error::TlsError;
use machine::Machine;
pub use offers::Offers;

/// How often the leaf is looked at: addresses change, and its end comes near.
const LOOKED_AT_EVERY: Duration = Duration::from_hours(1);

/// Where certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// Plain HTTP.
    None,
    /// The user's own (`http.tls.certificate`, `http.tls.key`, minimum version 1.2 or 1.3).
    Files {
        /// The chain, leaf first.
        certificate: PathBuf,
        /// The leaf's key.
        key: PathBuf,
        /// `http.tls.minimumtls`
        minimum: MinimumVersion,
        /// Cipher suites and key exchanges.
        offers: Offers,
        /// Which clients may connect, by their certificates; `None`: all.
        clients: Option<Clients>,
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
    /// TLS 1.2: what every client of the last ten years speaks.
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// Whether `host` can stand in a certificate, as [`Settings::Automatic`] needs it.
pub fn check_host(host: &str) -> Result<(), TlsError> {
    host.parse::<names::HostName>().map(drop)
}

/// What this machine is called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineNames {
    /// Its names, the shortest first. None of them need lead here.
    pub names: Vec<String>,
    /// Its addresses, without loopback; the one from which it reaches other networks comes first.
    pub addresses: Vec<IpAddr>,
}

/// What this machine is called now.
pub fn machine_names() -> MachineNames {
    let machine = Machine::here();
    MachineNames {
        names: machine.names(),
        addresses: machine.addresses,
    }
}

/// The names and addresses in the server's certificate, as its file is now; `None` where it cannot be read, and without TLS.
pub fn names_in_file(settings: &Settings) -> Option<Vec<String>> {
    let path = match settings {
        Settings::None => return None,
        Settings::Files { certificate, .. } => certificate.clone(),
        Settings::Automatic { keys_directory, .. } => keys_directory.join("tls.crt"),
    };
    let chain = files::read_certificates(&path).ok()?;
    chain.first().map(certificates::names_in)
}

/// The certificates in force.
pub struct Tls {
    state: Arc<State>,
    /// Without ALPN; each caller of [`Tls::server_config`] has its own.
    config: ServerConfig,
}

struct State {
    source: Source,
    clock: Arc<dyn Clock>,
    machine: Box<dyn Fn() -> Machine + Send + Sync>,
    provider: Arc<CryptoProvider>,
    served: Arc<Served>,
    /// One change at a time: a reload and the hourly look may meet.
    changing: Mutex<()>,
    heartbeat: Arc<Heartbeat>,
}

enum Source {
    Files { certificate: PathBuf, key: PathBuf },
    Automatic(Automatic),
}

/// What is served now. Handshakes read it without waiting.
struct Served(ArcSwap<Current>);

struct Current {
    key: Arc<CertifiedKey>,
    authority: Option<AuthorityText>,
}

/// What people are shown of our authority.
#[derive(Clone)]
struct AuthorityText {
    pem: Arc<str>,
    fingerprint: String,
    end: OffsetDateTime,
}

impl Tls {
    /// Reads or makes what is needed. `None` for plain HTTP.
    pub fn open(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Option<Self>, TlsError> {
        Self::open_on(settings, clock, Box::new(Machine::here))
    }

    /// Sets our authority aside (as `.old-SECONDS`), so that the next [`Tls::open`] makes a new one.
    pub fn set_authority_aside(settings: &Settings, clock: &dyn Clock) -> Result<(), TlsError> {
        match settings {
            Settings::None | Settings::Files { .. } => Ok(()),
            Settings::Automatic {
                ca_certificate,
                keys_directory,
                hosts,
            } => {
                // None could be made in its place.
                check_is_set(clock.unix_secs())?;
                Automatic::new(ca_certificate, keys_directory, hosts)?
                    .set_authority_aside(clock.now().into())
            }
        }
    }

    fn open_on(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        machine: Box<dyn Fn() -> Machine + Send + Sync>,
    ) -> Result<Option<Self>, TlsError> {
        let mut provider = aws_lc_rs::default_provider();
        if let Settings::Files { offers, .. } = settings {
            offers.restrict(&mut provider);
        }
        let provider = Arc::new(provider);
        let now = OffsetDateTime::from(clock.now());
        let (source, minimum, clients) = match settings {
            Settings::None => return Ok(None),
            Settings::Files {
                certificate,
                key,
                minimum,
                clients,
                ..
            } => {
                let (certificate, key) = (certificate.clone(), key.clone());
                let source = Source::Files { certificate, key };
                (source, *minimum, clients.as_ref())
            }
            Settings::Automatic {
                ca_certificate,
                keys_directory,
                hosts,
            } => {
                let automatic = Automatic::new(ca_certificate, keys_directory, hosts)?;
                if let Some(fingerprint) = automatic.make_authority(&machine(), now)? {
                    let certificate = ca_certificate.display();
                    tracing::warn!(
                        %certificate,
                        fingerprint,
                        "a new certificate authority was made; every client must trust it anew"
                    );
                }
                (Source::Automatic(automatic), MinimumVersion::Tls12, None)
            }
        };
        let current = source.read(&machine(), now, &provider)?;
        let served = Arc::new(Served(ArcSwap::from_pointee(current)));
        let mut config = server_config(minimum, &provider, clients, served.clone())?;
        if clients.is_some() {
            config.time_provider = Arc::new(clients::TimeOf(Arc::clone(&clock)));
        }
        let state = State {
            source,
            heartbeat: Heartbeat::new("the renewal of certificates", Arc::clone(&clock)),
            clock,
            machine,
            provider,
            served,
            changing: Mutex::new(()),
        };
        let state = Arc::new(state);
        Ok(Some(Self { state, config }))
    }

    /// For the acceptor; follows reloads by itself. ALPN h2 and http/1.1 (only http/1.1 if `http2` is false). `offered` is
    /// what the client offers, in its order: the quickest cipher is taken, which most clients do not put first, but from a
    /// client that puts `ChaCha20` first, because its processor has no instructions for AES, the one it wants.
    pub fn server_config(&self, http2: bool, offered: &[CipherSuite]) -> Arc<ServerConfig> {
        let mut config = self.config.clone();
        config.ignore_client_order = !wants_chacha20(offered);
        let protocols: &[&[u8]] = if http2 {
            &[b"h2", b"http/1.1"]
        } else {
            &[b"http/1.1"]
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// Our own CA certificate, for `GET /ca.crt`; `None` with the user's files.
    pub fn authority_pem(&self) -> Option<Arc<str>> {
        Some(self.authority()?.pem)
    }

    /// The names and addresses for which the certificate of now was issued; one with a `*` is none of this machine alone.
    pub fn own_names(&self) -> Vec<String> {
        let current = self.state.served.0.load();
        let leaf = current.key.end_entity_cert();
        leaf.map(certificates::names_in).unwrap_or_default()
    }

    /// When the certificates end that are served now, in seconds since 1970: the server's, and that of our authority.
    pub fn ends(&self) -> Vec<(&'static str, u64)> {
        let current = self.state.served.0.load();
        let leaf = current.key.end_entity_cert();
        let leaf = leaf.ok().and_then(|der| {
            let leaf = certificates::Leaf::parse(der).ok()?;
            Some(leaf.ends)
        });
        let authority = current.authority.as_ref();
        let authority = authority.map(|authority| authority.end);
        [("server", leaf), ("authority", authority)]
            .into_iter()
            .filter_map(|(name, end)| Some((name, u64::try_from(end?.unix_timestamp()).ok()?)))
            .collect()
    }

    /// SHA-256 of the CA certificate, `AB:CD:…`.
    pub fn authority_fingerprint(&self) -> Option<String> {
        Some(self.authority()?.fingerprint)
    }

    fn authority(&self) -> Option<AuthorityText> {
        self.state.served.0.load().authority.clone()
    }

    /// Reads the files again; keeps the old ones on an error.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.state.change()
    }

    /// Of [`Tls::keep_fresh`].
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.state.heartbeat)
    }

    /// Hourly: renews or remakes the leaf when due. Never returns.
    pub async fn keep_fresh(&self) {
        let heartbeat = &self.state.heartbeat;
        let _beating = heartbeat.begin();
        loop {
            heartbeat.rest_for(LOOKED_AT_EVERY);
            self.state.clock.sleep(LOOKED_AT_EVERY).await;
            heartbeat.beat();
            // The user's files change when the user says so (SIGHUP), not while a script is half-way through them.
            if let Source::Automatic(_) = self.state.source {
                let state = self.state.clone();
                // It writes and syncs files: not work for a thread that serves others.
                let changed = tokio::task::spawn_blocking(move || state.change()).await;
                if let Ok(Err(error)) = changed {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "the certificates could not be kept fresh");
                }
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl State {
    fn change(&self) -> Result<(), TlsError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now().into();
        let current = self.source.read(&(self.machine)(), now, &self.provider)?;
        self.served.0.store(Arc::new(current));
        Ok(())
    }
}

impl Source {
    fn read(
        &self,
        machine: &Machine,
        now: OffsetDateTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Current, TlsError> {
        match self {
            Self::Files { certificate, key } => {
                let hint = "give the certificate and the key that were issued together";
                let pair = leaf::certified_key(certificate, key, hint, provider)?;
                warn_of_end(&pair, certificate, now)?;
                Ok(Current {
                    key: Arc::new(pair),
                    authority: None,
                })
            }
            Self::Automatic(automatic) => {
                let (authority, leaf) = automatic.read(machine, now, provider)?;
                Ok(Current {
                    key: Arc::new(leaf),
                    authority: Some(AuthorityText {
                        fingerprint: certificates::fingerprint(&authority.certificate),
                        end: authority.not_after,
                        pem: authority.pem.into(),
                    }),
                })
            }
        }
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Served")
    }
}

fn server_config(
    minimum: MinimumVersion,
    provider: &Arc<CryptoProvider>,
    clients: Option<&Clients>,
    served: Arc<Served>,
) -> Result<ServerConfig, TlsError> {
    let versions: &[_] = match minimum {
        MinimumVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinimumVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let verifier = match clients {
        Some(clients) => clients::verifier(clients, provider)?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let mut provider = CryptoProvider::clone(provider);
    // As good as AES-256 for as long as TLS protects anything, with a quarter less work: ciphers are a third of a pull.
    let is_aes_128 = |suite: &SupportedCipherSuite| {
        let name = suite.suite();
        let quick = [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ];
        quick.contains(&name)
    };
    provider
        .cipher_suites
        .sort_by_key(|suite| !is_aes_128(suite));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(served);
    // Tickets instead of a session table: a client that opens a thousand connections costs no memory here.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

/// Whether the first cipher that we know too is `ChaCha20` (clients may put a random value before it, RFC 8701).
fn wants_chacha20(offered: &[CipherSuite]) -> bool {
    let chacha20 = [
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let known = aws_lc_rs::ALL_CIPHER_SUITES;
    let first = offered
        .iter()
        .find(|offered| known.iter().any(|known| known.suite() == **offered));
    first.is_some_and(|first| chacha20.contains(first))
}

/// The user's own certificate is not ours to renew; that its end is near is said at every start and reload.
fn warn_of_end(
    pair: &CertifiedKey,
    path: &std::path::Path,
    now: OffsetDateTime,
) -> Result<(), TlsError> {
    let parsed = files::parse(pair.end_entity_cert()?, path)?;
    let end = parsed.validity().not_after.to_datetime();
    if end - now < leaf::RENEWED_BEFORE_END {
        tracing::warn!(certificate = %path.display(), %end, "the certificate ends soon or has ended");
    }
    Ok(())
}
