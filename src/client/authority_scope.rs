//! What a certificate authority may sign for.
//!
//! Must not know what is done about it. Invariant: it counts as limited only if both its names and its addresses are.

use std::fmt;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::certificates::network_of;

/// What an authority may sign for, by its name constraints (RFC 5280 §4.2.1.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Domains, each with all names below it unless it says otherwise; `None` is every name.
    domains: Option<Vec<String>>,
    /// Networks; `None` is every address.
    networks: Option<Vec<String>>,
}

/// The widest private networks are `10.0.0.0/8` and `fc00::/7`: whatever is wider reaches into the internet.
const PREFIX_MIN: (u8, u8) = (8, 7);

impl Scope {
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let constraints = certificate.name_constraints().ok().flatten();
        let constraints = constraints.map(|found| found.value);
        let permitted = constraints.and_then(|found| found.permitted_subtrees.as_ref());
        let (mut domains, mut networks) = (Some(Vec::new()), Some(Vec::new()));
        for subtree in permitted.into_iter().flatten() {
            match subtree.base {
                GeneralName::DNSName(name) => {
                    let name = name.trim_start_matches('.').to_owned();
                    domains = domains.filter(|_| !name.is_empty());
                    if let Some(domains) = &mut domains {
                        domains.push(name);
                    }
                }
                GeneralName::IPAddress(bytes) => {
                    let network = network_of(bytes).filter(is_narrow);
                    networks = networks.filter(|_| network.is_some());
                    if let (Some(networks), Some(network)) = (&mut networks, network) {
                        networks.push(network.to_string());
                    }
                }
                _ => {}
            }
        }
        let excluded = constraints.and_then(|found| found.excluded_subtrees.as_ref());
        for subtree in excluded.into_iter().flatten() {
            let GeneralName::DNSName(name) = subtree.base else {
                continue;
            };
            // With a leading dot: the names below it, and not the name itself.
            let Some(name) = name.strip_prefix('.') else {
                continue;
            };
            let mut permitted = domains.iter_mut().flatten();
            if let Some(permitted) = permitted.find(|permitted| *permitted == name) {
                permitted.push_str(" (no name below it)");
            }
        }
        // A kind of name that no subtree is about is not limited at all.
        Self {
            domains: domains.filter(|domains| !domains.is_empty()),
            networks: networks.filter(|networks| !networks.is_empty()),
        }
    }

    /// Whether trusting it never means trusting it for any site.
    pub(crate) fn is_limited(&self) -> bool {
        self.domains.is_some() && self.networks.is_some()
    }
}

fn is_narrow(network: &ipnet::IpNet) -> bool {
    let least = if network.addr().is_ipv4() {
        PREFIX_MIN.0
    } else {
        PREFIX_MIN.1
    };
    network.prefix_len() >= least
}

impl fmt::Display for Scope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |of: &Option<Vec<String>>, all: &str| {
            of.as_ref()
                .map_or_else(|| all.to_owned(), |some| some.join(", "))
        };
        write!(
            out,
            "{}; {}",
            listed(&self.domains, "EVERY NAME"),
            listed(&self.networks, "EVERY ADDRESS")
        )
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::super::certificates::Authority;
    use super::Scope;

    #[test]
    fn what_an_authority_may_sign_for_is_read_from_its_constraints() {
        use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};
        let scope_with = |constraints: Option<NameConstraints>| {
            let mut parameters = CertificateParams::new([]).unwrap();
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters.name_constraints = constraints;
            let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap());
            let authorities = Authority::parse_all(issuer.unwrap().pem().as_bytes());
            authorities.unwrap().remove(0).scope
        };
        let scope = |permitted: Option<Vec<GeneralSubtree>>| {
            scope_with(permitted.map(|permitted_subtrees| NameConstraints {
                permitted_subtrees,
                excluded_subtrees: vec![GeneralSubtree::DnsName("example.org".into())],
            }))
        };
        let excluding = |permitted: &[GeneralSubtree], excluded: &[GeneralSubtree]| {
            scope_with(Some(NameConstraints {
                permitted_subtrees: permitted.to_vec(),
                excluded_subtrees: excluded.to_vec(),
            }))
        };
        let dns = |name: &str| GeneralSubtree::DnsName(name.to_owned());
        let network = |address: &str, length| {
            let address = address.parse().unwrap();
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, length))
        };
        let limited = scope(Some(vec![
            dns("lab.local"),
            network("10.0.0.0", 8),
            network("fc00::", 7),
        ]));
        assert!(limited.is_limited());
        assert_eq!(limited.to_string(), "lab.local; 10.0.0.0/8, fc00::/7");
        let alone = Scope {
            domains: Some(vec!["media (no name below it)".to_owned()]),
            networks: Some(vec!["10.0.0.0/8".to_owned()]),
        };
        assert_eq!(
            excluding(&[dns("media"), network("10.0.0.0", 8)], &[dns(".media")]),
            alone
        );
        for unlimited in [
            None,
            Some(vec![]),
            Some(vec![dns("lab.local")]),
            Some(vec![network("10.0.0.0", 8)]),
            Some(vec![dns("lab.local"), dns(""), network("10.0.0.0", 8)]),
            Some(vec![
                dns("lab.local"),
                network("10.0.0.0", 8),
                network("0.0.0.0", 0),
            ]),
            Some(vec![
                dns("lab.local"),
                network("0.0.0.0", 1),
                network("128.0.0.0", 1),
            ]),
            Some(vec![dns("lab.local"), network("::", 0)]),
        ] {
            let scope = scope(unlimited);
            assert!(
                !scope.is_limited() && scope.to_string().contains("EVERY"),
                "{scope}"
            );
        }
    }
}
