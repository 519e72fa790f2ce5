//! Names of hosts, and which of them a certificate authority may sign for.
//!
//! Must not know files or keys. Invariant: what [`Constraints::permits`] allows, a client's verifier allows too; one name
//! outside makes OpenSSL and Go refuse a certificate for *every* name in it.
//!
//! A machine's bare name (`media`) is not among them, although people type it: a constraint of one label permits all below
//! it, that may be a public domain today or tomorrow, and the authority could then sign for every site there. `media.local`
//! and the full name are; the bare name must be given (`--host`, `tls.hosts`).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use rustls::pki_types::DnsName;

use super::TlsError;

/// Private, shared, link-local and loopback addresses: nothing on the public internet answers there.
const PRIVATE_NETWORKS: [&str; 9] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "127.0.0.0/8",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

/// Domains that no public authority signs for. Without a leading dot: RFC 5280 then means the name and all below it.
const PRIVATE_DOMAINS: [&str; 2] = ["local", "localhost"];

/// A DNS name (lower case, without a trailing dot) or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum HostName {
    /// A DNS name.
    Dns(String),
    /// An IP address.
    Address(IpAddr),
}

impl FromStr for HostName {
    type Err = TlsError;

    fn from_str(host: &str) -> Result<Self, TlsError> {
        let unbracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if let Ok(address) = unbracketed.parse() {
            return Ok(Self::Address(address));
        }
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match DnsName::try_from(name.as_str()) {
            Ok(_) => Ok(Self::Dns(name)),
            Err(_) => Err(TlsError::Host {
                host: host.to_owned(),
            }),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => formatter.write_str(name),
            Self::Address(address) => address.fmt(formatter),
        }
    }
}

/// The subtrees of names that an authority is confined to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Constraints {
    /// Domains: each stands for itself and all below it. None = every name.
    pub(super) domains: Vec<String>,
    /// Networks. None = every address.
    pub(super) networks: Vec<IpNet>,
}

impl Constraints {
    /// What a new authority may sign for: private ground, and `hosts` by name.
    pub(super) fn private_and(hosts: &[HostName]) -> Self {
        let mut constraints = Self {
            domains: PRIVATE_DOMAINS.map(str::to_owned).to_vec(),
            networks: PRIVATE_NETWORKS
                .iter()
                .filter_map(|network| network.parse().ok())
                .collect(),
        };
        for host in hosts {
            if !constraints.permits(host) {
                match host {
                    HostName::Dns(name) => constraints.domains.push(name.clone()),
                    HostName::Address(address) => constraints.networks.push((*address).into()),
                }
            }
        }
        constraints
    }

    /// May the authority sign for `host`?
    pub(super) fn permits(&self, host: &HostName) -> bool {
        match host {
            HostName::Dns(name) => {
                let is_below = |domain: &String| {
                    name.strip_suffix(domain.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                };
                self.domains.is_empty() || self.domains.iter().any(is_below)
            }
            HostName::Address(address) => {
                self.networks.is_empty()
                    || self
                        .networks
                        .iter()
                        .any(|network| network.contains(address))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> HostName {
        text.parse().expect("a host")
    }

    #[test]
    fn hosts_are_told_apart() {
        assert_eq!(host("Lab.Example."), HostName::Dns("lab.example".into()));
        assert_eq!(host("[::1]"), host("0:0:0:0:0:0:0:1"));
        assert_eq!(host("10.0.0.5"), HostName::Address([10, 0, 0, 5].into()));
        for bad in [
            "",
            ".",
            "https://a.b",
            "a.b:443",
            "a b",
            "a/b",
            "-a",
            "1.2.3.4.5",
            "é.b",
            "*.a",
        ] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_new_authority_is_confined_to_private_ground_and_its_own_names() {
        let constraints =
            Constraints::private_and(&[host("registry.lab.example"), host("198.51.100.7")]);
        for inside in [
            "localhost",
            "mini.local",
            "local",
            "a.registry.lab.example",
            "registry.lab.example",
            "10.255.0.1",
            "172.31.0.1",
            "100.127.0.1",
            "127.0.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "198.51.100.7",
        ] {
            assert!(constraints.permits(&host(inside)), "{inside}");
        }
        for outside in [
            "lab.example",
            "notlocal",
            "xregistry.lab.example",
            "example.com",
            "local.example",
            "172.32.0.1",
            "11.0.0.1",
            "8.8.8.8",
            "::2",
            "2001:db8::1",
            "198.51.100.8",
        ] {
            assert!(!constraints.permits(&host(outside)), "{outside}");
        }
    }

    #[test]
    fn every_private_network_is_read() {
        assert_eq!(
            Constraints::private_and(&[]).networks.len(),
            PRIVATE_NETWORKS.len()
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_stable(text in ".{0,80}") {
            if let Ok(parsed) = text.parse::<HostName>() {
                prop_assert_eq!(parsed.to_string().parse::<HostName>().expect("its own text"), parsed);
            }
        }

        #[test]
        fn whoever_is_named_is_permitted_with_all_below(name in "[a-z][a-z0-9]{0,8}(\\.[a-z][a-z0-9]{0,8}){0,3}", below in "[a-z]{1,8}") {
            let constraints = Constraints::private_and(&[host(&name)]);
            prop_assert!(constraints.permits(&host(&name)));
            let (deeper, beside) = (format!("{below}.{name}"), format!("{below}{name}"));
            prop_assert!(constraints.permits(&host(&deeper)));
            prop_assert_eq!(constraints.permits(&host(&beside)), Constraints::private_and(&[]).permits(&host(&beside)));
        }
    }
}
