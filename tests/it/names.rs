//! A name that is added after the first run, by `up --host` or by `tls.hosts`: an additional authority, while clients of the other
//! names need no change.

use http::StatusCode;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::client::{Client, Protocol, Target};
use crate::lab::Lab;
use crate::program::ran;

const ADDED: &str = "registry.example";

/// A client of the server under this name, which trusts what `trusting` does.
async fn reaches(trusting: &Target, name: &str) {
    let target = Target {
        host: format!("{name}:{}", trusting.address.port()),
        ..trusting.clone()
    };
    let answer = Client::new(target, Protocol::Http1).get("/v2/").await;
    answer.unwrap().expect(StatusCode::UNAUTHORIZED);
}

fn certificates(lab: &Lab) -> usize {
    CertificateDer::pem_slice_iter(lab.read("home/ca.crt").as_bytes()).count()
}

#[tokio::test]
async fn a_later_up_takes_another_name_and_clients_of_the_others_go_on() {
    let lab = Lab::empty();
    let server = lab.up("home", &[]).await;
    let before = lab.target("home", server.address());
    // A server that runs would not know the name.
    let home = lab.place("home");
    let beside = ran(&["up", "--dir", &home, "--host", ADDED], &[], "").failed();
    assert!(beside.contains("another"), "{beside}");
    assert!(!lab.path("home/keys/hosts").exists());
    server.end();

    let config = lab.read("home/boathouse.yml");
    let mut server = lab.up("home", &["--host", ADDED]).await;
    server.says("shown again by").await;
    assert_eq!(lab.read("home/boathouse.yml"), config);
    let (log, port) = (server.log(), server.address().port());
    assert!(log.contains("additional certificate authority"), "{log}");
    // Nothing resolves the name yet, so it is no URL for clients.
    for says in [
        format!("Boathouse serves https://localhost:{port}\n"),
        format!("{ADDED} does not resolve on this machine: "),
    ] {
        assert!(log.contains(&says), "{says}: {log}");
    }
    assert_eq!(certificates(&lab), 2);
    let now = lab.target("home", server.address());
    reaches(&before, "localhost").await;
    reaches(&now, "localhost").await;
    reaches(&now, ADDED).await;
    let shown = reaches_ca(&now).await;
    assert_eq!(shown, lab.read("home/ca.crt"));
    server.end();

    // The key of the additional authority is a part of the installation as that of the first is.
    let (key, aside) = (lab.path("home/keys/ca-2.key"), lab.path("aside"));
    std::fs::rename(&key, &aside).unwrap();
    let incomplete = ran(&["check", "--dir", &home], &[], "").failed();
    assert!(
        incomplete.contains("missing: certificate authority (") && incomplete.contains("ca-2.key"),
        "{incomplete}"
    );
    std::fs::rename(&aside, &key).unwrap();

    // Later starts know it, and make no further authority.
    let authorities = lab.read("home/ca.crt");
    let server = lab.up("home", &[]).await;
    reaches(&now, ADDED).await;
    assert_eq!(lab.read("home/ca.crt"), authorities);
    server.end();

    // The config has the same way.
    let config = config.replacen("hosts: []", "hosts: [other.example]", 1);
    assert!(config.contains("other.example"), "{config}");
    lab.write("home/boathouse.yml", config);
    let server = lab.up("home", &[]).await;
    let now = lab.target("home", server.address());
    for name in ["localhost", ADDED, "other.example"] {
        reaches(&now, name).await;
    }
    assert_eq!(certificates(&lab), 3);

    // One authority of all names, made while no server runs.
    let renew = || ran(&["new-ca", "--dir", &home], &[], "");
    let refused = renew().failed();
    assert!(refused.contains("nothing was changed"), "{refused}");
    assert_eq!(certificates(&lab), 3);
    server.end();
    let fingerprint = renew().fine();
    assert_eq!(certificates(&lab), 1);
    let server = lab.up("home", &[]).await;
    let trusting = lab.target("home", server.address());
    for name in ["localhost", ADDED, "other.example"] {
        reaches(&trusting, name).await;
    }
    let printed = ran(&["trust", "--dir", &home], &[], "").talk;
    assert!(
        printed.contains(fingerprint.trim()),
        "{fingerprint}{printed}"
    );
}

async fn reaches_ca(target: &Target) -> String {
    let answer = Client::new(target.clone(), Protocol::Http1)
        .get("/ca.crt")
        .await;
    String::from_utf8(answer.unwrap().expect(StatusCode::OK).body.to_vec()).unwrap()
}
