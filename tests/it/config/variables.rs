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
            ("REGISTRY_PORT", "tcp://10.0.0.1:5000"),
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
    assert_eq!(loaded.config.storage.root_directory(), Path::new("/b"));
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
            .contains("REGISTRY_STORAGE: storage.s3: not supported yet"),
        "{errors}"
    );
}
