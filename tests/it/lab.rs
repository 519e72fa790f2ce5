//! A directory in which the program runs: configuration, accounts, certificates, data, logs.
//!
//! Each test has its own, and the program has no other: so tests run at once, and as any user. Modules that need more of a
//! lab add methods where they need them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Target, trust};
use crate::program::{Program, Ran, command};

/// The configuration that is served, and that commands are given.
const CONFIG: &str = "boathouse.yml";
/// Open to everybody.
const OPEN: &str = "http: {addr: 'ADDRESS'}\n\
    storage: {filesystem: {rootdirectory: DIR/data}, delete: {enabled: true}}\n";
/// The system chooses the port, so no other program can take it first.
pub(crate) const ANY_ADDRESS: &str = "127.0.0.1:0";
/// Of the admin that `up` makes.
pub(crate) const PASSWORD: &str = "a-password-for-tests";

pub(crate) struct Lab {
    directory: TempDir,
}

impl Lab {
    /// Without a configuration.
    pub(crate) fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    /// With a configuration that is open to everybody.
    pub(crate) fn open() -> Self {
        Self::configured(OPEN)
    }

    /// See [`Lab::configure`].
    pub(crate) fn configured(text: &str) -> Self {
        let lab = Self::empty();
        lab.configure(CONFIG, text);
        lab
    }

    /// Writes a configuration in which `DIR/` stands for the lab's directory, and `ADDRESS` for any free address: the program
    /// says which. Makes the directory of the data, as an administrator does.
    pub(crate) fn configure(&self, name: &str, text: &str) {
        let root = regex::Regex::new("rootdirectory: DIR/([a-z-]+)").unwrap();
        for found in root.captures_iter(text) {
            fs::create_dir_all(self.path(&found[1])).unwrap();
        }
        let text = text.replace("DIR/", &self.place("/"));
        self.write(name, text.replace("ADDRESS", ANY_ADDRESS));
    }

    /// Writes a file, and the directories above it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Of a file or directory in it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The same as an argument; `""` is the lab itself, and `"/"` what all its paths begin with.
    pub(crate) fn place(&self, name: &str) -> String {
        let place = self.directory.path().to_str().unwrap();
        match name {
            "" => place.to_owned(),
            name => format!("{place}/{}", name.trim_start_matches('/')),
        }
    }

    /// What the program printed, as a golden text has it: `DIR` for the lab's directory, `TIME` for moments.
    pub(crate) fn shown(&self, text: &str) -> String {
        let text = text.replace(&self.place(""), "DIR");
        let moment = regex::Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").unwrap();
        moment.replace_all(&text, "TIME").into_owned()
    }

    /// Where a repository is, in the data of the configuration.
    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.path("data/docker/registry/v2/repositories").join(name)
    }

    /// The control socket, where the configuration does not move it.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("data/boathouse/control.sock")
    }

    /// A command line on the lab's configuration.
    pub(crate) fn command(&self, line: &[&str]) -> Command {
        let mut command = command(line, &[]);
        command.arg("--config").arg(self.path(CONFIG));
        command
    }

    pub(crate) fn run(&self, line: &[&str]) -> Ran {
        self.run_with(line, "")
    }

    /// With `input` on stdin.
    pub(crate) fn run_with(&self, line: &[&str], input: &str) -> Ran {
        Ran::of(&mut self.command(line), input)
    }

    /// What a command prints with `--json`.
    #[track_caller]
    pub(crate) fn json(&self, line: &[&str]) -> Value {
        let out = self.run(&[line, &["--json"]].concat()).fine();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// What `status` prints with `--json`; its exit code says the same.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        let ran = self.run(&["status", "--json"]);
        let status: Value = serde_json::from_str(&ran.out)
            .unwrap_or_else(|error| panic!("{error}: {}{}", ran.out, ran.talk));
        let said = |key: &str| status[key].as_bool().unwrap();
        let code = match (said("is_running"), said("is_healthy")) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 3,
        };
        assert_eq!(ran.code, Some(code), "{status}");
        status
    }

    /// Serves the configuration; waits until the index is up to the store, and commands are taken.
    pub(crate) async fn serve(&self) -> Program {
        let mut program = self.serve_by(&mut self.command(&["serve"])).await;
        program.takes_commands(&self.socket()).await;
        program
    }

    /// The same by a command with more to it, and wherever the control socket is.
    pub(crate) async fn serve_by(&self, command: &mut Command) -> Program {
        self.started("log", command).await
    }

    /// The first run in the directory `name`, or a later one, as in `serve`; the log is `NAME.log`. A later run listens where
    /// the first one did.
    pub(crate) async fn up(&self, name: &str, more: &[&str]) -> Program {
        let mut command = self.up_command(name, more);
        self.started(&format!("{name}.log"), &mut command).await
    }

    pub(crate) fn up_command(&self, name: &str, more: &[&str]) -> Command {
        let place = self.place(name);
        let mut line = vec!["up", "--dir", &place];
        if !self.path(name).join(CONFIG).exists() && !more.contains(&"--addr") {
            line.extend(["--addr", ANY_ADDRESS]);
        }
        line.extend(more);
        command(&line, &[("BOATHOUSE_ADMIN_PASSWORD", PASSWORD)])
    }

    async fn started(&self, log: &str, command: &mut Command) -> Program {
        let mut program = Program::start(&self.path(log), command);
        program.listens().await;
        program.says("the index is up to the store").await;
        program
    }

    /// What `up` serves from the directory `name`, with its authority trusted.
    pub(crate) fn target(&self, name: &str, address: SocketAddr) -> Target {
        let authority = fs::read(self.path(name).join("ca.crt")).expect("an authority");
        Target {
            address,
            host: address.to_string(),
            trust: Some(trust(&authority, None)),
        }
    }
}

/// An account as a configuration has it, at the lowest cost that bcrypt has.
pub(crate) fn account(name: &str, password: &str) -> String {
    let hash = bcrypt::hash(password, 4).unwrap();
    format!("{name}: {{password: '{hash}'}}")
}
