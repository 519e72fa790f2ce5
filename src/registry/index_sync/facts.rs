//! What the index hears: of a change (`Event` → `Fact`), and of a manifest that was read.
//!
//! Must not know how the index keeps it. Invariant: this is the one place where events become facts, so a change and a
//! re-reading of its repository tell the index the same.

use crate::index::{Child, ChildKind, Fact, Forget, Revision};
use crate::oci::{Digest, Manifest};
use crate::registry::event::Event;

/// What the index has to record and to forget.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) facts: Vec<Fact>,
    pub(super) gone: Vec<Forget>,
}

impl News {
    /// What `events` mean to the index.
    pub(super) fn of(events: Vec<Event>) -> Self {
        let mut news = Self::default();
        for event in events {
            news.add(event);
        }
        news
    }

    fn add(&mut self, event: Event) {
        match event {
            Event::BlobLinked { digest, size_bytes } => {
                let size = Fact::Size(digest, size_bytes);
                self.facts.extend([Fact::Layer(digest), size]);
            }
            Event::BlobMounted { digest } => self.facts.push(Fact::Layer(digest)),
            Event::BlobUnlinked { digest } => self.gone.push(Forget::Layer(digest)),
            Event::ManifestPut {
                digest,
                size_bytes,
                manifest,
                is_linked_as_layer,
            } => {
                let facts = facts_of_manifest(&digest, size_bytes, &manifest);
                self.facts.extend(facts);
                self.facts
                    .extend(is_linked_as_layer.then_some(Fact::Layer(digest)));
            }
            Event::TagMoved { tag, digest } => self.facts.push(Fact::Tag(tag, digest)),
            Event::TagRemoved { tag } => self.gone.push(Forget::Tag(tag)),
            Event::ManifestRemoved { digest } => self.gone.push(Forget::Revision(digest)),
        }
    }
}

/// What the index hears of a manifest.
pub(super) fn facts_of_manifest(
    digest: &Digest,
    size_bytes: u64,
    manifest: &Manifest,
) -> Vec<Fact> {
    let mut facts = vec![
        Fact::Size(*digest, size_bytes),
        Fact::Revision(Revision {
            digest: *digest,
            size_bytes,
            is_index: manifest.media_type.is_index(),
            subject: manifest.subject.as_ref().map(|subject| subject.digest),
        }),
    ];
    let blobs = manifest.blobs().map(|blob| (blob, ChildKind::Blob));
    let children = manifest.children().iter();
    let children = children.map(|child| (child, ChildKind::Listed));
    facts.extend(blobs.chain(children).map(|(descriptor, kind)| Fact::Edge {
        parent: *digest,
        child: Child {
            digest: descriptor.digest,
            size_bytes: descriptor.size_bytes,
            kind,
        },
    }));
    facts
}
