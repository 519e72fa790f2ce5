//! Links: small files that hold a digest and say that something belongs to a repository or a tag.
//!
//! Source: `docs/storage-layout.md`. Must not know what is linked. Invariant: the content of a link wins over its path (a
//! sha512 push to the old registry leaves a sha512 path that holds a sha256 digest), and a damaged link is as good as none.

use std::borrow::Borrow;

use super::damage::Hashed;
use super::manifests::READ_SIZE_MAX_BYTES;
use super::{Registry, RegistryError};
use crate::layout::{Key, Place, PlaceOf};
use crate::oci::{Digest, Manifest, RepositoryName, Tag};
use crate::store::{Meta, Small, Step, StoreError};

/// A link holds at most `sha512:` and 128 digits; the rest is room for the line end that other tools leave.
const LINK_SIZE_MAX_BYTES: u64 = 256;

/// A shorter file is a damaged link: `sha256:` and 64 digits.
pub(super) const LINK_SIZE_MIN_BYTES: u64 = 71;

/// Keys that the store is asked about at once: the way there and back costs less than they do, and where all are in memory
/// the thread that looks is busy for about a millisecond.
pub(super) const AT_ONCE: usize = 256;

/// What lies where a manifest should.
pub(super) enum Stored {
    /// A manifest.
    Manifest(Box<Manifest>),
    /// Another registry took it, and its clients may want it, but it is not a manifest that this one takes.
    Unreadable,
    /// Too long for any manifest.
    TooLong,
}

impl Stored {
    fn of(bytes: &[u8]) -> Self {
        match Manifest::parse_stored(bytes) {
            Some(manifest) => Self::Manifest(Box::new(manifest)),
            None => Self::Unreadable,
        }
    }
}

impl Registry {
    /// What the link at `key` holds.
    pub(super) async fn read_link(&self, key: &Key) -> Result<Option<Digest>, RegistryError> {
        let links = self.read_links(std::slice::from_ref(key)).await?;
        Ok(links.into_iter().next().flatten())
    }

    /// What the links at `keys` hold, in their order.
    pub(super) async fn read_links(
        &self,
        keys: &[Key],
    ) -> Result<Vec<Option<Digest>>, RegistryError> {
        let mut digests = Vec::with_capacity(keys.len());
        self.read_each(keys, LINK_SIZE_MAX_BYTES, |key, link| {
            digests.push(match link {
                Small::Whole(meta, bytes) => self.digest_in(key, &meta, &bytes),
                Small::Absent | Small::TooLarge(_) => None,
            });
        })
        .await?;
        Ok(digests)
    }

    /// Shows `visit` what is at each of `keys`, in their order.
    pub(super) async fn read_each(
        &self,
        keys: &[Key],
        size_max_bytes: u64,
        mut visit: impl FnMut(&Key, Small) + Send,
    ) -> Result<(), RegistryError> {
        let mut left = keys;
        while !left.is_empty() {
            for (key, content) in self.read_some(&mut left, size_max_bytes).await? {
                visit(key, content);
            }
        }
        Ok(())
    }

    fn digest_in(&self, key: &Key, meta: &Meta, link: &[u8]) -> Option<Digest> {
        let digest = std::str::from_utf8(link)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        if digest.is_none() && self.damage.is_news(key, meta) {
            tracing::warn!(%key, "a damaged link is taken as absent");
        }
        digest
    }

    /// What is at the first of the keys that are `left`: as many as the store gives at once, at least one.
    async fn read_some<'a>(
        &self,
        left: &mut &'a [Key],
        size_max_bytes: u64,
    ) -> Result<Vec<(&'a Key, Small)>, RegistryError> {
        let (part, _) = left.split_at(left.len().min(AT_ONCE));
        let contents = self.store.read_each(part, size_max_bytes).await?;
        let (told, rest) = left.split_at(contents.len().clamp(1, part.len()));
        // What is in memory is read without waiting, so ten thousand layers in a row would keep other requests off the thread.
        tokio::task::yield_now().await;
        *left = rest;
        for (key, content) in told.iter().zip(&contents) {
            if let Small::TooLarge(meta) = content
                && self.damage.is_news(key, meta)
            {
                let size_bytes = meta.size_bytes;
                tracing::warn!(%key, size_bytes, "larger than anything that belongs there, taken as absent");
            }
        }
        Ok(told.iter().zip(contents).collect())
    }

    /// What is known of `key`, if it is there.
    pub(super) async fn find(&self, key: &Key) -> Result<Option<Meta>, RegistryError> {
        match self.store.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What is known of `keys`, in their order.
    pub(super) async fn find_each(&self, keys: &[Key]) -> Result<Vec<Option<Meta>>, RegistryError> {
        let mut found = Vec::with_capacity(keys.len());
        for part in keys.chunks(AT_ONCE) {
            found.extend(self.store.head_each(part).await?);
            // As above.
            tokio::task::yield_now().await;
        }
        Ok(found)
    }

    /// Where the blob's bytes lie and what they are, if the repository has it: link *and* data.
    pub(super) async fn linked_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(Key, Meta)>, RegistryError> {
        self.linked_data(&Place::LayerLink(name, *digest)).await
    }

    /// The same for a manifest, by its revision link.
    pub(super) async fn linked_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(Key, Meta)>, RegistryError> {
        self.linked_data(&Place::RevisionLink(name, *digest)).await
    }

    /// What is known of the data that each of `links` leads to, in their order, where it is there: link *and* data.
    pub(super) async fn linked_each(
        &self,
        links: &[Key],
    ) -> Result<Vec<Option<(Digest, Meta)>>, RegistryError> {
        let targets = self.read_links(links).await?;
        let data: Vec<Digest> = targets.iter().flatten().copied().collect();
        let mut found = self.find_each_data(&data).await?.into_iter();
        let linked = targets.into_iter().map(|target| {
            let target = target?;
            Some((target, found.next().flatten()?))
        });
        Ok(linked.collect())
    }

    /// Shows `visit` each manifest of `digests` that is there, in their order; tells which are not there.
    pub(super) async fn each_manifest(
        &self,
        name: &RepositoryName,
        digests: &[Digest],
        mut visit: impl FnMut(&Digest, Meta, Stored) + Send,
    ) -> Result<Vec<Digest>, RegistryError> {
        let mut absent = Vec::new();
        for part in digests.chunks(AT_ONCE) {
            let link = |digest: &Digest| Place::RevisionLink(name, *digest).key();
            let targets = self
                .read_links(&part.iter().map(link).collect::<Vec<_>>())
                .await?;
            let (mut linked, mut data) = (Vec::new(), Vec::new());
            for (digest, target) in part.iter().zip(targets) {
                match target {
                    Some(target) => {
                        data.push(Place::BlobData(target).key());
                        linked.push((digest, target));
                    }
                    None => absent.push(*digest),
                }
            }
            let (mut linked, mut left) = (linked.into_iter(), data.as_slice());
            while !left.is_empty() {
                let contents = self.read_some(&mut left, READ_SIZE_MAX_BYTES).await?;
                let contents = contents.into_iter().map(|(_, content)| content);
                let (part, contents): (Vec<_>, Vec<_>) = linked.by_ref().zip(contents).unzip();
                let targets = part.iter().map(|(_, target)| *target).collect();
                let parsed = self.parse_each(targets, contents).await?;
                for ((digest, _), content) in part.into_iter().zip(parsed) {
                    match content {
                        Some((meta, stored)) => visit(digest, meta, stored),
                        None => absent.push(*digest),
                    }
                }
            }
        }
        Ok(absent)
    }

    /// Reads `contents`, the data of `digests`; `None` where nothing is there that can be what its digest says.
    async fn parse_each(
        &self,
        digests: Vec<Digest>,
        contents: Vec<Small>,
    ) -> Result<Vec<Option<(Meta, Stored)>>, RegistryError> {
        let size = |content: &Small| match content {
            Small::Whole(_, bytes) => bytes.len(),
            Small::Absent | Small::TooLarge(_) => 0,
        };
        let size_bytes = contents.iter().map(size).sum();
        let judged = digests.iter().zip(&contents).map(|(digest, content)| {
            let known = match content {
                Small::Whole(meta, _) => self.hashed_before(digest, meta),
                Small::Absent | Small::TooLarge(_) => None,
            };
            (*digest, known)
        });
        let judged: Vec<(Digest, Option<bool>)> = judged.collect();
        let parse = |(content, (digest, known)): (Small, (Digest, Option<bool>))| match content {
            Small::Whole(meta, bytes) => {
                let hashed = Hashed::of(&bytes, digest.algorithm(), known);
                Some((meta, Stored::of(&bytes), hashed))
            }
            Small::TooLarge(meta) => Some((meta, Stored::TooLong, Hashed::Before(true))),
            Small::Absent => None,
        };
        let parse_all = move || -> Vec<_> { contents.into_iter().zip(judged).map(parse).collect() };
        let parsed = self.parsing.run(size_bytes, parse_all).await?;
        let sound = digests.iter().zip(parsed).map(|(digest, parsed)| {
            let (meta, stored, hashed) = parsed?;
            self.is_sound(digest, &meta, hashed)
                .then_some((meta, stored))
        });
        Ok(sound.collect())
    }

    async fn linked_data(&self, link: &Place<'_>) -> Result<Option<(Key, Meta)>, RegistryError> {
        let Some(target) = self.read_link(&link.key()).await? else {
            return Ok(None);
        };
        self.find_data(&target).await
    }
}

/// Writes a link to `digest` at `place`.
pub(super) fn put_link<N, T>(place: &PlaceOf<N, T>, digest: &Digest) -> Step
where
    N: Borrow<RepositoryName>,
    T: Borrow<Tag>,
{
    Step::put(place.key(), digest.to_string())
}
