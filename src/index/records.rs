//! From facts to keys and values, and back.
//!
//! A name is followed by a zero byte, which no name contains, so that `a` is no prefix of `a/b`; a digest is one byte for
//! its algorithm and then its bytes, so it needs no end. Must not know queues, nor databases beyond reading what is
//! recorded. Invariants: keys sort as what they stand for is listed; a fact and its reverse (layer or revision and holder,
//! revision and referrer) change together; a change of anything here is a change of `ledger::SCHEMA`.

use super::IndexError;
use super::engine::Tree;
use super::facts::{Child, ChildKind, Fact, Forget, Revision, Stamp};
use super::ledger::{Changes, Ledger};
use crate::oci::{Digest, RepositoryName};

/// The longest stamp that is kept: five modification times are a tenth of it.
pub(super) const STAMP_BYTES_MAX: usize = 1_024;

const IS_INDEX: u8 = 1;
const HAS_SUBJECT: u8 = 2;

/// As what a repository holds a digest: the last byte of a key of holders.
pub(super) const HOLDS_LAYER: u8 = 1;
pub(super) const HOLDS_REVISION: u8 = 2;
pub(super) const HOLDER_KINDS: [u8; 2] = [HOLDS_LAYER, HOLDS_REVISION];

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
            let key = joined(below(name), tag.as_str().as_bytes());
            changes.insert((Tree::Tags, key), None);
        }
        Event::IsGone(Forget::Layer(digest)) => {
            changes.insert((Tree::Layers, repository_key(name, digest)), None);
            let holder = holder(digest, name, HOLDS_LAYER);
            changes.insert((Tree::Holders, holder), None);
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
                .and_then(|value| revision(*digest, &value))
                .and_then(|revision| revision.subject);
            if let Some(subject) = subject {
                let key = referrer_key(name, &subject, digest);
                changes.insert((Tree::Referrers, key), None);
            }
            changes.insert((Tree::Opaque, at.1.clone()), None);
            let holder = holder(digest, name, HOLDS_REVISION);
            changes.insert((Tree::Holders, holder), None);
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
            let key = joined(below(name), tag.as_str().as_bytes());
            set(Tree::Tags, key, of_digest(digest));
        }
        Fact::Revision(revision) => {
            let key = repository_key(name, &revision.digest);
            set(Tree::Revisions, key, of_revision(revision));
            let holder = holder(&revision.digest, name, HOLDS_REVISION);
            set(Tree::Holders, holder, Vec::new());
            if let Some(subject) = &revision.subject {
                let key = referrer_key(name, subject, &revision.digest);
                set(Tree::Referrers, key, Vec::new());
            }
        }
        Fact::Layer(digest) => {
            set(Tree::Layers, repository_key(name, digest), Vec::new());
            let holder = holder(digest, name, HOLDS_LAYER);
            set(Tree::Holders, holder, Vec::new());
        }
        Fact::Opaque(digest) => {
            set(Tree::Opaque, repository_key(name, digest), Vec::new());
        }
        Fact::Edge { parent, child } => {
            let key = joined(of_digest(parent), &of_digest(&child.digest));
            set(Tree::Edges, key, of_child(child));
        }
        Fact::Size(digest, size_bytes) => {
            set(Tree::Sizes, of_digest(digest), of_size(*size_bytes));
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
    let prefix = below(name);
    for (tree, kind) in [
        (Tree::Tags, None),
        (Tree::Revisions, Some(HOLDS_REVISION)),
        (Tree::Referrers, None),
        (Tree::Layers, Some(HOLDS_LAYER)),
        (Tree::Opaque, None),
    ] {
        ledger.each(tree, &prefix, |key, _| {
            if let (Some(kind), Some(digest)) = (kind, key.get(prefix.len()..)) {
                let holder = joined_holder(digest, name.as_str().as_bytes(), kind);
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
    let key = of_digest(digest);
    ledger.each(Tree::Edges, &key, |edge, _| {
        changes.insert((Tree::Edges, edge), None);
    })?;
    changes.insert((Tree::Sizes, key), None);
    Ok(())
}

pub(super) fn repository_key(name: &RepositoryName, digest: &Digest) -> Vec<u8> {
    joined(below(name), &of_digest(digest))
}

pub(super) fn referrer_key(name: &RepositoryName, subject: &Digest, digest: &Digest) -> Vec<u8> {
    joined(repository_key(name, subject), &of_digest(digest))
}

/// What the keys of one repository start with.
pub(super) fn below(name: &RepositoryName) -> Vec<u8> {
    let mut key = name.as_str().as_bytes().to_vec();
    key.push(0);
    key
}

pub(super) fn joined(mut prefix: Vec<u8>, rest: &[u8]) -> Vec<u8> {
    prefix.extend(rest);
    prefix
}

pub(super) fn of_digest(digest: &Digest) -> Vec<u8> {
    let algorithm = match digest {
        Digest::Sha256(_) => 1,
        Digest::Sha512(_) => 2,
    };
    joined(vec![algorithm], digest.bytes())
}

/// The digest at the beginning of `bytes`, and what follows it.
pub(super) fn split_digest(bytes: &[u8]) -> Option<(Digest, &[u8])> {
    match bytes.split_first()? {
        (1, rest) => {
            let (bytes, rest) = rest.split_first_chunk()?;
            Some((Digest::Sha256(*bytes), rest))
        }
        (2, rest) => {
            let (bytes, rest) = rest.split_first_chunk()?;
            Some((Digest::Sha512(*bytes), rest))
        }
        _ => None,
    }
}

/// The name at the beginning of a key that [`below`] began, and what follows it.
pub(super) fn split_name(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = key.iter().position(|byte| *byte == 0)?;
    Some((key.get(..end)?, key.get(end + 1..)?))
}

/// The key that says that `name` holds `digest`, and as what.
pub(super) fn holder(digest: &Digest, name: &RepositoryName, kind: u8) -> Vec<u8> {
    joined_holder(&of_digest(digest), name.as_str().as_bytes(), kind)
}

/// The same, of a digest and a name as they stand in keys.
pub(super) fn joined_holder(digest: &[u8], name: &[u8], kind: u8) -> Vec<u8> {
    [digest, name, &[0, kind]].concat()
}

/// The parts of a key of holders: digest, name and kind.
pub(super) fn split_holder(key: &[u8]) -> Option<(&[u8], &[u8], u8)> {
    let (_, rest) = split_digest(key)?;
    let digest = key.get(..key.len() - rest.len())?;
    match rest {
        [name @ .., 0, kind] => Some((digest, name, *kind)),
        _ => None,
    }
}

/// The digest that `bytes` are.
pub(super) fn digest(bytes: &[u8]) -> Option<Digest> {
    let (digest, rest) = split_digest(bytes)?;
    rest.is_empty().then_some(digest)
}

/// What `bytes` spell.
pub(super) fn text<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

pub(super) fn of_size(size_bytes: u64) -> Vec<u8> {
    size_bytes.to_be_bytes().to_vec()
}

pub(super) fn size(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// The value of a revision; its digest is in the key.
pub(super) fn of_revision(revision: &Revision) -> Vec<u8> {
    let mut flags = 0;
    if revision.is_index {
        flags |= IS_INDEX;
    }
    if revision.subject.is_some() {
        flags |= HAS_SUBJECT;
    }
    let mut value = vec![flags];
    value.extend(revision.size_bytes.to_be_bytes());
    value.extend(revision.subject.iter().flat_map(of_digest));
    value
}

pub(super) fn revision(digest: Digest, value: &[u8]) -> Option<Revision> {
    let (flags, rest) = value.split_first()?;
    let (size_bytes, subject) = rest.split_at_checked(8)?;
    Some(Revision {
        digest,
        size_bytes: size(size_bytes)?,
        is_index: flags & IS_INDEX != 0,
        subject: match flags & HAS_SUBJECT {
            0 => None,
            _ => Some(self::digest(subject)?),
        },
    })
}

/// The value of an edge; both digests are in the key.
pub(super) fn of_child(child: &Child) -> Vec<u8> {
    let mut value = vec![match child.kind {
        ChildKind::Blob => 0,
        ChildKind::Listed => 1,
    }];
    value.extend(child.size_bytes.to_be_bytes());
    value
}

pub(super) fn child(digest: Digest, value: &[u8]) -> Option<Child> {
    let (kind, size_bytes) = value.split_first()?;
    Some(Child {
        digest,
        size_bytes: size(size_bytes)?,
        kind: match kind {
            0 => ChildKind::Blob,
            1 => ChildKind::Listed,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    fn any_digest() -> impl Strategy<Value = Digest> {
        (0..2_usize, any::<Vec<u8>>())
            .prop_map(|(algorithm, bytes)| Digest::of(Algorithm::ALL[algorithm], &bytes))
    }

    proptest! {
        #[test]
        fn digests_come_back_and_sort_as_text(one in any_digest(), other in any_digest()) {
            prop_assert_eq!(digest(&of_digest(&one)), Some(one));
            let by_key = of_digest(&one).cmp(&of_digest(&other));
            prop_assert_eq!(by_key, one.to_string().cmp(&other.to_string()));
        }

        #[test]
        fn values_come_back(digest in any_digest(), size_bytes: u64, is_index: bool, subject in proptest::option::of(any_digest())) {
            let kind = if is_index { ChildKind::Listed } else { ChildKind::Blob };
            let one = Child { digest, size_bytes, kind };
            prop_assert_eq!(child(digest, &of_child(&one)), Some(one));
            let one = Revision { digest, size_bytes, is_index, subject };
            prop_assert_eq!(revision(digest, &of_revision(&one)), Some(one));
        }

        #[test]
        fn no_value_is_read_from_rubbish_by_panicking(bytes: Vec<u8>) {
            let known = Digest::of(Algorithm::Sha256, b"");
            let _ = (split_digest(&bytes), size(&bytes), child(known, &bytes), revision(known, &bytes));
        }
    }
}
