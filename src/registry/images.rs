//! What people see of repositories and images: tags, digests, platforms, sizes, when a tag was pushed.
//!
//! Sizes come from the index, or from the store while the index may not be asked (`seen.rs`); everything else is read from the store. When a tag was last pulled is not recorded: a pull would have
//! to write it down, and the index, which is the only place for it, may be rebuilt at any time. Must not know how it is
//! printed. Invariant: nothing is listed that was not there when the store was asked.

use std::collections::{BTreeSet, HashMap};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::core::{Core, Stored};
use super::error::{IndexedError, RegistryError};
use super::listings::Listings;
use super::seen::Seen;
use super::usage::{RepositoryUsage, TagsUsage, Usage, usage_of_image};
use crate::index::View;
use crate::layout::{self, Key, Place};
use crate::oci::{
    Algorithm, Content, Descriptor, Digest, Manifest, Reference, RepositoryName, Tag,
};
use crate::store::{Meta, Small};

/// The longest config that is read for its platform: configs of images have some kilobytes.
const CONFIG_SIZE_MAX_BYTES: u64 = 1024 * 1024;

/// What an index says of a part that is for no platform (`BuildKit`'s attestations).
const NO_PLATFORM: &str = "unknown";

/// One repository in the list of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositorySummary {
    /// `team/app`
    pub name: String,
    /// How many tags it has.
    pub tags: u64,
    /// How many manifests it has.
    pub manifests: u64,
    /// Everything that it holds, as `usage.rs` says.
    pub bytes: u64,
}

/// The images of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryContent {
    /// `team/app`
    pub name: String,
    /// Its tags, in byte order.
    pub tags: Vec<TagSummary>,
    /// What the manifests in `untagged` hold.
    pub untagged_bytes: u64,
    /// Manifests that belong to no tagged image, by digest: their tag was deleted or moved.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub untagged: Vec<String>,
    /// See [`Seen::from_store`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from_store: Option<String>,
}

/// One tag of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagSummary {
    /// `v1.2`
    pub tag: String,
    /// The manifest that it points to.
    pub digest: String,
    /// `linux/arm64`, in byte order; empty if the image names none.
    pub platforms: Vec<String>,
    /// The artifact type, where it says what this is: not for images that containers are started from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub artifact_type: Option<String>,
    /// Everything that the image holds, as `usage.rs` says.
    pub bytes: u64,
    /// When the tag was pushed last, in seconds since 1970, as far as the store knows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pushed_unix_secs: Option<u64>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The repository.
    pub repository: String,
    /// Its digest.
    pub digest: String,
    /// All tags that point to it, in byte order.
    pub tags: Vec<String>,
    /// Of its manifest.
    pub media_type: String,
    /// See [`TagSummary::artifact_type`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub artifact_type: Option<String>,
    /// See [`TagSummary::platforms`].
    pub platforms: Vec<String>,
    /// Everything that the image holds, as `usage.rs` says.
    pub bytes: u64,
    /// The part that nothing else holds, here and in other repositories; `None` while that is not known.
    pub unique_bytes: Option<u64>,
    /// See [`TagSummary::pushed_unix_secs`]; of a digest, when its manifest was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pushed_unix_secs: Option<u64>,
    /// The manifest that this one is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<String>,
    /// The manifests that it lists.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub manifests: Vec<ImageChild>,
    /// Config, layers, or blobs of an artifact, in the order of the manifest.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub blobs: Vec<ImagePart>,
    /// Manifests about this one (signatures, SBOMs).
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub referrers: Vec<String>,
    /// Manifests that the tag pointed to before, the latest first; none where a digest was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub earlier: Vec<EarlierManifest>,
    /// See [`Seen::from_store`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from_store: Option<String>,
}

/// A manifest that an index lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageChild {
    /// Its digest.
    pub digest: String,
    /// `linux/arm64`
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub platform: Option<String>,
    /// Whether the repository has it.
    pub is_present: bool,
}

/// A blob of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePart {
    /// Its digest.
    pub digest: String,
    /// What the manifest says that it is.
    pub media_type: String,
    /// How long the manifest says that it is.
    pub bytes: u64,
}

/// A manifest that a tag has pointed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierManifest {
    /// Its digest.
    pub digest: String,
    /// When it was last pushed under the tag, in seconds since 1970, as far as the store knows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pushed_unix_secs: Option<u64>,
    /// Whether the repository still has it, so that the tag can be restored.
    pub is_present: bool,
}

/// What an image says of itself.
#[derive(Debug, Clone, Default)]
struct Kind {
    platforms: BTreeSet<String>,
    artifact_type: Option<String>,
}

impl Listings {
    /// All repositories, in byte order.
    pub async fn summaries(&self) -> Result<Seen<Vec<RepositorySummary>>, IndexedError> {
        let row = |row: RepositoryUsage| RepositorySummary {
            name: row.name.to_string(),
            tags: row.tags,
            manifests: row.manifests,
            bytes: row.bytes,
        };
        let rows = self.core.repositories_usage().await?;
        Ok(rows.map(|rows| rows.into_iter().map(row).collect()))
    }

    /// The tags of a repository.
    pub async fn content(&self, name: &RepositoryName) -> Result<RepositoryContent, IndexedError> {
        let core = &self.core;
        let tags = core.tag_targets(name).await?;
        let Seen {
            value: TagsUsage { rows, untagged },
            from_store,
        } = core.usage_of(name, tags.clone()).await?;
        if rows.is_empty() && !core.repository_exists(name).await? {
            return Err(RegistryError::NameUnknown(name.clone()).into());
        }
        let current = |(tag, _): &(Tag, Digest)| Place::TagCurrent(name, tag).key();
        let links: Vec<Key> = tags.iter().map(current).collect();
        let links = core.find_each(&links).await?;
        let digests: BTreeSet<Digest> = tags.iter().map(|(_, digest)| *digest).collect();
        let digests: Vec<Digest> = digests.into_iter().collect();
        let kinds = core.kinds(name, &digests).await?;
        let untagged_bytes = rows.get(tags.len()).map_or(0, |row| row.bytes);
        let summary = |(((tag, digest), link), usage): (((Tag, Digest), Option<Meta>), Usage)| {
            let Kind {
                platforms,
                artifact_type,
            } = kinds.get(&digest).cloned().unwrap_or_default();
            TagSummary {
                tag: tag.to_string(),
                digest: digest.to_string(),
                platforms: platforms.into_iter().collect(),
                artifact_type,
                bytes: usage.bytes,
                pushed_unix_secs: link.as_ref().and_then(written_unix_secs),
            }
        };
        Ok(RepositoryContent {
            name: name.to_string(),
            tags: tags.into_iter().zip(links).zip(rows).map(summary).collect(),
            untagged_bytes,
            untagged: untagged.iter().map(Digest::to_string).collect(),
            from_store,
        })
    }

    /// The image that `reference` names.
    pub async fn image(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Image, IndexedError> {
        let core = &self.core;
        let unknown = || RegistryError::ManifestUnknown(reference.clone());
        let (link, digest) = match reference {
            Reference::Digest(digest) => (Place::RevisionLink(name, *digest).key(), *digest),
            Reference::Tag(tag) => {
                let link = Place::TagCurrent(name, tag).key();
                let digest = core.read_link(&link).await?.ok_or_else(unknown)?;
                (link, digest)
            }
        };
        let mut found = None;
        let visit = |_: &Digest, _: Meta, stored| found = Some(stored);
        core.each_manifest(name, &[digest], visit).await?;
        let stored = found.ok_or_else(unknown)?;
        let pushed = core.find(&link).await?;
        let targets = core.tag_targets(name).await?;
        let (tags, others): (Vec<_>, Vec<_>) =
            targets.into_iter().partition(|(_, at)| *at == digest);
        let others: BTreeSet<Digest> = others.into_iter().map(|(_, at)| at).collect();
        let asked = name.clone();
        let look = move |view: &View, is_whole| {
            let usage = usage_of_image(view, &asked, digest, &others, is_whole)?;
            let referrers = view.referrers(&asked, digest, None).into_vec()?;
            Ok((usage, referrers))
        };
        let Seen {
            value: (usage, referrers),
            from_store,
        } = core.look_at(name, look).await?;
        let Kind {
            platforms,
            artifact_type,
        } = core
            .kinds(name, &[digest])
            .await?
            .remove(&digest)
            .unwrap_or_default();
        let mut image = Image {
            repository: name.to_string(),
            digest: digest.to_string(),
            tags: tags.iter().map(|(tag, _)| tag.to_string()).collect(),
            media_type: String::new(),
            artifact_type,
            platforms: platforms.into_iter().collect(),
            bytes: usage.bytes,
            unique_bytes: usage.unique_bytes,
            pushed_unix_secs: pushed.as_ref().and_then(written_unix_secs),
            subject: None,
            manifests: Vec::new(),
            blobs: Vec::new(),
            referrers: referrers.iter().map(Digest::to_string).collect(),
            earlier: Vec::new(),
            from_store,
        };
        match stored {
            Stored::Manifest(manifest) => self.describe(name, &manifest, &mut image).await?,
            Stored::Unreadable | Stored::TooLong => "not known".clone_into(&mut image.media_type),
        }
        if let Reference::Tag(tag) = reference {
            let history = core.tag_history(name, tag).await?;
            let earlier = history.into_iter();
            let earlier = earlier.filter(|(before, _)| *before != digest);
            image.earlier = earlier.map(|(_, earlier)| earlier).collect();
        }
        Ok(image)
    }

    async fn describe(
        &self,
        name: &RepositoryName,
        manifest: &Manifest,
        image: &mut Image,
    ) -> Result<(), IndexedError> {
        image.media_type = manifest.media_type.to_string();
        let subject = manifest.subject.as_ref();
        image.subject = subject.map(|subject| subject.digest.to_string());
        let part = |part: &Descriptor| ImagePart {
            digest: part.digest.to_string(),
            media_type: part.media_type.clone(),
            bytes: part.size_bytes,
        };
        image.blobs = match &manifest.content {
            Content::Image { config, layers } => {
                std::iter::once(config).chain(layers).map(part).collect()
            }
            Content::Artifact { blobs } => blobs.iter().map(part).collect(),
            Content::Index { .. } => Vec::new(),
        };
        let children = manifest.children();
        let link = |child: &Descriptor| Place::RevisionLink(name, child.digest).key();
        let links: Vec<Key> = children.iter().map(link).collect();
        let linked = self.core.linked_each(&links).await?;
        let child = |(child, linked): (&Descriptor, Option<_>)| ImageChild {
            digest: child.digest.to_string(),
            platform: platform_of(child),
            is_present: linked.is_some(),
        };
        image.manifests = children.iter().zip(linked).map(child).collect();
        Ok(())
    }
}

impl Core {
    /// What each of `digests`, manifests of `name`, says of itself.
    async fn kinds(
        &self,
        name: &RepositoryName,
        digests: &[Digest],
    ) -> Result<HashMap<Digest, Kind>, RegistryError> {
        let mut kinds = HashMap::new();
        // Which images have a config, by its digest: images that differ in their layers share one at times.
        let mut configs: HashMap<Digest, Vec<Digest>> = HashMap::new();
        let visit = |digest: &Digest, _: Meta, stored| {
            let Stored::Manifest(manifest) = stored else {
                return;
            };
            let mut kind = Kind::default();
            if let Content::Image { config, .. } = &manifest.content {
                configs.entry(config.digest).or_default().push(*digest);
            }
            let children = manifest.children().iter();
            kind.platforms.extend(children.filter_map(platform_of));
            let is_container_image = |config: &Descriptor| {
                config.media_type == "application/vnd.oci.image.config.v1+json"
                    || config.media_type == "application/vnd.docker.container.image.v1+json"
            };
            let is_usual = match &manifest.content {
                Content::Image { config, .. } => {
                    manifest.artifact_type.as_deref() == Some(&config.media_type)
                        && is_container_image(config)
                }
                Content::Index { .. } | Content::Artifact { .. } => false,
            };
            kind.artifact_type = manifest.artifact_type.filter(|_| !is_usual);
            kinds.insert(*digest, kind);
        };
        self.each_manifest(name, digests, visit).await?;
        let keys: HashMap<Key, Digest> = configs
            .keys()
            .map(|config| (Place::BlobData(*config).key(), *config))
            .collect();
        let wanted: Vec<Key> = keys.keys().cloned().collect();
        self.read_each(&wanted, CONFIG_SIZE_MAX_BYTES, |key, config| {
            let Small::Whole(_, bytes) = config else {
                return;
            };
            let Some(platform) = platform_of_config(&bytes) else {
                return;
            };
            let images = keys.get(key).and_then(|config| configs.get(config));
            for image in images.into_iter().flatten() {
                if let Some(kind) = kinds.get_mut(image) {
                    kind.platforms.insert(platform.clone());
                }
            }
        })
        .await?;
        Ok(kinds)
    }

    /// The manifests that `tag` points to or has pointed to, the latest first.
    pub(super) async fn tag_history(
        &self,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<Vec<(Digest, EarlierManifest)>, RegistryError> {
        let mut digests = Vec::new();
        for algorithm in Algorithm::ALL {
            let directory = layout::tag_index_directory(name, tag, algorithm);
            digests.extend(self.digest_directories(&directory, algorithm).await?);
        }
        let index = |digest: &Digest| Place::TagIndex(name, tag, *digest).key();
        let revision = |digest: &Digest| Place::RevisionLink(name, *digest).key();
        let links: Vec<Key> = digests.iter().map(index).collect();
        let revisions: Vec<Key> = digests.iter().map(revision).collect();
        let links = self.find_each(&links).await?;
        let revisions = self.linked_each(&revisions).await?;
        let mut history = Vec::new();
        for ((digest, link), revision) in digests.into_iter().zip(links).zip(revisions) {
            // A directory without its link says nothing.
            let Some(link) = link else { continue };
            let earlier = EarlierManifest {
                digest: digest.to_string(),
                pushed_unix_secs: written_unix_secs(&link),
                is_present: revision.is_some(),
            };
            // To the nanosecond: two pushes may fall into one second.
            history.push((link.written, digest, earlier));
        }
        history.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)));
        let history = history.into_iter();
        Ok(history
            .map(|(_, digest, earlier)| (digest, earlier))
            .collect())
    }
}

fn written_unix_secs(meta: &Meta) -> Option<u64> {
    let since = meta.written?.duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

/// `linux/arm64`
fn platform_of(child: &Descriptor) -> Option<String> {
    let platform = child.platform.as_ref()?;
    let is_known = platform.os != NO_PLATFORM;
    is_known.then(|| platform_text(&platform.os, &platform.architecture))?
}

/// The same from the config of an image, whatever its media type: configs of VM images have these fields too.
fn platform_of_config(config: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Config {
        os: String,
        #[serde(alias = "arch")]
        architecture: String,
    }
    let config: Config = serde_json::from_slice(config).ok()?;
    platform_text(&config.os, &config.architecture)
}

/// `None` for what no platform is called: anyone who may push decides what is printed here.
fn platform_text(os: &str, architecture: &str) -> Option<String> {
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    (is_word(os) && is_word(architecture)).then(|| format!("{os}/{architecture}"))
}
