//! Certificates that people make by hand: those that no client takes are refused by `check`, and self-signed ones are served.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use crate::lab::Lab;
use crate::program::{MISCONFIGURED, ran};

/// Made by `openssl x509 -req` without a file of extensions.
const VERSION_1: (&str, &str) = (
    include_str!("../certificates/version-1.pem"),
    include_str!("../certificates/version-1.key"),
);

fn lab(certificate: &str, key: &str) -> Lab {
    let lab = Lab::configured(
        "storage: {filesystem: {rootdirectory: DIR/data}, delete: {enabled: true}}\n\
         http:\n  addr: 'ADDRESS'\n  tls:\n    certificate: DIR/cert.pem\n    key: DIR/key.pem\n",
    );
    lab.write("cert.pem", certificate);
    lab.write("key.pem", key);
    lab
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
    let lab = lab(VERSION_1.0, VERSION_1.1);
    for (command, code) in [("check", 1), ("serve", MISCONFIGURED)] {
        let said = lab.run(&[command]).failed_with(code);
        for part in [
            "boathouse.yml:5: http.tls.certificate: ",
            &lab.place("cert.pem"),
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
    let lab = lab(&certificate.unwrap().pem(), &key.serialize_pem());
    let checked = lab.run(&["check"]);
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
    let lab = lab(&certificate, &key);
    let checked = lab.run(&["check"]);
    assert!(
        checked.talk.contains("self-signed") && checked.talk.contains("rustls"),
        "{}",
        checked.talk
    );
    checked.fine();
    let server = lab.serve().await;

    let registry = format!("localhost:{}", server.address().port());
    let root = lab.place("client");
    let doctor = || {
        let arguments = ["doctor", &registry, "--root", &root, "--size", "1"];
        ran(&arguments, &[("HOME", "/home/ann")], "")
    };
    let said = doctor().failed();
    assert!(
        said.contains("the certificate is self-signed and not trusted here")
            && said.contains("hint: copy it to"),
        "{said}"
    );
    // As people tell docker.
    let trusted = format!("client/etc/docker/certs.d/{registry}/ca.crt");
    lab.write(&trusted, &certificate);
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
