//! A registry that can be killed, over a directory that outlives it: ours, or another one that understands the same
//! configuration.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::client::Client;
use crate::program::{self, Program, Ran, free_address};

/// What is started.
#[derive(Debug, Clone)]
pub(crate) struct Executable {
    pub(crate) path: PathBuf,
    /// Before the name of the configuration.
    arguments: &'static [&'static str],
    pub(crate) log_level: &'static str,
}

/// A registry over `<lab>/data`, configured by `<lab>/registry.yml`.
pub(crate) struct Process {
    pub(crate) program: Program,
    pub(crate) address: SocketAddr,
}

impl Executable {
    /// The one built with these tests, or the one that `BOATHOUSE` names.
    pub(crate) fn boathouse() -> Self {
        let built = || env!("CARGO_BIN_EXE_boathouse").into();
        Self {
            path: std::env::var_os("BOATHOUSE").map_or_else(built, PathBuf::from),
            arguments: &["serve", "--config"],
            log_level: "warn",
        }
    }

    pub(crate) fn docker_registry(path: PathBuf) -> Self {
        Self {
            path,
            arguments: &["serve"],
            log_level: "warn",
        }
    }

    /// A command line of it that ends in the name of the configuration.
    pub(crate) fn command(&self, arguments: &[&str], lab: &Path) -> Command {
        let mut command = program::command_of(&self.path);
        command.args(arguments).arg(lab.join("registry.yml"));
        command
    }

    /// `boathouse rebuild` with an option, of the running server.
    pub(crate) fn rebuild(&self, lab: &Path, option: &str) -> Ran {
        Ran::of(&mut self.command(&["rebuild", option, "--config"], lab), "")
    }

    /// How the index of the running server differs from the store, if it does.
    pub(crate) fn index_differences(&self, lab: &Path) -> Option<String> {
        let check = self.rebuild(lab, "--check");
        (check.code != Some(0)).then_some(check.out + &check.talk)
    }
}

impl Process {
    /// Starts it, and waits until it answers.
    pub(crate) async fn start(executable: &Executable, lab: &Path) -> Self {
        // Another program may take the free port first: then the next one.
        for _ in 0..5 {
            let mut process = Self::spawn(executable, lab);
            if process.program.answers(process.address).await {
                return process;
            }
        }
        let log = fs::read_to_string(lab.join("log")).unwrap_or_default();
        panic!("{} does not start:\n{log}", executable.path.display());
    }

    /// Starts it, and kills it while it opens the data, or soon after.
    pub(super) async fn start_and_kill(executable: &Executable, lab: &Path, after: Duration) {
        let process = Self::spawn(executable, lab);
        tokio::time::sleep(after).await;
        process.kill();
    }

    /// Starts it, and does not wait.
    pub(crate) fn spawn(executable: &Executable, lab: &Path) -> Self {
        let address = free_address();
        let text = format!(
            "version: 0.1\nlog:\n  level: {}\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
             http:\n  addr: {address}\n",
            executable.log_level,
            lab.join("data").display()
        );
        fs::write(lab.join("registry.yml"), text).expect("a configuration");
        fs::create_dir_all(lab.join("data")).expect("a directory for the data");
        let mut command = executable.command(executable.arguments, lab);
        let program = Program::start(&lab.join("log"), &mut command);
        Self { program, address }
    }

    pub(crate) fn client(&self) -> Client {
        Client::plain(self.address)
    }

    pub(crate) fn kill(mut self) {
        self.program.kill();
    }
}
