//! Every key of distribution 2.8 and 3.1 and of `docker_auth` 1.14, and what becomes of it.
//!
//! Sources: `configuration/configuration.go`, `registry/handlers/app.go`, `registry/auth`, `registry/storage/driver` and its
//! middleware (v2.8.3, v3.1.2); `auth_server/server/config.go` with the structures of `authn` and `authz` (1.14.0). A key that
//! becomes known to them is added here first.

use std::collections::BTreeMap;

use super::key::{Fate, Source};
use super::keys::{Known, Scope, look_up};

/// What a key of another program comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A section reads it.
    Honoured,
    /// A note says why it does nothing.
    Noted,
    /// An error says what to do instead.
    Refused,
    /// The same, until it is built.
    NotYet,
}

/// Keys below one key, all with one end.
struct Keys {
    source: Source,
    end: End,
    below: &'static str,
    names: &'static str,
}

const fn distribution(end: End, below: &'static str, names: &'static str) -> Keys {
    Keys {
        source: Source::Distribution,
        end,
        below,
        names,
    }
}

const fn docker_auth(end: End, below: &'static str, names: &'static str) -> Keys {
    Keys {
        source: Source::DockerAuth,
        end,
        below,
        names,
    }
}

use End::{Honoured, NotYet, Noted, Refused};

const KEYS: &[Keys] = &[
    distribution(Honoured, "", "version loglevel"),
    distribution(Honoured, "log", "level formatter accesslog.disabled"),
    distribution(Noted, "log", "fields fields.service reportcaller hooks"),
    distribution(
        Noted,
        "log.hooks.[]",
        "disabled type levels options.from options.to options.smtp.addr options.smtp.username options.smtp.password options.smtp.insecure",
    ),
    distribution(
        Noted,
        "reporting",
        "bugsnag.apikey bugsnag.releasestage bugsnag.endpoint newrelic.licensekey newrelic.name newrelic.verbose",
    ),
    distribution(
        Honoured,
        "storage",
        "filesystem.rootdirectory delete.enabled",
    ),
    distribution(
        Honoured,
        "storage.maintenance",
        "readonly.enabled uploadpurging.enabled uploadpurging.age uploadpurging.interval uploadpurging.dryrun",
    ),
    distribution(
        Noted,
        "storage",
        "filesystem.maxthreads tag.concurrencylimit cache.blobdescriptor cache.blobdescriptorsize cache.layerinfo",
    ),
    distribution(
        Honoured,
        "storage.s3",
        "accesskey secretkey region regionendpoint bucket rootdirectory secure skipverify forcepathstyle encrypt keyid storageclass chunksize sessiontoken",
    ),
    distribution(Honoured, "storage", "redirect.disable"),
    distribution(
        Noted,
        "storage.s3",
        "multipartcopychunksize multipartcopymaxconcurrency multipartcopythresholdsize loglevel useragent",
    ),
    distribution(
        Refused,
        "storage.s3",
        "objectacl accelerate usedualstack usefipsendpoint v4auth redirectendpoint",
    ),
    distribution(
        Refused,
        "storage.azure",
        "accountname accountkey container realm rootdirectory connectionstring serviceurl max_retries retry_delay skipverify credentials.type credentials.clientid credentials.tenantid credentials.secret",
    ),
    distribution(
        Refused,
        "storage.gcs",
        "bucket keyfile credentials rootdirectory chunksize maxconcurrency useragent",
    ),
    distribution(
        Refused,
        "storage.swift",
        "username password authurl tenant tenantid domain domainid tenantdomain tenantdomainid trustid region authversion container prefix endpointtype insecureskipverify chunksize secretkey accesskey tempurlcontainerkey tempurlmethods",
    ),
    distribution(
        Refused,
        "storage.oss",
        "accesskeyid accesskeysecret region internal bucket endpoint encrypt encryptionkeyid secure chunksize rootdirectory",
    ),
    distribution(Refused, "storage", "inmemory"),
    distribution(
        Honoured,
        "auth",
        "token.realm token.service token.issuer token.rootcertbundle htpasswd.realm htpasswd.path",
    ),
    distribution(
        Honoured,
        "auth.token",
        "jwks signingalgorithms autoredirect autoredirectpath",
    ),
    distribution(Noted, "auth", "none"),
    distribution(Refused, "auth", "silly.realm silly.service"),
    distribution(
        Refused,
        "middleware",
        "registry repository storage registry.[].name registry.[].disabled registry.[].options",
    ),
    distribution(
        Refused,
        "middleware.storage.[].options",
        "baseurl privatekey keypairid duration ipfilteredby awsregion updatefrequency updatefrenquency iprangesurl scheme host trimpathprefix",
    ),
    distribution(
        Honoured,
        "http",
        "addr host prefix secret relativeurls draintimeout headers.X-One http2.disabled tls.certificate tls.key tls.minimumtls",
    ),
    distribution(
        Honoured,
        "http",
        "net h2c.enabled tls.clientcas tls.clientauth debug.addr debug.prometheus.enabled debug.prometheus.path",
    ),
    distribution(Noted, "http", "tls.ciphersuites"),
    distribution(
        Refused,
        "http.tls.letsencrypt",
        "cachefile email hosts directoryurl",
    ),
    distribution(Noted, "notifications.events", "includereferences"),
    distribution(
        NotYet,
        "notifications.endpoints.[]",
        "name disabled url headers timeout threshold backoff ignoredmediatypes ignore.mediatypes ignore.actions",
    ),
    distribution(
        Noted,
        "redis",
        "addr addrs clientname db protocol username password sentinelusername sentinelpassword maxretries minretrybackoff maxretrybackoff dialtimeout readtimeout writetimeout contexttimeoutenabled poolfifo poolsize pooltimeout minidleconns maxidleconns maxactiveconns connmaxidletime connmaxlifetime maxredirects readonly routebylatency routerandomly mastername disableidentity identitysuffix unstableresp3 tls.enabled tls.certificate tls.key tls.rootcas pool.maxidle pool.maxactive pool.idletimeout",
    ),
    distribution(
        Honoured,
        "health.storagedriver",
        "enabled interval threshold",
    ),
    distribution(Honoured, "health.file.[]", "file interval threshold"),
    distribution(
        Honoured,
        "health.http.[]",
        "uri headers.X-One statuscode timeout interval threshold",
    ),
    distribution(Honoured, "health.tcp.[]", "addr timeout interval threshold"),
    distribution(Honoured, "", "catalog.maxentries tags.maxtags"),
    distribution(
        NotYet,
        "proxy",
        "remoteurl username password ttl cachewritetimeout exec.command exec.lifetime",
    ),
    distribution(
        Honoured,
        "validation",
        "enabled disabled manifests.urls.allow manifests.urls.deny manifests.indexes.platforms manifests.indexes.platformlist.[].architecture manifests.indexes.platformlist.[].os",
    ),
    distribution(Refused, "policy.repository", "classes"),
    distribution(Refused, "compatibility.schema1", "enabled"),
    distribution(Noted, "compatibility.schema1", "signingkeyfile"),
    docker_auth(Honoured, "token", "issuer expiration certificate key"),
    docker_auth(Noted, "token", "disable_legacy_key_id"),
    docker_auth(Honoured, "users.amy", "password labels.team"),
    docker_auth(Honoured, "acl.[]", "actions comment"),
    docker_auth(
        Honoured,
        "acl.[].match",
        "account type name service ip labels.team",
    ),
    docker_auth(
        Refused,
        "google_auth",
        "domain client_id client_secret client_secret_file level_token_db.path level_token_db.token_hash_cost gcs_token_db.bucket gcs_token_db.client_secret_file redis_token_db.redis_options http_timeout",
    ),
    docker_auth(
        Refused,
        "github_auth",
        "organization client_id client_secret client_secret_file level_token_db.path gcs_token_db redis_token_db http_timeout revalidate_after github_web_uri github_api_uri registry_url",
    ),
    docker_auth(
        Refused,
        "gitlab_auth",
        "client_id client_secret client_secret_file level_token_db.path gcs_token_db redis_token_db http_timeout revalidate_after gitlab_web_uri gitlab_api_uri registry_url grant_type redirect_uri",
    ),
    docker_auth(
        Refused,
        "oidc_auth",
        "issuer redirect_url client_id client_secret client_secret_file level_token_db gcs_token_db redis_token_db http_timeout registry_url user_claim label_claims labels_claims scopes",
    ),
    docker_auth(
        Refused,
        "mongo_auth",
        "dial_info.addrs dial_info.timeout dial_info.database dial_info.username dial_info.password_file dial_info.enable_tls collection",
    ),
    docker_auth(Refused, "acl_mongo", "dial_info.addrs collection cache_ttl"),
    docker_auth(Refused, "xorm_auth", "database_type conn_string"),
    docker_auth(Refused, "acl_xorm", "database_type conn_string cache_ttl"),
    docker_auth(
        Refused,
        "",
        "plugin_authn.plugin_path plugin_authz.plugin_path",
    ),
    docker_auth(Refused, "casbin_authz", "model_path policy_path"),
];

/// Those whose end other tests hold: only that they are known.
const KNOWN: &[(&str, &str)] = &[
    ("storage.s3", "endpoint"),
    ("storage.s3aws", "accesskey region regionendpoint bucket"),
    (
        "server",
        "addr net path_prefix real_ip_header real_ip_pos certificate key hsts tls_min_version tls_curve_preferences tls_cipher_suites letsencrypt.host letsencrypt.email letsencrypt.cache_dir",
    ),
    ("ext_auth", "command args"),
    ("ext_authz", "command args"),
    (
        "ldap_auth",
        "addr tls insecure_tls_skip_verify ca_certificate base filter bind_dn bind_password_file labels initial_bind_as_user",
    ),
];

fn paths(below: &str, names: &str) -> Vec<String> {
    let names = names.split_ascii_whitespace();
    names
        .map(|name| super::node::join(below, name).replace("[]", "0"))
        .collect()
}

/// `0` is an item of a list.
fn segments(path: &str) -> Vec<&str> {
    path.split('.')
        .map(|segment| if segment == "0" { "[]" } else { segment })
        .collect()
}

#[test]
fn each_has_the_end_that_is_stated_here() {
    for keys in KEYS {
        for path in paths(keys.below, keys.names) {
            let Known::Key(row) = look_up(Scope::Config, &segments(&path)) else {
                panic!("{path} is not a key");
            };
            let end = match row.fate {
                Fate::Built => Honoured,
                Fate::Harmless(_) => Noted,
                Fate::NotYet(_) => NotYet,
                Fate::Refused(..) => Refused,
            };
            assert_eq!((end, row.source), (keys.end, keys.source), "{path}");
        }
    }
}

/// In a file, with the rest of what the program does.
#[test]
fn none_is_an_unknown_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yml");
    let mine = KEYS.iter().map(|keys| (keys.below, keys.names));
    let mut count = 0;
    for (below, names) in mine.chain(KNOWN.iter().copied()) {
        for path in paths(below, names) {
            // `a: {b: [{c: x}]}`
            let text = path.rsplit('.').fold("x".to_owned(), |inner, segment| {
                if segment == "0" {
                    format!("[{inner}]")
                } else {
                    format!("{{{segment}: {inner}}}")
                }
            });
            std::fs::write(&file, text).unwrap();
            let loaded = super::load(std::slice::from_ref(&file), &BTreeMap::new());
            let said = loaded.map_or_else(|errors| errors.to_string(), |_| String::new());
            assert!(!said.contains("unknown key"), "{path}: {said}");
            count += 1;
        }
    }
    assert!(count > 200, "{count}");
}

#[test]
fn what_is_refused_says_what_to_do_instead() {
    for family in super::keys::FAMILIES {
        for key in family.unread {
            let is_refused = matches!(key.row.fate, Fate::Refused(..));
            let says_nothing = key.row.hint.starts_with("remove the key if");
            assert!(!is_refused || !says_nothing, "{}", key.path);
        }
    }
}
