//! What the real `docker_auth` started with, and what we take.
//!
//! `tests/oracle/docker-auth-config-validation.jsonl` holds 383 configurations and what `docker_auth` said to each. Ours must
//! say the same, but for the rules below, each with its reason and the very configurations that it covers.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the helpers of tests are tests too"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use boathouse::config;
use boathouse::server::Listener;
use serde_json::Value;

/// An intended difference.
struct Rule {
    reason: &'static str,
    /// What `docker_auth` said; we say the opposite.
    accepted: bool,
    ids: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        reason: "an unknown key opens a door or shuts one by accident, so it is refused",
        accepted: true,
        ids: &[
            "actions-singular",
            "actions-under-match",
            "entry-unknown-key",
            "match-misspelt-account",
            "match-unknown-key",
            "server-unknown-key",
            "token-unknown-key",
            "unknown-top-level-key",
            "user-unknown-key",
            "user-upper-case-key",
        ],
    },
    Rule {
        reason: "a key given twice is a mistake; there the last one holds",
        accepted: true,
        ids: &[
            "duplicate-acl",
            "duplicate-server",
            "duplicate-users",
            "match-account-twice",
            "user-name-twice",
        ],
    },
    Rule {
        reason: "later documents are read here, so a key given in both and a document that is not YAML are mistakes",
        accepted: true,
        ids: &["file-two-documents", "file-two-documents-second-bad"],
    },
    Rule {
        reason: "certificates by ACME: a proxy in front fetches them",
        accepted: true,
        ids: &["letsencrypt-host-only", "letsencrypt-plain-http"],
    },
    Rule {
        reason: "a whole number is decimal digits within a stated range: YAML's other forms mislead",
        accepted: true,
        ids: &[
            "expiration-binary",
            "expiration-exponent",
            "expiration-float",
            "expiration-fraction",
            "expiration-hex",
            "expiration-max",
            "expiration-octal",
            "expiration-old-octal",
            "expiration-old-octal-valid",
            "expiration-plus",
            "expiration-underscore",
            "real-ip-pos-float",
        ],
    },
    Rule {
        reason: "a rule without actions, at which docker_auth crashes when asked",
        accepted: true,
        ids: &["actions-missing", "actions-null"],
    },
    Rule {
        reason: "a null among texts, or as a user's name (there the anonymous user), is a slip",
        accepted: true,
        ids: &[
            "actions-null-item",
            "actions-numbers",
            "labels-typed-values",
            "user-name-null-word",
            "user-name-tilde",
        ],
    },
    Rule {
        reason: "the name of a header that no request can carry",
        accepted: true,
        ids: &["real-ip-header-odd"],
    },
    Rule {
        reason: "a realm without a scheme, which no client can open (docker_auth does not read the registry's keys)",
        accepted: true,
        ids: &["registry-config-keys-beside"],
    },
    Rule {
        reason: "no listener of docker_auth's own is needed, so no address either",
        accepted: false,
        ids: &["addr-null", "server-empty", "server-missing", "server-null"],
    },
    Rule {
        reason: "the issuer, the lifetime and the key have defaults here",
        accepted: false,
        ids: &[
            "expiration-missing",
            "expiration-null",
            "issuer-missing",
            "issuer-null",
            "token-missing",
            "token-no-pair",
            "token-null",
        ],
    },
    Rule {
        reason: "values of keys that have no effect here are not looked at",
        accepted: false,
        ids: &["token-thumbprint-text"],
    },
];

/// The registry's half, without which there is no store.
const REGISTRY: &str = "version: 0.1\nstorage: filesystem\n";

#[test]
fn we_take_what_docker_auth_takes_but_for_the_named_rules() {
    let directory = tempfile::tempdir().expect("a directory");
    write_pairs(directory.path());
    let mut different: BTreeMap<bool, BTreeSet<String>> = BTreeMap::new();
    for case in cases() {
        let id = case["id"].as_str().expect("id").to_owned();
        let accepted = case["accepted"].as_bool().expect("accepted");
        let ours = load(
            directory.path(),
            case["config_yaml"].as_str().expect("text"),
        );
        if let (Ok(loaded), true) = (&ours, accepted) {
            same_lifetime(&id, &case, loaded);
        }
        let is_refused_by_system = case["error"]
            .as_str()
            .is_some_and(|error| error.starts_with("listen "));
        let is_taken = match &ours {
            Ok(loaded) if is_refused_by_system => can_listen(loaded),
            ours => ours.is_ok(),
        };
        if is_taken != accepted {
            different.entry(accepted).or_default().insert(id);
        }
    }
    for rule in RULES {
        println!("{} × {}", rule.ids.len(), rule.reason);
    }
    for accepted in [true, false] {
        let intended: BTreeSet<String> = RULES
            .iter()
            .filter(|rule| rule.accepted == accepted)
            .flat_map(|rule| rule.ids.iter().map(|id| (*id).to_owned()))
            .collect();
        let found = different.remove(&accepted).unwrap_or_default();
        assert_eq!(
            found.symmetric_difference(&intended).collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "docker_auth accepted: {accepted}"
        );
    }
}

fn cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/oracle/docker-auth-config-validation.jsonl");
    let text = fs::read_to_string(path).expect("the oracle");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn load(directory: &Path, text: &str) -> Result<config::Loaded, config::ConfigErrors> {
    let files: Vec<PathBuf> = ["registry.yml", "auth.yml"]
        .map(|name| directory.join(name))
        .into();
    // The case that brings the registry's keys along must not meet them twice.
    let brings_storage = text.contains("\nstorage:");
    fs::write(
        &files[0],
        if brings_storage {
            "log: {level: info}\n"
        } else {
            REGISTRY
        },
    )
    .expect("written");
    fs::write(&files[1], with_paths(directory, text)).expect("written");
    let search_path = std::env::var("PATH").expect("PATH");
    config::load(&files, &BTreeMap::from([("PATH".to_owned(), search_path)]))
}

/// The files stood in `docker_auth`'s working directory.
fn with_paths(directory: &Path, text: &str) -> String {
    let names = regex::Regex::new(r#"(?m)((?:certificate|key|"certificate"|"key"): ?"?)([\w.]+)"#)
        .expect("a pattern");
    let directory = directory.display();
    names
        .replace_all(text, |found: &regex::Captures<'_>| {
            format!("{}{directory}/{}", &found[1], &found[2])
        })
        .into_owned()
}

/// Whether the system lets `docker_auth`'s listener have its address.
fn can_listen(loaded: &config::Loaded) -> bool {
    let listener = loaded.config.token_listener.as_ref();
    let settings = listener.expect("a listener").server.clone();
    Listener::on(settings).is_ok()
}

fn same_lifetime(id: &str, case: &Value, loaded: &config::Loaded) {
    let probes = case["probes"].as_array();
    for probe in probes.into_iter().flatten() {
        if let Some(secs) = probe["lifetime_secs"].as_u64() {
            assert_eq!(loaded.config.auth.lifetime_secs, secs, "{id}");
        }
    }
}

fn write_pairs(directory: &Path) {
    fs::create_dir(directory.join("cache")).expect("a folder");
    let kinds = [
        ("token", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("other", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("rsa", &rcgen::PKCS_RSA_SHA256),
        ("p384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("p521", &rcgen::PKCS_ECDSA_P521_SHA512),
        ("ed25519", &rcgen::PKCS_ED25519),
    ];
    for (name, algorithm) in kinds {
        let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let certificate = rcgen::CertificateParams::new([name.to_owned()])
            .and_then(|parameters| parameters.self_signed(&key))
            .expect("a certificate");
        fs::write(directory.join(format!("{name}.crt")), certificate.pem()).expect("written");
        fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).expect("written");
    }
    fs::write(directory.join("p224.crt"), P224_CERTIFICATE).expect("written");
    fs::write(directory.join("p224.key"), P224_KEY).expect("written");
}

/// A curve that no tool here makes; thrown away, used nowhere else.
const P224_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MHgCAQAwEAYHKoZIzj0CAQYFK4EEACEEYTBfAgEBBBwGt/HrzBYJOKEvzHGykxcG
gAx0i4OZZ2ghqz/joTwDOgAEN1QM1bMZrdR44s3vKIUp2ciyRo76Vju0lSmvsck7
wX9/tX6B0D4AKGSaD7jDyhHKwjG2qA2rotY=
-----END PRIVATE KEY-----
";
const P224_CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBYjCCARCgAwIBAgIUVPZRD8vcHE0kpV/PFhl2Dun/X7QwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEcDIyNDAgFw0yNjExMjMyMjQ4MzJaGA8yMTI2MTAzMDIyNDgz
MlowDzENMAsGA1UEAwwEcDIyNDBOMBAGByqGSM49AgEGBSuBBAAhAzoABDdUDNWz
Ga3UeOLN7yiFKdnIskaO+lY7tJUpr7HJO8F/f7V+gdA+AChkmg+4w8oRysIxtqgN
q6LWo1MwUTAdBgNVHQ4EFgQUnp7vUc6uIk3PBjpsg0DnohlVIbYwHwYDVR0jBBgw
FoAUnp7vUc6uIk3PBjpsg0DnohlVIbYwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjO
PQQDAgNAADA9AhxY7BaV6eExOb234uBjNcOCcK4ZawFshczdufo7Ah0A1sYFbHc3
TqlFqTAkoxkop6r0Zq4n1xL0UHXsLw==
-----END CERTIFICATE-----
";
