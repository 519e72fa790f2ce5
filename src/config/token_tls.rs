//! `server.tls_…`: which versions, key exchanges and cipher suites `docker_auth`'s listener offers.
//!
//! Values are names of Go's library or numbers, as `docker_auth` takes them. Must not know how they are offered. Invariant: a
//! value that `docker_auth` refuses is an error; one that it takes and this program cannot offer is left out and named.

use rustls::crypto::aws_lc_rs;
use rustls::{CipherSuite, NamedGroup};

use super::reader::Reader;
use super::token_listener::{TLS_CIPHER_SUITES, TLS_CURVES, TLS_MINIMUM_VERSION};
use crate::tls::{MinimumVersion, Offers};

/// The numbers of TLS versions (RFC 8446 section 4.2.1), by Go's names.
const VERSIONS: [(&str, u16); 5] = [
    ("SSL30", 0x0300),
    ("TLS10", 0x0301),
    ("TLS11", 0x0302),
    ("TLS12", TLS_1_2),
    ("TLS13", TLS_1_3),
];
const TLS_1_2: u16 = 0x0303;
const TLS_1_3: u16 = 0x0304;

const CURVES: [(&str, NamedGroup); 4] = [
    ("P256", NamedGroup::secp256r1),
    ("P384", NamedGroup::secp384r1),
    ("P521", NamedGroup::secp521r1),
    ("X25519", NamedGroup::X25519),
];

/// The lowest version, and what is offered.
pub(super) fn read(reader: &mut Reader<'_>) -> (MinimumVersion, Offers) {
    let minimum = minimum(reader);
    let offers = Offers {
        suites: suites(reader),
        groups: groups(reader),
    };
    (minimum, offers)
}

fn minimum(reader: &mut Reader<'_>) -> MinimumVersion {
    let key = &TLS_MINIMUM_VERSION;
    let text = reader.get(key);
    // docker_auth compares the text, and looks only whether the list is there.
    let excludes_suites = ["TLS13", "0x0304"].contains(&text.as_str());
    if excludes_suites && reader.node(TLS_CIPHER_SUITES.path).is_some() {
        reader.refuse(
            TLS_CIPHER_SUITES.path,
            "the cipher suites of TLS 1.3 cannot be chosen",
            "remove this key",
        );
    }
    if text.is_empty() {
        return MinimumVersion::Tls12;
    }
    let named = VERSIONS.iter().find(|(name, _)| *name == text);
    match named.map(|(_, number)| *number).or_else(|| number(&text)) {
        Some(TLS_1_3) => MinimumVersion::Tls13,
        Some(TLS_1_2) => MinimumVersion::Tls12,
        Some(0..TLS_1_2) => {
            let note = format!(
                "{}: TLS 1.2 is the lowest version that is offered",
                key.path
            );
            reader.notes.push(note);
            MinimumVersion::Tls12
        }
        Some(_) | None => {
            reader.refuse(key.path, "not a version of TLS", "one of TLS12, TLS13");
            MinimumVersion::Tls12
        }
    }
}

/// `None`: all.
fn suites(reader: &mut Reader<'_>) -> Option<Vec<CipherSuite>> {
    let key = &TLS_CIPHER_SUITES;
    let provider = aws_lc_rs::default_provider();
    let is_offered = |suite: &CipherSuite| {
        let mut offered = provider.cipher_suites.iter();
        offered.any(|offered| offered.suite() == *suite)
    };
    let texts = reader.get(key);
    let suites = offered(reader, key.path, &texts, suite, is_offered)?;
    if suites.is_empty() {
        reader.warn(
            key.path,
            "none of these cipher suites is offered here, so clients need TLS 1.3",
        );
    }
    Some(suites)
}

/// `None`: all.
fn groups(reader: &mut Reader<'_>) -> Option<Vec<NamedGroup>> {
    let key = &TLS_CURVES;
    let provider = aws_lc_rs::default_provider();
    let is_offered = |group: &NamedGroup| {
        let mut offered = provider.kx_groups.iter();
        offered.any(|offered| offered.name() == *group)
    };
    let texts = reader.get(key);
    let groups = offered(reader, key.path, &texts, curve, is_offered)?;
    if groups.is_empty() {
        reader.refuse(
            key.path,
            "none of these curves is offered here, so no client could connect",
            "add X25519, P256 or P384, or remove the key",
        );
    }
    Some(groups)
}

/// What can be offered of a list. `None` if the list is empty, which means all.
fn offered<T>(
    reader: &mut Reader<'_>,
    key: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Option<T>,
    is_offered: impl Fn(&T) -> bool,
) -> Option<Vec<T>> {
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    for text in texts {
        match parse(text) {
            Some(value) if is_offered(&value) => kept.push(value),
            Some(_) => left_out.push(text.as_str()),
            None => reader.refuse(
                key,
                "a name that is not known here",
                "names as in Go's crypto/tls, or numbers like 0xc02f",
            ),
        }
    }
    if !left_out.is_empty() {
        let note = format!("{key}: not offered here: {}", left_out.join(", "));
        reader.notes.push(note);
    }
    (!texts.is_empty()).then_some(kept)
}

/// A cipher suite by Go's name, which is IANA's, or by number.
fn suite(text: &str) -> Option<CipherSuite> {
    // Go has short names for two suites, and the library has names of its own for those of TLS 1.3.
    let names = [
        text.to_owned(),
        format!("{text}_SHA256"),
        text.replacen("TLS_", "TLS13_", 1),
    ];
    let is_named = |suite: &CipherSuite| {
        let known = suite.as_str();
        known.is_some_and(|known| names.iter().any(|name| name == known))
    };
    let mut all = (0..=u16::MAX).map(CipherSuite::from);
    all.find(is_named)
        .or_else(|| number(text).map(CipherSuite::from))
}

fn curve(text: &str) -> Option<NamedGroup> {
    let named = CURVES.iter().find(|(name, _)| *name == text);
    named
        .map(|(_, group)| *group)
        .or_else(|| number(text).map(NamedGroup::from))
}

/// A number as Go reads it: decimal, or hexadecimal behind `0x`.
fn number(text: &str) -> Option<u16> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u16::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
