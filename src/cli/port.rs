//! Where to listen: what `--addr` says, or the first port that is free.
//!
//! Invariant: the port that is written into the config could be bound a moment before.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::str::FromStr;

use anyhow::{Context, bail};

/// The usual one first; then two that need no privilege. Not 5000: `AirPlay` has it on macOS.
const PORTS: [u16; 3] = [443, 5_443, 8_443];

/// `HOST:PORT`; an empty host means every address of both families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListenAddress {
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "write it as HOST:PORT, [IPV6]:PORT or :PORT";
        let (host, port) = text.rsplit_once(':').ok_or(SHAPE)?;
        let port = port.parse().map_err(|_| SHAPE)?;
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(host) => host
                .filter(|host| host.parse::<Ipv6Addr>().is_ok())
                .ok_or(SHAPE)?,
            None if host.contains([':', '/', ' ']) => return Err(SHAPE),
            None => host,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// `asked` if it can be bound, else the first of the usual ports on every address.
pub(super) fn choose(
    asked: Option<&ListenAddress>,
    bind: &dyn Fn(&ListenAddress) -> io::Result<()>,
) -> anyhow::Result<ListenAddress> {
    if let Some(asked) = asked {
        bind(asked).with_context(|| {
            format!("cannot listen on {asked}\nhint: choose another with `boathouse up --addr HOST:PORT`")
        })?;
        return Ok(asked.clone());
    }
    for port in PORTS {
        let address = ListenAddress {
            host: String::new(),
            port,
        };
        // A port that we may not bind is as good as taken.
        if bind(&address).is_ok() {
            return Ok(address);
        }
    }
    bail!(
        "the ports {PORTS:?} are all taken\nhint: choose another with `boathouse up --addr HOST:PORT`"
    )
}

/// Binds `address` and lets go of it.
pub(super) fn try_bind(address: &ListenAddress) -> io::Result<()> {
    if !address.host.is_empty() {
        return TcpListener::bind((address.host.as_str(), address.port)).map(drop);
    }
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, address.port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        // A machine without IPv6 listens on IPv4 alone.
        _ => {}
    }
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in [":443", "[::1]:5443", "0.0.0.0:80", "lab.local:8443"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "443",
            "a",
            "a:",
            "a:99999",
            "::1:443",
            "[a]:1",
            "[::1:1",
            "https://a:1",
        ] {
            assert!(bad.parse::<ListenAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_free_port_is_chosen() {
        let refused = |address: &ListenAddress| match address.port {
            443 => Err(io::ErrorKind::PermissionDenied.into()),
            5_443 => Err(io::ErrorKind::AddrInUse.into()),
            _ => Ok(()),
        };
        assert_eq!(choose(None, &refused).unwrap().to_string(), ":8443");
        assert_eq!(choose(None, &|_| Ok(())).unwrap().to_string(), ":443");
        let none = |_: &ListenAddress| Err(io::ErrorKind::AddrInUse.into());
        assert!(
            choose(None, &none)
                .unwrap_err()
                .to_string()
                .contains("hint: ")
        );
        let asked: ListenAddress = "[::1]:5443".parse().unwrap();
        assert!(choose(Some(&asked), &refused).is_err());
        assert_eq!(choose(Some(&asked), &|_| Ok(())).unwrap(), asked);
    }

    #[test]
    fn a_port_in_use_is_seen() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let address = ListenAddress {
            host: "127.0.0.1".into(),
            port,
        };
        assert!(try_bind(&address).is_err());
        drop(held);
        assert!(try_bind(&address).is_ok());
    }
}
