//! The hash checkpoint of an upload session: states of the hashes at an offset, valid within one boot.
//!
//! Must not know how the bytes arrive. Invariant: [`Checkpoint::decode`] gives back only what [`Checkpoint::encode`] wrote,
//! in the same boot; anything else counts as absent. A power cut may keep a checkpoint and lose pages of the data before
//! it, which is why one from an earlier boot proves nothing.

use std::fmt::Write as _;
use std::str::FromStr as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::oci::{Algorithm, Digest, Hasher};

/// Its name in the session's directory; the old registry reads only the names it knows there.
pub(super) const FILE_NAME: &str = "boathouse.checkpoint";

/// Changes when the format does, or the library whose states are kept.
const HEADING: &str = "boathouse checkpoint 1";

/// Larger files are not ours; two states take about 500 bytes.
pub(super) const LENGTH_BYTES_MAX: u64 = 4096;

#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) offset_bytes: u64,
    pub(super) hashers: Vec<Hasher>,
}

impl Checkpoint {
    /// As text, closed by a digest of itself.
    pub(super) fn encode(offset_bytes: u64, hashers: &[Hasher], boot_id: &str) -> String {
        let mut text = format!("{HEADING}\nboot {boot_id}\noffset {offset_bytes}\n");
        for hasher in hashers {
            let state = BASE64.encode(hasher.state());
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{} {state}", hasher.algorithm());
        }
        let sum = Digest::of(Algorithm::Sha256, text.as_bytes());
        let _ = writeln!(text, "sum {sum}");
        text
    }

    /// `None` unless the text is whole, of this boot, and holds at least the state of sha256.
    pub(super) fn decode(text: &str, boot_id: &str) -> Option<Self> {
        let (body, sum) = text.strip_suffix('\n')?.rsplit_once("sum ")?;
        if Digest::of(Algorithm::Sha256, body.as_bytes()).to_string() != sum {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != HEADING {
            return None;
        }
        if lines.next()?.strip_prefix("boot ")? != boot_id {
            return None;
        }
        let offset_bytes = lines.next()?.strip_prefix("offset ")?.parse().ok()?;
        let hashers = lines
            .map(|line| {
                let (algorithm, state) = line.split_once(' ')?;
                let algorithm = Algorithm::from_str(algorithm).ok()?;
                Hasher::from_state(algorithm, &BASE64.decode(state).ok()?)
            })
            .collect::<Option<Vec<_>>>()?;
        let has_sha256 = hashers
            .iter()
            .any(|hasher| hasher.algorithm() == Algorithm::Sha256);
        has_sha256.then_some(Self {
            offset_bytes,
            hashers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> String {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"abc");
        let wide = Hasher::new(Algorithm::Sha512);
        Checkpoint::encode(3, &[hasher, wide], "this-boot")
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let checkpoint = Checkpoint::decode(&sample(), "this-boot").expect("own text");
        assert_eq!(checkpoint.offset_bytes, 3);
        assert_eq!(checkpoint.hashers.len(), 2);
        let first = checkpoint.hashers[0].clone();
        assert_eq!(first.finish(), Digest::of(Algorithm::Sha256, b"abc"));
        assert!(sample().len() as u64 <= LENGTH_BYTES_MAX);
    }

    #[test]
    fn another_boot_counts_as_absent() {
        assert!(Checkpoint::decode(&sample(), "another-boot").is_none());
    }

    #[test]
    fn every_damaged_byte_and_every_cut_counts_as_absent() {
        let text = sample();
        for position in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[position] ^= 1;
            let damaged = String::from_utf8(damaged).expect("ASCII stays ASCII");
            assert!(
                Checkpoint::decode(&damaged, "this-boot").is_none(),
                "byte {position}"
            );
            assert!(Checkpoint::decode(&text[..position], "this-boot").is_none());
        }
    }
}
