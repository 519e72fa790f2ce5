//! `http`: where the registry listens, under which address it is known, and what it takes from proxies.
//!
//! Must not know users, tokens or certificates. Invariant: an absent key means what it means to distribution.

use ipnet::IpNet;

use super::key::{
    Family, FirstRunValue, Flag, InTemplate, Key, Listen, OptionalPath, OptionalSecret,
    OptionalUrl, Seconds, Special, Text, Texts, distribution, keys, ours,
};
use super::reader::{Reader, Secret, Value};
use super::{limits, token_listener};
use crate::host_port::BaseUrl;
use crate::server::{self, Address};

keys! {
    table KEYS;

    /// Where to listen: `HOST:PORT`, or `:PORT` for every address of this machine, IPv4 and IPv6.
    ///
    /// distribution's own default is a random port; 5000 is the port of its images.
    ADDR: Listen = distribution("http.addr").listen(5_000).in_template(InTemplate::FirstRun(FirstRunValue::Address));

    /// `tcp`, or `unix`: then `http.addr` is the path of a Unix socket.
    ///
    /// A file at that path is replaced if it is a socket at which no program listens. A proxy on this machine connects to it; its
    /// clients have no address here unless `http.trusted_proxies` names `127.0.0.1`, which stands for the socket.
    NET: Text = distribution("http.net").text("tcp");

    /// The URL that clients use, if their requests do not show it: `https://registry.example`.
    ///
    /// The realm of challenges and `Location` begin with it.
    HOST: OptionalUrl = distribution("http.host").optional_url().commented();

    /// The path before `/v2/`, with a slash at both ends.
    ///
    /// The token endpoint is below it too. Paths outside of it are served as if there were no prefix.
    PREFIX: Text = distribution("http.prefix").text("").commented();

    /// Headers that are added to every answer: `{Name: [value]}`.
    HEADERS: Special = distribution("http.headers.*").special("list of texts", "{}").commented();

    /// Proxies whose `Forwarded` and `X-Forwarded-*` headers are used: `[192.0.2.7, 10.0.0.0/8]`.
    TRUSTED_PROXIES: Texts = ours("http.trusted_proxies").texts().commented();

    /// How long a stop waits for open requests.
    ///
    /// distribution's own default is 0, which breaks all transfers.
    DRAIN_TIMEOUT: Seconds = distribution("http.draintimeout").seconds(server::DRAIN_SECS_DEFAULT, DRAIN_SECS_MAX).commented();

    /// Whether HTTP/2 is off. It puts all transfers of a client on one connection: with large layers that is slower.
    ///
    /// distribution's own default is `false`.
    HTTP2_DISABLED: Flag = distribution("http.http2.disabled").flag(true).commented();

    /// Whether HTTP/2 is taken without TLS, also where `http.http2.disabled` is true.
    H2C: Flag = distribution("http.h2c.enabled").flag(false);

    /// Whether `Location` is relative. With `false` it begins with the scheme and the host of the request.
    ///
    /// A relative one is right behind every proxy; some clients (ollama, Harbor's replication) cannot use it. With `http.host`
    /// it begins with that, and this key has no effect. distribution's own default is `false`.
    RELATIVE_URLS: Flag = distribution("http.relativeurls").flag(true);

    /// The secret that protects upload sessions and what is remembered of passwords and tokens.
    ///
    /// At least 16 random characters. Without it, one is made and kept with the data. Several registries over the same data
    /// need the same one.
    SECRET: OptionalSecret = distribution("http.secret").optional_secret();
}

pub(super) const FAMILY: Family = Family {
    heading: "HTTP and proxies",
    intro: "",
    keys: KEYS,
    unread: &[],
};

/// An hour: no stop should take longer.
const DRAIN_SECS_MAX: u64 = 3_600;

/// What is signed with a shorter secret can be tried against all secrets of that length.
const SECRET_BYTES_MIN: usize = 16;

/// Headers that frame a message or belong to its connection: a configured one would break every answer.
const FRAMING_HEADERS: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// `http.host`: this registry's own address.
pub(super) fn external_host(reader: &mut Reader<'_>) -> Option<BaseUrl> {
    reader.get(&HOST)
}

/// `external_host` is `http.host`.
pub(super) fn server(reader: &mut Reader<'_>, external_host: Option<&BaseUrl>) -> server::Settings {
    let address = address(reader);
    let (prefix, headers) = (prefix(reader), headers(reader));
    let trusted_proxies = trusted_proxies(reader);
    server::Settings {
        address,
        prefix,
        headers,
        locations: locations(reader, external_host),
        real_ip: token_listener::real_ip(reader, trusted_proxies.is_empty()),
        trusted_proxies,
        http2_disabled: reader.get(&HTTP2_DISABLED),
        h2c: reader.get(&H2C),
        drain_secs: reader.get(&DRAIN_TIMEOUT),
        limits: limits::server(reader),
    }
}

/// Where the registry listens.
fn address(reader: &mut Reader<'_>) -> Address {
    match reader.get(&NET).as_str() {
        "tcp" | "" => Address::Tcp(reader.get(&ADDR)),
        "unix" => {
            let path = Key {
                path: ADDR.path,
                row: ADDR.row,
                kind: OptionalPath,
            };
            let path = reader.get(&path);
            if path.is_none() {
                reader.refuse(
                    ADDR.path,
                    "missing: with `http.net: unix` it is the path of the socket",
                    "written like `/run/boathouse/registry.sock`",
                );
            }
            Address::Unix(path.unwrap_or_default())
        }
        _ => {
            reader.refuse(NET.path, "must be tcp or unix", "in lower case");
            Address::Tcp(reader.get(&ADDR))
        }
    }
}

/// Warns of what is fine on one machine and seldom elsewhere.
pub(super) fn warn_of_openness(
    reader: &mut Reader<'_>,
    address: &Address,
    is_plain: bool,
    is_open: bool,
) {
    if address.is_local() {
        return;
    }
    if is_plain {
        reader.warn(
            ADDR.path,
            "plain HTTP to other machines: passwords and tokens can be read on the way; `tls: auto` makes certificates",
        );
    }
    if is_open {
        reader.warn(
            ADDR.path,
            "every client that can reach it may do everything: neither `auth` nor `users` is configured",
        );
    }
}

pub(super) fn secret(reader: &mut Reader<'_>) -> Option<Secret> {
    let secret = reader.get(&SECRET);
    let is_short = |secret: &Secret| secret.expose().len() < SECRET_BYTES_MIN;
    if secret.as_ref().is_some_and(is_short) {
        reader.warn(
            SECRET.path,
            "is short enough to be guessed: 32 random characters are safe, and without the key one is made",
        );
    }
    secret
}

/// distribution reads `http.relativeurls` where there is no `http.host`, and its default is false. Here only a false that is
/// written makes `Location` absolute.
fn locations(reader: &mut Reader<'_>, external_host: Option<&BaseUrl>) -> server::Locations {
    let key = Key {
        kind: Flag(external_host.is_none()),
        ..RELATIVE_URLS
    };
    let is_relative = reader.get(&key);
    match external_host {
        Some(host) => {
            if is_relative {
                reader.warn(
                    key.path,
                    "has no effect together with http.host, which `Location` begins with",
                );
            }
            server::Locations::Host(host.to_string())
        }
        None if is_relative => server::Locations::Relative,
        None => server::Locations::Requested,
    }
}

fn prefix(reader: &mut Reader<'_>) -> String {
    let mut prefix = reader.get(&PREFIX);
    if !prefix.is_empty() && !prefix.starts_with('/') {
        reader.refuse(
            PREFIX.path,
            "must begin with a slash",
            "written like `/registry/`",
        );
    }
    // distribution takes it with and without the last slash; an empty one is the root.
    if !prefix.ends_with('/') {
        prefix.push('/');
    }
    prefix
}

fn headers(reader: &mut Reader<'_>) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let entries = reader
        .node("http.headers")
        .map_or(&[][..], |node| node.entries());
    for entry in entries {
        let key = format!("http.headers.{}", entry.key);
        let values = super::accounts::texts(&entry.value, &key, &mut reader.errors);
        // Every client is sent them, so they are no secret.
        reader.record(&key, Value::List(values.clone()));
        if FRAMING_HEADERS.contains(&entry.key.to_ascii_lowercase().as_str()) {
            reader.refuse(
                &key,
                "cannot be configured: it is part of how each answer is sent",
                "remove it",
            );
            continue;
        }
        for value in values {
            let is_header = http::HeaderName::try_from(entry.key.as_str()).is_ok()
                && http::HeaderValue::try_from(value.as_str()).is_ok();
            if is_header {
                headers.push((entry.key.clone(), value));
            } else {
                reader.refuse(
                    &key,
                    "not a header",
                    "a name is letters, digits and `-`; a value is one line of text",
                );
            }
        }
    }
    headers
}

fn trusted_proxies(reader: &mut Reader<'_>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in reader.get(&TRUSTED_PROXIES) {
        let network = text
            .parse::<IpNet>()
            .ok()
            .or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        match network {
            Some(network) => networks.push(network),
            None => reader.refuse(
                TRUSTED_PROXIES.path,
                "must be addresses or networks",
                "written like `[10.0.0.0/8, 192.0.2.7]`",
            ),
        }
    }
    networks
}
