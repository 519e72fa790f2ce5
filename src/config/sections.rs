//! The sections that become other modules' `Settings`: logs, HTTP, certificates, store, operations.
//!
//! Must not know users and tokens (`authentication` does). Invariant: an absent key means what it means to distribution.

use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::duration;
use super::keys::{self, Fate, Known};
use super::pem;
use super::reader::Reader;
use crate::{registry, server, telemetry, tls};

/// Where the store lies when `storage.filesystem.rootdirectory` is absent, as in distribution.
pub(super) const ROOT_DIRECTORY_DEFAULT: &str = "/var/lib/registry";
/// The port of distribution's images; distribution itself would take a random one.
pub(super) const ADDRESS_DEFAULT: &str = ":5000";
/// How long a stop waits for transfers; distribution's own default of 0 breaks them all.
pub(super) const DRAIN_SECS_DEFAULT: u64 = 10;
/// An hour: more than any stop should take.
const DRAIN_SECS_MAX: u64 = 3_600;
/// A day, the most for any time limit of a connection.
const LIMIT_SECS_MAX: u64 = 86_400;
/// A month: each day within it is a directory to look into.
const GRACE_PERIOD_SECS_MAX: u64 = 30 * 86_400;
const MIB: u64 = 1024 * 1024;

pub(super) fn telemetry(reader: &mut Reader<'_>) -> telemetry::Settings {
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
    // distribution's old name counts only where the new one is absent.
    let level_key = if reader.node("log.level").is_none() && reader.node("loglevel").is_some() {
        "loglevel"
    } else {
        "log.level"
    };
    telemetry::Settings {
        level: reader.choice(level_key, tracing::Level::INFO, &levels),
        // distribution's third formatter is JSON too.
        json: reader.choice(
            "log.formatter",
            false,
            &[("text", false), ("json", true), ("logstash", true)],
        ),
        access_log_disabled: reader.flag("log.accesslog.disabled", false),
    }
}

/// `external_host` is `http.host`.
pub(super) fn server(reader: &mut Reader<'_>, external_host: Option<&str>) -> server::Settings {
    let (address, prefix, headers) = (address(reader), prefix(reader), headers(reader));
    let trusted_proxies = trusted_proxies(reader);
    server::Settings {
        address,
        prefix,
        headers,
        locations: locations(reader, external_host),
        real_ip: real_ip(reader, trusted_proxies.is_empty()),
        trusted_proxies,
        http2_disabled: reader.flag("http.http2.disabled", true),
        drain_secs: drain_secs(reader),
        limits: server::Limits {
            connections: reader.count("limits.connections", 1_024, 1..=1_000_000),
            stall_secs: reader.number("limits.stall_secs", 120, 1..=LIMIT_SECS_MAX),
            header_secs: reader.number("limits.header_secs", 30, 1..=LIMIT_SECS_MAX),
            handshake_secs: reader.number("limits.handshake_secs", 10, 1..=LIMIT_SECS_MAX),
            token_body_bytes: reader.count("limits.token_body_bytes", 64 * 1024, 1_024..=MIB),
            floor_bytes_per_sec: reader.number("limits.floor_bytes_per_sec", 1_024, 0..=MIB),
            whole_body_secs: reader.number("limits.whole_body_secs", 120, 1..=LIMIT_SECS_MAX),
        },
    }
}

fn address(reader: &mut Reader<'_>) -> String {
    let address = reader.text("http.addr", ADDRESS_DEFAULT);
    let port = address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() {
        reader.refuse(
            "http.addr",
            "must be an address and a port",
            "written like `:5000`, `127.0.0.1:5000` or `[::1]:5000`",
        );
    }
    address
}

/// `http.relativeurls`, which distribution reads where there is no `http.host`. Its default there is false; a relative
/// `Location` is right behind every proxy, so only a false that somebody wrote makes it absolute.
fn locations(reader: &mut Reader<'_>, external_host: Option<&str>) -> server::Locations {
    const KEY: &str = "http.relativeurls";
    let is_relative = reader.flag(KEY, external_host.is_none());
    match external_host {
        Some(host) => {
            if is_relative {
                reader.warn(
                    KEY,
                    "has no effect beside http.host, with which `Location` begins",
                );
            }
            server::Locations::Host(host.to_owned())
        }
        None if is_relative => server::Locations::Relative,
        None => server::Locations::Requested,
    }
}

/// `http.host`: this registry's own address.
pub(super) fn external_host(reader: &mut Reader<'_>) -> Option<String> {
    let host = reader
        .text_if_set("http.host")
        .filter(|host| !host.is_empty())?;
    let name = host
        .strip_prefix("https://")
        .or_else(|| host.strip_prefix("http://"));
    if name.is_none_or(|name| name.is_empty() || name.contains(['/', ' ', '"'])) {
        reader.refuse(
            "http.host",
            "must be a URL without a path",
            "written like `https://registry.example:5000`",
        );
    }
    Some(host)
}

fn prefix(reader: &mut Reader<'_>) -> String {
    let mut prefix = reader.text("http.prefix", "");
    if !prefix.is_empty() && !prefix.starts_with('/') {
        reader.refuse(
            "http.prefix",
            "must begin with a slash",
            "written like `/registry/`",
        );
    }
    // distribution takes it with and without the last slash; none at all is the root.
    if !prefix.ends_with('/') {
        prefix.push('/');
    }
    prefix
}

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

fn headers(reader: &mut Reader<'_>) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let entries = reader
        .node("http.headers")
        .map_or(&[][..], |node| node.entries());
    for entry in entries {
        let key = format!("http.headers.{}", entry.key);
        let values = super::accounts::texts(&entry.value, &key, &mut reader.errors);
        reader.remember(&key, "(set)");
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
    for text in reader.texts("http.trusted_proxies") {
        let network = text
            .parse::<IpNet>()
            .ok()
            .or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        match network {
            Some(network) => networks.push(network),
            None => reader.refuse(
                "http.trusted_proxies",
                "must be addresses or networks",
                "written like `[10.0.0.0/8, 192.0.2.7]`",
            ),
        }
    }
    networks
}

fn real_ip(reader: &mut Reader<'_>, is_believed_from_anybody: bool) -> Option<server::RealIp> {
    let header = reader
        .text_if_set("server.real_ip_header")
        .filter(|header| !header.is_empty());
    let position = real_ip_position(reader);
    let header = header?;
    if http::HeaderName::try_from(header.as_str()).is_err() {
        reader.refuse(
            "server.real_ip_header",
            "not the name of a header",
            "letters, digits and `-`, like `X-Forwarded-For`",
        );
    }
    let is_list_of_proxies = header.eq_ignore_ascii_case("x-forwarded-for");
    if is_believed_from_anybody && is_list_of_proxies && position >= 0 {
        reader.warn(
            "server.real_ip_header",
            "proxies append to X-Forwarded-For, so this position is what the client wrote: it chooses the address that rules with `ip` judge it by; name your proxies in http.trusted_proxies, then the last address that is none of theirs counts",
        );
    } else if is_believed_from_anybody {
        reader.warn(
            "server.real_ip_header",
            "anybody can send this header, and no http.trusted_proxies says who may",
        );
    } else if is_list_of_proxies && position != 0 {
        reader.warn(
            "server.real_ip_pos",
            "does nothing: of X-Forwarded-For from http.trusted_proxies, the last address that is none of theirs counts",
        );
    }
    Some(server::RealIp { header, position })
}

/// `docker_auth` counts from the end with negative numbers.
fn real_ip_position(reader: &mut Reader<'_>) -> i32 {
    const KEY: &str = "server.real_ip_pos";
    let position = match reader.scalar(KEY) {
        None => Some(0),
        Some((text, true)) => text.parse::<i32>().ok(),
        Some((_, false)) => None,
    };
    if position.is_none() {
        reader.refuse(
            KEY,
            "must be a whole number",
            "0 is the first value of the header, -1 the last",
        );
    }
    let position = position.unwrap_or(0);
    reader.remember(KEY, position);
    position
}

fn drain_secs(reader: &mut Reader<'_>) -> u64 {
    const KEY: &str = "http.draintimeout";
    let secs = match reader.scalar(KEY) {
        None => Some(DRAIN_SECS_DEFAULT),
        Some((text, _)) => duration::whole_secs(text),
    };
    let secs = secs.filter(|secs| *secs <= DRAIN_SECS_MAX);
    if secs.is_none() {
        reader.refuse(
            KEY,
            "must be a duration of at most an hour",
            "written like `30s` or `1m30s`",
        );
    }
    let secs = secs.unwrap_or(DRAIN_SECS_DEFAULT);
    reader.remember(KEY, format_args!("{secs}s"));
    secs
}

/// `state` is where the authority's files lie unless told otherwise.
pub(super) fn tls(reader: &mut Reader<'_>, state: &Path) -> tls::Settings {
    let certificate = reader.path_if_set("http.tls.certificate");
    let key = reader.path_if_set("http.tls.key");
    let minimum = reader.choice(
        "http.tls.minimumtls",
        tls::MinimumVersion::Tls12,
        &[
            ("tls1.2", tls::MinimumVersion::Tls12),
            ("tls1.3", tls::MinimumVersion::Tls13),
            // Older ones are raised: no client of the last decade needs them.
            ("tls1.0", tls::MinimumVersion::Tls12),
            ("tls1.1", tls::MinimumVersion::Tls12),
        ],
    );
    let automatic = reader.node("tls").is_some();
    if reader.is_given("tls") && !automatic {
        reader.refuse(
            "tls",
            "empty; remove the key for plain HTTP, or write `auto`",
            "`tls: auto` makes certificates",
        );
    }
    match (certificate, key) {
        (Some(_), Some(_)) if automatic => {
            reader.refuse("tls", "excludes http.tls", "keep one of the two");
            tls::Settings::None
        }
        (Some(certificate), Some(key)) => {
            pem::check_pair(
                reader,
                ("http.tls.certificate", &certificate),
                ("http.tls.key", &key),
            );
            pem::check_server_certificate(reader, "http.tls.certificate", &certificate);
            tls::Settings::Files {
                certificate,
                key,
                minimum,
            }
        }
        (None, None) if automatic => automatic_tls(reader, state),
        (None, None) => tls::Settings::None,
        (Some(_), None) => {
            reader.refuse(
                "http.tls.certificate",
                "given without http.tls.key",
                "give both",
            );
            tls::Settings::None
        }
        (None, Some(_)) => {
            reader.refuse(
                "http.tls.key",
                "given without http.tls.certificate",
                "give both",
            );
            tls::Settings::None
        }
    }
}

fn automatic_tls(reader: &mut Reader<'_>, state: &Path) -> tls::Settings {
    let is_map = reader
        .node("tls")
        .is_some_and(|node| node.kind() == "a map");
    if is_map {
        return tls::Settings::Automatic {
            hosts: reader.texts("tls.hosts"),
            ca_certificate: reader.path("tls.ca_certificate", state.join("ca.crt")),
            keys_directory: reader.path("tls.keys_directory", state.join("keys")),
        };
    }
    reader.choice("tls", (), &[("auto", ())]);
    tls::Settings::Automatic {
        hosts: Vec::new(),
        ca_certificate: state.join("ca.crt"),
        keys_directory: state.join("keys"),
    }
}

/// The directory of the store, and the one for everything of ours beside it.
pub(super) fn directories(reader: &mut Reader<'_>) -> (PathBuf, PathBuf) {
    let named = reader.node("storage").is_some_and(|storage| {
        storage
            .entries()
            .iter()
            .any(|entry| entry.key == "filesystem")
    });
    let other = reader.node("storage").is_some_and(|storage| {
        storage.entries().iter().any(|entry| {
            let known = keys::look_up(keys::CONFIG, &["storage", &entry.key]);
            matches!(known, Known::Key(Fate::NotYet(_)))
        })
    });
    // A driver that is not built was refused already.
    if !named && !other {
        reader.refuse(
            "storage",
            "no storage is configured",
            "add `storage: {filesystem: {rootdirectory: DIRECTORY}}`, or give the registry's own file as another `--config`",
        );
    }
    let root = reader.path(
        "storage.filesystem.rootdirectory",
        PathBuf::from(ROOT_DIRECTORY_DEFAULT),
    );
    // Beside `docker/`, which belongs to the layout that the old registry reads.
    let state = reader.path("state_directory", root.join("boathouse"));
    (root, state)
}

/// The operations.
pub(super) fn registry(reader: &mut Reader<'_>) -> registry::Settings {
    let references = [
        ("strict", registry::References::Strict),
        ("any", registry::References::Any),
    ];
    registry::Settings {
        deletes_enabled: reader.flag("storage.delete.enabled", false),
        readonly: reader.flag("storage.maintenance.readonly.enabled", false),
        references: reader.choice(
            "validation.manifests.references",
            registry::References::Strict,
            &references,
        ),
        // Only the store's directory can tell; the cli asks it at start.
        case_insensitive: false,
        limits: registry::Limits {
            manifest_size_bytes: reader.count(
                "limits.manifest_size_bytes",
                4 * 1024 * 1024,
                1_024..=16 * MIB,
            ),
            // One client has half of it at most, which must do for the longest manifest.
            whole_bodies_bytes: reader.count(
                "limits.whole_bodies_bytes",
                64 * 1024 * 1024,
                32 * MIB..=1024 * 1024 * MIB,
            ),
            mount_probes: reader.count("limits.mount_probes", 1_000, 0..=1_000_000),
            list_page: reader.count("limits.list_page", 1_000, 1..=100_000),
            catalog_page: reader.count("catalog.maxentries", 1_000, 1..=100_000),
            open_uploads: reader.count("limits.open_uploads", 1_024, 1..=1_000_000),
            grace_period_secs: reader.number(
                "limits.grace_period_secs",
                24 * 60 * 60,
                0..=GRACE_PERIOD_SECS_MAX,
            ),
        },
    }
}
