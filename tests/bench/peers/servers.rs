//! The servers under measurement: how each is started over an empty directory, and what it takes of the machine.
//!
//! Must not know what is measured. Invariant: each promises what it promises as it comes; ours with every sync.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};

use crate::connection::{Connection, Target};

/// In which Linux tells processor time to programs, on every machine.
const TICKS_PER_SECOND: f64 = 100.0;
/// Longest wait for the first answer.
const START_TIME_MAX: Duration = Duration::from_mins(1);
/// Longest wait for the end.
const END_TIME_MAX: Duration = Duration::from_secs(20);

/// What a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours.
    Boathouse,
    /// Another registry, with the configuration that we understand as well.
    Distribution,
    /// A web server that stores what it is sent and checks nothing.
    Nginx,
}

/// One of those under measurement.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    /// Whether it is what the others are compared with.
    pub(crate) is_ours: bool,
    /// Where its data are, if not in a directory.
    pub(crate) bucket: Option<Bucket>,
}

/// A bucket on a server that is there already.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    /// `http://HOST:PORT`
    pub(crate) endpoint: String,
    pub(crate) name: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
}

/// How it is started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mode {
    pub(crate) tls: bool,
    pub(crate) auth: bool,
    /// How long a token of ours lives, if not as long as by default.
    pub(crate) token_secs: Option<u32>,
    /// Where it listens, if not at a free port of loopback.
    pub(crate) address: Option<SocketAddr>,
}

/// The account of a run with authentication: "bench" and "bench", at the lowest cost, since one bcrypt is no work.
pub(crate) const ACCOUNT: (&str, &str) = ("bench", "bench");

/// For which its tokens are.
pub(crate) const SERVICE: &str = "bench";

/// A server that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) target: Target,
    /// From the start of the process to the first answer.
    pub(crate) first_answer: Duration,
}

/// `NAME=KIND=PROGRAM`
impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, '=');
        let (Some(name), Some(kind), Some(program)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("{text} is not NAME=KIND=PROGRAM"));
        };
        let kind = match kind {
            "boathouse" => Kind::Boathouse,
            "distribution" => Kind::Distribution,
            "nginx" => Kind::Nginx,
            other => return Err(format!("no kind of server {other}")),
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
            program: program.into(),
            is_ours: kind == Kind::Boathouse,
            bucket: None,
        })
    }
}

impl Server {
    /// Starts it over `<lab>/data`, which is made if it is not there, and waits for its first answer.
    pub(crate) async fn start(&self, lab: &Path, mode: Mode) -> io::Result<Running> {
        fs::create_dir_all(lab.join("data"))?;
        let address = match mode.address {
            Some(address) => address,
            None => TcpListener::bind("127.0.0.1:0")?.local_addr()?,
        };
        let tls = mode.tls.then(|| certificate(lab)).transpose()?;
        let config = lab.join("config");
        fs::write(&config, self.config(lab, address, mode))?;
        let mut command = Command::new(&self.program);
        match self.kind {
            Kind::Boathouse => command.args(["serve", "--config"]).arg(&config),
            Kind::Distribution => command.arg("serve").arg(&config),
            Kind::Nginx => command.arg("-c").arg(&config).arg("-p").arg(lab),
        };
        let log = File::create(lab.join("log"))?;
        let began = Instant::now();
        let child = command
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let target = Target {
            address,
            tls,
            headers: String::new(),
        };
        let mut running = Running {
            child,
            target,
            first_answer: Duration::ZERO,
        };
        while running.asked().await.is_err() {
            if began.elapsed() > START_TIME_MAX || running.child.try_wait()?.is_some() {
                let log = fs::read_to_string(lab.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!(
                    "{} does not start:\n{log}",
                    self.name
                )));
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        running.first_answer = began.elapsed();
        Ok(running)
    }

    fn config(&self, lab: &Path, address: SocketAddr, mode: Mode) -> String {
        let lab = lab.display();
        if self.kind == Kind::Nginx {
            let (ssl, files) = if mode.tls {
                let files =
                    format!("ssl_certificate {lab}/cert.pem; ssl_certificate_key {lab}/key.pem;");
                (" ssl", files)
            } else {
                ("", String::new())
            };
            return format!(
                "daemon off; user root; worker_processes auto; pid {lab}/pid; error_log {lab}/error.log;\n\
                 events {{ worker_connections 1024; }}\n\
                 http {{ access_log {lab}/access.log; sendfile on; tcp_nopush on; client_max_body_size 0;\n\
                 keepalive_requests 1000000; client_body_temp_path {lab}/data/body;\n\
                 server {{ listen {address}{ssl}; {files} root {lab}/data;\n\
                 location / {{ dav_methods PUT; create_full_put_path on; }} }} }}\n"
            );
        }
        let storage = match &self.bucket {
            None => format!("filesystem: {{rootdirectory: {lab}/data}}"),
            Some(Bucket {
                endpoint,
                name,
                access_key,
                secret_key,
            }) => format!(
                "s3: {{accesskey: {access_key}, secretkey: {secret_key}, region: us-east-1, regionendpoint: \"{endpoint}\", \
                 bucket: {name}, secure: false, v4auth: true, forcepathstyle: true}}\n  redirect: {{disable: true}}"
            ),
        };
        let mut text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  cache: {{blobdescriptor: inmemory}}\n  \
             {storage}\n  delete: {{enabled: true}}\n  \
             maintenance: {{uploadpurging: {{enabled: false}}}}\nhttp:\n  addr: {address}\n"
        );
        if self.kind == Kind::Boathouse && self.bucket.is_some() {
            text = format!("state_directory: {lab}/data\n{text}");
        }
        if mode.tls {
            text += &format!("  tls: {{certificate: {lab}/cert.pem, key: {lab}/key.pem}}\n");
        }
        if mode.auth {
            let (account, password) = ACCOUNT;
            // Such a program need not be secret; the cost is the lowest that there is. Always the same hash: with another one
            // after a restart, tokens and upload sessions of before would count for nothing.
            let hash = bcrypt::hash_with_salt(password, 4, [0; 16]);
            let hash = hash.map(|hash| hash.to_string()).unwrap_or_default();
            text += &format!(
                "users:\n  {account}: {{password: \"{hash}\"}}\nacl:\n  - {{match: {{account: {account}}}, actions: [\"*\"]}}\nauth: {{token: {{service: {SERVICE}}}}}\n"
            );
            if let Some(secs) = mode.token_secs {
                text += &format!("token: {{expiration: {secs}}}\n");
            }
        }
        text
    }
}

impl Running {
    async fn asked(&self) -> io::Result<()> {
        Connection::open(&self.target)
            .await?
            .call("GET", "/v2/", "", &[])
            .await
            .map(drop)
    }

    /// Processor time of it and the processes below it, since they began.
    pub(crate) fn cpu_secs(&self) -> f64 {
        let ticks = |pid: u32| -> Option<f64> {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name in parentheses may hold anything.
            let (_, fields) = text.rsplit_once(')')?;
            let fields: Vec<&str> = fields.split_whitespace().collect();
            let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
            Some(number(11)? + number(12)?)
        };
        let all: f64 = self.processes().into_iter().filter_map(ticks).sum();
        all / TICKS_PER_SECOND
    }

    /// Resident memory now, and the most that was; of it and the processes below it.
    pub(crate) fn memory_mib(&self) -> (f64, f64) {
        let of = |pid: u32, field: &str| -> f64 {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(field));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.unwrap_or(0.0) / 1024.0
        };
        let sum = |field: &str| self.processes().into_iter().map(|pid| of(pid, field)).sum();
        (sum("VmRSS:"), sum("VmHWM:"))
    }

    fn processes(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        std::iter::once(pid).chain(children).collect()
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let began = Instant::now();
        while self.child.try_wait()?.is_none() && began.elapsed() < END_TIME_MAX {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate for loopback in `<lab>`, and what a client trusts it by.
fn certificate(lab: &Path) -> io::Result<Arc<ClientConfig>> {
    let key = rcgen::KeyPair::generate().map_err(io::Error::other)?;
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]);
    let certificate = params
        .and_then(|params| params.self_signed(&key))
        .map_err(io::Error::other)?;
    fs::write(lab.join("cert.pem"), certificate.pem())?;
    fs::write(lab.join("key.pem"), key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots
        .add(certificate.der().clone())
        .map_err(io::Error::other)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
