//! Metrics: who may read them and where, what is counted, and that the page, its documentation, the dashboard and the alert
//! rules name the same metrics.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use boathouse::health::{CHECK_SECS, Check, Target};
use boathouse::oci::{Algorithm, Digest};
use http::{Method, StatusCode};
use regex::Regex;

use crate::client::Raw;
use crate::support::{Call, Options, TestRegistry, with_users};

fn with_debug_listener() -> Options {
    Options {
        has_debug_listener: true,
        metrics_path: Some("/figures".to_owned()),
        ..Options::default()
    }
}

/// The page on the debug listener.
async fn page(registry: &TestRegistry) -> String {
    let address = registry.debug_address.expect("a debug listener");
    let answer = Call::to(address, Method::GET, "/figures").send().await;
    let answer = answer.expect(StatusCode::OK);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(answer.header("content-type"), kind);
    String::from_utf8(answer.body.to_vec()).expect("text")
}

/// The value of one sample, a whole number.
fn value(page: &str, sample: &str) -> u64 {
    let lines = page.lines().filter_map(|line| line.rsplit_once(' '));
    let mut values = lines.filter(|(name, _)| *name == sample);
    let (_, value) = values
        .next()
        .unwrap_or_else(|| panic!("no {sample}: {page}"));
    assert!(values.next().is_none(), "{sample} twice");
    let value = value.trim_end_matches(".0");
    value.parse().unwrap_or_else(|_| panic!("{sample} {value}"))
}

#[tokio::test]
async fn metrics_are_for_accounts_with_the_right() {
    let mut options = Options::default();
    let all: &[&str] = &["*"];
    let rules: &[(&str, &str, &[&str])] = &[("prometheus", "metrics", all), ("ann", "ann/*", all)];
    with_users(&mut options, &["ann", "prometheus", ""], rules);
    let registry = TestRegistry::start(options);
    let get = || registry.get("/metrics");

    let nobody = get().send().await.expect(StatusCode::UNAUTHORIZED);
    let scope = r#",scope="registry:metrics:*""#;
    let challenge = nobody.header("www-authenticate");
    assert!(challenge.ends_with(scope), "{challenge}");
    let ann = get().basic("ann", "ann-secret").send().await;
    assert_eq!(
        ann.status,
        StatusCode::FORBIDDEN,
        "an account without the right"
    );
    let good = get().basic("prometheus", "prometheus-secret");
    let good = good.send().await.expect(StatusCode::OK);
    let text = String::from_utf8(good.body.to_vec()).unwrap();
    assert_eq!(
        value(&text, r#"boathouse_refusals_total{reason="not_permitted"}"#),
        1
    );

    let asks = "/token?service=boathouse&scope=registry:metrics:*";
    for (account, expected) in [("prometheus", 200), ("ann", 401)] {
        let call = registry.get(asks);
        let token = call.basic(account, &format!("{account}-secret"));
        let token = token.send().await.expect(StatusCode::OK).json();
        let with_token = get().bearer(token["token"].as_str().unwrap()).send().await;
        assert_eq!(with_token.status, expected, "{account}");
    }
    let head = registry
        .head("/metrics")
        .basic("prometheus", "prometheus-secret");
    assert!(head.send().await.expect(StatusCode::OK).body.is_empty());
    let posted = registry.post("/metrics").send().await;
    posted.expect(StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn what_clients_do_is_counted() {
    let mut options = with_debug_listener();
    with_users(&mut options, &["ann"], &[("ann", "ann/*", &["*"])]);
    let registry = TestRegistry::start(options);
    let blob = [7; 1_000];
    let digest = Digest::of(Algorithm::Sha256, &blob);
    let ann = |call: Call| call.basic("ann", "ann-secret");
    let push = ann(registry.post(&format!("/v2/ann/app/blobs/uploads/?digest={digest}")));
    push.body(&blob).send().await.expect(StatusCode::CREATED);
    for _ in 0..2 {
        let pull = ann(registry.get(&format!("/v2/ann/app/blobs/{digest}")));
        pull.send().await.expect(StatusCode::OK);
    }
    let wrong = registry.get("/token").basic("ann", "wrong").send().await;
    wrong.expect(StatusCode::UNAUTHORIZED);
    let right = ann(registry.get("/token")).send().await;
    right.expect(StatusCode::OK);
    let unknown = registry.get("/v2/").send().await;
    unknown.expect(StatusCode::UNAUTHORIZED);
    let begun = ann(registry.post("/v2/ann/app/blobs/uploads/"))
        .send()
        .await;
    begun.expect(StatusCode::ACCEPTED);

    let page = page(&registry).await;
    let is = |sample: &str, expected: u64| assert_eq!(value(&page, sample), expected, "{sample}");
    let requests = |code: &str, handler: &str, method: &str| {
        format!(
            "registry_http_requests_total{{code=\"{code}\",handler=\"{handler}\",method=\"{method}\"}}"
        )
    };
    is(&requests("201", "blob_upload", "post"), 1);
    is(&requests("202", "blob_upload", "post"), 1);
    is(&requests("200", "blob", "get"), 2);
    is(&requests("401", "token", "get"), 1);
    is(&requests("401", "base", "get"), 1);
    is(
        r#"registry_http_request_duration_seconds_count{handler="blob",method="get"}"#,
        2,
    );
    is(r#"registry_http_in_flight_requests{handler="blob"}"#, 0);
    is(r#"registry_http_in_flight_requests{handler="other"}"#, 1);
    is(
        r#"boathouse_received_bytes_total{handler="blob_upload"}"#,
        1_000,
    );
    is(r#"boathouse_sent_bytes_total{handler="blob"}"#, 2_000);
    is(r#"boathouse_refusals_total{reason="wrong_password"}"#, 1);
    is(r#"boathouse_refusals_total{reason="no_credential"}"#, 1);
    is("boathouse_tokens_issued_total", 1);
    is("boathouse_passwords_compared_total", 2);
    is("boathouse_uploads_open", 1);
    is("boathouse_ready", 1);
}

#[tokio::test]
async fn a_body_that_is_still_moving_is_counted_and_one_that_stalls_too() {
    let registry = TestRegistry::start(with_debug_listener());
    let begun = registry.post("/v2/a/blobs/uploads/").send().await;
    let location = begun
        .expect(StatusCode::ACCEPTED)
        .header("location")
        .to_owned();
    let mut raw = Raw::to(registry.address).await;
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: lab\r\ncontent-length: 9000\r\n\r\n");
    raw.send([head.as_bytes(), &[1; 4_000]].concat()).await;
    let received = r#"boathouse_received_bytes_total{handler="blob_upload_chunk"}"#;
    let mut shown = String::new();
    for _ in 0..500 {
        shown = page(&registry).await;
        if value(&shown, received) == 4_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(
        value(&shown, received),
        4_000,
        "bytes of a request that goes on"
    );
    assert_eq!(value(&shown, "boathouse_uploads_active"), 1);
    let in_flight = r#"registry_http_in_flight_requests{handler="blob_upload_chunk"}"#;
    assert_eq!(value(&shown, in_flight), 1);
    registry.clock.advance(Duration::from_mins(1));
    let shown = page(&registry).await;
    let stalled = r#"boathouse_connections{site="registry",state="stalled"}"#;
    assert_eq!(value(&shown, stalled), 1);
    registry.clock.advance(Duration::from_secs(61));
    assert_eq!(raw.status().await, 408);
    let stopped = r#"boathouse_transfers_stopped_total{direction="receive",reason="stalled"}"#;
    assert_eq!(value(&page(&registry).await, stopped), 1);
}

#[tokio::test]
async fn metrics_are_shown_while_a_health_check_fails() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("down");
    fs::write(&file, "").unwrap();
    let registry = TestRegistry::start(Options {
        health: vec![Check {
            name: "down".to_owned(),
            target: Target::NoFile(file),
            interval_secs: CHECK_SECS,
            threshold: 0,
        }],
        ..with_debug_listener()
    });
    for _ in 0..500 {
        if registry.get("/v2/").send().await.status == StatusCode::SERVICE_UNAVAILABLE {
            break;
        }
        registry.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(
        value(&page(&registry).await, "boathouse_health_checks_failing"),
        1
    );
    let main = registry.get("/metrics").send().await;
    main.expect(StatusCode::OK);
}

/// The names of the metrics in a text: without what histograms and counters append.
fn names_in(text: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\b(boathouse|registry|process)_[a-z_0-9]+").unwrap();
    let names = name.find_iter(text).map(|found| found.as_str());
    let base = |name: &str| {
        let endings = ["_bucket", "_sum", "_count"];
        let ending = endings.iter().find_map(|ending| name.strip_suffix(ending));
        ending.unwrap_or(name).to_owned()
    };
    names.map(base).collect()
}

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names in the tables of the documentation.
fn documented() -> BTreeSet<String> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split(['`', '{']).next());
    names
        .filter(|name| name.contains('_'))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn every_metric_is_documented() {
    let registry = TestRegistry::start(with_debug_listener());
    registry.push_image("a", "v1", b"layer").await;
    let page = page(&registry).await;
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let shown: BTreeSet<String> = types
        .filter_map(|line| Some(line.split_once(' ')?.0.to_owned()))
        .collect();
    let documented = documented();
    let missing: Vec<_> = shown.difference(&documented).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
    // What a registry in memory without TLS does not have; the interop step `metrics` looks at a whole one.
    let absent: Vec<&str> = documented.difference(&shown).map(String::as_str).collect();
    let allowed = [
        "boathouse_certificate_expiry_timestamp_seconds",
        "boathouse_index_commit_seconds",
        "boathouse_index_disk_bytes",
        "boathouse_store_free_bytes",
        "boathouse_store_size_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_resident_memory_bytes",
    ];
    for name in absent {
        assert!(
            allowed.contains(&name),
            "documented, and not on the page: {name}"
        );
    }
}

#[test]
fn dashboard_and_alert_rules_name_documented_metrics() {
    let documented = documented();
    assert!(documented.len() > 40, "{documented:?}");
    for (path, least) in [
        ("packaging/grafana/dashboard.json", 30),
        ("packaging/grafana/alerts.yml", 15),
    ] {
        let named = names_in(&read(path));
        let unknown: Vec<_> = named.difference(&documented).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
        assert!(named.len() >= least, "{path} names only {}", named.len());
    }
}
