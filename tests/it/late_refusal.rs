//! Who was let in when the request came, and may no longer when its body has come: nothing is written, nothing is answered as
//! if it were.
//!
//! `Expect: 100-continue` says when the server has judged the head: it asks for the body only then.

use std::time::Duration;

use boathouse::auth::Accounts;
use boathouse::oci::{Algorithm, Digest};
use http::StatusCode;

use crate::client::Raw;
use crate::support::{OCI_INDEX, Options, TestRegistry, with_users};

const START: u64 = 1_800_000_000;
const INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const PUSH: &str = "repository:ann/app:pull,push";

/// What happens to the account while the body is on its way.
type Change = fn(&mut Accounts);

/// Ends her account, by a time that comes soon.
const EXPIRES: u64 = START + 10;

fn changes() -> Vec<(&'static str, Change)> {
    vec![
        ("remove", |accounts| {
            accounts.users.remove("ann");
        }),
        ("passwd", |accounts| {
            let hash = bcrypt::hash("another", 4).expect("a hash");
            accounts.users.get_mut("ann").expect("ann").password_hash = Some(hash);
        }),
        ("revoke", |accounts| {
            accounts.revoked.insert("ann".to_owned(), START + 1);
        }),
        ("the rule is gone", |accounts| accounts.acl.clear()),
        ("another rule comes first", |accounts| {
            let mut other = Options::default();
            with_users(&mut other, &[], &[("ann", "ann/*", &["pull"])]);
            accounts.acl = other.auth.accounts.acl;
        }),
        // Her account has an end, which the clock passes.
        ("expiry", |_| {}),
    ]
}

fn lab() -> (TestRegistry, Accounts) {
    let mut options = Options::default();
    with_users(&mut options, &["ann"], &[("ann", "ann/*", &["*"])]);
    options.auth.token.lifetime_secs = 20;
    let accounts = options.auth.accounts.clone();
    (TestRegistry::start(options), accounts)
}

/// The writes with a body: method, path, content type, body.
async fn writes(
    registry: &TestRegistry,
    authorization: &str,
) -> Vec<(&'static str, String, &'static str, String)> {
    let digest = |content: &str| Digest::of(Algorithm::Sha256, content.as_bytes());
    let octets = "application/octet-stream";
    let session = || async {
        let begun = registry
            .post("/v2/ann/app/blobs/uploads/")
            .header("authorization", authorization);
        let begun = begun.send().await.expect(StatusCode::ACCEPTED);
        begun.header("location").to_owned()
    };
    let whole = format!("/v2/ann/app/blobs/uploads/?digest={}", digest("whole"));
    let last = format!("{}?digest={}", session().await, digest("last"));
    vec![
        ("POST", whole, octets, "whole".to_owned()),
        ("PATCH", session().await, octets, "part".to_owned()),
        ("PUT", last, octets, "last".to_owned()),
        (
            "PUT",
            "/v2/ann/app/manifests/v1".to_owned(),
            OCI_INDEX,
            INDEX.to_owned(),
        ),
    ]
}

/// Sends a head and waits until the server asks for the body.
async fn judged(
    registry: &TestRegistry,
    method: &str,
    path: &str,
    headers: &str,
    length: usize,
) -> Raw {
    let mut raw = Raw::to(registry.address).await;
    raw.send(format!(
        "{method} {path} HTTP/1.1\r\nhost: registry.test:5000\r\nconnection: close\r\n{headers}content-length: {length}\r\nexpect: 100-continue\r\n\r\n"
    ))
    .await;
    assert_eq!(raw.take(25).await, b"HTTP/1.1 100 Continue\r\n\r\n");
    raw
}

/// What is stored, but for what upload sessions have received.
fn stored(registry: &TestRegistry) -> Vec<String> {
    let files = registry.data.files().into_keys();
    files.filter(|name| !name.contains("_uploads")).collect()
}

#[tokio::test]
async fn who_may_no_longer_write_when_the_body_has_come_is_refused() {
    for (what, change) in changes() {
        for is_token in [true, false] {
            let (registry, mut accounts) = lab();
            let ann = accounts.users.get_mut("ann").expect("ann");
            if what == "expiry" {
                ann.expires_unix_secs = Some(EXPIRES);
                registry.auth.reload(accounts.clone());
            }
            let authorization = if is_token {
                format!("Bearer {}", token_of(&registry).await)
            } else {
                "Basic YW5uOmFubi1zZWNyZXQ=".to_owned()
            };
            let mut waiting = Vec::new();
            for (method, path, kind, body) in writes(&registry, &authorization).await {
                let headers = format!("authorization: {authorization}\r\ncontent-type: {kind}\r\n");
                let raw = judged(&registry, method, &path, &headers, body.len()).await;
                waiting.push((method, path, body, raw));
            }
            let before = stored(&registry);
            change(&mut accounts);
            registry.auth.reload(accounts);
            if what == "expiry" {
                registry.clock.advance(Duration::from_secs(15));
            }
            for (method, path, body, mut raw) in waiting {
                raw.send(body).await;
                let status = raw.status().await;
                let expected: &[u16] = if what.contains("rule") && !is_token {
                    &[403]
                } else {
                    &[401]
                };
                assert!(
                    expected.contains(&status),
                    "{what}: a write of an account that may no longer write was answered {status} (token: {is_token}, {method} {path})"
                );
            }
            assert_eq!(stored(&registry), before, "{what}");
        }
    }
}

async fn token_of(registry: &TestRegistry) -> String {
    let call = registry.get(&format!("/token?service=boathouse&scope={PUSH}"));
    let answer = call.basic("ann", "ann-secret").send().await;
    let answer = answer.expect(StatusCode::OK).json();
    answer["token"].as_str().unwrap().to_owned()
}

/// A slow line is no reason: what was begun with a valid token is finished.
#[tokio::test]
async fn a_token_that_expires_while_the_body_comes_suffices() {
    let (registry, _) = lab();
    let authorization = format!("Bearer {}", token_of(&registry).await);
    let mut waiting = Vec::new();
    for (method, path, kind, body) in writes(&registry, &authorization).await {
        let headers = format!("authorization: {authorization}\r\ncontent-type: {kind}\r\n");
        let raw = judged(&registry, method, &path, &headers, body.len()).await;
        waiting.push((method, path, body, raw));
    }
    // The token lived for 20 s; clocks may differ by 60.
    registry.clock.advance(Duration::from_secs(100));
    for (method, path, body, mut raw) in waiting {
        raw.send(body).await;
        let expected = if method == "PATCH" { 202 } else { 201 };
        assert_eq!(raw.status().await, expected, "{method} {path}");
    }
}

/// The password is checked when the form is there, not when its request came.
#[tokio::test]
async fn a_token_is_asked_for_with_the_password_of_when_the_form_has_come() {
    let (registry, mut accounts) = lab();
    let form = "grant_type=password&service=boathouse&username=ann&password=ann-secret";
    let kind = "content-type: application/x-www-form-urlencoded\r\n";
    let mut raw = judged(&registry, "POST", "/token", kind, form.len()).await;
    accounts.users.remove("ann");
    registry.auth.reload(accounts);
    raw.send(form).await;
    assert_eq!(raw.status().await, 401);
}
