//! More connections than there are places for: nobody shuts others out.
//!
//! The crowd comes from 127.0.0.1, others from 127.0.0.2 (where that is no address of this machine, from `::1`).

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use boathouse::server::Address;
use boathouse::tls;
use http::StatusCode;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::client::Raw;
use crate::support::{OCI_INDEX, Options, TestRegistry};

const CONNECTIONS: usize = 10;
const CROWD: usize = 40;

fn options() -> Options {
    let mut options = Options::default();
    options.server.limits.connections = CONNECTIONS;
    // Both families.
    options.server.address = Address::Tcp(":0".parse().unwrap());
    options.server.http2_disabled = false;
    options
}

fn tls_options(keys: &TempDir) -> Options {
    let settings = tls::Settings::Automatic {
        ca_certificate: keys.path().join("ca.crt"),
        keys_directory: keys.path().join("keys"),
        hosts: Vec::new(),
    };
    Options {
        tls: settings,
        ..options()
    }
}

/// The registry of these tests listens on every address.
fn local(registry: &TestRegistry) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], registry.address.port()))
}

async fn connect(registry: &TestRegistry) -> Raw {
    Raw::to(local(registry)).await
}

/// Connects without giving the server a moment to run.
fn connect_from_elsewhere(registry: &TestRegistry) -> std::net::TcpStream {
    let port = registry.address.port();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], 0));
    if socket.bind(&elsewhere.into()).is_ok() {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        socket.connect(&address.into()).unwrap();
        return socket.into();
    }
    std::net::TcpStream::connect(format!("[::1]:{port}")).unwrap()
}

fn asynchronous(stream: std::net::TcpStream) -> Raw {
    stream.set_nonblocking(true).unwrap();
    Raw::over(TcpStream::from_std(stream).unwrap())
}

/// All of the answer to a GET.
async fn get(mut raw: Raw, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    raw.send(request).await;
    raw.text().await
}

async fn crowd(registry: &TestRegistry, first_words: &[u8]) -> Vec<Raw> {
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut raw = connect(registry).await;
        // It may be closed already.
        let _ = raw.try_send(first_words).await;
        crowd.push(raw);
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
            let stream = asynchronous(connect_from_elsewhere(&registry));
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
    let half_a_hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for first_words in [b"", half_a_hello] {
        let registry = TestRegistry::start(tls_options(&keys));
        let _crowd = crowd(&registry, first_words).await;
        for _ in 0..20 {
            let stream = asynchronous(connect_from_elsewhere(&registry));
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

/// As many as the backlog of a busy accept loop: it took them all in one go, and each put out one before it was heard.
#[tokio::test]
async fn health_is_answered_to_all_who_ask_at_once_while_all_places_are_taken() {
    let registry = TestRegistry::start(options());
    let _crowd = crowd(&registry, &slow_body()).await;
    let mut asking = Vec::new();
    for _ in 0..100 {
        let mut stream = std::net::TcpStream::connect(local(&registry)).unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        asking.push(asynchronous(stream));
    }
    let mut answered = 0;
    for mut raw in asking {
        answered += usize::from(raw.rest().await.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(answered, 100, "the others were cut before they were heard");
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
    upload.send(head).await;
    let mut crowds = Vec::new();
    for _ in 0..30 {
        crowds.push(crowd(&registry, b"").await);
        registry.clock.advance(Duration::from_secs(4));
        upload.try_send(&piece).await.expect("is not cut");
    }
    assert_eq!(upload.status().await, 202);
}

/// The first message of a TLS client.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// The server runs on this test's only thread: while the test does not wait for anything, it does nothing, so all messages
/// are there when it begins.
#[tokio::test]
async fn handshakes_of_one_address_do_not_come_before_those_of_another() {
    const FLOOD: usize = 200;
    let keys = tempfile::tempdir().unwrap();
    let mut options = tls_options(&keys);
    options.server.limits.connections = 4 * FLOOD;
    let registry = TestRegistry::start(options);
    let hello = client_hello();
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        let mut stream = std::net::TcpStream::connect(local(&registry)).unwrap();
        stream.write_all(&hello).unwrap();
        stream.set_nonblocking(true).unwrap();
        flood.push(stream);
    }
    let mut other = connect_from_elsewhere(&registry);
    other.write_all(&hello).unwrap();
    asynchronous(other).wait_for(1).await;
    let answered = flood.iter().filter(|stream| stream.peek(&mut [0]).is_ok());
    let answered = answered.count();
    assert!(
        answered < FLOOD / 2,
        "{answered} handshakes of the flood came before the other client's"
    );
}
