//! Which blobs may be linked in a repository, and for whom: mounting, and all that a manifest references.
//!
//! Design: DESIGN D8, `docs/storage-layout.md`. Must not know how a link is written. Invariants: a blob that a repository
//! does not have yet is linked only for a caller who may pull from a repository that has it; otherwise whoever knows a
//! digest could read a private blob by naming it in a manifest. This holds for what an index lists as for layers. However
//! many blobs a manifest names, they are looked up in batches, and before any lock is taken.

use std::collections::HashSet;

use super::core::Core;
use super::damage::AT_ONCE;
use super::error::RegistryError;
use super::locks::Calm;
use super::settings::References;
use crate::auth::Viewer;
use crate::layout::{Key, Place};
use crate::oci::{Descriptor, Digest, Manifest, RepositoryName};
use crate::store::Meta;

/// Digests named in one error: enough to find what was forgotten, and a few kilobytes. A manifest may name tens of thousands.
const UNKNOWN_NAMED_MAX: usize = 100;

/// A blob that another repository has.
pub(super) struct Mountable {
    /// Its digest, by which it was asked for.
    pub(super) digest: Digest,
    /// What a link to it must hold.
    pub(super) target: Digest,
    /// Which repository has it.
    from: RepositoryName,
    /// Its data.
    pub(super) meta: Meta,
}

/// Where the blobs of one request may be mounted from.
pub(super) struct Candidates<'a> {
    core: &'a Core,
    viewer: &'a dyn Viewer,
    /// The repository that they are for.
    near: &'a RepositoryName,
    /// Gathered only where the index cannot tell which repositories have a blob.
    repositories: Option<Vec<RepositoryName>>,
    /// Had the last blob. Blobs of one image mostly lie together.
    last: Option<RepositoryName>,
    /// How many blobs are looked for in `last` together: as many again as were found there together before.
    at_once: usize,
    /// Looks in vain, for all blobs of the request together: a manifest may name thousands.
    probes_left: usize,
    /// Whether the store is not walked where the index cannot tell.
    pub(super) only_by_index: bool,
}

impl<'a> Candidates<'a> {
    /// The repositories that `viewer` may pull from.
    pub(super) fn new(core: &'a Core, viewer: &'a dyn Viewer, near: &'a RepositoryName) -> Self {
        Self {
            core,
            viewer,
            near,
            repositories: None,
            last: None,
            at_once: 1,
            probes_left: core.settings.limits.mount_probes,
            only_by_index: false,
        }
    }

    /// The blob, if one of the candidates has it.
    pub(super) async fn find(
        &mut self,
        digest: &Digest,
    ) -> Result<Option<Mountable>, RegistryError> {
        let found = self.find_each(std::slice::from_ref(digest)).await?;
        Ok(found.into_iter().next().flatten())
    }

    /// The blob, if `repository` has it.
    pub(super) async fn find_in(
        &mut self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Mountable>, RegistryError> {
        let mut found = [None];
        self.probe(&[*digest], &[(0, repository)], &mut found)
            .await?;
        let [found] = found;
        Ok(found)
    }

    /// For each of `digests`, which are at most [`AT_ONCE`]: the blob, if one of the candidates has it.
    pub(super) async fn find_each(
        &mut self,
        digests: &[Digest],
    ) -> Result<Vec<Option<Mountable>>, RegistryError> {
        let mut found: Vec<Option<Mountable>> = digests.iter().map(|_| None).collect();
        let viewer = self.viewer;
        let may_pull = |name: &RepositoryName| viewer.may_pull(name);
        let holders = self.core.freshness.holders(digests, self.near, may_pull);
        match holders.await {
            Some(holders) => self.find_by_index(digests, &holders, &mut found).await?,
            None if self.only_by_index => {}
            None => self.find_by_walk(digests, &mut found).await?,
        }
        Ok(found)
    }

    /// Looks where the index says that each blob is: into the first holder of each at once, then into the second.
    async fn find_by_index(
        &mut self,
        digests: &[Digest],
        holders: &[Vec<RepositoryName>],
        found: &mut [Option<Mountable>],
    ) -> Result<(), RegistryError> {
        let rounds = holders.iter().map(Vec::len).max().unwrap_or_default();
        for round in 0..rounds {
            let holders = holders.iter().zip(&*found).enumerate();
            let unfound = holders.filter(|(_, (_, found))| found.is_none());
            let looks: Vec<Look<'_>> = unfound
                .filter_map(|(position, (holders, _))| Some((position, holders.get(round)?)))
                .collect();
            let mut left = looks.as_slice();
            while !left.is_empty() && self.probes_left > 0 {
                let (part, rest) = left.split_at(left.len().min(self.probes_left));
                self.probes_left -= self.probe(digests, part, found).await?;
                left = rest;
            }
        }
        // The index names some holders of each blob, not all.
        if let Some(last) = self.last.clone() {
            let looks: Vec<Look<'_>> = unfound(found).map(|position| (position, &last)).collect();
            self.probe(digests, &looks, found).await?;
        }
        Ok(())
    }

    /// Looks through all candidates: for the first blob into each of them, for those behind it mostly into the one that had
    /// it, as many at once as were found together before.
    async fn find_by_walk(
        &mut self,
        digests: &[Digest],
        found: &mut [Option<Mountable>],
    ) -> Result<(), RegistryError> {
        // Most digests that are asked for are nowhere: one look-up tells. (A link may hold a digest of another algorithm,
        // so only the common case is cut short.) Not where the index is asked: that is as quick, and takes as long for a
        // blob that is nowhere as for one that the caller may not know of.
        let data = self.core.damage.find_each_data(digests).await?;
        let there = data.iter().enumerate().filter(|(_, data)| data.is_some());
        let there: Vec<usize> = there.map(|(position, _)| position).collect();
        if there.is_empty() {
            return Ok(());
        }
        let repositories = if let Some(repositories) = self.repositories.take() {
            repositories
        } else {
            let viewer = self.viewer;
            let may_pull = |name: &RepositoryName| viewer.may_pull(name);
            self.core.repositories(may_pull, self.probes_left).await?
        };
        let mut left = there.as_slice();
        while let [first, ..] = left {
            if let Some(last) = self.last.clone() {
                let (part, rest) = left.split_at(left.len().min(self.at_once));
                let looks: Vec<Look<'_>> = part.iter().map(|position| (*position, &last)).collect();
                let missed = self.probe(digests, &looks, found).await?;
                if missed == 0 {
                    left = rest;
                    self.at_once = (self.at_once * 2).min(AT_ONCE);
                    continue;
                }
                self.at_once = 1;
            }
            if found.get(*first).is_some_and(Option::is_none) {
                let looks = repositories.iter().take(self.probes_left);
                let looks: Vec<Look<'_>> = looks.map(|name| (*first, name)).collect();
                for part in looks.chunks(AT_ONCE) {
                    self.probes_left -= self.probe(digests, part, found).await?;
                    if found.get(*first).is_some_and(Option::is_some) {
                        break;
                    }
                }
            }
            left = left.get(1..).unwrap_or_default();
        }
        self.repositories = Some(repositories);
        Ok(())
    }

    /// Looks into repositories, each for one of `digests`, and keeps what it finds. Returns how many looks were in vain.
    async fn probe(
        &mut self,
        digests: &[Digest],
        looks: &[Look<'_>],
        found: &mut [Option<Mountable>],
    ) -> Result<usize, RegistryError> {
        let asked = looks
            .iter()
            .filter_map(|(position, from)| Some((digests.get(*position)?, from)));
        let links: Vec<Key> = asked
            .map(|(digest, from)| Place::LayerLink(from, *digest).key())
            .collect();
        let mut missed = 0;
        let linked = self.core.linked_each(&links).await?;
        for ((position, from), linked) in looks.iter().zip(linked) {
            let (Some(digest), Some(slot)) = (digests.get(*position), found.get_mut(*position))
            else {
                continue;
            };
            match linked {
                Some((target, meta)) if slot.is_none() => {
                    self.last = Some((*from).clone());
                    *slot = Some(Mountable {
                        digest: *digest,
                        target,
                        from: (*from).clone(),
                        meta,
                    });
                }
                Some(_) => {}
                // A look behind the one that found it costs nothing.
                None => missed += usize::from(slot.is_none()),
            }
        }
        Ok(missed)
    }
}

/// For which digest, by its position, to look where.
type Look<'a> = (usize, &'a RepositoryName);

/// The positions of what was not found.
fn unfound(found: &[Option<Mountable>]) -> impl Iterator<Item = usize> {
    let found = found.iter().enumerate();
    found.filter_map(|(position, found)| found.is_none().then_some(position))
}

/// What a manifest references, as it was looked up without a lock.
pub(super) struct Referenced {
    /// When the look-up began.
    since: Calm,
    /// Links of the repository.
    linked: Vec<(Digest, Key)>,
    /// Blobs that it lacks, and that the caller could mount here.
    mountable: Vec<Mountable>,
}

impl Core {
    /// Looks up everything that `manifest` references. Refuses what the caller may not reference here, so that a manifest
    /// that names tens of thousands of unknown blobs never holds a lock.
    pub(super) async fn look_up_references(
        &self,
        name: &RepositoryName,
        manifest: &Manifest,
        viewer: &dyn Viewer,
    ) -> Result<Referenced, RegistryError> {
        let mut referenced = Referenced {
            since: self.locks.calm(),
            linked: Vec::new(),
            mountable: Vec::new(),
        };
        let linked = &mut referenced.linked;
        let blobs = distinct(manifest.blobs());
        // What an index lists is a manifest of this repository or a blob of it, whatever its media type says: BuildKit's
        // cache is an index of blobs.
        let listed = distinct(manifest.children().iter().filter(|child| !child.is_foreign));
        let revision = |digest| Place::RevisionLink(name, digest);
        let not_manifests = self.unlinked(listed, revision, linked).await?;
        let blobs = blobs.into_iter().chain(not_manifests).collect();
        let layer = |digest| Place::LayerLink(name, digest);
        let unlinked = self.unlinked(blobs, layer, linked).await?;

        let mut unknown = Vec::new();
        let mut candidates = Candidates::new(self, viewer, name);
        for part in unlinked.chunks(AT_ONCE) {
            let digests: Vec<Digest> = part.iter().map(|descriptor| descriptor.digest).collect();
            let found = candidates.find_each(&digests).await?;
            for (descriptor, found) in part.iter().zip(found) {
                if let Some(found) = found {
                    self.check_size(descriptor, &found.meta)?;
                    referenced.mountable.push(found);
                } else if self.is_strict() {
                    unknown.push(descriptor.digest);
                }
            }
            // It is refused, and the client is told enough.
            if unknown.len() >= UNKNOWN_NAMED_MAX {
                break;
            }
        }
        let known = referenced.mountable.len();
        refuse_unknown(unknown, unlinked.len() - known)?;
        Ok(referenced)
    }

    /// Makes sure, with the digests locked, that what was looked up before is still there and may still be linked. Returns
    /// what the repository lacks. Mostly nothing was removed since, and then nothing is read again.
    pub(super) async fn confirm_references(
        &self,
        referenced: Referenced,
        viewer: &dyn Viewer,
    ) -> Result<Vec<Mountable>, RegistryError> {
        let Referenced {
            since,
            linked,
            mut mountable,
        } = referenced;
        let mut gone = Vec::new();
        if !self.locks.is_calm_since(since) {
            let (digests, mut links): (Vec<Digest>, Vec<Key>) = linked.into_iter().unzip();
            let source = |one: &Mountable| Place::LayerLink(&one.from, one.digest).key();
            links.extend(mountable.iter().map(source));
            let mut found = self.linked_each(&links).await?.into_iter();
            let own = digests.into_iter().zip(found.by_ref());
            gone.extend(own.filter_map(|(digest, found)| found.is_none().then_some(digest)));
            mountable.retain(|one| {
                let is_there = found.next().is_some_and(|found| found.is_some());
                gone.extend((!is_there).then_some(one.digest));
                is_there
            });
        }
        // The rules may have changed while this request waited for its locks.
        mountable.retain(|one| {
            let may_pull = viewer.may_pull(&one.from);
            gone.extend((!may_pull).then_some(one.digest));
            may_pull
        });
        if self.is_strict() {
            let total = gone.len();
            refuse_unknown(gone, total)?;
        }
        Ok(mountable)
    }

    /// Those of `descriptors` whose link or sound data the repository lacks; the links of the others go to `linked`, and
    /// their sizes are checked.
    async fn unlinked<'a>(
        &self,
        descriptors: Vec<&'a Descriptor>,
        link: impl Fn(Digest) -> Place<'a>,
        linked: &mut Vec<(Digest, Key)>,
    ) -> Result<Vec<&'a Descriptor>, RegistryError> {
        let key = |descriptor: &&Descriptor| link(descriptor.digest).key();
        let keys: Vec<Key> = descriptors.iter().map(key).collect();
        let found = self.linked_each(&keys).await?;
        let mut unlinked = Vec::new();
        for ((descriptor, key), data) in descriptors.into_iter().zip(keys).zip(found) {
            match data {
                // A client that was told that they are there, and left them out, must learn that they are cut.
                Some((digest, meta))
                    if descriptor.size_bytes == meta.size_bytes
                        || self
                            .damage
                            .agrees_with(&digest, &meta, descriptor.size_bytes)
                            .await? =>
                {
                    self.check_size(descriptor, &meta)?;
                    linked.push((descriptor.digest, key));
                }
                Some(_) | None => unlinked.push(descriptor),
            }
        }
        Ok(unlinked)
    }

    /// Readers are told not to trust content of another length (image-spec `descriptor.md`), so a wrong one is refused where
    /// all references must be right. Published images with wrong sizes exist, and docker pulls them: `any` takes them.
    fn check_size(&self, descriptor: &Descriptor, stored: &Meta) -> Result<(), RegistryError> {
        if descriptor.size_bytes == stored.size_bytes {
            return Ok(());
        }
        match self.settings.references {
            References::Any => Ok(()),
            References::Strict => Err(RegistryError::DescriptorSize {
                digest: descriptor.digest,
                said_bytes: descriptor.size_bytes,
                stored_bytes: stored.size_bytes,
            }),
        }
    }
}

/// Refuses a manifest if there are any of `unknown`, out of `total`.
fn refuse_unknown(mut unknown: Vec<Digest>, total: usize) -> Result<(), RegistryError> {
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.truncate(UNKNOWN_NAMED_MAX);
    Err(RegistryError::ReferencesUnknown {
        named: unknown,
        total,
    })
}

/// One digest may stand in a manifest hundreds of times (a disk of zeros): it is looked up once. Descriptors of one digest
/// that disagree on its size are all looked up.
fn distinct<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> Vec<&'a Descriptor> {
    let mut seen = HashSet::new();
    descriptors
        .filter(|descriptor| seen.insert((&descriptor.digest, descriptor.size_bytes)))
        .collect()
}
