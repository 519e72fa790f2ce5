//! Mistakes, and what is said of each: its line, its key, a hint, and no value.

use super::*;

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
        "oidc_auth: {issuer: 'https://lab'}\n",
        "0.yml:1: oidc_auth: not supported: clients of a registry",
    ),
    (
        "auth: {htpasswd: {realm: x, path: /no/such}}\n",
        "/no/such: no such file",
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
        "0.yml:2: users: cannot be combined with auth.htpasswd",
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
    (
        "http: {headers: {Content-length: ['5']}}\n",
        "0.yml:1: http.headers.Content-length: cannot be configured",
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
        "http: {tls: {letsencrypt: {cachefile: /a, email: a@b, hosts: [c]}}}\n",
        "0.yml:1: http.tls.letsencrypt: not supported: certificates of public authorities are not fetched here\nhint: put Caddy in front",
    ),
    (
        "google_auth: {client_id: a}\n",
        "0.yml:1: google_auth: not supported: clients of a registry log in with a password",
    ),
    (
        "middleware: {storage: [{name: cloudfront}]}\n",
        "0.yml:1: middleware: not supported: ",
    ),
    (
        "http: {draintimeout: 5x}\n",
        "0.yml:1: http.draintimeout: must be a duration of at most 3600 s\n",
    ),
    (
        "http:\n  draintimeout: 60\n",
        "0.yml:2: http.draintimeout: a duration without a unit\nhint: written like `30s`",
    ),
    (
        "health:\n  storagedriver: {enabled: true, interval: 60}\n",
        "0.yml:2: health.storagedriver",
    ),
    (
        "tls:\n  hosts:\n  - lab.example\n  - https://lab.example\n",
        "0.yml:4: tls.hosts[]: not a host name or an address\nhint: written like `registry.lab.example`",
    ),
    (
        "tls: {hosts: ['*.lab.example']}\n",
        "0.yml:1: tls.hosts[]: not a host name or an address\n",
    ),
    (
        "tls: maybe\n",
        "0.yml:1: tls: unknown value\nhint: one of auto",
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
        "auth: {token: {realm: 'https://x/token', service: y, issuer: z}}\n",
        "auth.token.rootcertbundle: missing",
    ),
    (
        "auth: {token: {realm: lab.example/token}}\n",
        "0.yml:1: auth.token.realm: must be a URL\n",
    ),
    (
        "storage: {filesystem: {rootdir: /srv}}\n",
        "0.yml:1: storage.filesystem.rootdir: unknown key\nhint: did you mean `storage.filesystem.rootdirectory`?",
    ),
    (
        "loglevel: info\nloglevel: debug\n",
        "0.yml:2: duplicate key\n",
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
    (
        "storage: {s3: {bucket: b}}\n",
        "0.yml:1: storage.s3: the data cannot be in a bucket and in a directory",
    ),
    (
        "users:\n  amy: {password: $2y$17$abcdefghijklmnopqrstuu5nTzPGVsNTFuMqkPVtDFQi7HyyPrHx2}\nacl: []\n",
        "0.yml:2: users.amy.password: bcrypt cost 17 exceeds the maximum 16",
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
        format!("storage: {{s3: {{region: [{SECRET}]}}}}"),
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
    assert!(missing.contains("c.yml: no such file"), "{missing}");
}
