//! Changes of accounts beside a server that does not see the configuration as the command does: started in another directory,
//! with another environment, through a link. The change is in force when the command succeeds; otherwise it fails, and says
//! where it looked.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use http::{Method, StatusCode};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::program::{Program, Ran, command, free_address, ran};
use crate::support::Call;

struct Lab {
    directory: TempDir,
    address: SocketAddr,
}

impl Lab {
    /// `DIR` in `storage` stands for the lab's directory.
    fn new(storage: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = free_address();
        let lab = Self { directory, address };
        for name in ["etc", "work"] {
            fs::create_dir(lab.path(name)).unwrap();
        }
        lab.write_config("boathouse.yml", storage);
        lab
    }

    fn write_config(&self, name: &str, storage: &str) {
        let text = format!(
            "http: {{addr: '{}'}}\n{storage}\nusers_file: DIR/etc/users.yml\nacl: []\n",
            self.address
        );
        let text = text.replace("DIR", self.directory.path().to_str().unwrap());
        fs::write(self.path("etc").join(name), text).unwrap();
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// A server in the directory `work`.
    async fn serve(&self, environment: &[(&str, &str)]) -> Program {
        let config = self.path("etc/boathouse.yml");
        let arguments = ["serve", "--config", config.to_str().unwrap()];
        let mut command = command(&arguments, environment);
        command.current_dir(self.path("work"));
        let mut program = Program::start_by(&self.path("log"), &mut command);
        program.says("the index is up to the store").await;
        program
    }

    /// A command in the directory of this test, which is not the server's.
    fn user(&self, arguments: &[&str]) -> Ran {
        Self::user_of(&self.path("etc/boathouse.yml"), arguments)
    }

    fn user_of(config: &Path, arguments: &[&str]) -> Ran {
        let place = ["--config", config.to_str().unwrap()];
        ran(
            &[&["user"], arguments, &place].concat(),
            &[],
            "a-long-password\n",
        )
    }

    async fn token(&self) -> Option<String> {
        let path = "/token?service=boathouse&scope=repository:team/app:pull";
        let call = Call::to(self.address, Method::GET, path);
        let answer = call.basic("ann", "a-long-password").send().await;
        (answer.status == StatusCode::OK)
            .then(|| answer.json()["token"].as_str().unwrap().to_owned())
    }

    async fn look(&self, token: &str) -> u16 {
        let path = "/v2/team/app/manifests/v1";
        let call = Call::to(self.address, Method::GET, path).bearer(token);
        call.send().await.status.as_u16()
    }

    /// Adds, revokes and removes: each is in force in the running server when the command has ended.
    async fn changes_count(&self, config: &Path) {
        let add = ["add", "ann", "--pull", "team/**", "--password-stdin"];
        Self::user_of(config, &add).fine();
        let token = self.token().await.expect("the new account may log in");
        assert_eq!(self.look(&token).await, 404, "let in, and nothing there");
        Self::user_of(config, &["revoke", "ann"]).fine();
        assert_eq!(
            self.look(&token).await,
            401,
            "a token outlived its revocation"
        );
        let token = self.token().await.unwrap();
        Self::user_of(config, &["remove", "ann"]).fine();
        assert_eq!(self.look(&token).await, 401, "a token outlived its account");
        assert_eq!(self.token().await, None, "a removed account may log in");
    }
}

const RELATIVE: &str = "storage: {filesystem: {rootdirectory: data}}";
const ABSOLUTE: &str = "storage: {filesystem: {rootdirectory: DIR/data}}";

#[tokio::test]
async fn a_relative_root_directory_is_another_place_to_the_server() {
    let lab = Lab::new(RELATIVE);
    let _server = lab.serve(&[]).await;
    assert!(lab.path("work/data/boathouse/control.sock").exists());
    lab.changes_count(&lab.path("etc/boathouse.yml")).await;
}

#[tokio::test]
async fn a_variable_is_set_for_the_server_only() {
    let lab = Lab::new(ABSOLUTE);
    let other = lab.path("other");
    let variable = (
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY",
        other.to_str().unwrap(),
    );
    // Data that once were served where the command looks, and whose lock is free, prove nothing.
    lab.serve(&[]).await.end();
    let _server = lab.serve(&[variable]).await;
    lab.changes_count(&lab.path("etc/boathouse.yml")).await;
}

#[tokio::test]
async fn links_lead_to_the_same_file_of_users() {
    let lab = Lab::new(RELATIVE);
    let _server = lab.serve(&[]).await;
    symlink(lab.path("etc"), lab.path("link")).unwrap();
    let through_link = "http: {addr: 'localhost:1'}\nstorage: {filesystem: {rootdirectory: /nowhere}}\n\
        users_file: DIR/link/users.yml\nacl: []\n";
    let through_link = through_link.replace("DIR", lab.directory.path().to_str().unwrap());
    fs::write(lab.path("other.yml"), through_link).unwrap();
    lab.changes_count(&lab.path("other.yml")).await;
}

#[tokio::test]
async fn every_server_that_reads_the_file_must_have_loaded_it() {
    let lab = Lab::new(ABSOLUTE);
    let first = lab.serve(&[]).await;
    let second = free_address().to_string();
    let other = lab.path("other");
    let root = other.to_str().unwrap();
    let environment = [
        ("REGISTRY_HTTP_ADDR", second.as_str()),
        ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", root),
    ];
    let other = lab.serve(&environment).await;
    lab.changes_count(&lab.path("etc/boathouse.yml")).await;
    // The one that the configuration leads to hears it, the other does not.
    other.signal(Signal::STOP);
    let said = lab.user(&["add", "ann", "--password-stdin"]).failed();
    assert!(
        said.contains("other/boathouse/control.sock does not answer within")
            && said.contains("RUNNING SERVER MAY STILL GO BY WHAT WAS BEFORE"),
        "{said}"
    );
    // Nobody waits for its answer for ever, whatever was asked.
    let config = lab.path("etc/boathouse.yml");
    let mut counts = command(
        &["status", "--config", config.to_str().unwrap()],
        &[("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", root)],
    );
    let counts = counts.output().unwrap();
    assert_eq!(counts.status.code(), Some(1));
    let said = String::from_utf8(counts.stderr).unwrap();
    assert!(said.contains("does not answer within"), "{said}");
    other.signal(Signal::CONT);
    drop((first, other));
    let removed = lab.user(&["remove", "ann"]);
    assert!(
        removed.talk.contains("no server is running"),
        "{}",
        removed.talk
    );
    removed.fine();
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_not_taken_for_none() {
    let lab = Lab::new(RELATIVE);
    let server = lab.serve(&[]).await;
    let socket = lab.path("work/data/boathouse/control.sock");
    let add = ["add", "ann", "--pull", "team/**", "--password-stdin"];
    lab.user(&add).fine();
    let token = lab.token().await.unwrap();
    fs::remove_file(&socket).unwrap();
    let names_the_socket = || {
        let said = lab.user(&["remove", "ann"]).failed();
        assert!(
            said.contains(&format!("does not listen at {} nor at ", socket.display()))
                && said.contains("`ann` was removed")
                && said.contains("users.yml says so")
                && said.contains("\nhint: "),
            "{said}"
        );
    };
    names_the_socket();
    assert_eq!(lab.look(&token).await, 404, "it does not know yet");
    lab.user(&add).failed();
    // A socket that nobody listens at.
    drop(UnixListener::bind(&socket).unwrap());
    names_the_socket();
    fs::remove_file(&socket).unwrap();

    // Killed, and what it left behind is not taken for a server.
    server.signal(Signal::KILL);
    drop(server);
    let added = lab.user(&add);
    assert!(
        added.talk.contains("no server is running"),
        "{}",
        added.talk
    );
    added.fine();
    let left = fs::read_dir(lab.path("etc")).unwrap();
    let left = left.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().contains("serving")
    });
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn another_server_at_the_socket_is_not_the_one_that_reads_the_file() {
    let lab = Lab::new(ABSOLUTE);
    let _server = lab.serve(&[]).await;
    // The same place for its socket, other users.
    let text = fs::read_to_string(lab.path("etc/boathouse.yml")).unwrap();
    let other = lab.path("etc/other.yml");
    fs::write(&other, text.replace("etc/users.yml", "work/users.yml")).unwrap();
    let said = Lab::user_of(&other, &["add", "ann", "--password-stdin"]).failed();
    assert!(said.contains("reads another file of users"), "{said}");
}

#[tokio::test]
async fn other_data_are_not_counted_for_those_of_the_running_server() {
    let lab = Lab::new(RELATIVE);
    let _server = lab.serve(&[]).await;
    let config = lab.path("etc/boathouse.yml");
    let config = config.to_str().unwrap();
    for line in [&["status"][..], &["du"], &["rebuild"]] {
        let said = ran(&[line, &["--config", config]].concat(), &[], "").failed();
        assert!(
            said.contains("no server listens at ")
                && said.contains("work/data/boathouse/control.sock"),
            "{said}"
        );
    }
}
