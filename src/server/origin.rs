//! The origin of a request: the client's address, the scheme and the host.
//!
//! Source: RFC 7239; `X-Forwarded-*` as distribution and `docker_auth` read them. Must not know what is requested.
//! Invariant: headers about the client count only if a trusted proxy has sent them. The header that the config names counts
//! from every peer, but only if no trusted proxies are configured.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::HOST;
use hyper::Uri;

use super::access_log::{self, RequestId};
use super::forwarded::{self, Element};
use super::state::Peer;
use super::{RealIp, ServerError, Settings};
use crate::auth::Origin;

/// What the head of a request says about its origin.
pub(super) struct Reading {
    pub(super) origin: Origin,
    /// An error if the config names a header for the client's address, and the request does not have it: `docker_auth`
    /// issues no token then. Elsewhere the peer's address is used.
    pub(super) configured_address: Result<(), ServerError>,
    /// The request id from a trusted proxy.
    pub(super) request_id: Option<RequestId>,
}

/// Reads the origin of a request from `peer`.
pub(super) fn read(
    settings: &Settings,
    connection: Peer,
    headers: &HeaderMap,
    uri: &Uri,
) -> Reading {
    let peer = connection.address.ip().to_canonical();
    let is_proxied = settings
        .trusted_proxies
        .iter()
        .any(|net| net.contains(&peer));
    let forwarded = |name| {
        if is_proxied {
            first_value(headers, name)
        } else {
            None
        }
    };
    let standard = if is_proxied {
        forwarded::elements(headers)
    } else {
        Vec::new()
    };
    // The standard header has precedence, as in distribution. Its first element is from the proxy next to the client.
    let asked = standard.first();
    // HTTP/2 has the host in the request's target.
    let named = uri
        .authority()
        .map(|authority| authority.as_str().to_owned());
    let host = asked
        .and_then(|element| element.host.clone())
        .or_else(|| forwarded("x-forwarded-host"))
        .or_else(|| first_value(headers, HOST.as_str()))
        .or(named);
    let scheme = asked
        .and_then(|element| element.scheme.clone())
        .or_else(|| forwarded("x-forwarded-proto"));
    let is_https = match scheme.as_deref() {
        Some(scheme) => scheme.eq_ignore_ascii_case("https"),
        None => connection.is_tls,
    };
    let mut client = if is_proxied {
        behind_proxies(settings, headers, &standard).unwrap_or(peer)
    } else {
        peer
    };
    let mut configured_address = Ok(());
    // If proxies are configured, only they know their clients. Any other peer could choose the address that `ip` rules
    // judge. A Unix socket has no other address, and its file says who may connect.
    let is_believed = is_proxied || settings.trusted_proxies.is_empty() || connection.is_unix;
    if let Some(named) = settings.real_ip.as_ref().filter(|_| is_believed) {
        let is_list_of_proxies = named.header.eq_ignore_ascii_case("x-forwarded-for");
        let told = if is_proxied && is_list_of_proxies {
            // The configured position does not matter: each proxy appends an address, so everything before the last address
            // that is not a proxy's was sent by the client.
            Some(client).filter(|_| headers.contains_key("x-forwarded-for"))
        } else {
            real_ip(named, headers)
        };
        match told {
            Some(address) => client = address,
            None => configured_address = Err(UNREADABLE),
        }
    }
    Reading {
        origin: Origin {
            client,
            is_https,
            host: host.unwrap_or_default(),
        },
        configured_address,
        request_id: forwarded(access_log::ID_HEADER).and_then(|text| RequestId::given(&text)),
    }
}

/// The last address in `X-Forwarded-For`, else in `Forwarded`, that is not a trusted proxy: everything before it is a claim
/// of the client. `Forwarded` comes second, because a proxy that sets one of the headers forwards the other one unchanged
/// from the client, and `ip` rules must not depend on that.
fn behind_proxies(
    settings: &Settings,
    headers: &HeaderMap,
    standard: &[Element],
) -> Option<IpAddr> {
    let values = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut addresses: Vec<&str> = values
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .collect();
    if addresses.is_empty() {
        let clients = standard.iter().map(|element| element.client.as_deref());
        addresses = clients.map(Option::unwrap_or_default).collect();
    }
    for text in addresses.into_iter().rev() {
        let address = parse_address(text)?.to_canonical();
        if !settings
            .trusted_proxies
            .iter()
            .any(|net| net.contains(&address))
        {
            return Some(address);
        }
    }
    None
}

/// The header that `server.real_ip_header` names has no address.
const UNREADABLE: ServerError =
    ServerError::BadHeader("the header with the client's address is malformed");

/// The client's address for the token endpoint; `None`: no token is issued.
pub fn token_client(settings: &Settings, peer: SocketAddr, headers: &HeaderMap) -> Option<IpAddr> {
    let connection = Peer::tcp(peer);
    let reading = read(settings, connection, headers, &Uri::default());
    reading
        .configured_address
        .is_ok()
        .then_some(reading.origin.client)
}

/// The client's address from the header that `server.real_ip_header` names, as `docker_auth` reads it: the first header of
/// that name; a position before the first value means the first; an address with or without a port.
fn real_ip(real_ip: &RealIp, headers: &HeaderMap) -> Option<IpAddr> {
    // Go does not keep the Host header among the others, so it has no value here.
    if real_ip.header.eq_ignore_ascii_case(HOST.as_str()) {
        return None;
    }
    let text = headers
        .get(real_ip.header.as_str())
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let values: Vec<&str> = text.split(',').map(str::trim).collect();
    let position = if real_ip.position < 0 {
        (i64::try_from(values.len()).unwrap_or_default() + i64::from(real_ip.position)).max(0)
    } else {
        i64::from(real_ip.position)
    };
    let value = values.get(usize::try_from(position).ok()?)?;
    let address = value.parse().ok().or_else(|| {
        let host = without_port(value)?;
        host.parse::<IpAddr>().ok()
    });
    address.map(|address| address.to_canonical())
}

/// The host of `host:port` or `[host]:port`. `docker_auth` accepts any digits as a port.
fn without_port(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(bare) => bare.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    is_port.then_some(host)
}

/// An address, with or without brackets and port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// The first of the comma-separated values of a header.
fn first_value(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?;
    let first = text.split(',').next().unwrap_or_default().trim();
    (!first.is_empty()).then(|| first.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn origin(trusted: &[&str], pairs: &[(&'static str, &str)]) -> Origin {
        let mut settings = Settings::for_tests();
        settings.trusted_proxies = trusted.iter().map(|text| text.parse().unwrap()).collect();
        read(
            &settings,
            Peer::tcp("10.0.0.9:1234".parse().unwrap()),
            &headers(pairs),
            &Uri::from_static("/"),
        )
        .origin
    }

    const FORWARDED: [(&str, &str); 4] = [
        ("host", "inner:5000"),
        ("x-forwarded-host", "outer.example, inner"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "203.0.113.1, 192.0.2.7, 10.0.0.8"),
    ];

    #[test]
    fn forwarded_headers_count_from_trusted_proxies_only() {
        let stranger = origin(&[], &FORWARDED);
        assert_eq!(
            (stranger.host.as_str(), stranger.is_https),
            ("inner:5000", false)
        );
        assert_eq!(stranger.client.to_string(), "10.0.0.9");
        let proxied = origin(&["10.0.0.0/8"], &FORWARDED);
        assert_eq!(
            (proxied.host.as_str(), proxied.is_https),
            ("outer.example", true)
        );
        assert_eq!(proxied.client.to_string(), "192.0.2.7");
    }

    #[test]
    fn the_standard_header_comes_before_the_others() {
        let trusted = ["10.0.0.0/8"];
        let standard =
            r#"for="[2001:db8::7]:1";host="reg.example:8443";proto=https, for=10.0.0.1;host=no"#;
        let of = |trusted: &[&str], more: &[(&'static str, &str)]| {
            let pairs = [&[("host", "inner"), ("forwarded", standard)], more].concat();
            let origin = origin(trusted, &pairs);
            (origin.base_url().unwrap(), origin.client.to_string())
        };
        let told = |url: &str, client: &str| (url.to_owned(), client.to_owned());
        let url = "https://reg.example:8443";
        assert_eq!(of(&[], &[]), told("http://inner", "10.0.0.9"));
        assert_eq!(of(&trusted, &[]), told(url, "2001:db8::7"));
        let both = [
            ("x-forwarded-host", "other"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-for", "192.0.2.7"),
        ];
        // The address is the one exception: a client can have put in what its proxy did not set.
        assert_eq!(of(&trusted, &both), told(url, "192.0.2.7"));
        // What the standard header does not say, the others may.
        let part = [
            ("host", "inner"),
            ("forwarded", "for=192.0.2.1"),
            ("x-forwarded-proto", "https"),
        ];
        let origin = origin(&trusted, &part);
        assert_eq!(origin.base_url().unwrap(), "https://inner");
    }

    #[test]
    fn the_header_for_the_real_address_counts_from_trusted_proxies_only_where_there_are_some() {
        let client = |trusted: &[&str], pairs: &[(&'static str, &str)]| {
            let mut settings = Settings::for_tests();
            settings.trusted_proxies = trusted.iter().map(|text| text.parse().unwrap()).collect();
            settings.real_ip = Some(RealIp {
                header: "x-real".into(),
                position: 0,
            });
            let peer = Peer::tcp("10.0.0.9:1234".parse().unwrap());
            let root = Uri::from_static("/");
            let reading = read(&settings, peer, &headers(pairs), &root);
            let is_readable = reading.configured_address.is_ok();
            (reading.origin.client.to_string(), is_readable)
        };
        let named = [("x-real", "192.0.2.1")];
        let elsewhere = ["172.16.0.0/12"];
        let of = |address: &str, is_readable| (address.to_owned(), is_readable);
        assert_eq!(client(&elsewhere, &named), of("10.0.0.9", true));
        assert_eq!(client(&["10.0.0.0/8"], &named), of("192.0.2.1", true));
        assert_eq!(client(&[], &named), of("192.0.2.1", true));
        assert_eq!(client(&elsewhere, &[]), of("10.0.0.9", true));
        assert_eq!(client(&["10.0.0.0/8"], &[]), of("10.0.0.9", false));
        assert_eq!(client(&[], &[]), of("10.0.0.9", false));
    }

    #[test]
    fn behind_named_proxies_the_last_address_that_is_none_of_theirs_counts() {
        let client = |trusted: &[&str], position, pairs: &[(&'static str, &str)]| {
            let mut settings = Settings::for_tests();
            settings.trusted_proxies = trusted.iter().map(|text| text.parse().unwrap()).collect();
            settings.real_ip = Some(RealIp {
                header: "X-Forwarded-For".into(),
                position,
            });
            let peer = "10.0.0.9:1234".parse().unwrap();
            token_client(&settings, peer, &headers(pairs)).map(|address| address.to_string())
        };
        let of = |address: &str| Some(address.to_owned());
        let appended = [("x-forwarded-for", "10.66.66.66, 203.0.113.7")];
        let twice = [
            ("x-forwarded-for", "192.168.0.1"),
            ("x-forwarded-for", "203.0.113.7, 10.0.0.8"),
        ];
        let proxies = ["10.0.0.0/24"];
        for position in [0, 1, -1, -2] {
            assert_eq!(client(&proxies, position, &appended), of("203.0.113.7"));
            assert_eq!(client(&proxies, position, &twice), of("203.0.113.7"));
            assert_eq!(client(&proxies, position, &[]), None);
        }
        // Without them, the position is all there is to go by, as in docker_auth.
        assert_eq!(client(&[], 0, &appended), of("10.66.66.66"));
        assert_eq!(client(&[], -1, &appended), of("203.0.113.7"));
    }

    #[test]
    fn the_real_address_is_where_the_config_says() {
        let values = headers(&[("x-real", "192.0.2.1, 192.0.2.2:80, [2001:db8::1]")]);
        let at = |position| {
            real_ip(
                &RealIp {
                    header: "x-real".into(),
                    position,
                },
                &values,
            )
        };
        assert_eq!(at(0).unwrap().to_string(), "192.0.2.1");
        assert_eq!(at(1).unwrap().to_string(), "192.0.2.2");
        assert_eq!(at(-3).unwrap().to_string(), "192.0.2.1");
        assert_eq!(at(-4).unwrap().to_string(), "192.0.2.1");
        assert_eq!(at(3), None);
        // An address in brackets without a port is none to Go.
        assert_eq!(at(-1), None);
        for (text, expected) in [
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("[192.0.2.1]:80", Some("192.0.2.1")),
            ("192.0.2.1:123456", Some("192.0.2.1")),
            ("192.0.2.1:", None),
            ("192.0.2.1:http", None),
            ("::1:80", Some("::1:80")),
            ("[::1]", None),
            ("[::1", None),
            ("[[::1]]:80", None),
            ("192.0.2.1:80:80", None),
            ("fe80::1%eth0", None),
            ("192.0.2.01", None),
            ("", None),
        ] {
            let named = RealIp {
                header: "X-Real".into(),
                position: 0,
            };
            let told = real_ip(&named, &headers(&[("x-real", text)]));
            let expected = expected.map(|text| text.parse::<IpAddr>().unwrap());
            assert_eq!(told, expected, "{text}");
        }
        assert!(
            real_ip(
                &RealIp {
                    header: "x-absent".into(),
                    position: 0
                },
                &values
            )
            .is_none()
        );
        let host = RealIp {
            header: "Host".into(),
            position: 0,
        };
        assert_eq!(real_ip(&host, &headers(&[("host", "192.0.2.1")])), None);
    }
}
