//! More connections than there are places for: nobody shuts others out.
//!
//! The crowd comes from 127.0.0.1, others from 127.0.0.2 (where that is no address of this machine, from `::1`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use boathouse::clock::ManualClock;
use boathouse::tls::{self, Tls};
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{OCI_INDEX, Options, TestRegistry};

const CONNECTIONS: usize = 10;
const CROWD: usize = 40;

/// Long enough for the slowest machine, and an end for what would wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);

fn options() -> Options {
    let mut options = Options::default();
    options.server.limits.connections = CONNECTIONS;
    // Both families.
    ":0".clone_into(&mut options.server.address);
    options.server.http2_disabled = false;
    options
}

async fn connect(registry: &TestRegistry) -> TcpStream {
    let address = SocketAddr::from(([127, 0, 0, 1], registry.address.port()));
    TcpStream::connect(address).await.unwrap()
}

async fn connect_from_elsewhere(registry: &TestRegistry) -> TcpStream {
    let port = registry.address.port();
    let socket = TcpSocket::new_v4().unwrap();
    if socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).is_ok() {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        return socket.connect(address).await.unwrap();
    }
    let address: SocketAddr = format!("[::1]:{port}").parse().unwrap();
    TcpStream::connect(address).await.unwrap()
}

/// The head of the answer to a GET.
async fn get(mut stream: TcpStream, path: &str) -> String {
    let asking = async {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .expect("an answer, and not a place in a queue")
}

async fn crowd(registry: &TestRegistry, first_words: &[u8]) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut stream = connect(registry).await;
        // It may be closed already.
        let _ = stream.write_all(first_words).await;
        crowd.push(stream);
    }
    crowd
}

fn slow_body() -> Vec<u8> {
    format!("PUT /v2/a/manifests/t HTTP/1.1\r\nhost: a\r\ncontent-type: {OCI_INDEX}\r\ncontent-length: 1000\r\n\r\n{{")
        .into_bytes()
}

#[tokio::test]
async fn a_crowd_of_one_address_keeps_nobody_else_out() {
    let settings: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let slow_body = slow_body();
    let kinds: [&[u8]; 5] = [
        b"",
        b"GET /v2/ HTTP/1.1\r\nhost: a\r\nx: ",
        b"GET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n",
        &slow_body,
        settings,
    ];
    for first_words in kinds {
        let registry = TestRegistry::start(options());
        let crowd = crowd(&registry, first_words).await;
        for _ in 0..20 {
            let stream = connect_from_elsewhere(&registry).await;
            let answer = get(stream, "/v2/").await;
            assert!(
                answer.starts_with("HTTP/1.1 200"),
                "{first_words:?}: {answer}"
            );
        }
        drop(crowd);
    }
}

#[tokio::test]
async fn nor_does_a_crowd_in_the_middle_of_its_handshakes() {
    let keys = tempfile::tempdir().unwrap();
    let settings = tls::Settings::Automatic {
        ca_certificate: keys.path().join("ca.crt"),
        keys_directory: keys.path().join("keys"),
        hosts: Vec::new(),
    };
    let clock = ManualClock::at_unix_secs(1_800_000_000);
    let tls = Tls::open(&settings, Arc::new(clock)).expect("certificates");
    let tls = tls.map(Arc::new);
    let half_a_hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for first_words in [b"", half_a_hello] {
        let registry = TestRegistry::start(Options {
            tls: tls.clone(),
            ..options()
        });
        let _crowd = crowd(&registry, first_words).await;
        for _ in 0..20 {
            let stream = connect_from_elsewhere(&registry).await;
            // Told that this is a port for TLS: it was heard.
            let answer = get(stream, "/v2/").await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        }
    }
}

#[tokio::test]
async fn health_is_answered_when_all_places_are_taken_and_the_rest_is_told_to_wait() {
    let registry = TestRegistry::start(options());
    let _crowd = crowd(&registry, &slow_body()).await;
    for path in ["/healthz", "/readyz"] {
        let answer = get(connect(&registry).await, path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let answer = get(connect(&registry).await, "/v2/").await;
    let answer = answer.to_lowercase();
    assert!(answer.starts_with("http/1.1 503"), "{answer}");
    assert!(answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.contains("toomanyrequests"), "{answer}");
    // Five seconds in which nothing came of them.
    registry.clock.advance(Duration::from_secs(5));
    let answer = get(connect(&registry).await, "/v2/").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn an_upload_that_moves_is_not_cut_by_a_crowd_of_its_own_address() {
    let registry = TestRegistry::start(options());
    let begun = registry.post("/v2/a/blobs/uploads/").send().await;
    let begun = begun.expect(StatusCode::ACCEPTED);
    let location = begun.header("location").to_owned();
    let piece = [7; 2_048];
    let mut upload = connect(&registry).await;
    let length = piece.len() * 30;
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    upload.write_all(head.as_bytes()).await.unwrap();
    let mut crowds = Vec::new();
    for _ in 0..30 {
        crowds.push(crowd(&registry, b"").await);
        registry.clock.advance(Duration::from_secs(4));
        upload.write_all(&piece).await.expect("is not cut");
    }
    let mut answer = [0; 12];
    let reading = tokio::time::timeout(PATIENCE, upload.read_exact(&mut answer));
    reading.await.expect("in time").expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 202");
}
