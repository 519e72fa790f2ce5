//! Changes of accounts beside a server that no command can reach, or that does not see the configuration as the command does:
//! started in another directory, with another environment, through a link. A change is in force when the command has ended.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use rustix::process::Signal;

use crate::lab::{ANY_ADDRESS, Lab};
use crate::program::{Program, Ran, command, ran};

/// The configuration in a directory of its own, and another one for the server to run in.
fn lab(storage: &str) -> Lab {
    let lab = Lab::empty();
    fs::create_dir_all(lab.path("work/data")).unwrap();
    fs::create_dir(lab.path("other")).unwrap();
    let text =
        format!("http: {{addr: 'ADDRESS'}}\n{storage}\nusers_file: DIR/etc/users.yml\nacl: []\n");
    lab.configure("etc/boathouse.yml", &text);
    lab
}

/// A server in the directory `work`.
async fn serve(lab: &Lab, environment: &[(&str, &str)]) -> Program {
    let config = lab.place("etc/boathouse.yml");
    let mut command = command(&["serve", "--config", &config], environment);
    lab.serve_by(command.current_dir(lab.path("work"))).await
}

/// A command in the directory of this test, which is not the server's.
fn user(lab: &Lab, config: &str, arguments: &[&str]) -> Ran {
    let config = lab.place(config);
    let line = [&["user"], arguments, &["--config", &config]].concat();
    ran(&line, &[], "a-long-password\n")
}

/// Adds, revokes and removes: each is in force in the running server when the command has ended.
async fn changes_count(lab: &Lab, server: &Program, config: &str) {
    let token = || server.token("ann", "a-long-password");
    let add = ["add", "ann", "--pull", "team/**", "--password-stdin"];
    user(lab, config, &add).fine();
    let added = token().await.expect("the new account may log in");
    assert_eq!(server.look(&added).await, 404, "let in, and nothing there");
    user(lab, config, &["revoke", "ann"]).fine();
    let status = server.look(&added).await;
    assert_eq!(status, 401, "a token outlived its revocation");
    let revoked = token().await.unwrap();
    user(lab, config, &["remove", "ann"]).fine();
    let status = server.look(&revoked).await;
    assert_eq!(status, 401, "a token outlived its account");
    assert_eq!(token().await, Err(401), "a removed account may log in");
}

const CONFIG: &str = "etc/boathouse.yml";
const RELATIVE: &str = "storage: {filesystem: {rootdirectory: data}}";
const ABSOLUTE: &str = "storage: {filesystem: {rootdirectory: DIR/data}}";

#[tokio::test]
async fn a_relative_root_directory_is_another_place_to_the_server() {
    let lab = lab(RELATIVE);
    let server = serve(&lab, &[]).await;
    assert!(lab.path("work/data/boathouse/control.sock").exists());
    changes_count(&lab, &server, CONFIG).await;
}

#[tokio::test]
async fn a_variable_is_set_for_the_server_only() {
    let lab = lab(ABSOLUTE);
    let other = lab.place("other");
    let variable = ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", &*other);
    // Data that once were served where the command looks, and whose lock is free, prove nothing.
    serve(&lab, &[]).await.end();
    let server = serve(&lab, &[variable]).await;
    changes_count(&lab, &server, CONFIG).await;
}

#[tokio::test]
async fn links_lead_to_the_same_file_of_users() {
    let lab = lab(RELATIVE);
    let server = serve(&lab, &[]).await;
    symlink(lab.path("etc"), lab.path("link")).unwrap();
    let through_link = "http: {addr: 'localhost:1'}\nstorage: {filesystem: {rootdirectory: /nowhere}}\n\
        users_file: DIR/link/users.yml\nacl: []\n";
    lab.configure("other.yml", through_link);
    changes_count(&lab, &server, "other.yml").await;
}

#[tokio::test]
async fn a_change_is_in_force_in_every_server_that_reads_the_file() {
    let lab = lab(ABSOLUTE);
    let first = serve(&lab, &[]).await;
    let root = lab.place("other");
    let root = ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", &*root);
    let environment = [("REGISTRY_HTTP_ADDR", ANY_ADDRESS), root];
    let other = serve(&lab, &environment).await;
    changes_count(&lab, &first, CONFIG).await;
    changes_count(&lab, &other, CONFIG).await;
    // One that is stopped goes by what was changed meanwhile.
    let add = ["add", "ann", "--pull", "team/**", "--password-stdin"];
    user(&lab, CONFIG, &add).fine();
    let token = other.token("ann", "a-long-password").await.unwrap();
    other.signal(Signal::STOP);
    user(&lab, CONFIG, &["remove", "ann"]).fine();
    // Nobody waits for its answer for ever.
    let status = ["status", "--config", &lab.place(CONFIG)];
    let said = ran(&status, &[root], "").failed();
    assert!(said.contains("does not answer within"), "{said}");
    other.signal(Signal::CONT);
    assert_eq!(other.look(&token).await, 401);
}

#[tokio::test]
async fn an_account_ends_at_the_next_request_without_any_socket() {
    let lab = lab(RELATIVE);
    let add = ["add", "ann", "--pull", "team/**", "--password-stdin"];
    user(&lab, CONFIG, &add).fine();
    let server = serve(&lab, &[]).await;
    let socket = lab.path("work/data/boathouse/control.sock");
    let by_password = async || {
        let call = server.get("/v2/team/app/manifests/v1");
        let answer = call.basic("ann", "a-long-password").send().await;
        answer.status.as_u16()
    };
    let token = server.token("ann", "a-long-password").await.unwrap();
    assert_eq!(server.look(&token).await, 404, "let in, and nothing there");
    assert_eq!(by_password().await, 404, "let in, and nothing there");

    fs::remove_file(&socket).unwrap();
    let removed = user(&lab, CONFIG, &["remove", "ann"]);
    let status = server.look(&token).await;
    assert_eq!(status, 401, "a token outlived its account");
    let status = by_password().await;
    assert_eq!(status, 401, "a removed account may log in");
    removed.fine();

    // A socket that nobody listens at; the server may have made its own again.
    let _ = fs::remove_file(&socket);
    drop(UnixListener::bind(&socket).unwrap());
    user(&lab, CONFIG, &add).fine();
    assert_eq!(server.look(&token).await, 401, "it came back to life");
    let token = server.token("ann", "a-long-password").await.unwrap();
    user(&lab, CONFIG, &["revoke", "ann"]).fine();
    let status = server.look(&token).await;
    assert_eq!(status, 401, "a token outlived its revocation");
}

#[tokio::test]
async fn a_command_names_the_file_that_it_has_written() {
    let lab = lab(ABSOLUTE);
    let server = serve(&lab, &[]).await;
    // The same place for its socket, other users.
    let text = lab.read(CONFIG);
    lab.write(
        "etc/other.yml",
        text.replace("etc/users.yml", "work/users.yml"),
    );
    let add = ["add", "ann", "--password-stdin"];
    let added = user(&lab, "etc/other.yml", &add);
    let file = lab.place("work/users.yml");
    let said = format!("in every server that reads {file}\n");
    assert!(added.talk.contains(&said), "{}", added.talk);
    added.fine();
    assert_eq!(server.token("ann", "a-long-password").await, Err(401));
}

#[tokio::test]
async fn other_data_are_not_counted_for_those_of_the_running_server() {
    let lab = lab(RELATIVE);
    let _server = serve(&lab, &[]).await;
    let config = lab.place(CONFIG);
    for line in [&["status"][..], &["du"], &["rebuild"]] {
        let said = ran(&[line, &["--config", &config]].concat(), &[], "").failed();
        assert!(
            said.contains("no server listens at ") && said.contains("the relative path"),
            "{said}"
        );
    }
}
