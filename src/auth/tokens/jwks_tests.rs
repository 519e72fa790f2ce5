//! Keys of a JWKS file, and the algorithms that count.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::jwks::{JwkSet, JwkSetError};
use super::keys::{KeyKind, PublicKey};
use super::verifier::Verifier;
use super::{Claims, TokenFault};
use crate::auth::keyed_hash::KeyedHash;
use crate::auth::settings::{Limits, Secret, TokenSettings};

const NOW: u64 = 1_795_500_000;

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key pair, and its public half as a JWK with this id.
fn elliptic(id: &str) -> (rcgen::KeyPair, Value) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let point = key.public_key_raw();
    let (x, y) = point[1..].split_at(32);
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": id, "x": encoded(x), "y": encoded(y), "alg": "ES256"});
    (key, jwk)
}

fn edwards(id: &str) -> (rcgen::KeyPair, Value) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let jwk =
        json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": encoded(key.public_key_raw())});
    (key, jwk)
}

fn rsa(id: &str) -> (rcgen::KeyPair, Value) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    let (_, parsed) = x509_parser::der_parser::parse_der(key.public_key_raw()).expect("DER");
    let parts = parsed.as_sequence().expect("a sequence");
    let part = |at: usize| {
        let bytes = parts[at].as_slice().expect("an integer");
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
        encoded(&bytes[start..])
    };
    let jwk = json!({"kty": "RSA", "use": "sig", "kid": id, "n": part(0), "e": part(1)});
    (key, jwk)
}

fn token(key: &rcgen::KeyPair, id: Option<&str>, algorithm: jsonwebtoken::Algorithm) -> String {
    let header = jsonwebtoken::Header {
        kid: id.map(str::to_owned),
        ..jsonwebtoken::Header::new(algorithm)
    };
    signed(key, &header)
}

fn signed(key: &rcgen::KeyPair, header: &jsonwebtoken::Header) -> String {
    let claims = json!({"iss": "lab", "aud": "boathouse", "exp": NOW});
    let der = key.serialized_der();
    let key = match header.alg {
        jsonwebtoken::Algorithm::ES256 => jsonwebtoken::EncodingKey::from_ec_der(der),
        jsonwebtoken::Algorithm::EdDSA => jsonwebtoken::EncodingKey::from_ed_der(der),
        _ => {
            let der = super::keys::inside_pkcs8(der).expect("a key");
            jsonwebtoken::EncodingKey::from_rsa_der(&der)
        }
    };
    jsonwebtoken::encode(header, &claims, &key).expect("a token")
}

fn verifier(keys: &[&Value], algorithms: &[&str]) -> Verifier {
    let text = json!({ "keys": keys }).to_string();
    let settings = TokenSettings {
        issuer: "lab".to_owned(),
        trusted_keys: JwkSet::parse(&text).expect("keys"),
        signing_algorithms: algorithms.iter().map(|&name| name.to_owned()).collect(),
        ..TokenSettings::default()
    };
    let hash = KeyedHash::new(&Secret::default());
    Verifier::new(&settings, None, &Limits::default(), hash).expect("a verifier")
}

fn judge(verifier: &Verifier, token: &str) -> Result<Claims, TokenFault> {
    let genuine = verifier.verify(token, NOW)?;
    Ok(genuine.claims.clone())
}

#[test]
fn a_key_of_the_file_is_found_by_its_id() {
    use jsonwebtoken::Algorithm::{ES256, EdDSA, RS256, RS512};
    let made = [elliptic("a"), edwards("b"), rsa("c")];
    let keys: Vec<&Value> = made.iter().map(|(_, jwk)| jwk).collect();
    let verifier = verifier(&keys, &[]);
    for (position, algorithm) in [(0, ES256), (1, EdDSA), (2, RS256), (2, RS512)] {
        let (key, jwk) = &made[position];
        let id = jwk["kid"].as_str();
        let claims = judge(&verifier, &token(key, id, algorithm)).expect("it is genuine");
        assert_eq!(claims.iss, "lab");
        let fault = |id| judge(&verifier, &token(key, id, algorithm)).map(drop);
        assert_eq!(fault(Some("z")), Err(TokenFault::KeyUnknown));
        assert_eq!(fault(None), Err(TokenFault::KeyUnknown));
    }
    // Another's key under a known id.
    let (other, _) = elliptic("a");
    let forged = token(&other, Some("a"), ES256);
    assert_eq!(
        judge(&verifier, &forged).map(drop),
        Err(TokenFault::Signature)
    );
}

#[test]
fn a_key_in_the_tokens_own_header_is_never_trusted() {
    let (_, trusted) = elliptic("a");
    let (other, embedded) = elliptic("a");
    let verifier = verifier(&[&trusted], &[]);
    // A verifier that trusts this key accepts the signature.
    let header = jsonwebtoken::Header {
        kid: Some("b".to_owned()),
        jwk: Some(serde_json::from_value(embedded).expect("a key")),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
    };
    let forged = signed(&other, &header);
    assert_eq!(
        judge(&verifier, &forged).map(drop),
        Err(TokenFault::KeyUnknown)
    );
}

#[test]
fn only_the_named_algorithms_count() {
    use jsonwebtoken::Algorithm::{ES256, PS256, RS256, RS512};
    let (ec_key, ec) = elliptic("a");
    let (rsa_key, rsa) = rsa("b");
    let keys = [&ec, &rsa];
    let of = |algorithms: &[&str], key: &rcgen::KeyPair, id: &str, algorithm| {
        judge(
            &verifier(&keys, algorithms),
            &token(key, Some(id), algorithm),
        )
        .map(drop)
    };
    let refused = Err(TokenFault::Algorithm);
    assert_eq!(of(&[], &ec_key, "a", ES256), Ok(()));
    assert_eq!(of(&[], &rsa_key, "b", RS512), Ok(()));
    assert_eq!(of(&[], &rsa_key, "b", PS256), refused);
    assert_eq!(of(&["RS256"], &rsa_key, "b", RS256), Ok(()));
    assert_eq!(of(&["RS256"], &rsa_key, "b", RS512), refused);
    assert_eq!(of(&["RS256"], &ec_key, "a", ES256), refused);
    assert_eq!(of(&["PS256", "ES256"], &rsa_key, "b", PS256), Ok(()));
    assert_eq!(of(&["HS256"], &rsa_key, "b", RS256), refused);
}

#[test]
fn what_is_no_key_is_left_out_and_said() {
    let (_, good) = elliptic("a");
    let (_, mut private) = edwards("b");
    private["d"] = json!("c2VjcmV0");
    let keys = json!({"keys": [
        {"kty": "oct", "kid": "c", "k": "c2VjcmV0"},
        {"kty": "EC", "crv": "secp256k1", "kid": "d"},
        {"kty": "EC", "crv": "P-256", "kid": "e", "x": "AA", "y": "AA"},
        {"kty": "RSA", "kid": "f", "n": "!", "e": "AQAB"},
        {"kty": "RSA", "use": "enc", "kid": "g", "n": "AQAB", "e": "AQAB"},
        private,
        good,
    ]});
    let set = JwkSet::parse(&keys.to_string()).expect("two keys");
    assert_eq!(set.left_out.len(), 6, "{:?}", set.left_out);
    assert!(set.left_out[0].starts_with("keys[0] is not used: a shared secret"));
    assert!(set.left_out[5].starts_with("keys[5] is a private key"));
    assert!(!format!("{:?}", set.left_out).contains("c2VjcmV0"));
    for (id, count) in [("a", 1), ("b", 1), ("c", 0), ("e", 0), ("g", 0), ("", 0)] {
        assert_eq!(set.keys_of_id(id).count(), count, "{id}");
    }
    for (text, fault) in [
        ("", JwkSetError::Malformed),
        ("[]", JwkSetError::Malformed),
        ("{}", JwkSetError::Malformed),
        (r#"{"keys": []}"#, JwkSetError::NoKey),
        (r#"{"keys": [{"kty": "oct"}]}"#, JwkSetError::NoKey),
    ] {
        assert_eq!(JwkSet::parse(text).expect_err(text), fault);
    }
}

/// A key without an id is found by its thumbprint: the example of RFC 8037 appendix A.3, and RFC 7638 section 3.1.
#[test]
fn thumbprints_are_those_of_the_specifications() {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let text = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}).to_string();
    let set = JwkSet::parse(&text).expect("a key");
    let id = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    assert_eq!(set.keys_of_id(id).count(), 1);
    let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    let text = json!({"keys": [{"kty": "RSA", "n": n, "e": "AQAB"}]}).to_string();
    let set = JwkSet::parse(&text).expect("a key");
    let id = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
    assert_eq!(set.keys_of_id(id).count(), 1);
}

/// The same key by its parts and by its certificate is one key, with the same ids.
#[test]
fn a_key_by_its_parts_is_the_key_of_its_certificate() {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let certificate = rcgen::CertificateParams::default().self_signed(&key);
        let certificate = certificate.expect("a certificate");
        let (_, parsed) = X509Certificate::from_der(certificate.der()).expect("a certificate");
        let kind = match key.public_key_raw().len() {
            65 => KeyKind::P256,
            32 => KeyKind::Ed25519,
            _ => KeyKind::Rsa,
        };
        let by_parts = PublicKey::of_kind(kind, key.public_key_raw().to_vec());
        assert_eq!(PublicKey::of_certificate(&parsed), Some(by_parts));
    }
}
