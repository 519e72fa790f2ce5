//! `HOST:PORT`: where a server listens and where a client connects; and the URL by which clients know a registry.
//!
//! The one place where a host and a port are told apart. Must not know who listens or connects. Invariant: what is written by
//! `Display` reads back as the same value.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A host and a port. The host is a name, an address, or empty: then it means every address of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Without brackets; as it was written.
    host: String,
    port: u16,
}

/// The text is not `HOST:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPortError {
    /// The number, if the text is a number alone.
    port: Option<u16>,
}

impl HostPortError {
    fn of(text: &str) -> Self {
        let port = text.parse().ok();
        Self { port }
    }
}

impl std::error::Error for HostPortError {}

impl fmt::Display for HostPortError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("must be HOST:PORT, [IPV6]:PORT or :PORT")?;
        match self.port {
            Some(port) => write!(formatter, "; did you mean :{port}?"),
            None => Ok(()),
        }
    }
}

impl HostPort {
    /// Every address of this machine, IPv4 and IPv6.
    pub const fn every_address(port: u16) -> Self {
        Self {
            host: String::new(),
            port,
        }
    }

    /// `host` is a name or an address, in brackets or not.
    pub fn new(host: &str, port: u16) -> Result<Self, HostPortError> {
        let bare = without_brackets(host).unwrap_or(host);
        let is_bracketed = bare.len() < host.len();
        if is_ipv6(bare) || (!is_bracketed && bare.bytes().all(is_name_byte)) {
            return Ok(Self {
                host: bare.to_owned(),
                port,
            });
        }
        Err(HostPortError::of(host))
    }

    /// The same as [`FromStr`], but the port may be left out, as in a URL or a `Host` header. A host is needed.
    pub fn parse_or_port(text: &str, port: u16) -> Result<Self, HostPortError> {
        // The colons of an address without a port are inside its brackets.
        let has_port = text.contains(':') && !text.ends_with(']');
        let parsed = if has_port {
            text.parse()?
        } else {
            Self::new(text, port)?
        };
        if parsed.host.is_empty() {
            return Err(HostPortError::of(text));
        }
        Ok(parsed)
    }

    /// Without brackets; empty for every address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The same host with another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self {
            port,
            ..self.clone()
        }
    }

    /// Whether it means every address of this machine.
    pub fn is_every_address(&self) -> bool {
        self.host.is_empty()
            || self
                .address()
                .is_some_and(|address| address.is_unspecified())
    }

    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.address().is_some_and(|address| address.is_loopback())
    }

    /// In one form: names in lower case, addresses in their shortest form.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let host = match self.address() {
            Some(address) => address.to_canonical().to_string(),
            None => self.host.to_ascii_lowercase(),
        };
        Self {
            host,
            port: self.port,
        }
    }

    /// The host, if it is an address and not a name.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| HostPortError::of(text))?;
        // `parse` would take a sign.
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| is_port);
        // An address without brackets has no port: `::1:443` could mean two things.
        if host.contains(':') && without_brackets(host).is_none() {
            return Err(HostPortError::of(text));
        }
        Self::new(host, port.ok_or_else(|| HostPortError::of(text))?)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

/// `scheme://host[:port]`, without a path: the address by which clients know a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    is_https: bool,
    /// As it was written, with a port only where one was.
    authority: String,
    address: HostPort,
}

/// The text is not such a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be http:// or https:// with a host, and no path")]
pub struct BaseUrlError;

/// The port of `https` or `http` where none is written.
pub const fn default_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

impl BaseUrl {
    /// `host` or `host:port`, as it was written.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Where it leads.
    pub fn address(&self) -> &HostPort {
        &self.address
    }

    /// Whether its scheme is `https`.
    pub const fn is_https(&self) -> bool {
        self.is_https
    }
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, BaseUrlError> {
        let (is_https, authority) = match text.strip_prefix("https://") {
            Some(authority) => (true, authority),
            None => (false, text.strip_prefix("http://").ok_or(BaseUrlError)?),
        };
        let address = HostPort::parse_or_port(authority, default_port(is_https));
        Ok(Self {
            is_https,
            authority: authority.to_owned(),
            address: address.map_err(|_| BaseUrlError)?,
        })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(out, "{scheme}://{}", self.authority)
    }
}

/// Whether a text can stand as a host, with or without a port, in an address that we give. RFC 3986 allows more; container
/// names with `_` are in use as hosts.
pub fn is_authority(text: &str) -> bool {
    text.bytes()
        .all(|byte| is_name_byte(byte) || b":[]".contains(&byte))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_".contains(&byte)
}

fn without_brackets(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

/// An IPv6 address, also one with a zone (`fe80::1%eth0`): link-local addresses need it.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "0"));
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.bytes().all(is_name_byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in [
            ":443",
            ":0",
            "[::1]:5443",
            "[fe80::1%eth0]:5443",
            "0.0.0.0:80",
            "lab.local:8443",
            "qual_registry:5000",
            "LAB:1",
        ] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "443",
            "a",
            "a:",
            "a:+1",
            "a:99999",
            "::1:443",
            "[a]:1",
            "[1.2.3.4]:1",
            "[::1:1",
            "[::1]1",
            "[::1]",
            "[]:1",
            "[::1%]:1",
            "https://a:1",
            "a b:1",
            "a/b:1",
            "a@b:1",
            "é:1",
        ] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_may_be_left_out_where_the_scheme_gives_one() {
        for (text, expected) in [
            ("lab", Some("lab:443")),
            ("lab:80", Some("lab:80")),
            ("[::1]", Some("[::1]:443")),
            ("[::1]:80", Some("[::1]:80")),
            ("::1", None),
            ("", None),
            (":80", None),
            ("lab:", None),
            ("lab:80/", None),
            ("lab]", None),
        ] {
            let parsed = HostPort::parse_or_port(text, 443).ok();
            assert_eq!(
                parsed.map(|parsed| parsed.to_string()).as_deref(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn what_an_address_means() {
        let parse = |text: &str| text.parse::<HostPort>().unwrap();
        for every in [":1", "0.0.0.0:1", "[::]:1"] {
            assert!(
                parse(every).is_every_address() && !parse(every).is_loopback(),
                "{every}"
            );
        }
        for loopback in ["127.8.8.8:1", "[::1]:1", "localhost:1", "LOCALHOST:1"] {
            assert!(
                parse(loopback).is_loopback() && !parse(loopback).is_every_address(),
                "{loopback}"
            );
        }
        assert!(!parse("lab:1").is_loopback() && !parse("lab:1").is_every_address());
        assert_eq!(parse("LAB.Local:1").canonical(), parse("lab.local:1"));
        assert_eq!(parse("[fd00:0:0::5]:1").canonical(), parse("[fd00::5]:1"));
        assert_eq!(
            parse("[::ffff:192.0.2.1]:1").canonical(),
            parse("192.0.2.1:1")
        );
    }

    #[test]
    fn a_base_url_has_a_scheme_and_a_host_and_no_path() {
        for (text, address) in [
            ("https://registry.example", "registry.example:443"),
            ("http://registry.example", "registry.example:80"),
            ("https://registry.example:5000", "registry.example:5000"),
            ("https://[::1]:5000", "[::1]:5000"),
        ] {
            let url: BaseUrl = text.parse().unwrap();
            assert_eq!(
                (url.to_string().as_str(), url.address().to_string().as_str()),
                (text, address)
            );
        }
        for bad in [
            "",
            "registry.example",
            "ftp://a",
            "https://",
            "https://a/",
            "https://a/b",
            "https://a b",
            "https://a\"b",
            "https://u@a",
            "https://:443",
            "HTTPS://a",
        ] {
            assert!(bad.parse::<BaseUrl>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(text in prop_oneof![
            ".{0,40}",
            "[a-zA-Z0-9._-]{0,12}:[0-9]{1,5}",
            "\\[[0-9a-f:.%]{0,24}\\]:[0-9]{1,5}",
            "(https?://)?[a-z0-9.:\\[\\]/@-]{0,24}",
        ]) {
            if let Ok(parsed) = text.parse::<HostPort>() {
                prop_assert_eq!(parsed.to_string().parse::<HostPort>().ok(), Some(parsed.clone()));
                prop_assert_eq!(HostPort::new(parsed.host(), parsed.port()).ok(), Some(parsed.clone()));
                prop_assert!(parsed.to_string().parse::<SocketAddr>().is_ok() == parsed.address().is_some() || parsed.host().contains('%'));
                let canonical = parsed.canonical();
                prop_assert_eq!(canonical.canonical(), canonical);
            }
            if let Ok(parsed) = HostPort::parse_or_port(&text, 443) {
                prop_assert_eq!(parsed.to_string().parse::<HostPort>().ok(), Some(parsed));
            }
            if let Ok(url) = text.parse::<BaseUrl>() {
                prop_assert_eq!(url.to_string(), text);
            }
        }

        #[test]
        fn every_address_with_a_port_is_one(address: IpAddr, port: u16) {
            let text = SocketAddr::new(address, port).to_string();
            let parsed: HostPort = text.parse().unwrap();
            prop_assert_eq!((parsed.address(), parsed.port()), (Some(address), port));
            prop_assert_eq!(parsed.to_string(), text);
        }
    }
}
