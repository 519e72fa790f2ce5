//! `server`: `docker_auth`'s own listener beside the registry's, and the client's address in a header.
//!
//! Must not know how tokens are made. Invariant: an absent key means what it means to `docker_auth`, but for `server.addr`:
//! without it there is no such listener.

use super::authentication::{self, AuthConfig, Signing};
use super::key::{
    Family, Flag, Key, OptionalPath, OptionalText, Signed, Special, Text, Texts, Unread,
    docker_auth, keys,
};
use super::pem::{self, Pair, TokenPair};
use super::reader::{Reader, Value};
use super::{limits, token_tls, tokens};
use crate::auth::Scheme;
use crate::host_port::HostPort;
use crate::server::{self, Address, Locations};
use crate::telemetry;
use crate::tls;

keys! {
    table KEYS;

    /// Where docker_auth's own listener is opened, beside the registry's: `HOST:PORT`, or `:PORT` for every address.
    ///
    /// It serves `/auth`, `/auth/token` and `/` as docker_auth does, `/readyz` for monitoring, and nothing of the registry. Without the key, tokens are
    /// served on `http.addr` alone. With `server.net: unix` it is the path of the socket. A configuration with none of
    /// the registry's sections (`storage`, `http`, `auth`, …) opens this listener only, and no registry.
    ADDR: Special = docker_auth("server.addr").special("`HOST:PORT`, `[IPV6]:PORT`, `:PORT`, or a path", "");

    /// `tcp` or `unix`.
    ///
    /// A Unix socket has no client addresses, so it needs `server.real_ip_header`.
    NET: Text = docker_auth("server.net").text("tcp");

    /// What the paths of docker_auth's listener begin with: with `/registry`, tokens are at `/registry/auth`.
    PATH_PREFIX: Text = docker_auth("server.path_prefix").text("");

    /// The certificate of docker_auth's listener, with its chain, as PEM. Without it, that listener serves plain HTTP.
    ///
    /// Its key also signs tokens where `token.certificate` is not given. SIGHUP reads the file again for the listener.
    CERTIFICATE: OptionalPath = docker_auth("server.certificate").optional_path();

    /// The private key of `server.certificate`.
    KEY: OptionalPath = docker_auth("server.key").optional_path();

    /// The lowest version of TLS of docker_auth's listener: `TLS12` or `TLS13`, or its number. Lower ones mean 1.2.
    TLS_MINIMUM_VERSION: Text = docker_auth("server.tls_min_version").text("");

    /// The curves for key exchange that docker_auth's listener offers, the best first: `X25519`, `P256`, `P384`.
    TLS_CURVES: Texts = docker_auth("server.tls_curve_preferences").texts();

    /// The cipher suites of TLS 1.2 that docker_auth's listener offers, by their names in Go. Only strong ones are offered.
    TLS_CIPHER_SUITES: Texts = docker_auth("server.tls_cipher_suites").texts();

    /// Whether the answers of docker_auth's listener have the header `Strict-Transport-Security`.
    HSTS: Flag = docker_auth("server.hsts").flag(false);

    /// The header from which the client's address is taken, for rules with `ip`, limits and logs.
    ///
    /// With `http.trusted_proxies` it counts from those addresses only. Without, every client can send it. A request for a
    /// token that lacks it is refused, as in docker_auth.
    REAL_IP_HEADER: OptionalText = docker_auth("server.real_ip_header").optional_text();

    /// Which of the header's comma-separated values counts: 0 is the first, -1 the last.
    ///
    /// Of `X-Forwarded-For` from `http.trusted_proxies`, the last address that is not one of them counts, whatever the position.
    REAL_IP_POSITION: Signed = docker_auth("server.real_ip_pos").signed(0);
}

const UNREAD: &[Key<Unread>] = &[
    docker_auth("server.letsencrypt")
        .refused(&[], "certificates of public authorities are not fetched here")
        .hint("put Caddy in front, which fetches certificates by itself: `registry.example { reverse_proxy localhost:5001 }`; then remove this key"),
];

pub(super) const FAMILY: Family = Family {
    heading: "docker_auth's listener",
    intro: "",
    keys: KEYS,
    unread: UNREAD,
};

/// Sections that only a registry has. With one of them, a missing `storage` is a mistake.
const OF_REGISTRY: &[&str] = &[
    "auth",
    "catalog",
    "compatibility",
    "health",
    "http",
    "middleware",
    "mirrors",
    "notifications",
    "policy",
    "proxy",
    "redis",
    "retention",
    "state_directory",
    "storage",
    "tags",
    "tls",
    "trust",
    "validation",
];

/// `docker_auth`'s `server.hsts`: two years.
const HSTS_HEADER: (&str, &str) = (
    "Strict-Transport-Security",
    "max-age=63072000; includeSubDomains",
);

/// `docker_auth`'s own listener.
#[derive(Debug, Clone)]
pub struct TokenListener {
    /// Its address, prefix, headers and limits. The prefix is `server.path_prefix` as it is written.
    pub server: server::Settings,
    /// Its certificate.
    pub tls: tls::Settings,
}

/// What the files say of an issuer of tokens without a registry.
#[derive(Debug, Clone)]
pub struct IssuerConfig {
    /// Logs.
    pub telemetry: telemetry::Settings,
    /// Users, rules, tokens.
    pub auth: AuthConfig,
    /// Where it listens.
    pub listener: TokenListener,
    /// `limits.whole_bodies_bytes`
    pub whole_bodies_bytes: usize,
}

/// Whether tokens are all that the files ask for: they are `docker_auth`'s alone.
pub(super) fn is_alone(reader: &Reader<'_>) -> bool {
    let has_registry = OF_REGISTRY.iter().any(|key| reader.is_given(key));
    !has_registry && reader.node(ADDR.path).is_some()
}

/// The sections of an issuer without a registry. `None` if something is missing, which is an error.
pub(super) fn alone(
    reader: &mut Reader<'_>,
    telemetry: telemetry::Settings,
) -> Option<IssuerConfig> {
    let shared = server::Settings {
        address: HostPort::every_address(0).into(),
        prefix: String::new(),
        headers: Vec::new(),
        locations: Locations::Relative,
        trusted_proxies: Vec::new(),
        real_ip: real_ip(reader, true),
        http2_disabled: false,
        h2c: false,
        drain_secs: server::DRAIN_SECS_DEFAULT,
        limits: limits::server(reader),
    };
    let pair = pair(reader);
    let auth = authentication::read(reader, pair.as_ref());
    let listener = token_listener(reader, &shared, &auth, pair)?;
    if auth.signing == Signing::Own {
        reader.refuse(
            tokens::CERTIFICATE.path,
            "missing: tokens need a key, and without a registry there is no directory to keep one in",
            "give `token.certificate` and `token.key`; `boathouse token-key make` makes the files that they name",
        );
    }
    Some(IssuerConfig {
        telemetry,
        auth,
        listener,
        whole_bodies_bytes: limits::whole_bodies_bytes(reader),
    })
}

/// `server.certificate` and `server.key`. The pair signs tokens if no other is given for that.
pub(super) fn pair(reader: &mut Reader<'_>) -> Option<Pair> {
    let signs = reader.node(tokens::CERTIFICATE.path).is_none();
    pem::pair(reader, &CERTIFICATE, &KEY, |reader, keys, files| {
        if signs {
            pem::check_token_pair(reader, keys, files)
        } else {
            pem::check_pair(reader, (keys.0, &files.certificate), (keys.1, &files.key))
        }
    })
}

/// The listener, if there is one. `registry` are the settings of the registry's own listener: limits and proxies are the same.
pub(super) fn token_listener(
    reader: &mut Reader<'_>,
    registry: &server::Settings,
    auth: &AuthConfig,
    pair: Option<Pair>,
) -> Option<TokenListener> {
    if reader.node(ADDR.path).is_none() {
        note_what_has_no_effect(reader);
        return None;
    }
    let is_unix = is_unix(reader);
    let prefix = path_prefix(reader);
    let hsts = reader.get(&HSTS);
    let address = address(reader, is_unix)?;
    if auth.is_foreign_only || !auth.required || auth.scheme != Scheme::Bearer {
        reader.refuse(
            ADDR.path,
            "this listener issues tokens, and nothing says to whom",
            "add `users` and `acl`, or remove `server.addr`",
        );
    }
    let tls = tls(reader, pair);
    if tls == tls::Settings::None && !address.is_local() {
        reader.warn(
            ADDR.path,
            "plain HTTP to other machines: passwords and tokens can be read on the way; give server.certificate and server.key, or let only a proxy on this machine connect (`127.0.0.1:5001`)",
        );
    }
    if is_unix && registry.real_ip.is_none() {
        reader.warn(
            ADDR.path,
            "a Unix socket has no client addresses: every request for a token is refused until server.real_ip_header names a header",
        );
    }
    let headers = hsts.then_some(HSTS_HEADER);
    let server = server::Settings {
        address,
        prefix,
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect(),
        locations: Locations::Relative,
        // As docker_auth, by Go's library.
        http2_disabled: false,
        ..registry.clone()
    };
    Some(TokenListener { server, tls })
}

fn address(reader: &mut Reader<'_>, is_unix: bool) -> Option<Address> {
    let (text, _) = reader.scalar(ADDR.path)?;
    let address = if is_unix {
        let path = Key {
            path: ADDR.path,
            row: ADDR.row,
            kind: OptionalPath,
        };
        reader.get(&path).map(Address::Unix)
    } else {
        reader.record(ADDR.path, Value::Text(text.to_owned()));
        text.parse().ok().map(Address::Tcp)
    };
    if address.is_none() {
        reader.refuse(
            ADDR.path,
            "must be an address and a port",
            "written like `:5001`, `127.0.0.1:5001` or `[::1]:5001`; with `server.net: unix`, the path of a socket",
        );
    }
    address
}

fn is_unix(reader: &mut Reader<'_>) -> bool {
    match reader.get(&NET).as_str() {
        "unix" => true,
        "tcp" | "" => false,
        _ => {
            reader.refuse(NET.path, "must be tcp or unix", "in lower case");
            false
        }
    }
}

fn path_prefix(reader: &mut Reader<'_>) -> String {
    let prefix = reader.get(&PATH_PREFIX);
    if !prefix.is_empty() && !prefix.starts_with('/') {
        reader.refuse(
            PATH_PREFIX.path,
            "must begin with a slash",
            "written like `/registry`",
        );
    }
    if prefix.ends_with('/') {
        reader.warn(
            PATH_PREFIX.path,
            "ends with a slash: tokens are at a path with two slashes in a row, as in docker_auth",
        );
    }
    prefix
}

fn tls(reader: &mut Reader<'_>, pair: Option<Pair>) -> tls::Settings {
    let (minimum, offers) = token_tls::read(reader);
    let Some(Pair { files, .. }) = pair else {
        return tls::Settings::None;
    };
    let TokenPair { certificate, key } = files;
    pem::check_server_certificate(reader, CERTIFICATE.path, &certificate);
    tls::Settings::Files {
        certificate,
        key,
        minimum,
        offers,
        clients: None,
    }
}

fn note_what_has_no_effect(reader: &mut Reader<'_>) {
    let keys = [
        NET.path,
        PATH_PREFIX.path,
        HSTS.path,
        TLS_MINIMUM_VERSION.path,
        TLS_CURVES.path,
        TLS_CIPHER_SUITES.path,
    ];
    for key in keys {
        if reader.is_given(key) {
            let note = format!("{key}: has no effect without {}", ADDR.path);
            reader.notes.push(note);
        }
    }
}

/// `server.real_ip_header` and `server.real_ip_pos`.
pub(super) fn real_ip(
    reader: &mut Reader<'_>,
    is_believed_from_anybody: bool,
) -> Option<server::RealIp> {
    let header = reader.get(&REAL_IP_HEADER);
    let position = reader.get(&REAL_IP_POSITION);
    let header = header?;
    if http::HeaderName::try_from(header.as_str()).is_err() {
        reader.refuse(
            REAL_IP_HEADER.path,
            "not the name of a header",
            "letters, digits and `-`, like `X-Forwarded-For`",
        );
    }
    let is_list_of_proxies = header.eq_ignore_ascii_case("x-forwarded-for");
    if is_believed_from_anybody && is_list_of_proxies && position >= 0 {
        reader.warn(
            REAL_IP_HEADER.path,
            "proxies append to X-Forwarded-For, so this position is what the client wrote: it chooses the address that rules with `ip` judge it by; name your proxies in http.trusted_proxies, then the last address that is none of theirs counts",
        );
    } else if is_believed_from_anybody {
        reader.warn(
            REAL_IP_HEADER.path,
            "any client can send this header: http.trusted_proxies names no proxies",
        );
    } else if is_list_of_proxies && position != 0 {
        reader.warn(
            REAL_IP_POSITION.path,
            "has no effect: of X-Forwarded-For from http.trusted_proxies, the last address that is none of theirs counts",
        );
    }
    Some(server::RealIp { header, position })
}
