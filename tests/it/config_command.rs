//! `boathouse config`: what is in force, several files as one, and the files of the old programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use boathouse::config::{self, Loaded};
use serde_json::Value;

use crate::golden::golden;
use crate::guide;
use crate::lab::Lab;
use crate::program::{Ran, command};

const HASH: &str = "$2y$04$8V8Wmy8aZlSUUPExATbHaeieZ4/V3CAuxE0jmw820Fy60YNJLcyuq";

fn lab() -> Lab {
    let lab = Lab::empty();
    // With relative paths.
    let written = |text: &str, port| text.replace("DIR/", "").replace("ADDRESS", port);
    lab.write("registry.yml", written(guide::REGISTRY, ":5000"));
    let auth_config = guide::AUTH_CONFIG.replace("HASH", HASH);
    lab.write("auth_config.yml", written(&auth_config, ":5001"));
    fs::create_dir(lab.path("registry-data")).unwrap();
    on_both(&lab, &["token-key", "make"]).fine();
    lab
}

fn on_both(lab: &Lab, line: &[&str]) -> Ran {
    let mut command = command(line, &[]);
    command.current_dir(lab.path(""));
    for file in ["registry.yml", "auth_config.yml"] {
        command.arg("--config").arg(lab.path(file));
    }
    Ran::of(&mut command, "")
}

fn merge(lab: &Lab, environment: &[(&str, &str)]) -> Ran {
    let (one, other) = (lab.place("registry.yml"), lab.place("auth_config.yml"));
    Ran::of(
        &mut command(&["config", "merge", &one, &other], environment),
        "",
    )
}

fn load(files: &[PathBuf]) -> Loaded {
    config::load(files, &BTreeMap::new()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Every key in force with its value; a secret with its text.
fn values(loaded: &Loaded) -> Vec<String> {
    let value = |key: &config::InForce| match &key.value {
        config::Value::Secret(secret) => format!("{}: {}", key.key, secret.expose()),
        value => format!("{}: {value}", key.key),
    };
    loaded.in_force.iter().map(value).collect()
}

#[test]
fn what_is_in_force_is_shown_with_its_places_and_without_secrets() {
    let lab = lab();
    let shown = on_both(&lab, &["config", "show"]);
    golden("config-show.yml", &lab.shown(&shown.out));
    let json = on_both(&lab, &["config", "show", "--json"]).fine();
    for secret in [HASH, "redacted", "thisisasecretforhttp"] {
        assert!(!shown.out.contains(secret) && !json.contains(secret));
    }
    let keys: Vec<Value> = serde_json::from_str(&json).unwrap();
    let found = |key: &str| keys.iter().find(|found| found["key"] == key).unwrap();
    assert_eq!(found("http.addr")["value"], ":5000");
    assert_eq!(
        found("http.addr")["from"],
        format!("{}:13", lab.place("registry.yml"))
    );
    assert_eq!(found("acl[2].match.name")["value"], "public/*");
    assert_eq!(found("limits.connections")["from"], "default");
    assert_eq!(found("users_file")["value"], Value::Null);
    // Each of the two files has the issuer, at a place of its own.
    for (key, file) in [
        ("token.issuer", "auth_config.yml"),
        ("auth.token.issuer", "registry.yml"),
    ] {
        let place = found(key)["from"].as_str().unwrap().to_owned();
        assert!(place.contains(file), "{key}: {place}");
    }
}

#[test]
fn several_files_become_one_with_the_same_meaning() {
    let lab = lab();
    let merged = merge(&lab, &[]);
    golden("config-merged.yml", &lab.shown(&merged.out));
    assert!(merged.talk.contains("holds secrets"), "{}", merged.talk);
    // Elsewhere, as a file of its own.
    lab.write("elsewhere/boathouse.yml", &merged.out);
    let before = load(&[lab.path("registry.yml"), lab.path("auth_config.yml")]);
    let after = load(&[lab.path("elsewhere/boathouse.yml")]);
    assert_eq!(values(&before), values(&after));
    assert_eq!(before.config.auth.users(), after.config.auth.users());
    let merged = merge(
        &lab,
        &[("REGISTRY_LOG_LEVEL", "debug"), ("REGISTRY_NO_SUCH", "x")],
    );
    assert!(!merged.out.contains("debug"));
    let said = "not included: environment variables that override it: REGISTRY_LOG_LEVEL\n";
    assert!(merged.talk.contains(said), "{}", merged.talk);
}

/// Each configuration that the real `docker_auth` was asked about and that we take.
#[test]
fn what_is_merged_means_the_same_for_every_recorded_configuration() {
    let lab = Lab::empty();
    let text = include_str!("../oracle/docker-auth-config-validation.jsonl");
    let mut compared = 0;
    for case in text.lines() {
        let case: Value = serde_json::from_str(case).unwrap();
        let auth = case["config_yaml"].as_str().unwrap();
        if auth.contains("\nstorage:") {
            continue;
        }
        lab.write(
            "registry.yml",
            "version: 0.1\nstorage: filesystem\nhttp: {addr: ':1'}\n",
        );
        lab.write("auth.yml", auth);
        let files = [lab.path("registry.yml"), lab.path("auth.yml")];
        // Those about certificates name files that are not there, which merging does not need.
        let Ok(merged) = config::merged(&files, &BTreeMap::new()) else {
            continue;
        };
        let (Ok(before), merged_file) = (
            config::load_again(&files, &BTreeMap::new()),
            Path::new("m/b.yml"),
        ) else {
            continue;
        };
        lab.write(merged_file.to_str().unwrap(), &merged.text);
        let after = config::load_again(&[lab.path(merged_file)], &BTreeMap::new());
        let after =
            after.unwrap_or_else(|errors| panic!("{}: {errors}\n{}", case["id"], merged.text));
        assert_eq!(values(&before), values(&after), "{}", merged.text);
        assert_eq!(before.config.auth.users(), after.config.auth.users());
        assert_eq!(rules(&before), rules(&after), "{}", merged.text);
        compared += 1;
    }
    assert!(compared > 130, "{compared}");
}

fn rules(loaded: &Loaded) -> Vec<String> {
    let rules = loaded.config.auth.rules();
    let texts = rules.iter().map(|rule| {
        let mut text = rule.text().clone();
        text.place.clear();
        format!("{text:?}")
    });
    texts.collect()
}

/// The file, below what was said of it.
fn exported_text(lab: &Lab, ran: &Ran) -> String {
    assert_eq!(ran.code, Some(0), "{}", ran.talk);
    let notes: Vec<String> = ran.talk.lines().map(|line| format!("# {line}\n")).collect();
    lab.shown(&(notes.concat() + &ran.out))
}

#[test]
fn the_old_programs_get_files_of_their_own() {
    let lab = lab();
    let export = |line: &[&str]| {
        let ran = on_both(&lab, &[&["config", "export", "--for"], line].concat());
        exported_text(&lab, &ran)
    };
    golden("export-2.8.yml", &export(&["distribution"]));
    golden(
        "export-3.1.yml",
        &export(&["distribution", "--distribution-version", "3.1"]),
    );
    golden("export-docker-auth.yml", &export(&["docker_auth"]));
    // They serve the same as the files from which they were made.
    let exported =
        |line: &[&str]| on_both(&lab, &[&["config", "export", "--for"], line].concat()).fine();
    lab.write("old/registry.yml", exported(&["distribution"]));
    lab.write("old/auth.yml", exported(&["docker_auth"]));
    let before = load(&[lab.path("registry.yml"), lab.path("auth_config.yml")]);
    let after = load(&[lab.path("old/registry.yml"), lab.path("old/auth.yml")]);
    assert_eq!(values(&before), values(&after));
    assert_eq!(before.config.auth.users(), after.config.auth.users());
    assert_eq!(rules(&before), rules(&after));
}

#[test]
fn each_file_alone_has_its_users_and_its_export() {
    let lab = lab();
    let alone = |line: &[&str], file: &str| {
        let mut command = command(line, &[]);
        command
            .current_dir(lab.path(""))
            .arg("--config")
            .arg(lab.path(file));
        Ran::of(&mut command, "")
    };
    let listed = alone(&["user", "list"], "auth_config.yml").fine();
    assert!(
        listed.contains("tjarosik") && listed.contains("everything"),
        "{listed}"
    );
    let listed = alone(&["user", "list"], "registry.yml");
    assert!(
        listed.talk.contains("another server issues the tokens"),
        "{}",
        listed.talk
    );

    let export = ["config", "export", "--for", "docker_auth"];
    let exported = alone(&export, "auth_config.yml");
    assert!(
        exported.talk.contains("holds the hashes of passwords"),
        "{}",
        exported.talk
    );
    lab.write("again.yml", exported.fine());
    let accounts = |file: &str| {
        let loaded = config::load_accounts_again(&[lab.path(file)], &BTreeMap::new());
        loaded.unwrap_or_else(|errors| panic!("{errors}")).config
    };
    let (before, after) = (accounts("auth_config.yml"), accounts("again.yml"));
    assert_eq!(before.users(), after.users());
    assert_eq!(before.token_pair, after.token_pair);
    let refused = alone(&export, "registry.yml").failed();
    assert!(
        refused.contains("accept the tokens of another server")
            && refused.contains("hint: name the file with the users and rules too"),
        "{refused}"
    );
}

#[test]
fn a_file_that_is_named_twice_is_one_error() {
    let lab = lab();
    let file = lab.place("registry.yml");
    let (other, link) = (lab.place("auth_config.yml"), lab.place("link.yml"));
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let merge = ["config", "merge", &file, &other, &link];
    let refused = Ran::of(&mut command(&merge, &[]), "").failed();
    assert_eq!(
        lab.shown(&refused),
        "error: DIR/link.yml: this file is named twice\nhint: name it once\n"
    );
}

/// An installation that was born here: own certificates, own key, accounts that commands made.
#[test]
fn what_the_old_programs_cannot_do_is_said() {
    let lab = Lab::configured(
        "http: {addr: ':5443'}\n\
         storage: {filesystem: {rootdirectory: DIR/data}, tag: {concurrencylimit: 2}}\n\
         tls: {hosts: [lab.example]}\n\
         users_file: DIR/users.yml\n\
         limits: {connections: 100}\n",
    );
    let account = |name: &str, more: &str| format!("  {name}: {{password: '{HASH}'{more}}}\n");
    lab.write(
        "users.yml",
        [
            "users:\n",
            &account("amy", ""),
            &account("ben", ", expires: 2100-01-01T00:00:00Z"),
            &account("eve", ", expires: 2020-01-01T00:00:00Z"),
            "acl:\n- {match: {account: amy, name: 'home/${account}/*'}, actions: [pull]}\n",
            "revoked: {amy: 2026-01-01T00:00:00Z}\n",
        ]
        .concat(),
    );
    let export = |line: &[&str]| {
        let ran = lab.run(&[&["config", "export", "--for"], line].concat());
        exported_text(&lab, &ran)
    };
    let all = export(&["distribution"])
        + "---\n"
        + &export(&["docker_auth", "--distribution-version", "3.1"]);
    golden("export-of-own.yml", &all);
    let open = Lab::open();
    let refused = open
        .run(&["config", "export", "--for", "docker_auth"])
        .failed();
    assert!(
        refused.contains("docker_auth has nothing to do"),
        "{refused}"
    );
}
