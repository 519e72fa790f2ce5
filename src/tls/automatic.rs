//! `tls: auto`: an authority of our own and a leaf that follows the machine.
//!
//! Invariant: an authority is made only at start. While the program runs, one that has gone is an error, not a reason for
//! another one that no client trusts.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::TlsError;
use super::authority::{self, Authority};
use super::files;
use super::leaf;
use super::machine::Machine;
use super::names::HostName;
use crate::client::certificates;

/// The authority's and the leaf's places, and the names that the config adds.
pub(super) struct Automatic {
    authority: authority::Place,
    leaf: leaf::Place,
    hosts: Vec<HostName>,
    /// The names last warned about: once, not every hour.
    warned_of: Mutex<Vec<HostName>>,
}

impl Automatic {
    pub(super) fn new(
        ca_certificate: &Path,
        keys_directory: &Path,
        hosts: &[String],
    ) -> Result<Self, TlsError> {
        Ok(Self {
            authority: authority::Place {
                certificate: ca_certificate.to_owned(),
                key: keys_directory.join("ca.key"),
            },
            leaf: leaf::Place {
                certificate: keys_directory.join("tls.crt"),
                key: keys_directory.join("tls.key"),
            },
            hosts: hosts
                .iter()
                .map(|host| host.parse())
                .collect::<Result<_, _>>()?,
            warned_of: Mutex::default(),
        })
    }

    /// Makes what is missing of the authority. Where there was one before, as its key or a leaf shows, clients trust that one:
    /// the fingerprint of the new one is returned, for people to know.
    pub(super) fn make_authority(
        &self,
        machine: &Machine,
        now: OffsetDateTime,
    ) -> Result<Option<String>, TlsError> {
        if let Some(keys_directory) = self.authority.key.parent() {
            files::make_private_directory(keys_directory)?;
        }
        let is_first = !self.authority.key.exists() && !self.leaf.certificate.exists();
        let is_new = Authority::make_missing(&self.authority, machine, &self.hosts, now)?;
        if !is_new || is_first {
            return Ok(None);
        }
        let authority = Authority::read(&self.authority, now)?;
        Ok(Some(certificates::fingerprint(&authority.certificate)))
    }

    pub(super) fn set_authority_aside(&self, now: OffsetDateTime) -> Result<(), TlsError> {
        authority::set_aside(&self.authority, now)
    }

    /// The authority, and a leaf that is good for now: remade if it must be.
    pub(super) fn read(
        &self,
        machine: &Machine,
        now: OffsetDateTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(Authority, CertifiedKey), TlsError> {
        let authority = Authority::read(&self.authority, now)?;
        if authority.not_after - now < leaf::RENEWED_BEFORE_END {
            let end = authority.not_after;
            tracing::warn!(%end, "the certificate authority ends soon; hint: boathouse up --new-ca");
        }
        let (wanted, refused) = leaf::wanted_names(machine, &self.hosts, &authority);
        self.warn_of(refused);
        let leaf = match leaf::read(&self.leaf, &authority, &wanted, now, provider) {
            Ok(leaf) => leaf,
            Err(reason) => {
                let leaf = leaf::make(&self.leaf, &authority, machine, &wanted, now, provider)?;
                tracing::info!(%reason, "the server certificate was made");
                leaf
            }
        };
        Ok((authority, leaf))
    }

    fn warn_of(&self, refused: Vec<HostName>) {
        let mut warned_of = self
            .warned_of
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !refused.is_empty() && *warned_of != refused {
            let names: Vec<String> = refused.iter().map(HostName::to_string).collect();
            tracing::warn!(
                names = names.join(", "),
                "left out of the server certificate: the certificate authority was made without these names; hint: boathouse \
                 up --new-ca (every client must then trust it anew)"
            );
        }
        *warned_of = refused;
    }
}
