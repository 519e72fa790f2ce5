//! Changes of accounts, and the running server: it goes by them at once, or the command says that it does not.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use http::{Method, StatusCode};
use tempfile::TempDir;

use crate::program::{Program, Ran, free_address, ran};
use crate::support::Call;

struct Lab {
    directory: TempDir,
    address: SocketAddr,
}

impl Lab {
    /// Two config files, of which commands are told the first only, so that the second can break what just the server reads.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = free_address();
        let place = directory.path().display();
        let text = format!(
            "http: {{addr: '{address}'}}\nstorage: {{filesystem: {{rootdirectory: {place}/data}}}}\n\
             users_file: {place}/users.yml\nusers: {{}}\nacl: []\n"
        );
        fs::write(directory.path().join("boathouse.yml"), text).unwrap();
        fs::write(directory.path().join("more.yml"), "log: {level: info}\n").unwrap();
        Self { directory, address }
    }

    fn path(&self, below: &str) -> String {
        let path: &Path = self.directory.path();
        path.join(below).to_str().unwrap().to_owned()
    }

    async fn serve(&self) -> Program {
        let [one, two] = ["boathouse.yml", "more.yml"].map(|name| self.path(name));
        let arguments = ["serve", "--config", &one, "--config", &two];
        let log = self.directory.path().join("log");
        let mut program = Program::start(&log, &arguments, &[]);
        program.says("the index is up to the store").await;
        for _ in 0..4_000 {
            if self
                .directory
                .path()
                .join("data/boathouse/control.sock")
                .exists()
            {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        program
    }

    fn user(&self, arguments: &[&str], input: &str) -> Ran {
        let config = self.path("boathouse.yml");
        let place = ["--config", &config];
        ran(&[&["user"], arguments, &place].concat(), &[], input)
    }

    async fn token(&self, password: &str) -> Option<String> {
        let path = "/token?service=boathouse&scope=repository:team/app:pull,push";
        let call = Call::to(self.address, Method::GET, path);
        let answer = call.basic("ann", password).send().await;
        (answer.status == StatusCode::OK)
            .then(|| answer.json()["token"].as_str().unwrap().to_owned())
    }

    /// The status of a look at an image that is not there.
    async fn look(&self, token: &str) -> u16 {
        let path = "/v2/team/app/manifests/v1";
        let call = Call::to(self.address, Method::GET, path).bearer(token);
        call.send().await.status.as_u16()
    }
}

#[tokio::test]
async fn a_change_counts_at_once_or_the_command_fails() {
    let lab = Lab::new();
    let _server = lab.serve().await;
    let add = ["add", "ann", "--push", "team/**", "--password-stdin"];
    let added = lab.user(&add, "a-long-password\n");
    assert!(
        added.talk.contains("the running server goes by it now"),
        "{}",
        added.talk
    );
    assert_eq!(added.fine(), "", "a password that was given is not shown");
    let token = lab.token("a-long-password").await.unwrap();
    assert_eq!(lab.look(&token).await, 404, "let in, and nothing there");

    lab.user(&["revoke", "ann"], "").fine();
    assert_eq!(
        lab.look(&token).await,
        401,
        "a token outlived its revocation"
    );
    let token = lab.token("a-long-password").await.unwrap();
    assert_eq!(lab.look(&token).await, 404);

    // What only the server reads is broken: the file of users is written, and the server does not know.
    fs::write(lab.path("more.yml"), "log: {level: loud}\n").unwrap();
    let said = lab.user(&["revoke", "ann"], "").failed();
    for told in [
        "RUNNING SERVER MAY STILL GO BY WHAT WAS BEFORE",
        "nothing was changed",
        "more.yml:1",
        "hint: ",
    ] {
        assert!(said.contains(told), "{told}\n{said}");
    }
    assert_eq!(lab.look(&token).await, 404);

    // What the command reads itself is broken: nothing is changed.
    let config = lab.path("boathouse.yml");
    let [before, users] =
        [config.clone(), lab.path("users.yml")].map(|path| fs::read(path).unwrap());
    fs::write(&config, "http: [\n").unwrap();
    let said = lab.user(&["remove", "ann"], "").failed();
    assert!(said.contains("boathouse.yml:"), "{said}");
    assert_eq!(fs::read(lab.path("users.yml")).unwrap(), users);

    // Mended, the next command brings everything.
    fs::write(&config, before).unwrap();
    fs::write(lab.path("more.yml"), "log: {level: info}\n").unwrap();
    let mended = lab.user(&["add", "bob", "--password-stdin"], "another-password\n");
    mended.fine();
    assert_eq!(
        lab.look(&token).await,
        401,
        "the revocation that was told late"
    );
}
