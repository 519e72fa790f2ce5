//! Reading a repository from the store for the index.
//!
//! Design: DESIGN D3, `docs/storage-layout.md`. Must not know how the index keeps what it is told. Invariants: what is told
//! was read after the stamp that it is kept under; reading takes no lock and changes nothing.

use std::collections::HashMap;
use std::future;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::gate::facts_of_manifest;
use crate::index::{ChildKind, Fact, Revision};
use crate::layout::{self, Key, Place, Prefix};
use crate::oci::{Algorithm, Digest, RepositoryName, Tag};
use crate::registry::commit::Commit;
use crate::registry::core::{Core, Stored};
use crate::registry::error::RegistryError;
use crate::registry::event::Actor;
use crate::store::{Depth, Entry, Meta, Step};

/// Entries looked through before a digest's directory is removed: the old registry leaves one, `signatures`, at most.
const SWEEP_ENTRIES_MAX: usize = 256;

/// What the store says of a repository.
#[derive(Default)]
pub(in crate::registry) struct Reading {
    pub(in crate::registry) facts: Vec<Fact>,
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

/// Everything that the index should know of the repository; nothing if there is no such repository. `moved` hears of
/// each part that was read.
pub(in crate::registry) async fn read_repository(
    core: &Core,
    name: &RepositoryName,
    moved: &(dyn Fn() + Sync),
) -> Result<Reading, RegistryError> {
    if !core.repository_exists(name).await? {
        return Ok(Reading::default());
    }
    let mut facts = vec![Fact::Known];
    let tags = core.tag_directories(name).await?;
    moved();
    let current = |tag: &Tag| Place::TagCurrent(name, tag).key();
    let links: Vec<Key> = tags.iter().map(current).collect();
    for (tag, digest) in tags.into_iter().zip(core.read_links(&links).await?) {
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
        read_layers(core, name, algorithm, &mut reading).await?;
        moved();
        read_revisions(core, name, algorithm, moved, &mut reading).await?;
    }
    leave_out_damaged(core, moved, &mut reading.facts).await?;
    Ok(reading)
}

/// Takes out blobs whose file has another length than a manifest here says, and is not what its digest says either. Their
/// right length is told instead, so that it is known without hashing them after the next start.
async fn leave_out_damaged(
    core: &Core,
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
        if let Some(meta) = core.damage.find_data(digest).await?
            && !core.damage.agrees_with(digest, &meta, *said_bytes).await?
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

/// The directory of `digest`, if no link is in it.
async fn unlinked(
    core: &Core,
    digest: Digest,
    link: Key,
    directory: Prefix,
) -> Result<Option<Unlinked>, RegistryError> {
    let is_linked = core.find(&link).await?.is_some();
    Ok((!is_linked).then_some(Unlinked {
        digest,
        link,
        directory,
    }))
}

async fn read_layers(
    core: &Core,
    name: &RepositoryName,
    algorithm: Algorithm,
    reading: &mut Reading,
) -> Result<(), RegistryError> {
    let directory = layout::layer_links_directory(name, algorithm);
    let digests = core.digest_directories(&directory, algorithm).await?;
    let link = |digest: &Digest| Place::LayerLink(name, *digest).key();
    let links: Vec<Key> = digests.iter().map(&link).collect();
    for (digest, data) in digests.into_iter().zip(core.linked_each(&links).await?) {
        let Some((_, meta)) = data else {
            let directory = layout::layer_directory(name, &digest);
            let unlinked = unlinked(core, digest, link(&digest), directory).await?;
            reading.unlinked.extend(unlinked);
            continue;
        };
        reading
            .facts
            .extend([Fact::Layer(digest), Fact::Size(digest, meta.size_bytes)]);
    }
    Ok(())
}

async fn read_revisions(
    core: &Core,
    name: &RepositoryName,
    algorithm: Algorithm,
    moved: &(dyn Fn() + Sync),
    reading: &mut Reading,
) -> Result<(), RegistryError> {
    let directory = layout::revisions_directory(name, algorithm);
    let digests = core.digest_directories(&directory, algorithm).await?;
    let facts = &mut reading.facts;
    let mut read = |digest: &Digest, meta: Meta, stored: Stored| {
        moved();
        facts.extend(facts_of_revision(digest, meta.size_bytes, &stored));
    };
    for digest in core.each_manifest(name, &digests, &mut read).await? {
        let link = Place::RevisionLink(name, digest).key();
        let directory = layout::revision_directory(name, &digest);
        if let Some(unlinked) = unlinked(core, digest, link, directory).await? {
            reading.unlinked.push(unlinked);
            continue;
        }
        // It may have been pushed just now.
        let absent = core.each_manifest(name, &[digest], &mut read).await?;
        reading.is_dangling |= !absent.is_empty();
    }
    Ok(())
}

/// Removes directories that hold no link: the old registry deletes the link alone, and when it links the same again in the
/// same directory, no directory time would tell. The lock on the digest keeps a push of it away meanwhile.
pub(super) async fn sweep_unlinked(
    core: &Core,
    name: &RepositoryName,
    unlinked: Vec<Unlinked>,
) -> Result<(), RegistryError> {
    if core.settings.readonly {
        return Ok(());
    }
    for Unlinked {
        digest,
        link,
        directory,
    } in unlinked
    {
        let actor = Actor::task("the keeper of the index");
        let held = core.locks.hold(actor, name).changing().await?;
        let mut held = held.removing(&digest).await?;
        if core.find(&link).await?.is_some() {
            continue;
        }
        // A link that leads out of the tree is not followed, and is there all the same.
        let entries = core.store.list(&directory, Depth::One);
        let entries = entries.take(SWEEP_ENTRIES_MAX);
        let is_link = |entry: Entry| future::ready(entry.key == link.as_str());
        if entries.try_any(is_link).await? {
            continue;
        }
        let commit = Commit {
            steps: vec![Step::remove_tree(directory, link)],
            ..Commit::default()
        };
        core.commit(&mut held, commit).await?;
    }
    Ok(())
}

/// What the index hears of a revision that was read from the store.
fn facts_of_revision(digest: &Digest, size_bytes: u64, stored: &Stored) -> Vec<Fact> {
    match stored {
        Stored::Manifest(manifest) => facts_of_manifest(digest, size_bytes, manifest),
        // No list shows one that is too long, but it takes its room and needs its layers as well.
        Stored::Unreadable | Stored::TooLong => vec![
            Fact::Size(*digest, size_bytes),
            Fact::Revision(Revision {
                digest: *digest,
                size_bytes,
                is_index: false,
                subject: None,
            }),
            Fact::Opaque(*digest),
        ],
    }
}
