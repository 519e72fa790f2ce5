//! `tls` and `http.tls`: certificates of our own authority, or the user's.
//!
//! Must not know how certificates are made or served. Invariant: exactly one source of certificates is in force.

use std::path::Path;

use super::error::ConfigError;
use super::key::{
    Family, FilePath, FirstRunValue, InTemplate, Key, OFF, OptionalPath, Paths, Texts, Unread,
    Words, distribution, keys, ours,
};
use super::node::Node;
use super::pem;
use super::reader::Reader;
use crate::tls::{ClientCertificate, Clients, MinimumVersion, Offers, Settings, check_host};

keys! {
    table KEYS;

    /// Certificates of our own authority: `auto`, or the keys below. For your own certificate: `http.tls` instead.
    ///
    /// Without both, the registry serves plain HTTP.
    TLS: Words<()> = ours("tls").words((), &[("auto", ())]).in_template(InTemplate::Heading);

    /// Names and addresses of this machine for its certificate, beside those that are found.
    HOSTS: Texts = ours("tls.hosts").texts().in_template(InTemplate::FirstRun(FirstRunValue::Hosts));

    /// The certificate of the authority, which clients trust.
    CA_CERTIFICATE: FilePath = ours("tls.ca_certificate").path("`ca.crt` in `state_directory`").in_template(InTemplate::FirstRun(FirstRunValue::CaCertificate));

    /// The directory of all private keys that are made here.
    KEYS_DIRECTORY: FilePath = ours("tls.keys_directory").path("`keys` in `state_directory`").in_template(InTemplate::FirstRun(FirstRunValue::KeysDirectory));

    /// Your own certificate, with its chain, as PEM.
    ///
    /// SIGHUP reads the file again; another path needs a restart.
    CERTIFICATE: OptionalPath = distribution("http.tls.certificate").optional_path();

    /// The private key of your own certificate, as PEM.
    ///
    /// SIGHUP reads the file again; another path needs a restart.
    KEY: OptionalPath = distribution("http.tls.key").optional_path();

    /// The lowest version of TLS.
    ///
    /// 1.0 and 1.1 are accepted and mean 1.2.
    MINIMUM_VERSION: Words<MinimumVersion> = distribution("http.tls.minimumtls").words(MinimumVersion::Tls12, VERSIONS);

    /// Certificates of the authorities whose clients may connect, as PEM (mutual TLS, with `http.tls.certificate`).
    ///
    /// It decides who may connect, not what they may do. A change needs a restart.
    CLIENT_AUTHORITIES: Paths = distribution("http.tls.clientcas").paths();

    /// What is asked of clients, with `http.tls.clientcas`.
    ///
    /// The words with `verify` take only certificates of these authorities; those with `require` take no client without a
    /// certificate.
    CLIENT_CERTIFICATE: Words<ClientCertificate> = distribution("http.tls.clientauth").words(ClientCertificate::Verified, CLIENT_CERTIFICATES);
}

const VERSIONS: &[(&str, MinimumVersion)] = &[
    ("tls1.2", MinimumVersion::Tls12),
    ("tls1.3", MinimumVersion::Tls13),
    // Older ones are raised: no client of the last decade needs them.
    ("tls1.0", MinimumVersion::Tls12),
    ("tls1.1", MinimumVersion::Tls12),
];

/// Those of 3.x; 2.8 always asked for the last one.
const CLIENT_CERTIFICATES: &[(&str, ClientCertificate)] = &[
    ("request-client-cert", ClientCertificate::Requested),
    ("require-any-client-cert", ClientCertificate::Any),
    (
        "verify-client-cert-if-given",
        ClientCertificate::VerifiedIfGiven,
    ),
    (
        "require-and-verify-client-cert",
        ClientCertificate::Verified,
    ),
];

const UNREAD: &[Key<Unread>] = &[
    distribution("http.tls.ciphersuites").harmless("not needed: only strong suites are offered"),
    distribution("http.tls.letsencrypt")
        .refused(
            OFF,
            "certificates of public authorities are not fetched here",
        )
        .hint(CADDY),
];

/// Caddy fetches and renews certificates of public authorities; a second client for ACME here would add nothing.
const CADDY: &str = "put Caddy in front, which fetches and renews them: docs/compatibility.md has its configuration; Boathouse listens on loopback, with http.host and http.trusted_proxies";

pub(super) const FAMILY: Family = Family {
    heading: "Certificates",
    intro: "",
    keys: KEYS,
    unread: UNREAD,
};

/// `state` is where the authority's files are unless a key names another place.
pub(super) fn tls(reader: &mut Reader<'_>, state: &Path) -> Settings {
    let certificate = reader.get(&CERTIFICATE);
    let key = reader.get(&KEY);
    let minimum = reader.get(&MINIMUM_VERSION);
    let clients = clients(reader, certificate.is_some());
    let is_automatic = reader.node(TLS.path).is_some();
    if reader.is_given(TLS.path) && !is_automatic {
        reader.refuse(
            TLS.path,
            "empty; remove the key for plain HTTP, or write `auto`",
            "`tls: auto` makes certificates",
        );
    }
    match (certificate, key) {
        (Some(_), Some(_)) if is_automatic => {
            reader.refuse(TLS.path, "excludes http.tls", "keep one of the two");
            Settings::None
        }
        (Some(certificate), Some(key)) => {
            pem::check_pair(reader, (CERTIFICATE.path, &certificate), (KEY.path, &key));
            pem::check_server_certificate(reader, CERTIFICATE.path, &certificate);
            Settings::Files {
                certificate,
                key,
                minimum,
                offers: Offers::default(),
                clients,
            }
        }
        (None, None) if is_automatic => automatic(reader, state),
        (None, None) => Settings::None,
        (Some(_), None) => {
            let message = format!("given without {}", KEY.path);
            reader.refuse(CERTIFICATE.path, &message, "give both");
            Settings::None
        }
        (None, Some(_)) => {
            let message = format!("given without {}", CERTIFICATE.path);
            reader.refuse(KEY.path, &message, "give both");
            Settings::None
        }
    }
}

/// Who may connect. Authorities with a mode that asks no client for a certificate let everyone in: a mistake here; distribution accepts it.
fn clients(reader: &mut Reader<'_>, has_certificate: bool) -> Option<Clients> {
    let authorities = reader.get(&CLIENT_AUTHORITIES);
    let asks_for = reader.get(&CLIENT_CERTIFICATE);
    if authorities.is_empty() {
        if reader.node(CLIENT_CERTIFICATE.path).is_some() {
            reader.warn(
                CLIENT_CERTIFICATE.path,
                "has no effect without http.tls.clientcas: no client is asked for a certificate",
            );
        }
        return None;
    }
    if !has_certificate {
        reader.refuse(
            CLIENT_AUTHORITIES.path,
            "given without http.tls.certificate: no client would be asked for a certificate",
            "give the server's own certificate and key as http.tls.certificate and http.tls.key",
        );
    }
    if reader.looks_at_certificates {
        for path in &authorities {
            pem::certificates(reader, CLIENT_AUTHORITIES.path, path);
        }
    }
    Some(Clients {
        authorities,
        asks_for,
    })
}

fn automatic(reader: &mut Reader<'_>, state: &Path) -> Settings {
    if !reader.node(TLS.path).is_some_and(Node::is_map) {
        reader.get(&TLS);
    }
    let hosts = reader.node(HOSTS.path).map_or(&[][..], Node::items);
    for host in hosts {
        let is_host = |text: &str| check_host(text).is_ok();
        if !host.text().is_none_or(is_host) {
            reader.errors.push(
                ConfigError::new(
                    Some(&host.place),
                    "tls.hosts[]",
                    "not a host name or an address",
                )
                .hint(
                    "written like `registry.lab.example` or `10.0.0.5`: no scheme, no port, no `*`",
                ),
            );
        }
    }
    Settings::Automatic {
        hosts: reader.get(&HOSTS),
        ca_certificate: reader.path(&CA_CERTIFICATE, state.join("ca.crt")),
        keys_directory: reader.path(&KEYS_DIRECTORY, state.join("keys")),
    }
}
