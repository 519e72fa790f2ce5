//! What a log is made of: the request's name in it and in the answer, and one JSON object per line where that is asked for.

use std::fs;

use boathouse::server;
use http::{Method, StatusCode};

use crate::program::{Program, free_address};
use crate::support::{Call, Options, TestRegistry};

#[tokio::test]
async fn every_answer_names_its_request_and_no_two_alike() {
    let registry = TestRegistry::open();
    let mut names = std::collections::BTreeSet::new();
    for path in ["/v2/", "/healthz", "/token", "/nowhere", "/v2/a/tags/list"] {
        let answer = registry.get(path).send().await;
        names.insert(answer.header("x-request-id").to_owned());
    }
    assert_eq!(names.len(), 5, "{names:?}");
}

#[tokio::test]
async fn only_a_trusted_proxy_names_requests_and_only_in_harmless_words() {
    let answered = async |registry: &TestRegistry, name: &str| {
        let call = registry.get("/v2/").header("x-request-id", name);
        let answer = call.send().await.expect(StatusCode::OK);
        answer.header("x-request-id").to_owned()
    };
    let stranger = TestRegistry::open();
    assert_ne!(answered(&stranger, "mine").await, "mine");
    let proxied = TestRegistry::start(Options {
        server: server::Settings {
            trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
            ..server::Settings::for_tests()
        },
        ..Options::default()
    });
    assert_eq!(answered(&proxied, "of-a.proxy_1").await, "of-a.proxy_1");
    for bad in ["two words", "\"quoted\"", &"x".repeat(65)] {
        assert_ne!(answered(&proxied, bad).await, bad);
    }
}

#[tokio::test]
async fn the_command_line_makes_every_line_json_whatever_the_config_says() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.yml");
    let address = free_address();
    let data = directory.path().join("data");
    let text = format!(
        "log: {{formatter: text}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
        data.display()
    );
    fs::write(&config, text).unwrap();
    let arguments = [
        "serve",
        "--log-format",
        "json",
        "--config",
        config.to_str().unwrap(),
    ];
    let mut program = Program::start(&directory.path().join("log"), &arguments, &[]);
    program.says("listening").await;
    let answer = Call::to(address, Method::GET, "/healthz").send().await;
    let log = program.end();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let access = lines.iter().find(|line| line["message"] == "request");
    assert_eq!(
        access.unwrap()["id"],
        answer.header("x-request-id"),
        "{log}"
    );
}

#[tokio::test]
async fn a_program_that_reads_the_log_is_told_what_a_person_would_be() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    let address = free_address().to_string();
    let arguments = ["up", "--dir", home.to_str().unwrap(), "--addr", &address];
    let log = directory.path().join("log");
    let mut first = Program::start(&log, &arguments, &[]);
    first.says("listening").await;
    let text = first.end();
    assert!(text.contains("\nTrust its certificates"), "{text}");

    let json = [&arguments[..], &["--log-format", "json"]].concat();
    let mut second = Program::start(&log, &json, &[]);
    second.says("listening").await;
    let log = second.end();
    // That `--addr` counts on the first run only is said before anything is served.
    let lines = log.lines().filter(|line| !line.starts_with("note: "));
    let lines: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let serving = lines.iter().find(|line| line["message"] == "serving");
    let serving = serving.unwrap_or_else(|| panic!("{log}"));
    let fingerprint = serving["fingerprint"].as_str().unwrap();
    assert!(text.contains(fingerprint), "{text}\n{fingerprint}");
    let port = address.rsplit(':').next().unwrap();
    assert_eq!(serving["registry"], format!("localhost:{port}"));
}
