//! The names under which clients reach this registry, as some of them write them into a token request as its service.
//!
//! Must not know tokens. Invariant: a name counts because the configuration, the certificate or the loopback interface gives
//! it to this registry; never because a request was sent to it.

use std::fmt;
use std::sync::OnceLock;

use crate::host_port::{BaseUrl, HostPort, default_port};

/// Where this registry listens, and under which names its certificate makes it known.
pub struct Listening {
    /// The port.
    pub port: u16,
    /// Whether it speaks TLS there.
    pub is_https: bool,
    /// The names and addresses in the certificate of now; it may be renewed with others.
    pub names: Box<dyn Fn() -> Vec<String> + Send + Sync>,
}

impl fmt::Debug for Listening {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Listening")
            .field("port", &self.port)
            .field("is_https", &self.is_https)
            .finish_non_exhaustive()
    }
}

/// What this registry is called.
pub(in crate::auth) struct OwnNames {
    service: String,
    external_host: Option<BaseUrl>,
    listening: OnceLock<Vec<Listening>>,
}

impl OwnNames {
    /// The names that the configuration gives.
    pub(super) fn new(service: &str, external_host: Option<&BaseUrl>) -> Self {
        Self {
            service: service.to_owned(),
            external_host: external_host.cloned(),
            listening: OnceLock::new(),
        }
    }

    /// Adds those of where it listens, once all of that is known. A second call would be of another server with the same `Auth`,
    /// which there is not.
    pub(in crate::auth) fn listens(&self, listening: Vec<Listening>) {
        let _ = self.listening.set(listening);
    }

    /// Whether this is `auth.token.service`.
    pub(super) fn is_service(&self, service: &str) -> bool {
        self.service == service
    }

    /// Whether this registry is reached under this name.
    pub(super) fn is_own_name(&self, service: &str) -> bool {
        let external = self.external_host.as_ref();
        let listening = self.listening.get();
        external.is_some_and(|url| is_host_of(url, service))
            || listening.is_some_and(|all| all.iter().any(|own| own.is_called(service)))
    }
}

impl Listening {
    /// Whether `service` is `HOST` or `HOST:PORT` of this registry.
    fn is_called(&self, service: &str) -> bool {
        let Some(asked) = called(service, default_port(self.is_https)) else {
            return false;
        };
        let is_own = |name: &String| {
            HostPort::new(name, self.port).is_ok_and(|own| own.canonical() == asked)
        };
        asked.port() == self.port && (asked.is_loopback() || (self.names)().iter().any(is_own))
    }
}

/// Whether `service` is the host of `url` (`http.host`), with its port or, where that is the scheme's own, without.
fn is_host_of(url: &BaseUrl, service: &str) -> bool {
    called(service, default_port(url.is_https())) == Some(url.address().canonical())
}

/// What `service` names, if it is a host.
fn called(service: &str, default_port: u16) -> Option<HostPort> {
    let called = HostPort::parse_or_port(service, default_port).ok()?;
    Some(called.canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_called_by_its_certificate_and_loopback_with_its_port() {
        let names = || {
            ["lab.local", "192.168.1.5", "fd00::5"]
                .map(str::to_owned)
                .to_vec()
        };
        let listening = |port, is_https| Listening {
            port,
            is_https,
            names: Box::new(names),
        };
        let odd = listening(5443, true);
        for (service, expected) in [
            ("lab.local:5443", true),
            ("LAB.local:5443", true),
            ("192.168.1.5:5443", true),
            ("[fd00::5]:5443", true),
            ("[fd00:0:0::5]:5443", true),
            ("localhost:5443", true),
            ("127.0.0.1:5443", true),
            ("127.8.8.8:5443", true),
            ("[::1]:5443", true),
            ("lab.local", false),
            ("lab.local:5000", false),
            ("lab.local:443", false),
            ("other.local:5443", false),
            ("sub.lab.local:5443", false),
            ("lab.local:5443/", false),
            ("https://lab.local:5443", false),
            ("localhost", false),
            (":5443", false),
            ("", false),
        ] {
            assert_eq!(odd.is_called(service), expected, "{service}");
        }
        assert!(listening(443, true).is_called("lab.local"));
        assert!(listening(80, false).is_called("[::1]"));
        assert!(!listening(80, true).is_called("lab.local"));
    }

    #[test]
    fn the_configured_host_counts_with_and_without_the_port_of_its_scheme() {
        for (url, service, expected) in [
            ("https://registry.example", "registry.example", true),
            ("https://registry.example", "registry.example:443", true),
            (
                "https://registry.example:8443",
                "Registry.Example:8443",
                true,
            ),
            ("https://registry.example:8443", "registry.example", false),
            ("http://registry.example", "registry.example:80", true),
            ("http://registry.example", "registry.example:443", false),
            ("https://registry.example", "", false),
        ] {
            assert_eq!(
                is_host_of(&url.parse().unwrap(), service),
                expected,
                "{url} {service}"
            );
        }
    }
}
