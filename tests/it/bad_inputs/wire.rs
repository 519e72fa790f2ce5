//! Bad input 39: what is wrong with the request itself.

use super::{begin, exchange, goes_on, stands_at, stored, unchanged};
use crate::access::lab;
use crate::client::until_closed;
use crate::support::TestRegistry;

fn ended(text: &str) -> String {
    text.replace('\n', "\r\n")
}

#[tokio::test]
async fn bad_input_39_requests_that_http_frowns_upon() {
    let registry = TestRegistry::open();
    let before = stored(&registry);

    // HEAD with a body: it is neither answered with one nor taken for the next request.
    let text = "HEAD /v2/ HTTP/1.1\nhost: a\ncontent-length: 22\nconnection: close\n\nDELETE /v2/ HTTP/1.1\n\n";
    let answer = until_closed(registry.address, ended(text)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");

    // HTTP/1.0, which needs no host and knows no chunks.
    let answer = until_closed(registry.address, "GET /v2/ HTTP/1.0\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    assert_eq!(body, "{}");

    for text in [
        "GET /v2/ HTTP/1.1\n\n",
        "GET /v2/ HTTP/1.1\nhost: a\nhost: b\n\n",
        "GET /v2/ HTTP/1.1\nhost: a/b\n\n",
    ] {
        let answer = exchange(&registry, ended(text).as_bytes(), false).await;
        answer.expect_error(400, "UNSUPPORTED");
    }

    // Two lengths: whichever counts, some proxy counts the other. Refused, and nothing after it is read.
    let location = begin(&registry, "a").await;
    let lengths = "content-length: 5\ncontent-length: 6\n\n01234";
    let text = format!("PATCH {location} HTTP/1.1\nhost: a\n{lengths}");
    let answer = until_closed(registry.address, ended(&text)).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    stands_at(&registry, &location, "0-0").await;

    // A length and chunks: the chunks count, in either order (RFC 9112 section 6.3), and no byte more.
    for (lengths, range) in [
        ("content-length: 3\ntransfer-encoding: chunked", "0-4"),
        ("transfer-encoding: chunked\ncontent-length: 300", "0-9"),
    ] {
        let text = format!("PATCH {location} HTTP/1.1\nhost: a\n{lengths}\n\n5\n01234\n0\n\n");
        let answer = exchange(&registry, ended(&text).as_bytes(), false).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        stands_at(&registry, &location, range).await;
    }
    unchanged(&registry, &before);
    goes_on(&registry, &location, b"0123401234", 10).await;

    // Whoever asks before sending is told what stands in the way, not to go on.
    let registry = lab();
    let before = stored(&registry);
    let body = "content-length: 5\nexpect: 100-continue\nauthorization: Basic YW5uOndyb25n\n\n";
    let text = format!("PUT /v2/ann/app/manifests/v1 HTTP/1.1\nhost: a\n{body}");
    let answer = exchange(&registry, ended(&text).as_bytes(), false).await;
    answer.expect_error(401, "UNAUTHORIZED");
    unchanged(&registry, &before);
}
