//! Which tokens are genuine.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::keys::{PublicKey, SigningKey};
use super::verifier::{JudgedBy, Verifier};
use super::{Claims, TokenFault, ending_certificates};
use crate::auth::keyed_hash::KeyedHash;
use crate::auth::settings::{Limits, Secret, SigningKeyPem, TokenSettings};

const NOW: u64 = 1_795_500_000;

fn claims() -> Claims {
    serde_json::from_value(with_claims(&serde_json::json!({}))).expect("claims")
}

/// What a good token says, and these instead.
fn with_claims(other: &serde_json::Value) -> serde_json::Value {
    let mut claims = serde_json::json!({"iss": "lab", "aud": "boathouse", "exp": NOW});
    for (name, value) in other.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

fn issue(certificates: &[&rcgen::Certificate], key: &rcgen::KeyPair) -> String {
    let pem = SigningKeyPem {
        certificate_pem: certificates.iter().map(|one| one.pem()).collect(),
        key_pem: key.serialize_pem(),
    };
    let signing = SigningKey::from_pem(&pem).expect("a key");
    signing.sign(&claims()).expect("a token")
}

/// A token that names its key and brings no certificate.
fn issue_by_id(
    certificate: &rcgen::Certificate,
    key: &rcgen::KeyPair,
    claims: &impl serde::Serialize,
) -> String {
    let (_, parsed) = X509Certificate::from_der(certificate.der()).expect("a certificate");
    let public_key = PublicKey::of_certificate(&parsed).expect("a key");
    let header = jsonwebtoken::Header {
        kid: Some(public_key.libtrust_id().to_owned()),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
    };
    let key = jsonwebtoken::EncodingKey::from_ec_der(key.serialized_der());
    jsonwebtoken::encode(&header, claims, &key).expect("a token")
}

fn verifier(trusted: &[&rcgen::Certificate]) -> Verifier {
    let settings = TokenSettings {
        issuer: "lab".to_owned(),
        trusted_certificates_pem: trusted.iter().map(|one| one.pem()).collect(),
        ..TokenSettings::default()
    };
    let hash = KeyedHash::new(&Secret::default());
    Verifier::new(&settings, None, &Limits::default(), hash).expect("trusted certificates")
}

fn judge(trusted: &rcgen::Certificate, token: &str) -> Result<(), TokenFault> {
    verifier(&[trusted]).verify(token, NOW).map(drop)
}

fn verifies(trusted: &rcgen::Certificate, token: &str) -> bool {
    judge(trusted, token).is_ok()
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
    let token = issue_by_id(&certificate, &key, &claims());
    let verifier = verifier(&[&certificate]);
    // The one before its time comes first: what was genuine once is remembered, and time does not go back.
    for (now, expected) in [
        (NOW - 101, Err(TokenFault::CertificateNotYetValid)),
        (NOW, Ok(())),
        (NOW + 100, Ok(())),
        (NOW + 101, Err(TokenFault::CertificateExpired)),
    ] {
        let judged = verifier.verify(&token, now).map(drop);
        assert_eq!(
            judged, expected,
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

#[test]
fn a_refusal_names_its_reason() {
    let key = || rcgen::KeyPair::generate().expect("a key");
    let at = |secs: u64| {
        let secs = i64::try_from(secs).expect("small");
        time::OffsetDateTime::from_unix_timestamp(secs).expect("a time")
    };
    let (good_key, other_key) = (key(), key());
    let good = params("lab", false).self_signed(&good_key).expect("one");
    let other = params("lab", false).self_signed(&other_key).expect("one");
    let mut expired = params("lab", false);
    expired.not_after = at(NOW - 1);
    let expired = expired.self_signed(&good_key).expect("one");
    let by_id = |claims| issue_by_id(&good, &good_key, &with_claims(&claims));
    let token = issue(&[&good], &good_key);
    let (message, _) = token.rsplit_once('.').expect("three parts");
    let other_token = issue(&[&other], &other_key);
    let (_, other_signature) = other_token.rsplit_once('.').expect("three parts");
    let secret = jsonwebtoken::EncodingKey::from_secret(good.der());
    let mut hmac = jsonwebtoken::decode_header(&token).expect("a header");
    hmac.alg = jsonwebtoken::Algorithm::HS256;
    let hmac = jsonwebtoken::encode(&hmac, &claims(), &secret).expect("a token");
    let at_now = |token: &str| judge(&good, token);
    for (token, expected) in [
        (token.clone(), Ok(())),
        (by_id(serde_json::json!({})), Ok(())),
        ("no token".to_owned(), Err(TokenFault::Malformed)),
        (format!("{token}."), Err(TokenFault::Malformed)),
        ("a".repeat(17 * 1024), Err(TokenFault::Malformed)),
        (hmac, Err(TokenFault::Algorithm)),
        (
            issue_by_id(&other, &other_key, &claims()),
            Err(TokenFault::KeyUnknown),
        ),
        (other_token.clone(), Err(TokenFault::CertificateUntrusted)),
        (
            format!("{message}.{other_signature}"),
            Err(TokenFault::Signature),
        ),
        (
            by_id(serde_json::json!({"iss": "another"})),
            Err(TokenFault::Issuer),
        ),
        (
            by_id(serde_json::json!({"aud": "another"})),
            Err(TokenFault::Audience),
        ),
        (
            by_id(serde_json::json!({"aud": ["another", "boathouse"]})),
            Ok(()),
        ),
        (
            by_id(serde_json::json!({"aud": ""})),
            Err(TokenFault::Audience),
        ),
        (by_id(serde_json::json!({"nbf": NOW + 60})), Ok(())),
        (
            by_id(serde_json::json!({"nbf": NOW + 61})),
            Err(TokenFault::NotYetValid),
        ),
        (
            by_id(serde_json::json!({"exp": NOW - 24 * 60 * 60})),
            Ok(()),
        ),
        (
            by_id(serde_json::json!({"exp": NOW - 24 * 60 * 60 - 1})),
            Err(TokenFault::Expired),
        ),
    ] {
        assert_eq!(at_now(&token), expected, "{token}");
    }
    let with_expired = issue(&[&expired], &good_key);
    assert_eq!(
        judge(&expired, &with_expired),
        Err(TokenFault::CertificateExpired)
    );
    assert_eq!(
        judge(&expired, &by_id(serde_json::json!({}))),
        Err(TokenFault::CertificateExpired)
    );
    // The token brings a certificate that is valid, and the authority in the bundle is not.
    let ended = |params: &mut rcgen::CertificateParams| params.not_after = at(NOW - 1);
    let same = |_: &mut rcgen::CertificateParams| {};
    for (root, token) in [
        chained(ended, same, same),
        chained(same, ended, same),
        chained(same, same, ended),
    ] {
        assert_eq!(judge(&root, &token), Err(TokenFault::CertificateExpired));
    }
}

#[test]
fn certificates_that_end_soon_are_named() {
    let at = |secs: u64| {
        let secs = i64::try_from(secs).expect("small");
        time::OffsetDateTime::from_unix_timestamp(secs).expect("a time")
    };
    let certificate = |name: &str, end: u64| {
        let mut params = params(name, false);
        params.not_after = at(end);
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").pem()
    };
    let day = 24 * 60 * 60;
    let bundle = certificate("over", NOW - 1) + &certificate("next year", NOW + 365 * day);
    let own = SigningKeyPem {
        certificate_pem: certificate("ours", NOW + 29 * day),
        key_pem: String::new(),
    };
    let trusted = [bundle, certificate("in time", NOW + 30 * day)];
    let told = ending_certificates(Some(&own), &trusted, NOW);
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    let expected = [
        "token.certificate: the certificate `CN=ours` expires on 2026-12-23: its tokens are refused from then on; hint: ",
        "auth.token.rootcertbundle: the certificate `CN=over` expired on 2026-11-24: its tokens are refused; hint: ",
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
}

/// After a new key was made: tokens of the old one go on, if they say which of our accounts they are of.
#[test]
fn a_previous_key_of_ours_signs_nothing_that_speaks_for_itself() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params("old", false)
        .self_signed(&key)
        .expect("a certificate");
    let settings = |is_trusted: bool| TokenSettings {
        issuer: "lab".to_owned(),
        previous_certificates_pem: vec![certificate.pem()],
        trusted_certificates_pem: is_trusted.then(|| certificate.pem()).into_iter().collect(),
        ..TokenSettings::default()
    };
    let ours = with_claims(&serde_json::json!({"bh": {"v": 1, "gen": "x"}}));
    let foreign = with_claims(&serde_json::json!({}));
    for is_trusted in [false, true] {
        let hash = KeyedHash::new(&Secret::default());
        let verifier = Verifier::new(&settings(is_trusted), None, &Limits::default(), hash);
        let verifier = verifier.expect("certificates");
        let judged = |claims| verifier.verify(&issue_by_id(&certificate, &key, claims), NOW);
        let token = judged(&ours).expect("a token of ours");
        assert_eq!(token.judged_by(), JudgedBy::RulesOfNow);
        assert_eq!(
            judged(&foreign).map(drop),
            Err(TokenFault::Issuer),
            "{is_trusted}"
        );
    }
}
