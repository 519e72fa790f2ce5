//! `tls: auto`: authorities of our own, and for each a leaf that follows the machine.
//!
//! The first authority is for the machine and the names of its first run. A name that is added later, and that it may not sign
//! for, gets an additional authority, so that clients of the other names need no change. Invariants: authorities are made only at
//! start; while the program runs, one that is missing is an error, not a reason for another one that no client trusts. Each name
//! is in the leaf of the first authority that permits it, and in no other.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::TlsError;
use super::authority::{self, Authority};
use super::files::{self, PRIVATE};
use super::leaf;
use super::machine::Machine;
use super::names::HostName;
use crate::client::certificates;

/// How many authorities there may be: each is another certificate for every client. `up --new-ca` makes one of all.
pub(super) const AUTHORITIES_MAX: usize = 8;

/// What stands above the names in the file of those that `up --host` was given.
const HOSTS_HEAD: &str = "# Names and addresses of this machine that `boathouse up --host` was given, one on a line, besides `tls.hosts`.\n";

/// Where authorities and leaves are, and the names that were asked for.
pub(super) struct Automatic {
    ca_certificate: PathBuf,
    keys_directory: PathBuf,
    /// Of the configuration, then those of `up --host`.
    hosts: Vec<HostName>,
    /// The names last warned about: once, not every hour.
    warned_of: Mutex<Vec<HostName>>,
}

/// An authority, and the leaf of the names that only it permits. There is none if no such name is asked for any more.
pub(super) struct Issued {
    pub(super) authority: Authority,
    pub(super) leaf: Option<CertifiedKey>,
}

/// The keys of the authorities in the file of certificates: at least that of the first.
pub(super) fn authority_keys(ca_certificate: &Path, keys_directory: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(ca_certificate).unwrap_or_default();
    let count = certificates::pem_blocks(&text).len();
    let numbers = 0..count.clamp(1, AUTHORITIES_MAX);
    numbers
        .map(|number| authority::Place::new(ca_certificate, keys_directory, number).key)
        .collect()
}

impl Automatic {
    pub(super) fn new(
        ca_certificate: &Path,
        keys_directory: &Path,
        hosts: &[String],
    ) -> Result<Self, TlsError> {
        let mut hosts = hosts.to_vec();
        hosts.extend(remembered_hosts(keys_directory));
        Ok(Self {
            ca_certificate: ca_certificate.to_owned(),
            keys_directory: keys_directory.to_owned(),
            hosts: hosts
                .iter()
                .map(|host| host.parse())
                .collect::<Result<_, _>>()?,
            warned_of: Mutex::default(),
        })
    }

    /// Makes the authorities that are missing. The fingerprint of each new one that clients must trust is returned, with the
    /// names that it is for; that of a first run is no news.
    pub(super) fn make_authorities(
        &self,
        machine: &Machine,
        now: OffsetDateTime,
    ) -> Result<Vec<(String, Vec<HostName>)>, TlsError> {
        files::make_private_directory(&self.keys_directory)?;
        let first = authority::Place::new(&self.ca_certificate, &self.keys_directory, 0);
        let is_first_run = !first.key.exists() && !self.leaf(0).certificate.exists();
        let mut made = Vec::new();
        let is_new = Authority::make_first(&first, machine, &self.hosts, now)?;
        let mut authorities = self.read_authorities(now)?;
        let fingerprint = |authority: &Authority| certificates::fingerprint(&authority.certificate);
        if is_new && !is_first_run {
            made.extend(
                authorities
                    .first()
                    .map(|first| (fingerprint(first), Vec::new())),
            );
        }
        let missing: Vec<HostName> = self
            .hosts
            .iter()
            .filter(|host| !authorities.iter().any(|one| one.constraints.permits(host)))
            .cloned()
            .collect();
        if !missing.is_empty() && authorities.len() < AUTHORITIES_MAX {
            let number = authorities.len();
            let place = authority::Place::new(&self.ca_certificate, &self.keys_directory, number);
            Authority::make_additional(&place, &authorities, machine, &missing, now)?;
            authorities = self.read_authorities(now)?;
            made.extend(authorities.last().map(|last| (fingerprint(last), missing)));
        }
        Ok(made)
    }

    fn read_authorities(&self, now: OffsetDateTime) -> Result<Vec<Authority>, TlsError> {
        Authority::read_all(&self.ca_certificate, &self.keys_directory, now)
    }

    fn leaf(&self, number: usize) -> leaf::Place {
        leaf::Place::new(&self.keys_directory, number)
    }

    pub(super) fn set_authorities_aside(&self, now: OffsetDateTime) -> Result<(), TlsError> {
        authority::set_aside(&self.ca_certificate, &self.keys_directory, now)?;
        for number in 1..AUTHORITIES_MAX {
            self.remove_leaf(number);
        }
        Ok(())
    }

    /// A leaf that is not served any more would be taken for one that is.
    fn remove_leaf(&self, number: usize) {
        let place = self.leaf(number);
        for path in [place.certificate, place.key] {
            // It may not exist. One that stays is remade where it is needed.
            let _ = fs::remove_file(path);
        }
    }

    /// The authorities, each with a leaf that is good for now: remade if it must be. The first one always has a leaf.
    pub(super) fn read(
        &self,
        machine: &Machine,
        now: OffsetDateTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Vec<Issued>, TlsError> {
        let authorities = self.read_authorities(now)?;
        let (wanted, refused) = leaf::wanted_names(machine, &self.hosts, &authorities);
        self.warn_of(refused);
        let mut issued = Vec::new();
        for (number, (authority, wanted)) in authorities.into_iter().zip(wanted).enumerate() {
            if authority.not_after - now < leaf::RENEWED_BEFORE_END {
                let end = authority.not_after;
                tracing::warn!(%end, "the certificate authority ends soon; hint: boathouse up --new-ca");
            }
            let place = self.leaf(number);
            let leaf = if number > 0 && wanted.is_empty() {
                self.remove_leaf(number);
                None
            } else {
                let read = leaf::read(&place, &authority, &wanted, now, provider);
                Some(match read {
                    Ok(leaf) => leaf,
                    Err(reason) => {
                        let leaf = leaf::make(&place, &authority, machine, &wanted, now, provider)?;
                        let certificate = place.certificate.display();
                        tracing::info!(%certificate, %reason, "made a server certificate");
                        leaf
                    }
                })
            };
            issued.push(Issued { authority, leaf });
        }
        Ok(issued)
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
                "left out of the server certificate: no certificate authority here may sign for these names; hint: add them to \
                 `tls.hosts`, or run `boathouse up --host NAME` once: that makes an additional authority"
            );
        }
        *warned_of = refused;
    }
}

/// Where the names are that `up --host` was given.
fn hosts_file(keys_directory: &Path) -> PathBuf {
    keys_directory.join("hosts")
}

/// The names that `up --host` was given on a later run than the first, which alone writes the config.
pub(super) fn remembered_hosts(keys_directory: &Path) -> Vec<String> {
    let text = fs::read_to_string(hosts_file(keys_directory)).unwrap_or_default();
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// Adds `hosts` to them.
pub(super) fn remember_hosts(keys_directory: &Path, hosts: &[String]) -> Result<(), TlsError> {
    let file = hosts_file(keys_directory);
    let mut text = fs::read_to_string(&file).unwrap_or_else(|_| HOSTS_HEAD.to_owned());
    let known = remembered_hosts(keys_directory);
    for host in hosts.iter().filter(|host| !known.contains(host)) {
        text.push_str(host);
        text.push('\n');
    }
    files::write(&file, &text, PRIVATE)
}
