//! Every key that Boathouse knows, in one table: distribution's (2.8 and 3.1), `docker_auth`'s and ours.
//!
//! Must not know what the keys do. Invariant: a key is read by a section only if it is `Built` here, and a key that could open
//! a door when ignored is never `Harmless`. Leaving a key out must change nothing that a client can see to be harmless.

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// A section reads it.
    Built,
    /// Accepted, with all below it, and this note.
    Harmless(&'static str),
    /// An error, with all below it, unless the value is one of these, which change nothing. (`[]` is the empty list.)
    NotYet(&'static [&'static str]),
}

/// One row: the path with dots (`*` is any name, `[]` an item of a list) and its fate.
pub(super) type Key = (&'static str, Fate);

use Fate::{Built, Harmless, NotYet};

const OFF: &[&str] = &["false", "False", "FALSE", "no", "off", "[]"];
const OWN_INDEX: &str = "not needed: the index here needs no cache";
const NO_DRIVER_TUNING: &str =
    "not needed: reads and writes are bounded here by limits.connections";
const NO_LISTENER: &str = "no debug listener is opened";
const ONE_LISTENER: &str =
    "tokens are served by the registry's own listener, whose certificate and versions hold";

/// distribution's `config.yml`; the keys that `REGISTRY_…` variables reach.
pub(super) const DISTRIBUTION: &[Key] = &[
    ("version", Built),
    ("loglevel", Built),
    ("log.level", Built),
    ("log.formatter", Built),
    ("log.accesslog.disabled", Built),
    ("log.fields", Harmless("log lines carry no extra fields")),
    ("log.hooks", Harmless("log lines are not mailed")),
    ("log.reportcaller", Harmless("log lines name their module")),
    ("storage.filesystem.rootdirectory", Built),
    ("storage.filesystem.maxthreads", Harmless(NO_DRIVER_TUNING)),
    ("storage.delete.enabled", Built),
    ("storage.maintenance.readonly.enabled", Built),
    (
        "storage.maintenance.uploadpurging",
        Harmless("abandoned uploads are not purged yet"),
    ),
    (
        "storage.redirect.disable",
        Harmless("a directory never redirects"),
    ),
    ("storage.cache", Harmless(OWN_INDEX)),
    ("storage.tag", Harmless(OWN_INDEX)),
    ("storage.s3", NotYet(&[])),
    ("storage.s3aws", NotYet(&[])),
    ("storage.azure", NotYet(&[])),
    ("storage.gcs", NotYet(&[])),
    ("storage.inmemory", NotYet(&[])),
    ("storage.swift", NotYet(&[])),
    ("storage.oss", NotYet(&[])),
    ("auth.token.realm", Built),
    ("auth.token.service", Built),
    ("auth.token.issuer", Built),
    ("auth.token.rootcertbundle", Built),
    ("auth.token.jwks", NotYet(&[])),
    ("auth.token.signingalgorithms", NotYet(OFF)),
    ("auth.token.autoredirect", NotYet(OFF)),
    (
        "auth.token.autoredirectpath",
        Harmless("only auth.token.autoredirect uses it"),
    ),
    ("auth.htpasswd.realm", Built),
    ("auth.htpasswd.path", Built),
    ("auth.silly", NotYet(&[])),
    (
        "auth.none",
        Harmless("it asks for no authentication, as leaving `auth` out does"),
    ),
    ("middleware", NotYet(OFF)),
    ("http.addr", Built),
    ("http.net", NotYet(&["tcp", ""])),
    ("http.host", Built),
    ("http.prefix", Built),
    ("http.secret", Built),
    ("http.headers.*", Built),
    ("http.relativeurls", Built),
    ("http.draintimeout", Built),
    ("http.http2.disabled", Built),
    ("http.h2c.enabled", NotYet(OFF)),
    ("http.tls.certificate", Built),
    ("http.tls.key", Built),
    ("http.tls.minimumtls", Built),
    ("http.tls.clientcas", NotYet(OFF)),
    ("http.tls.clientauth", NotYet(&[""])),
    (
        "http.tls.ciphersuites",
        Harmless("only suites that are held to be strong are offered"),
    ),
    ("http.tls.letsencrypt", NotYet(&[])),
    ("http.debug", Harmless(NO_LISTENER)),
    (
        "notifications.events",
        Harmless("only notifications.endpoints uses it"),
    ),
    ("notifications.endpoints", NotYet(OFF)),
    ("redis", Harmless(OWN_INDEX)),
    (
        "health.storagedriver",
        Harmless("the store is asked at every request"),
    ),
    ("health.file", NotYet(OFF)),
    ("health.http", NotYet(OFF)),
    ("health.tcp", NotYet(OFF)),
    ("catalog.maxentries", Built),
    (
        "tags.maxtags",
        Harmless("limits.list_page bounds every list"),
    ),
    ("proxy", NotYet(&[])),
    ("validation.enabled", NotYet(&["true", "yes", "on"])),
    ("validation.disabled", NotYet(OFF)),
    ("validation.manifests.urls", NotYet(&[])),
    ("validation.manifests.indexes", NotYet(&[])),
    ("policy", NotYet(&[])),
    (
        "reporting",
        Harmless("nothing is reported to other services"),
    ),
    ("compatibility.schema1.enabled", NotYet(OFF)),
    (
        "compatibility.schema1.trustkey",
        Harmless("only schema 1 images use it"),
    ),
    (
        "compatibility.schema1.signingkeyfile",
        Harmless("only schema 1 images use it"),
    ),
];

/// `docker_auth`'s `auth_config.yml`.
pub(super) const DOCKER_AUTH: &[Key] = &[
    ("server.addr", NotYet(&[])),
    ("server.net", NotYet(&["tcp", ""])),
    ("server.path_prefix", NotYet(&[""])),
    ("server.certificate", Built),
    ("server.key", Built),
    ("server.real_ip_header", Built),
    ("server.real_ip_pos", Built),
    ("server.hsts", NotYet(OFF)),
    ("server.tls_min_version", Harmless(ONE_LISTENER)),
    ("server.tls_curve_preferences", Harmless(ONE_LISTENER)),
    ("server.tls_cipher_suites", Harmless(ONE_LISTENER)),
    ("server.letsencrypt", NotYet(&[])),
    ("token.issuer", Built),
    ("token.expiration", Built),
    ("token.certificate", Built),
    ("token.key", Built),
    (
        "token.disable_legacy_key_id",
        Harmless("tokens carry their certificate, so that old and new registries accept them"),
    ),
    ("users.*.password", Built),
    ("users.*.labels.*", Built),
    ("acl.[].match.account", Built),
    ("acl.[].match.type", Built),
    ("acl.[].match.name", Built),
    ("acl.[].match.service", Built),
    ("acl.[].match.ip", Built),
    ("acl.[].match.labels.*", Built),
    ("acl.[].actions", Built),
    ("acl.[].comment", Built),
    ("ext_auth", NotYet(&[])),
    ("ext_authz", NotYet(&[])),
    ("ldap_auth", NotYet(&[])),
    ("oidc_auth", NotYet(&[])),
    ("google_auth", NotYet(&[])),
    ("github_auth", NotYet(&[])),
    ("gitlab_auth", NotYet(&[])),
    ("mongo_auth", NotYet(&[])),
    ("xorm_auth", NotYet(&[])),
    ("plugin_authn", NotYet(&[])),
    ("acl_mongo", NotYet(&[])),
    ("acl_xorm", NotYet(&[])),
    ("plugin_authz", NotYet(&[])),
    ("casbin_authz", NotYet(&[])),
];

/// Ours.
pub(super) const OURS: &[Key] = &[
    ("tls", Built),
    ("tls.hosts", Built),
    ("tls.ca_certificate", Built),
    ("tls.keys_directory", Built),
    ("users_file", Built),
    ("state_directory", Built),
    ("relative_paths", Built),
    ("http.trusted_proxies", Built),
    ("validation.manifests.references", Built),
    ("token.refresh_tokens", Built),
    ("retention", NotYet(&[])),
    ("mirrors", NotYet(OFF)),
    ("trust", NotYet(&[])),
    ("limits.connections", Built),
    ("limits.stall_secs", Built),
    ("limits.header_secs", Built),
    ("limits.handshake_secs", Built),
    ("limits.token_body_bytes", Built),
    ("limits.floor_bytes_per_sec", Built),
    ("limits.manifest_size_bytes", Built),
    ("limits.whole_bodies_bytes", Built),
    ("limits.whole_body_secs", Built),
    ("limits.mount_probes", Built),
    ("limits.list_page", Built),
    ("limits.open_uploads", Built),
    ("limits.grace_period_secs", Built),
    ("limits.failed_logins", Built),
];

/// What a `users_file` may hold, beside `docker_auth`'s `users` and `acl`.
pub(super) const USERS_FILE: &[Key] = &[
    ("users.*.password", Built),
    ("users.*.labels.*", Built),
    ("users.*.expires", Built),
    ("users.*.valid_after", Built),
    ("acl.[].match.account", Built),
    ("acl.[].match.type", Built),
    ("acl.[].match.name", Built),
    ("acl.[].match.service", Built),
    ("acl.[].match.ip", Built),
    ("acl.[].match.labels.*", Built),
    ("acl.[].actions", Built),
    ("acl.[].comment", Built),
    ("revoked.*", Built),
];

/// The tables of a configuration file.
pub(super) const CONFIG: &[&[Key]] = &[DISTRIBUTION, DOCKER_AUTH, OURS];

/// What the tables say about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// The path is a row, or lies below one whose fate covers all below it.
    Key(Fate),
    /// Rows begin with this path; `list` if they go on with items of a list.
    Prefix {
        /// Whether a list is expected here rather than a map.
        list: bool,
    },
    /// Nothing of the kind.
    Unknown,
}

/// Looks a path up; a row that also has rows below it is a `Key`.
pub(super) fn look_up(tables: &[&[Key]], path: &[&str]) -> Known {
    let mut prefix = None;
    for (row, fate) in tables.iter().copied().flatten() {
        let mut wanted = row.split('.');
        let mut given = path.iter().copied();
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return Known::Key(*fate),
                (None, Some(_)) if *fate != Built => return Known::Key(*fate),
                (Some(next), None) => {
                    prefix = Some(next == "[]");
                    break;
                }
                (Some(row), Some(key)) if row == key || (row == "*" && key != "[]") => {}
                (None | Some(_), Some(_)) => break,
            }
        }
    }
    prefix.map_or(Known::Unknown, |list| Known::Prefix { list })
}

/// Whether rows lie below this path.
pub(super) fn has_children(tables: &[&[Key]], path: &str) -> bool {
    let path = format!("{path}.");
    tables
        .iter()
        .copied()
        .flatten()
        .any(|(row, _)| row.starts_with(&path))
}

/// The known key that was probably meant: a sibling spelt alike, else the same name elsewhere.
pub(super) fn nearest(tables: &[&[Key]], path: &[&str]) -> Option<String> {
    let (key, parents) = path.split_last()?;
    let key = key.to_lowercase();
    // Two slips, or one for a short word; more would suggest nonsense.
    let distance_max = if key.len() < 4 { 1 } else { 2 };
    let rows = || tables.iter().copied().flatten().map(|(row, _)| *row);
    let sibling = rows()
        .filter_map(|row| {
            let mut segments = row.split('.');
            let below = parents.iter().all(|parent| {
                segments
                    .next()
                    .is_some_and(|row| row == "*" || row == *parent)
            });
            segments
                .next()
                .filter(|next| below && !["*", "[]"].contains(next))
        })
        .map(|name| (strsim::levenshtein(&key, name), name))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map(|(_, name)| super::node::join(&parents.join("."), name));
    sibling.or_else(|| {
        rows()
            .find(|row| row.rsplit('.').next() == Some(&key))
            .map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_a_sibling_or_the_same_name_elsewhere() {
        assert_eq!(
            nearest(CONFIG, &["http", "adr"]).as_deref(),
            Some("http.addr")
        );
        assert_eq!(nearest(CONFIG, &["ACL"]).as_deref(), Some("acl"));
        assert_eq!(
            nearest(CONFIG, &["rootdirectory"]).as_deref(),
            Some("storage.filesystem.rootdirectory")
        );
        assert_eq!(nearest(CONFIG, &["zzzzzzzz"]), None);
        assert_eq!(
            nearest(CONFIG, &["acl", "[]", "match", "acount"]).as_deref(),
            Some("acl.[].match.account")
        );
    }

    #[test]
    fn no_key_stands_in_the_table_twice() {
        let mut rows: Vec<&str> = CONFIG.iter().copied().flatten().map(|row| row.0).collect();
        rows.sort_unstable();
        let before = rows.len();
        rows.dedup();
        assert_eq!(rows.len(), before);
    }
}
