//! `HOST:PORT`: where a server listens, and where a client connects.
//!
//! Must not resolve names. Invariant: what was read is written as it was read.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// `HOST:PORT`; an empty host means every address of both families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for HostPort {
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

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in [":443", "[::1]:5443", "0.0.0.0:80", "lab.local:8443"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
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
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }
}
