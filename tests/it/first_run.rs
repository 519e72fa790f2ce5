//! The first `boathouse up`: what it refuses, and which port it says.

use std::net::TcpListener;

use http::StatusCode;

use crate::client::{Client, Protocol};
use crate::lab::Lab;
use crate::program::Ran;

#[test]
fn an_argument_that_cannot_be_is_refused_before_anything_is_written() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let long = "x".repeat(73);
    let good = "a good password";
    let cases: [(&[&str], &str, &str); 8] = [
        (&["--host", "https://a"], good, "https://a"),
        (&["--host", "good", "--host", "a b"], good, "a b"),
        (&["--addr", &taken], good, "cannot listen on"),
        (&["--addr", "nowhere"], good, "HOST:PORT"),
        (&[], &long, "BOATHOUSE_ADMIN_PASSWORD"),
        (&[], "", "BOATHOUSE_ADMIN_PASSWORD"),
        (&[], "too-short", "9 characters, and at least 10"),
        (&[], "Administrator1", "too easy to guess"),
    ];
    for (arguments, password, said) in cases {
        let lab = Lab::empty();
        let mut command = lab.up_command("home", arguments);
        let ran = Ran::of(command.env("BOATHOUSE_ADMIN_PASSWORD", password), "");
        assert!(ran.talk.contains(said), "{arguments:?}: {ran:?}");
        assert_ne!(ran.code, Some(0), "{ran:?}");
        assert!(!lab.path("home").exists(), "{arguments:?} left something");
    }
}

#[tokio::test]
async fn a_port_that_the_system_chose_is_the_one_that_is_said_and_kept() {
    let lab = Lab::empty();
    let mut program = lab.up("home", &["--addr", "127.0.0.1:0"]).await;
    program.says("shown again by").await;
    let address = program.address();
    assert_ne!(address.port(), 0);
    let log = program.log();
    let registry = format!("localhost:{}", address.port());
    for said in [
        format!("Boathouse serves https://{registry}\n"),
        format!("docker login --username admin {registry}\n"),
    ] {
        assert!(log.contains(&said), "{said}{log}");
    }
    let client = Client::new(lab.target("home", address), Protocol::Http1);
    client
        .get("/v2/")
        .await
        .unwrap()
        .expect(StatusCode::UNAUTHORIZED);
    // What other commands say goes by the configuration.
    let config = lab.read("home/boathouse.yml");
    assert!(config.contains(&address.to_string()), "{config}");
}

#[tokio::test]
async fn serve_logs_the_port_that_the_system_chose() {
    let lab = Lab::configured(
        "http: {addr: '127.0.0.1:0'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\n",
    );
    let program = lab.serve().await;
    assert_ne!(program.address().port(), 0);
    program.get("/v2/").send().await.expect(StatusCode::OK);
}

/// As root, where it can be tried; the interop step `users` does it too.
#[test]
fn root_begins_nothing_over_the_data_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let lab = Lab::empty();
    std::fs::create_dir_all(lab.path("home/data/docker")).unwrap();
    std::os::unix::fs::chown(lab.path("home/data/docker"), Some(4711), Some(4711)).unwrap();
    let said = Ran::of(&mut lab.up_command("home", &[]), "").failed();
    assert!(said.contains("belongs to the user with id 4711"), "{said}");
    for (directory, entry) in [("home", "data"), ("home/data", "docker")] {
        let entries = std::fs::read_dir(lab.path(directory)).unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [entry], "{directory}");
    }
}

/// What a command of root makes can be opened by the user whose data they are.
#[test]
fn root_makes_no_file_that_the_server_cannot_open() {
    use std::os::unix::fs::MetadataExt as _;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let lab = Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\nusers_file: DIR/users.yml\nacl: []\n\
         token: {certificate: DIR/keys/token.crt, key: DIR/keys/token.key}\nusers: {}\n",
    );
    std::fs::create_dir_all(lab.path("data/docker")).unwrap();
    std::os::unix::fs::chown(lab.path("data/docker"), Some(4711), Some(4711)).unwrap();
    lab.run(&["token-key", "make"]).fine();
    lab.run(&["user", "add", "ann"]).fine();
    lab.run(&["user", "grant", "ann", "--pull", "a"]).fine();
    for file in [
        "users.yml",
        "users.yml.lock",
        "keys/token.key",
        "keys/token.crt",
    ] {
        let owner = std::fs::metadata(lab.path(file)).unwrap().uid();
        assert_eq!(owner, 4711, "{file}");
    }
}
