//! Removing manifests and tags: one of them, or an image with all that belongs to it.
//!
//! Source: distribution-spec "Deleting Manifests", `docs/storage-layout.md`. Must not know HTTP. Invariants: tags go before the
//! manifest that they point at, an index goes before the manifests that it lists; of an image nothing goes that another tag,
//! or a manifest that stays, needs.

use std::collections::{BTreeSet, HashMap};

use super::commit::Commit;
use super::core::{Core, Stored};
use super::error::RegistryError;
use super::event::{Actor, Event};
use super::fallback::{Edit, FallbackChange};
use super::locks::{Changing, Held, Mode};
use super::manifests::Manifests;
use super::phases::{Phases, TAGS_AT_ONCE};
use super::repositories::Removal;
use crate::layout::{self, Place};
use crate::oci::{Algorithm, Digest, Reference, RepositoryName, Tag};
use crate::store::Meta;

impl Core {
    /// Removes `tags`, in parts, so that others are committed in between.
    pub(super) async fn remove_tags(
        &self,
        held: &mut Held<'_, Changing>,
        name: &RepositoryName,
        tags: &[Tag],
    ) -> Result<(), RegistryError> {
        for part in tags.chunks(TAGS_AT_ONCE) {
            let mut phases = Phases::new(name);
            for tag in part {
                phases.remove_tag(tag);
            }
            let removed = part
                .iter()
                .map(|tag| Event::TagRemoved { tag: tag.clone() });
            let commit = Commit {
                steps: phases.into_steps(),
                events: removed.collect(),
                ..Commit::default()
            };
            self.commit(held, commit).await?;
        }
        Ok(())
    }
}

/// What belongs to an image.
pub(super) struct ImageParts {
    pub(super) tags: Vec<Tag>,
    /// The manifest and, behind it, those that go with it; none if the image stays because something else needs it.
    pub(super) manifests: Vec<Digest>,
}

/// What the manifests of a repository say of each other.
#[derive(Default)]
pub(super) struct Relations {
    children: HashMap<Digest, Vec<Digest>>,
    subjects: HashMap<Digest, Digest>,
    all: BTreeSet<Digest>,
    /// Some cannot be understood: what they need is not known.
    has_opaque: bool,
}

impl Manifests {
    /// Removes a tag, or a manifest with all tags that point at it.
    pub async fn delete(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        actor: Actor<'_>,
    ) -> Result<(), RegistryError> {
        self.core.check_deletable()?;
        // No tag moves.
        let held = self
            .core
            .locks
            .hold(actor, name)
            .tags(Mode::Exclusive)
            .await?;
        let unknown = || RegistryError::ManifestUnknown(reference.clone());
        let digest = self.resolve(name, reference).await?.ok_or_else(unknown)?;
        let (tags, manifests) = match reference {
            Reference::Tag(tag) => (vec![tag.clone()], Vec::new()),
            Reference::Digest(_) => {
                let revision = Place::RevisionLink(name, digest).key();
                self.core.read_link(&revision).await?.ok_or_else(unknown)?;
                let all = self.core.tag_directories(name).await?;
                let tags = self.core.tags_at(name, all, &digest).await?;
                (tags, vec![digest])
            }
        };
        let held = held.changing().await?;
        self.remove(name, held, &tags, &manifests).await
    }

    /// Removes an image: by a tag, this tag, and the image if no other tag points at it; by a digest, the image with all its
    /// tags. With the image go the manifests that it lists and those about it (signatures), unless something that stays needs
    /// them too.
    pub async fn delete_image(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        actor: Actor<'_>,
    ) -> Result<Removal, RegistryError> {
        self.core.check_deletable()?;
        let held = self
            .core
            .locks
            .hold(actor, name)
            .tags(Mode::Exclusive)
            .await?;
        let parts = self.parts(name, reference).await?;
        let held = held.changing().await?;
        self.remove(name, held, &parts.tags, &parts.manifests)
            .await?;
        Ok(Removal {
            tags: parts.tags.len() as u64,
            manifests: parts.manifests.len() as u64,
            ..Removal::default()
        })
    }

    /// Removes `tags`, then `manifests`, of which the first lists or is named by the others. No tag of the repository moves.
    async fn remove(
        &self,
        name: &RepositoryName,
        mut held: Held<'_, Changing>,
        tags: &[Tag],
        manifests: &[Digest],
    ) -> Result<(), RegistryError> {
        // The manifests go after all of them: until then no other repository waits, however many tags there are, which the lock
        // on the tags of this one keeps from moving.
        self.core.remove_tags(&mut held, name, tags).await?;
        let Some((first, others)) = manifests.split_first() else {
            return Ok(());
        };
        let fallback = self.listed_without(name, first).await?;
        let put = fallback.as_ref().and_then(FallbackChange::put);
        let replaced = fallback.as_ref().and_then(FallbackChange::removed);
        let removed = manifests.iter().chain(replaced);
        let mut held = held.sharing_and_removing(put, removed).await?;
        let mut phases = Phases::new(name);
        let mut events = Vec::new();
        if let Some(fallback) = fallback {
            fallback.add_to(&mut phases, &mut events);
        }
        phases.remove_revision(first);
        events.push(Event::ManifestRemoved { digest: *first });
        let commit = Commit {
            steps: phases.into_steps(),
            events,
            ..Commit::default()
        };
        self.core.commit(&mut held, commit).await?;
        if others.is_empty() {
            return Ok(());
        }
        let mut phases = Phases::new(name);
        for digest in others {
            phases.remove_revision(digest);
        }
        let removed = others.iter();
        let removed = removed.map(|digest| Event::ManifestRemoved { digest: *digest });
        let commit = Commit {
            steps: phases.into_steps(),
            events: removed.collect(),
            ..Commit::default()
        };
        self.core.commit(&mut held, commit).await
    }

    /// What must be committed so that the fallback tag no longer lists the manifest `digest`, if it is a referrer.
    async fn listed_without(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<FallbackChange>, RegistryError> {
        if !self.core.keeps_fallback_tags() {
            return Ok(None);
        }
        let mut subject = None;
        let visit = |_: &Digest, _, stored| {
            if let Stored::Manifest(manifest) = stored {
                subject = manifest.subject.map(|subject| subject.digest);
            }
        };
        self.core.each_manifest(name, &[*digest], visit).await?;
        let Some(subject) = subject else {
            return Ok(None);
        };
        let edit = Edit::Remove(*digest);
        self.core.change_fallback(name, &subject, edit).await
    }

    /// What [`Manifests::delete_image`] would remove.
    pub(super) async fn parts(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<ImageParts, RegistryError> {
        let core = &self.core;
        let unknown = || RegistryError::ManifestUnknown(reference.clone());
        let digest = self.resolve(name, reference).await?.ok_or_else(unknown)?;
        let all = core.tag_directories(name).await?;
        let links = all.iter().map(|tag| Place::TagCurrent(name, tag).key());
        let links: Vec<_> = links.collect();
        let targets = core.read_links(&links).await?;
        let (mut tags, mut others) = (Vec::new(), BTreeSet::new());
        for (tag, target) in all.into_iter().zip(targets) {
            let goes = match reference {
                Reference::Tag(removed) => tag == *removed,
                Reference::Digest(_) => target == Some(digest),
            };
            if goes {
                tags.push(tag);
            } else {
                others.extend(target);
            }
        }
        let relations = self.relations(name).await?;
        if matches!(reference, Reference::Digest(_)) && !relations.all.contains(&digest) {
            return Err(unknown());
        }
        let manifests = if others.contains(&digest) || !relations.all.contains(&digest) {
            Vec::new()
        } else {
            relations.parts_of(digest, &others)
        };
        Ok(ImageParts { tags, manifests })
    }

    pub(super) async fn relations(
        &self,
        name: &RepositoryName,
    ) -> Result<Relations, RegistryError> {
        let mut relations = Relations::default();
        for algorithm in Algorithm::ALL {
            let directory = layout::revisions_directory(name, algorithm);
            let digests = self.core.digest_directories(&directory, algorithm).await?;
            let visit = |digest: &Digest, _: Meta, stored| {
                relations.all.insert(*digest);
                let Stored::Manifest(manifest) = stored else {
                    relations.has_opaque = true;
                    return;
                };
                let children = manifest.children().iter();
                let children = children.map(|child| child.digest).collect();
                relations.children.insert(*digest, children);
                if let Some(subject) = &manifest.subject {
                    relations.subjects.insert(*digest, subject.digest);
                }
            };
            self.core.each_manifest(name, &digests, visit).await?;
        }
        Ok(relations)
    }
}

impl Relations {
    /// The manifests about `subject`.
    pub(super) fn referrers_of(&self, subject: &Digest) -> impl Iterator<Item = Digest> {
        let referrers = self.subjects.iter().filter(move |(_, of)| *of == subject);
        referrers.map(|(referrer, _)| *referrer)
    }

    /// The image `digest`, to which no tag points, and what goes with it; nothing if something that stays lists it.
    fn parts_of(&self, digest: Digest, tagged: &BTreeSet<Digest>) -> Vec<Digest> {
        if self.has_opaque {
            // One of them may list any of the others.
            return vec![digest];
        }
        let candidates = self.closure(BTreeSet::from([digest]));
        let is_root = |one: &&Digest| tagged.contains(one) || !candidates.contains(one);
        let roots = self.all.iter().filter(is_root).copied();
        let kept = self.closure(roots.collect());
        if kept.contains(&digest) {
            return Vec::new();
        }
        let parts = candidates.difference(&kept);
        let parts = parts.filter(|part| **part != digest);
        std::iter::once(digest).chain(parts.copied()).collect()
    }

    /// `members`, what they list as far as the repository has it, and what is about any of them.
    fn closure(&self, mut members: BTreeSet<Digest>) -> BTreeSet<Digest> {
        let mut about: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for (referrer, subject) in &self.subjects {
            about.entry(*subject).or_default().push(*referrer);
        }
        let mut unread: Vec<Digest> = members.iter().copied().collect();
        while let Some(member) = unread.pop() {
            let children = self.children.get(&member).into_iter().flatten();
            let related = children.chain(about.get(&member).into_iter().flatten());
            for one in related {
                if self.all.contains(one) && members.insert(*one) {
                    unread.push(*one);
                }
            }
        }
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    /// `lists` and `about` are pairs of names.
    fn parts(lists: &[(&str, &str)], about: &[(&str, &str)], tagged: &[&str]) -> Vec<Digest> {
        let mut relations = Relations::default();
        for (one, other) in lists.iter().chain(about) {
            relations.all.extend([digest(one), digest(other)]);
        }
        for (parent, child) in lists {
            let children = relations.children.entry(digest(parent)).or_default();
            children.push(digest(child));
        }
        for (referrer, subject) in about {
            relations.subjects.insert(digest(referrer), digest(subject));
        }
        let tagged = tagged.iter().map(|tag| digest(tag)).collect();
        relations.parts_of(digest("image"), &tagged)
    }

    #[track_caller]
    fn go(parts: &[Digest], expected: &[&str]) {
        let expected: BTreeSet<Digest> = expected.iter().map(|name| digest(name)).collect();
        assert_eq!(parts.iter().copied().collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn with_an_image_goes_what_it_lists_and_what_is_about_it() {
        let parts = parts(
            &[("image", "child"), ("child", "grandchild")],
            &[("signature", "child"), ("signature of it", "signature")],
            &[],
        );
        let all = [
            "image",
            "child",
            "grandchild",
            "signature",
            "signature of it",
        ];
        go(&parts, &all);
        assert_eq!(parts[0], digest("image"), "the index goes first");
    }

    #[test]
    fn what_something_else_needs_stays() {
        let lists = [("image", "child"), ("image", "shared"), ("other", "shared")];
        let about = [("signature", "shared"), ("signature of child", "child")];
        let goes = ["image", "child", "signature of child"];
        go(&parts(&lists, &about, &["other"]), &goes);
        // An index without a tag may be pulled by its digest.
        go(&parts(&lists, &about, &[]), &goes);
        go(&parts(&[("image", "child")], &[], &["child"]), &["image"]);
        go(
            &parts(&[("other", "image")], &[("signature", "image")], &[]),
            &[],
        );
    }

    #[test]
    fn a_tagged_signature_stays_without_its_image() {
        let about = [("signature", "image")];
        go(&parts(&[], &about, &["signature"]), &["image"]);
    }
}
