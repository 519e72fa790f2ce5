//! Nothing secret in any log: the program itself, with every level at trace, through all that handles secrets.
//!
//! Over TLS, with HTTP/1.1 and HTTP/2, as text and as JSON. What our libraries log counts as ours.

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boathouse::oci::{Algorithm, Digest};
use http::{Method, StatusCode};

use crate::client::{Client, Protocol, Target, basic, whole};
use crate::lab::Lab;
use crate::program::{Program, command};
use crate::support::{OCI_MANIFEST, image_manifest};

const PASSWORD: &str = "right-password-of-admin";
const WRONG: &str = "wrong-password-of-admin";
const IN_QUERY: &str = "password-in-a-query";
const HTTP_SECRET: &str = "the-secret-of-http-secret";

/// What must not be in a log, each with what it is.
#[derive(Default)]
struct Secrets(Vec<(&'static str, String)>);

impl Secrets {
    fn add(&mut self, what: &'static str, text: &str) {
        assert!(text.len() >= 10, "{what} is too short to be looked for");
        self.0.push((what, text.to_owned()));
    }

    /// A password alone, in the header, in a form, and as the bytes that a library might print.
    fn add_password(&mut self, password: &str) {
        self.add("a password", password);
        let pair = STANDARD.encode(format!("admin:{password}"));
        self.add("an Authorization value", &pair);
        let bytes = format!("{:?}", password.as_bytes());
        self.add("the bytes of a password", bytes.trim_matches(['[', ']']));
    }

    fn add_token(&mut self, token: &str) {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        self.add("a token's signature", signature);
        self.add("a token's claims", signed.split_once('.').unwrap().1);
    }

    /// `/v2/…/uploads/ID`: the last 16 digits are the MAC.
    fn add_session(&mut self, location: &str) {
        self.add("a session's MAC", &location[location.len() - 17..]);
    }

    /// What of it is in `log`.
    fn found_in(&self, log: &str) -> Vec<String> {
        let lines = log.lines();
        lines
            .flat_map(|line| {
                let found = self.0.iter().filter(|(_, text)| line.contains(text));
                found.map(move |(what, _)| format!("{what}: {line}"))
            })
            .collect()
    }
}

/// Logins, tokens, uploads and refusals, as many kinds as there are.
async fn visit(client: &Client, secrets: &mut Secrets) {
    let (right, wrong) = (basic("admin", PASSWORD), basic("admin", WRONG));
    let send = async |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        let answer = client.send(method, path, headers, whole(body.to_owned()));
        answer.await.unwrap()
    };
    send(Method::GET, "/v2/", &[], "")
        .await
        .expect(StatusCode::UNAUTHORIZED);
    for path in ["/v2/", "/token?service=boathouse"] {
        send(Method::GET, path, &[("authorization", &wrong)], "")
            .await
            .expect(StatusCode::UNAUTHORIZED);
    }
    let malformed = format!("Basic {PASSWORD}");
    send(Method::GET, "/v2/", &[("authorization", &malformed)], "").await;
    let query =
        format!("/token?account=admin&username=admin&password={IN_QUERY}&access_token={IN_QUERY}");
    send(Method::GET, &query, &[], "").await;
    send(
        Method::GET,
        &format!("/v2/?access_token={IN_QUERY}"),
        &[],
        "",
    )
    .await;
    for (password, status) in [
        (PASSWORD, StatusCode::OK),
        (WRONG, StatusCode::UNAUTHORIZED),
    ] {
        let form =
            format!("grant_type=password&username=admin&password={password}&service=boathouse");
        let kind = ("content-type", "application/x-www-form-urlencoded");
        send(Method::POST, "/token", &[kind], &form)
            .await
            .expect(status);
    }
    let scope = "/token?service=boathouse&scope=repository:team/app:pull,push,delete";
    let answer = send(Method::GET, scope, &[("authorization", &right)], "").await;
    let token = answer.expect(StatusCode::OK).json()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    secrets.add_token(&token);
    let bearer = format!("Bearer {token}");
    let bearer = ("authorization", bearer.as_str());
    send(Method::GET, "/v2/", &[bearer], "")
        .await
        .expect(StatusCode::OK);
    let forged = format!("Bearer {token}x");
    send(Method::GET, "/v2/", &[("authorization", &forged)], "")
        .await
        .expect(StatusCode::UNAUTHORIZED);

    for content in ["{}", "a layer"] {
        let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
        let begun = send(Method::POST, "/v2/team/app/blobs/uploads/", &[bearer], "").await;
        let session = begun
            .expect(StatusCode::ACCEPTED)
            .header("location")
            .to_owned();
        secrets.add_session(&session);
        let misplaced = [bearer, ("content-range", "5-9")];
        send(Method::PATCH, &session, &misplaced, "where").await;
        send(Method::PATCH, &session, &[bearer], content)
            .await
            .expect(StatusCode::ACCEPTED);
        send(Method::GET, &session, &[bearer], "")
            .await
            .expect(StatusCode::NO_CONTENT);
        send(
            Method::PUT,
            &format!("{session}?digest={digest}"),
            &[bearer],
            "",
        )
        .await
        .expect(StatusCode::CREATED);
        let blob = format!("/v2/team/app/blobs/{digest}");
        send(Method::GET, &blob, &[bearer], "")
            .await
            .expect(StatusCode::OK);
        // It has ended: an error that might name it.
        send(Method::DELETE, &session, &[bearer], "").await;
        send(Method::DELETE, &format!("{session}/x"), &[bearer], "").await;
        // A stranger's request for it.
        send(Method::GET, &session, &[("authorization", &wrong)], "").await;
    }
    let kind = ("content-type", OCI_MANIFEST);
    let manifest = image_manifest(b"a layer", "");
    send(
        Method::PUT,
        "/v2/team/app/manifests/1",
        &[bearer, kind],
        &manifest,
    )
    .await
    .expect(StatusCode::CREATED);
}

fn lines_of(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn no_log_holds_a_secret_even_at_trace() {
    let lab = Lab::empty();
    let start = async |log: &str, command: &mut Command| {
        let command = command
            .env("BOATHOUSE_ADMIN_PASSWORD", PASSWORD)
            .env("BOATHOUSE_LOG", "trace")
            .env("REGISTRY_HTTP_HTTP2_DISABLED", "false");
        let mut program = Program::start(&lab.path(log), command);
        program.listens().await;
        program
    };
    let mut secrets = Secrets::default();
    for password in [PASSWORD, WRONG] {
        secrets.add_password(password);
    }
    secrets.add("a query's credential", IN_QUERY);
    secrets.add("http.secret", HTTP_SECRET);

    let more = ["--log-format", "json"];
    let first = start("first.log", &mut lab.up_command("home", &more)).await;
    // Both runs serve the same address.
    let address = first.address();
    let target = Target {
        host: format!("localhost:{}", address.port()),
        ..lab.target("home", address)
    };
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let client = Client::new(target.clone(), protocol);
        visit(&client, &mut secrets).await;
    }
    let plain = first.get("/v2/").basic("admin", PASSWORD).send().await;
    plain.expect(StatusCode::BAD_REQUEST);
    let first = first.end();

    // The same again as text, by `serve`, with a secret in the configuration and a reload that fails on one.
    lab.write("extra.yml", format!("http: {{secret: {HTTP_SECRET}}}\n"));
    let [config, extra] = ["home/boathouse.yml", "extra.yml"].map(|name| lab.place(name));
    let arguments = ["serve", "--config", &config, "--config", &extra];
    let mut second = start("second.log", &mut command(&arguments, &[])).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let client = Client::new(target.clone(), protocol);
        visit(&client, &mut secrets).await;
    }
    second.signal(rustix::process::Signal::HUP);
    second.says("were read again").await;
    let users = lab.read("home/users.yml");
    let hash = users.split(['"', '\'']).find(|text| text.starts_with("$2"));
    secrets.add("a password's hash", hash.expect("a hash in users.yml"));
    lab.write(
        "home/users.yml",
        format!("users: {{a: {{pass: {PASSWORD}\n"),
    );
    second.signal(rustix::process::Signal::HUP);
    second.says("users.yml").await;
    let second = second.end();

    let secret = fs::read(lab.path("home/data/boathouse/secret")).unwrap();
    let hex = secret
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    secrets.add("the server's secret", &hex);
    secrets.add("the server's secret", &STANDARD.encode(&secret));
    secrets.add(
        "the server's secret",
        format!("{secret:?}").trim_matches(['[', ']']),
    );
    for key in ["ca.key", "tls.key", "token.key"] {
        for line in lines_of(&lab.path("home/keys").join(key)) {
            secrets.add("a key", &line);
        }
    }

    for (log, what) in [(&first, "json"), (&second, "text")] {
        let found = secrets.found_in(log);
        assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
        // That the logs were as talkative as can be, and that the requests are in them.
        for spoken in ["TRACE", "DEBUG", "admin", "/token", "uploads/"] {
            assert!(log.contains(spoken), "{what}: nothing of {spoken}");
        }
    }
    assert!(first.contains("h2::"), "nothing of HTTP/2");
    // And that what is looked for would be found.
    for (what, text) in &secrets.0 {
        let planted = format!("{first}\n{text}\n");
        assert!(!secrets.found_in(&planted).is_empty(), "{what}");
    }
}
