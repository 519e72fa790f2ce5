//! Access over HTTP: challenges, tokens, Basic, visibility across repositories, sessions that outlive a token.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boathouse::oci::{Algorithm, Digest};
use http::{Method, StatusCode};

use crate::support::{OCI_MANIFEST, Options, TestRegistry, image_manifest, with_users};

pub(crate) fn lab() -> TestRegistry {
    let mut options = Options::default();
    let all: &[&str] = &["*"];
    let rules: &[(&str, &str, &[&str])] = &[
        ("ann", "ann/*", all),
        ("ann", "shared/*", all),
        ("bob", "bob/*", all),
        ("bob", "shared/*", &["pull"]),
        ("", "public/*", &["pull"]),
    ];
    with_users(&mut options, &["ann", "bob", ""], rules);
    TestRegistry::start(options)
}

pub(crate) async fn token(registry: &TestRegistry, user: &str, scope: &str) -> String {
    let call = registry.get(&format!("/token?service=boathouse&scope={scope}"));
    let call = if user.is_empty() {
        call
    } else {
        call.basic(user, &format!("{user}-secret"))
    };
    let answer = call.send().await.expect(StatusCode::OK).json();
    assert_eq!(answer["token"], answer["access_token"]);
    assert!(
        answer["expires_in"].as_u64().unwrap() >= 4 * 3600 && answer.get("issued_at").is_none()
    );
    answer["token"].as_str().unwrap().to_owned()
}

/// Every endpoint that is not public, with the scope that its challenge must name.
pub(crate) fn guarded() -> Vec<(Method, String, Option<&'static str>)> {
    let digest = Digest::of(Algorithm::Sha256, b"x");
    let session = "/v2/ann/app/blobs/uploads/00000000-0000-8000-8000-000000000000";
    let (pull, push) = (
        Some("repository:ann/app:pull"),
        Some("repository:ann/app:pull,push"),
    );
    let delete = Some("repository:ann/app:delete");
    vec![
        (Method::GET, "/v2/".into(), None),
        (
            Method::GET,
            "/v2/_catalog".into(),
            Some("registry:catalog:*"),
        ),
        (Method::GET, "/metrics".into(), Some("registry:metrics:*")),
        (Method::GET, "/v2/ann/app/tags/list".into(), pull),
        (Method::GET, format!("/v2/ann/app/referrers/{digest}"), pull),
        (Method::GET, format!("/v2/ann/app/blobs/{digest}"), pull),
        (Method::HEAD, format!("/v2/ann/app/blobs/{digest}"), pull),
        (Method::GET, "/v2/ann/app/manifests/v1".into(), pull),
        (Method::GET, "/v2/ann/app/manifests/.INVALID".into(), pull),
        (Method::GET, "/v2/ann%2Fapp/manifests/v1".into(), pull),
        (Method::GET, session.into(), pull),
        (Method::POST, "/v2/ann/app/blobs/uploads/".into(), push),
        (Method::PUT, "/v2/ann/app/manifests/v1".into(), push),
        (Method::PUT, "/v2/ann%2Fapp/manifests/v1".into(), push),
        (Method::PATCH, session.into(), push),
        (Method::PUT, format!("{session}?digest={digest}"), push),
        (Method::DELETE, session.into(), push),
        (
            Method::DELETE,
            format!("/v2/ann/app/blobs/{digest}"),
            delete,
        ),
        (Method::DELETE, "/v2/ann/app/manifests/v1".into(), delete),
        (
            Method::DELETE,
            "/v2/ann/app/_boathouse/repository".into(),
            delete,
        ),
        (
            Method::DELETE,
            "/v2/%61nn%2fapp/manifests/v1".into(),
            delete,
        ),
    ]
}

#[tokio::test]
async fn every_endpoint_asks_who_is_calling() {
    let registry = lab();
    let elsewhere = token(&registry, "bob", "repository:bob/app:pull,push,delete").await;
    for (method, path, scope) in guarded() {
        let what = format!("{method} {path}");
        let base = r#"Bearer realm="http://registry.test:5000/token",service="boathouse""#;
        let expected = scope.map_or(base.to_owned(), |scope| format!("{base},scope=\"{scope}\""));
        let answer = registry.call(method.clone(), &path).send().await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(answer.header("www-authenticate"), expected, "{what}");

        let bad = registry
            .call(method.clone(), &path)
            .bearer("not.a.token")
            .send()
            .await;
        assert_eq!(bad.status, StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(
            bad.header("www-authenticate"),
            format!("{expected},error=\"invalid_token\""),
            "{what}"
        );

        let wrong = registry
            .call(method.clone(), &path)
            .basic("ann", "wrong")
            .send()
            .await;
        assert_eq!(wrong.status, StatusCode::UNAUTHORIZED, "{what}");

        if scope.is_some_and(|scope| scope.starts_with("repository")) {
            let lacking = registry
                .call(method.clone(), &path)
                .bearer(&elsewhere)
                .send()
                .await;
            assert_eq!(lacking.status, StatusCode::UNAUTHORIZED, "{what}");
            assert!(
                lacking
                    .header("www-authenticate")
                    .ends_with(",error=\"insufficient_scope\""),
                "{what}"
            );
            let denied = registry
                .call(method, &path)
                .basic("bob", "bob-secret")
                .send()
                .await;
            assert_eq!(denied.status, StatusCode::FORBIDDEN, "{what}");
        }
    }
}

/// `/${account}/` of the anonymous caller is the empty expression, which matches every name.
#[tokio::test]
async fn a_rule_that_an_empty_value_fills_opens_nothing() {
    for pattern in [
        "/${account}/",
        "/^${account}/",
        "${account}*",
        "/${service}/",
    ] {
        let mut options = Options::default();
        let all: &[&str] = &["*"];
        with_users(&mut options, &["ann", ""], &[("*", pattern, all)]);
        let registry = TestRegistry::start(options);
        let call = registry.get("/token?service=&scope=repository:app:pull,push,delete");
        let answer = call.send().await.expect(StatusCode::OK).json();
        let payload = answer["token"].as_str().unwrap().split('.').nth(1).unwrap();
        let claims = URL_SAFE_NO_PAD.decode(payload).expect("base64url");
        let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
        let actions = claims["access"][0]["actions"].as_array().unwrap();
        assert!(actions.is_empty(), "an empty value opened {pattern}");
        let anonymous = token(&registry, "", "repository:app:pull,push,delete").await;
        let begun = registry.post("/v2/app/blobs/uploads/").bearer(&anonymous);
        let status = begun.send().await.status;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{pattern}");
    }
}

#[tokio::test]
async fn login_push_and_pull_with_a_token_or_a_password() {
    let registry = lab();
    let login = token(&registry, "ann", "").await;
    registry
        .get("/v2/")
        .bearer(&login)
        .send()
        .await
        .expect(StatusCode::OK);
    registry
        .get("/v2/")
        .basic("ann", "ann-secret")
        .send()
        .await
        .expect(StatusCode::OK);
    let push = token(&registry, "ann", "repository:ann/app:pull,push").await;
    let digest = Digest::of(Algorithm::Sha256, b"x");
    let path = format!("/v2/ann/app/blobs/uploads/?digest={digest}");
    registry
        .post(&path)
        .bearer(&push)
        .body(b"x")
        .send()
        .await
        .expect(StatusCode::CREATED);
    let blob = format!("/v2/ann/app/blobs/{digest}");
    registry
        .get(&blob)
        .bearer(&push)
        .send()
        .await
        .expect(StatusCode::OK);
    registry
        .get(&blob)
        .basic("ann", "ann-secret")
        .send()
        .await
        .expect(StatusCode::OK);
    registry
        .get(&blob)
        .basic("bob", "bob-secret")
        .send()
        .await
        .expect_error(403, "DENIED");
    let wrong = registry
        .get("/token?service=boathouse")
        .basic("ann", "wrong")
        .send()
        .await;
    wrong.expect(StatusCode::UNAUTHORIZED);
    let form = "grant_type=password&username=ann&password=ann-secret&service=boathouse&scope=repository:ann/app:pull";
    let posted = registry
        .post("/auth/token")
        .header("content-type", "application/x-www-form-urlencoded");
    posted
        .body(form.as_bytes())
        .send()
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn anonymous_callers_pull_what_is_public_with_an_anonymous_token() {
    let registry = lab();
    registry
        .get("/v2/")
        .send()
        .await
        .expect_error(401, "UNAUTHORIZED");
    let anonymous = token(&registry, "", "repository:public/app:pull").await;
    let path = "/v2/public/app/tags/list";
    registry
        .get(path)
        .bearer(&anonymous)
        .send()
        .await
        .expect_error(404, "NAME_UNKNOWN");
    registry
        .get("/v2/ann/app/tags/list")
        .bearer(&anonymous)
        .send()
        .await
        .expect_error(401, "UNAUTHORIZED");
    registry
        .get("/v2/_catalog")
        .bearer(&anonymous)
        .send()
        .await
        .expect_error(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn the_catalog_shows_what_one_may_pull() {
    let registry = lab();
    for (user, name) in [
        ("ann", "ann/app"),
        ("ann", "shared/base"),
        ("bob", "bob/app"),
    ] {
        let call = registry.post(&format!(
            "/v2/{name}/blobs/uploads/?digest={}",
            Digest::of(Algorithm::Sha256, b"x")
        ));
        call.basic(user, &format!("{user}-secret"))
            .body(b"x")
            .send()
            .await
            .expect(StatusCode::CREATED);
    }
    let bob = token(&registry, "bob", "registry:catalog:*").await;
    let answer = registry
        .get("/v2/_catalog")
        .bearer(&bob)
        .send()
        .await
        .expect(StatusCode::OK);
    assert_eq!(
        answer.json()["repositories"],
        serde_json::json!(["bob/app", "shared/base"])
    );
}

#[tokio::test]
async fn a_digest_alone_opens_no_private_blob() {
    let registry = lab();
    let secret = b"ann's secret layer";
    let digest = Digest::of(Algorithm::Sha256, secret);
    let shared = Digest::of(Algorithm::Sha256, b"shared layer");
    for (name, content, digest) in [
        ("ann/app", &secret[..], &digest),
        ("shared/base", b"shared layer", &shared),
    ] {
        let call = registry
            .post(&format!("/v2/{name}/blobs/uploads/?digest={digest}"))
            .basic("ann", "ann-secret");
        call.body(content).send().await.expect(StatusCode::CREATED);
    }
    let as_bob = |call: crate::support::Call| call.basic("bob", "bob-secret");
    for query in [
        format!("mount={digest}&from=ann/app"),
        format!("mount={digest}"),
        format!("mount={digest}&from=bob/x"),
    ] {
        let answer = as_bob(registry.post(&format!("/v2/bob/app/blobs/uploads/?{query}")))
            .send()
            .await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{query}");
    }
    as_bob(registry.head(&format!("/v2/bob/app/blobs/{digest}")))
        .send()
        .await
        .expect(StatusCode::NOT_FOUND);
    let config = registry.post(&format!(
        "/v2/bob/app/blobs/uploads/?digest={}",
        Digest::of(Algorithm::Sha256, b"{}")
    ));
    as_bob(config)
        .body(b"{}")
        .send()
        .await
        .expect(StatusCode::CREATED);
    let put = |content: &[u8]| {
        let call = registry
            .put("/v2/bob/app/manifests/v1")
            .header("content-type", OCI_MANIFEST);
        as_bob(call)
            .body(image_manifest(content, "").as_bytes())
            .send()
    };
    let refused = put(secret).await;
    assert_eq!(
        refused.status,
        StatusCode::BAD_REQUEST,
        "a private blob was linked for somebody who merely knew its digest"
    );
    refused.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    let blob = as_bob(registry.get(&format!("/v2/bob/app/blobs/{digest}")))
        .send()
        .await;
    blob.expect_error(404, "BLOB_UNKNOWN");
    // What bob may pull elsewhere, he may name here.
    put(b"shared layer").await.expect(StatusCode::CREATED);
    as_bob(registry.get(&format!("/v2/bob/app/blobs/{shared}")))
        .send()
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn a_session_goes_on_with_an_expired_token_and_nothing_else_does() {
    let registry = lab();
    let push = token(&registry, "ann", "repository:ann/app:pull,push").await;
    let begun = registry
        .post("/v2/ann/app/blobs/uploads/")
        .bearer(&push)
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    let location = begun.header("location").to_owned();
    registry.clock.advance(Duration::from_hours(5));
    let digest = Digest::of(Algorithm::Sha256, b"long push");
    let patch = registry.patch(&location).bearer(&push).body(b"long push");
    patch.send().await.expect(StatusCode::ACCEPTED);
    registry
        .get(&location)
        .bearer(&push)
        .send()
        .await
        .expect(StatusCode::NO_CONTENT);
    let put = registry
        .put(&format!("{location}?digest={digest}"))
        .bearer(&push);
    put.send().await.expect(StatusCode::CREATED);
    let fresh = registry
        .post("/v2/ann/app/blobs/uploads/")
        .bearer(&push)
        .send()
        .await;
    assert!(
        fresh
            .expect_error(401, "UNAUTHORIZED")
            .header("www-authenticate")
            .ends_with("error=\"invalid_token\"")
    );

    let push = token(&registry, "ann", "repository:ann/app:pull,push").await;
    let begun = registry
        .post("/v2/ann/app/blobs/uploads/")
        .bearer(&push)
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    registry.clock.advance(Duration::from_hours(29));
    let late = registry
        .patch(begun.header("location"))
        .bearer(&push)
        .body(b"too late")
        .send()
        .await;
    late.expect_error(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn a_session_is_its_owners_alone() {
    let registry = lab();
    let begun = registry
        .post("/v2/shared/app/blobs/uploads/")
        .basic("ann", "ann-secret")
        .send()
        .await;
    let location = begun
        .expect(StatusCode::ACCEPTED)
        .header("location")
        .to_owned();
    let other = registry
        .get(&location)
        .basic("bob", "bob-secret")
        .send()
        .await;
    other.expect_error(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn failed_logins_are_slowed_and_say_for_how_long() {
    let registry = lab();
    let mut last = None;
    for attempt in 0..12 {
        let call = registry
            .get("/v2/")
            .basic("ann", &format!("wrong {attempt}"));
        last = Some(call.send().await);
    }
    let slowed = last.unwrap().expect_error(429, "TOOMANYREQUESTS");
    assert!(slowed.header("retry-after").parse::<u64>().unwrap() >= 1);
    registry.clock.advance(Duration::from_mins(2));
    registry
        .get("/v2/")
        .basic("ann", "ann-secret")
        .send()
        .await
        .expect(StatusCode::OK);
}
