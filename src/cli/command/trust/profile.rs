//! A configuration profile (`.mobileconfig`) by which macOS trusts an authority: opened by a person, or sent by device management.
//!
//! Must not know registries. Invariant: the same authority gives the same text, so that a second installation replaces the first.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::client::certificates::Authority;
use crate::oci::{Algorithm, Digest};

/// Characters of base64 in a line, as Apple's own tools write it.
const LINE_CHARACTERS: usize = 52;

/// The text of the profile. `name` is the registry as clients call it.
pub(super) fn text(authorities: &[Authority], name: &str) -> String {
    let name = escaped(name);
    let fingerprints: Vec<String> = authorities.iter().map(Authority::fingerprint).collect();
    let fingerprints = fingerprints.join(", ");
    let profile = identifier(authorities, "profile");
    let payloads: String = authorities
        .iter()
        .map(|authority| payload(authority, &name, &profile))
        .collect();
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
<key>PayloadType</key><string>Configuration</string>
<key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>boathouse.authority.{profile}</string>
<key>PayloadUUID</key><string>{profile}</string>
<key>PayloadDisplayName</key><string>Certificate authority of {name}</string>
<key>PayloadDescription</key><string>Trusts the authority with the SHA-256 fingerprint {fingerprints}</string>
<key>PayloadScope</key><string>System</string>
<key>PayloadContent</key>
<array>
{payloads}</array>
</dict>
</plist>
"#
    )
}

/// The part of the profile for one authority.
fn payload(authority: &Authority, name: &str, profile: &str) -> String {
    let certificate = STANDARD.encode(&authority.certificate);
    let (mut lines, mut rest) = (String::new(), certificate.as_str());
    while !rest.is_empty() {
        // Base64 is ASCII, so every byte begins a character.
        let (line, more) = rest.split_at(rest.len().min(LINE_CHARACTERS));
        lines.push_str(line);
        lines.push('\n');
        rest = more;
    }
    let payload = identifier(std::slice::from_ref(authority), "certificate");
    format!(
        r"<dict>
<key>PayloadType</key><string>com.apple.security.root</string>
<key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>boathouse.authority.{profile}.certificate.{payload}</string>
<key>PayloadUUID</key><string>{payload}</string>
<key>PayloadDisplayName</key><string>Certificate authority of {name}</string>
<key>PayloadCertificateFileName</key><string>ca.crt</string>
<key>PayloadContent</key>
<data>
{lines}</data>
</dict>
"
    )
}

/// A UUID of version 8 (RFC 9562) that follows from the authorities.
fn identifier(authorities: &[Authority], part: &str) -> String {
    let mut bytes = part.as_bytes().to_vec();
    for authority in authorities {
        bytes.extend_from_slice(&authority.certificate);
    }
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let digest = digest.to_string();
    let hex = digest.rsplit(':').next().unwrap_or_default().to_uppercase();
    let digits = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-8{}-8{}-{}",
        digits(0, 8),
        digits(8, 12),
        digits(12, 15),
        digits(15, 18),
        digits(18, 30)
    )
}

/// Text in XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_holds_the_certificate_and_is_the_same_each_time() {
        let authorities = [Authority::for_tests()];
        let text = text(&authorities, "lab & co:5443");
        assert_eq!(text, super::text(&authorities, "lab & co:5443"));
        let [authority] = authorities;
        let data = text.split_once("<data>\n").unwrap().1;
        let data = data.split_once("</data>").unwrap().0;
        assert!(data.lines().all(|line| line.len() <= LINE_CHARACTERS));
        let certificate = STANDARD.decode(data.replace('\n', "")).unwrap();
        assert_eq!(certificate, authority.certificate.as_ref());
        assert!(text.contains("lab &amp; co:5443") && text.contains(&authority.fingerprint()));
        let uuid = "[0-9A-F]{8}-[0-9A-F]{4}-8[0-9A-F]{3}-8[0-9A-F]{3}-[0-9A-F]{12}";
        let uuid = regex::Regex::new(&format!("<string>{uuid}</string>")).unwrap();
        let uuids: Vec<&str> = uuid.find_iter(&text).map(|found| found.as_str()).collect();
        assert!(uuids.len() == 2 && uuids[0] != uuids[1], "{text}");
        // Another authority is another profile, and so are two.
        let other = Authority::for_tests();
        let both = super::text(&[authority, other.clone()], "lab");
        assert_eq!(both.matches("com.apple.security.root").count(), 2);
        for other in [both, super::text(&[other], "lab")] {
            assert!(!other.contains(uuids[0]));
        }
    }
}
