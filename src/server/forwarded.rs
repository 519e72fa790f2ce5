//! The header `Forwarded` of proxies.
//!
//! Source: RFC 7239 section 4. Must not know which peers are trusted (`origin` does). Invariant: a header that violates the
//! grammar is ignored as a whole, so that no part of it is misread.

use http::HeaderMap;
use http::header::FORWARDED;

/// What one proxy reports about the request that it received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// `for`: the client of the proxy. An address, with or without a port, or a word that hides it.
    pub(super) client: Option<String>,
    /// `host`: the `Host` that the client used.
    pub(super) host: Option<String>,
    /// `proto`: `http` or `https`.
    pub(super) scheme: Option<String>,
}

/// The elements of all `Forwarded` headers, from the proxy next to the client to the last one; none if a header is
/// malformed.
pub(super) fn elements(headers: &HeaderMap) -> Vec<Element> {
    let mut elements = Vec::new();
    for value in headers.get_all(FORWARDED) {
        let Some(more) = value.to_str().ok().and_then(parse) else {
            return Vec::new();
        };
        elements.extend(more);
    }
    elements
}

/// Parses `pair;pair, pair;…`, where a pair is `token=value` and a value may be quoted.
fn parse(text: &str) -> Option<Vec<Element>> {
    let mut elements = Vec::new();
    let mut element = Element::default();
    let mut is_empty = true;
    let mut rest = text.trim_start();
    loop {
        if let Some((name, value_on)) = pair_name(rest) {
            let (value, behind) = value(value_on)?;
            let field = match name.to_ascii_lowercase().as_str() {
                "for" => Some(&mut element.client),
                "host" => Some(&mut element.host),
                "proto" => Some(&mut element.scheme),
                _ => None,
            };
            if let Some(field) = field {
                // RFC 7239 section 4: each parameter occurs at most once in an element.
                if field.replace(value).is_some() {
                    return None;
                }
            }
            is_empty = false;
            rest = behind.trim_start();
        }
        let (separator, behind) = match rest.chars().next() {
            None => (',', ""),
            Some(separator @ (';' | ',')) => (separator, rest.get(1..)?.trim_start()),
            Some(_) => return None,
        };
        if separator == ',' && !is_empty {
            elements.push(std::mem::take(&mut element));
            is_empty = true;
        }
        if rest.is_empty() {
            return Some(elements);
        }
        rest = behind;
    }
}

/// The name before an equals sign, and the text after it.
fn pair_name(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_once('=')?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (!name.is_empty() && name.bytes().all(is_token)).then_some((name, rest))
}

/// A value, and the text after it. Without quotes it may contain a colon, although the standard requires quotes: some
/// proxies write `host=a:1`.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let is_end = |character: char| {
            matches!(character, ';' | ',' | '"' | '\\') || character.is_whitespace()
        };
        let end = text.find(is_end).unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end)?;
        return (!value.is_empty()).then(|| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, quoted.get(at + 1..)?)),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn element(client: &str, host: &str, scheme: &str) -> Element {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Element {
            client: some(client),
            host: some(host),
            scheme: some(scheme),
        }
    }

    #[test]
    fn follows_the_standard() {
        let of = |text: &str| parse(text);
        let first = element("192.0.2.43", "", "");
        assert_eq!(of("for=192.0.2.43"), Some(vec![first.clone()]));
        let second = element("[2001:db8:cafe::17]:4711", "", "");
        let text = r#"For=192.0.2.43, FOR="[2001:db8:cafe::17]:4711""#;
        assert_eq!(of(text), Some(vec![first, second]));
        let whole = element("192.0.2.60", "reg.example:8443", "https");
        for text in [
            r#"for=192.0.2.60;host="reg.example:8443";proto=https;by=203.0.113.43"#,
            "proto=https; host=reg.example:8443 ;for=192.0.2.60",
            r#"secret="a, b; host=evil \" proto=http";for=192.0.2.60;host="reg.ex\ample:8443";proto=https"#,
            ";for=192.0.2.60;;host=reg.example:8443;proto=https;",
            ", for=192.0.2.60;host=reg.example:8443;proto=https,,",
        ] {
            assert_eq!(of(text), Some(vec![whole.clone()]), "{text}");
        }
        assert_eq!(of(""), Some(Vec::new()));
        let named = vec![element("_hidden", "", ""), element("unknown", "", "")];
        assert_eq!(of("for=_hidden, for=unknown"), Some(named));
    }

    #[test]
    fn a_malformed_header_is_ignored() {
        for bad in [
            "nonsense",
            "host",
            "host=",
            "host=;proto=https",
            "=a",
            "ho st=a",
            r#"host="reg.example"#,
            r#"host="a"b"#,
            r#"host="a\"#,
            "host=a b",
            "host=a;host=b",
            "host = a",
            r#"host=a"b""#,
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED, "host=a".parse().unwrap());
        assert_eq!(elements(&headers), [element("", "a", "")]);
        headers.append(FORWARDED, "host=\"b".parse().unwrap());
        assert_eq!(elements(&headers), []);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_ignored(text in "[a-c\",;=\\\\ fohrst]{0,30}") {
            for element in parse(&text).unwrap_or_default() {
                prop_assert!(element.host.is_none_or(|host| host.len() <= text.len()));
            }
        }
    }
}
