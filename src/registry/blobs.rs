//! Blobs: reading, mounting, removing.
//!
//! Must not know how they are received (`uploads`). Invariant (DESIGN D8): a repository shows only what it links; a link
//! from another repository is made, and its blob told of, only for who may pull from there.

use std::ops::Range;

use super::links::put_link;
use super::{Registry, RegistryError};
use crate::auth::{Permit, Viewer};
use crate::index::{Fact, Forget};
use crate::layout::{Key, Place, layer_directory};
use crate::oci::{Digest, RepositoryName};
use crate::store::{ByteStream, Step, StoreError};

/// A blob that is there.
#[derive(Debug, Clone)]
pub struct Blob {
    key: Key,
    digest: Digest,
    /// Its length.
    pub size_bytes: u64,
}

impl Blob {
    /// What lies at `key`, of which the store has told just now.
    pub(super) fn at(key: Key, digest: &Digest, size_bytes: u64) -> Self {
        Self {
            key,
            digest: *digest,
            size_bytes,
        }
    }
}

/// Where the blobs of one request may be mounted from.
pub(super) struct Candidates<'a> {
    viewer: &'a Viewer<'a>,
    /// The repository that they are for.
    near: &'a RepositoryName,
    /// Gathered only where the index cannot tell who has a blob.
    repositories: Option<Vec<RepositoryName>>,
    /// Had the last blob. Blobs of one image mostly lie together, so it is looked at first.
    last: Option<RepositoryName>,
    /// Looks in vain, for all blobs of the request together: a manifest may name thousands, and holds their locks
    /// meanwhile.
    probes_left: usize,
    /// Whether the store is not walked where the index cannot tell.
    only_by_index: bool,
}

impl Registry {
    /// The blob, if the repository has it.
    pub async fn blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Blob, RegistryError> {
        let found = self.linked_blob(name, digest).await?;
        let (key, meta) = found.ok_or(RegistryError::BlobUnknown(*digest))?;
        Ok(Blob {
            key,
            digest: *digest,
            size_bytes: meta.size_bytes,
        })
    }

    /// What HEAD tells, and GET gives: also of a blob that the repository does not have, but that `viewer`, about to push here, need not
    /// send, because the manifest that names it will link it from a repository that `viewer` may pull from. No link is
    /// written here. If that repository loses the blob meanwhile, the manifest is refused, and the next HEAD says why.
    pub async fn blob_or_elsewhere(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        viewer: &Viewer<'_>,
    ) -> Result<Blob, RegistryError> {
        let unknown = match self.blob(name, digest).await {
            Err(unknown @ RegistryError::BlobUnknown(_)) => unknown,
            other => return other,
        };
        // Where nothing can be pushed, nothing need be left out of a push.
        if self.settings.readonly || !viewer.carries_push(name) {
            return Err(unknown);
        }
        let elsewhere = self
            .blob_elsewhere(name, digest, viewer)
            .await?
            .ok_or(unknown)?;
        if self.is_deleted_lately(name, digest).await? {
            return Err(RegistryError::BlobUnknown(*digest));
        }
        Ok(elsewhere)
    }

    async fn blob_elsewhere(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        viewer: &Viewer<'_>,
    ) -> Result<Option<Blob>, RegistryError> {
        let mut candidates = self.candidates(name, viewer);
        // A push asks so for each of its blobs: without the index, sending them costs less than walking the store.
        candidates.only_by_index = true;
        let Some(target) = self.mountable(digest, &mut candidates).await? else {
            return Ok(None);
        };
        Ok(self.find_data(&target).await?.map(|(key, meta)| Blob {
            key,
            digest: *digest,
            size_bytes: meta.size_bytes,
        }))
    }

    /// Its bytes, or those of `range` (within the blob).
    pub async fn read_blob(
        &self,
        blob: &Blob,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, RegistryError> {
        match self.store.get(&blob.key, range).await {
            Ok((_, bytes)) => Ok(bytes),
            // Removed since it was looked up.
            Err(StoreError::NotFound) => Err(RegistryError::BlobUnknown(blob.digest)),
            Err(error) => Err(error.into()),
        }
    }

    /// Links a blob that another repository holds: `from`, or whichever of the repositories that `viewer` may pull from.
    /// `false` if there is none: then the client must send it, and learns nothing about who has it.
    pub async fn mount_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        from: Option<&RepositoryName>,
        permit: &Permit<'_>,
    ) -> Result<bool, RegistryError> {
        self.check_writable()?;
        let viewer = permit.viewer();
        let turn = self.lists.turn(name).await?;
        let _lock = self.digest_locks.exclusive([digest]).await?;
        let target = match from {
            Some(from) if viewer.may_pull(from) => self.mountable_in(from, digest).await?,
            Some(_) => None,
            None => {
                let mut candidates = self.candidates(name, viewer);
                self.mountable(digest, &mut candidates).await?
            }
        };
        let Some(target) = target else {
            return Ok(false);
        };
        let link = Place::LayerLink(name, *digest);
        permit.confirm()?;
        let change = turn.begin();
        self.store.apply(vec![put_link(&link, &target)]).await?;
        change.made(vec![Fact::Layer(*digest)]);
        Ok(true)
    }

    /// The repositories that `viewer` may pull from, to look for blobs in.
    pub(super) fn candidates<'a>(
        &self,
        near: &'a RepositoryName,
        viewer: &'a Viewer<'a>,
    ) -> Candidates<'a> {
        Candidates {
            viewer,
            near,
            repositories: None,
            last: None,
            probes_left: self.settings.limits.mount_probes,
            only_by_index: false,
        }
    }

    /// What a link to `digest` must hold, if one of the candidates has the blob.
    pub(super) async fn mountable(
        &self,
        digest: &Digest,
        candidates: &mut Candidates<'_>,
    ) -> Result<Option<Digest>, RegistryError> {
        if let Some(last) = &candidates.last
            && let Some(target) = self.mountable_in(last, digest).await?
        {
            return Ok(Some(target));
        }
        for candidate in self.holders(digest, candidates).await? {
            if candidates.probes_left == 0 {
                break;
            }
            if let Some(target) = self.mountable_in(&candidate, digest).await? {
                candidates.last = Some(candidate);
                return Ok(Some(target));
            }
            candidates.probes_left -= 1;
        }
        Ok(None)
    }

    /// Repositories that may hold the blob and that the caller may pull from: by the index, or all there are.
    async fn holders(
        &self,
        digest: &Digest,
        candidates: &mut Candidates<'_>,
    ) -> Result<Vec<RepositoryName>, RegistryError> {
        let (viewer, most) = (candidates.viewer, candidates.probes_left);
        if let Some(links) = self.holders_by_index(digest, candidates.near).await {
            let mut holders = Vec::new();
            for (linked, name) in links {
                // Asked for each, whichever blob it links: the time must not tell how many have this one.
                let may_pull = viewer.may_pull(&name);
                if linked == *digest && may_pull && !holders.contains(&name) {
                    holders.push(name);
                }
            }
            return Ok(holders);
        }
        if candidates.only_by_index {
            return Ok(Vec::new());
        }
        // Most digests that are asked for are nowhere: one look-up tells. (A link may hold a digest of another
        // algorithm, so only the common case is cut short.) Not where the index is asked: that is as quick, and takes as
        // long for a blob that is nowhere as for one that the caller may not know of.
        if self.find_data(digest).await?.is_none() {
            return Ok(Vec::new());
        }
        if candidates.repositories.is_none() {
            let found = self.repositories(|name| viewer.may_pull(name), most);
            candidates.repositories = Some(found.await?);
        }
        Ok(candidates.repositories.clone().unwrap_or_default())
    }

    async fn mountable_in(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Digest>, RegistryError> {
        let link = Place::LayerLink(repository, *digest);
        let Some(target) = self.read_link(&link.key()).await? else {
            return Ok(None);
        };
        let is_there = self.find_data(&target).await?.is_some();
        Ok(is_there.then_some(target))
    }

    /// Takes the blob out of the repository; its bytes stay for the others, and for the collector.
    pub async fn delete_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        permit: &Permit<'_>,
    ) -> Result<(), RegistryError> {
        self.check_deletable()?;
        let turn = self.lists.turn(name).await?;
        let _lock = self.digest_locks.exclusive([digest]).await?;
        let link = Place::LayerLink(name, *digest).key();
        if self.find(&link).await?.is_none() {
            return Err(RegistryError::BlobUnknown(*digest));
        }
        permit.confirm()?;
        let change = turn.begin();
        let removal = || Step::RemoveTree(layer_directory(name, digest));
        let tombstone = self.put_tombstone(name, digest);
        let steps = vec![tombstone, Step::Barrier, removal()];
        match self.store.apply(steps).await {
            // No room for the tombstone must not keep anybody from deleting.
            Err(StoreError::Full) => self.store.apply(vec![removal()]).await?,
            other => other?,
        }
        change.removed(vec![Forget::Layer(*digest)]);
        Ok(())
    }
}
