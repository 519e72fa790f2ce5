//! What the machine is called, as far as certificates care.
//!
//! Invariant: the names it gives are well-formed; one that the system reports and DNS would refuse is left out.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use super::names::HostName;
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
    /// Its addresses, without loopback; the one that its other networks are reached from comes first.
    pub(super) addresses: Vec<IpAddr>,
}

impl Machine {
    /// This machine, now.
    pub(super) fn here() -> Self {
        let mut addresses = platform::interface_addresses();
        let outward = outward_address();
        addresses.sort_by_key(|address| Some(*address) != outward);
        Self {
            short_name: short_host_name(),
            full_name: full_host_name(),
            addresses,
        }
    }

    /// The names for its certificate: those by which it reaches itself, and those by which its network may know it.
    pub(super) fn own_names(&self) -> Vec<HostName> {
        let mut names = vec![
            HostName::Dns("localhost".to_owned()),
            HostName::Address(Ipv4Addr::LOCALHOST.into()),
            HostName::Address(Ipv6Addr::LOCALHOST.into()),
        ];
        names.extend(self.names().iter().filter_map(|name| name.parse().ok()));
        names
    }

    /// What others may call it, the shortest first: the bare name, the full one, that of mDNS. Whether any of them leads
    /// here is for a resolver to say.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = vec![self.short_name.clone()];
        names.extend(self.full_name.clone());
        names.push(format!("{}.local", self.short_name));
        names.retain(|name| name != "localhost" && name != "localhost.local");
        names.dedup();
        names
    }

    /// Its name, short enough to stand in the subject of a certificate.
    pub(super) fn name_in_subject(&self) -> String {
        let name = self.full_name.as_ref().unwrap_or(&self.short_name);
        name.chars().take(HOST_IN_SUBJECT_MAX).collect()
    }
}

/// The address from which this machine reaches other networks, which is not one of a bridge of containers.
fn outward_address() -> Option<IpAddr> {
    // Connecting a UDP socket sends nothing; the system chooses the address by its routes. TEST-NET-1 (RFC 5737) belongs to
    // no network, so the default route counts.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
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
