//! Certificates: our own authority and leaf, or the user's files; reloaded without dropping a request.
//!
//! Must not know HTTP, nor who asks for the authority's certificate. Invariant: what is served is always a whole, matching
//! pair; a change that fails leaves the old one in place.

#[cfg(test)]
mod additional_tests;
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
use std::path::{Path, PathBuf};
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
use names::HostName;
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
    host.parse::<HostName>().map(drop)
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

/// The names and addresses in the server's certificates, as their files are now; `None` where they cannot be read, and without
/// TLS.
pub fn names_in_files(settings: &Settings) -> Option<Vec<String>> {
    let names_in = |path: &Path| {
        let chain = files::read_certificates(path).ok()?;
        chain.first().map(certificates::names_in)
    };
    let keys_directory = match settings {
        Settings::None => return None,
        Settings::Files { certificate, .. } => return names_in(certificate),
        Settings::Automatic { keys_directory, .. } => keys_directory,
    };
    let leaf = |number| leaf::Place::new(keys_directory, number).certificate;
    let mut names = names_in(&leaf(0))?;
    let own = Machine::here().addresses;
    // An address of another machine, which forwards to this one, is in such a certificate, and nobody gets it there.
    let is_served = |name: &String| match name.parse::<IpAddr>() {
        Ok(address) => own.contains(&address),
        Err(_) => true,
    };
    for number in 1..automatic::AUTHORITIES_MAX {
        let more = names_in(&leaf(number)).unwrap_or_default();
        names.extend(more.into_iter().filter(is_served));
    }
    Some(names)
}

/// The keys of our own authorities, whose certificates are in `ca_certificate`: at least that of the first.
pub fn authority_keys(ca_certificate: &Path, keys_directory: &Path) -> Vec<PathBuf> {
    automatic::authority_keys(ca_certificate, keys_directory)
}

/// The names that somebody asked for: in the configuration, then by `up --host` on a later run.
pub fn asked_hosts(settings: &Settings) -> Vec<String> {
    match settings {
        Settings::None | Settings::Files { .. } => Vec::new(),
        Settings::Automatic {
            keys_directory,
            hosts,
            ..
        } => {
            let mut hosts = hosts.clone();
            hosts.extend(automatic::remembered_hosts(keys_directory));
            hosts
        }
    }
}

/// Keeps `hosts` for this start and all later ones, since the config file is never rewritten. Returns whether they have an effect.
pub fn remember_hosts(settings: &Settings, hosts: &[String]) -> Result<bool, TlsError> {
    let Settings::Automatic { keys_directory, .. } = settings else {
        return Ok(false);
    };
    let known = asked_hosts(settings);
    let mut new = hosts.to_vec();
    new.retain(|host| !known.contains(host));
    if !new.is_empty() {
        automatic::remember_hosts(keys_directory, &new)?;
    }
    Ok(true)
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
    /// For every name that no other leaf has, and for clients that send none.
    first: Leaf,
    /// Of additional authorities.
    others: Vec<Leaf>,
    /// The certificates of our own authorities, as PEM.
    authorities: Option<Arc<str>>,
    authority_ends: Vec<OffsetDateTime>,
}

/// A server's certificate with its chain and its key, and the names in it.
struct Leaf {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
}

impl Tls {
    /// Reads or makes what is needed. `None` for plain HTTP.
    pub fn open(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Option<Self>, TlsError> {
        Self::open_on(settings, clock, Box::new(Machine::here))
    }

    /// Sets our authorities aside (as `.old-SECONDS`), so that the next [`Tls::open`] makes one for all names.
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
                    .set_authorities_aside(clock.now().into())
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
                for (fingerprint, names) in automatic.make_authorities(&machine(), now)? {
                    let certificate = ca_certificate.display();
                    if names.is_empty() {
                        tracing::warn!(
                            %certificate,
                            fingerprint,
                            "made a new certificate authority; every client must trust it"
                        );
                    } else {
                        warn_of_additional(&names, &machine(), ca_certificate, &fingerprint);
                    }
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
    /// client that puts `ChaCha20` first, because its processor has no instructions for AES, the one it wants. `own_address` is
    /// the one that the client connected to, where [`Tls::chooses_by_address`].
    pub fn server_config(
        &self,
        http2: bool,
        offered: &[CipherSuite],
        own_address: Option<IpAddr>,
    ) -> Arc<ServerConfig> {
        let mut config = self.config.clone();
        if let Some(address) = own_address {
            config.cert_resolver = Arc::new(ServedAt {
                served: Arc::clone(&self.state.served),
                address: address.to_canonical().to_string(),
            });
        }
        config.ignore_client_order = !wants_chacha20(offered);
        let protocols: &[&[u8]] = if http2 {
            &[b"h2", b"http/1.1"]
        } else {
            &[b"http/1.1"]
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// Whether the address that a client connects to decides which certificate it gets: it names an address that only an
    /// additional authority may sign for, and clients send no address in the handshake.
    pub fn chooses_by_address(&self) -> bool {
        let current = self.state.served.0.load();
        let mut names = current.others.iter().flat_map(|leaf| &leaf.names);
        names.any(|name| name.parse::<IpAddr>().is_ok())
    }

    /// The certificates of our own authorities, for `GET /ca.crt`; `None` with the user's files.
    pub fn authority_pem(&self) -> Option<Arc<str>> {
        self.state.served.0.load().authorities.clone()
    }

    /// The names and addresses for which the certificates of now were issued; one with a `*` is not of this machine alone.
    pub fn own_names(&self) -> Vec<String> {
        let current = self.state.served.0.load();
        let names = current.leaves().flat_map(|leaf| &leaf.names);
        names.cloned().collect()
    }

    /// When the certificates end that are served now, in seconds since 1970: `server` and `authority`, and `server-2`,
    /// `authority-2` and so on for those of additional authorities.
    pub fn ends(&self) -> Vec<(String, u64)> {
        let current = self.state.served.0.load();
        let leaves = current.leaves().map(|leaf| {
            let der = leaf.key.end_entity_cert().ok()?;
            Some(certificates::Leaf::parse(der).ok()?.ends)
        });
        let leaves = leaves
            .enumerate()
            .map(|(number, end)| ("server", number, end));
        let authorities = current.authority_ends.iter().copied().map(Some);
        let authorities = authorities.enumerate();
        let authorities = authorities.map(|(number, end)| ("authority", number, end));
        leaves
            .chain(authorities)
            .filter_map(|(kind, number, end)| {
                let name = match number {
                    0 => kind.to_owned(),
                    more => format!("{kind}-{}", more + 1),
                };
                Some((name, u64::try_from(end?.unix_timestamp()).ok()?))
            })
            .collect()
    }

    /// SHA-256 of the certificates of our own authorities.
    #[cfg(test)]
    fn fingerprints(&self) -> Vec<String> {
        let pem = self.authority_pem().unwrap_or_default();
        let all = certificates::Authority::parse_all(pem.as_bytes()).unwrap_or_default();
        all.iter()
            .map(certificates::Authority::fingerprint)
            .collect()
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
                    first: Leaf::new(pair),
                    others: Vec::new(),
                    authorities: None,
                    authority_ends: Vec::new(),
                })
            }
            Self::Automatic(automatic) => {
                let issued = automatic.read(machine, now, provider)?;
                let pem: String = issued
                    .iter()
                    .map(|one| one.authority.pem.as_str())
                    .collect();
                let authority_ends = issued.iter().map(|one| one.authority.not_after).collect();
                let mut leaves = issued.into_iter().filter_map(|one| one.leaf).map(Leaf::new);
                let first = leaves
                    .next()
                    .ok_or(rustls::Error::NoCertificatesPresented)?;
                Ok(Current {
                    first,
                    others: leaves.collect(),
                    authorities: Some(pem.into()),
                    authority_ends,
                })
            }
        }
    }
}

impl Leaf {
    fn new(key: CertifiedKey) -> Self {
        let names = key.end_entity_cert().map(certificates::names_in);
        Self {
            key: Arc::new(key),
            names: names.unwrap_or_default(),
        }
    }
}

impl Current {
    fn leaves(&self) -> impl Iterator<Item = &Leaf> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The certificate for a client that calls the server by `name`. Clients that trust only the first authority know the
    /// server by names in the first leaf; so a name, or none, that no other leaf has is answered with the first.
    fn for_name(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let has_name = |leaf: &&Leaf| {
            let mut names = leaf.names.iter();
            name.is_some_and(|name| names.any(|own| own.eq_ignore_ascii_case(name)))
        };
        let leaf = self.others.iter().find(has_name);
        leaf.unwrap_or(&self.first).key.clone()
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().for_name(client_hello.server_name()))
    }
}

/// What is served to a client that connected to one address of this machine.
#[derive(Debug)]
struct ServedAt {
    served: Arc<Served>,
    address: String,
}

impl ResolvesServerCert for ServedAt {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = client_hello.server_name().unwrap_or(&self.address);
        Some(self.served.0.load().for_name(Some(name)))
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

/// Says that an authority was made for names that were added, and who must trust it.
fn warn_of_additional(
    names: &[HostName],
    machine: &Machine,
    ca_certificate: &Path,
    fingerprint: &str,
) {
    let shown: Vec<String> = names.iter().map(HostName::to_string).collect();
    tracing::warn!(
        names = shown.join(", "),
        certificate = %ca_certificate.display(),
        fingerprint,
        "made an additional certificate authority; clients that use these names must trust it (`boathouse trust --install`), \
         the others need no change"
    );
    let is_elsewhere = |name: &&HostName| match name {
        HostName::Address(address) => !machine.addresses.contains(address),
        HostName::Dns(_) => false,
    };
    for address in names.iter().filter(is_elsewhere) {
        tracing::warn!(
            %address,
            "not an address of this machine, so a client that calls it by this address is not recognised and gets the \
             certificate for the other names; hint: use a name, or make one authority for all with `boathouse up --new-ca`"
        );
    }
}

/// The user's own certificate is not ours to renew; that its end is near is said at every start and reload.
fn warn_of_end(pair: &CertifiedKey, path: &Path, now: OffsetDateTime) -> Result<(), TlsError> {
    let parsed = files::parse(pair.end_entity_cert()?, path)?;
    let end = parsed.validity().not_after.to_datetime();
    if end - now < leaf::RENEWED_BEFORE_END {
        tracing::warn!(certificate = %path.display(), %end, "the certificate ends soon or has ended");
    }
    Ok(())
}
