//! Health checks of the configuration: what fails, what is refused meanwhile, and what the debug listener shows.

use std::fs;
use std::time::Duration;

use boathouse::health::{CHECK_SECS, Check, Target};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Call, Options, TestRegistry};

fn check(name: &str, target: Target, threshold: u32) -> Check {
    Check {
        name: name.to_owned(),
        target,
        interval_secs: CHECK_SECS,
        threshold,
    }
}

fn registry(checks: Vec<Check>) -> TestRegistry {
    TestRegistry::start(Options {
        health: checks,
        has_debug_listener: true,
        ..Options::default()
    })
}

async fn status(registry: &TestRegistry, path: &str) -> u16 {
    registry.get(path).send().await.status.as_u16()
}

/// The status of `/debug/health`, and what it shows.
async fn shown(registry: &TestRegistry) -> (u16, serde_json::Value) {
    let address = registry.debug_address.expect("a debug listener");
    let answer = Call::to(address, Method::GET, "/debug/health").send().await;
    (answer.status.as_u16(), answer.json())
}

/// Lets time pass until `/v2/` has this status.
async fn until(registry: &TestRegistry, wanted: u16) {
    for _ in 0..500 {
        if status(registry, "/v2/").await == wanted {
            return;
        }
        registry.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("/v2/ never was {wanted}");
}

#[tokio::test]
async fn while_a_file_exists_no_request_to_the_registry_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("down");
    let registry = registry(vec![check("down", Target::NoFile(file.clone()), 0)]);
    registry.push_image("a", "v1", b"layer").await;
    assert_eq!(shown(&registry).await, (200, serde_json::json!({})));
    fs::write(&file, "").unwrap();
    until(&registry, 503).await;
    for path in [
        "/v2/",
        "/v2/_catalog",
        "/v2/a/tags/list",
        "/v2/a/manifests/v1",
    ] {
        let answer = registry.get(path).send().await;
        answer.expect_error(503, "UNAVAILABLE");
    }
    assert_eq!(status(&registry, "/readyz").await, 503);
    assert_eq!(status(&registry, "/healthz").await, 200);
    assert_ne!(status(&registry, "/token").await, 503);
    assert_eq!(
        shown(&registry).await,
        (503, serde_json::json!({"down": "file exists"}))
    );
    fs::remove_file(&file).unwrap();
    until(&registry, 200).await;
    assert_eq!(status(&registry, "/v2/a/manifests/v1").await, 200);
    assert_eq!(shown(&registry).await, (200, serde_json::json!({})));
}

#[tokio::test]
async fn the_debug_listener_has_nothing_else_and_the_registry_has_no_debug_page() {
    let registry = registry(Vec::new());
    let address = registry.debug_address.expect("a debug listener");
    for path in [
        "/v2/",
        "/debug/vars",
        "/debug/pprof/",
        "/metrics",
        "/",
        "/token",
    ] {
        let answer = Call::to(address, Method::GET, path).send().await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    let posted = Call::to(address, Method::POST, "/debug/health")
        .send()
        .await;
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(status(&registry, "/debug/health").await, 404);
}

/// The next connection of a check; time passes until it comes.
async fn looked(registry: &TestRegistry, socket: &TcpListener) -> TcpStream {
    for _ in 0..500 {
        registry.clock.advance(Duration::from_secs(1));
        let accepted = tokio::time::timeout(Duration::from_millis(20), socket.accept()).await;
        if let Ok(accepted) = accepted {
            return accepted.unwrap().0;
        }
    }
    panic!("no check is made");
}

/// Answers a check, and returns its request.
async fn answer(mut stream: TcpStream, head: &str) -> String {
    let mut request = vec![0; 1_024];
    let length = stream.read(&mut request).await.unwrap();
    let head = format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    String::from_utf8_lossy(&request[..length]).into_owned()
}

#[tokio::test]
async fn a_service_fails_when_it_has_answered_wrongly_as_often_as_the_threshold_says() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/up?x=1", socket.local_addr().unwrap());
    let mut headers = HeaderMap::new();
    headers.append("x-one", HeaderValue::from_static("a"));
    let target = Target::Http {
        uri: uri.parse().unwrap(),
        headers,
        status: 204,
        timeout_secs: CHECK_SECS,
    };
    let registry = registry(vec![check(&uri, target, 3)]);
    let request = answer(looked(&registry, &socket).await, "200 OK").await;
    assert!(
        request.starts_with("HEAD /up?x=1 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.to_lowercase().contains("x-one: a\r\n"), "{request}");
    answer(looked(&registry, &socket).await, "500 No").await;
    // The third look shows that the second was judged.
    let third = looked(&registry, &socket).await;
    assert_eq!(status(&registry, "/v2/").await, 200);
    answer(third, "500 No").await;
    let fourth = looked(&registry, &socket).await;
    assert_eq!(status(&registry, "/v2/").await, 503);
    let (_, failing) = shown(&registry).await;
    assert_eq!(failing[&uri], format!("{uri}: unexpected status 500"));
    // A redirect is followed.
    answer(fourth, "302 Found\r\nlocation: /other").await;
    let (redirected, _) = socket.accept().await.unwrap();
    let request = answer(redirected, "204 No Content").await;
    assert!(request.starts_with("HEAD /other HTTP/1.1\r\n"), "{request}");
    let _fifth = looked(&registry, &socket).await;
    assert_eq!(status(&registry, "/v2/").await, 200);
}

#[tokio::test]
async fn a_port_that_takes_no_connection_fails_and_so_does_a_service_that_is_silent() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let tcp = Target::Tcp {
        address: address.into(),
        timeout_secs: CHECK_SECS,
    };
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = Target::Http {
        uri: format!("http://{}/", silent.local_addr().unwrap())
            .parse()
            .unwrap(),
        headers: HeaderMap::new(),
        status: 200,
        timeout_secs: 3,
    };
    let registry = registry(vec![check("tcp", tcp, 0), check("http", http, 0)]);
    // Nothing is read from the second one.
    until(&registry, 503).await;
    let (_, failing) = shown(&registry).await;
    assert!(
        failing["http"]
            .as_str()
            .unwrap()
            .contains("no answer within 3 s"),
        "{failing}"
    );
    assert_eq!(failing.get("tcp"), None);
    drop(socket);
    for _ in 0..500 {
        registry.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(2)).await;
        if shown(&registry).await.1.get("tcp").is_some() {
            return;
        }
    }
    panic!("the closed port never failed");
}
