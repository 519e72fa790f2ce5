//! `status`: whether the server runs, how it is, and the exit code that says so.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use boathouse::oci::{Algorithm, Digest};
use http::{Method, StatusCode};
use serde_json::Value;

use crate::lab::Lab;
use crate::program::ran;

#[tokio::test]
async fn it_says_whether_the_server_runs_and_how_it_is() {
    let lab = Lab::open();
    let stopped = lab.status();
    assert_eq!(stopped["is_running"], false);
    assert!(stopped.get("server").is_none(), "{stopped}");
    let server = lab.serve().await;
    let opened = server
        .call(Method::POST, "/v2/a/blobs/uploads/")
        .send()
        .await;
    let path = opened.header("location").to_owned();
    let sent = server
        .call(Method::PATCH, &path)
        .body(&[7; 1_234])
        .send()
        .await;
    sent.expect(StatusCode::ACCEPTED);
    let status = lab.status();
    let said = &status["server"];
    assert_eq!(
        status["url"],
        format!("http://{}", server.address()).replace("127.0.0.1", "localhost"),
        "{status}"
    );
    assert_eq!(said["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(said["uploads"]["open"], 1, "{status}");
    assert_eq!(said["uploads"]["bytes"], 1_234, "{status}");
    assert!(said["uptime_secs"].as_u64() < Some(600), "{status}");
    assert!(said["watched_loops"].as_u64() > Some(5), "{status}");
    let room = &status["room"];
    assert!(
        room["free_bytes"].as_u64() <= room["size_bytes"].as_u64(),
        "{status}"
    );
    assert!(room["floor_bytes"].as_u64() > Some(0), "{status}");
    let text = lab.run(&["status"]).fine();
    for line in [
        "server        healthy; running since 2",
        "uploads       1 open, ",
        "they hold 1.21 KiB",
        "address       http://localhost:",
        "tasks ",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // A finished upload is none.
    let digest = Digest::of(Algorithm::Sha256, &[7; 1_234]);
    let end = format!(
        "{path}{}digest={digest}",
        if path.contains('?') { '&' } else { '?' }
    );
    server
        .call(Method::PUT, &end)
        .send()
        .await
        .expect(StatusCode::CREATED);
    assert_eq!(lab.status()["server"]["uploads"]["bytes"], 0);
}

#[tokio::test]
async fn what_asks_for_an_operator_is_in_the_exit_code() {
    let lab = Lab::empty();
    let server = lab.up("old", &[]).await;
    let status = |code: i32| -> Value {
        let ran = ran(&["status", "--json", "--dir", &lab.place("old")], &[], "");
        assert_eq!(ran.code, Some(code), "{}{}", ran.out, ran.talk);
        serde_json::from_str(&ran.out).unwrap()
    };
    let healthy = status(0);
    let certificates = healthy["server"]["certificates"].as_array().unwrap();
    let names: Vec<&Value> = certificates
        .iter()
        .map(|each| &each["certificate"])
        .collect();
    assert_eq!(names, ["server", "authority"], "{healthy}");
    assert!(
        certificates[0]["days_left"].as_u64() > Some(30),
        "{healthy}"
    );
    assert!(
        healthy["url"].as_str().unwrap().starts_with("https://"),
        "{healthy}"
    );
    // Without the file of accounts nobody can log in.
    fs::rename(lab.path("old/users.yml"), lab.path("aside")).unwrap();
    let _ = server.get("/v2/").send().await;
    let troubled = status(1);
    assert!(
        troubled["degraded"][0]
            .as_str()
            .unwrap()
            .contains("accounts"),
        "{troubled}"
    );
    // A mistake in it hides nothing either.
    lab.write("old/users.yml", "users: [");
    let _ = server.get("/v2/").send().await;
    let mistaken = status(1)["degraded"][0].to_string();
    assert!(mistaken.contains("accounts has a mistake"), "{mistaken}");
    ran(&["list", "--dir", &lab.place("old")], &[], "").fine();
    fs::rename(lab.path("aside"), lab.path("old/users.yml")).unwrap();
    server.end();
    status(3);
}

#[tokio::test]
async fn a_control_socket_that_somebody_removed_is_made_again() {
    let lab = Lab::open();
    let mut server = lab.serve().await;
    fs::remove_file(lab.socket()).unwrap();
    let wait_max = Duration::from_mins(1);
    server
        .says_within(wait_max, "the control socket was removed")
        .await;
    server.takes_commands(&lab.socket()).await;
    assert_eq!(lab.status()["is_running"], true);
    server.end();
    assert!(!lab.socket().exists());
}

/// The answer at the socket of a service's group.
fn asked(socket: &Path, request: &str) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    writeln!(stream, "{{\"request\":\"{request}\"}}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test]
async fn the_group_of_a_service_may_ask_and_change_nothing() {
    let lab = Lab::open();
    let run = lab.path("run");
    fs::create_dir(&run).unwrap();
    let mut command = lab.command(&["serve"]);
    command.env("RUNTIME_DIRECTORY", format!("{}:/elsewhere", run.display()));
    let mut server = lab.serve_by(&mut command).await;
    let socket = run.join("control.sock");
    server.takes_commands(&socket).await;
    let status = asked(&socket, "status");
    assert_eq!(status["answer"], "status", "{status}");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    for request in ["reload", "rebuild", "compare"] {
        let refused = asked(&socket, request);
        assert_eq!(refused["answer"], "failed", "{request}: {refused}");
        assert!(
            refused
                .to_string()
                .contains("only root and the user of the server"),
            "{refused}"
        );
    }
    // Its own user and root have the other socket.
    assert_eq!(lab.status()["is_running"], true);
    server.end();
    assert!(!socket.exists());
}
