//! `boathouse trust` as people and scripts run it, on a disk below a directory.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::data::tree;
use crate::program::{Program, Ran, free_address, ran};
use crate::support::TestRegistry;

/// A registry that `up` serves, and the disk of a client.
pub(crate) struct Lab {
    pub(crate) directory: TempDir,
    pub(crate) address: SocketAddr,
    _server: Program,
}

pub(crate) const PASSWORD: &str = "a-password-for-tests";

impl Lab {
    /// Serves; the client has docker and skopeo.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = free_address();
        let home = directory.path().join("home");
        let arguments = [
            "up",
            "--dir",
            home.to_str().unwrap(),
            "--addr",
            &address.to_string(),
        ];
        let environment = [("BOATHOUSE_ADMIN_PASSWORD", PASSWORD)];
        let log = directory.path().join("log");
        let mut server = Program::start(&log, &arguments, &environment);
        server.says("listening").await;
        let lab = Self {
            directory,
            address,
            _server: server,
        };
        for program in ["docker", "skopeo"] {
            lab.put(&format!("usr/bin/{program}"), "");
        }
        lab
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// A file on the client's disk.
    pub(crate) fn put(&self, path: &str, text: &str) {
        let path = self.path("client").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// `localhost:PORT`
    pub(crate) fn registry(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// Runs the program as the client's user `ann`.
    pub(crate) fn client(&self, arguments: &[&str], input: &str) -> Ran {
        let root = self.path("client");
        let arguments = [arguments, &["--root", root.to_str().unwrap()]].concat();
        ran(&arguments, &[("HOME", "/home/ann")], input)
    }

    /// As `up` printed it.
    pub(crate) fn fingerprint(&self) -> String {
        let log = fs::read_to_string(self.path("log")).unwrap();
        let mut lines = log.lines().map(str::trim);
        lines
            .find(|line| line.len() == 95 && line.split(':').count() == 32)
            .unwrap()
            .to_owned()
    }

    /// What clients on the client's disk trust for the registry, by file.
    fn trusted(&self, registry: &str) -> Vec<(String, Vec<u8>)> {
        let files = tree(&self.path("client")).into_iter();
        files
            .filter(|(path, _)| path.ends_with(&format!("certs.d/{registry}/ca.crt")))
            .collect()
    }

    fn authority(&self) -> Vec<u8> {
        fs::read(self.path("home/ca.crt")).unwrap()
    }
}

fn containers_directory() -> &'static str {
    // What root does, it does for everybody.
    if rustix::process::geteuid().is_root() {
        "etc/containers/certs.d"
    } else {
        "home/ann/.config/containers/certs.d"
    }
}

#[tokio::test]
async fn on_the_registry_s_machine_it_prints_or_does_and_does_nothing_twice() {
    let lab = Lab::start().await;
    let home = lab.path("home");
    let here = ["trust", "--dir", home.to_str().unwrap()];
    let registry = lab.registry();
    let install = [&here[..], &["--install"]].concat();

    let printed = lab.client(&here, "");
    assert!(printed.talk.contains(&lab.fingerprint()));
    let printed = printed.fine();
    for label in ["docker  ", "podman, skopeo  ", "one program  "] {
        let line = printed.lines().find(|line| line.starts_with(label));
        let line = line.unwrap_or_else(|| panic!("no {label} in:\n{printed}"));
        assert!(
            line.contains(home.join("ca.crt").to_str().unwrap()),
            "{line}"
        );
    }
    assert!(
        !printed.contains("Debian") && !printed.contains("macOS"),
        "{printed}"
    );

    let refused = lab.client(&install, "y\n").failed();
    assert!(
        refused.contains("\nhint: --yes agrees beforehand"),
        "{refused}"
    );
    assert_eq!(lab.trusted(&registry), [], "nothing without consent");

    let yes = [&install[..], &["--yes"]].concat();
    let done = lab.client(&yes, "").fine();
    assert_eq!(
        done,
        "docker          trusts it now\npodman, skopeo  trusts it now\n"
    );
    let expected = [
        (
            format!("{}/{registry}/ca.crt", containers_directory()),
            lab.authority(),
        ),
        (
            format!("etc/docker/certs.d/{registry}/ca.crt"),
            lab.authority(),
        ),
    ];
    assert_eq!(lab.trusted(&registry), expected);

    // Where nothing is left to do, nobody need agree.
    let again = lab.client(&install, "").fine();
    assert_eq!(
        again,
        "docker          trusts it already\npodman, skopeo  trusts it already\n"
    );

    let other = "other.local:5443";
    let named = [&yes[..], &["--name", other, "--name", "10.0.0.5:5443"]].concat();
    lab.client(&named, "").fine();
    assert_eq!(lab.trusted(other).len(), 2);
    assert_eq!(lab.trusted("10.0.0.5:5443").len(), 2);
}

#[tokio::test]
async fn from_another_machine_the_fingerprint_decides() {
    let lab = Lab::start().await;
    let registry = lab.registry();
    let fingerprint = lab.fingerprint();
    let remote = ["trust", "--remote", &registry, "--install", "--yes"];

    let unasked = lab.client(&remote, "y\n").failed();
    assert!(unasked.contains(&fingerprint), "{unasked}");
    assert!(
        unasked
            .contains("hint: give the one that `boathouse up` printed there, with --fingerprint")
    );

    let digit = if fingerprint.starts_with('0') {
        "1"
    } else {
        "0"
    };
    let wrong = format!("{digit}{}", &fingerprint[1..]);
    let wrong = [&remote[..], &["--fingerprint", &wrong]].concat();
    let wrong = lab.client(&wrong, "").failed();
    assert!(wrong.contains("is not the one that is expected"), "{wrong}");
    let client = tree(&lab.path("client"));
    assert_eq!(
        client.len(),
        2,
        "nothing but the programs: {:?}",
        client.keys()
    );

    let lower = fingerprint.to_lowercase();
    let right = [&remote[..], &["--fingerprint", &lower]].concat();
    lab.client(&right, "").fine();
    let trusted = lab.trusted(&registry);
    assert_eq!(trusted.len(), 2);
    assert!(trusted.iter().all(|(_, pem)| *pem == lab.authority()));

    // The lines that are printed instead name a copy that is there.
    let print = [
        "trust",
        "--remote",
        &registry,
        "--fingerprint",
        &fingerprint,
    ];
    let printed = lab.client(&print, "").fine();
    let copy = printed.trim_end().rsplit('=').next().unwrap();
    assert_eq!(fs::read(copy).unwrap(), lab.authority(), "{printed}");
}

/// The registry answers in this process, while the program is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_cannot_be_had_is_told_with_a_hint() {
    let lab = Lab::start().await;
    let said = |registry: &str| {
        let arguments = [
            "trust",
            "--remote",
            registry,
            "--fingerprint",
            &lab.fingerprint(),
        ];
        lab.client(&arguments, "").failed()
    };
    // No look-up leaves the machine: this cannot be a name.
    let nowhere = said(&format!("{}:5443", "a".repeat(64)));
    assert!(
        nowhere.contains("is not known on this machine") && nowhere.contains("hint: "),
        "{nowhere}"
    );
    let closed = said(&free_address().to_string());
    assert!(
        closed.contains("cannot connect") && closed.contains("hint: "),
        "{closed}"
    );
    let plain = TestRegistry::open();
    let plain = said(&plain.address.to_string());
    assert!(
        plain.contains("does not speak https\n") && plain.contains("hint: "),
        "{plain}"
    );
}

/// An authority that may sign for anything: of an earlier hand-made installation, say.
#[tokio::test]
async fn an_authority_without_constraints_is_installed_only_on_demand() {
    let lab = Lab::start().await;
    let mut parameters = rcgen::CertificateParams::new([]).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let unlimited = parameters.self_signed(&key).unwrap().pem();
    let home = lab.path("home");
    let home = home.to_str().unwrap();
    let print = |lab: &Lab| lab.client(&["trust", "--dir", home], "");
    let limited = print(&lab);
    assert!(
        limited.talk.contains("It may sign for\n") && !limited.talk.contains("EVERY"),
        "{}",
        limited.talk
    );
    fs::write(lab.path("home/ca.crt"), unlimited).unwrap();
    let printed = print(&lab);
    assert!(
        printed.talk.contains("EVERY NAME; EVERY ADDRESS") && printed.talk.contains("warning: "),
        "{}",
        printed.talk
    );
    printed.fine();
    for more in [&[][..], &["--yes"]] {
        let arguments = [&["trust", "--dir", home, "--install"], more].concat();
        let said = lab.client(&arguments, "y\ny\n").failed();
        assert!(
            said.contains("can stand in for any site") && said.contains("--unlimited-authority"),
            "{said}"
        );
        assert_eq!(lab.trusted(&lab.registry()), []);
    }
    let all = [
        "trust",
        "--dir",
        home,
        "--install",
        "--yes",
        "--unlimited-authority",
    ];
    lab.client(&all, "");
    assert!(!lab.trusted(&lab.registry()).is_empty());
}

/// `serve` with a certificate that somebody else signed: there is nothing to trust here.
#[tokio::test]
async fn a_registry_without_an_authority_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(path("tls.crt"), own.cert.pem()).unwrap();
    fs::write(path("tls.key"), own.signing_key.serialize_pem()).unwrap();
    let address = free_address();
    let text = format!(
        "storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}', tls: {{certificate: {}, key: {}}}}}\n",
        path("data").display(),
        path("tls.crt").display(),
        path("tls.key").display()
    );
    fs::write(path("config.yml"), text).unwrap();
    let config = path("config.yml");
    let config = ["--config", config.to_str().unwrap()];
    let mut server = Program::start(&path("log"), &[&["serve"], &config[..]].concat(), &[]);
    server.says("listening").await;
    let run = |arguments: &[&str]| ran(arguments, &[("HOME", home(directory.path()))], "").failed();
    let here = run(&[&["trust"], &config[..]].concat());
    assert!(
        here.contains("no authority of its own") && here.contains("hint: "),
        "{here}"
    );
    let there = run(&["trust", "--remote", &address.to_string()]);
    assert!(
        there.contains("no authority of its own") && there.contains("boathouse doctor"),
        "{there}"
    );
}

fn home(directory: &Path) -> &str {
    directory.to_str().unwrap()
}
