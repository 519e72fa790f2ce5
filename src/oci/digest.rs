//! Content digests: `algorithm:hex`.
//!
//! Source: image-spec `descriptor.md` "Digests". Must not know where content is kept. Invariant: a [`Digest`] is as
//! long as its algorithm's output, and its text has lower-case hex digits only.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use data_encoding::HEXLOWER;
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest as _, Sha256, Sha512};

/// A hash algorithm for addresses of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `sha256`, which every registry and client supports.
    Sha256,
    /// `sha512`, optional in the specification, supported here.
    Sha512,
}

impl Algorithm {
    /// All algorithms, the preferred first.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hex digits a digest of this algorithm has.
    pub fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str() == text)
            .ok_or(DigestError::UnsupportedAlgorithm)
    }
}

/// The address of some content. A small value that is passed by copy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Digest {
    /// `sha256:` and 64 hex digits.
    Sha256([u8; 32]),
    /// `sha512:` and 128 hex digits.
    Sha512([u8; 64]),
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// From its two parts, as they are in a path.
    pub fn from_parts(algorithm: Algorithm, hex: &str) -> Result<Self, DigestError> {
        match algorithm {
            Algorithm::Sha256 => decoded(hex).map(Self::Sha256),
            Algorithm::Sha512 => decoded(hex).map(Self::Sha512),
        }
    }

    /// The algorithm before the colon.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The bytes that the hex digits encode.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }

    /// The hex digits after the colon.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(self.bytes())
    }
}

/// `N` bytes from lower-case hex digits.
fn decoded<const N: usize>(hex: &str) -> Result<[u8; N], DigestError> {
    let mut bytes = [0; N];
    if hex.len() != 2 * N {
        return Err(DigestError::Malformed);
    }
    let decoded = HEXLOWER.decode_mut(hex.as_bytes(), &mut bytes);
    decoded.map_err(|_| DigestError::Malformed)?;
    Ok(bytes)
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = self.algorithm();
        write!(
            formatter,
            "{algorithm}:{}",
            HEXLOWER.encode_display(self.bytes())
        )
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Malformed)?;
        Self::from_parts(algorithm.parse()?, hex)
    }
}

/// Why a text is not a supported digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not `algorithm:hex` with the algorithm's number of lower-case hex digits.
    #[error("not a digest: expected `sha256:` and 64, or `sha512:` and 128 lower-case hex digits")]
    Malformed,
    /// This registry does not compute the algorithm.
    #[error("unsupported digest algorithm: use sha256 or sha512")]
    UnsupportedAlgorithm,
}

/// A hash in progress, whose state can be saved and restored.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// Computes a sha256.
    Sha256(Sha256),
    /// Computes a sha512.
    Sha512(Sha512),
}

impl Hasher {
    /// A hash without input.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds input.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of the input.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            Self::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }

    /// The state as bytes, for [`Hasher::from_state`].
    pub fn state(&self) -> Vec<u8> {
        match self {
            Self::Sha256(hasher) => hasher.serialize().to_vec(),
            Self::Sha512(hasher) => hasher.serialize().to_vec(),
        }
    }

    /// Restores a state that [`Hasher::state`] saved; `None` if the bytes are not a state.
    pub fn from_state(algorithm: Algorithm, state: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::Sha256 => Sha256::deserialize(&state.try_into().ok()?)
                .ok()
                .map(Self::Sha256),
            Algorithm::Sha512 => Sha512::deserialize(&state.try_into().ok()?)
                .ok()
                .map(Self::Sha512),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_answers() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), empty);
        assert!(
            Digest::of(Algorithm::Sha512, b"abc")
                .to_string()
                .starts_with("sha512:ddaf35a193617aba")
        );
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let cases = [
            (String::new(), DigestError::Malformed),
            ("sha256".into(), DigestError::Malformed),
            ("sha256:zz".into(), DigestError::Malformed),
            (
                format!("sha256:{}", hex.to_uppercase()),
                DigestError::Malformed,
            ),
            (format!("sha512:{hex}"), DigestError::Malformed),
            (format!("md5:{hex}"), DigestError::UnsupportedAlgorithm),
            (format!("sha256:../{}", &hex[3..]), DigestError::Malformed),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_and_printing_are_inverse(content: Vec<u8>, wide: bool) {
            let digest = Digest::of(if wide { Algorithm::Sha512 } else { Algorithm::Sha256 }, &content);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }

        #[test]
        fn any_text_parses_or_is_refused(text: String) {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn a_hash_goes_on_from_its_state(first: Vec<u8>, second: Vec<u8>, wide: bool) {
            let algorithm = if wide { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&first);
            let mut resumed = Hasher::from_state(algorithm, &hasher.state()).expect("own state");
            resumed.update(&second);
            prop_assert_eq!(resumed.finish(), Digest::of(algorithm, &[first, second].concat()));
        }
    }
}
