//! `boathouse doctor` as people and scripts run it: all well, and each thing that can be wrong.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boathouse::oci::{Algorithm, Digest};
use http::StatusCode;
use serde_json::Value;

use crate::access::lab as registry_with_rules;
use crate::data::tree;
use crate::lab::PASSWORD;
use crate::program::{free_address, ran};
use crate::support::{OCI_MANIFEST, Options, TestRegistry, image_manifest, with_users};
use crate::trust::Served;

const STEPS: [&str; 7] = ["name", "port", "tls", "clock", "login", "push", "pull"];

/// A step that failed, with all that is said of it; those before it are fine, and those after it were not tried.
#[track_caller]
fn failed_at(step: &str, report: &str) -> String {
    let report: Value =
        serde_json::from_str(report).unwrap_or_else(|error| panic!("{error}: {report}"));
    assert_eq!(report["is_healthy"], false);
    let position = STEPS.iter().position(|name| *name == step).unwrap();
    for (place, name) in STEPS.iter().enumerate() {
        let expected = match place.cmp(&position) {
            std::cmp::Ordering::Less => "ok",
            std::cmp::Ordering::Equal => "failed",
            std::cmp::Ordering::Greater => "not_tried",
        };
        let found = &report["steps"][place];
        assert_eq!(found["step"], *name, "{report:#}");
        assert_eq!(found["outcome"], expected, "{report:#}");
    }
    let failed = &report["steps"][position];
    let hint = failed["hint"]
        .as_str()
        .unwrap_or_else(|| panic!("no hint: {report:#}"));
    format!("{}\nhint: {hint}", failed["found"].as_str().unwrap())
}

#[tokio::test]
async fn all_is_well_and_nothing_stays_behind() {
    let served = Served::start().await;
    let registry = served.registry();
    let trust = [
        "trust",
        "--remote",
        &registry,
        "--install",
        "--yes",
        "--fingerprint",
    ];
    served
        .client(&[&trust[..], &[&served.fingerprint()]].concat(), "")
        .fine();
    // What a client has kept of its login is used.
    let auth = STANDARD.encode(format!("admin:{PASSWORD}"));
    let kept = format!(r#"{{"auths": {{"{registry}": {{"auth": "{auth}"}}}}}}"#);
    served
        .lab
        .write("client/home/ann/.docker/config.json", &kept);
    let doctor = ["doctor", &registry, "--size", "2"];
    let text = served.client(&doctor, "").fine();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("ok "))
        .collect();
    assert_eq!(lines.len(), STEPS.len(), "{text}");
    for (line, says) in lines.iter().zip([
        "localhost is ",
        " answers",
        "trusted by docker's certs.d, podman's certs.d, not by the system's store; for localhost",
        "within ",
        "as admin, by ",
        "2 MiB at ",
        "came back the same; the scratch blob and its repository were deleted, its bytes are free again",
    ]) {
        assert!(line.contains(says), "{says}: {line}");
    }
    assert!(!text.contains(PASSWORD) && !text.contains(&auth), "{text}");

    let json = served
        .client(&[&doctor[..], &["--json"]].concat(), "")
        .fine();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["is_healthy"], true);
    for step in [5, 6] {
        assert!(json["steps"][step]["bytes_per_sec"].as_u64().unwrap() > 0);
    }

    // Nothing: no link, no bytes, no note of the deletion.
    let stays = tree(&served.lab.path("home/data/docker")).into_keys();
    assert_eq!(stays.collect::<Vec<_>>(), [""; 0]);
    assert!(!served.lab.path("home/data/boathouse/deleted").exists());

    // On the registry's machine it finds the registry by itself.
    let home = served.lab.place("home");
    let here = ["doctor", "--dir", &home, "--size", "1"];
    served.client(&here, "").fine();
}

/// The registry answers in this process, while the program is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_is_wrong_has_its_step_and_its_hint() {
    let served = Served::start().await;
    let registry = served.registry();
    let doctor = |registry: &str, input: &str| {
        let arguments = [
            "doctor",
            registry,
            "--json",
            "--username",
            "admin",
            "--password-stdin",
        ];
        let ran = served.client(&arguments, input);
        assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.talk);
        ran.out
    };
    // No look-up leaves the machine: this cannot be a name.
    let nowhere = doctor(&format!("{}:5443", "a".repeat(64)), PASSWORD);
    let nowhere = failed_at("name", &nowhere);
    assert!(nowhere.contains("/etc/hosts"), "{nowhere}");

    let closed = failed_at("port", &doctor(&free_address().to_string(), PASSWORD));
    assert!(closed.contains("cannot connect"), "{closed}");

    let untrusted = failed_at("tls", &doctor(&registry, PASSWORD));
    let hint = format!("hint: `boathouse trust --remote {registry} --install`");
    assert!(untrusted.ends_with(&hint), "{untrusted}");

    let plain = registry_with_rules();
    let not_tls = failed_at("tls", &doctor(&plain.address.to_string(), PASSWORD));
    assert!(
        not_tls.contains("a registry answers at ")
            && not_tls.contains("over plain http only")
            && not_tls.contains("--plain-http"),
        "{not_tls}"
    );

    let trust = [
        "trust",
        "--remote",
        &registry,
        "--install",
        "--yes",
        "--fingerprint",
    ];
    served
        .client(&[&trust[..], &[&served.fingerprint()]].concat(), "")
        .fine();
    let wrong = failed_at("login", &doctor(&registry, "wrong\n"));
    assert!(
        wrong.contains("name or the password of admin is wrong"),
        "{wrong}"
    );
    assert!(wrong.contains("boathouse user passwd admin"), "{wrong}");

    // Another authority than the one that signs, in one of two places: that client alone is left out.
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let trusted = format!("client/etc/docker/certs.d/{registry}/ca.crt");
    served.lab.write(&trusted, other.cert.pem());
    let arguments = [
        "doctor",
        &registry,
        "--username",
        "admin",
        "--password-stdin",
        "--size",
        "1",
    ];
    let text = served.client(&arguments, PASSWORD).fine();
    assert!(
        text.contains("trusted by podman's certs.d, not by the system's store, docker's certs.d;"),
        "{text}"
    );
    assert!(
        text.contains("hint: not trusted by all on this machine (docker): "),
        "{text}"
    );
}

/// The registry answers in this process, while the program is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn rights_are_told_by_the_rule_that_lacks() {
    let registry = registry_with_rules();
    let address = registry.address.to_string();
    let run = |account: &str, password: &str, more: &[&str]| {
        let base = ["doctor", &address, "--plain-http", "--json", "--size", "1"];
        let login = ["--username", account, "--password-stdin"];
        let login = if account.is_empty() { &[][..] } else { &login };
        ran(&[&base, login, more].concat(), &[], password)
    };
    let own: Value = serde_json::from_str(&run("ann", "ann-secret", &[]).fine()).unwrap();
    assert_eq!(own["is_healthy"], true);

    failed_at("login", &run("ann", "wrong", &[]).out);
    let nobody = failed_at("login", &run("", "", &[]).out);
    assert!(
        nobody.contains("--username NAME --password-stdin"),
        "{nobody}"
    );
    let foreign = run("ann", "ann-secret", &["--repository", "bob/app"]);
    assert_eq!(foreign.code, Some(1));
    let foreign: Value = serde_json::from_str(&foreign.out).unwrap();
    for (step, outcome, action) in [(5, "left_out", "push"), (6, "failed", "pull")] {
        let step = &foreign["steps"][step];
        assert_eq!(step["outcome"], outcome, "{foreign:#}");
        let found = format!("ann may not {action} in bob/app");
        assert_eq!(step["found"], *found, "{foreign:#}");
        let hint = step["hint"].as_str().unwrap();
        assert!(
            hint.contains(&format!("boathouse acl explain 'ann' bob/app {action}"))
                && hint.contains("--repository"),
            "{hint}"
        );
    }
}

/// The registry answers in this process, while the program is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_may_only_pull_is_examined_by_a_pull() {
    let mut options = Options::default();
    let all: &[&str] = &["*"];
    let rules = [("ann", "team/*", all), ("reader", "team/*", &["pull"])];
    with_users(&mut options, &["ann", "reader", "guest"], &rules);
    let registry = TestRegistry::start(options);
    for content in [&b"{}"[..], &[1; 3_000]] {
        let digest = Digest::of(Algorithm::Sha256, content);
        let post = registry.post(&format!("/v2/team/app/blobs/uploads/?digest={digest}"));
        let pushed = post.basic("ann", "ann-secret").body(content).send().await;
        pushed.expect(StatusCode::CREATED);
    }
    let put = registry
        .put("/v2/team/app/manifests/v1")
        .basic("ann", "ann-secret");
    let put = put.header("content-type", OCI_MANIFEST);
    let put = put.body(image_manifest(&[1; 3_000], "").as_bytes());
    put.send().await.expect(StatusCode::CREATED);
    let address = registry.address.to_string();
    let run = |account: &str, more: &[&str]| {
        let base = [
            "doctor",
            &address,
            "--plain-http",
            "--json",
            "--username",
            account,
        ];
        let password = format!("{account}-secret");
        ran(
            &[&base[..], &["--password-stdin"], more].concat(),
            &[],
            &password,
        )
    };
    for more in [&[][..], &["--repository", "team/app"]] {
        let report: Value = serde_json::from_str(&run("reader", more).fine()).unwrap();
        assert_eq!(report["is_healthy"], true, "{report:#}");
        let (push, pull) = (&report["steps"][5], &report["steps"][6]);
        assert_eq!(push["outcome"], "left_out", "{report:#}");
        let found = push["found"].as_str().unwrap();
        assert!(found.starts_with("reader may not push in "), "{found}");
        assert_eq!(pull["outcome"], "ok", "{report:#}");
        assert_eq!(
            pull["found"],
            "3000 bytes of team/app:v1, with the digest that its manifest says"
        );
    }
    let nothing = run("guest", &[]);
    assert_eq!(nothing.code, Some(1));
    assert!(
        nothing
            .out
            .contains("guest sees no repository that it may pull from"),
        "{}",
        nothing.out
    );
}

/// A repository that has images keeps them, and whatever else was in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_with_images_stays_when_the_scratch_blob_goes() {
    let registry = TestRegistry::open();
    registry.push_image("team/app", "v1", &[1; 100]).await;
    let before = registry.data.shared_files();
    let address = registry.address.to_string();
    let line = ["doctor", &address, "--plain-http", "--json", "--size", "1"];
    let line = [&line[..], &["--repository", "team/app"]].concat();
    let report: Value = serde_json::from_str(&ran(&line, &[], "").fine()).unwrap();
    let pull = report["steps"][6]["found"].as_str().unwrap();
    assert!(pull.ends_with("free once collected"), "{pull}");
    let mut after = registry.data.shared_files();
    after.retain(|key, _| !key.contains("/blobs/") || before.contains_key(key));
    assert_eq!(after, before);

    // One that was made for the blob goes with it.
    let fresh = [&line[..6], &["--repository", "team/new"]].concat();
    let report: Value = serde_json::from_str(&ran(&fresh, &[], "").fine()).unwrap();
    let pull = report["steps"][6]["found"].as_str().unwrap();
    assert!(pull.ends_with("its bytes are free again"), "{pull}");
    let files = registry.data.shared_files();
    assert!(
        !files.keys().any(|key| key.contains("team/new")),
        "{files:?}"
    );

    // Not even a registry that is asked for it removes images.
    let path = "/v2/team/app/_boathouse/repository?unless=manifests";
    let refused = registry.delete(path).send().await;
    refused.expect_error(409, "DENIED");
    let unclear = registry.delete("/v2/team/app/_boathouse/repository?unless=tags");
    unclear.send().await.expect_error(400, "UNSUPPORTED");
    let tags = registry.get("/v2/team/app/tags/list").send().await;
    assert_eq!(tags.names("tags"), ["v1"]);
}

/// Where nothing can be deleted, nothing is left behind; bytes are pushed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_where_nothing_can_be_deleted() {
    let mut options = Options::default();
    options.registry.deletes_enabled = false;
    let registry = TestRegistry::start(options);
    let address = registry.address.to_string();
    let line = ["doctor", &address, "--plain-http", "--json", "--size", "1"];
    let report: Value = serde_json::from_str(&ran(&line, &[], "").fine()).unwrap();
    assert_eq!(report["is_healthy"], true, "{report:#}");
    let (push, pull) = (&report["steps"][5], &report["steps"][6]);
    let found = push["found"].as_str().unwrap();
    assert!(found.ends_with(", then cancelled"), "{report:#}");
    assert_eq!(pull["outcome"], "left_out");
    let reason = pull["found"].as_str().unwrap();
    assert!(
        reason.contains("could not be deleted (the registry answers 405"),
        "{reason}"
    );
    let list = registry.get("/v2/_catalog").send().await.json();
    assert_eq!(list["repositories"], serde_json::json!([]));
}

/// Answers as macOS's `AirPlay` receiver does to whatever is sent.
fn airplay() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4_096]);
            let _ = stream.write_all(
                b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nServer: AirTunes/845.5.1\r\n\r\n",
            );
        }
    });
    address
}

#[test]
fn airplay_is_called_by_its_name() {
    let address = airplay().to_string();
    let ran = ran(&["doctor", &address, "--json"], &[], "");
    let said = failed_at("tls", &ran.out);
    assert!(
        said.contains("AirPlay answers on") && said.contains("AirPlay receiver off"),
        "{said}"
    );
}

#[test]
fn a_password_comes_with_a_name_and_is_not_empty() {
    let registry = "localhost:1";
    let alone = ran(&["doctor", registry, "--password-stdin"], &[], PASSWORD);
    assert_eq!(alone.code, Some(2));
    let arguments = ["doctor", registry, "--username", "ann", "--password-stdin"];
    let empty = ran(&arguments, &[], "\n").failed();
    assert!(
        empty.contains("the password from stdin is empty"),
        "{empty}"
    );
}
