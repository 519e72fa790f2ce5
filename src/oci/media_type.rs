//! The media types that a registry must distinguish: those of manifests.
//!
//! Source: image-spec `media-types.md`, and Docker's image manifest V2 schema 2. All other media types (of configs, layers,
//! artifacts) are free text and never an error. Invariant: parsing ignores parameters; printing has none.

use std::fmt;

/// A supported type of manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// `application/vnd.oci.image.manifest.v1+json`
    OciManifest,
    /// `application/vnd.oci.image.index.v1+json`
    OciIndex,
    /// `application/vnd.docker.distribution.manifest.v2+json`
    DockerManifest,
    /// `application/vnd.docker.distribution.manifest.list.v2+json`
    DockerManifestList,
    /// `application/vnd.oci.artifact.manifest.v1+json` of image-spec 1.1.0-rc1 and rc2: dropped since, but some registries
    /// hold it.
    OciArtifact,
}

impl MediaType {
    const ALL: [Self; 5] = [
        Self::OciManifest,
        Self::OciIndex,
        Self::DockerManifest,
        Self::DockerManifestList,
        Self::OciArtifact,
    ];

    /// As in `Content-Type` and in `mediaType`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
            Self::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
            Self::DockerManifestList => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::OciArtifact => "application/vnd.oci.artifact.manifest.v1+json",
        }
    }

    /// The type in `text`, without parameters (distribution-spec "Pushing Manifests"); `None` for any other type.
    pub fn parse(text: &str) -> Option<Self> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        Self::ALL
            .into_iter()
            .find(|media_type| media_type.as_str().eq_ignore_ascii_case(essence))
    }

    /// Whether a manifest of this type lists other manifests, rather than blobs.
    pub fn is_index(self) -> bool {
        match self {
            Self::OciIndex | Self::DockerManifestList => true,
            Self::OciManifest | Self::DockerManifest | Self::OciArtifact => false,
        }
    }

    /// Whether the manifest must have a `mediaType`; images and indexes of OCI may leave it out.
    pub fn requires_media_type_field(self) -> bool {
        match self {
            Self::DockerManifest | Self::DockerManifestList | Self::OciArtifact => true,
            Self::OciManifest | Self::OciIndex => false,
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Whether layers of this type are never pushed, so that a missing one is not an error (image-spec `layer.md`
/// "Non-Distributable Layers", and Docker's foreign layers).
pub fn is_nondistributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_are_ignored() {
        for media_type in MediaType::ALL {
            assert_eq!(MediaType::parse(media_type.as_str()), Some(media_type));
            assert_eq!(
                MediaType::parse(&format!("{media_type}; charset=utf-8")),
                Some(media_type)
            );
            assert_eq!(
                MediaType::parse(&media_type.as_str().to_uppercase()),
                Some(media_type)
            );
        }
        assert_eq!(MediaType::parse("application/json"), None);
        assert_eq!(MediaType::parse(""), None);
    }
}
