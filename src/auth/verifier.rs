//! Whether a token is genuine: signature, issuer, key.
//!
//! Must not know users, rules, or when a token expires to whom. Invariant: keys come from the configuration only; what a
//! token brings itself (`x5c`) counts when it leads to a certificate of the configuration, an embedded `jwk` never does.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::SetupError;
use super::bounded::Bounded;
use super::keyed_hash::{KeyedHash, Purpose};
use super::keys::{PublicKey, TokenAlgorithm, certificates_of_pem};
use super::settings::Limits;
use super::signing::SigningKey;
use super::token::{Claims, Header};

/// Longer tokens are refused unread: no client gets them into its headers.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Certificates between a token's key and a trusted one, both included.
const CHAIN_LENGTH_MAX: usize = 4;

/// A genuine token; whether it is for us, now, is judged by the caller.
#[derive(Debug)]
pub(super) struct Genuine {
    /// What it says.
    pub claims: Claims,
    /// Whether our own key signed it.
    pub is_under_our_key: bool,
    /// When the certificates that vouch for it end (a token by key id only: never).
    pub vouched_until_unix_secs: u64,
}

struct Trusted {
    der: Vec<u8>,
    key: PublicKey,
}

/// Knows the trusted keys, and remembers tokens that were genuine.
pub(super) struct Verifier {
    issuer: String,
    trusted: Vec<Trusted>,
    ours: Option<PublicKey>,
    hash: KeyedHash,
    genuine: Mutex<Bounded<[u8; 32], Arc<Genuine>>>,
    /// How many signatures were checked.
    #[cfg(test)]
    pub checks: std::sync::atomic::AtomicUsize,
}

impl Verifier {
    /// Trusts these certificates, and our own.
    pub(super) fn new(
        issuer: &str,
        trusted_pem: &[String],
        signing: Option<&SigningKey>,
        limits: &Limits,
        hash: KeyedHash,
    ) -> Result<Self, SetupError> {
        let mut ders: Vec<Vec<u8>> = signing
            .map(|key| key.certificate_der.clone())
            .into_iter()
            .collect();
        for pem in trusted_pem {
            ders.extend(certificates_of_pem(pem)?);
        }
        let mut trusted = Vec::new();
        for der in ders {
            let (_, certificate) =
                X509Certificate::from_der(&der).map_err(|_| SetupError::Certificate)?;
            // A bundle may hold keys of kinds that sign no tokens here (Ed25519): they are left out.
            if let Some(key) = PublicKey::of_certificate(&certificate) {
                trusted.push(Trusted { der, key });
            }
        }
        Ok(Self {
            issuer: issuer.to_owned(),
            trusted,
            ours: signing.map(|key| key.public_key().clone()),
            hash,
            genuine: Mutex::new(Bounded::new(limits.verified_tokens_max)),
            #[cfg(test)]
            checks: std::sync::atomic::AtomicUsize::new(0),
        })
    }

    /// The token's content, if it is genuine.
    pub(super) fn verify(&self, token: &str, now_unix_secs: u64) -> Option<Arc<Genuine>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let fingerprint = self.hash.hash(Purpose::Token, &[token.as_bytes()]);
        let known = {
            let mut table = self.genuine.lock().unwrap_or_else(PoisonError::into_inner);
            table.get_mut(fingerprint).map(|known| Arc::clone(known))
        };
        let genuine = if let Some(known) = known {
            known
        } else {
            let genuine = Arc::new(self.check(token, now_unix_secs)?);
            self.genuine
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(fingerprint, Arc::clone(&genuine));
            genuine
        };
        (now_unix_secs <= genuine.vouched_until_unix_secs).then_some(genuine)
    }

    fn check(&self, token: &str, now_unix_secs: u64) -> Option<Genuine> {
        let (message, signed) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.crit.is_some() {
            return None;
        }
        let algorithm = TokenAlgorithm::from_name(&header.alg)?;
        let (keys, vouched_until_unix_secs) = match header.x5c.filter(|chain| !chain.is_empty()) {
            Some(chain) => {
                let (key, until) = self.key_of_chain(&chain, now_unix_secs)?;
                (vec![key], until)
            }
            None => (self.keys_of_id(header.kid.as_deref()?), u64::MAX),
        };
        #[cfg(test)]
        self.checks
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let key = keys
            .iter()
            .find(|key| key.verify_token(algorithm, message.as_bytes(), signed))?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let is_under_our_key = self.ours.as_ref() == Some(key);
        (claims.iss == self.issuer).then_some(Genuine {
            claims,
            is_under_our_key,
            vouched_until_unix_secs,
        })
    }

    fn keys_of_id(&self, key_id: &str) -> Vec<PublicKey> {
        let keys = self.trusted.iter().map(|trusted| &trusted.key);
        keys.filter(|key| key.has_id(key_id)).cloned().collect()
    }

    /// The first certificate's key, if the chain leads to a trusted certificate: by being one, or through issuers.
    fn key_of_chain(&self, chain: &[String], now_unix_secs: u64) -> Option<(PublicKey, u64)> {
        if chain.len() > CHAIN_LENGTH_MAX {
            return None;
        }
        let ders: Vec<Vec<u8>> = chain
            .iter()
            .map(|text| STANDARD.decode(text).ok())
            .collect::<Option<_>>()?;
        let certificates: Vec<X509Certificate<'_>> = ders
            .iter()
            .map(|der| {
                X509Certificate::from_der(der)
                    .ok()
                    .map(|(_, parsed)| parsed)
            })
            .collect::<Option<_>>()?;
        let key = PublicKey::of_certificate(certificates.first()?)?;
        let mut until = u64::MAX;
        for (place, (certificate, der)) in certificates.iter().zip(&ders).enumerate() {
            until = until.min(valid_until(certificate, now_unix_secs)?);
            if place > 0 && !may_issue(certificate) {
                return None;
            }
            if self.trusted.iter().any(|trusted| trusted.der == *der) {
                return Some((key, until));
            }
            if let Some(end) = self.issued_by_trusted(certificate, now_unix_secs) {
                return Some((key, until.min(end)));
            }
            let next = certificates.get(place + 1)?;
            let is_issuer = next.subject() == certificate.issuer()
                && PublicKey::of_certificate(next)?.issued(certificate);
            if !is_issuer {
                return None;
            }
        }
        None
    }

    fn issued_by_trusted(&self, issued: &X509Certificate<'_>, now_unix_secs: u64) -> Option<u64> {
        self.trusted.iter().find_map(|trusted| {
            let (_, certificate) = X509Certificate::from_der(&trusted.der).ok()?;
            let end = valid_until(&certificate, now_unix_secs)?;
            let is_issuer = may_issue(&certificate)
                && certificate.subject() == issued.issuer()
                && trusted.key.issued(issued);
            is_issuer.then_some(end)
        })
    }
}

/// Whether a certificate is an authority's, and its key, if it says what that is for, is for signing certificates.
fn may_issue(certificate: &X509Certificate<'_>) -> bool {
    let may_sign = match certificate.key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Err(_) => false,
    };
    certificate.is_ca() && may_sign
}

/// When a certificate that is valid now ends.
fn valid_until(certificate: &X509Certificate<'_>, now_unix_secs: u64) -> Option<u64> {
    let validity = certificate.validity();
    let start = u64::try_from(validity.not_before.timestamp()).unwrap_or(0);
    let end = u64::try_from(validity.not_after.timestamp()).ok()?;
    (start..=end).contains(&now_unix_secs).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Secret, SigningKeyPem};
    use super::super::token;
    use super::*;

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
}
