//! Environment variables that override keys, as in distribution.

use super::*;

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
            ("REGISTRY_URL", "tcp://10.0.0.1:5000"),
            ("REGISTRY_USERS_FILE", "/x"),
            ("HOME", "/root"),
        ],
    )
    .expect("taken");
    assert_eq!(loaded.config.server.address.to_string(), ":2");
    assert_eq!(
        loaded.config.server.headers,
        [("X-One".to_owned(), "b".to_owned())]
    );
    assert_eq!(loaded.config.storage.to_string(), "/b");
    assert!(loaded.config.registry.deletes_enabled);
    assert_eq!(loaded.config.secret.expect("set").expose(), "0123");
    let about = |name: &str| {
        loaded
            .warnings
            .iter()
            .any(|warning| warning.starts_with(name))
    };
    assert!(
        about("REGISTRY_URL: ") && about("REGISTRY_USERS_FILE: "),
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
    let file =
        "auth: {token: {realm: 'https://x/token', service: y, issuer: z, rootcertbundle: /no}}\n";
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
            .contains("REGISTRY_STORAGE: storage.s3.bucket: missing"),
        "{errors}"
    );
}

/// Each as distribution's own parser ends it (`configuration/parser.go` of 3.1).
#[test]
fn positions_in_lists_count_from_zero_and_the_next_one_is_added() {
    let file = "http: {trusted_proxies: [127.0.0.1], headers: {X-One: [a, b]}}\n";
    let loaded = load_with(
        &[file, STORAGE],
        &[
            ("REGISTRY_HTTP_HEADERS_X-ONE_1", "c"),
            ("REGISTRY_HTTP_HEADERS_X-ONE_2", "d"),
            ("REGISTRY_HTTP_HEADERS_X-TWO_0", "e"),
        ],
    )
    .expect("taken");
    let headers = &loaded.config.server.headers;
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        headers,
        [
            ("X-One", "a"),
            ("X-One", "c"),
            ("X-One", "d"),
            ("x-two", "e")
        ]
    );
    let name = "REGISTRY_HTTP_HEADERS_X-ONE_3";
    let errors = load_with(&[file, STORAGE], &[(name, "c")]).expect_err("refused");
    let expected = format!("{name}: `3` is not a position in this list, which has 2 items");
    assert!(errors.to_string().contains(&expected), "{errors}");
    let name = "REGISTRY_HTTP_HEADERS_X-ONE_FIRST";
    let loaded = load_with(&[file, STORAGE], &[(name, "c")]).expect("taken");
    let expected = format!("{name}: has no effect: it matches no key");
    assert!(loaded.warnings.contains(&expected), "{:?}", loaded.warnings);
}

#[test]
fn a_variable_names_the_field_where_distribution_calls_it_otherwise() {
    let warned = |name: &str| {
        let loaded = load_with(&[STORAGE], &[(name, "true")]).expect("taken");
        loaded
            .warnings
            .iter()
            .any(|warning| warning.starts_with(name))
    };
    assert!(!warned(
        "REGISTRY_NOTIFICATIONS_EVENTCONFIG_INCLUDEREFERENCES"
    ));
    assert!(warned("REGISTRY_NOTIFICATIONS_EVENTS_INCLUDEREFERENCES"));
    assert!(!warned("REGISTRY_COMPATIBILITY_SCHEMA1_TRUSTKEY"));
    assert!(warned("REGISTRY_COMPATIBILITY_SCHEMA1_SIGNINGKEYFILE"));
}

/// Kubernetes sets them for a service `registry`, and for those whose names begin with it; podman reads the last one.
#[test]
fn variables_of_other_programs_are_neither_applied_nor_warned_of() {
    let environment = [
        ("REGISTRY_PORT", "tcp://10.0.0.1:5000"),
        ("REGISTRY_PORT_5000_TCP", "tcp://10.0.0.1:5000"),
        ("REGISTRY_PORT_5000_TCP_ADDR", "10.0.0.1"),
        ("REGISTRY_PORT_5000_TCP_PORT", "5000"),
        ("REGISTRY_PORT_5000_TCP_PROTO", "tcp"),
        ("REGISTRY_SERVICE_HOST", "10.0.0.1"),
        ("REGISTRY_SERVICE_PORT", "5000"),
        ("REGISTRY_SERVICE_PORT_HTTPS", "5000"),
        ("REGISTRY_PROXY_PORT", "tcp://10.0.0.1:5000"),
        ("REGISTRY_PROXY_SERVICE_HOST", "10.0.0.1"),
        ("REGISTRY_AUTH_FILE", "/run/user/1000/containers/auth.json"),
        (
            "REGISTRY_CONFIGURATION_PATH",
            "/etc/docker/registry/config.yml",
        ),
    ];
    let alone = load_with(&[STORAGE], &[]).expect("taken");
    let beside = load_with(&[STORAGE], &environment).expect("taken");
    assert_eq!(beside.warnings, alone.warnings);
    let values = |loaded: &Loaded| {
        let in_force = loaded.in_force.iter();
        let values = in_force.map(|one| (one.key.clone(), one.value.clone()));
        values.collect::<Vec<_>>()
    };
    assert_eq!(values(&beside), values(&alone));
}
