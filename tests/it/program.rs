//! The program as people start it: with arguments, an environment of its own, and its log in a file.
//!
//! The only place of these tests that starts it. [`crate::lab::Lab`] has the directory and the configuration.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::client::Client;
use crate::support::Call;

/// Longest wait for a line of the log, a first answer, or the end: a mistake must end the run, on a busy machine too.
const WAIT_TIME_MAX: Duration = Duration::from_mins(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// In which Linux counts processor time, on every machine.
const TICKS_PER_SECOND: u64 = 100;

/// The exit code of a server whose configuration has mistakes.
pub(crate) const MISCONFIGURED: i32 = 78;

/// A program that runs; killed when dropped.
pub(crate) struct Program {
    child: Child,
    /// `None` where a test reads the log itself.
    log: Option<PathBuf>,
    address: Option<SocketAddr>,
}

/// Memory of a program, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident: u64,
    /// The highest so far.
    pub(crate) peak: u64,
}

impl Program {
    /// Starts it with its stderr in the file `log`, and does not wait.
    pub(crate) fn start(log: &Path, command: &mut Command) -> Self {
        let mut program = Self::start_with(File::create(log).unwrap(), command);
        program.log = Some(log.to_owned());
        program
    }

    /// The same with its stderr anywhere.
    pub(crate) fn start_with(stderr: impl Into<Stdio>, command: &mut Command) -> Self {
        let command = command.stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            child,
            log: None,
            address: None,
        }
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        let log = self.log.as_ref().map(fs::read_to_string);
        log.transpose().unwrap().unwrap_or_default()
    }

    /// Waits until the log has a line with `text`, and gives it.
    pub(crate) async fn says(&mut self, text: &str) -> String {
        self.says_within(WAIT_TIME_MAX, text).await
    }

    pub(crate) async fn says_within(&mut self, wait_max: Duration, text: &str) -> String {
        let began = Instant::now();
        loop {
            let ended = self.ended();
            let log = self.log();
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(
                ended.is_none() && began.elapsed() < wait_max,
                "it does not say `{text}` ({ended:?}):\n{log}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until it listens: the address, as its log has it.
    pub(crate) async fn listens(&mut self) -> SocketAddr {
        let address = self.address_after("listening").await;
        self.address = Some(address);
        address
    }

    /// Waits until `docker_auth`'s own listener listens: the address, as its log has it.
    pub(crate) async fn listens_for_tokens(&mut self) -> SocketAddr {
        self.address_after("listening for token requests").await
    }

    /// The address in the first line of its log with `text`.
    async fn address_after(&mut self, text: &str) -> SocketAddr {
        let line = self.says(text).await;
        let (_, address) = line.split_once("address").expect("an address");
        let is_part = |letter: char| letter.is_ascii_hexdigit() || ".:[]".contains(letter);
        let address = address.trim_start_matches(['=', '"', ':']);
        let end = address.find(|letter| !is_part(letter));
        let address = &address[..end.unwrap_or(address.len())];
        let address = address.parse();
        address.unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("it was waited for until it listens")
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        Call::to(self.address(), method, path)
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    /// A token of an account for pushes to `team/app`, or the status that refuses it.
    pub(crate) async fn token(&self, account: &str, password: &str) -> Result<String, u16> {
        let path = "/token?service=boathouse&scope=repository:team/app:pull,push";
        let answer = self.get(path).basic(account, password).send().await;
        match answer.status {
            StatusCode::OK => Ok(answer.json()["token"].as_str().unwrap().to_owned()),
            refused => Err(refused.as_u16()),
        }
    }

    /// The status of a look with a token at an image of `team/app` that is not there: 404 where it is let in.
    pub(crate) async fn look(&self, token: &str) -> u16 {
        let call = self.get("/v2/team/app/manifests/v1").bearer(token);
        call.send().await.status.as_u16()
    }

    /// Waits until it answers a request; false if it ends first, because another program took the port, say.
    pub(crate) async fn answers(&mut self, address: SocketAddr) -> bool {
        let began = Instant::now();
        while self.ended().is_none() {
            if Client::plain(address).get("/v2/").await.is_ok() {
                return self.ended().is_none();
            }
            assert!(
                began.elapsed() < WAIT_TIME_MAX,
                "no answer:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        false
    }

    /// Waits until it takes commands at its control socket.
    pub(crate) async fn takes_commands(&mut self, socket: &Path) {
        let began = Instant::now();
        while UnixStream::connect(socket).is_err() {
            assert!(
                self.ended().is_none() && began.elapsed() < WAIT_TIME_MAX,
                "nothing listens at {}:\n{}",
                socket.display(),
                self.log()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until it has ended with an error, and gives its log; it must never listen.
    pub(crate) async fn refuses(self) -> String {
        self.refuses_with(1).await
    }

    /// The same with this exit code.
    pub(crate) async fn refuses_with(mut self, code: i32) -> String {
        let began = Instant::now();
        loop {
            let ended = self.ended();
            let log = self.log();
            assert!(!log.contains("listening"), "it serves:\n{log}");
            if let Some(status) = ended {
                assert_eq!(status.code(), Some(code), "{log}");
                return log;
            }
            assert!(began.elapsed() < WAIT_TIME_MAX, "it does not end:\n{log}");
            tokio::time::sleep(LOOK).await;
        }
    }

    fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).unwrap();
    }

    /// Lets it open files up to this descriptor; those that are open stay. Returns the limit before.
    #[cfg(target_os = "linux")]
    pub(crate) fn limit_descriptors(&self, limit: Option<u64>) -> Option<u64> {
        use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
        let maximum = getrlimit(Resource::Nofile).maximum;
        let new = Rlimit {
            current: limit,
            maximum,
        };
        prlimit(Some(self.id()), Resource::Nofile, new)
            .unwrap()
            .current
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Ends it in order, and gives its log.
    pub(crate) fn end(mut self) -> String {
        let status = self.terminate();
        let log = self.log();
        assert!(status.success(), "{status}:\n{log}");
        log
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            let is_late = began.elapsed() > WAIT_TIME_MAX;
            assert!(!is_late, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGKILL: nothing in it runs any more when this returns.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Where the system tells it.
    pub(crate) fn memory(&self) -> Option<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let bytes_of = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
            let kibibytes: Option<u64> = kibibytes.and_then(|number| number.parse().ok());
            kibibytes.unwrap_or_else(|| panic!("no {field} in {status}")) * 1024
        };
        Some(Memory {
            resident: bytes_of("VmRSS:"),
            peak: bytes_of("VmHWM:"),
        })
    }

    /// Processor time so far, on Linux.
    pub(crate) fn processor_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).expect(&path);
        // The fields behind the name in brackets; utime and stime are the 14th and 15th of all.
        let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
        let ticks = rest.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.map(|field| field.parse::<u64>().expect(&path)).sum();
        Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program with nothing of this process's environment, and no terminal.
pub(crate) fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = command_of(env!("CARGO_BIN_EXE_boathouse"));
    command.args(arguments).envs(environment.iter().copied());
    command
}

/// The same for another build of it, or another registry.
pub(crate) fn command_of(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null());
    command
}

/// How a command ended that has run to its end.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    /// stdout: data.
    pub(crate) out: String,
    /// stderr: everything else.
    pub(crate) talk: String,
}

/// Runs the program to its end with `input` on stdin.
pub(crate) fn ran(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Ran {
    Ran::of(&mut command(arguments, environment), input)
}

impl Ran {
    /// Runs `command` to its end with `input` on stdin.
    pub(crate) fn of(command: &mut Command, input: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that ends without reading its input is no failure of the test.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            talk: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It succeeded; gives stdout.
    #[track_caller]
    pub(crate) fn fine(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.talk);
        self.out
    }

    /// It failed; gives all that it printed.
    #[track_caller]
    pub(crate) fn failed(self) -> String {
        self.failed_with(1)
    }

    /// The same with this exit code.
    #[track_caller]
    pub(crate) fn failed_with(self, code: i32) -> String {
        let said = format!("{}{}", self.out, self.talk);
        assert_eq!(self.code, Some(code), "{said}");
        said
    }
}

/// An address whose port was free a moment ago, for a configuration that others must know before the program runs.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
