//! Bad inputs 1 to 4, 6, 12 to 15, and 40: upload sessions, and how they end.

use http::StatusCode;

use super::{append, ask, begin, goes_on, sha256, stands_at, stored, unchanged};
use crate::access::lab;
use crate::client::{Raw, request};
use crate::connections::wait_for_range;
use crate::support::TestRegistry;

#[tokio::test]
async fn bad_input_01_a_digest_that_is_not_the_contents() {
    let registry = TestRegistry::open();
    registry.push_blob("a", b"before").await;
    let before = stored(&registry);
    let other = sha256("other");
    for sent in ["in one", "in two"] {
        let location = begin(&registry, "a").await;
        if sent == "in two" {
            assert_eq!(append(&registry, &location, &[], b"con").await, 202);
        }
        let line = format!("PUT {location}?digest={other}");
        let put = ask(&registry, &line, &[], b"tent").await;
        put.expect_error(400, "DIGEST_INVALID");
        // Bytes cannot be taken back, so the session is over.
        let status = ask(&registry, &format!("GET {location}"), &[], b"").await;
        assert_eq!(status.status, 404, "{status:?}");
    }
    let line = format!("POST /v2/a/blobs/uploads/?digest={other}");
    let post = ask(&registry, &line, &[], b"content").await;
    post.expect_error(400, "DIGEST_INVALID");
    unchanged(&registry, &before);
}

#[tokio::test]
async fn bad_input_02_no_digest() {
    let registry = TestRegistry::open();
    let before = stored(&registry);
    let location = begin(&registry, "a").await;
    assert_eq!(append(&registry, &location, &[], b"01234").await, 202);
    for query in ["", "?", "?digest", "?digest=", "?Digest=x"] {
        let put = ask(&registry, &format!("PUT {location}{query}"), &[], b"56789").await;
        put.expect_error(400, "DIGEST_INVALID");
    }
    stands_at(&registry, &location, "0-4").await;
    unchanged(&registry, &before);
    goes_on(&registry, &location, b"0123456789", 5).await;
}

#[tokio::test]
async fn bad_input_03_a_digest_of_another_kind() {
    let registry = TestRegistry::open();
    let before = stored(&registry);
    let location = begin(&registry, "a").await;
    let hex = sha256("01234").hex().clone();
    let bad = [
        format!("sha256:{}", hex.to_uppercase()),
        format!("SHA256:{hex}"),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{hex}0"),
        format!("sha512:{hex}"),
        "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
        "sha256:".to_owned(),
        hex,
    ];
    for digest in bad {
        let line = format!("PUT {location}?digest={digest}");
        let put = ask(&registry, &line, &[], b"01234").await;
        put.expect_error(400, "DIGEST_INVALID");
        let line = format!("POST /v2/a/blobs/uploads/?digest={digest}");
        let post = ask(&registry, &line, &[], b"01234").await;
        post.expect_error(400, "DIGEST_INVALID");
    }
    stands_at(&registry, &location, "0-0").await;
    unchanged(&registry, &before);
    goes_on(&registry, &location, b"01234", 0).await;
}

#[tokio::test]
async fn bad_input_04_a_body_that_breaks_off() {
    let registry = TestRegistry::open();
    let before = stored(&registry);
    let content = b"0123456789";
    for method in ["PATCH", "PUT"] {
        let location = begin(&registry, "a").await;
        // The digest of what arrives: were half a body taken for a whole one, it would become a blob.
        let line = format!("{method} {location}?digest={}", sha256("01234"));
        let bytes = request(&line, &["content-length: 10"], b"01234");
        Raw::to(registry.address).await.send(bytes).await;
        assert_eq!(wait_for_range(&registry, &location, "0-4").await, "0-4");
        unchanged(&registry, &before);
        let rest = &content[5..];
        let range = ["content-range: 5-9"];
        assert_eq!(append(&registry, &location, &range, rest).await, 202);
        stands_at(&registry, &location, "0-9").await;
    }
}

#[tokio::test]
async fn bad_input_06_finished_twice() {
    let registry = TestRegistry::open();
    let location = begin(&registry, "a").await;
    goes_on(&registry, &location, b"content", 0).await;
    registry.push_blob("a", b"another").await;
    let before = stored(&registry);
    // Ours: whoever lost the answer gets it again; another digest was never what this session became.
    let digest = sha256("content");
    let line = format!("PUT {location}?digest={digest}");
    let again = ask(&registry, &line, &[], b"").await;
    let again = again.expect(StatusCode::CREATED);
    assert_eq!(again.header("docker-content-digest"), digest.to_string());
    let line = format!("PUT {location}?digest={}", sha256("another"));
    let other = ask(&registry, &line, &[], b"").await;
    other.expect_error(404, "BLOB_UPLOAD_INVALID");
    unchanged(&registry, &before);
    let blob = ask(&registry, &format!("GET /v2/a/blobs/{digest}"), &[], b"").await;
    assert_eq!(blob.expect(StatusCode::OK).body.as_ref(), b"content");
}

#[tokio::test]
async fn bad_input_12_a_session_of_another_repository() {
    let registry = TestRegistry::open();
    registry.push_blob("b", b"b is there").await;
    let before = stored(&registry);
    let location = begin(&registry, "a").await;
    assert_eq!(append(&registry, &location, &[], b"01234").await, 202);
    let there = location.replace("/v2/a/", "/v2/b/");
    let digest = sha256("01234");
    for line in [
        format!("GET {there}"),
        format!("PATCH {there}"),
        format!("PUT {there}?digest={digest}"),
        format!("DELETE {there}"),
    ] {
        let answer = ask(&registry, &line, &[], b"").await;
        answer.expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    }
    stands_at(&registry, &location, "0-4").await;
    unchanged(&registry, &before);
    goes_on(&registry, &location, b"01234", 5).await;
}

#[tokio::test]
async fn bad_input_13_how_far_an_empty_session_is() {
    let registry = TestRegistry::open();
    let location = begin(&registry, "a").await;
    stands_at(&registry, &location, "0-0").await;
    assert_eq!(append(&registry, &location, &[], b"").await, 202);
    stands_at(&registry, &location, "0-0").await;
}

#[tokio::test]
async fn bad_input_14_cancelled_then_used() {
    let registry = TestRegistry::open();
    let before = stored(&registry);
    let location = begin(&registry, "a").await;
    assert_eq!(append(&registry, &location, &[], b"01234").await, 202);
    let cancelled = ask(&registry, &format!("DELETE {location}"), &[], b"").await;
    cancelled.expect(StatusCode::NO_CONTENT);
    let digest = sha256("01234");
    for line in [
        format!("GET {location}"),
        format!("PATCH {location}"),
        format!("DELETE {location}"),
    ] {
        let answer = ask(&registry, &line, &[], b"").await;
        answer.expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    }
    let put = format!("PUT {location}?digest={digest}");
    let put = ask(&registry, &put, &[], b"").await;
    assert_eq!(put.status, 404, "{put:?}");
    unchanged(&registry, &before);
}

#[tokio::test]
async fn bad_input_15_a_blob_of_no_bytes() {
    let registry = TestRegistry::open();
    let digest = sha256("");
    let chunked: &[&str] = &["transfer-encoding: chunked"];
    let no_chunks = b"0\r\n\r\n";
    let line = format!("POST /v2/post/blobs/uploads/?digest={digest}");
    ask(&registry, &line, &[], b"")
        .await
        .expect(StatusCode::CREATED);
    for (name, headers, body) in [
        ("put", &[] as &[&str], &b""[..]),
        ("chunked", chunked, no_chunks),
    ] {
        let location = begin(&registry, name).await;
        let line = format!("PUT {location}?digest={digest}");
        let put = ask(&registry, &line, headers, body).await;
        put.expect(StatusCode::CREATED);
        let name = format!("patched-{name}");
        let location = begin(&registry, &name).await;
        assert_eq!(append(&registry, &location, headers, body).await, 202);
        goes_on(&registry, &location, b"", 0).await;
    }
    for name in ["post", "put", "chunked", "patched-put", "patched-chunked"] {
        let blob = ask(
            &registry,
            &format!("GET /v2/{name}/blobs/{digest}"),
            &[],
            b"",
        )
        .await;
        let blob = blob.expect(StatusCode::OK);
        assert_eq!((blob.header("content-length"), blob.body.len()), ("0", 0));
    }
}

#[tokio::test]
async fn bad_input_40_a_mount_that_cannot_be() {
    let registry = lab();
    let push = |name: &str, content: &'static [u8]| {
        let digest = sha256(content);
        let line = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        registry
            .post(&line)
            .basic("ann", "ann-secret")
            .body(content)
            .send()
    };
    push("ann/app", b"private")
        .await
        .expect(StatusCode::CREATED);
    let before = stored(&registry);
    let mount = |digest: String, from: &'static str| {
        let line = format!("/v2/bob/app/blobs/uploads/?mount={digest}{from}");
        registry.post(&line).basic("bob", "bob-secret").send()
    };
    for bad in ["sha256:zz", "md5:00", "", "..%2f..%2fetc"] {
        let answer = mount(bad.to_owned(), "&from=bob/other").await;
        answer.expect_error(400, "DIGEST_INVALID");
    }
    // What is there and forbidden looks like what is nowhere.
    for from in [
        "",
        "&from=ann/app",
        "&from=nobody/nothing",
        "&from=..%2f..%2fetc",
        "&from=",
    ] {
        let mut seen = Vec::new();
        for content in ["private", "absent"] {
            let answer = mount(sha256(content).to_string(), from).await;
            let answer = answer.expect(StatusCode::ACCEPTED);
            let names: Vec<_> = answer.headers.keys().cloned().collect();
            seen.push((names, answer.body.clone()));
        }
        assert_eq!(seen[0], seen[1], "{from}");
    }
    unchanged(&registry, &before);
}
