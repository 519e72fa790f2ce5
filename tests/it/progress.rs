//! Bodies that crawl are not cut, and bodies that stand still are, in both directions (DESIGN D7).
//!
//! Hours pass on the test's own clock. `tests/interop/steps/80-slow.sh` lets two real minutes pass.

use std::time::Duration;

use boathouse::oci::{Algorithm, Digest};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Method, StatusCode};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use crate::client::{Client, Protocol, Raw, streamed, whole};
use crate::connections::wait_for_range;
use crate::support::{Options, TestRegistry, with_users};

/// The limit of the tests' registries (`Settings::for_tests`).
const STALL: Duration = Duration::from_mins(2);
/// Real time between looks, and between steps of the test's clock.
const STEP: Duration = Duration::from_millis(5);

/// Lets time pass, a little at once, until `ended` is there.
async fn until<T>(registry: &TestRegistry, ended: impl Future<Output = T>) -> T {
    let time_passes = async {
        loop {
            tokio::time::sleep(STEP).await;
            registry.clock.advance(STALL / 4);
        }
    };
    tokio::select! { ended = ended => ended, () = time_passes => unreachable!("it never ends") }
}

async fn begin(registry: &TestRegistry) -> String {
    let begun = registry.post("/v2/a/blobs/uploads/").send().await;
    let begun = begun.expect(StatusCode::ACCEPTED);
    begun.header("location").to_owned()
}

/// Waits until the session has so many bytes (two or more: `0-0` stands for none as well); only then may time go on.
async fn has_arrived(registry: &TestRegistry, location: &str, count: usize, token: &str) {
    loop {
        let status = registry.get(location).bearer(token).send().await;
        let status = status.expect(StatusCode::NO_CONTENT);
        if status.header("range") == format!("0-{}", count - 1) {
            return;
        }
        tokio::time::sleep(STEP / 10).await;
    }
}

async fn send_head(registry: &TestRegistry, head: &str) -> Raw {
    let mut raw = Raw::to(registry.address).await;
    raw.send(format!(
        "{head}\r\nhost: registry.test:5000\r\nconnection: close\r\n"
    ))
    .await;
    raw
}

#[tokio::test]
async fn a_push_that_crawls_for_half_a_day_completes_and_so_does_its_token() {
    let mut options = Options::default();
    with_users(&mut options, &["ann"], &[("ann", "*", &["*"])]);
    let registry = TestRegistry::start(options);
    let token = registry.get("/token?service=boathouse&scope=repository:a:pull,push");
    let token = token.basic("ann", "ann-secret").send().await;
    let token = token.json()["token"].as_str().unwrap().to_owned();
    let begun = registry.post("/v2/a/blobs/uploads/").bearer(&token);
    let begun = begun.send().await.expect(StatusCode::ACCEPTED);
    let location = begun.header("location");
    // The token lives for four hours: the first request begins while it does, the second one after six.
    let patch = format!("PATCH {location} HTTP/1.1\r\nauthorization: Bearer {token}");
    let content: Vec<u8> = (0..720_u32).map(|number| (number % 241) as u8).collect();
    for first in [0, content.len() / 2] {
        let piece = &content[first..first + content.len() / 2];
        let mut raw = send_head(&registry, &patch).await;
        let (last, length) = (first + piece.len() - 1, piece.len());
        let rest = format!("content-range: {first}-{last}\r\ncontent-length: {length}\r\n\r\n");
        raw.send(rest).await;
        for (number, bytes) in (1..).zip(piece.chunks(2)) {
            registry.clock.advance(STALL * 99 / 100);
            raw.send(bytes).await;
            has_arrived(&registry, location, first + number * 2, &token).await;
        }
        assert_eq!(raw.status().await, 202);
    }
    let digest = Digest::of(Algorithm::Sha256, &content);
    let put = registry.put(&format!("{location}?digest={digest}"));
    put.bearer(&token).send().await.expect(StatusCode::CREATED);
    let blob = registry.get(&format!("/v2/a/blobs/{digest}"));
    let blob = blob.basic("ann", "ann-secret").send().await;
    assert_eq!(blob.body, content);
}

#[tokio::test]
async fn a_push_that_stands_still_is_ended_and_goes_on_where_it_stood() {
    let registry = TestRegistry::open();
    let location = begin(&registry).await;
    let mut raw = send_head(&registry, &format!("PATCH {location} HTTP/1.1")).await;
    raw.send("content-length: 10\r\n\r\n01234").await;
    assert_eq!(until(&registry, raw.status()).await, 408);
    assert_eq!(wait_for_range(&registry, &location, "0-4").await, "0-4");
    let rest = registry.patch(&location).header("content-range", "5-9");
    let rest = rest.body(b"56789").send().await;
    rest.expect(StatusCode::ACCEPTED);
    let digest = Digest::of(Algorithm::Sha256, b"0123456789");
    let put = registry.put(&format!("{location}?digest={digest}"));
    put.send().await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn over_http2_one_push_that_stands_still_is_ended_and_the_one_beside_it_is_not() {
    let registry = TestRegistry::open();
    let client = http2(&registry);
    let patch = |location: &str, mut pieces: mpsc::Receiver<Bytes>| {
        let body = stream::poll_fn(move |context| pieces.poll_recv(context));
        let body = streamed(body.map(Ok));
        let (client, location) = (client.clone(), location.to_owned());
        tokio::spawn(async move { client.send(Method::PATCH, &location, &[], body).await })
    };
    let (still, moving) = (begin(&registry).await, begin(&registry).await);
    let (still_pieces, receiver) = mpsc::channel(1);
    let still_answer = patch(&still, receiver);
    let (moving_pieces, receiver) = mpsc::channel(1);
    let moving_answer = patch(&moving, receiver);
    let piece = || Bytes::from_static(b"xx");
    still_pieces.send(piece()).await.unwrap();
    has_arrived(&registry, &still, 2, "").await;
    for count in 1..=60 {
        registry.clock.advance(STALL / 2);
        moving_pieces.send(piece()).await.unwrap();
        has_arrived(&registry, &moving, count * 2, "").await;
    }
    let answer = still_answer.await.unwrap().unwrap();
    answer.expect(StatusCode::REQUEST_TIMEOUT);
    assert_eq!(wait_for_range(&registry, &still, "0-1").await, "0-1");
    drop(moving_pieces);
    let answer = moving_answer.await.unwrap().unwrap();
    let answer = answer.expect(StatusCode::ACCEPTED);
    assert_eq!(answer.header("range"), "0-119");
}

fn http2(registry: &TestRegistry) -> Client {
    let target = Client::plain(registry.address).target().clone();
    Client::new(target, Protocol::Http2)
}

/// Lets five times the stall limit pass.
async fn stand_still(registry: &TestRegistry) {
    for _ in 0..20 {
        tokio::time::sleep(STEP).await;
        registry.clock.advance(STALL / 4);
    }
}

/// A blob larger than what the system holds for a connection, and a connection on which it was asked for.
async fn pull(registry: &TestRegistry) -> (Vec<u8>, Raw) {
    let content: Vec<u8> = (0..24 * 1024 * 1024_u32)
        .map(|number| (number % 241) as u8)
        .collect();
    let digest = registry.push_blob("a", &content).await;
    let get = format!("GET /v2/a/blobs/{digest} HTTP/1.1");
    let mut raw = send_head(registry, &get).await;
    raw.send("\r\n").await;
    (content, raw)
}

#[tokio::test]
async fn a_pull_that_crawls_completes() {
    let registry = TestRegistry::open();
    let (content, mut raw) = pull(&registry).await;
    let mut answer = Vec::new();
    // 16 KiB/s. Slower readers over a fast network are told apart from those who have stopped only as far as their own
    // system tells ours that they read: it does so in steps of some hundred KiB.
    let a_minute_of_it = 16 * 1024 * 60;
    loop {
        let mut piece = (&mut raw.stream).take(a_minute_of_it);
        if piece.read_to_end(&mut answer).await.unwrap() == 0 {
            break;
        }
        // Time for two systems and a registry to notice.
        tokio::time::sleep(STEP * 10).await;
        registry.clock.advance(STALL / 2);
    }
    assert!(answer.ends_with(&content), "{} bytes came", answer.len());
}

#[tokio::test]
async fn a_pull_that_nobody_reads_is_ended() {
    let registry = TestRegistry::open();
    let (content, mut raw) = pull(&registry).await;
    stand_still(&registry).await;
    // What the systems had taken, and then the end, or the news that it broke off.
    let answer = raw.rest().await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert!(answer.len() < content.len(), "all of it came");
}

#[tokio::test]
async fn over_http2_a_pull_that_nobody_reads_is_ended() {
    let registry = TestRegistry::open();
    let digest = registry.push_blob("a", &vec![7; 8 * 1024 * 1024]).await;
    let path = format!("/v2/a/blobs/{digest}");
    let get = http2(&registry);
    let pull = get.open(Method::GET, &path, &[], whole("")).await.unwrap();
    stand_still(&registry).await;
    assert!(pull.whole().await.is_err(), "all of it came");
}
