//! The certificates that vouch for the keys of token issuers: paths to a trusted one, and when they end.
//!
//! Must not know claims. Invariant: trust comes from the configuration only; what a token brings itself (`x5c`) counts when
//! it leads to a certificate of the configuration.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{ExtendedKeyUsageValidator, KeyPurposeIdIter};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::TokenFault;
use super::keys::{PublicKey, certificates_of_pem};
use crate::auth::SetupError;
use crate::auth::settings::SigningKeyPem;

/// Certificates between a token's key and a trusted one, both included.
const CHAIN_LENGTH_MAX: usize = 4;

/// An end that is nearer than this is warned of: time to renew a certificate, and to hand it to other registries.
const WARNING_DAYS: u64 = 30;

const DAY_SECS: u64 = 24 * 60 * 60;

/// A key, and when the certificates that vouch for it end.
pub(super) struct Vouched {
    pub(super) key: PublicKey,
    pub(super) until_unix_secs: u64,
}

/// The certificates of the configuration.
pub(super) struct TrustedCertificates(Vec<Trusted>);

struct Trusted {
    der: CertificateDer<'static>,
    /// If it is of a kind that signs tokens: a bundle may hold others (DSA), which may still issue certificates.
    key: Option<PublicKey>,
}

/// Accepts any usage of a certificate: none stands for signing tokens.
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

impl TrustedCertificates {
    /// Trusts these (DER).
    pub(super) fn new(ders: Vec<Vec<u8>>) -> Result<Self, SetupError> {
        let read = |der: Vec<u8>| {
            let (_, certificate) =
                X509Certificate::from_der(&der).map_err(|_| SetupError::Certificate)?;
            let key = PublicKey::of_certificate(&certificate);
            Ok(Trusted {
                der: der.into(),
                key,
            })
        };
        ders.into_iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The keys with this id whose certificates are valid now.
    pub(super) fn keys_of_id(&self, key_id: &str, now: u64) -> Result<Vec<Vouched>, TokenFault> {
        let mut keys = Vec::new();
        let mut fault = TokenFault::KeyUnknown;
        for trusted in &self.0 {
            let Some(key) = trusted.key.as_ref().filter(|key| key.has_id(key_id)) else {
                continue;
            };
            match parse(&trusted.der).and_then(|certificate| valid_until(&certificate, now)) {
                Ok(until_unix_secs) => keys.push(Vouched {
                    key: key.clone(),
                    until_unix_secs,
                }),
                Err(of_certificate) => fault = of_certificate,
            }
        }
        if keys.is_empty() {
            Err(fault)
        } else {
            Ok(keys)
        }
    }

    /// The key of the first certificate of `x5c`, if that certificate is a trusted one (of any kind: what `openssl req -x509`
    /// makes may sign others, and old ones are of version 1) or a path leads to one.
    pub(super) fn key_of_chain(&self, x5c: &[String], now: u64) -> Result<Vouched, TokenFault> {
        if x5c.len() > CHAIN_LENGTH_MAX {
            return Err(TokenFault::Malformed);
        }
        let ders: Vec<CertificateDer<'static>> = x5c
            .iter()
            .map(|text| STANDARD.decode(text).map(CertificateDer::from))
            .collect::<Result<_, _>>()
            .map_err(|_| TokenFault::Malformed)?;
        let (leaf, others) = ders.split_first().ok_or(TokenFault::Malformed)?;
        let certificate = parse(leaf)?;
        let key = PublicKey::of_certificate(&certificate).ok_or(TokenFault::KeyUnknown)?;
        let mut until_unix_secs = valid_until(&certificate, now)?;
        if !self.0.iter().any(|trusted| trusted.der == *leaf) {
            until_unix_secs = until_unix_secs.min(self.path_end(leaf, others, now)?);
        }
        Ok(Vouched {
            key,
            until_unix_secs,
        })
    }

    /// When the first certificate ends on a path from a trusted authority to `leaf`. webpki builds the path and knows names,
    /// constraints and critical extensions. It leaves to its caller the length that a trusted authority allows, what keys are
    /// for, and whether the trusted authority itself is valid now.
    fn path_end(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: u64,
    ) -> Result<u64, TokenFault> {
        let authorities: Vec<_> = self
            .0
            .iter()
            .filter_map(|trusted| {
                let anchor = webpki::anchor_from_trusted_cert(&trusted.der).ok()?;
                Some((trusted, anchor))
            })
            .collect();
        let anchors: Vec<_> = authorities
            .iter()
            .map(|(_, anchor)| anchor.clone())
            .collect();
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|_| TokenFault::Malformed)?;
        let end = Cell::new(Err(TokenFault::CertificateUntrusted));
        let judge = |path: &webpki::VerifiedPath<'_>| {
            let between = path.intermediate_certificates();
            let between: Vec<_> = between.map(webpki::Cert::der).collect();
            // Several may have the same name and key: the one that ends last counts.
            let of_anchor = authorities
                .iter()
                .filter(|(_, anchor)| anchor == path.anchor())
                .map(|(trusted, _)| issues_until(&trusted.der, between.len(), now))
                .reduce(|one, other| match (one, other) {
                    (Ok(one), Ok(other)) => Ok(one.max(other)),
                    (Ok(end), Err(_)) | (Err(_), Ok(end)) => Ok(end),
                    (Err(fault), Err(_)) => Err(fault),
                });
            let mut until = of_anchor.unwrap_or(Err(TokenFault::CertificateUntrusted));
            for (below, der) in between.iter().enumerate() {
                until = until.and_then(|until| Ok(until.min(issues_until(der, below, now)?)));
            }
            // A path that is not valid now tells more than one that never was.
            if until.is_ok() || until != Err(TokenFault::CertificateUntrusted) {
                end.set(until);
            }
            until.map(drop).map_err(|_| webpki::Error::UnknownIssuer)
        };
        let verified = leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            others,
            UnixTime::since_unix_epoch(Duration::from_secs(now)),
            AnyUsage,
            None,
            Some(&judge),
        );
        match (verified, end.get()) {
            (Ok(_), end) => end,
            (Err(webpki::Error::CertExpired { .. }), _) => Err(TokenFault::CertificateExpired),
            (Err(webpki::Error::CertNotValidYet { .. }), _) => {
                Err(TokenFault::CertificateNotYetValid)
            }
            (Err(_), Err(fault)) => Err(fault),
            (Err(_), Ok(_)) => Err(TokenFault::CertificateUntrusted),
        }
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, TokenFault> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| TokenFault::Malformed)?;
    Ok(certificate)
}

/// When an authority ends, if it is valid now and may issue certificates with `below` authorities between.
fn issues_until(der: &[u8], below: usize, now: u64) -> Result<u64, TokenFault> {
    let certificate = parse(der)?;
    let constraints = certificate.basic_constraints().ok().flatten();
    let constraints = constraints.ok_or(TokenFault::CertificateUntrusted)?;
    let length = constraints.value.path_len_constraint;
    let is_long_enough = length.is_none_or(|length| below <= length as usize);
    if may_issue(&certificate) && is_long_enough {
        valid_until(&certificate, now)
    } else {
        Err(TokenFault::CertificateUntrusted)
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

/// When a certificate ends that is valid now.
fn valid_until(certificate: &X509Certificate<'_>, now: u64) -> Result<u64, TokenFault> {
    let (start, end) = validity(certificate);
    if now < start {
        Err(TokenFault::CertificateNotYetValid)
    } else if now > end {
        Err(TokenFault::CertificateExpired)
    } else {
        Ok(end)
    }
}

/// The first and the last second of a certificate; one that ended before 1970 has ended at 0.
fn validity(certificate: &X509Certificate<'_>) -> (u64, u64) {
    let validity = certificate.validity();
    let unix_secs =
        |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    (
        unix_secs(validity.not_before),
        unix_secs(validity.not_after),
    )
}

/// A certificate that vouches for token keys, and has expired or soon will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndingCertificate {
    /// Its subject.
    pub subject: String,
    /// Whether it is that of the key which signs tokens here; otherwise one whose tokens are believed.
    pub is_own: bool,
    /// Its last second, since 1970.
    pub ends_unix_secs: u64,
    /// Whether it has expired.
    pub has_expired: bool,
}

impl fmt::Display for EndingCertificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = i64::try_from(self.ends_unix_secs).ok();
        let end = end.and_then(|secs| time::OffsetDateTime::from_unix_timestamp(secs).ok());
        let end = end.map_or_else(|| "an unknown day".to_owned(), |end| end.date().to_string());
        let (key, hint) = if self.is_own {
            (
                "token.certificate",
                "renew it, and replace it in the registries that trust it",
            )
        } else {
            (
                "auth.token.rootcertbundle",
                "add the issuer's new certificate, and remove this one once it has expired",
            )
        };
        let subject = &self.subject;
        if self.has_expired {
            write!(
                out,
                "{key}: the certificate `{subject}` expired on {end}: its tokens are refused; hint: {hint}"
            )
        } else {
            write!(
                out,
                "{key}: the certificate `{subject}` expires on {end}: its tokens are refused from then on; hint: {hint}"
            )
        }
    }
}

/// Whether tokens that carry the certificates of `own` are believed by a registry that trusts those of `trusted_pem` alone.
pub fn is_vouched_for(own: &SigningKeyPem, trusted_pem: &str, now_unix_secs: u64) -> bool {
    let own = certificates_of_pem(&own.certificate_pem).unwrap_or_default();
    let own: Vec<String> = own.iter().map(|der| STANDARD.encode(der)).collect();
    let trusted = certificates_of_pem(trusted_pem).and_then(TrustedCertificates::new);
    // What cannot be read is reported by `Auth::new`, and what has ended by `ending_certificates`.
    trusted.map_or(true, |trusted| {
        let vouched = trusted.key_of_chain(&own, now_unix_secs);
        !matches!(vouched, Err(TokenFault::CertificateUntrusted))
    })
}

/// Of the certificate of our key and those that are trusted, the ones that have expired, or expire within 30 days. Certificates that cannot be read are left to
/// [`Auth::new`](crate::auth::Auth::new), which reports them.
pub fn ending_certificates(
    own: Option<&SigningKeyPem>,
    trusted_pem: &[String],
    now_unix_secs: u64,
) -> Vec<EndingCertificate> {
    let own = own.map(|pem| (&pem.certificate_pem, true));
    let trusted = trusted_pem.iter().map(|pem| (pem, false));
    let mut ending: Vec<EndingCertificate> = Vec::new();
    for (pem, is_own) in own.into_iter().chain(trusted) {
        for der in certificates_of_pem(pem).unwrap_or_default() {
            let Ok(certificate) = parse(&der) else {
                continue;
            };
            let (_, ends_unix_secs) = validity(&certificate);
            if ends_unix_secs < now_unix_secs.saturating_add(WARNING_DAYS * DAY_SECS) {
                ending.push(EndingCertificate {
                    subject: certificate.subject().to_string(),
                    is_own,
                    ends_unix_secs,
                    has_expired: now_unix_secs > ends_unix_secs,
                });
            }
        }
    }
    ending
}
