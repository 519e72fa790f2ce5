//! Pages of other sites in a browser: `OPTIONS` without credentials, and the configured headers on every answer.
//!
//! A browser sends no credentials with its question which requests are allowed (Fetch standard, "CORS-preflight fetch"), and
//! shows a page nothing of an answer that lacks `Access-Control-Allow-Origin`, the challenge of a 401 included.

use boathouse::oci::{Algorithm, Digest};
use boathouse::server;
use http::{Method, StatusCode};

use crate::access::guarded;
use crate::client::until_closed;
use crate::support::{Answer, Options, TestRegistry, with_users};

const PAGE: &str = "http://ui.example";

/// What the guides to user interfaces of registries tell people to write.
const HEADERS: [(&str, &str); 9] = [
    ("Access-Control-Allow-Origin", PAGE),
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Allow-Methods", "HEAD"),
    ("Access-Control-Allow-Methods", "GET"),
    ("Access-Control-Allow-Methods", "DELETE"),
    ("Access-Control-Allow-Headers", "Authorization"),
    ("Access-Control-Allow-Headers", "Accept"),
    ("Access-Control-Expose-Headers", "Docker-Content-Digest"),
    ("Access-Control-Expose-Headers", "WWW-Authenticate"),
];

fn options() -> Options {
    let mut options = Options {
        server: server::Settings {
            headers: HEADERS
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            ..server::Settings::for_tests()
        },
        ..Options::default()
    };
    with_users(&mut options, &["ann"], &[("ann", "ann/*", &["*"])]);
    options
}

/// All values of a header, as a browser joins them.
fn joined(answer: &Answer, name: &str) -> String {
    let values = answer.headers.get_all(name).iter();
    let values: Vec<&str> = values.map(|value| value.to_str().unwrap()).collect();
    values.join(", ")
}

#[track_caller]
fn is_for_the_page(answer: &Answer, what: &str) {
    for (name, values) in [
        ("access-control-allow-origin", PAGE),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "HEAD, GET, DELETE"),
        ("access-control-allow-headers", "Authorization, Accept"),
        (
            "access-control-expose-headers",
            "Docker-Content-Digest, WWW-Authenticate",
        ),
    ] {
        assert_eq!(joined(answer, name), values, "{what}: {name}");
    }
}

#[tokio::test]
async fn a_browser_may_ask_every_path_which_requests_it_takes() {
    let registry = TestRegistry::start(options());
    let digest = Digest::of(Algorithm::Sha256, b"x");
    let session = "/v2/ann/app/blobs/uploads/00000000-0000-8000-8000-000000000000";
    for (path, allow) in [
        ("/", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/ca.crt", "GET, HEAD, OPTIONS"),
        ("/v2", "GET, HEAD, OPTIONS"),
        ("/v2/", "GET, HEAD, OPTIONS"),
        ("/v2/_catalog", "GET, HEAD, OPTIONS"),
        ("/v2/_catalog?n=x", "GET, HEAD, OPTIONS"),
        ("/v2/ann/app/tags/list", "GET, HEAD, OPTIONS"),
        ("/v2/nobody/none/tags/list", "GET, HEAD, OPTIONS"),
        (
            "/v2/ann/app/manifests/v1",
            "GET, HEAD, PUT, DELETE, OPTIONS",
        ),
        (
            "/v2/ann%2Fapp/manifests/v1",
            "GET, HEAD, PUT, DELETE, OPTIONS",
        ),
        (
            "/v2/ANN/app/manifests/.x",
            "GET, HEAD, PUT, DELETE, OPTIONS",
        ),
        (
            &format!("/v2/ann/app/blobs/{digest}"),
            "GET, HEAD, DELETE, OPTIONS",
        ),
        (
            &format!("/v2/ann/app/referrers/{digest}"),
            "GET, HEAD, OPTIONS",
        ),
        ("/v2/ann/app/blobs/uploads/", "POST, OPTIONS"),
        (session, "GET, HEAD, PATCH, PUT, DELETE, OPTIONS"),
        ("/token?service=boathouse", "GET, HEAD, POST, OPTIONS"),
        ("/auth", "GET, HEAD, POST, OPTIONS"),
        ("/nowhere", "OPTIONS"),
        ("/v2/ann/app/nothing", "OPTIONS"),
    ] {
        let call = registry.call(Method::OPTIONS, path);
        let call = call.header("origin", PAGE);
        let call = call.header("access-control-request-method", "DELETE");
        let answer = call.header("access-control-request-headers", "authorization");
        let answer = answer.send().await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{path}");
        assert_eq!(joined(&answer, "allow"), allow, "{path}");
        assert!(answer.body.is_empty(), "{path}");
        is_for_the_page(&answer, path);
    }
}

#[tokio::test]
async fn load_balancers_ask_without_a_host_and_about_the_whole_server() {
    let registry = TestRegistry::start(options());
    let answer = until_closed(registry.address, "OPTIONS / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 204 "), "{answer}");
    let text = "OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = until_closed(registry.address, text).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    let allow = "\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n";
    assert!(answer.contains(allow), "{answer}");
}

#[tokio::test]
async fn what_the_registry_does_not_take_is_not_offered() {
    let mut options = options();
    options.registry.deletes_enabled = false;
    options.auth = Options::default().auth;
    let registry = TestRegistry::start(options);
    let path = "/v2/ann/app/manifests/v1";
    let asked = registry.call(Method::OPTIONS, path).send().await;
    assert_eq!(joined(&asked, "allow"), "GET, HEAD, PUT, OPTIONS");
    let refused = registry.delete(path).send().await;
    let refused = refused.expect_error(405, "UNSUPPORTED");
    assert_eq!(joined(&refused, "allow"), "GET, HEAD, PUT");
    is_for_the_page(&refused, "405");
}

#[tokio::test]
async fn every_answer_is_for_the_page() {
    let registry = TestRegistry::start(options());
    for (method, path, _) in guarded() {
        let answer = registry.call(method.clone(), &path).send().await;
        assert_eq!(answer.status, 401, "{method} {path}");
        is_for_the_page(&answer, &path);
        let call = registry.call(method, &path).basic("ann", "ann-secret");
        is_for_the_page(&call.send().await, &path);
    }
    for (path, status) in [
        ("/nowhere", 404),
        ("/v2/ANN/tags/list", 400),
        ("/healthz", 200),
        ("/v2", 301),
        ("/token?service=boathouse", 401),
    ] {
        let answer = registry.get(path).send().await;
        assert_eq!(answer.status, status, "{path}");
        is_for_the_page(&answer, path);
    }
}

/// What a page does to show the tags of a repository, from the first question to the list.
#[tokio::test]
async fn a_page_logs_in_and_reads() {
    let registry = TestRegistry::start(options());
    let pushed = Digest::of(Algorithm::Sha256, b"{}");
    let push = registry.post(&format!("/v2/ann/app/blobs/uploads/?digest={pushed}"));
    let push = push.basic("ann", "ann-secret").body(b"{}").send().await;
    push.expect(StatusCode::CREATED);

    let list = "/v2/ann/app/tags/list";
    let preflight = registry.call(Method::OPTIONS, list).header("origin", PAGE);
    is_for_the_page(&preflight.send().await, "preflight of the list");
    let refused = registry.get(list).header("origin", PAGE).send().await;
    let refused = refused.expect_error(401, "UNAUTHORIZED");
    is_for_the_page(&refused, "401");
    let challenge = joined(&refused, "www-authenticate");
    assert!(
        challenge.contains(r#"scope="repository:ann/app:pull""#),
        "{challenge}"
    );

    let token = "/token?service=boathouse&scope=repository:ann/app:pull";
    let preflight = registry.call(Method::OPTIONS, token).header("origin", PAGE);
    is_for_the_page(&preflight.send().await, "preflight of the token");
    let given = registry.get(token).basic("ann", "ann-secret");
    let given = given.send().await.expect(StatusCode::OK);
    is_for_the_page(&given, "token");
    let token = given.json()["token"].as_str().unwrap().to_owned();
    let listed = registry.get(list).bearer(&token).send().await;
    let listed = listed.expect(StatusCode::OK);
    is_for_the_page(&listed, "list");
    assert_eq!(listed.json()["name"], "ann/app");
}

#[tokio::test]
async fn a_configured_header_replaces_no_header_that_describes_the_answer() {
    let mut options = options();
    let more = [
        ("Content-Type", "text/html"),
        ("X-Content-Type-Options", "nosniff"),
        ("Location", "http://elsewhere.example/"),
    ];
    let more = more.map(|(name, value)| (name.to_owned(), value.to_owned()));
    options.server.headers.extend(more);
    let registry = TestRegistry::start(options);
    let base = registry.get("/v2/").basic("ann", "ann-secret");
    let base = base.send().await.expect(StatusCode::OK);
    assert_eq!(joined(&base, "content-type"), "application/json");
    assert_eq!(joined(&base, "x-content-type-options"), "nosniff");
    let begun = registry.post("/v2/ann/app/blobs/uploads/");
    let begun = begun.basic("ann", "ann-secret").send().await;
    assert!(joined(&begun, "location").starts_with("/v2/ann/app/blobs/uploads/"));
}

#[tokio::test]
async fn header_names_are_written_as_scripts_look_for_them() {
    let registry = TestRegistry::open();
    let digest = registry.push_blob("a", b"blob").await;
    let text =
        format!("HEAD /v2/a/blobs/{digest} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let answer = until_closed(registry.address, &text).await;
    for line in [
        &format!("Docker-Content-Digest: {digest}"),
        "Content-Length: 4",
        "Content-Type: application/octet-stream",
        "Docker-Distribution-Api-Version: registry/2.0",
    ] {
        assert!(answer.lines().any(|found| found == line), "{answer}");
    }
}
