//! Configuration files as people write them: what is taken, what is refused, and what the message says.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the helpers of tests are tests too"
)]

mod addresses;
mod bucket;
mod documentation;
mod external;
mod health;
mod mistakes;
mod prefix;
mod reload;
mod template;
mod tokens_of_others;
mod users_file;
mod validation;
mod variables;
mod warnings;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use boathouse::auth::{self, RuleText, User};
use boathouse::config::{
    self, ConfigErrors, InForce, Loaded, Place, Signing, Template, TemplateBucket, TemplateStorage,
    UsersFile, UsersFileError,
};
use boathouse::server::Locations;
use boathouse::{registry, store, tls};
use proptest::prelude::*;

const STORAGE: &str = "storage: {filesystem: {rootdirectory: /srv/images}}\n";

/// Loads texts as files `0.yml`, `1.yml`, …
fn load_with(texts: &[&str], environment: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let directory = tempfile::tempdir().expect("a directory");
    let files: Vec<PathBuf> = texts
        .iter()
        .enumerate()
        .map(|(position, text)| {
            let path = directory.path().join(format!("{position}.yml"));
            fs::write(&path, text).expect("written");
            path
        })
        .collect();
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    config::load(&files, &environment)
}

fn load(text: &str) -> Result<Loaded, ConfigErrors> {
    load_with(&[text, STORAGE], &[])
}

fn taken(text: &str) -> Loaded {
    load(text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// All messages, with the directory cut off.
fn refused(text: &str) -> String {
    let errors = load(text).expect_err("refused").to_string();
    let name = errors.find("0.yml").unwrap_or(0);
    errors[name..].to_owned()
}

#[test]
fn a_location_is_absolute_where_a_file_asks_for_it() {
    let locations = |text: &str| taken(text).config.server.locations;
    let host = || Locations::Host("https://lab.example".to_owned());
    assert_eq!(locations("http: {addr: ':1'}\n"), Locations::Relative);
    assert_eq!(
        locations("http: {relativeurls: true}\n"),
        Locations::Relative
    );
    assert_eq!(
        locations("http: {relativeurls: false}\n"),
        Locations::Requested
    );
    assert_eq!(locations("http: {host: 'https://lab.example'}\n"), host());
    for relative in ["true", "false"] {
        let text = format!("http: {{host: 'https://lab.example', relativeurls: {relative}}}\n");
        assert_eq!(locations(&text), host());
    }
    let both = taken("http: {host: 'https://lab.example', relativeurls: true}\n");
    let warned = both
        .warnings
        .iter()
        .any(|text| text.contains("http.relativeurls"));
    assert!(warned, "{:?}", both.warnings);
}

#[test]
fn every_value_of_a_header_is_kept() {
    let text = "http: {headers: {Access-Control-Allow-Methods: [HEAD, GET], X-One: [a]}}\n";
    let headers = taken(text).config.server.headers;
    let of = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let methods = "Access-Control-Allow-Methods";
    let expected = [of(methods, "HEAD"), of(methods, "GET"), of("X-One", "a")];
    assert_eq!(headers, expected);
}

#[test]
fn the_config_of_the_registry_image_is_taken_with_notes() {
    let loaded = load_with(&[include_str!("../golden/registry-image.yml")], &[]).expect("taken");
    let config = loaded.config;
    assert_eq!(config.server.address.to_string(), ":5000");
    assert_eq!(
        config.server.headers,
        [("X-Content-Type-Options".to_owned(), "nosniff".to_owned())]
    );
    assert_eq!(config.storage.to_string(), "/var/lib/registry");
    assert_eq!(config.tls, tls::Settings::None);
    assert!(!config.auth.required);
    assert_eq!(loaded.notes.len(), 2, "{:?}", loaded.notes);
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
}

#[test]
fn absent_keys_mean_what_they_mean_to_distribution() {
    let config = taken("http: {addr: 'localhost:5000'}\n").config;
    assert!(!config.registry.deletes_enabled);
    assert!(!config.registry.readonly);
    assert_eq!(config.registry.references, registry::References::Strict);
    assert!(config.secret.is_none());
    assert!(!config.auth.required);
    assert_eq!(config.auth.signing, Signing::None);
    assert_eq!(config.state_directory, Path::new("/srv/images/boathouse"));
}

#[test]
fn loopback_needs_no_warning() {
    for address in ["127.0.0.1:5000", "'[::1]:5000'", "'localhost:5000'"] {
        let loaded = taken(&format!("http: {{addr: {address}}}\n"));
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{address}");
    }
}

#[test]
fn any_of_our_keys_turns_authentication_on() {
    for text in [
        "users: {}\nacl: []\n",
        "token: {expiration: 60}\nusers: {}\nacl: []\n",
    ] {
        let auth = taken(text).config.auth;
        assert!(auth.required);
        assert_eq!(auth.signing, Signing::Own);
        assert_eq!(auth.issuer, "boathouse");
    }
    assert!(taken("auth: none\n").notes.len() == 1);
}

#[test]
fn plain_scalars_keep_their_text() {
    let config = taken("http: {secret: 0123}\nusers: {0x10: {}, yes: {}, 007: {}}\nacl: [{match: {account: 1e3}, actions: []}]\n").config;
    assert_eq!(config.secret.expect("set").expose(), "0123");
    let names: Vec<&String> = config.auth.accounts.users.keys().collect();
    assert_eq!(names, ["007", "0x10", "yes"]);
    assert_eq!(
        config.auth.accounts.acl[0].text().account.as_deref(),
        Some("1e3")
    );
}

#[test]
fn files_and_documents_merge() {
    let loaded = load_with(
        &[
            "http: {addr: ':1'}\n---\nhttp: {prefix: /x/}\nusers: {amy: {}}\n",
            "users: {bob: {}}\nacl: []\n",
            STORAGE,
        ],
        &[],
    )
    .expect("taken");
    assert_eq!(loaded.config.server.address.to_string(), ":1");
    assert_eq!(loaded.config.server.prefix, "/x/");
    assert_eq!(loaded.config.auth.accounts.users.len(), 2);
    let errors = load_with(&[STORAGE, STORAGE], &[])
        .expect_err("twice")
        .to_string();
    assert!(
        errors.contains("1.yml:1: storage.filesystem.rootdirectory: given twice, also at"),
        "{errors}"
    );
    assert!(errors.contains("0.yml:1"), "{errors}");
}

#[test]
fn anchors_and_merge_keys_are_yamls_own() {
    let config = taken("users:\n  a: &a {labels: {team: [red]}}\n  b:\n    <<: *a\n    password: $2y$x\n  c: *a\nacl: []\n").config;
    assert_eq!(config.auth.accounts.users["b"].labels["team"], ["red"]);
    assert_eq!(
        config.auth.accounts.users["c"],
        config.auth.accounts.users["a"]
    );
}
