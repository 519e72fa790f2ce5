//! Bad inputs 5 and 7 to 11: chunks of an upload.

use http::StatusCode;

use super::{append, ask, begin, goes_on, sha256, stands_at, stored, unchanged};
use crate::client::{Raw, request};
use crate::support::TestRegistry;

#[tokio::test]
async fn bad_input_05_two_lengths_that_differ() {
    let registry = TestRegistry::open();
    let before = stored(&registry);
    let location = begin(&registry, "a").await;
    let digest = sha256("01234");
    for range in ["content-range: 0-9", "content-range: 0-3"] {
        let patch = ask(&registry, &format!("PATCH {location}"), &[range], b"01234").await;
        patch.expect_error(400, "SIZE_INVALID");
        let line = format!("PUT {location}?digest={digest}");
        let put = ask(&registry, &line, &[range], b"01234").await;
        put.expect_error(400, "SIZE_INVALID");
        stands_at(&registry, &location, "0-0").await;
    }
    unchanged(&registry, &before);
    goes_on(&registry, &location, b"01234", 0).await;
}

#[tokio::test]
async fn bad_input_07_two_chunks_at_once() {
    let registry = TestRegistry::open();
    let location = begin(&registry, "a").await;
    let content = vec![b'1'; 60_000];
    let bytes = request(&format!("PATCH {location}"), &[], &content);
    let head_bytes = bytes.len() - content.len();
    let mut first = Raw::to(registry.address).await;
    let mut sent = head_bytes + 5;
    first.send(&bytes[..sent]).await;
    loop {
        let status = ask(&registry, &format!("GET {location}"), &[], b"").await;
        if status.header("range") == "0-4" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    // The first goes on byte by byte until the second has its answer, so that both are at work for sure.
    let line = format!("PATCH {location}");
    let mut second = std::pin::pin!(ask(&registry, &line, &[], b"22222"));
    let refused = loop {
        tokio::select! {
            answer = &mut second => break answer,
            () = tokio::time::sleep(std::time::Duration::from_millis(1)) => {
                first.send(&bytes[sent..=sent]).await;
                sent += 1;
                // It is waited for, for a while, in case it is what a broken connection has left.
                registry.clock.advance(std::time::Duration::from_millis(20));
            }
        }
    };
    assert_eq!(refused.status, 416, "bytes of two requests interleave");
    refused.expect_error(416, "BLOB_UPLOAD_INVALID");
    first.send(&bytes[sent..]).await;
    let answer = first.answer().await.expect(StatusCode::ACCEPTED);
    assert_eq!(answer.header("range"), "0-59999");
    goes_on(&registry, &location, &content, content.len()).await;
}

#[tokio::test]
async fn bad_input_08_a_chunk_that_overlaps_or_leaves_a_gap() {
    let registry = TestRegistry::open();
    let before = stored(&registry);
    let location = begin(&registry, "a").await;
    assert_eq!(append(&registry, &location, &[], b"01234").await, 202);
    for range in ["0-4", "3-7", "4-8", "6-10", "4294967301-4294967305"] {
        let range = format!("content-range: {range}");
        for line in [
            format!("PATCH {location}"),
            format!("PUT {location}?digest={}", sha256("xxxxx")),
        ] {
            let answer = ask(&registry, &line, &[&range], b"xxxxx").await;
            let answer = answer.expect_error(416, "BLOB_UPLOAD_INVALID");
            assert_eq!(answer.header("range"), "0-4");
        }
    }
    stands_at(&registry, &location, "0-4").await;
    unchanged(&registry, &before);
    goes_on(&registry, &location, b"0123456789", 5).await;
}

#[tokio::test]
async fn bad_input_09_a_range_of_no_form() {
    let registry = TestRegistry::open();
    let location = begin(&registry, "a").await;
    let cases = [
        ("9-0", 416),
        ("bytes 9-0/10", 416),
        ("bytes 0-9/9", 416),
        ("bytes 1-10/11", 416),
        ("bytes */10", 400),
        ("bytes 0-9/x", 400),
        ("items 0-9/10", 400),
        ("0-9,10-19", 400),
        ("0-", 400),
        ("-9", 400),
        ("x-y", 400),
        ("+0-9", 400),
        ("0x0-9", 400),
        ("", 400),
        ("0-18446744073709551615", 416),
        ("18446744073709551616-18446744073709551626", 416),
    ];
    for (range, status) in cases {
        let header = format!("content-range: {range}");
        let line = format!("PATCH {location}");
        let patch = ask(&registry, &line, &[&header], b"0123456789").await;
        patch.expect_error(status, "BLOB_UPLOAD_INVALID");
        stands_at(&registry, &location, "0-0").await;
    }
    goes_on(&registry, &location, b"01234", 0).await;
}

/// The old registry does not look at the header, so clients write what they like.
#[tokio::test]
async fn a_range_whose_meaning_is_clear_is_taken() {
    let registry = TestRegistry::open();
    for range in [
        "0-9",
        "bytes 0-9/10",
        "bytes 0-9/*",
        "bytes 0-9/1000",
        "bytes 0-9",
        "bytes=0-9",
        "0-9/10",
        "  bytes  0 - 9 / 10 ",
    ] {
        let location = begin(&registry, "a").await;
        let header = format!("content-range: {range}");
        let status = append(&registry, &location, &[&header], b"0123456789").await;
        assert_eq!(status, 202, "{range}");
        // The next one is judged by what it says.
        let again = append(&registry, &location, &[&header], b"0123456789").await;
        assert_eq!(again, 416, "{range}");
        stands_at(&registry, &location, "0-9").await;
        let header = "content-range: bytes 10-19/20";
        let line = format!("PUT {location}?digest={}", sha256("01234567890123456789"));
        let put = ask(&registry, &line, &[header], b"0123456789").await;
        put.expect(StatusCode::CREATED);
    }
}

#[tokio::test]
async fn a_range_of_an_empty_body_means_nothing() {
    let registry = TestRegistry::open();
    let chunked = "transfer-encoding: chunked";
    let digest = sha256("0123456789");
    for range in [
        "0-0",
        "0--1",
        "0-9",
        "bytes 0-9/10",
        "bytes */0",
        "5-4",
        "10-9",
        "17-20",
    ] {
        let header = format!("content-range: {range}");
        // Before anything has come, after it, and with the closing PUT.
        let location = begin(&registry, "a").await;
        assert_eq!(
            append(&registry, &location, &[&header], b"").await,
            202,
            "{range}"
        );
        stands_at(&registry, &location, "0-0").await;
        assert_eq!(append(&registry, &location, &[], b"0123456789").await, 202);
        assert_eq!(
            append(&registry, &location, &[&header], b"").await,
            202,
            "{range}"
        );
        stands_at(&registry, &location, "0-9").await;
        let line = format!("PUT {location}?digest={digest}");
        let put = ask(&registry, &line, &[&header], b"").await;
        put.expect(StatusCode::CREATED);
    }
    // A chunked body shows that it is empty only when it ends.
    for range in ["0-0", "0-9", "bytes 0-9/10", "3-7", "17-20"] {
        let header = format!("content-range: {range}");
        let location = begin(&registry, "a").await;
        assert_eq!(append(&registry, &location, &[], b"0123456789").await, 202);
        let line = format!("PUT {location}?digest={digest}");
        let put = ask(&registry, &line, &[&header, chunked], b"0\r\n\r\n").await;
        put.expect(StatusCode::CREATED);
    }
    // One that is not empty belongs where it says.
    let location = begin(&registry, "a").await;
    assert_eq!(append(&registry, &location, &[], b"01234").await, 202);
    let header = "content-range: 0-4";
    let status = append(
        &registry,
        &location,
        &[header, chunked],
        b"5\r\nxxxxx\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(status, 416);
    stands_at(&registry, &location, "0-4").await;
    goes_on(&registry, &location, b"0123456789", 5).await;
}

#[tokio::test]
async fn bad_input_10_a_chunk_without_a_range() {
    let registry = TestRegistry::open();
    let location = begin(&registry, "a").await;
    let chunked = ["transfer-encoding: chunked"];
    let first = b"5\r\n01234\r\n0\r\n\r\n";
    assert_eq!(append(&registry, &location, &chunked, first).await, 202);
    stands_at(&registry, &location, "0-4").await;
    assert_eq!(append(&registry, &location, &[], b"567").await, 202);
    stands_at(&registry, &location, "0-7").await;
    goes_on(&registry, &location, b"0123456789", 8).await;
}

#[tokio::test]
async fn bad_input_11_a_first_chunk_from_the_middle() {
    let registry = TestRegistry::open();
    let before = stored(&registry);
    let location = begin(&registry, "a").await;
    for range in ["content-range: 1-5", "content-range: 5-9"] {
        let patch = ask(&registry, &format!("PATCH {location}"), &[range], b"56789").await;
        let patch = patch.expect_error(416, "BLOB_UPLOAD_INVALID");
        assert_eq!(patch.header("range"), "0-0");
    }
    stands_at(&registry, &location, "0-0").await;
    unchanged(&registry, &before);
    goes_on(&registry, &location, b"01234", 0).await;
}
