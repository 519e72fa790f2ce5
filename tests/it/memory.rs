//! What is held in memory whole: bounded together, shared among clients, and given back.

use std::sync::Arc;
use std::time::Duration;

use boathouse::clock::ManualClock;
use boathouse::oci::{Algorithm, Digest};
use http::StatusCode;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;

use crate::client::Raw;
use crate::data::Data;
use crate::support::{Call, OCI_INDEX, OCI_MANIFEST, Options, TestRegistry, with_users};

const KIB: usize = 1024;

/// A registry behind a proxy that it trusts, so that requests can come from any client.
fn with_budget(whole_bodies_bytes: usize) -> Options {
    let mut options = Options::default();
    options.registry.limits.whole_bodies_bytes = whole_bodies_bytes;
    options.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    options
}

fn index(padding_bytes: usize) -> Vec<u8> {
    let padding = "x".repeat(padding_bytes);
    format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[],"annotations":{{"a":"{padding}"}}}}"#)
        .into_bytes()
}

fn from(call: Call, client: &str) -> Call {
    call.header("x-forwarded-for", client)
}

fn put_index(registry: &TestRegistry, client: &str, tag: &str, bytes: &[u8]) -> Call {
    let put = registry.put(&format!("/v2/a/manifests/{tag}"));
    from(put, client)
        .header("content-type", OCI_INDEX)
        .body(bytes)
}

/// Begins a PUT of a manifest and sends all but the last byte.
async fn one_byte_short(registry: &TestRegistry, client: &str, length: &str, bytes: &[u8]) -> Raw {
    let mut raw = Raw::to(registry.address).await;
    raw.send(format!(
        "PUT /v2/a/manifests/short HTTP/1.1\r\nhost: a\r\ncontent-type: {OCI_INDEX}\r\nx-forwarded-for: {client}\r\n{length}\r\n\r\n"
    ))
    .await;
    raw.send(bytes).await;
    raw
}

/// Waits until about this much is held; what is sent arrives by itself, within five seconds.
async fn wait_until_held(registry: &TestRegistry, bytes: std::ops::RangeInclusive<usize>) {
    for _ in 0..500 {
        if bytes.contains(&registry.registry.memory().held_bytes()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let held = registry.registry.memory().held_bytes();
    panic!("{held} bytes are held, not {bytes:?}");
}

#[tokio::test]
async fn bodies_that_never_end_have_half_of_the_memory_and_others_the_rest() {
    let registry = TestRegistry::start(with_budget(256 * KIB));
    let manifest = index(50 * KIB);
    let length = format!("content-length: {}", manifest.len());
    let mut held = Vec::new();
    for _ in 0..2 {
        let part = &manifest[..manifest.len() - 1];
        held.push(one_byte_short(&registry, "192.0.2.1", &length, part).await);
    }
    wait_until_held(&registry, 100 * KIB..=128 * KIB).await;
    let refused = put_index(&registry, "192.0.2.1", "b", &manifest)
        .send()
        .await
        .expect_error(503, "TOOMANYREQUESTS");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
    put_index(&registry, "192.0.2.2", "b", &manifest)
        .send()
        .await
        .expect(StatusCode::CREATED);
    drop(held);
    wait_until_held(&registry, 0..=0).await;
    put_index(&registry, "192.0.2.1", "b", &manifest)
        .send()
        .await
        .expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_length_that_is_only_said_takes_no_memory() {
    let registry = TestRegistry::start(with_budget(256 * KIB));
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(one_byte_short(&registry, "192.0.2.1", "content-length: 4194304", b"{").await);
    }
    wait_until_held(&registry, 20 * 4 * KIB..=20 * 4 * KIB).await;
    put_index(&registry, "192.0.2.1", "b", &index(20 * KIB))
        .send()
        .await
        .expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_body_without_a_length_counts_as_it_comes() {
    let registry = TestRegistry::start(with_budget(256 * KIB));
    let piece = vec![b' '; 16 * KIB];
    let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
    let chunked = "transfer-encoding: chunked";
    let mut raw = one_byte_short(&registry, "192.0.2.1", chunked, &chunk).await;
    wait_until_held(&registry, 16 * KIB..=32 * KIB).await;
    // More than a client's half, piece by piece.
    for _ in 0..8 {
        if raw.try_send(&chunk).await.is_err() {
            break;
        }
    }
    assert_eq!(raw.status().await, 503);
    wait_until_held(&registry, 0..=0).await;
}

#[tokio::test]
async fn a_body_that_is_held_whole_has_a_time_which_is_a_quarter_while_memory_is_scarce() {
    let registry = TestRegistry::start(with_budget(256 * KIB));
    let manifest = index(50 * KIB);
    let length = format!("content-length: {}", manifest.len());
    let part = &manifest[..manifest.len() - 10];
    let mut alone = one_byte_short(&registry, "192.0.2.1", &length, part).await;
    wait_until_held(&registry, 50 * KIB..=64 * KIB).await;
    // It moves: a byte each 30 s, which no stall limit would end.
    for _ in 0..3 {
        registry.clock.advance(Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
        alone.send(" ").await;
    }
    wait_until_held(&registry, 50 * KIB..=64 * KIB).await;
    registry.clock.advance(Duration::from_secs(30));
    assert_eq!(alone.status().await, 408);
    let mut held = Vec::new();
    for client in ["192.0.2.1", "192.0.2.1", "192.0.2.2"] {
        held.push(one_byte_short(&registry, client, &length, part).await);
    }
    wait_until_held(&registry, 150 * KIB..=180 * KIB).await;
    // Until there is enough for others, and no further.
    registry.clock.advance(Duration::from_secs(30));
    wait_until_held(&registry, 100 * KIB..=128 * KIB).await;
    registry.clock.advance(Duration::from_secs(90));
    for mut raw in held {
        assert_eq!(raw.status().await, 408);
    }
}

#[tokio::test]
async fn forms_of_the_token_endpoint_count_too() {
    let mut options = with_budget(64 * KIB);
    with_users(&mut options, &["alice"], &[("alice", "a", &["*"])]);
    let registry = TestRegistry::start(options);
    let form = "x".repeat(30 * KIB);
    let mut stopped = Raw::to(registry.address).await;
    let head = format!(
        "POST /auth HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 192.0.2.1\r\ncontent-length: {}\r\n\r\n{form}",
        form.len() + 1
    );
    stopped.send(head).await;
    wait_until_held(&registry, 30 * KIB..=32 * KIB).await;
    let post = |client| {
        let form = format!(
            "grant_type=password&service=boathouse&username=alice&password=alice-secret&client_id=a&x={form}"
        );
        from(registry.post("/auth"), client)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.as_bytes())
            .send()
    };
    post("192.0.2.1").await.expect_error(503, "TOOMANYREQUESTS");
    post("192.0.2.2").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_long_manifest_is_sent_from_the_store_and_a_short_one_too_where_memory_is_spent() {
    let registry = TestRegistry::start(with_budget(64 * KIB));
    let short = index(40 * KIB);
    let mut options = with_budget(64 * 1024 * KIB);
    options.registry.limits.manifest_size_bytes = 4 * 1024 * KIB;
    let clock = ManualClock::at_unix_secs(1_800_000_000);
    let store = registry.data.open(Arc::new(clock.clone()));
    let roomy = TestRegistry::start_on(store, Data::new(), clock, options);
    let long = index(2 * 1024 * KIB);
    for (tag, bytes) in [("short", &short), ("long", &long)] {
        put_index(&roomy, "192.0.2.1", tag, bytes)
            .send()
            .await
            .expect(StatusCode::CREATED);
    }
    for server in [&registry, &roomy] {
        for (tag, bytes) in [("short", &short), ("long", &long), ("long", &long)] {
            let path = format!("/v2/a/manifests/{tag}");
            let head = server.head(&path).send().await.expect(StatusCode::OK);
            assert_eq!(head.header("content-length"), bytes.len().to_string());
            assert_eq!(head.header("content-type"), OCI_INDEX);
            let got = server.get(&path).send().await.expect(StatusCode::OK);
            assert!(got.body == *bytes, "the exact bytes");
            assert_eq!(got.header("content-type"), OCI_INDEX);
            let digest = Digest::of(Algorithm::Sha256, bytes).to_string();
            assert_eq!(got.header("docker-content-digest"), digest);
        }
    }
    assert_eq!(registry.registry.memory().held_bytes(), 0, "no room");
    let kept = roomy.registry.memory().held_bytes();
    assert!(
        (40 * KIB..48 * KIB).contains(&kept),
        "the short one: {kept}"
    );
}

#[tokio::test]
async fn lists_that_nobody_reads_count_until_they_are_sent() {
    let registry = TestRegistry::start(with_budget(64 * KIB));
    let manifest = index(10);
    for batch in 0..4 {
        let tags: Vec<String> = (0..25)
            .map(|number| format!("tag=t{batch}-{number}-{}", "x".repeat(100)))
            .collect();
        let digest = Digest::of(Algorithm::Sha256, &manifest);
        let path = format!("/v2/a/manifests/{digest}?{}", tags.join("&"));
        let put = from(registry.put(&path), "192.0.2.1").header("content-type", OCI_INDEX);
        put.body(&manifest).send().await.expect(StatusCode::CREATED);
    }
    let mut pipelined = Raw::to(registry.address).await;
    let list = || from(registry.get("/v2/a/tags/list"), "192.0.2.1").send();
    let whole = list().await.expect(StatusCode::OK);
    assert!(whole.body.len() > 10 * KIB);
    wait_until_held(&registry, 0..=0).await;
    // Held back by one who asks and does not read, for as long as the system takes no more.
    let request = "GET /v2/a/tags/list HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 192.0.2.1\r\n\r\n";
    for _ in 0..2_000 {
        let written = tokio::time::timeout(Duration::from_millis(200), pipelined.try_send(request));
        if written.await.is_err() {
            break;
        }
    }
    wait_until_held(&registry, 12 * KIB..=64 * KIB).await;
    drop(pipelined);
    wait_until_held(&registry, 0..=0).await;
}

#[tokio::test]
async fn referrers_come_in_pages_of_bounded_size() {
    const SIZE: usize = 1024 * KIB;
    let mut options = Options::default();
    options.registry.limits.manifest_size_bytes = 8 * SIZE;
    let registry = TestRegistry::start(options);
    registry.push_blob("a", b"{}").await;
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    let mut expected = std::collections::BTreeSet::new();
    // One is larger than a page by itself.
    let sizes = std::iter::once(5 * SIZE).chain(std::iter::repeat_n(SIZE, 10));
    for (number, size) in sizes.enumerate() {
        let padding = "x".repeat(size);
        let kind = if number % 2 == 0 { "even+1" } else { "odd" };
        let manifest = crate::support::image_manifest(
            b"{}",
            &format!(
                r#","artifactType":"{kind}","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":7}},"annotations":{{"n":"{number}","a":"{padding}"}}"#
            ),
        );
        let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
        registry
            .put(&format!("/v2/a/manifests/{digest}"))
            .header("content-type", OCI_MANIFEST)
            .body(manifest.as_bytes())
            .send()
            .await
            .expect(StatusCode::CREATED);
        expected.insert(digest.to_string());
    }
    let first = format!("/v2/a/referrers/{subject}");
    let (found, pages) = all_pages(&registry, &first).await;
    assert_eq!(found, expected.iter().cloned().collect::<Vec<_>>());
    assert!(pages >= 4, "{pages}");
    let (of_two, pages) = all_pages(&registry, &format!("{first}?n=2")).await;
    assert_eq!(of_two, found);
    assert!(pages >= 6, "{pages}");
    let (even, _) = all_pages(&registry, &format!("{first}?artifactType=even%2B1")).await;
    let (odd, _) = all_pages(&registry, &format!("{first}?artifactType=odd")).await;
    assert_eq!((even.len(), odd.len()), (6, 5));
}

/// A client that asks, and reads only what the test reads: the system takes little on its behalf.
async fn slow_reader(registry: &TestRegistry, path: &str) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut raw = Raw::over(socket.connect(registry.address).await.unwrap());
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    raw.send(request).await;
    raw
}

/// Reads exactly so many bytes, and no more from the system.
async fn read(raw: &mut Raw, size_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; size_bytes];
    let reading = raw.stream.read_exact(&mut bytes);
    let read = tokio::time::timeout(Duration::from_secs(20), reading).await;
    read.expect("in time").expect("more of the answer");
    bytes
}

#[tokio::test]
async fn referrers_are_written_as_they_are_read() {
    const COUNT: usize = 24;
    let registry = TestRegistry::open();
    registry.push_blob("a", b"{}").await;
    let subject = Digest::of(Algorithm::Sha256, b"subject");
    let padding = "x".repeat(128 * KIB);
    for number in 0..COUNT {
        let more = format!(
            r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":7}},"annotations":{{"n":"{number}","a":"{padding}"}}"#
        );
        let manifest = crate::support::image_manifest(b"{}", &more);
        let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
        let put = registry.put(&format!("/v2/a/manifests/{digest}"));
        let put = put.header("content-type", OCI_MANIFEST);
        let put = put.body(manifest.as_bytes()).send().await;
        put.expect(StatusCode::CREATED);
    }
    let path = format!("/v2/a/referrers/{subject}");
    let head = registry.head(&path).send().await.expect(StatusCode::OK);
    let whole = registry.get(&path).send().await.expect(StatusCode::OK);
    assert_eq!(head.header("content-length"), whole.body.len().to_string());
    assert_eq!(whole.json()["manifests"].as_array().unwrap().len(), COUNT);
    let kept = registry.registry.memory().held_bytes();
    let size = COUNT * 128 * KIB;
    let mut reader = slow_reader(&registry, &path).await;
    let first = read(&mut reader, 1).await;
    assert_eq!(first, b"H");
    // One copy, and nothing for what the system has taken.
    wait_until_held(&registry, kept + size / 2..=kept + size + 128 * KIB).await;
    read(&mut reader, size * 3 / 4).await;
    wait_until_held(&registry, kept..=kept + size / 4).await;
    let end = reader.rest().await;
    assert!(whole.body.ends_with(&end) && !end.is_empty());
    wait_until_held(&registry, kept..=kept).await;
}

#[tokio::test]
async fn a_long_manifest_is_not_held_while_its_reader_is_slow() {
    let registry = TestRegistry::open();
    let long = index(2 * 1024 * KIB);
    let put = put_index(&registry, "192.0.2.1", "long", &long).send();
    put.await.expect(StatusCode::CREATED);
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut reader = slow_reader(&registry, "/v2/a/manifests/long").await;
        read(&mut reader, 1).await;
        readers.push(reader);
    }
    wait_until_held(&registry, 0..=0).await;
    for mut reader in readers {
        let end = reader.rest().await;
        assert!(end.ends_with(&long), "the exact bytes");
    }
}

/// The digests on all pages, and how many pages there are.
async fn all_pages(registry: &TestRegistry, first: &str) -> (Vec<String>, usize) {
    let (mut found, mut pages) = (Vec::new(), 0);
    let mut next = Some(first.to_owned());
    while let Some(path) = next {
        let page = registry.get(&path).send().await.expect(StatusCode::OK);
        assert_eq!(page.header("content-type"), OCI_INDEX);
        let digests = page.digests();
        assert!(
            digests.len() <= 1 || page.body.len() < 5 * 1024 * KIB,
            "{} bytes",
            page.body.len()
        );
        found.extend(digests);
        next = page.next_page();
        pages += 1;
    }
    (found, pages)
}
