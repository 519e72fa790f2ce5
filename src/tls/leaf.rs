//! The server's own certificate, signed by our authority and remade before anyone notices its end.
//!
//! Must not know who asks for it. Invariant: it carries only names that the authority permits, and it is shown to a client's
//! verifier before it is served.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::TlsError;
use super::authority::{Authority, BACKDATED};
use super::files::{self, PRIVATE, parse};
use super::machine::Machine;
use super::names::HostName;

/// Apple's clients take no longer one (825 days, from the day before it was made); a few days less for their counting.
const LIFETIME: Duration = Duration::days(820);

/// How long before its end it is remade: time for people to notice when that fails.
pub(super) const RENEWED_BEFORE_END: Duration = Duration::days(30);

/// What to do about a leaf and a key that differ.
const MISMATCH_HINT: &str = "remove both and restart; they are remade";

/// Where a leaf is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Place {
    /// Of the leaf of the authority with this number, counted from 0.
    pub(super) fn new(keys_directory: &Path, number: usize) -> Self {
        let [certificate, key] = ["crt", "key"]
            .map(|ending| keys_directory.join(files::numbered("tls", number, ending)));
        Self { certificate, key }
    }
}

/// The names for the leaf of each authority, and those of the machine and of `hosts` that none of them permits.
pub(super) fn wanted_names(
    machine: &Machine,
    hosts: &[HostName],
    authorities: &[Authority],
) -> (Vec<Vec<HostName>>, Vec<HostName>) {
    let mut wanted = vec![Vec::new(); authorities.len()];
    let mut refused = Vec::new();
    let mut asked: Vec<HostName> = machine.own_names();
    asked.extend(hosts.iter().cloned());
    let found = machine.addresses.iter().copied().map(HostName::Address);
    for name in asked.iter().cloned().chain(found) {
        let permits = |one: &Authority| one.constraints.permits(&name);
        match authorities
            .iter()
            .zip(&mut wanted)
            .find(|(one, _)| permits(one))
        {
            Some((_, names)) => names.push(name),
            None => refused.push(name),
        }
    }
    for names in &mut wanted {
        names.sort_unstable();
        names.dedup();
    }
    // Some were not asked for, and are no news at every start: a public address, which the machine just has, and its bare name,
    // which authorities of earlier versions do not permit.
    refused.retain(|name| hosts.contains(name) || (asked.contains(name) && !name.is_bare()));
    (wanted, refused)
}

/// The leaf at `place`, or why there must be a new one.
pub(super) fn read(
    place: &Place,
    authority: &Authority,
    wanted: &[HostName],
    now: OffsetDateTime,
    provider: &Arc<CryptoProvider>,
) -> Result<CertifiedKey, Stale> {
    if !place.certificate.exists() || !place.key.exists() {
        return Err(Stale::Missing);
    }
    let leaf = certified_key(&place.certificate, &place.key, MISMATCH_HINT, provider)
        .map_err(|error| Stale::Unusable(error.to_string()))?;
    let certificate = leaf.end_entity_cert().map_err(unusable)?;
    let (names, not_after) = {
        let parsed = parse(certificate, &place.certificate)
            .map_err(|error| Stale::Unusable(error.to_string()))?;
        (names_of(&parsed), parsed.validity().not_after.to_datetime())
    };
    // A leaf ends with its authority at the latest; remaking it then would change nothing.
    if not_after < authority.not_after && not_after - now < RENEWED_BEFORE_END {
        return Err(Stale::Ending);
    }
    // A name that has gone is kept until the next renewal: addresses of virtual networks come and go.
    if let Some(missing) = wanted.iter().find(|name| !names.contains(name)) {
        return Err(Stale::Lacks(missing.clone()));
    }
    accepted_by_clients(authority, certificate, wanted, now, provider).map_err(unusable)?;
    Ok(leaf)
}

/// Why a leaf is remade.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stale {
    #[error("there was none")]
    Missing,
    #[error("its end is near")]
    Ending,
    #[error("it lacks {0}")]
    Lacks(HostName),
    #[error("it cannot be used: {0}")]
    Unusable(String),
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn unusable(error: rustls::Error) -> Stale {
    Stale::Unusable(error.to_string())
}

/// Makes a leaf for `names`, shows it to a client's verifier and writes it with its chain.
pub(super) fn make(
    place: &Place,
    authority: &Authority,
    machine: &Machine,
    names: &[HostName],
    now: OffsetDateTime,
    provider: &Arc<CryptoProvider>,
) -> Result<CertifiedKey, TlsError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Not the authority's subject: OpenSSL would call an equal one self-signed.
    let subject = format!("Boathouse on {}", machine.name_in_subject());
    params.distinguished_name.push(DnType::CommonName, subject);
    for name in names {
        params.subject_alt_names.push(match name {
            HostName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            HostName::Address(address) => SanType::IpAddress(*address),
        });
    }
    params.not_before = now - BACKDATED;
    params.not_after = (now - BACKDATED + LIFETIME).min(authority.not_after);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &authority.issuer)?;
    accepted_by_clients(authority, certificate.der(), names, now, provider).map_err(|source| {
        TlsError::Unacceptable {
            authority: place.certificate.clone(),
            source,
        }
    })?;
    // A crash between the two leaves a pair that does not match: the next start makes another.
    files::write(&place.key, &key.serialize_pem(), PRIVATE)?;
    let chain = certificate.pem() + &authority.pem;
    files::write(&place.certificate, &chain, PRIVATE)?;
    certified_key(&place.certificate, &place.key, MISMATCH_HINT, provider)
}

/// A chain and its key from two files; they must belong together.
pub(super) fn certified_key(
    certificate: &Path,
    key: &Path,
    mismatch_hint: &'static str,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain = files::read_certificates(certificate)?;
    CertifiedKey::from_der(chain, files::read_key(key)?, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            hint: mismatch_hint,
        },
        source @ rustls::Error::InvalidCertificate(_) => TlsError::Unusable {
            certificate: certificate.to_owned(),
            source,
        },
        source => TlsError::Malformed {
            path: key.to_owned(),
            what: "private key or its certificate",
            source: source.into(),
        },
    })
}

/// Whether a client that trusts only `authority` would accept `leaf` for each of `names`.
fn accepted_by_clients(
    authority: &Authority,
    leaf: &CertificateDer<'_>,
    names: &[HostName],
    now: OffsetDateTime,
    provider: &Arc<CryptoProvider>,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone())?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let since_1970 = u64::try_from(now.unix_timestamp()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(since_1970));
    for name in names {
        let name = match name {
            HostName::Dns(name) => ServerName::try_from(name.as_str())
                .map_err(|error| rustls::Error::General(error.to_string()))?,
            HostName::Address(address) => ServerName::from(*address),
        };
        verifier.verify_server_cert(leaf, &[], &name, &[], now)?;
    }
    Ok(())
}

fn names_of(certificate: &X509Certificate<'_>) -> Vec<HostName> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension
        .iter()
        .flat_map(|names| &names.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(HostName::Dns(name.to_ascii_lowercase())),
            GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
                .map(Into::into)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(Into::into))
                .ok()
                .map(HostName::Address),
            _ => None,
        })
        .collect()
}
