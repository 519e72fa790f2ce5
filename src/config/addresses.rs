//! Whether the addresses of the configuration fit together: its listeners, `http.host`, and the realm.
//!
//! Must not resolve names, nor connect. Invariant: a name that this machine may have counts as its own, so that a warning is
//! wrong only where a port is forwarded without a proxy; `http.trusted_proxies: []` ends that one.

use super::authentication::AuthConfig;
use super::reader::Reader;
use super::{Config, health, http, token_listener, tokens};
use crate::auth::Scheme;
use crate::host_port::{BaseUrl, HostPort};
use crate::server::Address;
use crate::tls;

/// What a URL shows at which no listener can be.
const NOT_HERE: &str = "nothing of this configuration listens there, so there is a proxy";

/// One address at which this configuration listens for clients.
struct Listener<'a> {
    address: &'a Address,
    is_https: bool,
}

impl<'a> Listener<'a> {
    fn new(address: &'a Address, certificates: &tls::Settings) -> Self {
        Self {
            address,
            is_https: *certificates != tls::Settings::None,
        }
    }

    /// Whether `url` may lead here without a proxy.
    fn may_be(&self, url: &BaseUrl) -> bool {
        let Some(address) = self.address.tcp() else {
            return false;
        };
        self.is_https == url.is_https()
            && has_port(address, url.address().port())
            && may_have_host(address, url.address())
    }
}

/// The system chooses a port in the place of 0, so that one can be any.
fn has_port(address: &HostPort, port: u16) -> bool {
    [0, port].contains(&address.port())
}

/// Whether who connects to the host of `named` may reach `address`, whatever the ports are.
fn may_have_host(address: &HostPort, named: &HostPort) -> bool {
    let is_same = is_same_host(address, named);
    let is_own_name = !address.is_loopback() && named.address().is_none() && !named.is_loopback();
    address.is_every_address()
        || is_same
        || is_own_name
        || (address.is_loopback() && named.is_loopback())
}

fn is_same_host(one: &HostPort, other: &HostPort) -> bool {
    one.canonical().host() == other.canonical().host()
}

/// Looks at all of them.
pub(super) fn check(reader: &mut Reader<'_>, config: &Config) {
    refuse_one_for_two(reader, config);
    let realm = realm(&config.auth);
    warn_of_realm(reader, config, realm.as_ref());
    warn_of_proxy(reader, config, realm.as_ref());
}

/// Two listeners cannot have the same address.
fn refuse_one_for_two(reader: &mut Reader<'_>, config: &Config) {
    let debug = config.debug_address.clone().map(Address::Tcp);
    let issuer = config.token_listener.as_ref();
    let others = [
        (
            token_listener::ADDR.path,
            issuer.map(|one| &one.server.address),
            "give it another port; or remove it: http.addr serves /auth and /token too",
        ),
        (
            health::DEBUG_ADDRESS.path,
            debug.as_ref(),
            "give it another port",
        ),
    ];
    for (key, address, hint) in others {
        if address.is_some_and(|address| overlap(&config.server.address, address)) {
            reader.refuse(
                key,
                "the address of http.addr: only one can listen there",
                hint,
            );
        }
    }
}

/// Whether only one of them can be listened at.
fn overlap(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Tcp(one), Address::Tcp(other)) => {
            let is_part = covers(one, other) || covers(other, one) || is_same_host(one, other);
            one.port() != 0 && one.port() == other.port() && is_part
        }
        (Address::Unix(one), Address::Unix(other)) => one == other,
        (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
    }
}

/// Whether `every` is every address of a family to which `one` belongs.
fn covers(every: &HostPort, one: &HostPort) -> bool {
    let is_ipv4 = |address: &HostPort| address.address().map(|address| address.is_ipv4());
    every.host().is_empty() || (every.is_every_address() && is_ipv4(every) == is_ipv4(one))
}

/// Where clients go for tokens that are issued here.
fn realm(auth: &AuthConfig) -> Option<BaseUrl> {
    let is_issued_here = auth.required
        && !auth.is_foreign_only
        && auth.scheme == Scheme::Bearer
        && auth.auto_redirect.is_none();
    let realm = auth.realm.as_ref().filter(|_| is_issued_here)?;
    let (scheme, rest) = realm.split_once("://")?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    format!("{scheme}://{authority}").parse().ok()
}

/// Warns of a realm on this host with a port at which nothing listens.
fn warn_of_realm(reader: &mut Reader<'_>, config: &Config, realm: Option<&BaseUrl>) {
    let Some(realm) = realm.map(BaseUrl::address) else {
        return;
    };
    let issuer = config
        .token_listener
        .as_ref()
        .map(|one| &one.server.address);
    let listeners = [Some(&config.server.address), issuer];
    let listeners: Vec<&HostPort> = listeners
        .into_iter()
        .flatten()
        .filter_map(Address::tcp)
        .collect();
    let external = config.external_host.as_ref().map(BaseUrl::address);
    let is_this_host = realm.is_loopback()
        || external
            .into_iter()
            .chain(listeners.iter().copied())
            .any(|one| is_same_host(one, realm));
    let is_answered = listeners.iter().any(|one| has_port(one, realm.port()))
        || external.is_some_and(|one| one.port() == realm.port());
    if !is_this_host || is_answered {
        return;
    }
    let message = if issuer.is_some() {
        "neither http.addr nor server.addr has this port: clients get no token unless a proxy answers there"
    } else {
        "http.addr has another port, and there is no server.addr: clients get no token unless a proxy answers there; give server.addr this port, or remove this key: http.addr issues tokens too"
    };
    reader.warn(tokens::REALM.path, message);
}

/// Warns of a proxy whose clients all seem to have its address.
fn warn_of_proxy(reader: &mut Reader<'_>, config: &Config, realm: Option<&BaseUrl>) {
    let auth = &config.auth;
    let has_accounts = auth.required && !auth.is_foreign_only;
    // `server.real_ip_header` has warnings of its own.
    let is_told = reader.is_given(http::TRUSTED_PROXIES.path) || config.server.real_ip.is_some();
    if !has_accounts || is_told {
        return;
    }
    let registry = Listener::new(&config.server.address, &config.tls);
    let issuer = config.token_listener.as_ref();
    let issuer = issuer.map(|one| Listener::new(&one.server.address, &one.tls));
    let is_realm_direct = |realm: &BaseUrl| {
        registry.may_be(realm) || issuer.as_ref().is_some_and(|issuer| issuer.may_be(realm))
    };
    let (key, what) = if config.server.address.tcp().is_none() {
        (
            http::NET.path,
            "clients reach a Unix socket through a proxy only",
        )
    } else if config
        .external_host
        .as_ref()
        .is_some_and(|host| !registry.may_be(host))
    {
        (http::HOST.path, NOT_HERE)
    } else if realm.is_some_and(|realm| !is_realm_direct(realm)) {
        (tokens::REALM.path, NOT_HERE)
    } else {
        return;
    };
    reader.warn(
        key,
        &format!("{what}, and http.trusted_proxies is missing: to rules with `ip`, to limits and in the log all clients have the proxy's address, and one that guesses passwords slows the logins of all; add `http: {{trusted_proxies: [127.0.0.1]}}` with the address of the proxy, in a file of its own if the old registry reads this one; `[]` if there is no proxy"),
    );
}
