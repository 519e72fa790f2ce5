//! Bad inputs 34 to 36: reading blobs; and what stands below the table.

use http::StatusCode;
use serde_json::json;

use super::{ask, sha256};
use crate::client::{Raw, request};
use crate::support::{Answer, OCI_MANIFEST, TestRegistry};

async fn part(registry: &TestRegistry, content: &[u8], range: &str) -> Answer {
    let line = format!("GET /v2/a/blobs/{}", sha256(content));
    ask(registry, &line, &[&format!("range: {range}")], b"").await
}

#[tokio::test]
async fn bad_input_34_a_range_of_nothing() {
    let registry = TestRegistry::open();
    for content in [&b"0123456789"[..], b""] {
        registry.push_blob("a", content).await;
    }
    for range in ["5-2", "10-", "10-12", "-0", "99999999999999999999-"] {
        let answer = part(&registry, b"0123456789", &format!("bytes={range}")).await;
        let answer = answer.expect(StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(answer.header("content-range"), "bytes */10", "{range}");
    }
    for range in ["0-", "0-0", "-1", "-0"] {
        let answer = part(&registry, b"", &format!("bytes={range}")).await;
        let answer = answer.expect(StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(answer.header("content-range"), "bytes */0", "{range}");
    }
}

#[tokio::test]
async fn bad_input_35_ranges_that_reach_too_far_or_mean_nothing() {
    let registry = TestRegistry::open();
    let content = b"0123456789";
    registry.push_blob("a", content).await;
    for (range, from_to) in [
        ("bytes=-99999", "0-9"),
        ("bytes=0-99999999999999999999999", "0-9"),
        ("bytes=4-99", "4-9"),
    ] {
        let answer = part(&registry, content, range).await;
        let answer = answer.expect(StatusCode::PARTIAL_CONTENT);
        assert_eq!(
            answer.header("content-range"),
            format!("bytes {from_to}/10")
        );
        let start: usize = from_to[..1].parse().unwrap();
        assert_eq!(answer.body, content[start..]);
    }
    // Ours: what we do not serve in parts is served whole.
    for range in [
        "items=0-1",
        "bytes=0-0,5-6,x",
        "abc",
        "bytes=abc",
        "bytes=",
        "bytes=-",
        "bytes 0-1",
    ] {
        let answer = part(&registry, content, range).await;
        assert_eq!(
            answer.expect(StatusCode::OK).body.as_ref(),
            content,
            "{range}"
        );
    }
}

#[tokio::test]
async fn bad_input_36_a_blob_deleted_while_it_is_pulled() {
    let registry = TestRegistry::open();
    // More than the buffers between the two hold.
    let content: Vec<u8> = (0..24_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let digest = registry.push_blob("a", &content).await;
    let line = format!("/v2/a/blobs/{digest}");
    let mut pull = Raw::to(registry.address).await;
    pull.send(request(&format!("GET {line}"), &[], b"")).await;
    pull.wait_for(10_000).await;
    let deleted = ask(&registry, &format!("DELETE {line}"), &[], b"").await;
    deleted.expect(StatusCode::ACCEPTED);
    let gone = ask(&registry, &format!("GET {line}"), &[], b"").await;
    gone.expect_error(404, "BLOB_UNKNOWN");
    let answer = pull.answer().await;
    assert!(answer.expect(StatusCode::OK).body == content);
}

#[tokio::test]
async fn below_the_table_a_manifest_is_served_whatever_is_accepted() {
    let registry = TestRegistry::open();
    let (manifest, digest) = registry.push_image("a", "v1", b"layer").await;
    for headers in [
        &[] as &[&str],
        &["accept: text/html"],
        &["accept: */*;q=0"],
        &["accept: nonsense"],
    ] {
        for reference in ["v1", &digest.to_string()] {
            let line = format!("GET /v2/a/manifests/{reference}");
            let answer = ask(&registry, &line, headers, b"").await;
            let answer = answer.expect(StatusCode::OK);
            assert_eq!(answer.header("content-type"), OCI_MANIFEST);
            assert_eq!(answer.body, manifest);
        }
    }
}

#[tokio::test]
async fn below_the_table_what_the_client_has_is_not_sent_again() {
    let registry = TestRegistry::open();
    let (_, manifest) = registry.push_image("a", "v1", b"layer").await;
    let layer = sha256("layer");
    for (line, digest) in [
        (format!("GET /v2/a/manifests/{manifest}"), &manifest),
        ("GET /v2/a/manifests/v1".to_owned(), &manifest),
        (format!("GET /v2/a/blobs/{layer}"), &layer),
    ] {
        let answer = ask(&registry, &line, &[], b"").await.expect(StatusCode::OK);
        assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        let header = format!("if-none-match: {}", answer.header("etag"));
        let answer = ask(&registry, &line, &[&header], b"").await;
        answer.expect(StatusCode::NOT_MODIFIED);
    }
}

#[tokio::test]
async fn below_the_table_a_compressed_body_is_kept_as_it_came() {
    let registry = TestRegistry::open();
    // What a zip bomb would be told by: bytes that say they are gzip, and are stored as they are.
    let body = b"\x1f\x8b\x08\0\0\0\0\0\0\x03not decoded";
    let digest = sha256(body);
    let line = format!("POST /v2/a/blobs/uploads/?digest={digest}");
    let post = ask(&registry, &line, &["content-encoding: gzip"], body).await;
    post.expect(StatusCode::CREATED);
    let line = format!("GET /v2/a/blobs/{digest}");
    let answer = ask(&registry, &line, &["accept-encoding: gzip"], b"").await;
    let answer = answer.expect(StatusCode::OK);
    assert_eq!(answer.body.as_ref(), body);
    assert!(!answer.headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn below_the_table_an_unknown_repository_has_no_referrers() {
    let registry = TestRegistry::open();
    let line = format!("GET /v2/nowhere/referrers/{}", sha256("x"));
    let answer = ask(&registry, &line, &[], b"").await.expect(StatusCode::OK);
    assert_eq!(answer.json()["manifests"], json!([]));
    assert_eq!(
        answer.header("content-type"),
        "application/vnd.oci.image.index.v1+json"
    );
}
