//! What the store does when manifests are put and removed, in the order of the invariant: bytes before link, link before tag,
//! and what a tag no longer points at goes last.
//!
//! Source: `docs/storage-layout.md`. Must not know why something is put or removed. Invariant: a crash in a tag move leaves
//! the old manifest whole or the new one.

use bytes::Bytes;

use super::core::put_link;
use crate::layout::{self, Place};
use crate::oci::{Digest, RepositoryName, Tag};
use crate::store::Step;

/// Tags that are removed in one step of the store, which takes a fraction of a second: the manifest may have a hundred
/// thousand.
pub(super) const TAGS_AT_ONCE: usize = 1_000;

/// The steps of one commit in a repository.
pub(super) struct Phases<'a> {
    name: &'a RepositoryName,
    bytes: Vec<Step>,
    links: Vec<Step>,
    tags: Vec<Step>,
    removals: Vec<Step>,
}

impl<'a> Phases<'a> {
    pub(super) fn new(name: &'a RepositoryName) -> Self {
        Self {
            name,
            bytes: Vec::new(),
            links: Vec::new(),
            tags: Vec::new(),
            removals: Vec::new(),
        }
    }

    /// A manifest, and `tags` that point at it from now on.
    pub(super) fn put(&mut self, digest: &Digest, bytes: Bytes, tags: &[Tag]) {
        let data = Place::BlobData(*digest).key();
        self.bytes.push(Step::put(data, bytes));
        let revision = Place::RevisionLink(self.name, *digest);
        self.links.push(put_link(&revision, digest));
        for tag in tags {
            self.point(tag, digest);
        }
    }

    /// A tag that points at a manifest which is there from now on.
    pub(super) fn point(&mut self, tag: &Tag, digest: &Digest) {
        let index = Place::TagIndex(self.name, tag, *digest);
        let current = Place::TagCurrent(self.name, tag);
        self.tags
            .extend([put_link(&index, digest), put_link(&current, digest)]);
    }

    /// A link to the blob `digest`, whose data have the digest `target`.
    pub(super) fn link_layer(&mut self, digest: Digest, target: &Digest) {
        let layer = Place::LayerLink(self.name, digest);
        self.links.push(put_link(&layer, target));
    }

    pub(super) fn remove_tag(&mut self, tag: &Tag) {
        let current = Place::TagCurrent(self.name, tag).key();
        let directory = layout::tag_directory(self.name, tag);
        self.tags.push(Step::remove_tree(directory, current));
    }

    pub(super) fn remove_revision(&mut self, digest: &Digest) {
        let link = Place::RevisionLink(self.name, *digest).key();
        let directory = layout::revision_directory(self.name, digest);
        self.removals.push(Step::remove_tree(directory, link));
    }

    /// All of it, in order.
    pub(super) fn into_steps(self) -> Vec<Step> {
        let mut steps = self.bytes;
        let later = [
            (Step::Then, self.links),
            (Step::Barrier, self.tags),
            (Step::Barrier, self.removals),
        ];
        for (separator, phase) in later {
            if !steps.is_empty() && !phase.is_empty() {
                steps.push(separator);
            }
            steps.extend(phase);
        }
        steps
    }
}
