//! Manifests: what an image, an index or an artifact is made of.
//!
//! Source: image-spec `manifest.md`, `image-index.md`, `descriptor.md`; Docker's schema 2. Must not know what is stored.
//! Invariant: a [`Manifest`] is one kind of thing only (a config with layers, or a list of manifests, never both: clients
//! would disagree on what the digest means), and its bytes are kept elsewhere, exactly as they came.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::digest::Digest;
use super::json;
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
    /// Other manifests.
    Index {
        /// The manifests in order.
        manifests: Vec<Descriptor>,
    },
}

/// A reference to content (image-spec `descriptor.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Free text.
    pub media_type: String,
    /// The content's address.
    pub digest: Digest,
    /// The content's length.
    pub size_bytes: u64,
    /// Whether it lies elsewhere: a non-distributable type, or `urls`.
    pub is_foreign: bool,
}

impl Manifest {
    /// Reads a manifest that is pushed as `content_type` (`None`: the header is missing, and the manifest itself must
    /// tell).
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        let value =
            json::parse(bytes).map_err(|error| invalid(format!("not valid JSON: {error}")))?;
        let Value::Object(fields) = &value else {
            return Err(invalid("not a JSON object"));
        };
        let has_config = fields.contains_key("config") || fields.contains_key("layers");
        let has_manifests = fields.contains_key("manifests");
        let wire: WireManifest = serde_json::from_value(value)
            .map_err(|error| invalid(format!("not a manifest: {error}")))?;
        let media_type = media_type(content_type, wire.media_type.as_deref())?;
        if wire.schema_version != 2 {
            return Err(invalid(format!(
                "`schemaVersion` is {}, must be 2",
                wire.schema_version
            )));
        }
        if has_config && has_manifests {
            return Err(invalid(
                "both `config` or `layers` and `manifests`: it must be one kind of thing",
            ));
        }
        let content = if media_type.is_index() {
            if !has_manifests {
                return Err(invalid("`manifests` is missing"));
            }
            Content::Index {
                manifests: descriptors(wire.manifests)?,
            }
        } else {
            let config = wire.config.ok_or_else(|| invalid("`config` is missing"))?;
            Content::Image {
                config: config.parse()?,
                layers: descriptors(wire.layers)?,
            }
        };
        let config_type = match &content {
            Content::Image { config, .. } => Some(config.media_type.clone()),
            Content::Index { .. } => None,
        };
        Ok(Self {
            media_type,
            subject: wire.subject.map(WireDescriptor::parse).transpose()?,
            artifact_type: wire
                .artifact_type
                .filter(|text| !text.is_empty())
                .or(config_type),
            annotations: wire.annotations.unwrap_or_default(),
            content,
        })
    }

    /// The media type to serve stored bytes with: what they say of themselves, whatever that is, since another registry
    /// may have taken them.
    pub fn media_type_of(bytes: &[u8]) -> String {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Glance {
            media_type: Option<String>,
            schema_version: Option<u64>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let glance: Option<Glance> = serde_json::from_slice(bytes).ok();
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
                manifests: Some(_), ..
            }) => MediaType::OciIndex.to_string(),
            Some(_) => MediaType::OciManifest.to_string(),
            None => "application/octet-stream".to_owned(),
        }
    }

    /// The blobs that must be there: config and layers, without those that lie elsewhere.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, layers) = match &self.content {
            Content::Image { config, layers } => (Some(config), layers.as_slice()),
            Content::Index { .. } => (None, [].as_slice()),
        };
        config
            .into_iter()
            .chain(layers)
            .filter(|descriptor| !descriptor.is_foreign)
    }

    /// The manifests that must be there; the subject need not.
    pub fn children(&self) -> &[Descriptor] {
        match &self.content {
            Content::Image { .. } => &[],
            Content::Index { manifests } => manifests,
        }
    }
}

const SCHEMA_1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Header and field must agree, and one of them must be there; a type that stands only in the header is enough for OCI.
fn media_type(content_type: Option<&str>, field: Option<&str>) -> Result<MediaType, ManifestError> {
    let field = match field {
        None | Some("") => None,
        Some(text) => Some(
            MediaType::parse(text)
                .ok_or_else(|| invalid(format!("`mediaType` {text:?} is not supported")))?,
        ),
    };
    let header = match content_type {
        None => None,
        Some(text) => Some(
            MediaType::parse(text)
                .ok_or_else(|| invalid(format!("Content-Type {text:?} is not supported")))?,
        ),
    };
    match (header, field) {
        (Some(header), Some(field)) if header != field => Err(invalid(format!(
            "Content-Type is {header}, but `mediaType` is {field}"
        ))),
        (Some(header), None) if header.is_docker() => {
            Err(invalid(format!("`mediaType` is missing, must be {header}")))
        }
        (Some(media_type), _) | (None, Some(media_type)) => Ok(media_type),
        (None, None) => Err(invalid(
            "neither a Content-Type nor a `mediaType` tells what it is",
        )),
    }
}

fn descriptors(wire: Option<Vec<WireDescriptor>>) -> Result<Vec<Descriptor>, ManifestError> {
    wire.unwrap_or_default()
        .into_iter()
        .map(WireDescriptor::parse)
        .collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireManifest {
    #[serde(default)]
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<WireDescriptor>,
    // Go writes an empty list as `null`.
    layers: Option<Vec<WireDescriptor>>,
    manifests: Option<Vec<WireDescriptor>>,
    subject: Option<WireDescriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    urls: Option<Vec<String>>,
}

impl WireDescriptor {
    fn parse(self) -> Result<Descriptor, ManifestError> {
        let digest = self
            .digest
            .parse()
            .map_err(|error| invalid(format!("digest {:?}: {error}", self.digest)))?;
        let has_urls = self.urls.is_some_and(|urls| !urls.is_empty());
        let is_foreign = has_urls || is_nondistributable(&self.media_type);
        Ok(Descriptor {
            media_type: self.media_type,
            digest,
            size_bytes: self.size,
            is_foreign,
        })
    }
}

fn invalid(reason: impl Into<String>) -> ManifestError {
    ManifestError(reason.into())
}

/// Why some bytes are not a manifest that can be taken; the text is for whoever pushed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(String);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

    fn image(extra: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"sha256:{HEX}","size":0}},"layers":[]{extra}}}"#
        )
    }

    #[test]
    fn an_image_is_read() {
        let text = image(&format!(
            r#","subject":{{"digest":"sha256:{HEX}","size":1}},"annotations":{{"a":"b"}}"#
        ));
        let manifest = Manifest::parse(text.as_bytes(), Some(OCI)).expect("valid");
        assert_eq!(manifest.artifact_type.as_deref(), Some("c"));
        assert_eq!(manifest.blobs().count(), 1);
        assert!(manifest.subject.is_some());
        assert_eq!(manifest.annotations.get("a").map(String::as_str), Some("b"));
    }

    #[test]
    fn the_type_comes_from_header_or_field_and_both_must_agree() {
        let parse = |text: &str, header: Option<&str>| {
            Manifest::parse(text.as_bytes(), header).map(|manifest| manifest.media_type)
        };
        let named = image(&format!(r#","mediaType":"{OCI}""#));
        assert_eq!(parse(&named, None), Ok(MediaType::OciManifest));
        assert_eq!(
            parse(&named, Some(&format!("{OCI}; charset=utf-8"))),
            Ok(MediaType::OciManifest)
        );
        assert!(parse(&named, Some(DOCKER)).is_err());
        assert!(parse(&image(""), None).is_err());
        assert!(parse(&image(""), Some(DOCKER)).is_err());
        assert!(parse(&image(""), Some("application/json")).is_err());
    }

    #[test]
    fn confusing_manifests_are_refused() {
        let cases = [
            ("", "not valid JSON"),
            ("[]", "not a JSON object"),
            (r#"{"schemaVersion":2}"#, "`config` is missing"),
            (&image(r#","manifests":[]"#), "one kind of thing"),
            (&image(r#","schemaVersion":2"#), "given twice"),
            (&image("").replace(":2,", ":1,"), "must be 2"),
            (
                &image("").replace("\"size\":0", "\"size\":-1"),
                "not a manifest",
            ),
            (&image("").replace("sha256:e3", "sha256:E3"), "not a digest"),
        ];
        for (text, reason) in cases {
            let error = Manifest::parse(text.as_bytes(), Some(OCI))
                .expect_err(text)
                .to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(Manifest::parse(image("").as_bytes(), Some(INDEX)).is_err());
    }

    #[test]
    fn null_lists_are_empty_lists() {
        let index = r#"{"schemaVersion":2,"manifests":null}"#;
        assert_eq!(
            Manifest::parse(index.as_bytes(), Some(INDEX))
                .expect("valid")
                .children(),
            []
        );
        let image = image("").replace("[]", "null");
        assert_eq!(
            Manifest::parse(image.as_bytes(), Some(OCI))
                .expect("valid")
                .blobs()
                .count(),
            1
        );
    }

    #[test]
    fn stored_bytes_are_served_as_what_they_say() {
        assert_eq!(Manifest::media_type_of(image("").as_bytes()), OCI);
        assert_eq!(Manifest::media_type_of(br#"{"manifests":[]}"#), INDEX);
        assert_eq!(Manifest::media_type_of(br#"{"mediaType":"x/y"}"#), "x/y");
        assert_eq!(
            Manifest::media_type_of(br#"{"schemaVersion":1}"#),
            SCHEMA_1_SIGNED
        );
        assert_eq!(Manifest::media_type_of(b"\xff"), "application/octet-stream");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Manifest::parse(&bytes, None);
            let _ = Manifest::media_type_of(&bytes);
        }
    }
}
