//! Looking through one repository.
//!
//! Must not know other repositories. Invariant: what a repository has is gathered in the order layers, manifests, tags, so
//! that each reference is judged when all that it can mean is known.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::finding::{Kind, LinkTo};
use super::walk::{Names, Walk};
use crate::layout::{self, Key, Place, Prefix, UploadId};
use crate::oci::{Algorithm, Descriptor, Digest, Manifest, MediaType, RepositoryName, Tag};
use crate::registry::core::{LINK_SIZE_MAX_BYTES, READ_SIZE_MAX_BYTES};
use crate::registry::fallback::FallbackTag;
use crate::store::{Meta, Small};

/// Registries of this layout read no longer manifest.
const OTHERS_READ_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Manifests whose references are in memory at once.
const MANIFESTS_AT_ONCE: usize = 64;

/// A type of Docker's first schema.
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// One repository, and what was found to be in it.
pub(super) struct Look<'a, 'w> {
    walk: &'a mut Walk<'w>,
    name: &'a RepositoryName,
    /// The data that blobs lead to.
    layers: HashMap<Digest, (Digest, Meta)>,
    revisions: HashMap<Digest, Option<Summary>>,
    tagged: HashSet<Digest>,
    /// What fallback tags point at, whatever other tags do.
    fallback: HashSet<Digest>,
    /// Blobs whose length was found to be wrong.
    damaged: HashSet<Digest>,
}

/// What must be known of a manifest when all of them are known.
struct Summary {
    media_type: MediaType,
    subject: Option<Digest>,
    children: Vec<Descriptor>,
}

impl<'a, 'w> Look<'a, 'w> {
    /// Looks through the repository `name`.
    pub(super) async fn at(walk: &'a mut Walk<'w>, name: &'a RepositoryName) {
        let directory = layout::repository_directory(name);
        let names = walk.names(&directory).await;
        let has = |part: &str| names.directories.iter().any(|name| name == part);
        let mut look = Self {
            walk,
            name,
            layers: HashMap::new(),
            revisions: HashMap::new(),
            tagged: HashSet::new(),
            fallback: HashSet::new(),
            damaged: HashSet::new(),
        };
        if !has("_layers") {
            look.walk.tell(Kind::NoLayers, directory.as_str(), "");
        }
        for algorithm in Algorithm::ALL {
            look.look_at_layers(algorithm).await;
        }
        look.stray_algorithms(&layout::layers_directory(name)).await;
        for algorithm in Algorithm::ALL {
            look.look_at_revisions(algorithm).await;
        }
        let revisions = layout::all_revisions_directory(name);
        look.stray_algorithms(&revisions).await;
        look.look_at_tags().await;
        look.judge_children().await;
        look.judge_referrers().await;
        look.look_at_uploads(&directory).await;
    }

    async fn stray_algorithms(&mut self, prefix: &Prefix) {
        let Names { directories, files } = self.walk.names(prefix).await;
        let strange = directories
            .into_iter()
            .filter(|name| name.parse::<Algorithm>().is_err());
        for name in strange.chain(files) {
            self.walk.tell(Kind::Stray, format!("{prefix}{name}"), "");
        }
    }

    /// The digests that have a directory below `prefix`. Other entries are reported.
    async fn digests(&mut self, prefix: &Prefix, algorithm: Algorithm) -> Vec<Digest> {
        let Names { directories, files } = self.walk.names(prefix).await;
        let mut digests = Vec::new();
        for name in directories {
            if let Ok(digest) = Digest::from_parts(algorithm, &name) {
                digests.push(digest);
                continue;
            }
            let below = format!("{prefix}{name}/");
            let has_link = match below.parse::<Prefix>() {
                Ok(below) => {
                    let files = self.walk.names(&below).await.files;
                    files.iter().any(|name| name == "link")
                }
                Err(_) => false,
            };
            let kind = if has_link {
                Kind::StrayRead
            } else {
                Kind::Stray
            };
            self.walk.tell(kind, below, "not a digest");
        }
        for file in files {
            self.walk.tell(Kind::Stray, format!("{prefix}{file}"), "");
        }
        digests
    }

    /// What `links` hold, without those that hold no digest.
    async fn targets<T: Copy>(
        &mut self,
        to: LinkTo,
        links: Vec<(T, Key)>,
    ) -> (Vec<(T, Key, Digest)>, Vec<Key>) {
        let keys: Vec<Key> = links.iter().map(|(_, key)| key.clone()).collect();
        let contents = self.walk.read(&keys, LINK_SIZE_MAX_BYTES).await;
        let (mut targets, mut absent) = (Vec::new(), Vec::new());
        for (of, key) in links {
            let text = match contents.get(&key) {
                Some(Small::Whole(_, bytes)) => String::from_utf8_lossy(bytes).into_owned(),
                Some(Small::TooLarge(_)) => "too long".to_owned(),
                Some(Small::Absent) => {
                    absent.push(key);
                    continue;
                }
                // It was reported.
                None => continue,
            };
            if let Ok(target) = text.trim().parse() {
                if text.trim() != text {
                    self.walk.tell(Kind::SpacedLink(to), key.as_str(), "");
                }
                targets.push((of, key, target));
            } else {
                let detail = if text.is_empty() {
                    "empty"
                } else {
                    "not a digest"
                };
                self.walk.tell(Kind::BadLink(to), key.as_str(), detail);
            }
        }
        (targets, absent)
    }

    async fn look_at_layers(&mut self, algorithm: Algorithm) {
        let prefix = layout::layer_links_directory(self.name, algorithm);
        let digests = self.digests(&prefix, algorithm).await;
        let link = |digest: Digest| (digest, Place::LayerLink(self.name, digest).key());
        let links = digests.into_iter().map(link).collect();
        // A directory without a link is what a deletion by the old registry leaves.
        let (targets, _) = self.targets(LinkTo::Blob, links).await;
        for (digest, key, target) in targets {
            let data = Place::BlobData(target).key();
            match self.walk.core.find(&data).await {
                Err(error) => self.walk.unreadable(data.as_str(), &error),
                Ok(None) => {
                    let detail = target.to_string();
                    self.walk
                        .tell(Kind::MissingData(LinkTo::Blob), key.as_str(), detail);
                }
                Ok(Some(meta)) => {
                    if (meta.size_bytes == 0) != is_of_nothing(&target) {
                        self.damaged.insert(digest);
                        let detail = format!("{} bytes", meta.size_bytes);
                        self.walk.tell(Kind::DamagedData, data.as_str(), detail);
                    }
                    self.layers.insert(digest, (target, meta));
                }
            }
        }
    }

    async fn look_at_revisions(&mut self, algorithm: Algorithm) {
        let prefix = layout::revisions_directory(self.name, algorithm);
        let digests = self.digests(&prefix, algorithm).await;
        let link = |digest: Digest| (digest, Place::RevisionLink(self.name, digest).key());
        let links = digests.into_iter().map(link).collect();
        let (targets, _) = self.targets(LinkTo::Manifest, links).await;
        for part in targets.chunks(MANIFESTS_AT_ONCE) {
            let data = |(_, _, target): &(Digest, Key, Digest)| Place::BlobData(*target).key();
            let keys: Vec<Key> = part.iter().map(data).collect();
            let mut contents = self.walk.read(&keys, READ_SIZE_MAX_BYTES).await;
            for ((digest, link, target), key) in part.iter().zip(keys) {
                let summary = match contents.remove(&key) {
                    // It was reported.
                    None => None,
                    Some(Small::Absent) => {
                        let kind = Kind::MissingData(LinkTo::Manifest);
                        self.walk.tell(kind, link.as_str(), target.to_string());
                        None
                    }
                    Some(Small::TooLarge(meta)) => {
                        let detail = format!("{} bytes", meta.size_bytes);
                        self.walk.tell(Kind::TooLong, link.as_str(), detail);
                        None
                    }
                    Some(Small::Whole(_, bytes)) => {
                        self.judge_manifest(link, target, &key, &bytes).await
                    }
                };
                self.revisions.insert(*digest, summary);
            }
        }
    }

    async fn judge_manifest(
        &mut self,
        link: &Key,
        target: &Digest,
        data: &Key,
        bytes: &[u8],
    ) -> Option<Summary> {
        if Digest::of(target.algorithm(), bytes) != *target {
            let detail = format!("{} bytes", bytes.len());
            self.walk.tell(Kind::DamagedData, data.as_str(), detail);
            return None;
        }
        if bytes.len() > OTHERS_READ_MAX_BYTES {
            let detail = format!("{} bytes", bytes.len());
            self.walk.tell(Kind::TooLong, link.as_str(), detail);
        }
        let Some(manifest) = Manifest::parse_stored(bytes) else {
            let media_type = Manifest::media_type_of(bytes);
            let kind = if media_type.starts_with(SCHEMA_1) {
                Kind::Schema1
            } else {
                Kind::UnknownType
            };
            self.walk.tell(kind, link.as_str(), media_type);
            return None;
        };
        if manifest.media_type == MediaType::OciArtifact {
            self.walk.tell(Kind::Artifact, link.as_str(), "");
        }
        let mut seen = HashSet::new();
        for blob in manifest.blobs().filter(|blob| seen.insert(blob.digest)) {
            self.judge_blob(link, blob).await;
        }
        Some(Summary {
            media_type: manifest.media_type,
            subject: manifest.subject.as_ref().map(|subject| subject.digest),
            children: manifest.children().to_vec(),
        })
    }

    /// A blob that the manifest of `link` names.
    async fn judge_blob(&mut self, link: &Key, blob: &Descriptor) {
        let Some((target, meta)) = self.layers.get(&blob.digest).cloned() else {
            self.judge_unlinked(link, &blob.digest).await;
            return;
        };
        if meta.size_bytes == blob.size_bytes || self.damaged.contains(&blob.digest) {
            return;
        }
        // A descriptor may be wrong as well: the bytes decide.
        let data = Place::BlobData(target).key();
        let damage = &self.walk.core.damage;
        match damage.agrees_with(&target, &meta, blob.size_bytes).await {
            Ok(true) => {}
            Ok(false) => {
                self.damaged.insert(blob.digest);
                let detail = format!("{} bytes, not {}", meta.size_bytes, blob.size_bytes);
                self.walk.tell(Kind::DamagedData, data.as_str(), detail);
            }
            Err(error) => self.walk.unreadable(data.as_str(), &error),
        }
    }

    /// What the manifest of `link` names, and the repository does not link.
    async fn judge_unlinked(&mut self, link: &Key, digest: &Digest) {
        let data = Place::BlobData(*digest).key();
        let kind = match self.walk.core.find(&data).await {
            // Where its link exists, that was reported.
            Ok(None) => Kind::MissingReference,
            Ok(Some(_)) => Kind::ReferenceElsewhere,
            Err(error) => return self.walk.unreadable(data.as_str(), &error),
        };
        self.walk.tell(kind, link.as_str(), digest.to_string());
    }

    async fn look_at_tags(&mut self) {
        let prefix = layout::tags_directory(self.name);
        let Names { directories, files } = self.walk.names(&prefix).await;
        let mut tags = Vec::new();
        for name in directories {
            match name.parse::<Tag>() {
                Ok(tag) => tags.push(tag),
                Err(_) => self
                    .walk
                    .tell(Kind::StrayInTags, format!("{prefix}{name}/"), ""),
            }
        }
        for file in files {
            self.walk
                .tell(Kind::StrayInTags, format!("{prefix}{file}"), "");
        }
        let subjects = self.revisions.iter().flat_map(|(digest, summary)| {
            let subject = summary.as_ref().and_then(|summary| summary.subject);
            std::iter::once(*digest).chain(subject)
        });
        let fallback_tags: HashSet<Tag> = subjects.map(|one| Tag::of_referrers(&one)).collect();
        let link = |tag: &Tag| {
            let is_fallback = fallback_tags.contains(tag);
            (is_fallback, Place::TagCurrent(self.name, tag).key())
        };
        let links = tags.iter().map(link).collect();
        let (targets, absent) = self.targets(LinkTo::Tag, links).await;
        for key in absent {
            self.walk.tell(
                Kind::StrayInTags,
                key.as_str(),
                "missing: a tag without its link",
            );
        }
        for (is_fallback, key, target) in targets {
            if !self.revisions.contains_key(&target) {
                self.walk
                    .tell(Kind::DanglingTag, key.as_str(), target.to_string());
            }
            if is_fallback {
                self.fallback.insert(target);
            }
            self.tagged.insert(target);
        }
    }

    async fn judge_children(&mut self) {
        let (mut indexes, mut untagged) = (0_u64, BTreeSet::new());
        let mut unlinked = BTreeSet::new();
        for (digest, summary) in &self.revisions {
            let Some(summary) = summary else { continue };
            // Clients that ask for a fallback tag accept the type.
            let is_asked_for = !self.fallback.contains(digest);
            indexes += u64::from(summary.media_type == MediaType::OciIndex && is_asked_for);
            for child in &summary.children {
                if self.revisions.contains_key(&child.digest) {
                    if !self.tagged.contains(&child.digest) {
                        untagged.insert(child.digest);
                    }
                } else if !self.layers.contains_key(&child.digest) && !child.is_foreign {
                    unlinked.insert((*digest, child.digest));
                }
            }
        }
        for (digest, child) in unlinked {
            let link = Place::RevisionLink(self.name, digest).key();
            self.judge_unlinked(&link, &child).await;
        }
        let directory = layout::repository_directory(self.name);
        if indexes > 0 {
            let detail = indexes.to_string();
            self.walk.tell(Kind::OciIndexes, directory.as_str(), detail);
        }
        // Referrers that a fallback tag lists are reported as such.
        let is_referrer = |digest: &&Digest| {
            let summary = self.revisions.get(*digest);
            summary.is_some_and(|summary| summary.as_ref().is_some_and(|one| one.subject.is_some()))
        };
        let children = untagged.iter().filter(|digest| !is_referrer(digest));
        let children = children.count();
        if children > 0 {
            let detail = children.to_string();
            self.walk
                .tell(Kind::UntaggedChildren, directory.as_str(), detail);
        }
    }

    async fn judge_referrers(&mut self) {
        let mut subjects: BTreeMap<Digest, Vec<Digest>> = BTreeMap::new();
        for (digest, summary) in &self.revisions {
            if let Some(subject) = summary.as_ref().and_then(|summary| summary.subject) {
                subjects.entry(subject).or_default().push(*digest);
            }
        }
        let mut listed_untagged = 0_u64;
        for (subject, referrers) in subjects {
            let tag = Tag::of_referrers(&subject);
            let listed: HashSet<Digest> = match self.walk.core.fallback_tag(self.name, &tag).await {
                Ok(FallbackTag::Index(index)) => {
                    index.entries.iter().map(|entry| entry.digest).collect()
                }
                Ok(FallbackTag::Missing | FallbackTag::Foreign) => HashSet::new(),
                Err(error) => {
                    let directory = layout::tag_directory(self.name, &tag);
                    self.walk.unreadable(directory.as_str(), &error);
                    continue;
                }
            };
            let (listed, unlisted): (Vec<Digest>, Vec<Digest>) =
                referrers.into_iter().partition(|one| listed.contains(one));
            let untagged = listed.iter().filter(|one| !self.tagged.contains(one));
            listed_untagged += untagged.count() as u64;
            if !unlisted.is_empty() {
                let directory = layout::tag_directory(self.name, &tag);
                let detail = format!("{} of {subject}", unlisted.len());
                self.walk
                    .tell(Kind::UnlistedReferrers, directory.as_str(), detail);
            }
        }
        if listed_untagged > 0 {
            let directory = layout::repository_directory(self.name);
            let detail = listed_untagged.to_string();
            self.walk
                .tell(Kind::ListedReferrers, directory.as_str(), detail);
        }
    }

    async fn look_at_uploads(&mut self, repository: &Prefix) {
        let Ok(prefix) = format!("{repository}_uploads/").parse::<Prefix>() else {
            return;
        };
        for id in self.walk.names(&prefix).await.directories {
            let kind = if id.parse::<UploadId>().is_ok() {
                Kind::OpenUpload
            } else {
                Kind::ForeignUpload
            };
            // The whole id of one of ours would let its reader send to it.
            let id = id.split_once('-').map_or(id.as_str(), |(begin, _)| begin);
            self.walk.tell(kind, format!("{prefix}{id}…"), "");
        }
    }
}

/// Whether no bytes have this digest.
fn is_of_nothing(digest: &Digest) -> bool {
    *digest == Digest::of(digest.algorithm(), b"")
}
