//! `auth.token`: whose tokens are believed, and which realm challenges name.

use super::*;

const FOREIGN: &str = "service: y, issuer: z";
/// The key of RFC 8037 appendix A.
const KEYS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn keys(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("jwks.json");
    fs::write(&path, text).expect("written");
    let path = path.display().to_string();
    (directory, path)
}

#[test]
fn keys_in_a_jwks_file_do_without_certificates() {
    let (_directory, path) = keys(KEYS);
    let text = format!("auth: {{token: {{realm: 'https://x/token', {FOREIGN}, jwks: {path}}}}}\n");
    assert!(taken(&text).config.auth.is_foreign_only);
    let with_secret = KEYS.replace("\"kid\"", "\"d\": \"c2VjcmV0\", \"kid\"");
    let (_directory, path) = keys(&with_secret);
    let text = format!("auth: {{token: {{realm: 'https://x/token', {FOREIGN}, jwks: {path}}}}}\n");
    let warnings = taken(&text).warnings.join("\n");
    assert!(warnings.contains("keys[0] is a private key"), "{warnings}");
    assert!(!warnings.contains("c2VjcmV0"), "{warnings}");
    for (content, expected) in [
        ("{}", "not a JWKS"),
        (
            r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#,
            "holds no key",
        ),
    ] {
        let (_directory, path) = keys(content);
        let errors = refused(&format!(
            "auth: {{token: {{realm: 'https://x/token', {FOREIGN}, jwks: {path}}}}}\n"
        ));
        assert!(errors.contains(expected), "{errors}");
        assert!(!errors.contains("c2VjcmV0"), "{errors}");
    }
}

#[test]
fn names_of_algorithms_are_those_of_distribution() {
    let (_directory, path) = keys(KEYS);
    let with = |names: &str| {
        format!(
            "auth: {{token: {{realm: 'https://x/token', {FOREIGN}, jwks: {path}, signingalgorithms: {names}}}}}\n"
        )
    };
    let loaded = taken(&with("[RS256, EdDSA, PS512]"));
    assert_eq!(
        loaded.config.auth.signing_algorithms,
        ["RS256", "EdDSA", "PS512"]
    );
    let warnings = taken(&with("[RS256, HS256]")).warnings.join("\n");
    assert!(warnings.contains("HS256 has no effect"), "{warnings}");
    for names in ["[RS257]", "[rs256]", "[none]"] {
        let errors = refused(&with(names));
        assert!(
            errors.contains("auth.token.signingalgorithms: unknown algorithm"),
            "{errors}"
        );
    }
}

#[test]
fn a_realm_that_follows_from_the_request_needs_none() {
    let (_directory, path) = keys(KEYS);
    let redirect = |text: &str, more: &str| {
        let text = format!("auth: {{token: {{{FOREIGN}, jwks: {path}, {text}}}}}\n{more}");
        taken(&text).config.auth.auto_redirect
    };
    let is = |path: &str, assumes_https| {
        Some(auth::AutoRedirect {
            path: path.to_owned(),
            assumes_https,
        })
    };
    let proxies = "http: {trusted_proxies: [10.0.0.1]}\n";
    assert_eq!(redirect("autoredirect: true", ""), is("/auth/token", true));
    assert_eq!(
        redirect("autoredirect: true, autoredirectpath: my/auth", proxies),
        is("/my/auth", false)
    );
    assert_eq!(
        redirect("autoredirect: true, autoredirectpath: ''", ""),
        is("/auth/token", true)
    );
    assert_eq!(
        redirect("realm: 'https://x/token', autoredirect: false", ""),
        None
    );
}
