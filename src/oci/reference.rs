//! References to manifests: a tag or a digest.
//!
//! Source: distribution-spec "Pulling manifests". Invariant: a [`Tag`] is a safe path component.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestError};

/// The longest tag of the specification.
pub const TAG_LENGTH_MAX: usize = 128;

/// Digits of a digest in [`Tag::of_referrers`]; longer ones are cut.
const REFERRERS_TAG_HEX_MAX: usize = 64;

/// `v1.2`: a name for a manifest, which can move to another one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What clients read where a name has no tag.
    pub fn latest() -> Self {
        Self("latest".into())
    }

    /// The tag of the index that lists the referrers of `subject`, in registries without the referrers API
    /// (distribution-spec "Referrers Tag Schema").
    pub fn of_referrers(subject: &Digest) -> Self {
        let algorithm = subject.algorithm();
        let hex = subject.hex();
        let hex = hex.get(..REFERRERS_TAG_HEX_MAX).unwrap_or(&hex);
        Self(format!("{algorithm}-{hex}").into())
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let is_inner =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let starts_well = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if starts_well && text.len() <= TAG_LENGTH_MAX && text.bytes().all(is_inner) {
            Ok(Self(text.into()))
        } else {
            Err(TagError)
        }
    }
}

/// The text is not a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a tag: up to {TAG_LENGTH_MAX} letters, digits, `_`, `.` and `-`, the first neither `.` nor `-`"
)]
pub struct TagError;

/// A tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// By tag.
    Tag(Tag),
    /// By digest.
    Digest(Digest),
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(formatter),
            Self::Digest(digest) => digest.fmt(formatter),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        // A tag never contains a colon, so text with a colon is meant as a digest.
        if text.contains(':') {
            text.parse()
                .map(Self::Digest)
                .map_err(ReferenceError::Digest)
        } else {
            text.parse().map(Self::Tag).map_err(ReferenceError::Tag)
        }
    }
}

/// Why a text is not a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No colon, and not a tag.
    #[error(transparent)]
    Tag(TagError),
    /// A colon, and not a digest.
    #[error(transparent)]
    Digest(DigestError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tags_follow_the_specification() {
        for good in [
            "latest",
            "v1.2",
            "_x",
            "index",
            "link",
            "_uploads",
            "a..b",
            "CON",
            "Foo",
            &"a".repeat(128),
        ] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".a",
            "-a",
            "..",
            "a/b",
            "a:b",
            "a b",
            "ä",
            &"a".repeat(129),
        ] {
            assert_eq!(bad.parse::<Tag>(), Err(TagError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_to_itself_or_is_refused(text in "\\PC{0,140}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }
}
