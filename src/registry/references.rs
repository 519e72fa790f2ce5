//! Which blobs may be linked in a repository, and for whom: mounting, and all that a manifest references.
//!
//! Design: DESIGN D8, `docs/storage-layout.md`. Must not know how a link is written. Invariants: a blob that a repository
//! does not have yet is linked only for a caller who may pull from a repository that has it; otherwise a client that knows
//! a digest could read a private blob by naming it in a manifest. This holds for what an index lists as for layers. However
//! many blobs a manifest names, they are looked up in batches, and before any lock is taken.

use std::collections::{BTreeMap, HashSet};

use super::core::Core;
use super::damage::AT_ONCE;
use super::error::RegistryError;
use super::locks::Calm;
use super::settings::{Children, References};
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
    /// Had the last blob. Blobs of one image are mostly in one repository.
    last: Option<RepositoryName>,
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
            probes_left: core.settings.limits.mount_probes,
            only_by_index: false,
        }
    }

    /// The blob, if one of the candidates has it.
    pub(super) async fn find(
        &mut self,
        digest: &Digest,
    ) -> Result<Option<Mountable>, RegistryError> {
        Ok(self.find_each(&[*digest]).await?.remove(digest))
    }

    /// The blob, if `repository` has it.
    pub(super) async fn find_in(
        &mut self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Mountable>, RegistryError> {
        let mut found = Found::new();
        self.probe(&[(*digest, repository)], &mut found).await?;
        Ok(found.remove(digest))
    }

    /// Those of `digests`, which are at most [`AT_ONCE`], that one of the candidates has.
    pub(super) async fn find_each(&mut self, digests: &[Digest]) -> Result<Found, RegistryError> {
        let mut found = Found::new();
        let viewer = self.viewer;
        let may_pull = |name: &RepositoryName| viewer.may_pull(name);
        let holders = self.core.gate.holders(digests, self.near, may_pull);
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
        found: &mut Found,
    ) -> Result<(), RegistryError> {
        let rounds = holders.iter().map(Vec::len).max().unwrap_or_default();
        for round in 0..rounds {
            let asked = digests.iter().zip(holders);
            let left = asked.filter(|(digest, _)| !found.contains_key(digest));
            let looks = left.filter_map(|(digest, holders)| Some((*digest, holders.get(round)?)));
            let looks: Vec<Look<'_>> = looks.collect();
            let mut left = looks.as_slice();
            while !left.is_empty() && self.probes_left > 0 {
                let (part, rest) = left.split_at(left.len().min(self.probes_left));
                self.probes_left -= self.probe(part, found).await?;
                left = rest;
            }
        }
        // The index names some holders of each blob, not all.
        self.probe_last(digests, found).await
    }

    /// Looks for one blob in all candidates, then for all others in the one that had it, and so on.
    async fn find_by_walk(
        &mut self,
        digests: &[Digest],
        found: &mut Found,
    ) -> Result<(), RegistryError> {
        // Most digests that are asked for are nowhere: one look-up tells. (A link may hold a digest of another algorithm,
        // so only the common case is cut short.) Not where the index is asked: that is as quick, and takes as long for a
        // blob that is nowhere as for one that the caller may not know of.
        let data = self.core.damage.find_each_data(digests).await?;
        let there = digests.iter().zip(data).filter(|(_, data)| data.is_some());
        let mut left: Vec<Digest> = there.map(|(digest, _)| *digest).collect();
        if left.is_empty() {
            return Ok(());
        }
        let repositories = if let Some(repositories) = self.repositories.take() {
            repositories
        } else {
            let viewer = self.viewer;
            let may_pull = |name: &RepositoryName| viewer.may_pull(name);
            self.core.repositories(may_pull, self.probes_left).await?
        };
        self.probe_last(&left, found).await?;
        loop {
            left.retain(|digest| !found.contains_key(digest));
            let Some(one) = left.pop() else {
                break;
            };
            let candidates = repositories.iter().take(self.probes_left);
            let looks: Vec<Look<'_>> = candidates.map(|name| (one, name)).collect();
            for part in looks.chunks(AT_ONCE) {
                self.probes_left -= self.probe(part, found).await?;
                if found.contains_key(&one) {
                    self.probe_last(&left, found).await?;
                    break;
                }
            }
        }
        self.repositories = Some(repositories);
        Ok(())
    }

    /// Looks for those of `digests` that are not found yet in the repository that had the last one.
    async fn probe_last(
        &mut self,
        digests: &[Digest],
        found: &mut Found,
    ) -> Result<(), RegistryError> {
        if let Some(last) = self.last.clone() {
            let left = digests.iter().filter(|digest| !found.contains_key(digest));
            let looks: Vec<Look<'_>> = left.map(|digest| (*digest, &last)).collect();
            self.probe(&looks, found).await?;
        }
        Ok(())
    }

    /// Looks into repositories, each for one digest, and keeps what it finds. Returns how many looks were in vain.
    async fn probe(
        &mut self,
        looks: &[Look<'_>],
        found: &mut Found,
    ) -> Result<usize, RegistryError> {
        let link = |(digest, from): &Look<'_>| Place::LayerLink(from, *digest).key();
        let links: Vec<Key> = looks.iter().map(link).collect();
        let mut missed = 0;
        for ((digest, from), linked) in looks.iter().zip(self.core.linked_each(&links).await?) {
            if found.contains_key(digest) {
                // A look behind the one that found it costs nothing.
                continue;
            }
            let Some((target, meta)) = linked else {
                missed += 1;
                continue;
            };
            self.last = Some((*from).clone());
            let mountable = Mountable {
                digest: *digest,
                target,
                from: (*from).clone(),
                meta,
            };
            found.insert(*digest, mountable);
        }
        Ok(missed)
    }
}

/// For which digest to look where.
type Look<'a> = (Digest, &'a RepositoryName);

/// What was found, by the digest that was asked for.
type Found = BTreeMap<Digest, Mountable>;

/// What a manifest references, as it was looked up without a lock.
pub(super) struct Referenced {
    /// When the look-up began.
    since: Calm,
    /// Links of the repository.
    linked: Vec<(Digest, Key)>,
    /// Blobs that it lacks, and that the caller could mount here.
    mountable: Vec<Mountable>,
    /// What need not exist although references must.
    optional: HashSet<Digest>,
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
            optional: self.optional_children(manifest),
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

        let optional = &referenced.optional;
        let (mut unknown, mut known) = (Vec::new(), 0);
        let mut candidates = Candidates::new(self, viewer, name);
        for part in unlinked.chunks(AT_ONCE) {
            let digests: Vec<Digest> = part.iter().map(|descriptor| descriptor.digest).collect();
            let found = candidates.find_each(&digests).await?;
            for descriptor in part {
                if let Some(found) = found.get(&descriptor.digest) {
                    self.check_size(descriptor, &found.meta)?;
                    known += 1;
                } else if optional.contains(&descriptor.digest) {
                    known += 1;
                } else if self.is_strict() {
                    unknown.push(descriptor.digest);
                }
            }
            referenced.mountable.extend(found.into_values());
            // It is refused, and the client is told enough.
            if unknown.len() >= UNKNOWN_NAMED_MAX {
                break;
            }
        }
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
            optional,
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
        gone.retain(|digest| !optional.contains(digest));
        if self.is_strict() {
            let total = gone.len();
            refuse_unknown(gone, total)?;
        }
        Ok(mountable)
    }

    /// What an index lists and need not exist, by `validation.manifests.indexes`. What it lists a second time, for a platform
    /// that must exist, is not among them.
    fn optional_children(&self, manifest: &Manifest) -> HashSet<Digest> {
        let must_exist = |child: &&Descriptor| match &self.settings.children {
            Children::All => true,
            Children::None => false,
            Children::Of(platforms) => child
                .platform
                .as_ref()
                .is_some_and(|platform| platforms.contains(platform)),
        };
        if self.settings.children == Children::All {
            return HashSet::new();
        }
        let (needed, others): (Vec<_>, Vec<_>) = manifest.children().iter().partition(must_exist);
        let mut optional: HashSet<Digest> = others.iter().map(|child| child.digest).collect();
        for child in needed {
            optional.remove(&child.digest);
        }
        optional
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

/// A manifest may name one digest hundreds of times (a disk of zeros): it is looked up once. Descriptors of one digest
/// that disagree on its size are all looked up.
fn distinct<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> Vec<&'a Descriptor> {
    let mut seen = HashSet::new();
    descriptors
        .filter(|descriptor| seen.insert((&descriptor.digest, descriptor.size_bytes)))
        .collect()
}
