//! A registry as people run it: `boathouse up` in a process of its own, which can be killed and measured.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::lab::trust;
use super::wire::Site;

const PASSWORD: &str = "a-password-for-tests";

/// How long a start may take: the first one makes keys and an authority.
const PATIENCE: Duration = Duration::from_secs(30);

/// Far more than eight uploads at once hold in their buffers, and far less than a segment each.
const MEMORY_MAX_MIB: u64 = 256;

pub(super) struct Process {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Process {
    pub(super) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let child = spawn(directory.path(), address);
        let mut process = Self {
            child,
            address,
            directory,
        };
        process.listens().await;
        process
    }

    /// SIGKILL: nothing in it gets to run any more. Then it is started again where it was.
    pub(super) async fn kill_and_start(&mut self) {
        self.end();
        self.child = spawn(self.directory.path(), self.address);
        self.listens().await;
    }

    pub(super) fn site(&self) -> Site {
        let authority = fs::read(self.directory.path().join("ca.crt")).expect("an authority");
        Site {
            address: self.address,
            trust: trust(&authority, None),
            user: "admin",
            password: PASSWORD,
        }
    }

    /// No body is ever in memory as a whole: what it has had at most does not grow with what was pushed.
    pub(super) fn check_memory(&self) {
        let Some(peak_mib) = self.peak_memory_mib() else {
            println!("this system does not tell how much memory a process has had");
            return;
        };
        println!("the server's memory at its peak: {peak_mib} MiB");
        assert!(peak_mib < MEMORY_MAX_MIB, "{peak_mib} MiB");
    }

    /// The most memory that it has had, where the system tells.
    fn peak_memory_mib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("KiB");
        Some(kib / 1024)
    }

    async fn listens(&mut self) {
        let began = tokio::time::Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.try_wait().expect("its own child");
            if ended.is_some() || began.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.directory.path().join("log"));
                panic!("it does not start: {ended:?}\n{}", log.unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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

fn spawn(directory: &Path, address: SocketAddr) -> Child {
    let log = File::create(directory.join("log")).expect("a log");
    Command::new(env!("CARGO_BIN_EXE_boathouse"))
        .env("REGISTRY_HTTP_HTTP2_DISABLED", "false")
        .args(["up", "--addr", &address.to_string(), "--dir"])
        .arg(directory)
        .env("BOATHOUSE_ADMIN_PASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("it runs")
}
