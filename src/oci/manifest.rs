//! Manifests: what an image, an index or an artifact is made of.
//!
//! Source: image-spec `manifest.md`, `image-index.md`, `descriptor.md`; Docker's schema 2; the artifact manifest of image-spec
//! 1.1.0-rc2, which the final specification dropped and some registries still hold. Must not know what is stored.
//! Invariant: a [`Manifest`] is one kind of thing only (a config with layers, a list of manifests, or blobs alone: clients
//! would disagree on what the digest means), and its bytes are kept elsewhere, exactly as they came.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess};

use super::digest::Digest;
use super::excerpt;
use super::json::{self, Fields, Value};
use super::json_text::as_go_reads;
use super::media_type::{MediaType, is_nondistributable};

/// What a manifest says, as far as a registry must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What it was pushed as.
    pub media_type: MediaType,
    /// What it is made of.
    pub content: Content,
    /// The manifest that this one is about (image-spec "subject"); it need not exist.
    pub subject: Option<Descriptor>,
    /// `artifactType`, or for an image manifest without one the media type of its config.
    pub artifact_type: Option<String>,
    /// Copied into the answer of `/referrers`.
    pub annotations: BTreeMap<String, String>,
}

/// What a manifest is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Blobs: a config and layers.
    Image {
        /// The config.
        config: Descriptor,
        /// The layers in order; one digest may stand there many times.
        layers: Vec<Descriptor>,
    },
    /// Other manifests; the cache of `BuildKit` lists blobs too, of any media type.
    Index {
        /// What is listed, in order.
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
    /// The content's address.
    pub digest: Digest,
    /// The content's length, or so it says; 0 if it says nothing.
    pub size_bytes: u64,
    /// Whether it lies elsewhere: a non-distributable type, or `urls`.
    pub is_foreign: bool,
}

impl Manifest {
    /// Reads a manifest that is pushed as `content_type` (`None`: the header is missing, and the manifest itself must
    /// tell).
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
        // The artifact manifest has no such field.
        if wire.schema_version != 2 && media_type != MediaType::OciArtifact {
            return Err(invalid(format!(
                "`schemaVersion` is {}, must be 2",
                wire.schema_version
            )));
        }
        let has_image = wire.config.is_some() || wire.layers.is_some();
        if has_image && wire.manifests.is_some() {
            return Err(invalid(
                "both `config` or `layers` and `manifests`: it must be one kind of thing",
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

    /// Reads bytes that are stored already, as what they say they are. `None`: another registry took them, and they are
    /// not a manifest that this one takes.
    pub fn parse_stored(bytes: &[u8]) -> Option<Self> {
        Self::parse(bytes, Some(&Self::media_type_of(bytes))).ok()
    }

    /// The media type to serve stored bytes with: what they say of themselves, whatever that is, since another registry
    /// may have taken them.
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
            // A value that could not stand in a header is as good as none.
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

    /// The blobs that must be there: config and layers, without those that lie elsewhere.
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

    /// What an index lists and must be there, as a manifest or as a blob; the subject need not.
    pub fn children(&self) -> &[Descriptor] {
        match &self.content {
            Content::Image { .. } | Content::Artifact { .. } => &[],
            Content::Index { manifests } => manifests,
        }
    }
}

/// Whether a field is there at all, also as `null`.
fn is_given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(from).map(|IgnoredAny| true)
}

const SCHEMA_1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Header and field must agree, and one of them must be there; a type that stands only in the header is enough for OCI.
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
        (Some(header), None) if header.must_be_said_inside() => {
            Err(invalid(format!("`mediaType` is missing, must be {header}")))
        }
        (Some(media_type), _) | (None, Some(media_type)) => Ok(media_type),
        (None, None) => Err(invalid(
            "neither a Content-Type nor a `mediaType` tells what it is",
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
    /// Whether `manifests` is there at all.
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
    has_urls: bool,
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
            "urls" => self.has_urls = value.text_list()?.is_some_and(|urls| !urls.is_empty()),
            "annotations" => drop(value.text_map()?),
            "data" | "artifactType" => drop(value.text()?),
            "platform" => drop(value.object::<WirePlatform>()?),
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
        // Image-spec: "size MUST NOT be negative". A size that is left out is 0, as Go reads it.
        let size_bytes = self
            .size
            .try_into()
            .map_err(|_| format!("`size` is {}, must not be negative", self.size))?;
        Ok(Descriptor {
            is_foreign: self.has_urls || is_nondistributable(&self.media_type),
            media_type: self.media_type,
            digest,
            size_bytes,
        })
    }
}

/// Read only so that all readers see the same: an image is picked by it.
#[derive(Default)]
struct WirePlatform;

impl Fields for WirePlatform {
    type Whole = ();
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
            "architecture" | "os" | "os.version" | "variant" => drop(value.text()?),
            "os.features" | "features" => drop(value.text_list()?),
            _ => value.skip()?,
        }
        Ok(())
    }

    fn finish(self) -> Result<(), String> {
        Ok(())
    }
}

/// The longest reason: `serde_json` repeats what it did not expect, which may be megabytes.
const REASON_CHARS_MAX: usize = 300;

/// The end is kept too: it tells the line and column.
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

/// Why some bytes are not a manifest that can be taken; the text is for whoever pushed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(String);

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
