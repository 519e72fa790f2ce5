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

use boathouse::oci::{Algorithm, Digest};
use http::StatusCode;

use crate::client::{Raw, request};
use crate::support::{Answer, TestRegistry};

fn sha256(content: impl AsRef<[u8]>) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_ref())
}

/// Sends a request and returns its answer.
async fn ask(registry: &TestRegistry, line: &str, headers: &[&str], body: &[u8]) -> Answer {
    let bytes = request(line, headers, body);
    exchange(registry, &bytes, line.starts_with("HEAD")).await
}

/// Sends bytes and returns the one answer to them.
async fn exchange(registry: &TestRegistry, bytes: &[u8], is_head: bool) -> Answer {
    Raw::to(registry.address).await.ask(bytes, is_head).await
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
