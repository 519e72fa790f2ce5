//! The layout of keys and values.
//!
//! A name is followed by a zero byte, which no name contains, so that `a` is no prefix of `a/b`; a digest is one byte for
//! its algorithm and then its bytes, so it needs no end. Must not know who asks. Invariant: keys sort as what they stand
//! for is listed, and a change of anything here is a change of `ledger::SCHEMA`.

use super::facts::{Child, ChildKind, Revision};
use crate::oci::{Digest, RepositoryName};

const IS_INDEX: u8 = 1;
const HAS_SUBJECT: u8 = 2;

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
