//! Which tokens are genuine.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::keys::SigningKey;
use super::verifier::Verifier;
use super::{self as token, Claims};
use crate::auth::keyed_hash::KeyedHash;
use crate::auth::settings::{Limits, Secret, SigningKeyPem};

const NOW: u64 = 1_795_500_000;

fn claims() -> Claims {
    serde_json::from_value(serde_json::json!({"iss": "lab", "exp": NOW})).expect("claims")
}

fn issue(certificates: &[&rcgen::Certificate], key: &rcgen::KeyPair) -> String {
    let pem = SigningKeyPem {
        certificate_pem: certificates.iter().map(|one| one.pem()).collect(),
        key_pem: key.serialize_pem(),
    };
    token::sign(&claims(), &SigningKey::from_pem(&pem).expect("a key")).expect("a token")
}

fn verifies(trusted: &rcgen::Certificate, token: &str) -> bool {
    let hash = KeyedHash::new(&Secret::default());
    let verifier = Verifier::new("lab", &[trusted.pem()], None, &Limits::default(), hash);
    let verifier = verifier.expect("a trusted certificate");
    verifier.verify(token, NOW).is_some()
}

fn params(subject: &str, is_ca: bool) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, subject);
    if is_ca {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    params
}

#[test]
fn a_chain_must_lead_to_a_trusted_certificate_through_authorities() {
    let key = || rcgen::KeyPair::generate().expect("a key");
    for (is_ca, expected) in [(true, true), (false, false)] {
        let (root_key, leaf_key) = (key(), key());
        let root = params("root", is_ca);
        let root_certificate = root.self_signed(&root_key).expect("a root");
        let issuer = rcgen::Issuer::new(root, &root_key);
        let leaf = params("leaf", false).signed_by(&leaf_key, &issuer);
        let leaf = leaf.expect("a leaf");
        assert_eq!(
            verifies(&root_certificate, &issue(&[&leaf], &leaf_key)),
            expected
        );
        let chain = issue(&[&leaf, &root_certificate], &leaf_key);
        assert_eq!(verifies(&root_certificate, &chain), expected);
        let impostor_key = key();
        let impostor = params("root", true)
            .self_signed(&impostor_key)
            .expect("a root");
        assert!(!verifies(&impostor, &chain));
        // A certificate of its own, however it is called, vouches for nothing.
        assert!(!verifies(
            &root_certificate,
            &issue(&[&impostor], &impostor_key)
        ));
    }
}

/// A token of a leaf under a middle under a root, each changed in its own way.
fn chained(
    change_root: impl FnOnce(&mut rcgen::CertificateParams),
    change_middle: impl FnOnce(&mut rcgen::CertificateParams),
    change_leaf: impl FnOnce(&mut rcgen::CertificateParams),
) -> (rcgen::Certificate, String) {
    let key = || rcgen::KeyPair::generate().expect("a key");
    let (root_key, middle_key, leaf_key) = (key(), key(), key());
    let (mut root, mut middle) = (params("root", true), params("middle", true));
    let mut leaf = params("leaf", false);
    change_root(&mut root);
    change_middle(&mut middle);
    change_leaf(&mut leaf);
    let root_certificate = root.self_signed(&root_key).expect("a root");
    let root = rcgen::Issuer::new(root, &root_key);
    let middle_certificate = middle.signed_by(&middle_key, &root).expect("a middle");
    let middle = rcgen::Issuer::new(middle, &middle_key);
    let leaf = leaf.signed_by(&leaf_key, &middle).expect("a leaf");
    let token = issue(&[&leaf, &middle_certificate], &leaf_key);
    (root_certificate, token)
}

#[test]
fn a_path_keeps_to_what_its_authorities_allow() {
    let same = |_: &mut rcgen::CertificateParams| {};
    let length = |most: u8| {
        move |params: &mut rcgen::CertificateParams| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(most));
        }
    };
    let only_lab = |params: &mut rcgen::CertificateParams| {
        params.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("lab".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    };
    let named = |name: &'static str| {
        move |params: &mut rcgen::CertificateParams| {
            let name = name.try_into().expect("a name");
            params.subject_alt_names = vec![rcgen::SanType::DnsName(name)];
        }
    };
    let critical = |params: &mut rcgen::CertificateParams| {
        let mut unknown =
            rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999], vec![5, 0]);
        unknown.set_criticality(true);
        params.custom_extensions = vec![unknown];
    };
    let ended = |params: &mut rcgen::CertificateParams| {
        params.not_before = time::OffsetDateTime::from_unix_timestamp(0).expect("a time");
        let end = i64::try_from(NOW).expect("small") - 1;
        params.not_after = time::OffsetDateTime::from_unix_timestamp(end).expect("a time");
    };
    let cases = [
        ("as it is", chained(same, same, same), true),
        ("length 1", chained(length(1), same, same), true),
        (
            "length 0 of the root",
            chained(length(0), same, same),
            false,
        ),
        (
            "length 0 of the middle",
            chained(same, length(0), same),
            true,
        ),
        (
            "a name within",
            chained(only_lab, same, named("auth.lab")),
            true,
        ),
        (
            "a name beyond",
            chained(only_lab, same, named("auth.example")),
            false,
        ),
        (
            "beyond the middle's",
            chained(same, only_lab, named("auth.example")),
            false,
        ),
        ("critical in the leaf", chained(same, same, critical), false),
        (
            "critical in the middle",
            chained(same, critical, same),
            false,
        ),
        ("an ended leaf", chained(same, same, ended), false),
        ("an ended middle", chained(same, ended, same), false),
        ("an ended root", chained(ended, same, same), false),
    ];
    for (what, (root, token), expected) in cases {
        assert_eq!(
            verifies(&root, &token),
            expected,
            "a path was judged wrongly: {what}"
        );
    }
}

#[test]
fn a_key_id_counts_while_its_certificate_is_valid() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = params("auth", false);
    let at = |secs: u64| {
        let secs = i64::try_from(secs).expect("small");
        time::OffsetDateTime::from_unix_timestamp(secs).expect("a time")
    };
    params.not_before = at(NOW - 100);
    params.not_after = at(NOW + 100);
    let certificate = params.self_signed(&key).expect("a certificate");
    let good = issue(&[&certificate], &key);
    let (header, rest) = good.split_once('.').expect("three parts");
    let (claims, _) = rest.split_once('.').expect("three parts");
    let header = URL_SAFE_NO_PAD.decode(header).expect("base64url");
    let mut header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
    header.as_object_mut().expect("an object").remove("x5c");
    let message = format!("{}.{claims}", URL_SAFE_NO_PAD.encode(header.to_string()));
    let pem = SigningKeyPem {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    };
    let signing = SigningKey::from_pem(&pem).expect("a key");
    let signature = signing.sign(message.as_bytes()).expect("a signature");
    let token = format!("{message}.{signature}");
    let hash = KeyedHash::new(&Secret::default());
    let limits = Limits::default();
    let verifier = Verifier::new("lab", &[certificate.pem()], None, &limits, hash);
    let verifier = verifier.expect("a trusted certificate");
    // The one before its time comes first: what was genuine once is remembered, and time does not go back.
    for (now, expected) in [
        (NOW - 101, false),
        (NOW, true),
        (NOW + 100, true),
        (NOW + 101, false),
    ] {
        let is_genuine = verifier.verify(&token, now).is_some();
        assert_eq!(
            is_genuine, expected,
            "a key of a certificate that is not valid was believed: {now}"
        );
    }
}

#[test]
fn links_of_a_chain_are_called_by_name_and_meant_to_sign_certificates() {
    let key = || rcgen::KeyPair::generate().expect("a key");
    let (root_key, middle_key, leaf_key) = (key(), key(), key());
    let root = params("root", true);
    let root_certificate = root.self_signed(&root_key).expect("a root");
    let root = rcgen::Issuer::new(root, &root_key);
    let signs = || vec![rcgen::KeyUsagePurpose::KeyCertSign];
    for (called, usages, expected) in [
        ("middle", Vec::new(), true),
        ("middle", signs(), true),
        (
            "middle",
            vec![rcgen::KeyUsagePurpose::DigitalSignature],
            false,
        ),
        ("another", signs(), false),
    ] {
        let mut middle = params(called, true);
        middle.key_usages = usages;
        let certificate = middle.signed_by(&middle_key, &root).expect("a middle");
        // Whatever the middle is called and meant for, its key signs the leaf under the name `middle`.
        let issuer = rcgen::Issuer::new(params("middle", true), &middle_key);
        let leaf = params("leaf", false).signed_by(&leaf_key, &issuer);
        let token = issue(&[&leaf.expect("a leaf"), &certificate], &leaf_key);
        assert_eq!(verifies(&root_certificate, &token), expected, "{called}");
    }
}

#[test]
fn no_signature_another_algorithm_and_an_embedded_key_are_refused() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params("lab", false)
        .self_signed(&key)
        .expect("a certificate");
    let good = issue(&[&certificate], &key);
    assert!(verifies(&certificate, &good));
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let (header, body) = message.split_once('.').expect("three parts");
    let header = URL_SAFE_NO_PAD.decode(header).expect("base64url");
    let header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
    let with = |change: &dyn Fn(&mut serde_json::Value), signature: &str| {
        let mut header = header.clone();
        change(&mut header);
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        format!("{header}.{body}.{signature}")
    };
    for algorithm in ["none", "HS256", "RS256", "ES384", "PS256", "EdDSA"] {
        let change = |header: &mut serde_json::Value| header["alg"] = algorithm.into();
        assert!(
            !verifies(&certificate, &with(&change, signature)),
            "{algorithm}"
        );
        assert!(!verifies(&certificate, &with(&change, "")), "{algorithm}");
    }
    let embedded = |header: &mut serde_json::Value| {
        *header = serde_json::json!({"alg": "ES256", "kid": "x", "jwk": {"kty": "EC"}});
    };
    assert!(!verifies(&certificate, &with(&embedded, signature)));
    assert!(!verifies(&certificate, &format!("{message}.")));
}
