//! `docker_auth`'s own listener, beside the registry's.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use boathouse::oci::{Algorithm, Digest};
use boathouse::server::{BoundAddress, RealIp};
use http::{Method, StatusCode};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, NamedGroup, RootCertStore, SupportedProtocolVersion};

use crate::client::{Call, Client, Protocol, Target, trust};
use crate::guide;
use crate::lab::Lab;
use crate::program::{MISCONFIGURED, Program, command, ran};
use crate::support::{Answer, Options, TestRegistry, token_listener, with_users};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// A registry whose account `ann` may push to `ann/*`, with `docker_auth`'s listener as `change` wants it.
fn lab(change: impl FnOnce(&mut boathouse::config::TokenListener)) -> TestRegistry {
    let mut options = Options::default();
    with_users(
        &mut options,
        &["ann"],
        &[("ann", "ann/*", &["pull", "push"])],
    );
    options.auth.token.issuer = String::from("Lab <auth>");
    let mut listener = token_listener();
    change(&mut listener);
    options.token_listener = Some(listener);
    TestRegistry::start(options)
}

fn call(lab: &TestRegistry, method: Method, path: &str) -> Call {
    let address = lab.token_address.as_ref().and_then(BoundAddress::tcp);
    Call::to(address.expect("a TCP address"), method, path)
}

async fn get(lab: &TestRegistry, path: &str) -> Answer {
    call(lab, Method::GET, path)
        .basic("ann", "ann-secret")
        .send()
        .await
}

#[tokio::test]
async fn it_serves_the_paths_of_docker_auth_and_nothing_of_the_registry() {
    let lab = lab(|_| {});
    let token = "service=boathouse&scope=repository:ann/app:pull,push";
    for (path, status, content_type) in [
        ("/auth", 200, JSON),
        ("/auth/token", 200, JSON),
        ("/auth%2Ftoken", 200, JSON),
        ("/%61uth", 200, JSON),
        ("/", 200, HTML),
        ("/auth/", 404, TEXT),
        ("//auth", 404, TEXT),
        ("/AUTH", 404, TEXT),
        ("/auth/../auth", 404, TEXT),
        ("/auth;x", 404, TEXT),
        ("/token", 404, TEXT),
        ("/v2/", 404, TEXT),
        ("/v2/_catalog", 404, TEXT),
        ("/healthz", 404, TEXT),
        ("/readyz", 200, "text/plain"),
        ("/readyz/", 404, TEXT),
        ("/ca.crt", 404, TEXT),
    ] {
        let answer = get(&lab, &format!("{path}?{token}")).await;
        let found = (answer.status.as_u16(), answer.header("content-type"));
        assert_eq!(found, (status, content_type), "{path}");
        let of_registry = "docker-distribution-api-version";
        assert!(!answer.headers.contains_key(of_registry), "{path}");
    }
    let answer = get(&lab, &format!("/auth?{token}")).await.json();
    assert_eq!(answer["token"], answer["access_token"]);
    let token = answer["token"].as_str().unwrap();
    // Both listeners have the same accounts and the same issuer.
    let look = |path: &str| lab.get(path).bearer(token).send();
    look("/v2/ann/app/tags/list")
        .await
        .expect_error(404, "NAME_UNKNOWN");
    look("/v2/bob/app/tags/list")
        .await
        .expect(StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn its_refusals_are_worded_as_by_docker_auth() {
    let lab = lab(|_| {});
    let page = call(&lab, Method::GET, "/").send().await;
    assert_eq!(page.body, "<h1>Lab &lt;auth&gt;</h1>\n");
    let wrong = call(&lab, Method::GET, "/auth")
        .basic("ann", "wrong")
        .send();
    let wrong = wrong.await.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(wrong.body, "Auth failed.\n");
    assert_eq!(
        wrong.header("www-authenticate"),
        "Basic realm=\"Lab <auth>\""
    );
    let anonymous = call(&lab, Method::GET, "/auth").send().await;
    assert_eq!(anonymous.status, StatusCode::UNAUTHORIZED);
    let malformed = get(&lab, "/auth?scope=bad").await;
    assert_eq!(malformed.status, StatusCode::BAD_REQUEST);
    assert!(malformed.body.starts_with(b"Bad request: invalid scope"));
    let form = call(&lab, Method::POST, "/auth/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(b"username=ann&password=ann-secret&service=boathouse");
    form.send().await.expect(StatusCode::OK);
    let head = call(&lab, Method::HEAD, "/auth").basic("ann", "ann-secret");
    let head = head.send().await.expect(StatusCode::OK);
    assert_eq!((head.header("content-type"), head.body.len()), (JSON, 0));
    let put = call(&lab, Method::PUT, "/auth").send().await;
    assert_eq!(put.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(put.header("allow"), "GET, HEAD, POST");
}

#[tokio::test]
async fn a_prefix_is_compared_as_it_is_written() {
    let prefixed = |prefix: &'static str| lab(|listener| listener.server.prefix = prefix.into());
    let lab = prefixed("/registry");
    for (path, status) in [
        ("/registry/auth", 200),
        ("/registry/auth/token", 200),
        ("/registry/", 200),
        ("/registry", 404),
        ("/registry/registry/auth", 404),
        ("/auth", 404),
        ("/", 404),
    ] {
        assert_eq!(get(&lab, path).await.status.as_u16(), status, "{path}");
    }
    let lab = prefixed("/registry/");
    for (path, status) in [
        ("/registry//auth", 200),
        ("/registry//", 200),
        ("/registry/auth", 404),
    ] {
        assert_eq!(get(&lab, path).await.status.as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn the_header_with_the_address_must_be_there() {
    let lab = lab(|listener| {
        listener.server.real_ip = Some(RealIp {
            header: "X-Forwarded-For".to_owned(),
            position: -1,
        });
    });
    let with = |value: &str| {
        let call = call(&lab, Method::GET, "/auth").basic("ann", "ann-secret");
        call.header("x-forwarded-for", value).send()
    };
    with("192.0.2.1, 192.0.2.2").await.expect(StatusCode::OK);
    with("192.0.2.1, unknown")
        .await
        .expect(StatusCode::BAD_REQUEST);
    let missing = get(&lab, "/auth").await.expect(StatusCode::BAD_REQUEST);
    assert!(missing.body.starts_with(b"Bad request: "));
    // The page needs no address.
    get(&lab, "/").await.expect(StatusCode::OK);
}

/// The guide's files, and the certificate that both name.
fn installation() -> Lab {
    let lab = Lab::empty();
    let hash = bcrypt::hash("tjarosik-secret", 4).unwrap();
    lab.configure("registry.yml", guide::REGISTRY);
    let auth_config = guide::AUTH_CONFIG.replace("HASH", &hash);
    lab.configure("auth_config.yml", &auth_config.replace("<redacted>", &hash));
    make_pair(&lab, "certs/cert.pem", "certs/privkey.pem");
    lab
}

fn make_pair(lab: &Lab, certificate: &str, key: &str) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    lab.write(certificate, pair.cert.pem());
    lab.write(key, pair.signing_key.serialize_pem());
}

fn start(lab: &Lab, files: &[&str]) -> Program {
    let mut command = command(&["serve"], &[]);
    for file in files {
        command.arg("--config").arg(lab.path(file));
    }
    Program::start(&lab.path(format!("{}.log", files.join("-"))), &mut command)
}

async fn token_at(address: SocketAddr, scope: &str) -> String {
    let path = format!("/auth?service=jarosik-oci-service&scope={scope}");
    let call = Call::to(address, Method::GET, &path).basic("tjarosik", "tjarosik-secret");
    let answer = call.send().await.expect(StatusCode::OK).json();
    answer["token"].as_str().unwrap().to_owned()
}

/// Pushes a blob with a token of `issuer`, as a client of the guide does.
async fn push_with_a_token(registry: &Program, issuer: SocketAddr) {
    let challenge = registry.get("/v2/").send().await;
    assert_eq!(
        challenge.header("www-authenticate"),
        "Bearer realm=\"https://macvm.store/auth\",service=\"jarosik-oci-service\""
    );
    let token = token_at(issuer, "repository:vm/base:pull,push").await;
    let digest = Digest::of(Algorithm::Sha256, b"layer");
    let path = format!("/v2/vm/base/blobs/uploads/?digest={digest}");
    let push = registry.call(Method::POST, &path).bearer(&token);
    let pushed = push.body(b"layer").send().await.expect(StatusCode::CREATED);
    let location = pushed.header("location");
    assert!(
        location.starts_with("https://macvm.store/v2/"),
        "{location}"
    );
}

#[tokio::test]
async fn the_files_of_the_guide_run_together_in_one_program() {
    let lab = installation();
    let mut program = start(&lab, &["registry.yml", "auth_config.yml"]);
    program.listens().await;
    let issuer = program.listens_for_tokens().await;
    push_with_a_token(&program, issuer).await;
    let anonymous = Call::to(issuer, Method::GET, "/auth?scope=repository:public/x:pull");
    anonymous.send().await.expect(StatusCode::OK);
    let files = ["registry.yml", "auth_config.yml"].map(|file| lab.place(file));
    let check = [
        "check",
        "--verbose",
        "--config",
        &files[0],
        "--config",
        &files[1],
    ];
    let shown = ran(&check, &[], "").fine();
    assert!(shown.contains("server.addr: 127.0.0.1:0  # "), "{shown}");
    program.end();
}

#[tokio::test]
async fn the_files_of_the_guide_run_alone_as_an_issuer_and_a_registry() {
    let lab = installation();
    let config = lab.place("auth_config.yml");
    let shown = ran(&["check", "--verbose", "--config", &config], &[], "").fine();
    assert!(
        !shown.contains("http.") && !shown.contains("storage."),
        "{shown}"
    );
    let explain = ["acl", "explain", "marcin", "vm/base", "--config", &config];
    let explained = ran(&explain, &[], "").fine();
    assert!(explained.contains("may pull from"), "{explained}");
    let before = files_in(&lab);
    let mut issuer = start(&lab, &["auth_config.yml"]);
    let issuer_address = issuer.listens_for_tokens().await;
    let mut registry = start(&lab, &["registry.yml"]);
    registry.listens().await;
    push_with_a_token(&registry, issuer_address).await;
    let ready = Call::to(issuer_address, Method::GET, "/readyz").send();
    assert_eq!(ready.await.expect(StatusCode::OK).body, "ready\n");
    for path in ["/v2/", "/token", "/ca.crt"] {
        let call = Call::to(issuer_address, Method::GET, path).send();
        call.await.expect(StatusCode::NOT_FOUND);
    }
    // Accounts and rules are read again as with a registry: without a signal, and by SIGHUP.
    let text = lab
        .read("auth_config.yml")
        .replace("\"marcin\"", "\"martin\"");
    lab.write("auth_config.yml", text);
    issuer.says("were read again").await;
    let gone = Call::to(issuer_address, Method::GET, "/auth").basic("marcin", "marcin-secret");
    gone.send().await.expect(StatusCode::UNAUTHORIZED);
    let text = lab
        .read("auth_config.yml")
        .replace("\"tjarosik\"", "\"thomas\"");
    lab.write("auth_config.yml", text);
    issuer.signal(Signal::HUP);
    while issuer.log().matches("were read again").count() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let gone = Call::to(issuer_address, Method::GET, "/auth").basic("tjarosik", "tjarosik-secret");
    gone.send().await.expect(StatusCode::UNAUTHORIZED);
    issuer.end();
    registry.end();
    let written: Vec<_> = files_in(&lab).difference(&before).cloned().collect();
    let expected = ["auth_config.yml.log", "registry.yml.log"];
    assert_eq!(written, expected);
    let status = ran(&["status", "--config", &config], &[], "").failed();
    assert!(
        status.contains("describe an issuer of tokens, and no registry"),
        "{status}"
    );
}

fn files_in(lab: &Lab) -> BTreeSet<String> {
    let entries = std::fs::read_dir(lab.path("")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// As those of `docker_auth`: a client stays logged in while the issuer's process becomes part of the registry's.
#[tokio::test]
async fn tokens_of_an_issuer_alone_count_once_both_files_are_served() {
    let lab = installation();
    let mut issuer = start(&lab, &["auth_config.yml"]);
    let address = issuer.listens_for_tokens().await;
    let path = "/auth?service=jarosik-oci-service&scope=repository:team/app:pull,push";
    let token = Call::to(address, Method::GET, path).basic("tjarosik", "tjarosik-secret");
    let token = token.send().await.expect(StatusCode::OK).json();
    issuer.end();
    let mut both = start(&lab, &["registry.yml", "auth_config.yml"]);
    both.listens().await;
    let upload = Call::to(both.address(), Method::POST, "/v2/team/app/blobs/uploads/");
    let upload = upload.bearer(token["token"].as_str().unwrap());
    upload.send().await.expect(StatusCode::ACCEPTED);
    both.end();
}

#[tokio::test]
async fn an_issuer_alone_needs_a_key() {
    let lab = installation();
    let text = lab.read("auth_config.yml");
    let without_pair = text.lines().filter(|line| !line.contains(".pem"));
    lab.write(
        "auth_config.yml",
        without_pair.collect::<Vec<_>>().join("\n"),
    );
    let log = start(&lab, &["auth_config.yml"])
        .refuses_with(MISCONFIGURED)
        .await;
    assert!(
        log.contains("token.certificate: missing: tokens need a key"),
        "{log}"
    );
    // A section of a registry's beside it: then the storage is what is missing.
    lab.write("auth_config.yml", text + "catalog: {maxentries: 5}\n");
    let config = lab.place("auth_config.yml");
    let said = ran(&["check", "--config", &config], &[], "").failed();
    assert!(said.contains("no storage is configured"), "{said}");
}

#[tokio::test]
async fn its_certificate_is_read_again_at_a_hangup() {
    let lab = installation();
    make_pair(&lab, "tls.crt", "tls.key");
    let text = lab.read("auth_config.yml").replace(
        "server: {",
        &format!(
            "server: {{certificate: {0}/tls.crt, key: {0}/tls.key, hsts: true, ",
            lab.place("")
        ),
    );
    lab.write("auth_config.yml", text);
    let mut program = start(&lab, &["registry.yml", "auth_config.yml"]);
    program.listens().await;
    let address = program.listens_for_tokens().await;
    let trusting = |certificate: &str| {
        let target = Target {
            address,
            host: format!("localhost:{}", address.port()),
            trust: Some(trust(certificate.as_bytes(), None)),
        };
        Client::new(target, Protocol::Http1)
    };
    let before = lab.read("tls.crt");
    let page = trusting(&before).get("/").await.unwrap();
    let hsts = page.header("strict-transport-security");
    assert_eq!(hsts, "max-age=63072000; includeSubDomains");
    make_pair(&lab, "tls.crt", "tls.key");
    program.signal(Signal::HUP);
    program.says("were read again").await;
    // Only the new certificate is trusted now.
    trusting(&lab.read("tls.crt")).get("/").await.unwrap();
    // Plain HTTP there: an answer that says so.
    let plain = Call::to(address, Method::GET, "/auth").send().await;
    assert_eq!(plain.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        plain.body,
        "Bad request: this port serves HTTPS, not HTTP\n"
    );
    program.end();
}

#[tokio::test]
async fn it_offers_the_versions_curves_and_suites_that_are_configured() {
    let chosen = |minimum, suites: &str, curves: &str| {
        format!(
            "tls_min_version: {minimum}, tls_cipher_suites: {suites}, tls_curve_preferences: {curves}"
        )
    };
    let suites = "[TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305, TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA]";
    let lab = installation();
    make_pair(&lab, "tls.crt", "tls.key");
    let file = |options: &str| {
        let at = lab.place("");
        let pair = format!("certificate: {at}/tls.crt, key: {at}/tls.key");
        let text = lab.read("auth_config.yml");
        let (_, rest) = text.split_once('\n').unwrap();
        let server = format!("server: {{addr: '127.0.0.1:0', {pair}, {options}}}");
        lab.write("auth_config.yml", format!("{server}\n{rest}"));
    };
    // Who connects with TLS 1.2 or 1.3: the version and the suite, or no connection.
    let connect = async |address: SocketAddr, version: &'static SupportedProtocolVersion| {
        let mut roots = RootCertStore::empty();
        let certificate = lab.read("tls.crt");
        roots
            .add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = "localhost".try_into().unwrap();
        let stream = connector.connect(name, stream).await.ok()?;
        let (_, connection) = stream.get_ref();
        let group = connection.negotiated_key_exchange_group().unwrap().name();
        Some((connection.negotiated_cipher_suite().unwrap().suite(), group))
    };
    file(&chosen("TLS12", suites, "[P384, P521]"));
    let mut program = start(&lab, &["auth_config.yml"]);
    let address = program.listens_for_tokens().await;
    let (suite, group) = connect(address, &TLS12).await.unwrap();
    assert_eq!(
        suite,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
    );
    assert_eq!(group, NamedGroup::secp384r1);
    let (_, group) = connect(address, &TLS13).await.unwrap();
    assert_eq!(group, NamedGroup::secp384r1);
    let log = program.end();
    for left_out in ["TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", "P521"] {
        assert!(
            log.contains(&format!("not offered here: {left_out}")),
            "{log}"
        );
    }
    file("tls_min_version: 0x0304");
    let mut program = start(&lab, &["auth_config.yml"]);
    let address = program.listens_for_tokens().await;
    assert!(connect(address, &TLS12).await.is_none(), "TLS 1.2 is taken");
    assert!(connect(address, &TLS13).await.is_some());
    program.end();
    file("tls_curve_preferences: [P521]");
    let log = start(&lab, &["auth_config.yml"])
        .refuses_with(MISCONFIGURED)
        .await;
    assert!(
        log.contains("none of these curves is offered here"),
        "{log}"
    );
}

#[tokio::test]
async fn on_a_unix_socket_the_address_comes_from_the_header() {
    let lab = installation();
    let socket = lab.path("auth.sock");
    let text = lab.read("auth_config.yml");
    let on_socket = |more: &str| {
        let server = format!("server: {{net: unix, addr: '{}'{more}}}", socket.display());
        let (_, rest) = text.split_once('\n').unwrap();
        lab.write("auth_config.yml", format!("{server}\n{rest}"));
    };
    let ask = |header: &str| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let head = format!("GET /auth HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{header}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    on_socket("");
    let mut program = start(&lab, &["auth_config.yml"]);
    program.says("listening for token requests").await;
    assert_eq!(ask("X-Real-IP: 192.0.2.1\r\n"), "400");
    let log = program.end();
    assert!(
        log.contains("until server.real_ip_header names a header"),
        "{log}"
    );
    assert!(!socket.exists(), "the socket's file outlives the program");
    on_socket(", real_ip_header: X-Real-IP");
    let mut program = start(&lab, &["auth_config.yml"]);
    program.says("listening for token requests").await;
    assert_eq!(ask("X-Real-IP: 192.0.2.1\r\n"), "200");
    assert_eq!(ask(""), "400");
    program.kill();
    // A program that was killed has left its file; the next one listens all the same.
    let mut program = start(&lab, &["auth_config.yml"]);
    program.says("listening for token requests").await;
    assert_eq!(ask("X-Real-IP: 192.0.2.1\r\n"), "200");
    program.end();
}
