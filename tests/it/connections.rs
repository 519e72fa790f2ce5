//! Connections: raw requests, stalls, draining, bodies that break off.

use std::sync::Arc;
use std::time::Duration;

use boathouse::oci::{Algorithm, Digest};
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use crate::client::Raw;
use crate::data::Data;
use crate::support::{Options, TestRegistry};

/// The status line of the answer to a request.
async fn status_line(registry: &TestRegistry, request: &str) -> String {
    let mut raw = Raw::to(registry.address).await;
    raw.send(request).await;
    raw.line().await
}

#[tokio::test]
async fn odd_requests_get_plain_answers() {
    let registry = TestRegistry::open();
    let cases = [
        ("GET /v2/ HTTP/1.0\r\n\r\n", "HTTP/1.0 200"),
        (
            "GET /v2/ HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 400",
        ),
        ("GET //v2/ HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 404"),
        (
            "GET /v2/a/../../etc/tags/list HTTP/1.1\r\nhost: a\r\n\r\n",
            "HTTP/1.1 400",
        ),
        (
            "HEAD /v2/ HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
            "HTTP/1.1 200",
        ),
        ("nonsense\r\n\r\n", "HTTP/1.1 400"),
    ];
    for (request, expected) in cases {
        let answer = status_line(&registry, request).await;
        assert!(answer.starts_with(expected), "{request:?} -> {answer:?}");
    }
}

#[tokio::test]
async fn what_arrived_before_a_break_is_kept() {
    let registry = TestRegistry::open();
    let begun = registry
        .post("/v2/a/blobs/uploads/")
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    let location = begun.header("location");
    let mut raw = Raw::to(registry.address).await;
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n01234");
    raw.send(head).await;
    raw.stream.shutdown().await.unwrap();
    drop(raw);
    let range = wait_for_range(&registry, location, "0-4").await;
    assert_eq!(range, "0-4");
    let rest = registry
        .patch(location)
        .header("content-range", "5-9")
        .body(b"56789")
        .send()
        .await;
    rest.expect(StatusCode::ACCEPTED);
    let digest = Digest::of(Algorithm::Sha256, b"0123456789");
    registry
        .put(&format!("{location}?digest={digest}"))
        .send()
        .await
        .expect(StatusCode::CREATED);
}

/// Asks until the session stands at `wanted` and nobody is at work on it, for at most five seconds.
pub(crate) async fn wait_for_range(
    registry: &TestRegistry,
    location: &str,
    wanted: &str,
) -> String {
    let mut range = String::new();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let status = registry
            .get(location)
            .send()
            .await
            .expect(StatusCode::NO_CONTENT);
        status.header("range").clone_into(&mut range);
        let probe = registry
            .patch(location)
            .header("content-range", "999-999")
            .body(b"x")
            .send()
            .await;
        let is_free = !probe.json().to_string().contains("another request");
        if range == wanted && is_free {
            break;
        }
    }
    range
}

/// The registry is told to end, and has had the time to notice.
async fn begin_stop(registry: TestRegistry) -> JoinHandle<Arc<Data>> {
    let stopping = tokio::spawn(registry.stop());
    tokio::time::sleep(Duration::from_millis(50)).await;
    stopping
}

#[tokio::test]
async fn a_moving_body_is_given_its_time_when_the_server_ends() {
    let registry = TestRegistry::open();
    let begun = registry
        .post("/v2/a/blobs/uploads/")
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    let location = begun.header("location").to_owned();
    let mut raw = Raw::to(registry.address).await;
    let digest = Digest::of(Algorithm::Sha256, b"0123456789");
    let head = format!(
        "PUT {location}?digest={digest} HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n01234"
    );
    raw.send(head).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stopping = begin_stop(registry).await;
    assert!(!stopping.is_finished(), "a body is still moving");
    raw.send("56789").await;
    assert_eq!(raw.status().await, 201);
    let data = stopping.await.unwrap();
    let registry = TestRegistry::start_in(data, Options::default());
    registry
        .get(&format!("/v2/a/blobs/{digest}"))
        .send()
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_never_ends_is_cut_off_at_the_drain_limit() {
    let registry = TestRegistry::open();
    let begun = registry
        .post("/v2/a/blobs/uploads/")
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    let location = begun.header("location").to_owned();
    let mut raw = Raw::to(registry.address).await;
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n01234");
    raw.send(head).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let clock = registry.clock.clone();
    let stopping = begin_stop(registry).await;
    assert!(!stopping.is_finished());
    clock.advance(Duration::from_secs(10));
    tokio::time::timeout(Duration::from_secs(5), stopping)
        .await
        .expect("ends at the limit")
        .unwrap();
}

#[tokio::test]
async fn a_connection_made_before_the_server_ends_has_its_request_answered() {
    let registry = TestRegistry::open();
    let mut raw = Raw::to(registry.address).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stopping = begin_stop(registry).await;
    raw.send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    raw.answer().await.expect(StatusCode::OK);
    tokio::time::timeout(Duration::from_secs(5), stopping)
        .await
        .expect("ends with the answer")
        .unwrap();
}

#[tokio::test]
async fn a_connection_without_a_request_does_not_hold_up_the_end() {
    let registry = TestRegistry::open();
    let _raw = Raw::to(registry.address).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let clock = registry.clock.clone();
    let stopping = begin_stop(registry).await;
    clock.advance(Duration::from_secs(1));
    tokio::time::timeout(Duration::from_secs(5), stopping)
        .await
        .expect("ends long before the drain limit")
        .unwrap();
}

#[tokio::test]
async fn an_idle_connection_makes_room() {
    let registry = TestRegistry::open();
    let mut raw = Raw::to(registry.address).await;
    raw.send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    raw.answer().await.expect(StatusCode::OK);
    let time_passes = async {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            registry.clock.advance(Duration::from_secs(30));
        }
    };
    let mut rest = Vec::new();
    tokio::select! {
        ended = tokio::time::timeout(Duration::from_secs(10), raw.stream.read_to_end(&mut rest)) => {
            ended.expect("ends long before the half minute of real time").unwrap();
        }
        () = time_passes => {}
    }
}

#[tokio::test]
async fn a_refused_client_is_not_asked_for_its_body() {
    let registry = crate::access::lab();
    let request = "PUT /v2/ann/app/manifests/v1 HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n";
    let answer = status_line(&registry, request).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}
