//! The server as a process of its own, which can be killed.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use super::client::Client;

/// A registry over `<lab>/data`, configured by `<lab>/registry.yml`; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

/// What is started: the program under test, or another registry that understands the same configuration.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// What stands before the name of the configuration.
    arguments: &'static [&'static str],
    pub(crate) log_level: &'static str,
}

impl Program {
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
}

impl Process {
    /// Starts it over `<directory>/data`, and waits until it answers.
    pub(crate) async fn start(program: &Program, directory: &Path) -> Self {
        // The free port may be taken by somebody else in the meantime: then the next one.
        for _ in 0..5 {
            if let Some(process) = Self::try_start(program, directory).await {
                return process;
            }
        }
        let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
        panic!("{} does not start:\n{log}", program.path.display());
    }

    /// Starts it, and kills it while it opens the data, or soon after.
    pub(super) async fn start_and_kill(program: &Program, directory: &Path, after: Duration) {
        let process = Self::spawn(program, directory);
        tokio::time::sleep(after).await;
        process.kill();
    }

    /// Starts it, and does not wait for anything.
    pub(crate) fn spawn(program: &Program, directory: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let config = directory.join("registry.yml");
        let data = directory.join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: {}\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
             http:\n  addr: {address}\n",
            program.log_level,
            data.display()
        );
        fs::write(&config, text).expect("a configuration");
        let log = File::create(directory.join("log")).expect("a log");
        let child = Command::new(&program.path)
            .args(program.arguments)
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.path.display()));
        Self { child, address }
    }

    async fn try_start(program: &Program, directory: &Path) -> Option<Self> {
        let mut process = Self::spawn(program, directory);
        let address = process.address;
        for _ in 0..4_000 {
            if let Ok(answer) = Client::of(address).get("/v2/").await {
                return (answer.status == 200).then_some(process);
            }
            if process.ended().is_some() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// What `boathouse rebuild --check` says of the index of the running server: nothing, or its differences from the store,
    /// which is read for it anew.
    pub(crate) fn index_differences(program: &Program, directory: &Path) -> Option<String> {
        let output = Self::rebuild(program, directory, "--check");
        let told = [output.stdout, output.stderr].concat();
        let is_same = output.status.success();
        (!is_same).then(|| String::from_utf8_lossy(&told).into_owned())
    }

    /// `boathouse rebuild` of the running server.
    pub(crate) fn rebuild(program: &Program, directory: &Path, option: &str) -> Output {
        Command::new(&program.path)
            .args(["rebuild", option, "--config"])
            .arg(directory.join("registry.yml"))
            .output()
            .expect("the program runs")
    }

    /// SIGKILL: nothing in the process gets to run any more.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its own child")
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
