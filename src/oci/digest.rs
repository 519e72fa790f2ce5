//! Content digests: `algorithm:hex`.
//!
//! Source: image-spec `descriptor.md` "Digests". Must not know where content is kept. Invariant: the hex of a [`Digest`] is
//! lower case and exactly as long as its algorithm's output.

use std::fmt;
use std::str::FromStr;

use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest as _, Sha256, Sha512};

/// A hash algorithm that content can be addressed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `sha256`, which every registry and client supports.
    Sha256,
    /// `sha512`, optional in the specification, supported here.
    Sha512,
}

impl Algorithm {
    /// All of them, in the order in which they are preferred.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name as it stands before the colon.
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

/// The address of some content.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// From its two halves, as they stand in a path.
    pub fn from_parts(algorithm: Algorithm, hex: &str) -> Result<Self, DigestError> {
        let is_lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != algorithm.hex_length() || !hex.bytes().all(is_lower_hex) {
            return Err(DigestError::Malformed);
        }
        Ok(Self {
            algorithm,
            hex: hex.into(),
        })
    }

    /// The algorithm before the colon.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hex digits after the colon.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first two hex digits, which name the directory that distribution keeps a blob in.
    pub fn hex_prefix(&self) -> &str {
        self.hex.get(..2).unwrap_or_default()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.algorithm, self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Malformed)?;
        Self::from_parts(algorithm.parse()?, hex)
    }
}

/// Why a text is not a digest that we can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not `algorithm:hex` with as many lower-case hex digits as the algorithm has.
    #[error("not a digest: expected `sha256:` and 64, or `sha512:` and 128 lower-case hex digits")]
    Malformed,
    /// Well-formed perhaps, but not an algorithm that this registry computes.
    #[error("unsupported digest algorithm: use sha256 or sha512")]
    UnsupportedAlgorithm,
}

/// A hash in the making, whose state can be written down and taken up again.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// Computes a sha256.
    Sha256(Sha256),
    /// Computes a sha512.
    Sha512(Sha512),
}

impl Hasher {
    /// A hash of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Which algorithm this computes.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes in more content.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all that was taken in.
    pub fn finish(self) -> Digest {
        let algorithm = self.algorithm();
        let hex = match self {
            Self::Sha256(hasher) => lower_hex(&hasher.finalize()),
            Self::Sha512(hasher) => lower_hex(&hasher.finalize()),
        };
        Digest {
            algorithm,
            hex: hex.into(),
        }
    }

    /// The state as bytes, to be taken up by [`Hasher::from_state`].
    pub fn state(&self) -> Vec<u8> {
        match self {
            Self::Sha256(hasher) => hasher.serialize().to_vec(),
            Self::Sha512(hasher) => hasher.serialize().to_vec(),
        }
    }

    /// Takes up a state written by [`Hasher::state`]; `None` if the bytes are not one.
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

fn lower_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
            // Writing into a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
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
