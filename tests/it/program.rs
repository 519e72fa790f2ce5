//! The program itself, as people start it: with arguments, an environment of its own, and its words in a file.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// One that goes on running; killed when dropped.
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it; what it says on stderr goes into the file `log`.
    pub(crate) fn start(log: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_by(log, &mut command(arguments, environment))
    }

    /// The same for a command that has more to it, such as a working directory.
    pub(crate) fn start_by(log: &Path, command: &mut Command) -> Self {
        let file = File::create(log).unwrap();
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// All that it has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has said `text`.
    pub(crate) async fn says(&mut self, text: &str) {
        for _ in 0..4_000 {
            if self.log().contains(text) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not say `{text}`:\n{}", self.log());
    }

    /// Waits until it has ended with an error, and gives all that it has said; it must never listen.
    pub(crate) async fn refuses(mut self) -> String {
        for _ in 0..4_000 {
            let log = self.log();
            assert!(!log.contains("listening"), "it serves:\n{log}");
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(1), "{log}");
                return self.log();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not end:\n{}", self.log());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Ends it in order, and gives all that it has said.
    pub(crate) fn end(mut self) -> String {
        self.signal(Signal::TERM);
        self.child.wait().unwrap();
        self.log()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program with nothing of this process's environment and nobody at the keyboard.
pub(crate) fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_boathouse"));
    command
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .envs(environment.iter().copied())
        .stdin(Stdio::null());
    command
}

/// One that runs to its end: what it said, and how it ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    /// Data.
    pub(crate) out: String,
    /// Talk.
    pub(crate) talk: String,
}

/// Runs the program to its end with `input` on stdin.
pub(crate) fn ran(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Ran {
    let mut child = command(arguments, environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that ends without reading is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        talk: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ran {
    /// It went well; gives what it said as data.
    #[track_caller]
    pub(crate) fn fine(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.talk);
        self.out
    }

    /// It failed; gives all that it said.
    #[track_caller]
    pub(crate) fn failed(self) -> String {
        let said = format!("{}{}", self.out, self.talk);
        assert_eq!(self.code, Some(1), "{said}");
        said
    }
}

/// An address whose port was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
