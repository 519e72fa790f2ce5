//! What can be asked, as scans.
//!
//! Must not know who asks. Invariant: a page is in the order of its names and no longer than `PAGE_MAX`; what cannot be
//! read back as what it stands for is damage, never left out in silence.

use super::engine::{Pair, Tree};
use super::facts::{Child, Counts, Revision, Stamp};
use super::keys;
use super::ledger::Ledger;
use super::records;
use super::{Index, IndexError};
use crate::oci::{Digest, RepositoryName, Tag};

pub(super) fn repositories(
    ledger: &Ledger,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<RepositoryName>, IndexError> {
    let after = after.map(str::as_bytes);
    page(ledger, Tree::Repositories, &[], after, limit, |name, _| {
        keys::text(name)
    })
}

pub(super) fn tags(
    ledger: &Ledger,
    name: &RepositoryName,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(Tag, Digest)>, IndexError> {
    let prefix = keys::below(name);
    let after = after.map(str::as_bytes);
    page(ledger, Tree::Tags, &prefix, after, limit, |tag, digest| {
        Some((keys::text(tag)?, keys::digest(digest)?))
    })
}

pub(super) fn revisions(
    ledger: &Ledger,
    name: &RepositoryName,
    after: Option<&Digest>,
    limit: usize,
) -> Result<Vec<Revision>, IndexError> {
    let prefix = keys::below(name);
    let after = after.map(keys::of_digest);
    let after = after.as_deref();
    page(
        ledger,
        Tree::Revisions,
        &prefix,
        after,
        limit,
        |digest, value| keys::revision(keys::digest(digest)?, value),
    )
}

pub(super) fn referrers(
    ledger: &Ledger,
    name: &RepositoryName,
    subject: &Digest,
    after: Option<&Digest>,
    limit: usize,
) -> Result<Vec<Digest>, IndexError> {
    let prefix = keys::joined(keys::below(name), &keys::of_digest(subject));
    digests(ledger, Tree::Referrers, &prefix, after, limit)
}

pub(super) fn layers(
    ledger: &Ledger,
    name: &RepositoryName,
    after: Option<&Digest>,
    limit: usize,
) -> Result<Vec<Digest>, IndexError> {
    digests(ledger, Tree::Layers, &keys::below(name), after, limit)
}

pub(super) fn holders(
    ledger: &Ledger,
    digest: &Digest,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<RepositoryName>, IndexError> {
    let prefix = keys::of_digest(digest);
    let after = after.map(str::as_bytes);
    page(ledger, Tree::Holders, &prefix, after, limit, |name, _| {
        keys::text(name)
    })
}

/// `half` links from those of the blob on, and as many from its links to names from `from` on. Where the blob has fewer, those
/// of the blobs behind it follow, and behind the last one the first: as many are read for a blob that is nowhere as for one
/// that thousands have.
pub(super) fn links_near(
    ledger: &Ledger,
    digest: &Digest,
    from: &str,
    half: usize,
) -> Result<Vec<(Digest, RepositoryName)>, IndexError> {
    let mut links = Vec::with_capacity(2 * half);
    for from in [from, ""] {
        let after = keys::joined(keys::of_digest(digest), from.as_bytes());
        let mut pairs = ledger.scan(Tree::Holders, &[], Some(&after), half)?;
        let missing = half.saturating_sub(pairs.len());
        if missing > 0 {
            pairs.extend(ledger.scan(Tree::Holders, &[], None, missing)?);
        }
        for (key, _) in pairs {
            let link = keys::split_digest(&key)
                .and_then(|(digest, name)| Some((digest, keys::text(name)?)));
            links.push(link.ok_or_else(|| unreadable(Tree::Holders))?);
        }
    }
    Ok(links)
}

impl Index {
    /// For each of `digests`: links to it in repositories of the same name space as `near` (what stands before its first
    /// slash) and in the first ones by name, among links to other blobs. 2 × `half` for each, however many have it, so that
    /// the time tells nothing of that.
    pub async fn links_near(
        &self,
        digests: &[Digest],
        near: &RepositoryName,
        half: usize,
    ) -> Result<Vec<Vec<(Digest, RepositoryName)>>, IndexError> {
        let digests = digests.to_vec();
        let name_space = near.as_str().split_inclusive('/').next();
        let from = name_space.unwrap_or_default().to_owned();
        let links = move |ledger: &Ledger| {
            let near = |digest| links_near(ledger, digest, &from, half);
            digests.iter().map(near).collect()
        };
        self.ask(links).await
    }
}

pub(super) fn knows(ledger: &Ledger, name: &RepositoryName) -> Result<bool, IndexError> {
    let value = ledger.get(Tree::Repositories, name.as_str().as_bytes())?;
    Ok(value.is_some())
}

pub(super) fn is_holder(
    ledger: &Ledger,
    name: &RepositoryName,
    digests: &[Digest],
) -> Result<Vec<bool>, IndexError> {
    let is_holder = |digest| {
        let value = ledger.get(Tree::Holders, &records::holder_key(name, digest))?;
        Ok(value.is_some())
    };
    digests.iter().map(is_holder).collect()
}

pub(super) fn is_referrer(
    ledger: &Ledger,
    name: &RepositoryName,
    revision: &Revision,
) -> Result<bool, IndexError> {
    let Some(subject) = &revision.subject else {
        return Ok(false);
    };
    let key = records::referrer_key(name, subject, &revision.digest);
    Ok(ledger.get(Tree::Referrers, &key)?.is_some())
}

pub(super) fn links(
    ledger: &Ledger,
    after: Option<&(Digest, RepositoryName)>,
    limit: usize,
) -> Result<Vec<(Digest, RepositoryName)>, IndexError> {
    let after = after.map(|(digest, name)| records::holder_key(name, digest));
    let after = after.as_deref();
    page(ledger, Tree::Holders, &[], after, limit, |link, _| {
        let (digest, name) = keys::split_digest(link)?;
        Some((digest, keys::text(name)?))
    })
}

pub(super) fn manifests(
    ledger: &Ledger,
    after: Option<&(RepositoryName, Digest)>,
    limit: usize,
) -> Result<Vec<(RepositoryName, Revision)>, IndexError> {
    let after = after.map(|(name, digest)| records::repository_key(name, digest));
    let after = after.as_deref();
    page(ledger, Tree::Revisions, &[], after, limit, |key, value| {
        let (name, digest) = keys::split_name(key)?;
        let revision = keys::revision(keys::digest(digest)?, value)?;
        Some((keys::text(name)?, revision))
    })
}

pub(super) fn children(
    ledger: &Ledger,
    parent: &Digest,
    after: Option<&Digest>,
    limit: usize,
) -> Result<Vec<Child>, IndexError> {
    let prefix = keys::of_digest(parent);
    let after = after.map(keys::of_digest);
    let after = after.as_deref();
    page(
        ledger,
        Tree::Edges,
        &prefix,
        after,
        limit,
        |child, value| keys::child(keys::digest(child)?, value),
    )
}

pub(super) fn sizes(ledger: &Ledger, digests: &[Digest]) -> Result<Vec<Option<u64>>, IndexError> {
    let size_of = |digest: &Digest| {
        let value = ledger.get(Tree::Sizes, &keys::of_digest(digest))?;
        value
            .map(|value| keys::size(&value).ok_or_else(|| unreadable(Tree::Sizes)))
            .transpose()
    };
    digests.iter().map(size_of).collect()
}

pub(super) fn blobs(
    ledger: &Ledger,
    after: Option<&Digest>,
    limit: usize,
) -> Result<Vec<(Digest, u64)>, IndexError> {
    let after = after.map(keys::of_digest);
    let after = after.as_deref();
    page(ledger, Tree::Sizes, &[], after, limit, |digest, size| {
        Some((keys::digest(digest)?, keys::size(size)?))
    })
}

pub(super) fn stamp(ledger: &Ledger, name: &RepositoryName) -> Result<Option<Stamp>, IndexError> {
    let value = ledger.get(Tree::Stamps, name.as_str().as_bytes())?;
    Ok(value.map(Stamp))
}

pub(super) fn counts(ledger: &Ledger) -> Counts {
    let books = ledger.books();
    Counts {
        repositories: books.count(Tree::Repositories),
        tags: books.count(Tree::Tags),
        revisions: books.count(Tree::Revisions),
        referrers: books.count(Tree::Referrers),
        layers: books.count(Tree::Layers),
        edges: books.count(Tree::Edges),
        sizes: books.count(Tree::Sizes),
        keys: Tree::ALL.into_iter().map(|tree| books.count(tree)).sum(),
    }
}

fn digests(
    ledger: &Ledger,
    tree: Tree,
    prefix: &[u8],
    after: Option<&Digest>,
    limit: usize,
) -> Result<Vec<Digest>, IndexError> {
    let after = after.map(keys::of_digest);
    page(
        ledger,
        tree,
        prefix,
        after.as_deref(),
        limit,
        |digest, _| keys::digest(digest),
    )
}

/// Reads what follows `prefix` in each key, and its value.
fn page<T>(
    ledger: &Ledger,
    tree: Tree,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
    read: impl Fn(&[u8], &[u8]) -> Option<T>,
) -> Result<Vec<T>, IndexError> {
    let after = after.map(|after| keys::joined(prefix.to_vec(), after));
    let pairs = ledger.scan(tree, prefix, after.as_deref(), limit)?;
    let read = |(key, value): Pair| {
        let rest = key.get(prefix.len()..)?;
        read(rest, &value)
    };
    pairs
        .into_iter()
        .map(|pair| read(pair).ok_or_else(|| unreadable(tree)))
        .collect()
}

fn unreadable(tree: Tree) -> IndexError {
    IndexError::Damaged {
        what: format!("{} holds something that cannot be read", tree.name()),
    }
}
