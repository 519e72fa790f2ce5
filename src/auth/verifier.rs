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
                trusted.push(Trusted { key, der });
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
            if place > 0 && !certificate.is_ca() {
                return None;
            }
            if self.trusted.iter().any(|trusted| trusted.der == *der) {
                return Some((key, until));
            }
            if let Some(end) = self.issued_by_trusted(certificate, now_unix_secs) {
                return Some((key, until.min(end)));
            }
            let issuer = PublicKey::of_certificate(certificates.get(place + 1)?)?;
            if !issuer.issued(certificate) {
                return None;
            }
        }
        None
    }

    fn issued_by_trusted(&self, issued: &X509Certificate<'_>, now_unix_secs: u64) -> Option<u64> {
        self.trusted.iter().find_map(|trusted| {
            let (_, certificate) = X509Certificate::from_der(&trusted.der).ok()?;
            let end = valid_until(&certificate, now_unix_secs)?;
            let is_issuer = certificate.is_ca()
                && certificate.subject() == issued.issuer()
                && trusted.key.issued(issued);
            is_issuer.then_some(end)
        })
    }
}

/// When a certificate that is valid now ends.
fn valid_until(certificate: &X509Certificate<'_>, now_unix_secs: u64) -> Option<u64> {
    let validity = certificate.validity();
    let start = u64::try_from(validity.not_before.timestamp()).unwrap_or(0);
    let end = u64::try_from(validity.not_after.timestamp()).ok()?;
    (start..=end).contains(&now_unix_secs).then_some(end)
}
