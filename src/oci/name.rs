//! Repository names.
//!
//! Source: distribution-spec "Pulling manifests": `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/…)*`. Invariant: a [`RepositoryName`]
//! is a safe relative path: no empty, `.` or `..` component, and none that starts with `_`.

use std::fmt;
use std::str::FromStr;

/// The longest name. Clients limit host, slash and name together to 255, and a longer name does not fit the directory
/// entries on the path of an upload.
pub const NAME_LENGTH_MAX: usize = 255;

/// `team/app`: it holds blobs, manifests and tags.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Box<str>);

impl RepositoryName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_LENGTH_MAX {
            return Err(NameError::TooLong);
        }
        if text.split('/').all(is_component) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Malformed)
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_separator =
        |run: &[u8]| matches!(run, b"." | b"_" | b"__") || run.iter().all(|&byte| byte == b'-');
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_word(first)
        && is_word(last)
        && bytes
            .iter()
            .all(|&byte| is_word(byte) || matches!(byte, b'.' | b'_' | b'-'))
        && bytes.split(|&byte| is_word(byte)).all(is_separator)
}

/// Why a text is not a repository name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than [`NAME_LENGTH_MAX`] bytes.
    #[error("repository name is longer than {NAME_LENGTH_MAX} bytes")]
    TooLong,
    /// Not in the form of the specification.
    #[error(
        "not a repository name: lower-case letters and digits, joined by `.`, `_`, `__` or `-`, in components separated \
         by `/`"
    )]
    Malformed,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn follows_the_specification() {
        for good in [
            "a",
            "a/b",
            "team-1/app_x",
            "a__b",
            "a.b-c",
            "a---b",
            "0/1/2",
            "library/ubuntu",
        ] {
            assert!(good.parse::<RepositoryName>().is_ok(), "{good}");
        }
        let bad = [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a._b", "-a", "a-", "_a", ".", "..",
            "a/../b", "a b", "ä", "a\0b", "a%2fb",
        ];
        for bad in bad {
            assert_eq!(
                bad.parse::<RepositoryName>(),
                Err(NameError::Malformed),
                "{bad}"
            );
        }
        assert!(
            "a".repeat(NAME_LENGTH_MAX)
                .parse::<RepositoryName>()
                .is_ok()
        );
        assert_eq!(
            "a".repeat(NAME_LENGTH_MAX + 1).parse::<RepositoryName>(),
            Err(NameError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn agrees_with_the_grammar(text in "[a-c._/-]{0,12}") {
            let grammar = regex::Regex::new(
                r"^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$",
            ).expect("the specification's own expression");
            prop_assert_eq!(text.parse::<RepositoryName>().is_ok(), grammar.is_match(&text));
        }

        #[test]
        fn parsing_and_printing_are_inverse(text: String) {
            if let Ok(name) = text.parse::<RepositoryName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
