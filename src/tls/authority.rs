//! Our own certificate authorities: made once, then kept. `ca.crt` holds the certificates of all of them, the oldest first.
//!
//! Its key is written before its certificate, so a first run that ended between the two is completed with the same key.
//! Invariant: what it signs is good for servers only, and only under the names and in the networks it was made for. Clients
//! enforce that: its constraints are critical, and its extended key usage is nested by OpenSSL, Go and NSS (webpki, which
//! takes a name and a key from an authority, asks the leaf alone).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::TlsError;
use super::files::{self, PRIVATE, PUBLIC, parse};
use super::machine::Machine;
use super::names::{Constraints, HostName};
use crate::client::certificates;
use crate::{clock, durable_file};

/// Longer than any machine serves: trust is laid by hand on every client, and is not to be laid twice.
const LIFETIME: Duration = Duration::days(20 * 365);

/// Clocks in a lab differ; a certificate made now is valid on a machine that is a day behind.
pub(super) const BACKDATED: Duration = Duration::days(1);

/// How many names are tried for an authority that is set aside: more than happen in one second.
const SET_ASIDE_MAX: i64 = 1_000;

/// Where an authority is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// With the certificates of all authorities.
    pub(super) certificate: PathBuf,
    /// `ca.key`, `ca-2.key`, …
    pub(super) key: PathBuf,
}

impl Place {
    /// Of the authority with this number, counted from 0.
    pub(super) fn new(ca_certificate: &Path, keys_directory: &Path, number: usize) -> Self {
        Self {
            certificate: ca_certificate.to_owned(),
            key: keys_directory.join(files::numbered("ca", number, "key")),
        }
    }
}

/// A certificate and the key that signs for it.
pub(super) struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    /// Its block of PEM.
    pub(super) pem: String,
    pub(super) constraints: Constraints,
    pub(super) not_after: OffsetDateTime,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes what is missing of the first authority, where it can be made. Returns whether there is a new certificate.
    pub(super) fn make_first(
        place: &Place,
        machine: &Machine,
        hosts: &[HostName],
        now: OffsetDateTime,
    ) -> Result<bool, TlsError> {
        if place.certificate.exists() {
            return Ok(false);
        }
        let mut named = machine.own_names();
        named.extend(hosts.iter().cloned());
        let certificate = make(place, Constraints::private_and(&named), machine, now)?;
        files::write(&place.certificate, &certificate, PUBLIC)?;
        Ok(true)
    }

    /// Makes an authority for `hosts` alone, beside `others`.
    pub(super) fn make_additional(
        place: &Place,
        others: &[Self],
        machine: &Machine,
        hosts: &[HostName],
        now: OffsetDateTime,
    ) -> Result<(), TlsError> {
        let certificate = make(place, Constraints::only(hosts), machine, now)?;
        let mut all: String = others.iter().map(|other| other.pem.as_str()).collect();
        all.push_str(&certificate);
        files::write(&place.certificate, &all, PUBLIC)
    }

    /// The authorities in the file of certificates; each must have its key, and be in its time. There is at least one.
    pub(super) fn read_all(
        ca_certificate: &Path,
        keys_directory: &Path,
        now: OffsetDateTime,
    ) -> Result<Vec<Self>, TlsError> {
        if !ca_certificate.exists() {
            return Err(TlsError::AuthorityGone {
                path: ca_certificate.to_owned(),
            });
        }
        let certificates = files::read_certificates(ca_certificate)?;
        let text = String::from_utf8_lossy(&files::read(ca_certificate)?).into_owned();
        let blocks = certificates::pem_blocks(&text);
        certificates
            .into_iter()
            .zip(blocks)
            .enumerate()
            .map(|(number, (certificate, pem))| {
                let place = Place::new(ca_certificate, keys_directory, number);
                Self::read(&place, certificate, pem, now)
            })
            .collect()
    }

    fn read(
        place: &Place,
        certificate: CertificateDer<'static>,
        pem: String,
        now: OffsetDateTime,
    ) -> Result<Self, TlsError> {
        if !place.key.exists() {
            return Err(TlsError::AuthorityKeyMissing {
                certificate: place.certificate.clone(),
                key: place.key.clone(),
            });
        }
        let key = read_key(&place.key)?;
        let (constraints, not_before, not_after) = {
            let parsed = parse(&certificate, &place.certificate)?;
            if parsed.public_key().raw != key.subject_public_key_info() {
                return Err(TlsError::Mismatch {
                    certificate: place.certificate.clone(),
                    key: place.key.clone(),
                    hint: "restore both from the same backup, or make a new authority with `boathouse up --new-ca`",
                });
            }
            (
                constraints_of(&parsed),
                parsed.validity().not_before.to_datetime(),
                parsed.validity().not_after.to_datetime(),
            )
        };
        if now < not_before {
            return Err(TlsError::AuthorityNotYetValid {
                path: place.certificate.clone(),
            });
        }
        if not_after <= now {
            return Err(TlsError::AuthorityExpired {
                path: place.certificate.clone(),
            });
        }
        Ok(Self {
            pem,
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            certificate,
            constraints,
            not_after,
        })
    }
}

/// Sets all authorities aside as `.old-SECONDS`, so that the next start makes a new one. The keys go first: a crash in between
/// leaves a certificate without its key, with which no start goes on silently, and all can be put back by hand.
pub(super) fn set_aside(
    ca_certificate: &Path,
    keys_directory: &Path,
    now: OffsetDateTime,
) -> Result<(), TlsError> {
    let old = |path: &Path, unix_secs: i64| {
        let mut old = path.to_owned().into_os_string();
        old.push(format!(".old-{unix_secs}"));
        PathBuf::from(old)
    };
    let keys = (0..).map(|number| Place::new(ca_certificate, keys_directory, number).key);
    let mut paths: Vec<PathBuf> = keys.take_while(|key| key.exists()).collect();
    paths.push(ca_certificate.to_owned());
    // An authority that was set aside may be the one that clients trust: it is never overwritten.
    let is_free = |unix_secs: &i64| paths.iter().all(|path| !old(path, *unix_secs).exists());
    let first = now.unix_timestamp();
    let unix_secs = (first..first.saturating_add(SET_ASIDE_MAX))
        .find(is_free)
        .ok_or_else(|| TlsError::Write {
            path: old(ca_certificate, first),
            source: io::ErrorKind::AlreadyExists.into(),
        })?;
    for path in &paths {
        if path.exists() {
            let set_aside = || {
                fs::rename(path, old(path, unix_secs))?;
                durable_file::sync_directory(durable_file::directory_of(path))
            };
            set_aside().map_err(|source| TlsError::Write {
                path: old(path, unix_secs),
                source,
            })?;
        }
    }
    Ok(())
}

fn read_key(path: &Path) -> Result<KeyPair, TlsError> {
    Ok(KeyPair::try_from(&files::read_key(path)?)?)
}

/// Makes a certificate, and the key unless it is there: a start that ended between the two is completed with the same key.
fn make(
    place: &Place,
    constraints: Constraints,
    machine: &Machine,
    now: OffsetDateTime,
) -> Result<String, TlsError> {
    clock::check_is_set(u64::try_from(now.unix_timestamp()).unwrap_or(0))?;
    if !place.key.exists() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        files::write(&place.key, &key.serialize_pem(), PRIVATE)?;
    }
    let key = &read_key(&place.key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // With the day and something of the key, so that people and verifiers tell two authorities of one machine apart.
    let host = machine.name_in_subject();
    let [first, second, third, ..] = Sha256::digest(key.subject_public_key_info()).0;
    let of_key = format!("{first:02x}{second:02x}{third:02x}");
    let own = certificates::OWN_AUTHORITY;
    let subject = format!("{own} on {host}, {} {of_key}", now.date());
    params.distinguished_name.push(DnType::CommonName, subject);
    params.not_before = now - BACKDATED;
    params.not_after = now + LIFETIME;
    // It signs leaves, never another authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Clients are told to trust it for servers, and their stores may take it for more: mail, programs, clients.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(subtrees_of(constraints));
    Ok(params.self_signed(key)?.pem())
}

fn subtrees_of(constraints: Constraints) -> NameConstraints {
    let domains = constraints.domains.into_iter().map(GeneralSubtree::DnsName);
    let networks = constraints.networks.into_iter().map(|network| {
        let subnet = CidrSubnet::from_addr_prefix(network.addr(), network.prefix_len());
        GeneralSubtree::IpAddress(subnet)
    });
    // The leading dot: see `names`.
    let excluded = constraints.excluded_below.into_iter();
    let excluded = excluded.map(|domain| GeneralSubtree::DnsName(format!(".{domain}")));
    NameConstraints {
        permitted_subtrees: domains.chain(networks).collect(),
        excluded_subtrees: excluded.collect(),
    }
}

/// What a certificate's own text says; one without constraints permits everything.
fn constraints_of(certificate: &X509Certificate<'_>) -> Constraints {
    let mut constraints = Constraints::default();
    let extension = certificate.name_constraints().ok().flatten();
    let Some(extension) = extension.map(|extension| extension.value) else {
        return constraints;
    };
    for subtree in extension.excluded_subtrees.iter().flatten() {
        if let GeneralName::DNSName(name) = subtree.base {
            let name = name.trim_start_matches('.').to_ascii_lowercase();
            constraints.excluded_below.push(name);
        }
    }
    for subtree in extension.permitted_subtrees.iter().flatten() {
        match subtree.base {
            GeneralName::DNSName(name) => constraints.domains.push(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => {
                constraints.networks.extend(certificates::network_of(bytes));
            }
            _ => {}
        }
    }
    constraints
}
