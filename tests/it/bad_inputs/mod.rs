//! Forty bad inputs, and what stands below their table: each over a socket, as bytes that no HTTP library has tidied up.
//!
//! Each test states the status, the OCI code, and what is there afterwards: what was stored before, and nothing else.

mod chunks;
mod manifests;
mod names;
mod reading;
mod sessions;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use boathouse::oci::{Algorithm, Digest};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Answer, TestRegistry};

/// How long an answer may take before a test is given up: far more than any takes, so that a mistake ends a run.
const PATIENCE: Duration = Duration::from_mins(1);

fn sha256(content: impl AsRef<[u8]>) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_ref())
}

/// A request as bytes: `line` is method and target. The length is that of `body` unless a header frames it in another way.
fn request(line: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{line} HTTP/1.1\r\nhost: registry.test:5000\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    let is_framed = |header: &&str| {
        header.starts_with("content-length") || header.starts_with("transfer-encoding")
    };
    if !headers.iter().any(is_framed) && !line.starts_with("GET") && !line.starts_with("HEAD") {
        let length = format!("content-length: {}\r\n", body.len());
        text.push_str(&length);
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

/// Sends a request and returns its answer.
async fn ask(registry: &TestRegistry, line: &str, headers: &[&str], body: &[u8]) -> Answer {
    exchange(
        registry,
        &request(line, headers, body),
        line.starts_with("HEAD"),
    )
    .await
}

/// Sends bytes and returns the one answer to them.
async fn exchange(registry: &TestRegistry, bytes: &[u8], is_head: bool) -> Answer {
    let stream = TcpStream::connect(registry.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    // An answer may come before all is sent, and then nobody reads the rest.
    let sends = async {
        let _ = writer.write_all(bytes).await;
    };
    let reads = async {
        let mut received = Vec::new();
        loop {
            if let Some(answer) = parse(&received, is_head) {
                return answer;
            }
            let count = reader.read_buf(&mut received).await.unwrap_or(0);
            assert!(count > 0, "no whole answer: {received:?}");
        }
    };
    let both = async {
        tokio::pin!(sends);
        tokio::pin!(reads);
        tokio::select! {
            answer = &mut reads => answer,
            () = &mut sends => reads.await,
        }
    };
    tokio::time::timeout(PATIENCE, both).await.expect("answers")
}

/// Sends bytes and returns all that comes until the registry hangs up.
async fn until_closed(registry: &TestRegistry, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(registry.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut received = Vec::new();
    let reads = stream.read_to_end(&mut received);
    let read = tokio::time::timeout(PATIENCE, reads).await;
    let _ = read.expect("hangs up");
    String::from_utf8(received).expect("text")
}

/// The answer at the beginning of `received`, if it is whole.
fn parse(received: &[u8], is_head: bool) -> Option<Answer> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&received[..end]).expect("text");
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().expect("a status");
    let status = StatusCode::from_u16(status).expect("a status");
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("a header");
        let name: http::HeaderName = name.parse().expect("a header's name");
        headers.append(name, value.trim().parse().expect("a header's value"));
    }
    let has_none = is_head || matches!(status.as_u16(), 204 | 304);
    let length = headers.get("content-length").filter(|_| !has_none);
    let length = length.map_or(0, |text| text.to_str().unwrap().parse().unwrap());
    let body = received[end + 4..].get(..length)?;
    let body = Bytes::copy_from_slice(body);
    Some(Answer {
        status,
        headers,
        body,
    })
}

/// All that is stored, sessions left out: those are asked how far they are.
fn stored(registry: &TestRegistry) -> BTreeMap<String, Vec<u8>> {
    let mut files = registry.data.shared_files();
    files.retain(|name, _| !name.contains("/_uploads/"));
    files
}

/// Sees that what is stored is what was.
#[track_caller]
fn unchanged(registry: &TestRegistry, before: &BTreeMap<String, Vec<u8>>) {
    let after = stored(registry);
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&after), names(before));
    assert!(after == *before, "a file was written anew");
}

async fn begin(registry: &TestRegistry, name: &str) -> String {
    let begun = ask(
        registry,
        &format!("POST /v2/{name}/blobs/uploads/"),
        &[],
        b"",
    )
    .await;
    let begun = begun.expect(StatusCode::ACCEPTED);
    begun.header("location").to_owned()
}

async fn append(registry: &TestRegistry, location: &str, headers: &[&str], body: &[u8]) -> u16 {
    let patch = ask(registry, &format!("PATCH {location}"), headers, body).await;
    patch.status.as_u16()
}

/// Sees how far a session is, as its client does.
async fn stands_at(registry: &TestRegistry, location: &str, range: &str) {
    let status = ask(registry, &format!("GET {location}"), &[], b"").await;
    let status = status.expect(StatusCode::NO_CONTENT);
    assert_eq!(status.header("range"), range);
    assert_eq!(status.header("location"), location);
}

/// Sees that a session still takes bytes and becomes a blob: `content` is all of it, of which `there` bytes are there.
async fn goes_on(registry: &TestRegistry, location: &str, content: &[u8], there: usize) {
    let digest = sha256(content);
    let line = format!("PUT {location}?digest={digest}");
    let put = ask(registry, &line, &[], &content[there..]).await;
    put.expect(StatusCode::CREATED);
}

#[test]
fn all_forty_are_here() {
    let files = [
        include_str!("chunks.rs"),
        include_str!("manifests.rs"),
        include_str!("names.rs"),
        include_str!("reading.rs"),
        include_str!("sessions.rs"),
        include_str!("wire.rs"),
    ];
    let mut numbers = Vec::new();
    for file in files {
        let lines: Vec<&str> = file.lines().collect();
        for pair in lines.windows(2) {
            let Some(name) = pair[1].strip_prefix("async fn bad_input_") else {
                continue;
            };
            assert_eq!(pair[0], "#[tokio::test]", "{name} is not run");
            numbers.push(name[..2].parse::<u32>().expect("a number"));
        }
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
}
