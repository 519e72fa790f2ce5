//! Reading a repository from the store for the index, and telling whether that is needed.
//!
//! Design: DESIGN D3, `docs/storage-layout.md`. Must not know how the index keeps what it is told. Invariants: what is told
//! was read after the stamp that it is kept under; reading takes no lock and changes nothing.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::links::Stored;
use super::{Registry, RegistryError};
use crate::index::{Child, ChildKind, Fact, Revision, Stamp};
use crate::layout::{self, Key, Place, Prefix};
use crate::oci::{Algorithm, Digest, Manifest, RepositoryName, Tag};
use crate::store::{Depth, Meta, Step};

/// Directories looked at for a stamp: more than two algorithms, or files that do not belong there, are not looked through.
const STAMP_ENTRIES_MAX: usize = 16;

/// Entries looked through before a digest's directory is removed: the old registry leaves one, `signatures`, at most.
const SWEEP_ENTRIES_MAX: usize = 256;

/// How coarse a file system's times may be (a tick of the kernel is 10 ms at most): a directory that is changed twice within
/// it may show the same time after both.
const TIME_STEP: Duration = Duration::from_millis(100);

/// How a repository's directories look.
pub(super) struct Look {
    pub(super) stamp: Stamp,
    /// The newest of the times.
    newest: SystemTime,
}

/// What the store says of a repository.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) facts: Vec<Fact>,
    /// Whether some link to a manifest leads nowhere.
    pub(super) is_dangling: bool,
    /// Directories of digests in which no link was found.
    pub(super) unlinked: Vec<Unlinked>,
}

/// A digest's directory in a repository, and the link that belongs in it.
pub(super) struct Unlinked {
    digest: Digest,
    link: Key,
    directory: Prefix,
}

impl Look {
    /// Whether each later change will show: not while the newest time is the present one.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let (early, late) = (self.newest.min(now), self.newest.max(now));
        late.duration_since(early)
            .is_ok_and(|apart| apart >= TIME_STEP)
    }
}

impl Registry {
    /// How the repository's directories look: the times of those whose entries are links. `None` where that cannot
    /// tell, and then the repository is read at every start.
    pub(super) async fn look(&self, name: &RepositoryName) -> Result<Option<Look>, RegistryError> {
        if self.settings.readonly || self.lists.is_dangling(name) {
            // Nothing is swept then, and a link that is written again in its old directory would show in no time; nor do
            // bytes that come to where a link leads already.
            return Ok(None);
        }
        let mut stamp = Vec::new();
        let mut newest = UNIX_EPOCH;
        let revisions = layout::all_revisions_directory(name);
        let manifests = layout::manifests_directory(name);
        for parent in [&manifests, &revisions, &layout::layers_directory(name)] {
            for entry in self
                .store
                .list(parent, None, Depth::One, STAMP_ENTRIES_MAX)
                .await?
            {
                let Some(modified) = entry.meta.modified else {
                    return Ok(None);
                };
                if !entry.meta.is_prefix || entry.key == revisions.as_str() {
                    continue;
                }
                newest = newest.max(modified);
                let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
                stamp.extend_from_slice(
                    entry
                        .key
                        .strip_prefix(parent.as_str())
                        .unwrap_or_default()
                        .as_bytes(),
                );
                stamp.extend_from_slice(&since.as_nanos().to_be_bytes());
            }
            stamp.push(b'|');
        }
        let stamp = Stamp(stamp);
        Ok(Some(Look { stamp, newest }))
    }

    /// Everything that the index should know of the repository; nothing if there is no such repository. `moved` hears of
    /// each part that was read.
    pub(super) async fn read_repository(
        &self,
        name: &RepositoryName,
        moved: &(dyn Fn() + Sync),
    ) -> Result<Reading, RegistryError> {
        if !self.repository_exists(name).await? {
            return Ok(Reading::default());
        }
        let mut facts = vec![Fact::Known];
        let tags = self.tag_directories(name).await?;
        moved();
        let current = |tag: &Tag| Place::TagCurrent(name, tag).key();
        let links: Vec<Key> = tags.iter().map(current).collect();
        for (tag, digest) in tags.into_iter().zip(self.read_links(&links).await?) {
            // One without a link is proposed too, and no list will show it: the old registry may write the link later, and
            // the time of no directory that is looked at would tell.
            let digest = digest.unwrap_or_else(|| Digest::of(Algorithm::Sha256, b""));
            facts.push(Fact::Tag(tag, digest));
        }
        let mut reading = Reading {
            facts,
            ..Reading::default()
        };
        for algorithm in Algorithm::ALL {
            moved();
            self.read_layers(name, algorithm, &mut reading).await?;
            moved();
            self.read_revisions(name, algorithm, moved, &mut reading)
                .await?;
        }
        self.leave_out_damaged(moved, &mut reading.facts).await?;
        Ok(reading)
    }

    /// Takes out blobs whose file has another length than a manifest here says, and is not what its digest says either. Their
    /// right length is told instead, so that it is known without hashing them after the next start.
    async fn leave_out_damaged(
        &self,
        moved: &(dyn Fn() + Sync),
        facts: &mut Vec<Fact>,
    ) -> Result<(), RegistryError> {
        let mut said = HashMap::new();
        for fact in &*facts {
            if let Fact::Edge { child, .. } = fact
                && child.kind == ChildKind::Blob
            {
                said.insert(child.digest, child.size_bytes);
            }
        }
        let mut damaged = HashMap::new();
        for fact in &*facts {
            let Fact::Size(digest, size_bytes) = fact else {
                continue;
            };
            let Some(said_bytes) = said.get(digest).filter(|said| *said != size_bytes) else {
                continue;
            };
            moved();
            if let Some((_, meta)) = self.find_data(digest).await?
                && !self.agrees_with(digest, &meta, *said_bytes).await?
            {
                damaged.insert(*digest, *said_bytes);
            }
        }
        facts.retain(|fact| !matches!(fact, Fact::Layer(digest) if damaged.contains_key(digest)));
        for fact in facts {
            if let Fact::Size(digest, size_bytes) = fact
                && let Some(said_bytes) = damaged.get(digest)
            {
                *size_bytes = *said_bytes;
            }
        }
        Ok(())
    }

    async fn read_layers(
        &self,
        name: &RepositoryName,
        algorithm: Algorithm,
        reading: &mut Reading,
    ) -> Result<(), RegistryError> {
        let directory = layout::layer_links_directory(name, algorithm);
        let digests = self.digest_directories(&directory, algorithm).await?;
        let link = |digest: &Digest| Place::LayerLink(name, *digest).key();
        let links: Vec<Key> = digests.iter().map(&link).collect();
        for (digest, data) in digests.into_iter().zip(self.linked_each(&links).await?) {
            let Some((_, meta)) = data else {
                let link = link(&digest);
                if self.find(&link).await?.is_none() {
                    let directory = layout::layer_directory(name, &digest);
                    reading.unlinked.push(Unlinked {
                        digest,
                        link,
                        directory,
                    });
                }
                continue;
            };
            reading
                .facts
                .extend([Fact::Layer(digest), Fact::Size(digest, meta.size_bytes)]);
        }
        Ok(())
    }

    async fn read_revisions(
        &self,
        name: &RepositoryName,
        algorithm: Algorithm,
        moved: &(dyn Fn() + Sync),
        reading: &mut Reading,
    ) -> Result<(), RegistryError> {
        let directory = layout::revisions_directory(name, algorithm);
        let digests = self.digest_directories(&directory, algorithm).await?;
        let facts = &mut reading.facts;
        let mut read = |digest: &Digest, meta: Meta, stored: Stored| {
            moved();
            facts.extend(facts_of_revision(digest, meta.size_bytes, &stored));
        };
        for digest in self.each_manifest(name, &digests, &mut read).await? {
            let link = Place::RevisionLink(name, digest).key();
            if self.find(&link).await?.is_none() {
                let directory = layout::revision_directory(name, &digest);
                reading.unlinked.push(Unlinked {
                    digest,
                    link,
                    directory,
                });
                continue;
            }
            // It may have been pushed just now.
            let absent = self.each_manifest(name, &[digest], &mut read).await?;
            reading.is_dangling |= !absent.is_empty();
        }
        Ok(())
    }

    /// Removes directories that hold no link: the old registry deletes the link alone, and when it links the same again in
    /// the same directory, no directory time would tell. The lock keeps a push of the digest away meanwhile, so it is
    /// called with no lock at all: what is pushed is no loss, for the index hears of it by itself.
    pub(super) async fn sweep_unlinked(
        &self,
        unlinked: Vec<Unlinked>,
    ) -> Result<(), RegistryError> {
        if self.settings.readonly {
            return Ok(());
        }
        for Unlinked {
            digest,
            link,
            directory,
        } in unlinked
        {
            let _lock = self.digest_locks.exclusive_at_last(&digest).await;
            if self.find(&link).await?.is_some() {
                continue;
            }
            // A link that leads out of the tree is not followed, and is there all the same.
            let entries = self
                .store
                .list(&directory, None, Depth::One, SWEEP_ENTRIES_MAX);
            if entries
                .await?
                .iter()
                .any(|entry| entry.key == link.as_str())
            {
                continue;
            }
            self.store.apply(vec![Step::RemoveTree(directory)]).await?;
        }
        Ok(())
    }

    async fn digest_directories(
        &self,
        links: &Prefix,
        algorithm: Algorithm,
    ) -> Result<Vec<Digest>, RegistryError> {
        let mut digests = Vec::new();
        let add = |hex: &str| digests.extend(Digest::from_parts(algorithm, hex));
        self.each_directory(links, add).await?;
        Ok(digests)
    }
}

/// What a revision says to the index.
fn facts_of_revision(digest: &Digest, size_bytes: u64, stored: &Stored) -> Vec<Fact> {
    match stored {
        Stored::Manifest(manifest) => facts_of_manifest(digest, size_bytes, manifest),
        // What it references is its own secret.
        Stored::Unreadable => vec![
            Fact::Size(*digest, size_bytes),
            Fact::Revision(Revision {
                digest: *digest,
                size_bytes,
                is_index: false,
                subject: None,
            }),
        ],
        // No list will ever show it.
        Stored::TooLong => Vec::new(),
    }
}

/// What a manifest says to the index.
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
    let children = manifest
        .children()
        .iter()
        .map(|child| (child, ChildKind::Listed));
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
