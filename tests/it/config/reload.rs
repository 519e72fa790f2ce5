//! What a running server says of keys that have changed since it was started.

use rustix::process::Signal;

use super::*;
use crate::lab::Lab;
use crate::program::free_address;

/// A line of an htpasswd file.
const ENTRY: &str = "amy:$2y$05$abcdefghijklmnopqrstuu5nTzPGVsNTFuMqkPVtDFQi7HyyPrHx2\n";

/// The keys that need a restart after `before` has become `now`.
fn named(before: &str, now: &str) -> Vec<String> {
    let (before, now) = (taken(before), taken(now));
    let names = config::needs_restart(&before.in_force, &now.in_force);
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn a_key_that_needs_a_restart_is_named() {
    let nothing: [&str; 0] = [];
    for (before, now, expected) in [
        (
            "http: {addr: ':1'}\n",
            "http: {addr: ':2'}\n",
            &["http.addr"][..],
        ),
        ("http: {addr: ':1'}\n", "http: {addr: ':01'}\n", &nothing),
        ("http: {addr: ':5000'}\n", "log: {level: info}\n", &nothing),
        (
            "http: {draintimeout: 60s}\n",
            "http: {draintimeout: 1m}\n",
            &nothing,
        ),
        (
            "http: {draintimeout: 60s}\n",
            "http: {draintimeout: 61s}\n",
            &["http.draintimeout"],
        ),
        (
            "http: {secret: sixteen-letters-}\n",
            "http: {secret: sixteen-letters+}\n",
            &["http.secret"],
        ),
        (
            "http: {secret: sixteen-letters-}\n",
            "http: {addr: ':5000'}\n",
            &["http.secret"],
        ),
        (
            "http: {headers: {X-One: [a]}}\n",
            "http: {headers: {X-One: [a, b]}}\n",
            &["http.headers.X-One"],
        ),
        (
            "http: {headers: {X-One: [a]}}\n",
            "http: {headers: {X-Two: [a]}}\n",
            &["http.headers.X-Two", "http.headers.X-One"],
        ),
        (
            "http: {headers: {X-One: [a]}}\n",
            "http: {headers: {X-One: [a]}}\n",
            &nothing,
        ),
        ("tls: auto\n", "tls: {hosts: [a]}\n", &["tls.hosts", "tls"]),
        (
            "loglevel: debug\n",
            "log: {level: debug}\n",
            &["log.level", "loglevel"],
        ),
        (
            "http: {trusted_proxies: [10.0.0.1]}\n",
            "http: {trusted_proxies: [10.0.0.2]}\n",
            &["http.trusted_proxies"],
        ),
        (
            "users: {amy: {}}\nacl: []\n",
            "users: {bob: {}, eve: {}}\nacl: [{match: {}, actions: []}]\n",
            &nothing,
        ),
        ("users_file: /no/a\n", "users_file: /no/b\n", &nothing),
    ] {
        assert_eq!(named(before, now), expected, "{before:?} {now:?}");
    }
}

#[test]
fn a_change_of_the_htpasswd_file_needs_no_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("htpasswd");
    let text = format!(
        "auth: {{htpasswd: {{realm: x, path: {}}}}}\n",
        file.display()
    );
    fs::write(&file, "").expect("written");
    let before = taken(&text);
    fs::write(&file, ENTRY).expect("written");
    let now = taken(&text);
    assert_ne!(before.in_force, now.in_force);
    assert_eq!(
        config::needs_restart(&before.in_force, &now.in_force),
        [""; 0]
    );
    let other = taken(&text.replace("realm: x", "realm: y"));
    assert_eq!(
        config::needs_restart(&now.in_force, &other.in_force),
        ["auth.htpasswd.realm"]
    );
}

/// Through the program itself.
#[tokio::test]
async fn a_server_names_changed_keys_at_sighup_and_shows_no_value() {
    let lab = Lab::empty();
    let address = free_address();
    let configure = |secret: &str, header: &str, users: &str| {
        let text = format!(
            "storage: {{filesystem: {{rootdirectory: DIR/data}}}}\n\
             auth: {{htpasswd: {{realm: x, path: DIR/htpasswd}}}}\n\
             http: {{addr: '{address}', secret: {secret}, headers: {{X-Lab: [{header}]}}}}\n"
        );
        lab.write("htpasswd", users);
        lab.configure("boathouse.yml", &text);
    };
    configure("the-secret-of-before", "header-of-before", "");
    let mut server = lab.serve().await;
    configure("the-secret-of-now", "header-of-now", ENTRY);
    server.signal(Signal::HUP);
    server.says("read again").await;
    let log = server.end();
    let named = |key: &str| {
        let lines = log.lines().filter(|line| line.contains("restart"));
        lines.filter(|line| line.contains(key)).count()
    };
    for (key, count) in [
        ("http.secret", 1),
        ("http.headers.X-Lab", 1),
        ("htpasswd", 0),
    ] {
        assert_eq!(named(key), count, "{key}: {log}");
    }
    for value in ["the-secret-of", "header-of"] {
        assert!(!log.contains(value), "{log}");
    }
}
