//! From facts to keys.
//!
//! Must not know queues or databases beyond reading what is recorded. Invariant: a fact and its reverse (layer and holder,
//! revision and referrer) change together.

use super::IndexError;
use super::engine::Tree;
use super::facts::{Fact, Forget, Stamp};
use super::keys;
use super::ledger::{Changes, Ledger};
use crate::oci::{Digest, RepositoryName};

/// The longest stamp that is kept: five modification times are a tenth of it.
pub(super) const STAMP_BYTES_MAX: usize = 1_024;

/// Something that happened, as it waits in the queue.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Is(Fact),
    IsGone(Forget),
}

/// Writes into `changes` what `event` means.
pub(super) fn apply(
    ledger: &Ledger,
    name: &RepositoryName,
    event: &Event,
    changes: &mut Changes,
) -> Result<(), IndexError> {
    match event {
        Event::Is(fact) => put(name, fact, changes),
        Event::IsGone(Forget::Tag(tag)) => {
            let key = keys::joined(keys::below(name), tag.as_str().as_bytes());
            changes.insert((Tree::Tags, key), None);
        }
        Event::IsGone(Forget::Layer(digest)) => {
            changes.insert((Tree::Layers, repository_key(name, digest)), None);
            changes.insert((Tree::Holders, holder_key(name, digest)), None);
        }
        Event::IsGone(Forget::Stamp) => {
            changes.insert((Tree::Stamps, name.as_str().as_bytes().to_vec()), None);
        }
        Event::IsGone(Forget::Revision(digest)) => {
            let at = (Tree::Revisions, repository_key(name, digest));
            let value = match changes.get(&at) {
                Some(value) => value.clone(),
                None => ledger.get(at.0, &at.1)?,
            };
            let subject = value
                .and_then(|value| keys::revision(*digest, &value))
                .and_then(|revision| revision.subject);
            if let Some(subject) = subject {
                let key = referrer_key(name, &subject, digest);
                changes.insert((Tree::Referrers, key), None);
            }
            changes.insert(at, None);
        }
    }
    Ok(())
}

fn put(name: &RepositoryName, fact: &Fact, changes: &mut Changes) {
    let mut set = |tree, key, value| changes.insert((tree, key), Some(value));
    let own_key = name.as_str().as_bytes().to_vec();
    set(Tree::Repositories, own_key.clone(), Vec::new());
    match fact {
        Fact::Known => {}
        Fact::Tag(tag, digest) => {
            let key = keys::joined(keys::below(name), tag.as_str().as_bytes());
            set(Tree::Tags, key, keys::of_digest(digest));
        }
        Fact::Revision(revision) => {
            let key = repository_key(name, &revision.digest);
            set(Tree::Revisions, key, keys::of_revision(revision));
            if let Some(subject) = &revision.subject {
                let key = referrer_key(name, subject, &revision.digest);
                set(Tree::Referrers, key, Vec::new());
            }
        }
        Fact::Layer(digest) => {
            set(Tree::Layers, repository_key(name, digest), Vec::new());
            set(Tree::Holders, holder_key(name, digest), Vec::new());
        }
        Fact::Edge { parent, child } => {
            let key = keys::joined(keys::of_digest(parent), &keys::of_digest(&child.digest));
            set(Tree::Edges, key, keys::of_child(child));
        }
        Fact::Size(digest, size_bytes) => {
            set(
                Tree::Sizes,
                keys::of_digest(digest),
                keys::of_size(*size_bytes),
            );
        }
        Fact::Stamp(Stamp(bytes)) => {
            let value = (bytes.len() <= STAMP_BYTES_MAX).then(|| bytes.clone());
            changes.insert((Tree::Stamps, own_key), value);
        }
    }
}

/// Writes into `changes` what must happen for `facts` to be all that is recorded of a repository, stamp left out.
pub(super) fn replace(
    ledger: &Ledger,
    name: &RepositoryName,
    facts: &[Fact],
    keep: bool,
    changes: &mut Changes,
) -> Result<(), IndexError> {
    let prefix = keys::below(name);
    for tree in [Tree::Tags, Tree::Revisions, Tree::Referrers, Tree::Layers] {
        ledger.each(tree, &prefix, |key, _| {
            if tree == Tree::Layers
                && let Some(digest) = key.get(prefix.len()..)
            {
                let holder = keys::joined(digest.to_vec(), name.as_str().as_bytes());
                changes.insert((Tree::Holders, holder), None);
            }
            changes.insert((tree, key), None);
        })?;
    }
    if !keep {
        let own_key = name.as_str().as_bytes().to_vec();
        changes.insert((Tree::Repositories, own_key), None);
        return Ok(());
    }
    put(name, &Fact::Known, changes);
    for fact in facts {
        if !matches!(fact, Fact::Stamp(_)) {
            put(name, fact, changes);
        }
    }
    Ok(())
}

/// Writes into `changes` that size and edges of some content are gone.
pub(super) fn forget_content(
    ledger: &Ledger,
    digest: &Digest,
    changes: &mut Changes,
) -> Result<(), IndexError> {
    let key = keys::of_digest(digest);
    ledger.each(Tree::Edges, &key, |edge, _| {
        changes.insert((Tree::Edges, edge), None);
    })?;
    changes.insert((Tree::Sizes, key), None);
    Ok(())
}

pub(super) fn repository_key(name: &RepositoryName, digest: &Digest) -> Vec<u8> {
    keys::joined(keys::below(name), &keys::of_digest(digest))
}

pub(super) fn referrer_key(name: &RepositoryName, subject: &Digest, digest: &Digest) -> Vec<u8> {
    keys::joined(repository_key(name, subject), &keys::of_digest(digest))
}

pub(super) fn holder_key(name: &RepositoryName, digest: &Digest) -> Vec<u8> {
    keys::joined(keys::of_digest(digest), name.as_str().as_bytes())
}
