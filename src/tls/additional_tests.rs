//! Names that are added after the first run: an additional authority, while clients of the other names need no change.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::tests::Lab;
use super::*;
use crate::client::certificates::Authority;

const DAY: Duration = Duration::from_hours(24);

/// A lab after its first run, with a client that trusted the authority of then.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.open();
    fs::copy(lab.path("ca.crt"), lab.path("old.crt")).unwrap();
    lab
}

/// Whether a client accepts the server at `name`, which trusts only the authorities in the file `trusted`. It connects to
/// `address`, where that is asked.
fn accepts(lab: &Lab, tls: &Tls, trusted: &str, name: &str, address: Option<&str>) -> bool {
    let address = address.map(|address| address.parse().unwrap());
    let config = tls.server_config(true, &[], address);
    lab.chain(&config, &lab.path(trusted), name).is_ok()
}

#[test]
fn a_name_added_later_needs_no_change_of_clients_that_use_the_others() {
    let lab = lab();
    let later = lab.settings(&["registry.example", "vm.local"]);
    let tls = lab.open_with(&later).unwrap();
    for name in ["localhost", "lab1.local", "192.168.64.1", "vm.local"] {
        assert!(accepts(&lab, &tls, "old.crt", name, None), "{name}");
        assert!(accepts(&lab, &tls, "ca.crt", name, None), "{name}");
    }
    assert!(!accepts(&lab, &tls, "old.crt", "registry.example", None));
    assert!(accepts(&lab, &tls, "ca.crt", "registry.example", None));
    assert!(accepts(&lab, &tls, "ca.crt", "REGISTRY.example", None));

    let pem = tls.authority_pem().unwrap();
    assert_eq!(pem.as_bytes(), fs::read(lab.path("ca.crt")).unwrap());
    assert!(pem.starts_with(&fs::read_to_string(lab.path("old.crt")).unwrap()));
    let fingerprints = tls.fingerprints();
    assert_eq!(fingerprints.len(), 2);
    assert!(tls.own_names().contains(&"registry.example".to_owned()));
    let ends: Vec<String> = tls.ends().into_iter().map(|(name, _)| name).collect();
    assert_eq!(ends, ["server", "server-2", "authority", "authority-2"]);

    // Later starts keep both, and a name that is permitted already makes no further one.
    let again = lab.settings(&["registry.example", "vm.local", "x.registry.example"]);
    let tls = lab.open_with(&again).unwrap();
    assert_eq!(tls.fingerprints(), fingerprints);
    assert!(accepts(&lab, &tls, "ca.crt", "x.registry.example", None));

    // One for all names, where somebody asks for it.
    Tls::set_authority_aside(&again, &lab.clock).unwrap();
    assert!(!lab.path("keys/tls-2.key").exists() && !lab.path("keys/ca-2.key").exists());
    let tls = lab.open_with(&again).unwrap();
    assert_eq!(tls.fingerprints().len(), 1);
    for name in ["lab1.local", "registry.example", "x.registry.example"] {
        assert!(accepts(&lab, &tls, "ca.crt", name, None), "{name}");
    }
}

#[test]
fn an_additional_authority_may_sign_for_the_added_names_alone() {
    let lab = lab();
    lab.open_with(&lab.settings(&["registry.example", "media"]))
        .unwrap();
    let pem = fs::read(lab.path("ca.crt")).unwrap();
    let scope = Authority::parse_all(&pem).unwrap().remove(1).scope;
    assert!(scope.is_limited());
    assert_eq!(
        scope.to_string(),
        "registry.example, media (no name below it); 127.0.0.1/32, ::1/128"
    );
}

#[test]
fn an_address_is_known_by_where_the_client_connects() {
    let lab = lab();
    let (old, new) = ("192.168.64.1", "198.51.100.7");
    assert!(!lab.open().chooses_by_address());
    lab.machine
        .lock()
        .unwrap()
        .addresses
        .push(new.parse().unwrap());
    let settings = lab.settings(&[new]);
    let tls = lab.open_with(&settings).unwrap();
    assert!(tls.chooses_by_address());
    assert!(accepts(&lab, &tls, "ca.crt", new, Some(new)));
    assert!(accepts(
        &lab,
        &tls,
        "ca.crt",
        new,
        Some("::ffff:198.51.100.7")
    ));
    assert!(accepts(&lab, &tls, "old.crt", old, Some(old)));
    // A client that sends a name is answered by that.
    assert!(accepts(&lab, &tls, "old.crt", "lab1.local", Some(new)));
}

#[test]
fn the_names_of_a_later_up_are_kept_beside_those_of_the_configuration() {
    let lab = lab();
    let settings = lab.settings(&["a.example"]);
    for hosts in [&["b.example", "a.example"][..], &["b.example", "c.example"]] {
        let hosts: Vec<String> = hosts.iter().copied().map(str::to_owned).collect();
        assert!(remember_hosts(&settings, &hosts).unwrap());
    }
    assert_eq!(
        asked_hosts(&settings),
        ["a.example", "b.example", "c.example"]
    );
    let tls = lab.open_with(&settings).unwrap();
    for name in ["a.example", "b.example", "c.example"] {
        assert!(accepts(&lab, &tls, "ca.crt", name, None), "{name}");
    }
    assert_eq!(tls.fingerprints().len(), 2, "one authority for all of them");
}

#[test]
fn a_name_that_is_removed_takes_its_certificate_along() {
    let lab = lab();
    let with = lab.settings(&["registry.example"]);
    lab.open_with(&with).unwrap();
    let names = |settings| names_in_files(settings).unwrap();
    assert!(names(&with).contains(&"registry.example".to_owned()));
    let without = lab.settings(&[]);
    let tls = lab.open_with(&without).unwrap();
    assert!(!names(&without).contains(&"registry.example".to_owned()));
    assert_eq!(tls.fingerprints().len(), 2, "clients may trust it still");
    // The authority is there for when the name comes back.
    let tls = lab.open_with(&with).unwrap();
    assert!(accepts(&lab, &tls, "ca.crt", "registry.example", None));
    assert_eq!(tls.fingerprints().len(), 2);
}

#[test]
fn every_certificate_is_renewed() {
    let lab = lab();
    let tls = lab.open_with(&lab.settings(&["registry.example"])).unwrap();
    let leaf = |name: &str| {
        let config = tls.server_config(true, &[], None);
        let chain = lab.chain(&config, Path::new(&lab.path("ca.crt")), name);
        chain.unwrap()[0].clone()
    };
    let before = [leaf("localhost"), leaf("registry.example")];
    lab.clock.advance(DAY * 788);
    tls.reload().unwrap();
    assert_eq!([leaf("localhost"), leaf("registry.example")], before);
    lab.clock.advance(DAY * 2);
    tls.reload().unwrap();
    assert_ne!(leaf("localhost"), before[0]);
    assert_ne!(leaf("registry.example"), before[1]);
}

#[test]
fn a_start_that_ended_half_way_is_completed_and_a_lost_key_is_an_error() {
    let lab = lab();
    let settings = lab.settings(&["registry.example"]);
    lab.open_with(&settings).unwrap();
    // The key is written before the certificate.
    let key = fs::read(lab.path("keys/ca-2.key")).unwrap();
    fs::copy(lab.path("old.crt"), lab.path("ca.crt")).unwrap();
    let tls = lab.open_with(&settings).unwrap();
    assert_eq!(tls.fingerprints().len(), 2);
    assert_eq!(fs::read(lab.path("keys/ca-2.key")).unwrap(), key);
    assert!(accepts(&lab, &tls, "ca.crt", "registry.example", None));

    fs::remove_file(lab.path("keys/ca-2.key")).unwrap();
    let error = lab.open_with(&settings).unwrap_err();
    assert!(
        matches!(error, TlsError::AuthorityKeyMissing { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("ca-2.key"), "{error}");
}

#[test]
fn there_is_an_end_to_additional_authorities() {
    let lab = lab();
    let mut hosts = Vec::new();
    for number in 0..=automatic::AUTHORITIES_MAX {
        hosts.push(format!("registry{number}.example"));
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        lab.open_with(&lab.settings(&hosts)).unwrap();
    }
    let all: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let tls = lab.open_with(&lab.settings(&all)).unwrap();
    assert_eq!(tls.fingerprints().len(), automatic::AUTHORITIES_MAX);
    assert!(accepts(&lab, &tls, "ca.crt", "localhost", None));
}
