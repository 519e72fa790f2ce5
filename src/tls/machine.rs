//! What the machine is called, as far as certificates care.
//!
//! Invariant: the names it gives are well-formed; one that the system reports and DNS would refuse is left out.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::{Constraints, HostName};
use crate::platform;

/// X.520 allows 64 characters in a common name; the rest of our longest takes 35.
const HOST_IN_SUBJECT_MAX: usize = 29;

/// The machine's names and addresses at one moment.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    /// As `hostname -s`.
    pub(super) short_name: String,
    /// The name with its domain, if it has one.
    pub(super) full_name: Option<String>,
    /// Its addresses, without loopback.
    pub(super) addresses: Vec<IpAddr>,
}

impl Machine {
    /// This machine, now.
    pub(super) fn here() -> Self {
        Self {
            short_name: short_host_name(),
            full_name: full_host_name(),
            addresses: platform::interface_addresses(),
        }
    }

    /// The names by which this machine reaches itself, and those by which its network knows it.
    pub(super) fn own_names(&self) -> Vec<HostName> {
        let mut names = vec![
            HostName::Dns("localhost".to_owned()),
            HostName::Address(Ipv4Addr::LOCALHOST.into()),
            HostName::Address(Ipv6Addr::LOCALHOST.into()),
        ];
        let mdns_name = format!("{}.local", self.short_name);
        // A name of one label is not for an authority (see `names`).
        let full_name = self.full_name.as_ref().filter(|name| name.contains('.'));
        for name in [Some(&mdns_name), full_name].into_iter().flatten() {
            names.extend(name.parse());
        }
        names
    }

    /// The one of its names by which others most likely find it.
    pub(super) fn best_name(&self) -> String {
        if let Some(full_name) = &self.full_name {
            return full_name.clone();
        }
        let mdns_name = format!("{}.local", self.short_name);
        // Every Mac answers to this name; elsewhere few machines do, but all have their address.
        if platform::IS_MACOS {
            return mdns_name;
        }
        let private = Constraints::private_and(&[]);
        let mut addresses = self.addresses.iter().filter(|address| address.is_ipv4());
        addresses
            .find(|address| private.permits(&HostName::Address(**address)))
            .map_or(mdns_name, ToString::to_string)
    }

    /// Its name, short enough to stand in the subject of a certificate.
    pub(super) fn name_in_subject(&self) -> String {
        let name = self.full_name.as_ref().unwrap_or(&self.short_name);
        name.chars().take(HOST_IN_SUBJECT_MAX).collect()
    }
}

/// The host's short name, as `hostname -s`.
fn short_host_name() -> String {
    let node_name = platform::node_name();
    let short = node_name.split('.').next().unwrap_or_default();
    if short.is_empty() { "localhost" } else { short }.to_owned()
}

/// The host's full name, if it has one: the node name with its dots, else the first dotted name beside it in `/etc/hosts`.
fn full_host_name() -> Option<String> {
    let node_name = platform::node_name();
    if node_name.contains('.') {
        return Some(node_name);
    }
    let hosts = fs::read_to_string("/etc/hosts").ok()?;
    let lines = hosts.lines().filter_map(|line| line.split('#').next());
    let mut names = lines.map(|line| line.split_whitespace().skip(1));
    let mut names = names.find(|names| names.clone().any(|name| name == node_name))?;
    names.find(|name| name.contains('.')).map(str::to_owned)
}
