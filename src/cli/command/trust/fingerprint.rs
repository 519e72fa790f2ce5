//! A fingerprint as people hand it over.
//!
//! Invariant: only a whole SHA-256 is one; a part of it would be easy to forge.

use std::fmt;
use std::str::FromStr;

/// SHA-256 of a certificate, in hexadecimal digits.
const DIGITS: usize = 64;

/// SHA-256 of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(String);

impl FromStr for Fingerprint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // As openssl prints it, too: `sha256 Fingerprint=AB:CD:…`
        let digits = text.rsplit('=').next().unwrap_or(text);
        let digits: String = digits
            .chars()
            .filter(|character| !matches!(character, ':' | ' '))
            .map(|character| character.to_ascii_uppercase())
            .collect();
        if digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(digits))
        } else {
            Err("it must be a whole SHA-256 fingerprint, as `boathouse up` prints it: AB:CD:…")
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, digit) in self.0.chars().enumerate() {
            if position > 0 && position % 2 == 0 {
                formatter.write_str(":")?;
            }
            write!(formatter, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_however_it_is_written() {
        let plain = "0a".repeat(32);
        let colons = ["0A"; 32].join(":");
        for text in [&plain, &colons, &format!("sha256 Fingerprint={colons}")] {
            assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), colons);
        }
        for bad in [
            "",
            "AB:CD",
            &plain[2..],
            &format!("{plain}0a"),
            &"zz".repeat(32),
        ] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
