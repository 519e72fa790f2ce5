//! Manifests: the content of an image, an index or an artifact.
//!
//! Source: image-spec `manifest.md`, `image-index.md`, `descriptor.md`; Docker's schema 2; the artifact manifest of
//! image-spec 1.1.0-rc2, which the final specification dropped and some registries still hold. Must not know what is
//! stored. Invariant: a [`Manifest`] has one kind (a config with layers, a list of manifests, or blobs alone: otherwise
//! clients would interpret the digest differently). Its bytes are kept elsewhere, unchanged.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess};

use super::digest::Digest;
use super::excerpt;
use super::json::{self, Fields, Value};
use super::json_text::as_go_reads;
use super::media_type::{MediaType, is_nondistributable};

/// The parts of a manifest that a registry must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type when it was pushed.
    pub media_type: MediaType,
    /// Its content.
    pub content: Content,
    /// The manifest that this one refers to (image-spec "subject"); it need not exist.
    pub subject: Option<Descriptor>,
    /// `artifactType`; for an image manifest without one, the media type of its config.
    pub artifact_type: Option<String>,
    /// Copied to the answer of `/referrers`.
    pub annotations: BTreeMap<String, String>,
}

/// The content of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Blobs: a config and layers.
    Image {
        /// The config.
        config: Descriptor,
        /// The layers in order; a digest may occur several times.
        layers: Vec<Descriptor>,
    },
    /// Other manifests. The cache of `BuildKit` also lists blobs, of any media type.
    Index {
        /// The entries in order.
        manifests: Vec<Descriptor>,
    },
    /// Blobs without a config.
    Artifact {
        /// The blobs in order.
        blobs: Vec<Descriptor>,
    },
}

/// A reference to content (image-spec `descriptor.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Free text.
    pub media_type: String,
    /// The digest.
    pub digest: Digest,
    /// The stated length; 0 if there is none.
    pub size_bytes: u64,
    /// Whether the content is elsewhere: a non-distributable type, or `urls`.
    pub is_foreign: bool,
    /// Where else the content is.
    pub urls: Vec<String>,
    /// What an image in an index is for.
    pub platform: Option<Platform>,
}

/// What an image runs on (image-spec `image-index.md`), as far as it decides anything here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `amd64`
    pub architecture: String,
    /// `linux`
    pub os: String,
}

impl Manifest {
    /// Parses a manifest that is pushed as `content_type` (`None`: the header is missing, so the manifest must have a
    /// `mediaType`).
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        let wire = json::read::<WireManifest>(bytes).map_err(|error| {
            let what = if error.is_data() {
                "not a manifest"
            } else {
                "not valid JSON"
            };
            invalid(format!("{what}: {error}"))
        })?;
        let media_type = media_type(content_type, wire.media_type.as_deref())?;
        // The artifact manifest does not have this field.
        if wire.schema_version != 2 && media_type != MediaType::OciArtifact {
            return Err(invalid(format!(
                "`schemaVersion` is {}, must be 2",
                wire.schema_version
            )));
        }
        let has_image = wire.config.is_some() || wire.layers.is_some();
        if has_image && wire.manifests.is_some() {
            return Err(invalid(
                "the manifest has both `config` or `layers` and `manifests`: it must have one kind",
            ));
        }
        let content = match media_type {
            MediaType::OciIndex | MediaType::DockerManifestList => {
                if !wire.names_manifests {
                    return Err(invalid("`manifests` is missing"));
                }
                if has_image {
                    return Err(invalid("an index must not have `config` or `layers`"));
                }
                Content::Index {
                    manifests: wire.manifests.unwrap_or_default(),
                }
            }
            MediaType::OciManifest | MediaType::DockerManifest => Content::Image {
                config: wire.config.ok_or_else(|| invalid("`config` is missing"))?,
                layers: wire.layers.unwrap_or_default(),
            },
            MediaType::OciArtifact => {
                if has_image || wire.manifests.is_some() {
                    return Err(invalid(
                        "an artifact manifest must not have `config`, `layers` or `manifests`",
                    ));
                }
                Content::Artifact {
                    blobs: wire.blobs.unwrap_or_default(),
                }
            }
        };
        let config_type = match &content {
            Content::Image { config, .. } => Some(config.media_type.clone()),
            Content::Index { .. } | Content::Artifact { .. } => None,
        };
        Ok(Self {
            media_type,
            subject: wire.subject,
            artifact_type: wire
                .artifact_type
                .filter(|text| !text.is_empty())
                .or(config_type),
            annotations: wire.annotations,
            content,
        })
    }

    /// Parses stored bytes as what their `mediaType` says. `None`: another registry accepted them, and they are not a
    /// manifest that this registry accepts.
    pub fn parse_stored(bytes: &[u8]) -> Option<Self> {
        Self::parse(bytes, Some(&Self::media_type_of(bytes))).ok()
    }

    /// The media type for serving stored bytes: the value of their `mediaType`, whatever it is, because another registry
    /// may have accepted them.
    pub fn media_type_of(bytes: &[u8]) -> String {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Glance {
            media_type: Option<String>,
            schema_version: Option<u64>,
            config: Option<IgnoredAny>,
            #[serde(default, deserialize_with = "is_given")]
            manifests: bool,
        }
        let glance: Option<Glance> = serde_json::from_slice(&as_go_reads(bytes)).ok();
        match glance {
            // A value that is not a valid header is ignored.
            Some(Glance {
                media_type: Some(text),
                ..
            }) if text.bytes().all(|byte| byte.is_ascii_graphic()) => text,
            Some(Glance {
                schema_version: Some(1),
                ..
            }) => SCHEMA_1_SIGNED.to_owned(),
            Some(Glance {
                manifests: true,
                config: None,
                ..
            }) => MediaType::OciIndex.to_string(),
            Some(_) => MediaType::OciManifest.to_string(),
            None => "application/octet-stream".to_owned(),
        }
    }

    /// The blobs that must exist: config and layers, without those that are elsewhere.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, blobs) = match &self.content {
            Content::Image { config, layers } => (Some(config), layers.as_slice()),
            Content::Index { .. } => (None, [].as_slice()),
            Content::Artifact { blobs } => (None, blobs.as_slice()),
        };
        config
            .into_iter()
            .chain(blobs)
            .filter(|descriptor| !descriptor.is_foreign)
    }

    /// Refuses a URL of a layer that is not `http` or `https`, has a fragment, or is not allowed.
    pub fn check_urls(&self, is_allowed: impl Fn(&str) -> bool) -> Result<(), ManifestError> {
        let layers: &[Descriptor] = match &self.content {
            Content::Image { layers, .. } => layers,
            Content::Artifact { blobs } => blobs,
            Content::Index { .. } => &[],
        };
        for layer in layers {
            let is_bad = |url: &&String| {
                let is_http = url.parse::<http::Uri>().is_ok_and(|url| {
                    url.host().is_some() && matches!(url.scheme_str(), Some("http" | "https"))
                });
                !is_http || url.contains('#') || !is_allowed(url)
            };
            if let Some(url) = layer.urls.iter().find(is_bad) {
                let (digest, url) = (&layer.digest, excerpt(url));
                return Err(invalid(format!(
                    "layer {digest} is at {url}, which this registry does not allow (`validation.manifests.urls`)"
                )));
            }
        }
        Ok(())
    }

    /// The entries of an index that must exist, as a manifest or as a blob. The subject need not exist.
    pub fn children(&self) -> &[Descriptor] {
        match &self.content {
            Content::Image { .. } | Content::Artifact { .. } => &[],
            Content::Index { manifests } => manifests,
        }
    }
}

/// Whether a field is present, also as `null`.
fn is_given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(from).map(|IgnoredAny| true)
}

const SCHEMA_1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Header and field must agree, and one of them must be present. OCI types may be in the header alone.
fn media_type(content_type: Option<&str>, field: Option<&str>) -> Result<MediaType, ManifestError> {
    let field = match field {
        None | Some("") => None,
        Some(text) => Some(MediaType::parse(text).ok_or_else(|| {
            let text = excerpt(text);
            invalid(format!("`mediaType` {text} is not supported"))
        })?),
    };
    let header = match content_type {
        None => None,
        Some(text) => Some(MediaType::parse(text).ok_or_else(|| {
            let text = excerpt(text);
            invalid(format!("Content-Type {text} is not supported"))
        })?),
    };
    match (header, field) {
        (Some(header), Some(field)) if header != field => Err(invalid(format!(
            "Content-Type is {header}, but `mediaType` is {field}"
        ))),
        (Some(header), None) if header.requires_media_type_field() => {
            Err(invalid(format!("`mediaType` is missing, must be {header}")))
        }
        (Some(media_type), _) | (None, Some(media_type)) => Ok(media_type),
        (None, None) => Err(invalid(
            "the media type is unknown: there is neither a Content-Type nor a `mediaType`",
        )),
    }
}

#[derive(Default)]
struct WireManifest {
    schema_version: i64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    // Go writes an empty list as `null`.
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    /// Whether `manifests` is present.
    names_manifests: bool,
    subject: Option<Descriptor>,
    annotations: BTreeMap<String, String>,
}

impl Fields for WireManifest {
    type Whole = Self;
    const NAMES: &'static [&'static str] = &[
        "schemaVersion",
        "mediaType",
        "artifactType",
        "config",
        "layers",
        "blobs",
        "manifests",
        "subject",
        "annotations",
    ];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "schemaVersion" => self.schema_version = value.integer()?.unwrap_or_default(),
            "mediaType" => self.media_type = value.text()?,
            "artifactType" => self.artifact_type = value.text()?,
            "config" => self.config = value.object::<WireDescriptor>()?,
            "layers" => self.layers = value.list::<WireDescriptor>()?,
            "blobs" => self.blobs = value.list::<WireDescriptor>()?,
            "manifests" => {
                self.names_manifests = true;
                self.manifests = value.list::<WireDescriptor>()?;
            }
            "subject" => self.subject = value.object::<WireDescriptor>()?,
            "annotations" => self.annotations = value.text_map()?.unwrap_or_default(),
            _ => value.skip()?,
        }
        Ok(())
    }

    fn finish(self) -> Result<Self, String> {
        Ok(self)
    }
}

#[derive(Default)]
struct WireDescriptor {
    media_type: String,
    digest: String,
    size: i64,
    urls: Vec<String>,
    platform: Option<Platform>,
}

impl Fields for WireDescriptor {
    type Whole = Descriptor;
    const NAMES: &'static [&'static str] = &[
        "mediaType",
        "digest",
        "size",
        "urls",
        "annotations",
        "data",
        "artifactType",
        "platform",
    ];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "mediaType" => self.media_type = value.text()?.unwrap_or_default(),
            "digest" => self.digest = value.text()?.unwrap_or_default(),
            "size" => self.size = value.integer()?.unwrap_or_default(),
            "urls" => self.urls = value.text_list()?.unwrap_or_default(),
            "annotations" => drop(value.text_map()?),
            "data" | "artifactType" => drop(value.text()?),
            "platform" => self.platform = value.object::<WirePlatform>()?,
            _ => value.skip()?,
        }
        Ok(())
    }

    fn finish(self) -> Result<Descriptor, String> {
        if self.digest.is_empty() {
            return Err("a descriptor without `digest`".to_owned());
        }
        let digest = self
            .digest
            .parse()
            .map_err(|error| format!("digest {}: {error}", excerpt(&self.digest)))?;
        // Image-spec: "size MUST NOT be negative". Without a size it is 0, as in Go.
        let size_bytes = self
            .size
            .try_into()
            .map_err(|_| format!("`size` is {}, must not be negative", self.size))?;
        Ok(Descriptor {
            is_foreign: !self.urls.is_empty() || is_nondistributable(&self.media_type),
            urls: self.urls,
            platform: self.platform,
            media_type: self.media_type,
            digest,
            size_bytes,
        })
    }
}

/// All of it is read, to check that all readers see the same: clients choose an image by it.
#[derive(Default)]
struct WirePlatform {
    architecture: String,
    os: String,
}

impl Fields for WirePlatform {
    type Whole = Platform;
    const NAMES: &'static [&'static str] = &[
        "architecture",
        "os",
        "os.version",
        "os.features",
        "variant",
        "features",
    ];

    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        value: Value<'_, A>,
    ) -> Result<(), A::Error> {
        match name {
            "architecture" => self.architecture = value.text()?.unwrap_or_default(),
            "os" => self.os = value.text()?.unwrap_or_default(),
            "os.version" | "variant" => drop(value.text()?),
            "os.features" | "features" => drop(value.text_list()?),
            _ => value.skip()?,
        }
        Ok(())
    }

    fn finish(self) -> Result<Platform, String> {
        Ok(Platform {
            architecture: self.architecture,
            os: self.os,
        })
    }
}

/// The longest reason: `serde_json` repeats the unexpected input, which may be megabytes.
const REASON_CHARS_MAX: usize = 300;

/// The end is kept too: it has the line and the column.
fn invalid(reason: impl Into<String>) -> ManifestError {
    let reason = reason.into();
    let half = REASON_CHARS_MAX / 2;
    let begin = reason.char_indices().nth(half).map(|(at, _)| at);
    let end = reason.char_indices().nth_back(half).map(|(at, _)| at);
    match (begin, end) {
        (Some(begin), Some(end)) if begin < end => {
            let (begin, end) = (reason.get(..begin), reason.get(end..));
            let (begin, end) = (begin.unwrap_or_default(), end.unwrap_or_default());
            ManifestError(format!("{begin}…{end}"))
        }
        _ => ManifestError(reason),
    }
}

/// Why the bytes are not a supported manifest. The text is for the person who pushes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(String);

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
