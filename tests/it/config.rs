//! Configuration files as people write them: what is taken, what is refused, and what the message says.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the helpers of tests are tests too"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use boathouse::auth::{self, RuleText, User};
use boathouse::cli::check::Check;
use boathouse::config::{
    self, ConfigErrors, InForce, Loaded, Place, Signing, Template, UsersFile, UsersFileError,
};
use boathouse::{registry, tls};
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
fn the_config_of_the_registry_image_is_taken_with_notes() {
    let loaded = load_with(
        &["version: 0.1\nlog:\n  fields:\n    service: registry\nstorage:\n  cache:\n    blobdescriptor: inmemory\n  \
           filesystem:\n    rootdirectory: /var/lib/registry\nhttp:\n  addr: :5000\n  headers:\n    \
           X-Content-Type-Options: [nosniff]\nhealth:\n  storagedriver:\n    enabled: true\n    interval: 10s\n    \
           threshold: 3\n"],
        &[],
    )
    .expect("taken");
    let config = loaded.config;
    assert_eq!(config.server.address, ":5000");
    assert_eq!(
        config.server.headers,
        [("X-Content-Type-Options".to_owned(), "nosniff".to_owned())]
    );
    assert_eq!(config.root_directory, Path::new("/var/lib/registry"));
    assert_eq!(config.tls, tls::Settings::None);
    assert!(!config.auth.required);
    assert_eq!(loaded.notes.len(), 3, "{:?}", loaded.notes);
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

/// A text, and a part of what is said about it.
const MISTAKES: &[(&str, &str)] = &[
    (
        "http:\n  adr: ':1'\n",
        "0.yml:2: http.adr: unknown key\nhint: did you mean `http.addr`?",
    ),
    (
        "ACL: []\n",
        "0.yml:1: ACL: unknown key\nhint: did you mean `acl`?",
    ),
    (
        "proxy: {remoteurl: 'https://x'}\n",
        "0.yml:1: proxy: not supported yet\n",
    ),
    (
        "ext_auth: {command: /bin/true}\n",
        "0.yml:1: ext_auth: not supported yet\n",
    ),
    (
        "auth: {htpasswd: {realm: x, path: /no/such}}\n",
        "/no/such: cannot be opened",
    ),
    (
        "auth: {htpasswd: {realm: x}}\n",
        "auth.htpasswd.path: missing",
    ),
    (
        "auth: {htpasswd: {realm: x, path: /dev/null}}\nacl:\n",
        "0.yml:2: acl: no rules are configured",
    ),
    (
        "auth: {htpasswd: {realm: x, path: /dev/null}}\nusers: {}\nacl: []\n",
        "0.yml:2: users: cannot stand beside auth.htpasswd",
    ),
    ("http:\n\taddr: ':1'\n", "0.yml:2: this is not YAML\n"),
    ("a: {b\n", "this is not YAML"),
    ("", "0.yml: holds no key\n"),
    ("# nothing\n", "0.yml: holds no key\n"),
    (
        "- a\n",
        "0.yml:1: the file must be a map of keys, not a list\n",
    ),
    ("http: [1]\n", "0.yml:1: http: must be a map, not a list"),
    (
        "http: {addr: [1]}\n",
        "0.yml:1: http.addr: must be a single value, not a list",
    ),
    (
        "http: {addr: nonsense}\n",
        "0.yml:1: http.addr: must be an address and a port\n",
    ),
    ("acl: {}\n", "0.yml:1: acl: must be a list, not a map"),
    (
        "acl: [x]\nusers: {}\n",
        "0.yml:1: acl[]: must be a map, not a single value",
    ),
    (
        "users: {}\nacl:\n- actions: []\n",
        "0.yml:3: acl[0]: a rule without `match`\n",
    ),
    ("version: 0.2\n", "0.yml:1: version: must be 0.1\n"),
    (
        "storage: {delete: {enabled: 'true'}}\n",
        "0.yml:1: storage.delete.enabled: must be true or false\n",
    ),
    (
        "limits: {list_page: 010}\n",
        "0.yml:1: limits.list_page: must be a whole number from 1 to 100000\n",
    ),
    (
        "http: {draintimeout: 5x}\n",
        "0.yml:1: http.draintimeout: must be a duration of at most an hour\n",
    ),
    (
        "tls: maybe\n",
        "0.yml:1: tls: not a word that is known here\nhint: one of auto",
    ),
    (
        "tls: auto\nhttp: {tls: {certificate: /no/c, key: /no/k}}\n",
        "0.yml:1: tls: excludes http.tls\n",
    ),
    (
        "http: {tls: {certificate: c}}\n",
        "0.yml:1: http.tls.certificate: given without http.tls.key\n",
    ),
    ("users: {}\n", "acl: no rules are configured\n"),
    (
        "token: {issuer: a}\nauth: {token: {issuer: b}}\nusers: {}\nacl: []\n",
        "0.yml:2: auth.token.issuer: differs from token.issuer\n",
    ),
    (
        "auth: {token: {realm: x, service: y, issuer: z}}\n",
        "auth.token.rootcertbundle: missing",
    ),
    (
        "loglevel: info\nloglevel: debug\n",
        "0.yml:2: this key stands here for the second time\n",
    ),
    (
        "http: {addr: ':1'}\n---\nhttp: {addr: ':2'}\n",
        "0.yml:3: http.addr: given twice, also at ",
    ),
    ("users: *nobody\n", "0.yml:1: an alias"),
    ("users_file: /\n", "cannot be read"),
    (
        "users: {}\nacl:\n- match: {name: /(/}\n  actions: []\n",
        "0.yml:3: acl[].match.name: not a regular expression",
    ),
    (
        "users: {}\nacl: [{match: {ip: 10.0.0}, actions: []}]\n",
        "0.yml:2: acl[].match.ip: neither an address nor a network\n",
    ),
    ("storage: s3\n", "0.yml:1: storage.s3: not supported yet\n"),
    (
        "users:\n  amy: {password: $2y$17$abcdefghijklmnopqrstuu5nTzPGVsNTFuMqkPVtDFQi7HyyPrHx2}\nacl: []\n",
        "0.yml:2: users.amy.password: this bcrypt hash is too dear",
    ),
    ("users:\n", "0.yml:1: users: no users are configured\n"),
    ("tls:\n", "0.yml:1: tls: empty; remove the key"),
    ("acl:\n", "0.yml:1: acl: no rules are configured\n"),
    ("users_file:\n", "users: no users are configured\n"),
    ("token:\n", "users: no users are configured\n"),
    (
        "users: {}\nacl:\n",
        "0.yml:2: acl: no rules are configured\n",
    ),
    ("auth:\n", "0.yml:1: auth: empty; remove the key, or write"),
    (
        "auth: {}\n",
        "0.yml:1: auth: empty; remove the key, or write",
    ),
];

#[test]
fn each_mistake_is_told_with_line_key_and_hint() {
    for (text, expected) in MISTAKES {
        let message = refused(text);
        assert!(
            message.contains(expected),
            "{text:?}\nexpected {expected:?}\ngot {message:?}"
        );
    }
}

#[test]
fn several_mistakes_are_told_together() {
    let errors = load("htp: 1\nlimits: {list_page: x}\nproxy: {a: b}\n").expect_err("refused");
    assert_eq!(errors.iter().count(), 3, "{errors}");
}

#[test]
fn no_value_and_no_neighbouring_line_is_ever_told() {
    const SECRET: &str = "s3cr3t-hunter2";
    let around = |line: &str| {
        format!(
            "http:\n  secret: {SECRET}\n{line}\nusers:\n  amy: {{password: {SECRET}}}\nacl: []\n"
        )
    };
    let lines = [
        "  adr: x".to_owned(),
        "\taddr: x".to_owned(),
        format!("  prefix: {SECRET}"),
        format!("  addr: {SECRET}"),
        format!("  host: {SECRET}"),
        format!("  draintimeout: {SECRET}"),
        format!("  addr: *{SECRET}"),
        format!("  addr: !{SECRET} x"),
        format!("  addr: !!int {SECRET}"),
        format!("  tls: {{minimumtls: {SECRET}}}"),
        format!("  secret: [{SECRET}]"),
        format!("  addr: \"{SECRET}"),
        format!("  trusted_proxies: [{SECRET}]"),
        format!("limits: {{list_page: {SECRET}}}"),
        format!("log: {{level: {SECRET}}}"),
        format!("server: {{real_ip_pos: {SECRET}}}"),
        format!("version: {SECRET}"),
    ];
    for line in lines {
        let errors = load(&around(&line)).expect_err(&line);
        assert!(!errors.to_string().contains(SECRET), "{line}: {errors}");
        assert!(!format!("{errors:?}").contains(SECRET), "{line}");
    }
    let loaded = taken(&around("  prefix: ''"));
    assert!(!format!("{loaded:?}").contains(SECRET));
    assert_eq!(loaded.config.secret.expect("set").expose(), SECRET);
}

#[test]
fn plain_scalars_keep_their_text() {
    let config = taken("http: {secret: 0123}\nusers: {0x10: {}, yes: {}, 007: {}}\nacl: [{match: {account: 1e3}, actions: []}]\n").config;
    assert_eq!(config.secret.expect("set").expose(), "0123");
    let names: Vec<&String> = config.auth.users.keys().collect();
    assert_eq!(names, ["007", "0x10", "yes"]);
    assert_eq!(config.auth.acl[0].text().account.as_deref(), Some("1e3"));
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
    assert_eq!(loaded.config.server.address, ":1");
    assert_eq!(loaded.config.server.prefix, "/x/");
    assert_eq!(loaded.config.auth.users.len(), 2);
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
    assert_eq!(config.auth.users["b"].labels["team"], ["red"]);
    assert_eq!(config.auth.users["c"], config.auth.users["a"]);
}

#[test]
fn not_utf8_too_long_and_too_deep_are_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("c.yml");
    let message = |bytes: &[u8]| {
        fs::write(&file, bytes).expect("written");
        config::load(std::slice::from_ref(&file), &BTreeMap::new())
            .expect_err("refused")
            .to_string()
    };
    assert!(message(b"a: b\nc: \xff\n").contains("c.yml:2: not UTF-8"));
    assert!(message(&vec![b'#'; 9 * 1024 * 1024]).contains("longer than 8 MiB"));
    assert!(message("[".repeat(5_000).as_bytes()).contains("c.yml:1"));
    assert!(message("a: ".repeat(100).as_bytes()).contains("c.yml:1"));
    fs::remove_file(&file).expect("removed");
    let missing = config::load(&[file], &BTreeMap::new())
        .expect_err("missing")
        .to_string();
    assert!(missing.contains("cannot be opened"), "{missing}");
}

#[test]
fn variables_override_as_in_distribution() {
    let file =
        "http: {addr: ':1', headers: {X-One: [a]}}\nstorage: {filesystem: {rootdirectory: /a}}\n";
    let loaded = load_with(
        &[file],
        &[
            ("REGISTRY_HTTP_ADDR", ":2"),
            ("REGISTRY_HTTP_HEADERS_X-ONE", "[b]"),
            ("REGISTRY_HTTP_SECRET", "0123"),
            ("REGISTRY_STORAGE", "filesystem"),
            ("REGISTRY_STORAGE_DELETE_ENABLED", "true"),
            ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/b"),
            ("REGISTRY_PORT", "tcp://10.0.0.1:5000"),
            ("REGISTRY_USERS_FILE", "/x"),
            ("HOME", "/root"),
        ],
    )
    .expect("taken");
    assert_eq!(loaded.config.server.address, ":2");
    assert_eq!(
        loaded.config.server.headers,
        [("X-One".to_owned(), "b".to_owned())]
    );
    assert_eq!(loaded.config.root_directory, Path::new("/b"));
    assert!(loaded.config.registry.deletes_enabled);
    assert_eq!(loaded.config.secret.expect("set").expose(), "0123");
    let about = |name: &str| {
        loaded
            .warnings
            .iter()
            .any(|warning| warning.starts_with(name))
    };
    assert!(
        about("REGISTRY_PORT: ") && about("REGISTRY_USERS_FILE: "),
        "{:?}",
        loaded.warnings
    );
    assert!(
        !loaded
            .warnings
            .iter()
            .any(|warning| warning.contains("10.0.0.1"))
    );
    let shown: Vec<String> = loaded.in_force.iter().map(InForce::to_string).collect();
    assert!(
        shown.contains(&"http.addr: :2  # REGISTRY_HTTP_ADDR".to_owned()),
        "{shown:?}"
    );
    assert!(shown.contains(&"http.secret: (set)  # REGISTRY_HTTP_SECRET".to_owned()));
    assert!(shown.contains(&"http.prefix: \"\"  # default".to_owned()));

    let errors = load_with(
        &[file],
        &[
            ("REGISTRY_STORAGE_DELETE_ENABLED", "maybe"),
            ("REGISTRY_PROXY_REMOTEURL", "x"),
        ],
    )
    .expect_err("refused")
    .to_string();
    assert!(
        errors.contains("REGISTRY_STORAGE_DELETE_ENABLED: storage.delete.enabled: must be"),
        "{errors}"
    );
    assert!(
        errors.contains("REGISTRY_PROXY_REMOTEURL: proxy: not supported yet"),
        "{errors}"
    );
}

#[test]
fn a_variable_that_empties_auth_does_not_open_the_door() {
    let file = "auth: {token: {realm: x, service: y, issuer: z, rootcertbundle: /no}}\n";
    for (name, value, expected) in [
        ("REGISTRY_AUTH", "", "REGISTRY_AUTH: auth: empty"),
        ("REGISTRY_AUTH", "{}", "REGISTRY_AUTH: auth: empty"),
        ("REGISTRY_AUTH_TOKEN", "", "auth: names no scheme"),
    ] {
        let errors = load_with(&[file, STORAGE], &[(name, value)]).expect_err("refused");
        assert!(errors.to_string().contains(expected), "{errors}");
    }
}

#[test]
fn a_storage_variable_replaces_the_whole_map() {
    let errors = load_with(&[STORAGE], &[("REGISTRY_STORAGE", "s3")]).expect_err("refused");
    assert!(
        errors
            .to_string()
            .contains("REGISTRY_STORAGE: storage.s3: not supported yet"),
        "{errors}"
    );
}

#[test]
fn warnings_name_what_is_seldom_meant() {
    let loaded = taken(
        "http: {addr: 'localhost:1'}\nserver: {real_ip_header: X-Real-IP}\nusers: {amy: {}, bob: {password: plain}, '': {}}\nacl: []\n",
    );
    assert_eq!(loaded.warnings.len(), 3, "{:?}", loaded.warnings);
    assert!(!format!("{:?}", loaded.warnings).contains("plain\""));
    for (proxies, warnings) in [("[]", 1), ("[10.0.0.1]", 0)] {
        let loaded = taken(&format!(
            "http: {{addr: 'localhost:1', trusted_proxies: {proxies}}}\nserver: {{real_ip_header: X-Real-IP}}\n"
        ));
        assert_eq!(loaded.warnings.len(), warnings, "{:?}", loaded.warnings);
    }
}

#[test]
fn a_revocation_of_nobody_and_a_short_secret_are_warned_of() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("users.yml");
    fs::write(&path, "revoked: {bbo: 2026-01-01T00:00:00Z}\n").expect("written");
    for (secret, warnings) in [("fifteen-letters", 2), ("sixteen-letters-", 1)] {
        let loaded = taken(&format!(
            "http: {{addr: 'localhost:1', secret: {secret}}}\nusers: {{bob: {{password: $2y$x}}}}\nacl: []\nusers_file: {}\n",
            path.display()
        ));
        assert_eq!(loaded.warnings.len(), warnings, "{:?}", loaded.warnings);
        assert!(
            loaded
                .warnings
                .iter()
                .any(|text| text.contains("revoked.bbo: there is no such user"))
        );
        assert!(!format!("{:?}", loaded.warnings).contains(secret));
    }
}

#[test]
fn the_users_file_adds_users_and_rules() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("users.yml");
    fs::write(&path, "users: {amy: {password: $2y$x, expires: 2030-01-01T00:00:00Z}}\nacl: [{match: {account: amy}, actions: ['*']}]\nrevoked: {bob: 2026-01-01T00:00:00Z}\n").expect("written");
    let config = |users: &str| load(&format!("users_file: {}\n{users}", path.display()));
    let auth = config("users: {bob: {}}\nacl: [{match: {}, actions: []}]\n")
        .expect("taken")
        .config
        .auth;
    assert_eq!(auth.users.keys().collect::<Vec<_>>(), ["amy", "bob"]);
    assert_eq!(auth.acl.len(), 2);
    assert_eq!(auth.acl[1].text().account.as_deref(), Some("amy"));
    assert_eq!(auth.revoked["bob"], 1_767_225_600);
    assert_eq!(auth.users["amy"].expires_unix_secs, Some(1_893_456_000));
    let errors = config("users: {amy: {}}\n").expect_err("both").to_string();
    assert!(
        errors.contains("users.amy: this user is in the users_file too"),
        "{errors}"
    );

    fs::write(&path, "users: {amy: {expires: tomorrow}}\nacls: []\n").expect("written");
    let errors = config("").expect_err("refused").to_string();
    assert!(
        errors.contains("users.yml:1: users.amy.expires: must be a moment"),
        "{errors}"
    );
    assert!(
        errors.contains("users.yml:2: acls: unknown key\nhint: did you mean `acl`?"),
        "{errors}"
    );
}

#[test]
fn the_users_file_is_replaced_whole_and_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("users.yml");
    fs::write(
        directory.path().join("users.yml.new"),
        "left over by a crash",
    )
    .expect("written");
    UsersFile::update(&path, |file| {
        file.users.insert(
            "admin".to_owned(),
            User {
                password_hash: Some("$2y$x".to_owned()),
                ..User::default()
            },
        );
        file.acl.push(RuleText {
            account: Some("admin".to_owned()),
            actions: vec!["*".to_owned()],
            ..RuleText::default()
        });
        Ok::<_, UsersFileError>(())
    })
    .expect("written");
    let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1);

    let link = directory.path().join("link.yml");
    std::os::unix::fs::symlink("users.yml", &link).expect("a link");
    let through_the_link: Result<(), UsersFileError> = UsersFile::update(&link, |file| {
        file.revoked.insert("y".to_owned(), 1);
        Ok(())
    });
    through_the_link.expect("written");
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert_eq!(UsersFile::read(&path).expect("read").revoked["y"], 1);

    let threads: Vec<_> = (0..8)
        .map(|number| {
            let path = path.clone();
            std::thread::spawn(move || {
                UsersFile::update(&path, |file| {
                    file.users.insert(format!("u{number}"), User::default());
                    Ok::<_, UsersFileError>(())
                })
                .expect("written");
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!(UsersFile::read(&path).expect("read").users.len(), 9);

    let before = fs::read(&path).expect("read");
    UsersFile::update(&path, |file| {
        file.revoked.insert("x".to_owned(), u64::MAX);
        Ok::<_, UsersFileError>(())
    })
    .expect_err("no such moment");
    assert_eq!(fs::read(&path).expect("read"), before);
    let refused: Result<(), UsersFileError> = UsersFile::update(&path, |file| {
        file.users.clear();
        Err(UsersFileError::Unwritable { path: path.clone() })
    });
    refused.expect_err("the change was refused");
    assert_eq!(fs::read(&path).expect("read"), before);
}

#[test]
fn named_certificates_and_keys_are_looked_at() {
    let directory = tempfile::tempdir().expect("a directory");
    let write =
        |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("written");
    for name in ["a", "b"] {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new([name.to_owned()])
            .and_then(|parameters| parameters.self_signed(&key))
            .expect("a certificate");
        write(&format!("{name}.crt"), &certificate.pem());
        write(&format!("{name}.key"), &key.serialize_pem());
    }
    write("empty", "");
    let load = |text: &str| load(&text.replace('@', &format!("{}/", directory.path().display())));
    let refused = |text: &str| load(text).expect_err("refused").to_string();

    let config = load("http: {tls: {certificate: @a.crt, key: @a.key}}\n")
        .expect("taken")
        .config;
    assert!(matches!(config.tls, tls::Settings::Files { .. }));
    let config = load("server: {certificate: @a.crt, key: @a.key}\nusers: {}\nacl: []\n")
        .expect("taken")
        .config;
    let settings = config.auth_settings(auth::Secret([7; 32]), None);
    assert!(
        settings
            .token
            .signing
            .expect("a key")
            .key_pem
            .contains("PRIVATE KEY")
    );
    assert!(!format!("{config:?}").contains("PRIVATE KEY"));
    let foreign = "auth: {token: {realm: x, service: y, issuer: z, rootcertbundle: @a.crt}}\n";
    let config = load(foreign).expect("taken").config;
    assert_eq!(config.auth.signing, Signing::None);
    assert_eq!(
        config
            .auth_settings(auth::Secret([7; 32]), None)
            .token
            .trusted_certificates_pem
            .len(),
        1
    );

    assert!(
        refused("http: {tls: {certificate: @a.crt, key: @b.key}}\n")
            .contains("http.tls.key: not the key of the certificate")
    );
    assert!(
        refused("http: {tls: {certificate: @no.crt, key: @a.key}}\n").contains("cannot be opened")
    );
    assert!(
        refused(&foreign.replace("a.crt", "empty"))
            .contains("auth.token.rootcertbundle: the file holds no certificate")
    );
    assert!(
        refused("token: {certificate: @a.crt}\nusers: {}\nacl: []\n")
            .contains("token.certificate: given without token.key")
    );
}

#[test]
fn a_malformed_glob_is_a_warning() {
    let loaded = taken(
        "http: {addr: 'localhost:1'}\nusers: {}\nacl: [{match: {name: '[a'}, actions: []}]\n",
    );
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].contains("0.yml:3: acl[]: a pattern of this rule is malformed"));
}

fn template(hosts: &[&str]) -> Template {
    Template {
        address: "[::]:5443".to_owned(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        root_directory: "/srv/a b/\"data\"".into(),
        ca_certificate: "/srv/ca.crt".into(),
        keys_directory: "/srv/keys".into(),
        users_file: "/srv/users.yml".into(),
        state_directory: "/srv/state".into(),
    }
}

#[test]
fn the_template_reads_back() {
    let text = template(&["lab.local", "192.0.2.7"]).render();
    let config = load_with(&[&text], &[])
        .unwrap_or_else(|errors| panic!("{errors}"))
        .config;
    assert_eq!(config.server.address, "[::]:5443");
    assert_eq!(config.root_directory, Path::new("/srv/a b/\"data\""));
    assert_eq!(config.state_directory, Path::new("/srv/state"));
    assert!(config.auth.required);
    assert_eq!(
        config.tls,
        tls::Settings::Automatic {
            ca_certificate: "/srv/ca.crt".into(),
            keys_directory: "/srv/keys".into(),
            hosts: vec!["lab.local".to_owned(), "192.0.2.7".to_owned()],
        }
    );
}

#[test]
fn uncommenting_every_default_changes_nothing() {
    let text = template(&[]).render();
    let uncommented: String = text
        .lines()
        .map(|line| {
            let indent = line.len() - line.trim_start().len();
            match line.trim_start().strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => format!("{}{key}\n", &line[..indent]),
                _ => format!("{line}\n"),
            }
        })
        .collect();
    assert!(
        uncommented
            .lines()
            .filter(|line| !line.contains('#'))
            .count()
            > 50
    );
    let load = |text: &str| load_with(&[text], &[]).unwrap_or_else(|errors| panic!("{errors}"));
    let (plain, full) = (load(&text), load(&uncommented));
    assert_eq!(format!("{:?}", plain.config), format!("{:?}", full.config));
    assert_eq!(plain.warnings.len(), full.warnings.len());
}

#[test]
fn check_shows_what_is_in_force() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("c.yml");
    let check = Check {
        config: vec![file.clone()],
    };
    let run = |text: &str| {
        fs::write(&file, text).expect("written");
        let (mut out, mut talk) = (Vec::new(), Vec::new());
        let code = check
            .run(&BTreeMap::new(), &mut out, &mut talk)
            .expect("written");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (format!("{code:?}"), text(out), text(talk))
    };
    let (code, out, talk) = run(&format!("{STORAGE}redis: {{addr: x}}\n"));
    assert!(code.contains("(0)"), "{code}");
    assert!(
        out.contains("storage.filesystem.rootdirectory: /srv/images  # ")
            && out.contains("c.yml:1\n"),
        "{out}"
    );
    assert!(
        out.contains("limits.connections: 1024  # default\n"),
        "{out}"
    );
    assert!(
        talk.contains("note: ")
            && talk.contains("redis has no effect")
            && talk.contains("warning: "),
        "{talk}"
    );
    let (code, out, talk) = run("http: {}\n");
    assert!(
        code.contains("(1)") && out.is_empty() && talk.starts_with("error: storage: no storage"),
        "{code}{out}{talk}"
    );
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-z0-9$/.*:#~-]{0,12}",
        Just("null".to_owned()),
        Just("~".to_owned()),
        Just("<<".to_owned()),
        prop::collection::vec(any::<char>(), 0..12).prop_map(String::from_iter),
    ]
}

fn labels<T: Strategy>(value: T) -> impl Strategy<Value = BTreeMap<String, T::Value>> {
    prop::collection::btree_map(text(), value, 0..3)
}

fn moment() -> impl Strategy<Value = u64> {
    0..253_402_300_800_u64
}

fn account() -> impl Strategy<Value = User> {
    (
        prop::option::of(text()),
        labels(prop::collection::vec(text(), 0..3)),
        prop::option::of(moment()),
        prop::option::of(moment()),
    )
        .prop_map(
            |(password_hash, labels, expires_unix_secs, valid_after_unix_secs)| User {
                password_hash,
                labels,
                expires_unix_secs,
                valid_after_unix_secs,
            },
        )
}

fn rule() -> impl Strategy<Value = RuleText> {
    let fields = prop::collection::vec(prop::option::of(text()), 6);
    (fields, labels(text()), prop::collection::vec(text(), 0..3)).prop_map(
        |(fields, labels, actions)| RuleText {
            account: fields[0].clone(),
            r#type: fields[1].clone(),
            name: fields[2].clone(),
            service: fields[3].clone(),
            ip: fields[4].clone(),
            comment: fields[5].clone(),
            labels,
            actions,
            place: String::new(),
        },
    )
}

proptest! {
    #[test]
    fn what_the_users_file_writer_writes_reads_back(
        users in prop::collection::btree_map(text(), account(), 0..4),
        acl in prop::collection::vec(rule(), 0..4),
        revoked in prop::collection::btree_map(text(), moment(), 0..3),
    ) {
        let written = UsersFile { users, acl, revoked };
        let text = written.render();
        let mut read = UsersFile::parse(&text, &Place::variable("x")).map_err(|errors| TestCaseError::fail(format!("{errors}\n{text}")))?;
        for rule in &mut read.acl {
            rule.place.clear();
        }
        prop_assert_eq!(read, written);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in prop_oneof![
        ".{0,200}",
        "([a-z]{0,4}|users|acl|http|[\\[\\]{}:,&*!|>'\"#%@ \n\t-]|- |: |\n  |---\n|<<|é|\u{feff}){0,60}",
    ]) {
        let _ = UsersFile::parse(&text, &Place::variable("x"));
        let _ = load_with(&[&text, STORAGE], &[("REGISTRY_HTTP", &text)]);
    }
}
