//! Whether a token is genuine: signature, issuer, key.
//!
//! Must not know users, rules, or when a token expires to whom. Invariant: keys come from the configuration only; what a
//! token brings itself (`x5c`) counts when it leads to a certificate of the configuration, an embedded `jwk` never does.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{ExtendedKeyUsageValidator, KeyPurposeIdIter};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::keys::{PublicKey, SigningKey, TokenAlgorithm, certificates_of_pem};
use super::{Claims, Header};
use crate::auth::SetupError;
use crate::auth::bounded::Bounded;
use crate::auth::keyed_hash::{KeyedHash, Purpose};
use crate::auth::settings::Limits;

/// Longer tokens are refused unread: no client gets them into its headers.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Certificates between a token's key and a trusted one, both included.
const CHAIN_LENGTH_MAX: usize = 4;

/// A genuine token; whether it is for us, now, is judged by the caller.
#[derive(Debug)]
pub(in crate::auth) struct Genuine {
    /// What it says.
    pub claims: Claims,
    /// Whether our own key signed it.
    pub is_under_our_key: bool,
    /// When the certificates that vouch for it end.
    pub vouched_until_unix_secs: u64,
}

struct Trusted {
    der: CertificateDer<'static>,
    /// If it is of a kind that signs tokens: a bundle may hold others (Ed25519), which may still issue certificates.
    key: Option<PublicKey>,
}

/// Whatever a certificate says it is used for: no usage stands for signing tokens.
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Knows the trusted keys, and remembers tokens that were genuine.
pub(in crate::auth) struct Verifier {
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
    pub(in crate::auth) fn new(
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
            let key = PublicKey::of_certificate(&certificate);
            trusted.push(Trusted {
                der: der.into(),
                key,
            });
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
    pub(in crate::auth) fn verify(&self, token: &str, now_unix_secs: u64) -> Option<Arc<Genuine>> {
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
        let keys = match header.x5c.filter(|chain| !chain.is_empty()) {
            Some(chain) => vec![self.key_of_chain(&chain, now_unix_secs)?],
            None => self.keys_of_id(header.kid.as_deref()?, now_unix_secs),
        };
        #[cfg(test)]
        self.checks
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (key, vouched_until_unix_secs) = keys
            .into_iter()
            .find(|(key, _)| key.verify_token(algorithm, message.as_bytes(), signed))?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let is_under_our_key = self.ours.as_ref() == Some(&key);
        (claims.iss == self.issuer).then_some(Genuine {
            claims,
            is_under_our_key,
            vouched_until_unix_secs,
        })
    }

    /// The keys with this id whose certificates are valid now, each with the end of its certificate.
    fn keys_of_id(&self, key_id: &str, now_unix_secs: u64) -> Vec<(PublicKey, u64)> {
        let valid = |trusted: &Trusted| {
            let key = trusted.key.as_ref().filter(|key| key.has_id(key_id))?;
            let (_, certificate) = X509Certificate::from_der(&trusted.der).ok()?;
            Some((key.clone(), valid_until(&certificate, now_unix_secs)?))
        };
        self.trusted.iter().filter_map(valid).collect()
    }

    /// The first certificate's key, and the end of what vouches for it, if the first certificate is a trusted one (of any
    /// kind: what `openssl req -x509` makes may sign others, and old ones are of version 1) or a path leads to one.
    fn key_of_chain(&self, chain: &[String], now_unix_secs: u64) -> Option<(PublicKey, u64)> {
        if chain.len() > CHAIN_LENGTH_MAX {
            return None;
        }
        let ders: Vec<CertificateDer<'static>> = chain
            .iter()
            .map(|text| STANDARD.decode(text).ok().map(CertificateDer::from))
            .collect::<Option<_>>()?;
        let (leaf, others) = ders.split_first()?;
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let key = PublicKey::of_certificate(&certificate)?;
        let until = valid_until(&certificate, now_unix_secs)?;
        if self.trusted.iter().any(|trusted| trusted.der == *leaf) {
            return Some((key, until));
        }
        let path_end = self.path_end(leaf, others, now_unix_secs)?;
        Some((key, until.min(path_end)))
    }

    /// When the first certificate ends on a path from a trusted authority to `leaf`; none: there is no path. webpki builds it
    /// and knows names, constraints and critical extensions; the length that a trusted authority allows, and what keys are
    /// for, it leaves to its caller.
    fn path_end(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now_unix_secs: u64,
    ) -> Option<u64> {
        let authorities: Vec<_> = self
            .trusted
            .iter()
            .filter(|trusted| issues_until(&trusted.der, 0, now_unix_secs).is_some())
            .filter_map(|trusted| {
                let anchor = webpki::anchor_from_trusted_cert(&trusted.der).ok()?;
                Some((trusted, anchor))
            })
            .collect();
        let anchors: Vec<_> = authorities
            .iter()
            .map(|(_, anchor)| anchor.clone())
            .collect();
        let leaf = webpki::EndEntityCert::try_from(leaf).ok()?;
        let end = Cell::new(None);
        let judge = |path: &webpki::VerifiedPath<'_>| {
            let between = path.intermediate_certificates();
            let between: Vec<_> = between.map(webpki::Cert::der).collect();
            let of_anchor = authorities
                .iter()
                .filter(|(_, anchor)| anchor == path.anchor())
                .filter_map(|(trusted, _)| issues_until(&trusted.der, between.len(), now_unix_secs))
                .max();
            let mut until = of_anchor;
            for (below, der) in between.iter().enumerate() {
                let of_this = issues_until(der, below, now_unix_secs);
                until = until.zip(of_this).map(|(one, other)| one.min(other));
            }
            end.set(until);
            until.map(drop).ok_or(webpki::Error::UnknownIssuer)
        };
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            others,
            UnixTime::since_unix_epoch(Duration::from_secs(now_unix_secs)),
            AnyUsage,
            None,
            Some(&judge),
        )
        .ok()?;
        end.get()
    }
}

/// When an authority ends, if it is valid now and may issue certificates with `below` authorities between.
fn issues_until(der: &[u8], below: usize, now_unix_secs: u64) -> Option<u64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let constraints = certificate.basic_constraints().ok()??;
    let length = constraints.value.path_len_constraint;
    let is_long_enough = length.is_none_or(|length| below <= length as usize);
    (may_issue(&certificate) && is_long_enough)
        .then(|| valid_until(&certificate, now_unix_secs))
        .flatten()
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
