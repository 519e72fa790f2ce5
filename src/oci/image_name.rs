//! The name of an image within this registry: `REPOSITORY`, `REPOSITORY:TAG` or `REPOSITORY@DIGEST`.
//!
//! Must not know registries: the host that clients write before the repository is not part of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::DigestError;
use super::excerpt;
use super::name::{NameError, RepositoryName};
use super::reference::{Reference, TagError};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    /// `team/app`
    pub repository: RepositoryName,
    /// The tag or the digest; `None` for the repository as a whole.
    pub reference: Option<Reference>,
}

impl fmt::Display for ImageName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repository = &self.repository;
        match &self.reference {
            None => write!(formatter, "{repository}"),
            Some(Reference::Tag(tag)) => write!(formatter, "{repository}:{tag}"),
            Some(Reference::Digest(digest)) => write!(formatter, "{repository}@{digest}"),
        }
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for ImageName {
    type Error = ImageNameError;

    fn try_from(text: String) -> Result<Self, ImageNameError> {
        text.parse()
    }
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        // Digests contain a colon, repositories none.
        let (repository, reference) = if let Some((repository, digest)) = text.split_once('@') {
            let digest = digest.parse().map_err(ImageNameError::Digest)?;
            (repository, Some(Reference::Digest(digest)))
        } else if let Some((repository, tag)) = text.split_once(':') {
            if tag.contains('/') {
                return Err(ImageNameError::Host {
                    host: excerpt(text.split('/').next().unwrap_or_default()),
                });
            }
            let tag = tag.parse().map_err(ImageNameError::Tag)?;
            (repository, Some(Reference::Tag(tag)))
        } else {
            (text, None)
        };
        Ok(Self {
            repository: repository.parse().map_err(ImageNameError::Repository)?,
            reference,
        })
    }
}

/// Why a text is not the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    /// The repository is invalid.
    #[error(transparent)]
    Repository(NameError),
    /// The tag is invalid.
    #[error(transparent)]
    Tag(TagError),
    /// The digest is invalid.
    #[error(transparent)]
    Digest(DigestError),
    /// It begins with the address of a registry.
    #[error("leave out the registry {host}: this is about the registry on this machine")]
    Host {
        /// `lab:5443`, in quotes.
        host: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_printed_as_it_is_written() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for text in ["app", "team/app", "team/app:v1.2"] {
            assert_eq!(text.parse::<ImageName>().unwrap().to_string(), text);
        }
        let by_digest = format!("team/app@{digest}");
        assert_eq!(
            by_digest.parse::<ImageName>().unwrap().to_string(),
            by_digest
        );
    }

    #[test]
    fn other_texts_are_refused_with_what_is_wrong() {
        let error = |text: &str| text.parse::<ImageName>().unwrap_err();
        assert!(matches!(error("Team"), ImageNameError::Repository(_)));
        assert!(matches!(error(""), ImageNameError::Repository(_)));
        assert!(matches!(error("app:"), ImageNameError::Tag(_)));
        assert!(matches!(error("app:a:b"), ImageNameError::Tag(_)));
        assert!(matches!(error("app@sha256:00"), ImageNameError::Digest(_)));
        let host = error("lab:5443/app:v1");
        assert!(host.to_string().contains("\"lab:5443\""), "{host}");
    }
}
