//! By which names and addresses clients reach a registry.
//!
//! Must not know how a name is resolved. Invariants: a name is printed as the registry's URL only if it resolves on this machine:
//! to this machine or, if it was configured, to any; a name that the certificate does not hold is not printed at all.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::host_port::HostPort;
use crate::server::Address;
use crate::tls::{self, MachineNames};

/// How long a start waits for the resolver. A name that takes longer is no help to clients either.
const RESOLVING_TIME_MAX: Duration = Duration::from_secs(2);

/// A registry as clients call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reachable {
    /// `HOST:PORT` for people: what leads here for sure, or what was configured.
    pub(super) registry: String,
    /// The same for files that are used elsewhere or later: the name that was configured first, whether it resolves here or not.
    pub(super) meant: String,
    /// Other names and addresses in the certificate that lead here, as `HOST:PORT`.
    pub(super) others: Vec<String>,
    /// Names in the certificate that this machine does not resolve to itself, as `HOST:PORT`.
    pub(super) unresolved: Vec<String>,
    /// Those of them that were configured, so that clients are meant to use them; without the port.
    pub(super) unresolved_asked: Vec<String>,
}

/// What is known before any name is resolved.
#[derive(Debug)]
struct Known<'a> {
    address: &'a HostPort,
    /// The names that somebody configured.
    asked: Vec<String>,
    machine: MachineNames,
    /// The names in the certificate; `None` where there is none, or none that can be read.
    certified: Option<Vec<String>>,
}

/// The addresses of each of the names.
type Resolve<'a> = &'a dyn Fn(&[String]) -> Vec<Vec<IpAddr>>;

impl Reachable {
    /// The registry of `config`, listening at `address`, with the certificate that shows the names `certified`.
    pub(super) fn find(config: &Config, address: &Address, certified: Option<Vec<String>>) -> Self {
        let only = |registry: String| Self {
            meant: registry.clone(),
            registry,
            others: Vec::new(),
            unresolved: Vec::new(),
            unresolved_asked: Vec::new(),
        };
        if let Some(external) = &config.external_host {
            return only(external.authority().to_owned());
        }
        let Address::Tcp(address) = address else {
            return only(address.to_string());
        };
        let asked = match &config.tls {
            tls::Settings::Automatic { .. } => tls::asked_hosts(&config.tls),
            // A certificate of somebody else's is for the names that clients use.
            tls::Settings::Files { .. } => certified.iter().flatten().cloned().collect(),
            tls::Settings::None => Vec::new(),
        };
        let known = Known {
            address,
            asked,
            machine: tls::machine_names(),
            certified,
        };
        known.reachable(&resolve)
    }
}

impl Known<'_> {
    fn reachable(mut self, resolve: Resolve<'_>) -> Reachable {
        // A certificate for all names below a domain leads nowhere by itself.
        self.asked.retain(|name| !name.contains('*'));
        let listens_everywhere = self.address.is_every_address();
        let mut names = self.asked.clone();
        if listens_everywhere {
            names.extend(self.machine.names.iter().cloned());
        }
        names.retain(|name| self.is_certified(name));
        let resolved = resolve(&names);
        let leads_here = |name: &String, addresses: &Vec<IpAddr>| {
            // Behind a proxy or a port that is forwarded, a configured name has an address of another machine.
            let is_asked = self.asked.contains(name) && !addresses.is_empty();
            is_asked
                || addresses
                    .iter()
                    .any(|one| self.machine.addresses.contains(one))
        };
        let (mut good, mut unresolved) = (Vec::new(), Vec::<String>::new());
        for (name, addresses) in names.iter().zip(&resolved) {
            let is_known = good.contains(name) || unresolved.contains(name);
            match leads_here(name, addresses) {
                _ if is_known => {}
                true => good.push(name.clone()),
                false => unresolved.push(name.clone()),
            }
        }
        if listens_everywhere {
            good.extend(self.lan_addresses());
        }
        let registry = good
            .iter()
            .find(|name| self.asked.contains(name))
            .or(good.first())
            .cloned()
            .unwrap_or_else(|| self.address_alone());
        let others = good.into_iter().filter(|name| *name != registry);
        let others = others.map(|name| self.named(&name)).collect();
        let meant = self.asked.iter().find(|name| self.is_certified(name));
        let is_asked = |name: &&String| self.asked.contains(name);
        let unresolved_asked = unresolved.iter().filter(is_asked).cloned().collect();
        Reachable {
            others,
            unresolved: unresolved.iter().map(|name| self.named(name)).collect(),
            unresolved_asked,
            meant: self.named(meant.unwrap_or(&registry)),
            registry: self.named(&registry),
        }
    }

    /// The addresses at which other machines find this one: first that of its network, IPv4 before IPv6.
    fn lan_addresses(&self) -> Vec<String> {
        let addresses = &self.machine.addresses;
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|one| one.is_ipv4());
        let all = v4.iter().chain(&v6).map(IpAddr::to_string);
        all.filter(|address| self.is_certified(address)).collect()
    }

    /// What it listens at, where nothing better is known.
    fn address_alone(&self) -> String {
        let host = self.address.host();
        if self.address.is_every_address() || matches!(host, "127.0.0.1" | "::1") {
            "localhost".to_owned()
        } else {
            host.to_owned()
        }
    }

    fn is_certified(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let has_name = |certified: &String| match certified.strip_prefix('*') {
            // `*.lab.example` is for one label below it.
            Some(domain) => {
                let label = name.strip_suffix(domain);
                label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
            }
            None => certified.eq_ignore_ascii_case(&name),
        };
        self.certified
            .as_ref()
            .is_none_or(|all| all.iter().any(has_name))
    }

    /// `HOST:PORT` as clients write it. The port always stands there, 443 too: in `lab/image`, docker takes `lab` for a name on
    /// Docker Hub.
    fn named(&self, host: &str) -> String {
        let port = self.address.port();
        match HostPort::new(host, port) {
            Ok(named) => named.to_string(),
            // No certificate can have this name, and the start fails for that reason.
            Err(_) => format!("{host}:{port}"),
        }
    }
}

/// Asks the system's resolver for all names at once. A name that is not found in time has no address.
fn resolve(names: &[String]) -> Vec<Vec<IpAddr>> {
    let (sender, receiver) = mpsc::channel();
    for (position, name) in names.iter().cloned().enumerate() {
        let sender = sender.clone();
        // It is not waited for beyond the limit, and ends by itself.
        thread::spawn(move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            let found = found.map(|all| all.map(|address| address.ip().to_canonical()).collect());
            // Nobody listens any more once the time is over.
            let _ = sender.send((position, found.unwrap_or_default()));
        });
    }
    drop(sender);
    let mut resolved = vec![Vec::new(); names.len()];
    let clock = SystemClock::new();
    let began = clock.elapsed();
    let left = || RESOLVING_TIME_MAX.saturating_sub(clock.elapsed().saturating_sub(began));
    while let Ok((position, addresses)) = receiver.recv_timeout(left()) {
        if let Some(of_name) = resolved.get_mut(position) {
            *of_name = addresses;
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found where only the names of `dns` (`NAME=ADDRESS`) resolve.
    fn found(address: &str, asked: &[&str], certified: Option<&[&str]>, dns: &[&str]) -> Reachable {
        let texts = |all: &[&str]| all.iter().copied().map(str::to_owned).collect::<Vec<_>>();
        let known = Known {
            address: &address.parse().unwrap(),
            asked: texts(asked),
            machine: MachineNames {
                names: texts(&["lab", "lab.corp.example", "lab.local"]),
                addresses: ["192.168.1.5", "10.0.0.5", "fd00::5"]
                    .map(|address| address.parse().unwrap())
                    .to_vec(),
            },
            certified: certified.map(texts),
        };
        known.reachable(&|names| {
            let addresses = names.iter().map(|name| {
                let entries = dns.iter().filter_map(|entry| entry.split_once('='));
                let own = entries.filter(|(known, _)| known == name);
                own.map(|(_, address)| address.parse().unwrap()).collect()
            });
            addresses.collect()
        })
    }

    #[test]
    fn the_url_is_the_first_name_that_leads_here() {
        let registry = |dns: &[&str]| found(":5443", &[], None, dns).registry;
        assert_eq!(registry(&["lab=192.168.1.5"]), "lab:5443");
        assert_eq!(
            registry(&["lab.local=fd00::5", "lab.corp.example=10.0.0.5"]),
            "lab.corp.example:5443"
        );
        assert_eq!(registry(&["lab.local=fd00::5"]), "lab.local:5443");
        // Debian's /etc/hosts knows the machine under a loopback address, which says nothing about other machines.
        assert_eq!(registry(&["lab=127.0.1.1"]), "192.168.1.5:5443");
        assert_eq!(registry(&["lab=192.168.1.77"]), "192.168.1.5:5443");
        assert_eq!(registry(&[]), "192.168.1.5:5443");
    }

    #[test]
    fn what_the_certificate_does_not_hold_is_not_printed() {
        let dns = ["lab=192.168.1.5", "lab.local=192.168.1.5"];
        let certified: &[&str] = &["localhost", "lab.local", "10.0.0.5", "*.example"];
        let found = found(":5443", &["x.example", "y.other"], Some(certified), &dns);
        assert_eq!(found.registry, "lab.local:5443");
        assert_eq!(found.others, ["10.0.0.5:5443"]);
        assert_eq!(found.unresolved, ["x.example:5443"]);
        let none = super::tests::found(":443", &[], Some(&["localhost"]), &dns);
        assert_eq!(none.registry, "localhost:443");
    }

    #[test]
    fn all_that_leads_here_is_listed_and_what_does_not_is_said() {
        let found = found(":443", &["registry.example"], None, &["lab=10.0.0.5"]);
        assert_eq!(
            found.registry, "lab:443",
            "what was asked for leads nowhere"
        );
        assert_eq!(found.unresolved_asked, ["registry.example"]);
        assert_eq!(found.meant, "registry.example:443");
        assert_eq!(
            found.others,
            ["192.168.1.5:443", "10.0.0.5:443", "[fd00::5]:443"]
        );
        assert_eq!(
            found.unresolved,
            [
                "registry.example:443",
                "lab.corp.example:443",
                "lab.local:443"
            ]
        );
        // Of several, the one that leads somewhere.
        let dns = ["b.example=203.0.113.7"];
        let asked = ["a.example", "b.example"];
        let found = super::tests::found(":443", &asked, None, &dns);
        assert_eq!(found.registry, "b.example:443");
        assert_eq!(found.unresolved[0], "a.example:443");
    }

    #[test]
    fn an_address_of_its_own_is_the_only_one() {
        let registry = |address: &str, asked: &[&str]| {
            let found = found(address, asked, None, &["lab=192.168.1.5"]);
            assert_eq!(found.others, [""; 0], "{found:?}");
            found.registry
        };
        assert_eq!(registry("[::1]:5443", &[]), "localhost:5443");
        assert_eq!(registry("10.0.0.5:5443", &[]), "10.0.0.5:5443");
        assert_eq!(registry("[fd00::5]:5443", &[]), "[fd00::5]:5443");
        assert_eq!(
            registry("[::1]:5443", &["boathouse.test"]),
            "localhost:5443",
            "nothing resolves the name"
        );
        let by_dns = ["boathouse.test=::1", "fd00::5=fd00::5"];
        let named = found("[::1]:5443", &["boathouse.test"], None, &by_dns);
        assert_eq!(named.registry, "boathouse.test:5443");
        assert_eq!(
            found("0.0.0.0:443", &["fd00::5"], None, &by_dns).registry,
            "[fd00::5]:443"
        );
    }

    #[test]
    fn the_system_resolves_what_it_knows() {
        // No look-up leaves the machine: the second cannot be a name.
        let names = ["127.0.0.1".to_owned(), "a".repeat(64)];
        let found = resolve(&names);
        assert_eq!(found, [vec![IpAddr::from([127, 0, 0, 1])], vec![]]);
    }
}
