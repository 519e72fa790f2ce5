//! Listeners, `http.host` and the realm: what cannot be together, leads nowhere, or shows a proxy.

use super::*;

const ACCOUNTS: &str = "users: {}\nacl: []\n";

/// The lines of `loaded.warnings` that contain `part`, without the directory.
fn warnings_with(text: &str, part: &str) -> Vec<String> {
    let warnings = taken(&format!("{text}{ACCOUNTS}")).warnings;
    let lines = warnings.iter().filter(|line| line.contains(part));
    let name = |line: &String| line.find("0.yml").unwrap_or(0);
    lines.map(|line| line[name(line)..].to_owned()).collect()
}

/// All clients of a proxy that is not named share one limit of failed logins.
#[test]
fn a_proxy_that_is_not_named_is_warned_of_once() {
    let shown = |text: &str| warnings_with(text, "http.trusted_proxies is missing");
    for (text, key) in [
        (
            "http: {addr: '127.0.0.1:5000', host: 'https://lab.example'}\n",
            "0.yml:1: http.host: nothing of this configuration listens there",
        ),
        (
            "http: {addr: ':5000', host: 'http://lab.example'}\n",
            "http.host: ",
        ),
        (
            "http: {addr: '10.0.0.5:5000', host: 'http://10.0.0.6:5000'}\n",
            "http.host: ",
        ),
        (
            "http: {addr: ':5000'}\nauth: {token: {realm: 'https://lab.example/auth'}}\n",
            "auth.token.realm: ",
        ),
        (
            "http: {addr: ':5000', host: 'https://lab.example'}\nserver: {addr: ':5001'}\nauth: {token: {realm: 'https://lab.example/auth'}}\n",
            "http.host: ",
        ),
        (
            "http: {net: unix, addr: /run/x.sock}\n",
            "http.net: clients reach a Unix socket through a proxy only",
        ),
    ] {
        let shown = shown(text);
        assert_eq!(shown.len(), 1, "{text}{shown:?}");
        assert!(shown[0].contains(key), "{shown:?}");
        assert!(
            shown[0].contains("add `http: {trusted_proxies: [127.0.0.1]}`"),
            "{shown:?}"
        );
    }
    for text in [
        "http: {addr: ':5000'}\n",
        "http: {addr: ':5000', host: 'http://lab.example:5000'}\n",
        "http: {addr: '127.0.0.1:5000', host: 'http://localhost:5000'}\n",
        "http: {addr: ':5000', host: 'http://lab.example:5000'}\nserver: {addr: ':5001'}\nauth: {token: {realm: 'http://lab.example:5001/auth'}}\n",
        "http: {addr: ':443'}\ntls: auto\nauth: {token: {realm: 'https://lab.example/token'}}\n",
        "http: {addr: ':5000', host: 'https://lab.example', trusted_proxies: [127.0.0.1]}\n",
        "http: {addr: ':5000', host: 'https://lab.example', trusted_proxies: []}\n",
        "http: {addr: ':5000', host: 'https://lab.example'}\nserver: {real_ip_header: X-Real-IP}\n",
    ] {
        assert_eq!(shown(text), Vec::<String>::new(), "{text}");
    }
    // Nobody logs in here.
    let open = taken("http: {addr: 'localhost:5000', host: 'https://lab.example'}\n");
    assert_eq!(open.warnings, Vec::<String>::new());
}

#[test]
fn a_realm_at_a_port_where_nothing_listens_is_warned_of() {
    let shown = |text: &str| warnings_with(text, "clients get no token unless");
    let realm = |realm: &str| format!("auth: {{token: {{realm: '{realm}'}}}}\n");
    let http = "http: {addr: ':5000', host: 'http://lab.example:5000'}\n";
    for (text, said) in [
        (
            http.to_owned() + &realm("http://lab.example:5001/auth"),
            "0.yml:2: auth.token.realm: http.addr has another port, and there is no server.addr",
        ),
        (
            format!(
                "{http}server: {{addr: ':5002'}}\n{}",
                realm("http://lab.example:5001/auth")
            ),
            "0.yml:3: auth.token.realm: neither http.addr nor server.addr has this port",
        ),
        (
            "http: {addr: '127.0.0.1:5000'}\n".to_owned() + &realm("http://localhost:5001/auth"),
            "there is no server.addr",
        ),
    ] {
        let shown = shown(&text);
        assert_eq!(shown.len(), 1, "{text}{shown:?}");
        assert!(
            shown[0].starts_with(said) || shown[0].contains(said),
            "{shown:?}"
        );
    }
    for text in [
        format!(
            "{http}server: {{addr: ':5001'}}\n{}",
            realm("http://lab.example:5001/auth")
        ),
        http.to_owned() + &realm("http://lab.example:5000/token"),
        http.to_owned() + &realm("http://tokens.example:5001/auth"),
        "http: {addr: ':5000', host: 'https://lab.example'}\n".to_owned()
            + &realm("https://lab.example/auth"),
    ] {
        assert_eq!(shown(&text), Vec::<String>::new(), "{text}");
    }
    // The tokens are of another server.
    let directory = tempfile::tempdir().expect("a directory");
    let certificate = directory.path().join("cert.pem");
    let key = rcgen::KeyPair::generate().expect("a key");
    let made = rcgen::CertificateParams::new(["a".to_owned()]).expect("parameters");
    let made = made.self_signed(&key).expect("a certificate");
    fs::write(&certificate, made.pem()).expect("written");
    let foreign = format!(
        "http: {{addr: 'localhost:5000', host: 'https://localhost'}}\nauth: {{token: {{realm: 'http://localhost:5001/auth', service: a, issuer: b, rootcertbundle: {}}}}}\n",
        certificate.display()
    );
    assert_eq!(taken(&foreign).warnings, Vec::<String>::new());
}

#[test]
fn two_listeners_at_one_address_are_refused() {
    for (http, more) in [
        (":5000", "server: {addr: ':5000'}\n"),
        (":5000", "server: {addr: '127.0.0.1:5000'}\n"),
        ("0.0.0.0:5000", "server: {addr: '127.0.0.1:5000'}\n"),
        ("[::1]:5000", "server: {addr: '[::]:5000'}\n"),
        ("LOCALHOST:5000", "server: {addr: 'localhost:5000'}\n"),
    ] {
        let message = refused(&format!("http: {{addr: '{http}'}}\n{more}{ACCOUNTS}"));
        let said = "0.yml:2: server.addr: the address of http.addr: only one can listen there\nhint: give it another port; or remove it";
        assert!(message.starts_with(said), "{http} {more}{message}");
    }
    let message = refused("http: {addr: ':5000', debug: {addr: ':5000'}}\n");
    assert!(
        message.contains("http.debug.addr: the address of http.addr"),
        "{message}"
    );
    for (http, more) in [
        (":0", "server: {addr: ':0'}\n"),
        (":5000", "server: {addr: ':5001'}\n"),
        ("127.0.0.1:5000", "server: {addr: '127.0.0.2:5000'}\n"),
        ("[::1]:5000", "server: {addr: '0.0.0.0:5000'}\n"),
    ] {
        taken(&format!("http: {{addr: '{http}'}}\n{more}{ACCOUNTS}"));
    }
}

/// distribution checks a token's certificate by this file alone.
#[test]
fn a_token_certificate_that_is_not_in_the_registry_s_bundle_is_warned_of() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters
        .self_signed(&authority_key)
        .expect("an authority");
    fs::write(path("authority.pem"), authority.pem()).expect("written");
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    for name in ["own", "renewed", "issued"] {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters =
            rcgen::CertificateParams::new(["tokens".to_owned()]).expect("parameters");
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, "tokens");
        let made = if name == "issued" {
            parameters.signed_by(&key, &issuer)
        } else {
            parameters.self_signed(&key)
        };
        fs::write(
            path(&format!("{name}.pem")),
            made.expect("a certificate").pem(),
        )
        .expect("written");
        fs::write(path(&format!("{name}.key")), key.serialize_pem()).expect("written");
    }
    let both = fs::read_to_string(path("renewed.pem")).expect("read")
        + &fs::read_to_string(path("own.pem")).expect("read");
    fs::write(path("both.pem"), both).expect("written");
    for (signs, trusted, is_warned_of) in [
        ("own", "own", false),
        ("own", "both", false),
        ("issued", "authority", false),
        ("own", "renewed", true),
        ("own", "authority", true),
    ] {
        let text = format!(
            "auth: {{token: {{rootcertbundle: '{}'}}}}\nhttp: {{addr: 'localhost:1'}}\ntoken: {{certificate: '{}', key: '{}'}}\n",
            path(&format!("{trusted}.pem")),
            path(&format!("{signs}.pem")),
            path(&format!("{signs}.key")),
        );
        let shown = warnings_with(&text, "is not in this file");
        assert_eq!(
            !shown.is_empty(),
            is_warned_of,
            "{signs} {trusted} {shown:?}"
        );
        assert!(
            shown
                .iter()
                .all(|line| line.starts_with("0.yml:1: auth.token.rootcertbundle: "))
        );
    }
}
