//! A registry that listens in more than one place.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use boathouse::server::{self, Listener, Route, Routes};
use boathouse::tls;
use http::{Method, StatusCode};

use crate::client::{Client, Protocol, Target, trust};
use crate::support::{Call, Options, TestRegistry};

#[tokio::test]
async fn each_listener_has_its_own_tls_routes_and_limits() {
    let keys = tempfile::tempdir().unwrap();
    // A socket that listens already, as an init system passes it on.
    let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
    let health = inherited.local_addr().unwrap();
    let mut settings = server::Settings::for_tests();
    settings.headers = vec![("x-listener".to_owned(), "health".to_owned())];
    settings.limits.connections = 1;
    let mut second = Listener::inherited(inherited.into(), settings);
    second.routes = Routes::Only(|route| matches!(route, Route::Health | Route::Ready));
    let options = Options {
        tls: tls::Settings::Automatic {
            ca_certificate: keys.path().join("ca.crt"),
            keys_directory: keys.path().join("keys"),
            hosts: Vec::new(),
        },
        more_listeners: vec![second],
        ..Options::default()
    };
    let registry = TestRegistry::start(options);

    let get = |address: SocketAddr, path| Call::to(address, Method::GET, path).send();
    let answer = get(health, "/healthz").await.expect(StatusCode::OK);
    assert_eq!(answer.header("x-listener"), "health");
    get(health, "/readyz").await.expect(StatusCode::OK);
    for path in ["/v2/", "/v2/_catalog", "/ca.crt", "/token"] {
        get(health, path).await.expect(StatusCode::NOT_FOUND);
    }

    let authority = std::fs::read(keys.path().join("ca.crt")).unwrap();
    let target = Target {
        address: registry.address,
        host: format!("localhost:{}", registry.address.port()),
        trust: Some(trust(&authority, Some(1_800_000_000))),
    };
    let client = Client::new(target, Protocol::Http1);
    let answer = client.get("/v2/").await.unwrap().expect(StatusCode::OK);
    assert!(!answer.headers.contains_key("x-listener"));
    client.get("/ca.crt").await.unwrap().expect(StatusCode::OK);

    let data = registry.stop().await;
    assert_eq!(Arc::strong_count(&data), 1);
    assert!(
        std::net::TcpStream::connect(health).is_err(),
        "it listens still"
    );
}
