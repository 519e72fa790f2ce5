//! `boathouse trust` as people and scripts run it, on a disk below a directory.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::data::tree;
use crate::lab::{Lab, PASSWORD};
use crate::program::{Program, Ran, free_address, ran};
use crate::support::TestRegistry;

/// A registry that `up` serves from `home`, and the disk of a client.
pub(crate) struct Served {
    pub(crate) lab: Lab,
    server: Program,
}

impl Served {
    /// The client has docker and skopeo.
    pub(crate) async fn start() -> Self {
        let lab = Lab::empty();
        let mut server = lab.up("home", &[]).await;
        server.says("Boathouse serves").await;
        for program in ["docker", "skopeo"] {
            lab.write(&format!("client/usr/bin/{program}"), "");
        }
        Self { lab, server }
    }

    /// `localhost:PORT`
    pub(crate) fn registry(&self) -> String {
        format!("localhost:{}", self.server.address().port())
    }

    /// Runs the program as the client's user `ann`.
    pub(crate) fn client(&self, arguments: &[&str], input: &str) -> Ran {
        let root = self.lab.place("client");
        let arguments = [arguments, &["--root", &root]].concat();
        ran(&arguments, &[("HOME", "/home/ann")], input)
    }

    /// As `up` printed it.
    pub(crate) fn fingerprint(&self) -> String {
        let log = self.lab.read("home.log");
        let mut lines = log.lines().map(str::trim);
        lines
            .find(|line| line.len() == 95 && line.split(':').count() == 32)
            .unwrap()
            .to_owned()
    }

    /// What clients on the client's disk trust for the registry, by file.
    fn trusted(&self, registry: &str) -> Vec<(String, Vec<u8>)> {
        let files = tree(&self.lab.path("client")).into_iter();
        files
            .filter(|(path, _)| path.ends_with(&format!("certs.d/{registry}/ca.crt")))
            .collect()
    }

    fn authority(&self) -> Vec<u8> {
        fs::read(self.lab.path("home/ca.crt")).unwrap()
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
    let served = Served::start().await;
    let home = served.lab.place("home");
    let here = ["trust", "--dir", &home];
    let registry = served.registry();
    let install = [&here[..], &["--install"]].concat();

    let printed = served.client(&here, "");
    assert!(printed.talk.contains(&served.fingerprint()));
    let printed = printed.fine();
    for label in ["docker  ", "podman, skopeo  ", "one program  "] {
        let line = printed.lines().find(|line| line.starts_with(label));
        let line = line.unwrap_or_else(|| panic!("no {label} in:\n{printed}"));
        assert!(line.contains(&format!("{home}/ca.crt")), "{line}");
    }
    assert!(
        !printed.contains("Debian") && !printed.contains("macOS"),
        "{printed}"
    );

    let refused = served.client(&install, "y\n").failed();
    assert!(
        refused.contains("\nhint: pass --yes to change this machine"),
        "{refused}"
    );
    assert_eq!(served.trusted(&registry), [], "nothing without consent");

    let yes = [&install[..], &["--yes"]].concat();
    let done = served.client(&yes, "").fine();
    assert_eq!(
        done,
        "docker          trusts it now\npodman, skopeo  trusts it now\n"
    );
    let mut expected = [
        (
            format!("{}/{registry}/ca.crt", containers_directory()),
            served.authority(),
        ),
        (
            format!("etc/docker/certs.d/{registry}/ca.crt"),
            served.authority(),
        ),
    ];
    // By path: which is first depends on whose containers they are.
    expected.sort();
    assert_eq!(served.trusted(&registry), expected);

    // Where nothing is left to do, nobody need agree.
    let again = served.client(&install, "").fine();
    assert_eq!(
        again,
        "docker          trusts it already\npodman, skopeo  trusts it already\n"
    );

    // Every name and address of the certificate, however clients call it.
    let (_, port) = registry.rsplit_once(':').unwrap();
    for name in ["127.0.0.1", "[::1]"] {
        assert_eq!(served.trusted(&format!("{name}:{port}")).len(), 2, "{name}");
    }

    let other = "other.local:5443";
    let named = [&yes[..], &["--name", other, "--name", "10.0.0.5:5443"]].concat();
    served.client(&named, "").fine();
    assert_eq!(served.trusted(other).len(), 2);
    assert_eq!(served.trusted("10.0.0.5:5443").len(), 2);

    let remove = [&here[..], &["--remove"]].concat();
    let refused = served.client(&remove, "y\n").failed();
    assert!(refused.contains("hint: pass --yes"), "{refused}");
    assert_eq!(
        served.trusted(&registry).len(),
        2,
        "nothing without consent"
    );
    served
        .client(&[&remove[..], &["--yes"]].concat(), "")
        .fine();
    let client = tree(&served.lab.path("client"));
    let left: Vec<&String> = client
        .keys()
        .filter(|path| path.contains("ca.crt"))
        .collect();
    assert_eq!(left, [""; 0]);
}

#[tokio::test]
async fn from_another_machine_the_fingerprint_decides() {
    let served = Served::start().await;
    let registry = served.registry();
    let fingerprint = served.fingerprint();
    let remote = ["trust", "--remote", &registry, "--install", "--yes"];

    let unasked = served.client(&remote, "y\n").failed();
    assert!(unasked.contains(&fingerprint), "{unasked}");
    assert!(
        unasked.contains("hint: pass the one that `boathouse up` printed there with --fingerprint")
    );

    let digit = if fingerprint.starts_with('0') {
        "1"
    } else {
        "0"
    };
    let wrong = format!("{digit}{}", &fingerprint[1..]);
    let wrong = [&remote[..], &["--fingerprint", &wrong]].concat();
    let wrong = served.client(&wrong, "").failed();
    assert!(wrong.contains("is not the one that is expected"), "{wrong}");
    let client = tree(&served.lab.path("client"));
    assert_eq!(
        client.len(),
        2,
        "nothing but the programs: {:?}",
        client.keys()
    );

    let lower = fingerprint.to_lowercase();
    let right = [&remote[..], &["--fingerprint", &lower]].concat();
    served.client(&right, "").fine();
    let trusted = served.trusted(&registry);
    assert_eq!(trusted.len(), 2);
    assert!(trusted.iter().all(|(_, pem)| *pem == served.authority()));
    let (_, port) = registry.rsplit_once(':').unwrap();
    let here = served.trusted(&format!("127.0.0.1:{port}"));
    assert_eq!(here, [], "loopback is another machine there");

    // The lines that are printed instead name a copy that is there.
    let print = [
        "trust",
        "--remote",
        &registry,
        "--fingerprint",
        &fingerprint,
    ];
    let printed = served.client(&print, "").fine();
    let copy = printed.trim_end().rsplit('=').next().unwrap();
    assert_eq!(fs::read(copy).unwrap(), served.authority(), "{printed}");

    let taking_back = ["trust", "--remote", &registry, "--remove", "--yes"];
    served.client(&taking_back, "").fine();
    assert_eq!(served.trusted(&registry), []);
    assert!(!std::path::Path::new(copy).exists());
    let again = served.client(&taking_back, "").failed();
    assert!(again.contains("has not trusted"), "{again}");
}

/// The registry answers in this process, while the program is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_cannot_be_had_is_told_with_a_hint() {
    let served = Served::start().await;
    let said = |registry: &str| {
        let arguments = [
            "trust",
            "--remote",
            registry,
            "--fingerprint",
            &served.fingerprint(),
        ];
        served.client(&arguments, "").failed()
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
    let served = Served::start().await;
    let mut parameters = rcgen::CertificateParams::new([]).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let unlimited = parameters.self_signed(&key).unwrap().pem();
    let home = &*served.lab.place("home");
    let print = || served.client(&["trust", "--dir", home], "");
    let limited = print();
    assert!(
        limited.talk.contains("It may sign for\n") && !limited.talk.contains("EVERY"),
        "{}",
        limited.talk
    );
    served.lab.write("home/ca.crt", unlimited);
    let printed = print();
    assert!(
        printed.talk.contains("EVERY NAME; EVERY ADDRESS") && printed.talk.contains("warning: "),
        "{}",
        printed.talk
    );
    printed.fine();
    for more in [&[][..], &["--yes"]] {
        let arguments = [&["trust", "--dir", home, "--install"], more].concat();
        let said = served.client(&arguments, "y\ny\n").failed();
        assert!(
            said.contains("can impersonate any site") && said.contains("--unlimited-authority"),
            "{said}"
        );
        assert_eq!(served.trusted(&served.registry()), []);
    }
    let all = [
        "trust",
        "--dir",
        home,
        "--install",
        "--yes",
        "--unlimited-authority",
    ];
    served.client(&all, "");
    assert!(!served.trusted(&served.registry()).is_empty());
}

/// `serve` with a certificate that somebody else signed: there is nothing to trust here.
#[tokio::test]
async fn a_registry_without_an_authority_says_so() {
    let lab = Lab::configured(
        "storage: {filesystem: {rootdirectory: DIR/data}}\n\
         http: {addr: 'ADDRESS', tls: {certificate: DIR/tls.crt, key: DIR/tls.key}}\n",
    );
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    lab.write("tls.crt", own.cert.pem());
    lab.write("tls.key", own.signing_key.serialize_pem());
    let server = lab.serve().await;
    let here = lab.run(&["trust"]).failed();
    assert!(
        here.contains("no authority of its own") && here.contains("self-signed\nhint: "),
        "{here}"
    );
    let remote = ["trust", "--remote", &server.address().to_string()];
    let there = ran(&remote, &[("HOME", &lab.place(""))], "").failed();
    assert!(
        there.contains("no authority of its own") && there.contains("self-signed"),
        "{there}"
    );
}

/// The first push of a new user, who has the registry and nothing else.
#[tokio::test]
async fn a_sample_is_pushed_without_any_other_program() {
    let served = Served::start().await;
    let home = served.lab.place("home");
    let here = ["push-sample", "--dir", &home];
    let unknown = served.client(&here, "").failed();
    assert!(
        unknown.contains("--username NAME --password-stdin"),
        "{unknown}"
    );
    served
        .lab
        .write("home/admin-password", format!("{PASSWORD}\n"));
    let pushed = served.client(&here, "");
    assert!(pushed.talk.contains("/hello:1; "), "{}", pushed.talk);
    let registry = served.registry();
    assert_eq!(pushed.fine(), format!("docker pull {registry}/hello:1\n"));

    // A login that a client keeps under another name of the registry.
    let other = registry.replace("localhost", "127.0.0.1");
    let login = STANDARD.encode(format!("admin:{PASSWORD}"));
    let kept = format!("{{\"auths\":{{\"{other}\":{{\"auth\":\"{login}\"}}}}}}");
    fs::remove_file(served.lab.path("home/admin-password")).unwrap();
    let directory = served.lab.path("client/home/ann/.config/containers");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("auth.json"), kept).unwrap();
    served.client(&here, "").fine();

    // From another machine, by what it trusts.
    let there = [
        "push-sample",
        &registry,
        "--image",
        "team/hello:2",
        "--username",
        "admin",
        "--password-stdin",
    ];
    let untrusted = served.client(&there, PASSWORD).failed();
    assert!(
        untrusted.contains(&format!(
            "hint: boathouse trust --remote {registry} --install"
        )),
        "{untrusted}"
    );
    let trust = ["trust", "--dir", &home, "--install", "--yes"];
    served.client(&trust, "").fine();
    let pushed = served.client(&there, PASSWORD).fine();
    assert_eq!(pushed, format!("docker pull {registry}/team/hello:2\n"));
    let links = tree(&served.lab.path("home/data/docker")).into_keys();
    let tags: Vec<String> = links
        .filter(|path| path.ends_with("/current/link"))
        .collect();
    assert_eq!(tags.len(), 2, "{tags:?}");
}

#[tokio::test]
async fn the_welcome_is_shown_again_without_the_password() {
    let served = Served::start().await;
    let home = served.lab.place("home");
    let shown = ran(&["welcome", "--dir", &home], &[], "").fine();
    let registry = served.registry();
    for said in [
        format!("Boathouse serves https://{registry}\n"),
        served.fingerprint(),
    ] {
        assert!(shown.contains(&said), "{said}{shown}");
    }
    assert!(
        !shown.contains(PASSWORD) && !shown.contains('\u{1b}'),
        "{shown}"
    );
}
