//! Names of hosts, and which of them a certificate authority may sign for.
//!
//! Must not know files or keys. Invariant: what [`Constraints::permits`] allows, a client's verifier allows too; one name
//! outside makes OpenSSL and Go refuse a certificate for *every* name in it.
//!
//! A bare name (`media`) is permitted alone: a constraint of one label also permits every name below it, and `.media` may be
//! a public domain today or tomorrow. So the names below it are excluded, by a constraint with a leading dot. RFC 5280 gives
//! that form no meaning for DNS names, but OpenSSL, Go, webpki, NSS and macOS all read it as "below, and not the name itself".
//! A verifier that does not know the form ignores the exclusion; it then trusts the authority for `.media` too.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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

impl HostName {
    /// The name, if it is not an address.
    pub(super) fn dns(&self) -> Option<&str> {
        match self {
            Self::Dns(name) => Some(name),
            Self::Address(_) => None,
        }
    }

    /// Whether it is a name without a dot, which resolves only where a search domain or a hosts file knows it.
    pub(super) fn is_bare(&self) -> bool {
        self.dns().is_some_and(|name| !name.contains('.'))
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

/// The names and addresses that an authority may sign for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Constraints {
    /// Permitted domains, each with all names below it. Empty: every name is permitted.
    pub(super) domains: Vec<String>,
    /// Domains without a dot in front; the names below each are excluded, the domain itself is not.
    pub(super) excluded_below: Vec<String>,
    /// Permitted networks. Empty: every address is permitted.
    pub(super) networks: Vec<IpNet>,
}

impl Constraints {
    /// What a new authority may sign for: private names and networks, and `hosts`. A bare name is left out if another host
    /// is below it: it cannot be permitted alone then.
    pub(super) fn private_and(hosts: &[HostName]) -> Self {
        let mut constraints = Self {
            domains: PRIVATE_DOMAINS.map(str::to_owned).to_vec(),
            excluded_below: Vec::new(),
            networks: PRIVATE_NETWORKS
                .iter()
                .filter_map(|network| network.parse().ok())
                .collect(),
        };
        constraints.permit(hosts);
        constraints
    }

    /// What an additional authority may sign for: `hosts`, and of the kind that is not among them only what leads to the machine
    /// itself. A kind without any constraint would be permitted as a whole.
    pub(super) fn only(hosts: &[HostName]) -> Self {
        let mut constraints = Self {
            // A bare name and one below it, asked for together: the person wants the domain.
            domains: hosts
                .iter()
                .filter_map(HostName::dns)
                .map(str::to_owned)
                .collect(),
            ..Self::default()
        };
        constraints.excluded_below = constraints
            .domains
            .iter()
            .filter(|name| !name.contains('.'))
            .filter(|name| {
                !constraints
                    .domains
                    .iter()
                    .any(|other| is_below(other, name))
            })
            .cloned()
            .collect();
        if constraints.domains.is_empty() {
            constraints.domains.push("localhost".to_owned());
        }
        let addresses = hosts.iter().filter_map(|host| match host {
            HostName::Address(address) => Some(IpNet::from(*address)),
            HostName::Dns(_) => None,
        });
        constraints.networks = addresses.collect();
        if constraints.networks.is_empty() {
            let own = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            constraints.networks = own.map(|address: IpAddr| address.into()).to_vec();
        }
        constraints
    }

    fn permit(&mut self, hosts: &[HostName]) {
        let has_host_below = |domain: &str| {
            let mut names = hosts.iter().filter_map(HostName::dns);
            names.any(|name| is_below(name, domain))
        };
        for host in hosts {
            if self.permits(host) {
                continue;
            }
            match host {
                HostName::Dns(name) if name.contains('.') => self.domains.push(name.clone()),
                HostName::Dns(name) if !has_host_below(name) => {
                    self.domains.push(name.clone());
                    self.excluded_below.push(name.clone());
                }
                HostName::Dns(_) => {}
                HostName::Address(address) => self.networks.push((*address).into()),
            }
        }
    }

    /// May the authority sign for `host`?
    pub(super) fn permits(&self, host: &HostName) -> bool {
        match host {
            HostName::Dns(name) => {
                let is_in = |domain: &String| name == domain || is_below(name, domain);
                let is_excluded = |domain: &String| is_below(name, domain);
                (self.domains.is_empty() || self.domains.iter().any(is_in))
                    && !self.excluded_below.iter().any(is_excluded)
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

/// Whether `name` is below `domain`, and not `domain` itself.
fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.ends_with('.'))
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

    #[test]
    fn a_bare_name_is_permitted_alone() {
        let constraints = Constraints::private_and(&[host("media"), host("lab.example")]);
        assert!(constraints.permits(&host("media")));
        for outside in ["evil.media", "a.b.media", "xmedia"] {
            assert!(!constraints.permits(&host(outside)), "{outside}");
        }
        // It cannot be, beside a name below it.
        let constraints = Constraints::private_and(&[host("media"), host("x.media")]);
        assert!(constraints.permits(&host("x.media")) && !constraints.permits(&host("media")));
        // What is private anyway needs no exclusion.
        let constraints = Constraints::private_and(&[host("local"), host("localhost")]);
        assert!(constraints.permits(&host("mini.local")));
        assert_eq!(constraints.excluded_below, [""; 0]);
    }

    #[test]
    fn an_additional_authority_is_for_what_was_asked_only() {
        let constraints = Constraints::only(&[host("registry.example"), host("media")]);
        for inside in ["registry.example", "media", "127.0.0.1", "::1"] {
            assert!(constraints.permits(&host(inside)), "{inside}");
        }
        for outside in [
            "example",
            "lab.local",
            "x.media",
            "localhost",
            "10.0.0.5",
            "::2",
        ] {
            assert!(!constraints.permits(&host(outside)), "{outside}");
        }
        let constraints = Constraints::only(&[host("203.0.113.7")]);
        assert!(
            constraints.permits(&host("203.0.113.7")) && constraints.permits(&host("localhost"))
        );
        for outside in ["203.0.113.8", "::1", "127.0.0.1", "lab.local"] {
            assert!(!constraints.permits(&host(outside)), "{outside}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_stable(text in ".{0,80}") {
            if let Ok(parsed) = text.parse::<HostName>() {
                prop_assert_eq!(parsed.to_string().parse::<HostName>().expect("its own text"), parsed);
            }
        }

        #[test]
        fn a_full_name_is_permitted_with_all_below(name in "[a-z][a-z0-9]{0,8}(\\.[a-z][a-z0-9]{0,8}){1,3}", below in "[a-z]{1,8}") {
            let constraints = Constraints::private_and(&[host(&name)]);
            prop_assert!(constraints.permits(&host(&name)));
            let (deeper, beside) = (format!("{below}.{name}"), format!("{below}{name}"));
            prop_assert!(constraints.permits(&host(&deeper)));
            prop_assert_eq!(constraints.permits(&host(&beside)), Constraints::private_and(&[]).permits(&host(&beside)));
        }
    }
}
