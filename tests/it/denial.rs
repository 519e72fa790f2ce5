//! Who is refused: every endpoint, with every credential that does not suffice.
//!
//! Each credential is wrong in one respect, and good in all others; afterwards nothing that is stored has changed.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boathouse::auth::Access;
use boathouse::server::{RequestPath, Route};
use http::{Method, StatusCode};

use crate::access::{guarded, lab, token};
use crate::support::{Options, SECRET, TestRegistry, with_users};

const SCOPE: &str = "repository:ann/app:pull,push,delete";

/// Which endpoint it is: a new one does not compile until it has a row here, and in [`ENDPOINTS`].
fn number(route: &Route) -> usize {
    match route {
        Route::Health => 0,
        Route::Ready => 1,
        Route::AuthorityCertificate => 2,
        Route::Token => 3,
        Route::BaseRedirect => 4,
        Route::Base => 5,
        Route::Catalog(_) => 6,
        Route::Tags(..) => 7,
        Route::Referrers(..) => 8,
        Route::BlobRead(..) => 9,
        Route::BlobDelete(..) => 10,
        Route::UploadBegin(..) => 11,
        Route::UploadAppend(..) => 12,
        Route::UploadFinish(..) => 13,
        Route::UploadStatus(..) => 14,
        Route::UploadCancel(..) => 15,
        Route::ManifestRead(..) => 16,
        Route::ManifestPut(..) => 17,
        Route::ManifestDelete(..) => 18,
        Route::ManifestNowhere(_) => 19,
        Route::Options => 20,
        Route::Metrics => 21,
        Route::RepositoryDelete(..) => 22,
    }
}

const ENDPOINTS: usize = 23;
/// Those that are open to everybody, since they tell nothing of what is stored.
const OPEN: [&str; 5] = ["/healthz", "/readyz", "/ca.crt", "/token", "/v2"];

fn route(method: &Method, path: &str) -> Route {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    Route::parse(method, &RequestPath::decode(path), query).expect("an endpoint")
}

#[test]
fn every_endpoint_is_tried() {
    let open = OPEN.map(|path| route(&Method::GET, path));
    // Which methods a path has, names in it or not, is the same for every name.
    let options = route(&Method::OPTIONS, "/v2/ann/app/manifests/v1");
    let open = [&open[..], &[options]].concat();
    for route in &open {
        assert_eq!(route.access(), Access::Public, "{route:?}");
    }
    let guarded = guarded();
    let guarded = guarded.iter().map(|(method, path, _)| route(method, path));
    let tried: BTreeSet<usize> = guarded
        .inspect(|route| assert_ne!(route.access(), Access::Public, "{route:?}"))
        .chain(open)
        .map(|route| number(&route))
        .collect();
    assert_eq!(tried, (0..ENDPOINTS).collect());
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn parts(token: &str) -> (&str, &str, &str) {
    let mut parts = token.split('.');
    let mut next = || parts.next().expect("a part");
    (next(), next(), next())
}

/// The header of `token` with another algorithm, and its claims.
fn with_algorithm(token: &str, algorithm: &str) -> String {
    let (header, claims, _) = parts(token);
    let header = URL_SAFE_NO_PAD.decode(header).expect("a header");
    let mut header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
    header["alg"] = algorithm.into();
    format!("{}.{claims}", encoded(header.to_string().as_bytes()))
}

/// Tokens that each have one thing wrong with them. `registry` is used for nothing but these afterwards.
async fn invalid_tokens(registry: &TestRegistry) -> Vec<(&'static str, String)> {
    let good = token(registry, "ann", SCOPE).await;
    let (header, claims, signature) = parts(&good);
    let of_bob = token(registry, "bob", "repository:bob/app:pull,push,delete").await;
    let (bobs_header, bobs_claims, bobs_signature) = parts(&of_bob);
    let bobs = String::from_utf8(URL_SAFE_NO_PAD.decode(bobs_claims).unwrap()).unwrap();
    let widened = encoded(bobs.replace("bob/app", "ann/app").as_bytes());
    assert_ne!(widened, bobs_claims);

    let shared_secret = with_algorithm(&good, "HS256");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &SECRET);
    let shared_signature = encoded(hmac::sign(&key, shared_secret.as_bytes()).as_ref());

    let elsewhere = registry.get(&format!("/token?service=elsewhere&scope={SCOPE}"));
    let elsewhere = elsewhere.basic("ann", "ann-secret").send().await;
    let elsewhere = elsewhere.expect(StatusCode::OK).json();

    let stranger = lab();
    let another_key = token(&stranger, "ann", SCOPE).await;
    vec![
        ("nothing like a token", "not.a.token".to_owned()),
        (
            "no signature",
            format!("{}.", with_algorithm(&good, "none")),
        ),
        ("no signature, with dots", with_algorithm(&good, "none")),
        (
            "a shared secret",
            format!("{shared_secret}.{shared_signature}"),
        ),
        (
            "claims of another account",
            format!("{header}.{bobs_claims}.{signature}"),
        ),
        (
            "wider claims",
            format!("{bobs_header}.{widened}.{bobs_signature}"),
        ),
        (
            "half a signature",
            format!("{header}.{claims}.{}", &signature[..signature.len() / 2]),
        ),
        ("another key", another_key),
        (
            "another service",
            elsewhere["token"].as_str().unwrap().to_owned(),
        ),
    ]
}

/// At every endpoint, this token is no better than none, and the challenge says so.
async fn expect_invalid(registry: &TestRegistry, what: &str, token: &str) {
    for (method, path, scope) in guarded() {
        let call = registry.call(method.clone(), &path).bearer(token);
        let answer = call.send().await;
        let case = format!("{what}: {method} {path}");
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{case}");
        let base = r#"Bearer realm="http://registry.test:5000/token",service="boathouse""#;
        let scope = scope.map_or(String::new(), |scope| format!(",scope=\"{scope}\""));
        let challenge = format!("{base}{scope},error=\"invalid_token\"");
        assert_eq!(answer.header("www-authenticate"), challenge, "{case}");
        if method != Method::HEAD {
            answer.expect_error(401, "UNAUTHORIZED");
        }
    }
}

#[tokio::test]
async fn a_token_with_one_thing_wrong_opens_nothing() {
    let registry = lab();
    let before = registry.data.files();
    for (what, token) in invalid_tokens(&registry).await {
        expect_invalid(&registry, what, &token).await;
    }
    assert!(
        registry.data.files() == before,
        "something was stored or removed"
    );
}

#[tokio::test]
async fn a_token_ends_with_its_time_its_password_and_its_account() {
    let registry = lab();
    let before = registry.data.files();
    let good = token(&registry, "ann", SCOPE).await;
    let list = || registry.get("/v2/ann/app/tags/list").bearer(&good).send();
    list().await.expect_error(404, "NAME_UNKNOWN");

    // The same password, hashed anew, is another one as far as anybody can tell.
    let mut changed = Options::default();
    let rules: &[(&str, &str, &[&str])] = &[("ann", "ann/*", &["*"])];
    with_users(&mut changed, &["ann"], rules);
    registry.auth.reload(changed.auth.accounts);
    expect_invalid(&registry, "an old password's", &good).await;

    let new = token(&registry, "ann", SCOPE).await;
    let mut removed = Options::default();
    with_users(&mut removed, &["bob"], rules);
    registry.auth.reload(removed.auth.accounts);
    expect_invalid(&registry, "a removed account's", &new).await;

    let registry_of_old = lab();
    let old = token(&registry_of_old, "ann", SCOPE).await;
    // Longer than a token lives, and than an upload session may outlive it.
    registry_of_old.clock.advance(Duration::from_hours(24 * 40));
    expect_invalid(&registry_of_old, "an expired", &old).await;
    assert!(
        registry.data.files() == before,
        "something was stored or removed"
    );
}

#[tokio::test]
async fn a_token_for_one_thing_is_not_one_for_another() {
    let registry = lab();
    let before = registry.data.files();
    for granted in ["pull", "push", "delete", "pull,push", "pull,delete"] {
        let token = token(&registry, "ann", &format!("repository:ann/app:{granted}")).await;
        let granted: BTreeSet<&str> = granted.split(',').collect();
        for (method, path, scope) in guarded() {
            let Some(wanted) = scope.and_then(|scope| scope.strip_prefix("repository:ann/app:"))
            else {
                continue;
            };
            let wanted: BTreeSet<&str> = wanted.split(',').collect();
            if wanted.is_subset(&granted) {
                continue;
            }
            let answer = registry.call(method.clone(), &path).bearer(&token).send();
            let answer = answer.await;
            let case = format!("{granted:?}: {method} {path}");
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{case}");
            let challenge = answer.header("www-authenticate");
            assert!(
                challenge.ends_with(",error=\"insufficient_scope\""),
                "{case}: {challenge}"
            );
        }
    }
    assert!(
        registry.data.files() == before,
        "something was stored or removed"
    );
}
