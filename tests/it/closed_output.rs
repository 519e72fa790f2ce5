//! Commands whose reader has seen enough (`boathouse check | head`).

use std::process::{Command, Stdio};

use crate::lab::Lab;

/// How a command ends with nobody at the other end of its stdout, and what it says on stderr.
fn ended(command: &mut Command) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn();
    let output = child.unwrap().wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[tokio::test]
async fn a_reader_that_has_gone_ends_a_command_quietly_with_its_usual_code() {
    let lab = Lab::configured(
        "http: {addr: '127.0.0.1:1'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\n\
         users: {ann: {password: x}}\nacl: [{match: {account: amy}, actions: ['*']}]\n",
    );
    for line in [
        &["check"][..],
        &["du"],
        &["rebuild"],
        &["rebuild", "--check"],
        &["user", "list"],
        &["user", "list", "--json"],
        &["acl", "explain", "ann", "team/app"],
        &["acl", "explain", "ann", "team/app", "--json"],
    ] {
        let (code, talk) = ended(&mut lab.command(line));
        // That the account may do nothing is an answer.
        let expected = i32::from(line[0] == "acl");
        assert_eq!(code, Some(expected), "{line:?}: {talk}");
        assert!(!talk.contains("error"), "{line:?}: {talk}");
        // What is not data is said all the same.
        assert!(
            line[0] != "check" || talk.contains("`amy`"),
            "{line:?}: {talk}"
        );
    }
    // No server runs.
    for line in [&["status"][..], &["status", "--json"]] {
        let (code, talk) = ended(&mut lab.command(line));
        assert_eq!(code, Some(3), "{line:?}: {talk}");
        assert!(!talk.contains("error"), "{line:?}: {talk}");
    }
    let mut completions = crate::program::command(&["completions", "bash"], &[]);
    assert_eq!(ended(&mut completions), (Some(0), String::new()));
    // Nothing listens there.
    let mut doctor = crate::program::command(&["doctor", "127.0.0.1:1"], &[]);
    assert_eq!(ended(&mut doctor), (Some(1), String::new()));
}

#[tokio::test]
async fn a_reader_that_has_gone_stops_no_installation_half_way() {
    let lab = Lab::empty();
    let program = lab.up("home", &["--addr", "127.0.0.1:0"]).await;
    for client in ["docker", "skopeo"] {
        lab.write(&format!("client/usr/bin/{client}"), "");
    }
    let (home, root) = (lab.place("home"), lab.place("client"));
    let line = [
        "trust",
        "--dir",
        &home,
        "--install",
        "--yes",
        "--root",
        &root,
    ];
    let (code, talk) = ended(&mut crate::program::command(
        &line,
        &[("HOME", "/home/ann")],
    ));
    assert_eq!(code, Some(0), "{talk}");
    let trusted = crate::data::tree(&lab.path("client")).into_keys();
    let trusted: Vec<String> = trusted.filter(|path| path.ends_with("/ca.crt")).collect();
    assert!(
        trusted.iter().any(|path| path.contains("docker/certs.d")),
        "{trusted:?}"
    );
    assert!(
        trusted
            .iter()
            .any(|path| path.contains("containers/certs.d")),
        "{trusted:?}"
    );
    drop(program);
}
