//! What an authority may sign, and what becomes of one that is set aside.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::authority;
use super::tests::{Lab, START};
use super::*;
use crate::clock::ManualClock;

#[test]
fn authorities_that_were_set_aside_are_all_kept_and_differ_in_name() {
    let lab = Lab::new();
    let settings = lab.settings(&[]);
    let mut subjects = Vec::new();
    for _ in 0..3 {
        lab.open();
        let certificate = CertificateDer::from_pem_file(lab.path("ca.crt")).unwrap();
        let parsed = files::parse(&certificate, &lab.path("ca.crt")).unwrap();
        let subject = parsed.subject().to_string();
        assert!(subject.len() <= "CN=".len() + 64);
        subjects.push(subject);
        // Three times in one second.
        Tls::set_authority_aside(&settings, &lab.clock).unwrap();
    }
    subjects.sort();
    subjects.dedup();
    assert_eq!(subjects.len(), 3, "{subjects:?}");
    for secs in START..START + 3 {
        assert!(lab.path(&format!("ca.crt.old-{secs}")).exists());
        assert!(lab.path(&format!("keys/ca.key.old-{secs}")).exists());
    }
}

#[test]
fn an_authority_set_aside_by_half_is_a_clear_error() {
    let lab = Lab::new();
    lab.open();
    // A certificate that cannot be renamed: it ends between the two.
    let now = lab.clock.now().into();
    authority::set_aside(&lab.path("keys/.."), &lab.path("keys"), now).unwrap_err();
    let error = lab.open_with(&lab.settings(&[])).unwrap_err();
    assert!(
        matches!(error, TlsError::AuthorityKeyMissing { .. }),
        "{error}"
    );
}

/// Whether a client that trusts only the authority of `lab` accepts a certificate that it signs for `name`.
fn may_sign_for(lab: &Lab, name: &str) -> bool {
    let authority = lab.first_authority();
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &authority.issuer).unwrap();
    let chain = [leaf.der().clone()];
    certificates::verify(&chain, roots, name, &lab.clock).is_ok()
}

#[test]
fn the_bare_name_of_the_machine_is_certified_and_nothing_below_it() {
    let lab = Lab::new();
    let tls = lab.open();
    assert!(lab.accepts(&tls, "lab1") && lab.accepts(&tls, "lab1.local"));
    assert!(may_sign_for(&lab, "lab1"));
    for below in ["evil.lab1", "a.b.lab1"] {
        assert!(!may_sign_for(&lab, below), "{below}");
    }
}

#[test]
fn what_the_authority_signs_is_good_for_servers_only() {
    let lab = Lab::new();
    lab.open();
    let authority = lab.first_authority();
    let parsed = files::parse(&authority.certificate, &lab.path("ca.crt")).unwrap();
    let usage = parsed.extended_key_usage().unwrap().expect("a usage").value;
    assert!(usage.server_auth && !usage.any && !usage.client_auth && !usage.code_signing);
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .unwrap();
    for (usage, expected) in [
        (rcgen::ExtendedKeyUsagePurpose::ServerAuth, true),
        (rcgen::ExtendedKeyUsagePurpose::ClientAuth, false),
    ] {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &authority.issuer).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(START));
        let outcome = verifier.verify_server_cert(leaf.der(), &[], &name, &[], now);
        assert_eq!(outcome.is_ok(), expected, "{outcome:?}");
    }
}

#[test]
fn an_authority_that_replaces_a_lost_one_is_announced() {
    let lab = Lab::new();
    let keys = lab.path("keys");
    let automatic = Automatic::new(&lab.path("ca.crt"), &keys, &[]).unwrap();
    let make = || {
        let now = lab.clock.now().into();
        let made = automatic.make_authorities(&Machine::here(), now).unwrap();
        made.into_iter()
            .map(|(fingerprint, _)| fingerprint)
            .collect::<Vec<_>>()
    };
    assert_eq!(make(), [""; 0], "the first run");
    assert_eq!(make(), [""; 0], "nothing is missing");
    std::fs::remove_file(lab.path("ca.crt")).unwrap();
    let announced = make();
    assert_eq!(announced, lab.open().fingerprints());
    std::fs::remove_file(lab.path("ca.crt")).unwrap();
    std::fs::remove_file(keys.join("ca.key")).unwrap();
    let other = make();
    assert!(other.len() == 1 && other != announced);
}

#[test]
fn a_clock_that_is_not_set_makes_no_authority_and_costs_none() {
    let mut lab = Lab::new();
    let in_1970 = ManualClock::at_unix_secs(86_400);
    let set = std::mem::replace(&mut lab.clock, in_1970.clone());
    let settings = lab.settings(&[]);
    let refused = lab.open_with(&settings);
    assert!(
        matches!(refused, Err(TlsError::ClockIsBehind(_))),
        "{refused:?}"
    );
    assert!(!lab.path("ca.crt").exists() && !lab.path("keys/ca.key").exists());

    lab.clock = set;
    lab.open();
    let before = std::fs::read(lab.path("ca.crt")).unwrap();
    lab.clock = in_1970.clone();
    let refused = Tls::set_authority_aside(&settings, &in_1970);
    assert!(
        matches!(refused, Err(TlsError::ClockIsBehind(_))),
        "{refused:?}"
    );
    let refused = lab.open_with(&settings);
    assert!(
        matches!(refused, Err(TlsError::AuthorityNotYetValid { .. })),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(lab.path("ca.crt")).unwrap(), before);
}
