//! `validation`, and certificates of clients: what is read of them.

use super::*;
use boathouse::registry::Children;

fn validation(text: &str) -> registry::Settings {
    taken(&format!("validation: {text}\n")).config.registry
}

#[test]
fn layers_elsewhere_are_judged_where_a_key_says_so() {
    assert!(
        validation("{manifests: {references: any}}")
            .layer_urls
            .is_none()
    );
    let urls = |text: &str| {
        let settings = validation(&format!("{{manifests: {{urls: {text}}}}}"));
        let urls = settings.layer_urls.expect("given");
        (urls.allow.len(), urls.deny.len())
    };
    assert_eq!(urls("{allow: ['^https://a/', b]}"), (2, 0));
    assert_eq!(urls("{deny: [b]}"), (0, 1));
    // Go's own syntax, which the engine here lacks.
    assert_eq!(urls(r"{allow: ['^https://\Qa.b\E/']}"), (1, 0));
    assert_eq!(urls("{}"), (0, 0));
    assert_eq!(urls(""), (0, 0));
    let errors = refused("validation: {manifests: {urls: {allow: ['(']}}}\n");
    assert!(
        errors.contains("validation.manifests.urls.allow: not regular expressions"),
        "{errors}"
    );
}

#[test]
fn children_that_must_exist_are_all_none_or_listed() {
    let children = |text: &str| validation(&format!("{{manifests: {{indexes: {text}}}}}")).children;
    assert_eq!(children("{platforms: all}"), Children::All);
    assert_eq!(children("{platforms: None}"), Children::None);
    assert_eq!(children("{platforms: list}"), Children::All);
    let list = "platformlist: [{architecture: amd64, os: linux}]";
    let Children::Of(platforms) = children(&format!("{{platforms: list, {list}}}")) else {
        panic!("a list");
    };
    assert_eq!(platforms[0].architecture, "amd64");
    assert_eq!(platforms[0].os, "linux");
    let loaded = taken(&format!(
        "validation: {{manifests: {{indexes: {{{list}}}}}}}\n"
    ));
    assert!(
        loaded
            .warnings
            .iter()
            .any(|warning| warning.contains("unless `platforms` is `list`"))
    );
    let errors = refused("validation: {manifests: {indexes: {platforms: some}}}\n");
    assert!(errors.contains("one of all, none, list"), "{errors}");
}

#[test]
fn validation_is_disabled_as_in_distribution() {
    let rules = "manifests: {urls: {allow: [a]}, indexes: {platforms: all}}";
    let is_on = |text: &str| {
        let settings = validation(&format!("{{{text}{rules}}}"));
        let (urls, children) = (settings.layer_urls.is_some(), settings.children);
        assert_eq!(urls, children == Children::All);
        urls
    };
    assert!(is_on(""));
    assert!(!is_on("disabled: true, "));
    assert!(is_on("enabled: false, "));
    assert!(is_on("enabled: true, disabled: true, "));
}

#[test]
fn certificates_of_clients_are_asked_for_where_the_server_has_one_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["a".to_owned()]).expect("a name");
    params.is_ca = rcgen::IsCa::NoCa;
    let certificate = params.self_signed(&key).expect("a certificate");
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("c"), certificate.pem()).expect("written");
    fs::write(path("k"), key.serialize_pem()).expect("written");
    let own = format!("certificate: {}, key: {}", path("c"), path("k"));
    let clients = |text: &str| {
        let loaded = taken(&format!("http: {{tls: {{{own}, {text}}}}}\n"));
        let tls::Settings::Files { clients, .. } = loaded.config.tls else {
            panic!("files");
        };
        (
            clients.map(|clients| clients.asks_for),
            loaded.warnings.join("\n"),
        )
    };
    let ca = path("c");
    for (text, expected) in [
        (
            format!("clientcas: [{ca}]"),
            tls::ClientCertificate::Verified,
        ),
        (
            format!("clientcas: [{ca}, {ca}], clientauth: verify-client-cert-if-given"),
            tls::ClientCertificate::VerifiedIfGiven,
        ),
        (
            format!("clientcas: [{ca}], clientauth: request-client-cert"),
            tls::ClientCertificate::Requested,
        ),
        (
            format!("clientcas: [{ca}], clientauth: require-any-client-cert"),
            tls::ClientCertificate::Any,
        ),
    ] {
        assert_eq!(clients(&text).0, Some(expected), "{text}");
    }
    let (none, warnings) = clients("clientauth: require-any-client-cert");
    assert_eq!(none, None);
    assert!(
        warnings.contains("has no effect without http.tls.clientcas"),
        "{warnings}"
    );
    for (text, expected) in [
        (
            format!("http: {{tls: {{clientcas: [{ca}]}}}}\n"),
            "given without http.tls.certificate",
        ),
        (
            format!("tls: auto\nhttp: {{tls: {{clientcas: [{ca}]}}}}\n"),
            "given without http.tls.certificate",
        ),
        (
            format!("http: {{tls: {{{own}, clientcas: [/no/such]}}}}\n"),
            "/no/such: ",
        ),
        (
            format!("http: {{tls: {{{own}, clientcas: [{ca}], clientauth: maybe}}}}\n"),
            "one of request-client-cert",
        ),
    ] {
        let errors = refused(&text);
        assert!(errors.contains(expected), "{errors}");
    }
}
