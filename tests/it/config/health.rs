//! `health` and `http.debug`: what is read of them.

use super::*;
use boathouse::health::Target;

#[test]
fn checks_are_read_as_distribution_reads_them() {
    let text = "\
health:
  storagedriver: {enabled: true, interval: 0s, threshold: 3}
  file:
  - {file: /run/down, interval: 5s}
  http:
  - {uri: 'http://a.example/x', headers: {X-One: [a, b]}, statuscode: 204, timeout: 3s, threshold: 2}
  tcp:
  - {addr: 'redis.example:6379'}
http: {debug: {addr: ':5002', prometheus: {enabled: true, path: /metrics}}}
";
    let loaded = taken(text);
    let checks = &loaded.config.health;
    let shown: Vec<(&str, u64, u32)> = checks
        .iter()
        .map(|check| (check.name.as_str(), check.interval_secs, check.threshold))
        .collect();
    assert_eq!(
        shown,
        [
            ("storagedriver_filesystem", 10, 3),
            ("/run/down", 5, 0),
            ("http://a.example/x", 10, 2),
            ("redis.example:6379", 10, 0),
        ]
    );
    assert!(matches!(checks[0].target, Target::Store));
    let Target::Http {
        headers,
        status,
        timeout_secs,
        ..
    } = &checks[2].target
    else {
        panic!("HTTP");
    };
    assert_eq!((*status, *timeout_secs), (204, 3));
    assert_eq!(headers.get_all("x-one").iter().count(), 2);
    assert_eq!(loaded.config.debug_address.expect("given").port(), 5_002);
    assert_eq!(loaded.config.metrics_path.as_deref(), Some("/metrics"));
    let none = taken("health: {storagedriver: {enabled: false}, http: [], tcp: }\n");
    assert!(none.config.health.is_empty() && none.config.debug_address.is_none());
}

#[test]
fn metrics_are_shown_where_the_configuration_says() {
    let read = |text: &str| taken(&format!("http: {{debug: {{{text}}}}}\n"));
    let path = |text: &str| read(text).config.metrics_path;
    assert_eq!(path("addr: ':1'"), None);
    assert_eq!(path("addr: ':1', prometheus: {path: /m}"), None);
    let custom = path("addr: ':1', prometheus: {enabled: true, path: /m}");
    assert_eq!(custom.as_deref(), Some("/m"));
    let empty = path("addr: ':1', prometheus: {enabled: true, path: ''}");
    assert_eq!(empty.as_deref(), Some("/metrics"));
    let nowhere = read("prometheus: {enabled: true}");
    let is_warned = |warning: &String| warning.contains("has no effect without http.debug.addr");
    assert!(
        nowhere.warnings.iter().any(is_warned),
        "{:?}",
        nowhere.warnings
    );
    for bad in ["metrics", "/debug/health"] {
        let errors = refused(&format!(
            "http: {{debug: {{addr: ':1', prometheus: {{enabled: true, path: {bad}}}}}}}\n"
        ));
        assert!(errors.contains("must be a path of its own"), "{errors}");
    }
}

#[test]
fn a_check_that_cannot_be_made_is_refused() {
    for (text, expected) in [
        (
            "file: [{interval: 5s}]",
            "each needs `file`, `uri` or `addr`",
        ),
        (
            "file: [{file: /a, interval: soon}]",
            "durations are written",
        ),
        ("file: [{file: /a}, {file: /a}]", "`/a` is checked twice"),
        ("http: [{uri: 'a.example'}]", "`uri` is written like"),
        ("http: [{uri: 'ftp://a.example'}]", "`uri` is written like"),
        (
            "http: [{uri: 'http://a', statuscode: 99}]",
            "`statuscode` is a number",
        ),
        ("tcp: [{addr: ':80'}]", "`addr` is written like"),
        (
            "tcp: [{addr: 'a:80', threshold: many}]",
            "`threshold` is a whole number",
        ),
        (
            "tcp: [{address: 'a:80'}]",
            "health.tcp[].address: unknown key",
        ),
    ] {
        let errors = refused(&format!("health: {{{text}}}\n"));
        assert!(errors.contains(expected), "{text}: {errors}");
    }
}

#[test]
fn a_variable_adds_a_check_by_the_name_of_its_field() {
    let loaded = load_with(
        &[STORAGE],
        &[("REGISTRY_HEALTH_TCPCHECKERS_0_ADDR", "a.example:1")],
    );
    let checks = loaded.expect("taken").config.health;
    assert_eq!(checks[0].name, "a.example:1");
}

#[test]
fn a_unix_socket_is_an_address() {
    let address = |text: &str| taken(&format!("http: {{{text}}}\n")).config.server.address;
    assert_eq!(
        address("net: unix, addr: /run/registry.sock"),
        boathouse::server::Address::Unix("/run/registry.sock".into())
    );
    assert_eq!(address("net: tcp, addr: ':1'").to_string(), ":1");
    assert!(taken("http: {h2c: {enabled: true}}\n").config.server.h2c);
    let errors = refused("http: {net: unix}\n");
    assert!(
        errors.contains("http.addr: missing: with `http.net: unix`"),
        "{errors}"
    );
    let errors = refused("http: {net: udp}\n");
    assert!(errors.contains("http.net: must be tcp or unix"), "{errors}");
}
