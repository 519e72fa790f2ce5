//! Handing the data back to another registry of the same layout: what it needs and does not have is written.
//!
//! Source: docs/storage-layout.md "Handing back". Must not know what is lost all the same (`inspection`). Invariants: what is
//! written changes nothing that is served here but lists of tags; done again, it writes nothing. No blob is linked here: a client that
//! knows the digest of a private blob could have named it in a manifest.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::commit::Commit;
use super::core::{Core, LINK_SIZE_MAX_BYTES, Stored, put_link};
use super::error::RegistryError;
use super::event::{Actor, Event};
use super::fallback::{Edit, FallbackChange};
use super::index_sync::comparing::{Progress, Tell};
use super::locks::Mode;
use super::phases::Phases;
use super::referrers::Referrer;
use crate::layout::{self, Key, Place};
use crate::oci::{Algorithm, Digest, RepositoryName};
use crate::store::{Small, Step};

/// The room of going back.
pub struct HandingBack {
    core: Arc<Core>,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HandedBack {
    /// Repositories looked through.
    pub repositories: u64,
    /// Fallback tags made or completed.
    pub fallback_tags: u64,
    /// Repositories that have got a `_layers` directory.
    pub layer_directories: u64,
    /// Links that have lost their white space.
    pub links: u64,
}

impl HandingBack {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
        }
    }

    /// Writes what is missing, durably.
    pub async fn run(&self, tell: Tell<'_>) -> Result<HandedBack, RegistryError> {
        self.core.check_writable()?;
        let mut names = self.core.repositories(|_| true, usize::MAX).await?;
        names.sort_unstable();
        let total = Some(names.len() as u64);
        let mut handed = HandedBack::default();
        for name in &names {
            let done = handed.repositories;
            tell(Progress { done, total });
            match self.repository(name, &mut handed).await {
                Ok(()) => {}
                // The inspection names it.
                Err(error) if error.is_unreadable() => {}
                Err(error) => return Err(error),
            }
            handed.repositories += 1;
        }
        Ok(handed)
    }

    async fn repository(
        &self,
        name: &RepositoryName,
        handed: &mut HandedBack,
    ) -> Result<(), RegistryError> {
        let core = &self.core;
        handed.links += self.clean_links(name).await?;
        let mut revisions = Vec::new();
        for algorithm in Algorithm::ALL {
            let directory = layout::revisions_directory(name, algorithm);
            revisions.extend(core.digest_directories(&directory, algorithm).await?);
        }
        revisions.sort_unstable();
        let mut first = None;
        let mut subjects: BTreeMap<Digest, Vec<Referrer>> = BTreeMap::new();
        let visit = |digest: &Digest, meta: crate::store::Meta, stored| {
            first.get_or_insert(*digest);
            if let Stored::Manifest(manifest) = stored
                && let Some(subject) = manifest.subject.as_ref().map(|subject| subject.digest)
            {
                let referrer = Referrer::of(*manifest, *digest, meta.size_bytes);
                subjects.entry(subject).or_default().push(referrer);
            }
        };
        core.each_manifest(name, &revisions, visit).await?;
        if let Some(digest) = first
            && !core
                .holds_something(&layout::layers_directory(name))
                .await?
        {
            // As with a push of a manifest without blobs.
            let link = Place::RevisionLink(name, digest).key();
            if let Some(target) = core.read_link(&link).await? {
                self.link_layer(name, digest, &target).await?;
                handed.layer_directories += 1;
            }
        }
        for (subject, referrers) in subjects {
            handed.fallback_tags += u64::from(self.list(name, &subject, referrers).await?);
        }
        Ok(())
    }

    async fn link_layer(
        &self,
        name: &RepositoryName,
        digest: Digest,
        target: &Digest,
    ) -> Result<(), RegistryError> {
        let held = self.core.locks.hold(actor(), name).changing().await?;
        let mut held = held.sharing([&digest]).await?;
        let mut phases = Phases::new(name);
        phases.link_layer(digest, target);
        let commit = Commit {
            steps: phases.into_steps(),
            events: vec![Event::BlobMounted { digest }],
            ..Commit::default()
        };
        self.core.commit(&mut held, commit).await
    }

    /// Completes the fallback tag of `subject`. Returns whether something was missing.
    async fn list(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        referrers: Vec<Referrer>,
    ) -> Result<bool, RegistryError> {
        let core = &self.core;
        let held = core.locks.hold(actor(), name);
        let held = held.tags(Mode::Exclusive).await?;
        let edit = Edit::Add(referrers);
        let Some(change) = core.change_fallback(name, subject, edit).await? else {
            return Ok(false);
        };
        let held = held.changing().await?;
        let (put, removed) = (change.put(), change.removed());
        let mut held = held.sharing_and_removing(put, removed).await?;
        let (mut phases, mut events) = (Phases::new(name), Vec::new());
        FallbackChange::add_to(change, &mut phases, &mut events);
        let commit = Commit {
            steps: phases.into_steps(),
            events,
            ..Commit::default()
        };
        core.commit(&mut held, commit).await?;
        Ok(true)
    }

    /// Rewrites links that have white space beside their digest. Returns how many there were.
    async fn clean_links(&self, name: &RepositoryName) -> Result<u64, RegistryError> {
        let core = &self.core;
        let held = core.locks.hold(actor(), name);
        let held = held.tags(Mode::Exclusive).await?;
        let mut links = Vec::new();
        for algorithm in Algorithm::ALL {
            let directory = layout::layer_links_directory(name, algorithm);
            let layers = core.digest_directories(&directory, algorithm).await?;
            links.extend(
                layers
                    .into_iter()
                    .map(|digest| Place::LayerLink(name, digest)),
            );
            let directory = layout::revisions_directory(name, algorithm);
            let revisions = core.digest_directories(&directory, algorithm).await?;
            let link = |digest| Place::RevisionLink(name, digest);
            links.extend(revisions.into_iter().map(link));
        }
        let tags = core.tag_directories(name).await?;
        links.extend(tags.iter().map(|tag| Place::TagCurrent(name, tag)));
        let keys: Vec<Key> = links.iter().map(Place::key).collect();
        let mut steps = Vec::new();
        let mut digests = Vec::new();
        let mut places = links.iter();
        core.read_each(&keys, LINK_SIZE_MAX_BYTES, |_, content| {
            let place = places.next();
            if let (Some(place), Small::Whole(_, bytes)) = (place, content)
                && let Ok(text) = std::str::from_utf8(&bytes)
                && text.trim() != text
                && let Ok(digest) = text.trim().parse::<Digest>()
            {
                steps.push(put_link(place, &digest));
                digests.push(digest);
            }
        })
        .await?;
        let count = steps.len() as u64;
        if steps.is_empty() {
            return Ok(0);
        }
        let held = held.changing().await?;
        let mut held = held.sharing(&digests).await?;
        // The links mean what they have meant: there is no event.
        let commit = Commit {
            steps: steps.into_iter().collect::<Vec<Step>>(),
            ..Commit::default()
        };
        core.commit(&mut held, commit).await?;
        Ok(count)
    }
}

fn actor() -> Actor<'static> {
    Actor::task("hand-back")
}
