//! Certificates that people make by hand: those that no client takes are refused by `check`, and self-signed ones are served.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;

use crate::program::{Program, Ran, free_address, ran};

/// Made by `openssl x509 -req` without a file of extensions.
const VERSION_1: (&str, &str) = (
    include_str!("../certificates/version-1.pem"),
    include_str!("../certificates/version-1.key"),
);

struct Lab {
    directory: TempDir,
    address: SocketAddr,
}

impl Lab {
    fn new(certificate: &str, key: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = free_address();
        let lab = Self { directory, address };
        fs::write(lab.path("cert.pem"), certificate).unwrap();
        fs::write(lab.path("key.pem"), key).unwrap();
        let place = lab.directory.path().display();
        let text = format!(
            "storage: {{filesystem: {{rootdirectory: {place}/data}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: '{address}'\n  tls:\n    certificate: {place}/cert.pem\n    key: {place}/key.pem\n"
        );
        fs::write(lab.path("c.yml"), text).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, command: &str) -> Ran {
        ran(
            &[command, "--config", self.path("c.yml").to_str().unwrap()],
            &[],
            "",
        )
    }
}

/// As `openssl req -x509` makes it.
fn self_signed() -> (String, String) {
    let mut parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn a_certificate_of_version_1_is_refused_by_check_and_serve_alike() {
    let lab = Lab::new(VERSION_1.0, VERSION_1.1);
    for command in ["check", "serve"] {
        let said = lab.run(command).failed();
        let certificate = lab.path("cert.pem");
        for part in [
            "c.yml:5: http.tls.certificate: ",
            certificate.to_str().unwrap(),
            "X.509 version 1",
            "\nhint: ",
        ] {
            assert!(said.contains(part), "{command}: {part}\n{said}");
        }
    }
}

#[test]
fn a_certificate_without_a_name_is_warned_of() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([]).unwrap().self_signed(&key);
    let lab = Lab::new(&certificate.unwrap().pem(), &key.serialize_pem());
    let checked = lab.run("check");
    assert!(
        checked.talk.contains("no subjectAltName"),
        "{}",
        checked.talk
    );
    checked.fine();
}

#[tokio::test]
async fn a_self_signed_certificate_is_served_and_doctor_says_who_takes_it() {
    let (certificate, key) = self_signed();
    let lab = Lab::new(&certificate, &key);
    let checked = lab.run("check");
    assert!(
        checked.talk.contains("self-signed") && checked.talk.contains("rustls"),
        "{}",
        checked.talk
    );
    checked.fine();
    let config = lab.path("c.yml");
    let arguments = ["serve", "--config", config.to_str().unwrap()];
    let mut server = Program::start(&lab.path("log"), &arguments, &[]);
    server.says("listening").await;

    let registry = format!("localhost:{}", lab.address.port());
    let client = lab.path("client");
    let doctor = || {
        let root = client.to_str().unwrap();
        let arguments = ["doctor", &registry, "--root", root, "--size", "1"];
        ran(&arguments, &[("HOME", "/home/ann")], "")
    };
    let said = doctor().failed();
    assert!(
        said.contains("the certificate is self-signed and not trusted here")
            && said.contains("hint: copy it to"),
        "{said}"
    );
    trust(&client, &registry, &certificate);
    let said = doctor().fine();
    assert!(
        said.contains("it is self-signed: docker, podman, skopeo and other Go or OpenSSL clients accept it, clients built on rustls do not"),
        "{said}"
    );
    assert!(
        said.lines()
            .any(|line| line.starts_with("ok") && line.contains("pull")),
        "{said}"
    );
}

/// As people tell docker.
fn trust(client: &Path, registry: &str, certificate: &str) {
    let directory = client.join("etc/docker/certs.d").join(registry);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("ca.crt"), certificate).unwrap();
}
