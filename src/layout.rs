//! Where everything lies: distribution's storage layout, in both directions.
//!
//! Source: distribution's `registry/storage/paths.go` and `docs/storage-layout.md`. Pure text; must not know whether a key
//! is a file or an object. Invariant: [`PlaceOf::key`] and [`OwnedPlace::parse`] are inverse, so a key that another program wrote
//! is either understood completely or left alone.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use uuid::{Uuid, Variant, Version};

use crate::oci::{Algorithm, Digest, RepositoryName, Tag};

/// Everything that distribution knows lies below this.
const ROOT: &str = "docker/registry/v2/";

/// The folder beside `docker/` that holds what the old registry does not know: lock, secret, temporaries, trash,
/// tombstones.
pub const OWN_DIRECTORY: &str = "boathouse";

/// The same where a part of the store lies on another file system, within that part: names that begin so are no repository's,
/// to the old registry either.
pub const OWN_DIRECTORY_WITHIN: &str = "_boathouse";

/// The name of one thing in the store: components separated by `/`, none of them empty, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Box<str>);

impl Key {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let is_plain =
            |component: &str| !matches!(component, "" | "." | "..") && !component.contains('\0');
        if text.split('/').all(is_plain) {
            Ok(Self(text.into()))
        } else {
            Err(KeyError)
        }
    }
}

/// The start that some keys share: empty, or a key followed by `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(Box<str>);

impl Prefix {
    /// The prefix as text; empty, or ending in `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix that all keys share.
    pub fn everything() -> Self {
        Self("".into())
    }

    /// The key of `name` directly below this prefix.
    pub fn key(&self, name: &str) -> Result<Key, KeyError> {
        format!("{}{name}", self.0).parse()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Prefix {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        match text.strip_suffix('/') {
            Some(key) => key.parse::<Key>().map(|_| Self(text.into())),
            None if text.is_empty() => Ok(Self::everything()),
            None => Err(KeyError),
        }
    }
}

/// The text could leave the store, or names nothing in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a storage key")]
pub struct KeyError;

/// The name of an upload session: a UUID of version 8 (RFC 9562), which older registries recognise as one of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(Uuid);

impl UploadId {
    /// How many bits are free: 60 before the variant, 62 after it.
    pub const RANDOM_BITS: u32 = 60;

    /// From 60 bits (the rest of `random` is dropped) and 62 bits (the rest of `mac` is dropped).
    pub fn from_parts(random: u64, mac: u64) -> Self {
        let random = u128::from(random & (u64::MAX >> 4));
        let high = ((random >> 12) << 80) | ((random & 0xfff) << 64);
        let bytes = (high | u128::from(mac)).to_be_bytes();
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// The 60 bits and the 62 bits again.
    pub fn parts(self) -> (u64, u64) {
        let (high, low) = self.0.as_u64_pair();
        (((high >> 16) << 12) | (high & 0xfff), low & (u64::MAX >> 2))
    }
}

impl UploadId {
    /// The random part alone, for logs: it names the session and opens nothing.
    pub fn public_part(self) -> String {
        let text = self.to_string();
        let mut groups: Vec<&str> = text.split('-').take(3).collect();
        groups.push("…");
        groups.join("-")
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for UploadId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let id = Uuid::try_parse(text).map_err(|_| KeyError)?;
        let is_ours =
            (id.get_version(), id.get_variant()) == (Some(Version::Custom), Variant::RFC4122);
        // Compared as text too: a UUID has several spellings, and only the one that we print is accepted.
        if is_ours && id.to_string() == text {
            Ok(Self(id))
        } else {
            Err(KeyError)
        }
    }
}

/// A thing that the layout has a place for, named by what the caller has.
pub type Place<'a> = PlaceOf<&'a RepositoryName, &'a Tag>;

/// The same, with names of its own: what a key was found to be.
pub type OwnedPlace = PlaceOf<RepositoryName, Tag>;

/// See [`Place`] and [`OwnedPlace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlaceOf<N, T> {
    /// The bytes of a blob, config or manifest.
    BlobData(Digest),
    /// Says that the repository has this blob; holds the digest as text.
    LayerLink(N, Digest),
    /// Says that the repository has this manifest; holds the digest as text.
    RevisionLink(N, Digest),
    /// What the tag points at; holds the digest as text.
    TagCurrent(N, T),
    /// Says that the tag has once pointed at this manifest; holds the digest as text.
    TagIndex(N, T, Digest),
    /// The bytes that an upload session has received.
    UploadData(N, UploadId),
    /// When the session began (RFC 3339, UTC).
    UploadStartedAt(N, UploadId),
}

impl<N: Borrow<RepositoryName>, T: Borrow<Tag>> PlaceOf<N, T> {
    /// The key of this place.
    pub fn key(&self) -> Key {
        let text = match self {
            Self::BlobData(digest) => {
                let hex = digest.hex();
                let prefix = hex.get(..2).unwrap_or_default();
                format!("{ROOT}blobs/{}/{prefix}/{hex}/data", digest.algorithm())
            }
            Self::LayerLink(name, digest) => {
                format!("{}link", layer_directory(name.borrow(), digest))
            }
            Self::RevisionLink(name, digest) => {
                format!("{}link", revision_directory(name.borrow(), digest))
            }
            Self::TagCurrent(name, tag) => {
                format!("{}current/link", tag_directory(name.borrow(), tag.borrow()))
            }
            Self::TagIndex(name, tag, digest) => {
                format!(
                    "{}index/{}/{}/link",
                    tag_directory(name.borrow(), tag.borrow()),
                    digest.algorithm(),
                    digest.hex()
                )
            }
            Self::UploadData(name, id) => {
                format!("{}data", upload_directory(name.borrow(), *id))
            }
            Self::UploadStartedAt(name, id) => {
                format!("{}startedat", upload_directory(name.borrow(), *id))
            }
        };
        Key(text.into())
    }
}

impl OwnedPlace {
    /// What lies at `key`, if it is a place of the layout.
    pub fn parse(key: &str) -> Option<Self> {
        let path = key.strip_prefix(ROOT)?;
        if let Some(blob) = path.strip_prefix("blobs/") {
            let (algorithm, rest) = blob.split_once('/')?;
            let (prefix, rest) = rest
                .split_once('/')
                .filter(|(prefix, _)| prefix.len() == 2)?;
            let digest =
                Digest::from_parts(algorithm.parse().ok()?, rest.strip_suffix("/data")?).ok()?;
            return digest
                .hex()
                .starts_with(prefix)
                .then_some(Self::BlobData(digest));
        }
        // A component of a name never starts with `_`, so the first that does ends the name.
        let path = path.strip_prefix("repositories/")?;
        let (name, rest) = path.split_once("/_")?;
        let name: RepositoryName = name.parse().ok()?;
        if let Some(link) = rest.strip_prefix("layers/") {
            return Some(Self::LayerLink(name, linked_digest(link)?));
        }
        if let Some(link) = rest.strip_prefix("manifests/revisions/") {
            return Some(Self::RevisionLink(name, linked_digest(link)?));
        }
        if let Some(tagged) = rest.strip_prefix("manifests/tags/") {
            let (tag, rest) = tagged.split_once('/')?;
            let tag = tag.parse().ok()?;
            return match rest.strip_prefix("index/") {
                Some(link) => Some(Self::TagIndex(name, tag, linked_digest(link)?)),
                None => (rest == "current/link").then_some(Self::TagCurrent(name, tag)),
            };
        }
        let (id, file) = rest.strip_prefix("uploads/")?.split_once('/')?;
        let id = id.parse().ok()?;
        match file {
            "data" => Some(Self::UploadData(name, id)),
            "startedat" => Some(Self::UploadStartedAt(name, id)),
            _ => None,
        }
    }
}

/// `<algorithm>/<hex>/link`
fn linked_digest(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_suffix("/link")?.split_once('/')?;
    Digest::from_parts(algorithm.parse().ok()?, hex).ok()
}

/// All blobs.
pub fn blobs_directory() -> Prefix {
    Prefix(format!("{ROOT}blobs/").into())
}

/// One blob, config or manifest.
pub fn blob_directory(digest: &Digest) -> Prefix {
    let data = Place::BlobData(*digest).key();
    let directory = data.as_str().strip_suffix("data").unwrap_or_default();
    Prefix(directory.into())
}

/// All repositories.
pub fn repositories_directory() -> Prefix {
    Prefix(format!("{ROOT}repositories/").into())
}

/// All that belongs to one repository, and to those whose names go on from it.
pub fn repository_directory(name: &RepositoryName) -> Prefix {
    Prefix(format!("{ROOT}repositories/{name}/").into())
}

/// The blob links of a repository; its presence is what makes the old registry list the repository.
pub fn layers_directory(name: &RepositoryName) -> Prefix {
    Prefix(format!("{ROOT}repositories/{name}/_layers/").into())
}

/// The manifests and tags of a repository.
pub fn manifests_directory(name: &RepositoryName) -> Prefix {
    Prefix(format!("{ROOT}repositories/{name}/_manifests/").into())
}

/// The blob links of a repository by one algorithm.
pub fn layer_links_directory(name: &RepositoryName, algorithm: Algorithm) -> Prefix {
    Prefix(format!("{}{algorithm}/", layers_directory(name)).into())
}

/// The manifests of a repository by all algorithms.
pub fn all_revisions_directory(name: &RepositoryName) -> Prefix {
    Prefix(format!("{}revisions/", manifests_directory(name)).into())
}

/// One blob link's directory.
pub fn layer_directory(name: &RepositoryName, digest: &Digest) -> Prefix {
    let (algorithm, hex) = (digest.algorithm(), digest.hex());
    Prefix(format!("{ROOT}repositories/{name}/_layers/{algorithm}/{hex}/").into())
}

/// The manifests of a repository by one algorithm.
pub fn revisions_directory(name: &RepositoryName, algorithm: Algorithm) -> Prefix {
    Prefix(format!("{ROOT}repositories/{name}/_manifests/revisions/{algorithm}/").into())
}

/// One manifest link's directory.
pub fn revision_directory(name: &RepositoryName, digest: &Digest) -> Prefix {
    Prefix(
        format!(
            "{}{}/",
            revisions_directory(name, digest.algorithm()),
            digest.hex()
        )
        .into(),
    )
}

/// The tags of a repository.
pub fn tags_directory(name: &RepositoryName) -> Prefix {
    Prefix(format!("{ROOT}repositories/{name}/_manifests/tags/").into())
}

/// One tag's directory. The old registry lists every entry of [`tags_directory`] as a tag, so it must appear whole.
pub fn tag_directory(name: &RepositoryName, tag: &Tag) -> Prefix {
    Prefix(format!("{}{tag}/", tags_directory(name)).into())
}

/// The manifests that a tag has pointed at, by one algorithm.
pub fn tag_index_directory(name: &RepositoryName, tag: &Tag, algorithm: Algorithm) -> Prefix {
    Prefix(format!("{}index/{algorithm}/", tag_directory(name, tag)).into())
}

/// The upload sessions of a repository.
pub fn uploads_directory(name: &RepositoryName) -> Prefix {
    Prefix(format!("{ROOT}repositories/{name}/_uploads/").into())
}

/// Whether `prefix` is the [`uploads_directory`] of a repository.
pub fn is_uploads_directory(prefix: &Prefix) -> bool {
    let below = prefix.as_str().strip_prefix(ROOT);
    let repository = below.and_then(|below| {
        let name = below.strip_prefix("repositories/")?;
        name.strip_suffix("/_uploads/")
    });
    repository.is_some()
}

/// One upload session's directory.
pub fn upload_directory(name: &RepositoryName, id: UploadId) -> Prefix {
    Prefix(format!("{ROOT}repositories/{name}/_uploads/{id}/").into())
}

/// A file of our own that belongs to all the data.
pub fn own_key(name: &'static str) -> Key {
    Key(format!("{OWN_DIRECTORY}/{name}").into())
}

/// Says that the store is the destination of a move that is not complete; holds a digest of the secret of the data.
pub fn unfinished_move() -> Key {
    own_key("moving")
}

/// What repositories have deleted lately: a directory for each day (a number, since 1970).
pub fn tombstones_directory() -> Prefix {
    Prefix(format!("{OWN_DIRECTORY}/deleted/").into())
}

/// What repositories have deleted on one day.
pub fn tombstones_of_day(day: u64) -> Prefix {
    Prefix(format!("{}{day}/", tombstones_directory()).into())
}

/// Says that the repository has deleted this blob on this day; holds nothing.
pub fn tombstone(day: u64, name: &RepositoryName, digest: &Digest) -> Key {
    // As in the layout, `_layers` ends the name: no component of a name begins so.
    let (algorithm, hex) = (digest.algorithm(), digest.hex());
    let directory = tombstones_of_day(day);
    Key(format!("{directory}{name}/_layers/{algorithm}/{hex}").into())
}

/// Says that the repository has deleted all its blobs on this day; holds nothing.
pub fn repository_tombstone(day: u64, name: &RepositoryName) -> Key {
    let directory = tombstones_of_day(day);
    Key(format!("{directory}{name}/_layers/all").into())
}

/// The directory that must appear at once with all that is put below it, if `key` lies in one: a tag's.
pub fn whole_directory(key: &Key) -> Option<Prefix> {
    match OwnedPlace::parse(key.as_str())? {
        OwnedPlace::TagCurrent(name, tag) | OwnedPlace::TagIndex(name, tag, _) => {
            Some(tag_directory(&name, &tag))
        }
        OwnedPlace::BlobData(_)
        | OwnedPlace::LayerLink(..)
        | OwnedPlace::RevisionLink(..)
        | OwnedPlace::UploadData(..)
        | OwnedPlace::UploadStartedAt(..) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = RepositoryName> {
        "[a-z0-9]{1,8}(([._]|__|-)[a-z0-9]{1,4})?(/[a-z0-9]{1,8}){0,2}"
            .prop_map(|text| text.parse().expect("a name"))
    }

    fn tag() -> impl Strategy<Value = Tag> {
        "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,12}".prop_map(|text| text.parse().expect("a tag"))
    }

    fn digest() -> impl Strategy<Value = Digest> {
        (any::<bool>(), any::<[u8; 4]>()).prop_map(|(wide, bytes)| {
            Digest::of(
                if wide {
                    Algorithm::Sha512
                } else {
                    Algorithm::Sha256
                },
                &bytes,
            )
        })
    }

    fn place() -> impl Strategy<Value = OwnedPlace> {
        let id = || {
            (any::<u64>(), any::<u64>()).prop_map(|(random, mac)| UploadId::from_parts(random, mac))
        };
        prop_oneof![
            digest().prop_map(OwnedPlace::BlobData),
            (name(), digest()).prop_map(|(name, digest)| OwnedPlace::LayerLink(name, digest)),
            (name(), digest()).prop_map(|(name, digest)| OwnedPlace::RevisionLink(name, digest)),
            (name(), tag()).prop_map(|(name, tag)| OwnedPlace::TagCurrent(name, tag)),
            (name(), tag(), digest())
                .prop_map(|(name, tag, digest)| OwnedPlace::TagIndex(name, tag, digest)),
            (name(), id()).prop_map(|(name, id)| OwnedPlace::UploadData(name, id)),
            (name(), id()).prop_map(|(name, id)| OwnedPlace::UploadStartedAt(name, id)),
        ]
    }

    #[test]
    fn keys_are_those_of_distribution() {
        let name: RepositoryName = "team/app".parse().unwrap();
        let digest = Digest::of(Algorithm::Sha256, b"");
        let hex = digest.hex();
        let cases = [
            (
                OwnedPlace::BlobData(digest),
                format!("docker/registry/v2/blobs/sha256/e3/{hex}/data"),
            ),
            (
                OwnedPlace::LayerLink(name.clone(), digest),
                format!("docker/registry/v2/repositories/team/app/_layers/sha256/{hex}/link"),
            ),
            (
                OwnedPlace::TagCurrent(name, "v1".parse().unwrap()),
                "docker/registry/v2/repositories/team/app/_manifests/tags/v1/current/link"
                    .to_owned(),
            ),
        ];
        for (place, key) in cases {
            assert_eq!(place.key().as_str(), key);
        }
    }

    #[test]
    fn a_tag_named_like_a_directory_is_still_a_tag() {
        for tag in ["index", "current", "link", "_uploads", "_layers"] {
            let place = OwnedPlace::TagCurrent("a".parse().unwrap(), tag.parse().unwrap());
            assert_eq!(OwnedPlace::parse(place.key().as_str()), Some(place));
        }
    }

    #[test]
    fn no_key_leaves_the_store() {
        for bad in ["", "/", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\0"] {
            assert!(bad.parse::<Key>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn key_and_parse_are_inverse(place in place()) {
            prop_assert_eq!(OwnedPlace::parse(place.key().as_str()), Some(place.clone()));
            prop_assert!(place.key().as_str().parse::<Key>().is_ok());
        }

        #[test]
        fn any_text_is_understood_completely_or_left_alone(text in "(docker/registry/v2/)?[a-z0-9_/.]{0,60}") {
            if let Some(place) = OwnedPlace::parse(&text) {
                prop_assert_eq!(place.key().to_string(), text);
            }
        }

        #[test]
        fn upload_ids_keep_their_parts(random: u64, mac: u64) {
            let id = UploadId::from_parts(random, mac);
            prop_assert_eq!(id.parts(), (random & (u64::MAX >> 4), mac & (u64::MAX >> 2)));
            prop_assert_eq!(id.to_string().parse::<UploadId>(), Ok(id));
            prop_assert_eq!(id.to_string().as_bytes()[14], b'8');
        }
    }
}
