//! The addresses that the registry gives: `Location`, `Link` and the realm of a challenge, by configuration, Host and proxy.

use boathouse::auth::AutoRedirect;
use boathouse::server::{self, Locations};
use http::StatusCode;

use crate::client::until_closed;
use crate::support::{OCI_MANIFEST, Options, TestRegistry, image_manifest, with_users};

fn registry(locations: Locations, is_proxied: bool) -> TestRegistry {
    let trusted_proxies = if is_proxied {
        vec!["127.0.0.1/32".parse().unwrap()]
    } else {
        Vec::new()
    };
    TestRegistry::start(Options {
        server: server::Settings {
            locations,
            trusted_proxies,
            ..server::Settings::for_tests()
        },
        ..Options::default()
    })
}

/// Every `Location` of a push begins with `base`.
async fn locations_begin_with(registry: &TestRegistry, base: &str, headers: &[(&str, &str)]) {
    let with_headers = |mut call: crate::support::Call| {
        for (name, value) in headers {
            call = call.header(name, value);
        }
        call
    };
    let is_below = |answer: crate::support::Answer, below: &str| {
        let location = answer.header("location").to_owned();
        let path = location
            .strip_prefix(base)
            .unwrap_or_else(|| panic!("{location}"));
        assert!(path.starts_with(below), "{location}");
        path.to_owned()
    };
    let digest = registry.push_blob("b", b"layer").await;
    registry.push_blob("a", b"{}").await;
    let begun = with_headers(registry.post("/v2/a/blobs/uploads/"))
        .send()
        .await;
    let session = is_below(begun, "/v2/a/blobs/uploads/");
    let patch = with_headers(registry.patch(&session))
        .body(b"layer")
        .send()
        .await;
    is_below(patch, &session);
    let status = with_headers(registry.get(&session)).send().await;
    is_below(status, &session);
    let put = with_headers(registry.put(&format!("{session}?digest={digest}")));
    is_below(put.send().await, &format!("/v2/a/blobs/{digest}"));
    let whole = format!("/v2/a/blobs/uploads/?digest={digest}");
    let whole = with_headers(registry.post(&whole))
        .body(b"layer")
        .send()
        .await;
    is_below(whole, &format!("/v2/a/blobs/{digest}"));
    let mount = format!("/v2/c/blobs/uploads/?mount={digest}&from=b");
    let mounted = with_headers(registry.post(&mount)).send().await;
    is_below(mounted, &format!("/v2/c/blobs/{digest}"));
    let manifest = with_headers(registry.put("/v2/a/manifests/v1"));
    let manifest = manifest.header("content-type", OCI_MANIFEST);
    let manifest = manifest.body(image_manifest(b"layer", "").as_bytes());
    is_below(manifest.send().await, "/v2/a/manifests/sha256:");
    let base_redirect = with_headers(registry.get("/v2")).send().await;
    is_below(base_redirect, "/v2/");
    // As in distribution, whatever `Location` is.
    let page = with_headers(registry.get("/v2/_catalog?n=1")).send().await;
    assert!(page.header("link").starts_with("</v2/_catalog?"));
}

#[tokio::test]
async fn a_location_is_relative_unless_the_configuration_asks_for_more() {
    let forwarded = [("forwarded", "host=reg.example;proto=https")];
    let relative = registry(Locations::Relative, true);
    locations_begin_with(&relative, "", &forwarded).await;
    let configured = registry(Locations::Host("https://lab.example:5443".into()), true);
    locations_begin_with(&configured, "https://lab.example:5443", &forwarded).await;
    let requested = registry(Locations::Requested, false);
    locations_begin_with(&requested, "http://registry.test:5000", &forwarded).await;
    let proxied = registry(Locations::Requested, true);
    locations_begin_with(&proxied, "https://reg.example", &forwarded).await;
    let older = [
        ("x-forwarded-host", "reg.example:8443, inner"),
        ("x-forwarded-proto", "https"),
    ];
    locations_begin_with(&proxied, "https://reg.example:8443", &older).await;
}

async fn ask(registry: &TestRegistry, text: &str) -> String {
    until_closed(registry.address, text.replace('\n', "\r\n")).await
}

/// `auth.token.autoredirect`; distribution takes `https` whatever it sees.
#[tokio::test]
async fn a_realm_may_follow_the_host_that_the_client_used() {
    let realm = async |is_proxied: bool, headers: &[(&str, &str)]| {
        let mut options = Options::default();
        with_users(&mut options, &["ann"], &[]);
        options.auth.token.realm = Some("https://elsewhere/token".to_owned());
        options.auth.token.auto_redirect = Some(AutoRedirect {
            path: "/auth/token".to_owned(),
            assumes_https: !is_proxied,
        });
        if is_proxied {
            options.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        }
        let registry = TestRegistry::start(options);
        let headers = headers.iter();
        let headers: String = headers
            .flat_map(|(name, value)| [*name, ": ", *value, "\n"])
            .collect();
        let text = format!("GET /v2/ HTTP/1.1\nhost: inner:5000\n{headers}connection: close\n\n");
        let answer = ask(&registry, &text).await;
        let (_, realm) = answer.split_once("Bearer realm=\"").expect(&answer);
        let (realm, _) = realm.split_once("\",").unwrap();
        realm.to_owned()
    };
    let forwarded = [
        ("x-forwarded-host", "outer.example"),
        ("x-forwarded-proto", "https"),
    ];
    let plain = [
        ("x-forwarded-host", "outer.example"),
        ("x-forwarded-proto", "http"),
    ];
    assert_eq!(realm(false, &[]).await, "https://inner:5000/auth/token");
    // A client that is no proxy cannot send others to another host.
    assert_eq!(
        realm(false, &forwarded).await,
        "https://inner:5000/auth/token"
    );
    assert_eq!(
        realm(true, &forwarded).await,
        "https://outer.example/auth/token"
    );
    assert_eq!(realm(true, &plain).await, "http://outer.example/auth/token");
}

#[tokio::test]
async fn a_host_is_taken_for_a_challenge_wherever_it_is_taken_at_all() {
    let mut options = Options::default();
    options.server.locations = Locations::Requested;
    with_users(&mut options, &["ann"], &[("ann", "ann/*", &["*"])]);
    let registry = TestRegistry::start(options);
    for host in [
        "qual_registry:5000",
        "_x_",
        "qual-registry:5000",
        "reg.example",
        "192.0.2.1:80",
        "[2001:db8::1]:5000",
    ] {
        let text = format!("GET /v2/ HTTP/1.1\nhost: {host}\nconnection: close\n\n");
        let answer = ask(&registry, &text).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        let realm = format!("realm=\"http://{host}/token\"");
        assert!(answer.contains(&realm), "{answer}");
    }
    for host in ["a/b", "a b", "a\"b", "a@b", "a%2fb", "a,b", "\u{e4}"] {
        let text = format!("GET /v2/ HTTP/1.1\nhost: {host}\nconnection: close\n\n");
        let answer = ask(&registry, &text).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{host}: {answer}");
    }
    // HTTP/1.0 without a host: there is nothing to begin with, and a push works all the same.
    let push = "authorization: Basic YW5uOmFubi1zZWNyZXQ=\ncontent-length: 0";
    let text = format!("POST /v2/ann/app/blobs/uploads/ HTTP/1.0\n{push}\n\n");
    let answer = ask(&registry, &text).await;
    assert!(
        answer.contains("\r\nLocation: /v2/ann/app/blobs/uploads/"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_malformed_forwarded_header_says_nothing() {
    let registry = registry(Locations::Requested, true);
    for bad in ["host=\"evil", "host=a;host=b", "nonsense"] {
        let begun = registry
            .post("/v2/a/blobs/uploads/")
            .header("forwarded", bad);
        let begun = begun.send().await.expect(StatusCode::ACCEPTED);
        let location = begun.header("location");
        assert!(
            location.starts_with("http://registry.test:5000/v2/"),
            "{bad}: {location}"
        );
    }
}
