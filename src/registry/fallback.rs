//! Fallback tags: the referrers of a manifest, listed by an index under the tag `sha256-<hex>` of the manifest.
//!
//! Source: distribution-spec "Referrers Tag Schema". Clients that see the referrers API write no such tag. A registry without
//! that API, to which the data may go back, would not show the referrers, and its collector would delete them. So the tag is
//! kept up to date here, in the commit of the push or delete. Must not know when it has to be kept. Invariants: what a client has
//! listed under the tag stays listed as long as it exists; a tag that points at something other than an index is not
//! touched. The caller holds the tags of the repository exclusively: two pushes that read the same index would lose one
//! referrer.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::core::{Core, READ_SIZE_MAX_BYTES};
use super::error::RegistryError;
use super::event::Event;
use super::phases::Phases;
use super::referrers::Referrer;
use super::settings::FallbackTags;
use crate::layout::{Key, Place};
use crate::oci::{Algorithm, Digest, Manifest, MediaType, RepositoryName, Tag};
use crate::store::Small;

/// Registries without the referrers API read no longer manifest.
const INDEX_SIZE_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Marks an index that was made here, in its annotations. Clients make others, and these are kept when they are replaced.
const MADE_HERE: &str = "boathouse.referrers-fallback";

/// The index that was replaced is looked for under other tags only if there are no more: each is read, while no other tag
/// of the repository can move. Among more it stays, untagged.
const TAGS_LOOKED_THROUGH_MAX: usize = 1_000;

/// What changes in a list of referrers.
pub(super) enum Edit {
    /// These are referrers as well.
    Add(Vec<Referrer>),
    /// This one is going to be removed.
    Remove(Digest),
}

/// What a fallback tag points at.
pub(super) enum FallbackTag {
    /// Nothing that is there.
    Missing,
    /// A manifest that is not an index.
    Foreign,
    /// An index.
    Index(FallbackIndex),
}

/// What an index lists, in its order.
pub(super) struct FallbackIndex {
    digest: Digest,
    pub(super) entries: Vec<Entry>,
    is_made_here: bool,
}

/// A descriptor as it is written in an index.
pub(super) struct Entry {
    pub(super) digest: Digest,
    text: Box<RawValue>,
}

/// A new state of one fallback tag, to be committed.
pub(super) struct FallbackChange {
    tag: Tag,
    /// `None`: nothing is left to be listed, and the tag is removed.
    index: Option<NewIndex>,
    /// An index that only this tag has pointed at.
    replaced: Option<Digest>,
}

struct NewIndex {
    digest: Digest,
    bytes: Bytes,
    manifest: Manifest,
}

impl FallbackChange {
    /// What the commit puts, to be locked as shared.
    pub(super) fn put(&self) -> Option<&Digest> {
        self.index.as_ref().map(|index| &index.digest)
    }

    /// What the commit removes, to be locked exclusively.
    pub(super) fn removed(&self) -> Option<&Digest> {
        self.replaced.as_ref()
    }

    /// Adds itself to what a commit does, and to what has happened then.
    pub(super) fn add_to(self, phases: &mut Phases<'_>, events: &mut Vec<Event>) {
        let tag = self.tag;
        if let Some(index) = self.index {
            let (digest, size_bytes) = (index.digest, index.bytes.len() as u64);
            phases.put(&digest, index.bytes, std::slice::from_ref(&tag));
            events.push(Event::ManifestPut {
                digest,
                size_bytes,
                manifest: Box::new(index.manifest),
                is_linked_as_layer: false,
            });
            events.push(Event::TagMoved { tag, digest });
        } else {
            phases.remove_tag(&tag);
            events.push(Event::TagRemoved { tag });
        }
        if let Some(digest) = self.replaced {
            phases.remove_revision(&digest);
            events.push(Event::ManifestRemoved { digest });
        }
    }
}

impl Core {
    pub(super) fn keeps_fallback_tags(&self) -> bool {
        self.settings.fallback_tags == FallbackTags::Kept
    }

    /// What must be committed so that the fallback tag of `subject` lists its referrers after `edit`; `None` if it does
    /// already, or cannot.
    pub(super) async fn change_fallback(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        edit: Edit,
    ) -> Result<Option<FallbackChange>, RegistryError> {
        let tag = Tag::of_referrers(subject);
        let old = match self.fallback_tag(name, &tag).await? {
            FallbackTag::Missing => None,
            FallbackTag::Foreign => {
                tracing::warn!(repository = %name, %tag, "the tag for the referrers of a manifest points at something that is not an index; left as it is");
                return Ok(None);
            }
            FallbackTag::Index(index) => Some(index),
        };
        let (old, entries) = match old {
            Some(index) => (Some((index.digest, index.is_made_here)), index.entries),
            None => (None, Vec::new()),
        };
        let count_before = entries.len();
        let mut entries = self.present(name, entries).await?;
        let mut is_changed = entries.len() != count_before;
        let count_present = entries.len();
        match edit {
            Edit::Add(referrers) => {
                let listed: HashSet<Digest> = entries.iter().map(|entry| entry.digest).collect();
                let new = referrers
                    .iter()
                    .filter(|referrer| !listed.contains(&referrer.digest));
                entries.extend(new.filter_map(Entry::of));
            }
            Edit::Remove(digest) => entries.retain(|entry| entry.digest != digest),
        }
        is_changed |= entries.len() != count_present;
        if !is_changed {
            return Ok(None);
        }
        let index = if entries.is_empty() {
            None
        } else {
            let Some(index) = NewIndex::of(&entries) else {
                tracing::warn!(repository = %name, %tag, referrers = entries.len(), "the index of all referrers of a manifest would be longer than registries without the referrers API can read; its tag is left as it is");
                return Ok(None);
            };
            Some(index)
        };
        let replaced = match old {
            Some((digest, true)) if self.is_tagged_once(name, &digest).await? => Some(digest),
            Some(_) | None => None,
        };
        Ok(Some(FallbackChange {
            tag,
            index,
            replaced,
        }))
    }

    /// What `tag` points at.
    pub(super) async fn fallback_tag(
        &self,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<FallbackTag, RegistryError> {
        let current = Place::TagCurrent(name, tag).key();
        let Some(digest) = self.read_link(&current).await? else {
            return Ok(FallbackTag::Missing);
        };
        let revision = Place::RevisionLink(name, digest);
        let Some((target, _)) = self.linked_data(&revision).await? else {
            return Ok(FallbackTag::Missing);
        };
        let (mut bytes, key) = (None, Place::BlobData(target).key());
        self.read_each(&[key], READ_SIZE_MAX_BYTES, |_, data| {
            if let Small::Whole(_, whole) = data {
                bytes = Some(whole);
            }
        })
        .await?;
        let Some(bytes) = bytes else {
            return Ok(FallbackTag::Foreign);
        };
        let size_bytes = bytes.len();
        let read = move || {
            if Digest::of(target.algorithm(), &bytes) != target {
                return FallbackTag::Missing;
            }
            let index = FallbackIndex::parse(digest, &bytes);
            index.map_or(FallbackTag::Foreign, FallbackTag::Index)
        };
        self.parse(size_bytes, read).await
    }

    /// Those of `entries` that are in the repository.
    async fn present(
        &self,
        name: &RepositoryName,
        entries: Vec<Entry>,
    ) -> Result<Vec<Entry>, RegistryError> {
        let link = |entry: &Entry| Place::RevisionLink(name, entry.digest).key();
        let links: Vec<Key> = entries.iter().map(link).collect();
        let found = self.read_links(&links).await?;
        let entries = entries.into_iter().zip(found);
        let present = entries.filter_map(|(entry, link)| link.map(|_| entry));
        Ok(present.collect())
    }

    /// Whether no more than one tag points at `digest`, as far as that is looked for.
    async fn is_tagged_once(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        let tags = self.tag_directories(name).await?;
        if tags.len() > TAGS_LOOKED_THROUGH_MAX {
            return Ok(false);
        }
        Ok(self.tags_at(name, tags, digest).await?.len() <= 1)
    }
}

impl FallbackIndex {
    fn parse(digest: Digest, bytes: &[u8]) -> Option<Self> {
        /// Read after [`Manifest::parse_stored`], which refuses what readers could understand differently.
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow)]
            manifests: Option<Vec<&'a RawValue>>,
            annotations: Option<BTreeMap<String, String>>,
        }
        let manifest = Manifest::parse_stored(bytes)?;
        if manifest.media_type != MediaType::OciIndex {
            return None;
        }
        let wire: Wire<'_> = serde_json::from_slice(bytes).ok()?;
        let texts = wire.manifests.unwrap_or_default();
        let entries = texts.into_iter().zip(manifest.children());
        let entries = entries.map(|(text, child)| Entry {
            digest: child.digest,
            text: text.to_owned(),
        });
        let annotations = wire.annotations.unwrap_or_default();
        Some(Self {
            digest,
            entries: entries.collect(),
            is_made_here: annotations.contains_key(MADE_HERE),
        })
    }
}

impl Entry {
    /// As the referrers API lists it.
    fn of(referrer: &Referrer) -> Option<Self> {
        // Names and texts only: writing them as JSON cannot fail.
        let text = serde_json::value::to_raw_value(referrer).ok()?;
        Some(Self {
            digest: referrer.digest,
            text,
        })
    }
}

impl NewIndex {
    /// `None` if it were too long.
    fn of(entries: &[Entry]) -> Option<Self> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            schema_version: u8,
            media_type: &'a str,
            manifests: Vec<&'a RawValue>,
            annotations: BTreeMap<&'a str, &'a str>,
        }
        let wire = Wire {
            schema_version: 2,
            media_type: MediaType::OciIndex.as_str(),
            manifests: entries.iter().map(|entry| &*entry.text).collect(),
            annotations: BTreeMap::from([(MADE_HERE, "true")]),
        };
        let bytes = serde_json::to_vec(&wire).ok()?;
        if bytes.len() > INDEX_SIZE_MAX_BYTES {
            return None;
        }
        Some(Self {
            digest: Digest::of(Algorithm::Sha256, &bytes),
            manifest: Manifest::parse_stored(&bytes)?,
            bytes: bytes.into(),
        })
    }
}
