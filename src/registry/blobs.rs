//! Blobs: reading, mounting, removing; and which of them a repository has deleted lately.
//!
//! Must not know how blobs are received (`uploads`). Invariants (DESIGN D8): a repository shows only what it links; a link
//! from another repository is made, and its blob told of, only for a caller who may pull from there. A deletion leaves a
//! tombstone, which is there before the link is gone and stays for at least the grace period (up to a day longer).
//!
//! Tombstones: HEAD tells the client that deleted a blob that it is gone, also where another repository holds it still.
//! Otherwise the client would leave out the very blob that it means to send again. Tombstones lie in the store, outside
//! `docker/`: 202 promises that a deletion outlives the process, so neither a restart nor a lost index may undo it. There is
//! one directory for each day, so that a day is forgotten as a whole, without a look at what is in it, and nothing is
//! removed from a directory that is still written to.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::commit::Commit;
use super::core::{Blob, Core, DAY_SECS, put_link};
use super::error::RegistryError;
use super::event::{Actor, Event};
use super::references::Candidates;
use crate::auth::Viewer;
use crate::heartbeat::Heartbeat;
use crate::layout::{self, Place, layer_directory};
use crate::oci::range::ByteRange;
use crate::oci::{Digest, RepositoryName};
use crate::store::{Content, Step, StoreError};

/// How often days whose grace period is over are looked for.
const SWEEP_PAUSE: Duration = Duration::from_hours(1);

/// How long one sweep may take: it lists the days, and renames those that are over.
const SWEEP_TIME: Duration = Duration::from_mins(5);

/// How long a client may take to begin to read by a link of the store: as long as with distribution. What has begun goes on.
const LINK_LIFETIME: Duration = Duration::from_mins(20);

/// The room of blobs.
pub struct Blobs {
    core: Arc<Core>,
    heartbeat: Arc<Heartbeat>,
}

impl Blobs {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        let clock = Arc::clone(&core.clock);
        Self {
            core: Arc::clone(core),
            heartbeat: Heartbeat::new("the sweeper of tombstones", clock),
        }
    }

    /// Of [`Blobs::keep_tombstones`].
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
    }

    /// The blob, if the repository has it.
    pub async fn get(&self, name: &RepositoryName, digest: &Digest) -> Result<Blob, RegistryError> {
        let link = Place::LayerLink(name, *digest);
        let found = self.core.linked_data(&link).await?;
        let (target, meta) = found.ok_or(RegistryError::BlobUnknown(*digest))?;
        Ok(Blob::of(&target, digest, &meta))
    }

    /// What HEAD tells: also a blob that the repository does not have, but that `viewer`, about to push here, need not send,
    /// because the manifest that names it will link it from a repository that `viewer` may pull from. No link is written
    /// here. If that repository loses the blob meanwhile, the manifest is refused, and the next HEAD says why.
    pub async fn get_or_elsewhere(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        viewer: &dyn Viewer,
    ) -> Result<Blob, RegistryError> {
        match self.get(name, digest).await {
            Err(RegistryError::BlobUnknown(_)) => self.elsewhere(name, digest, viewer).await,
            other => other,
        }
    }

    /// A URL by which the client can read the blob from the store itself, where the store gives such links and HEAD would show
    /// the blob.
    pub async fn link_or_elsewhere(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        viewer: &dyn Viewer,
    ) -> Result<Option<String>, RegistryError> {
        let key = Place::BlobData(*digest).key();
        let Some(link) = self.core.store.link(&key, LINK_LIFETIME).await? else {
            return Ok(None);
        };
        let blob = self.get_or_elsewhere(name, digest, viewer).await?;
        // The link of a repository may lead to data of another digest.
        Ok((blob.key == key).then_some(link))
    }

    /// What GET sends, by the same rule as HEAD: the bytes, or `range` of them. The data are looked up once.
    pub async fn open_or_elsewhere(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        viewer: &dyn Viewer,
        range: Option<ByteRange>,
    ) -> Result<Content, RegistryError> {
        let link = Place::LayerLink(name, *digest).key();
        if let Some(content) = self.core.read_linked(&link, digest, range).await? {
            return Ok(content);
        }
        let blob = self.elsewhere(name, digest, viewer).await?;
        self.read(&blob, range).await
    }

    async fn elsewhere(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        viewer: &dyn Viewer,
    ) -> Result<Blob, RegistryError> {
        let unknown = || RegistryError::BlobUnknown(*digest);
        // Where nothing can be pushed, nothing need be left out of a push.
        if self.core.settings.readonly || !viewer.carries_push(name) {
            return Err(unknown());
        }
        let mut candidates = Candidates::new(&self.core, viewer, name);
        // A push asks so for each of its blobs: without the index, sending them costs less than walking the store.
        candidates.only_by_index = true;
        let elsewhere = candidates.find(digest).await?.ok_or_else(unknown)?;
        if self.is_deleted_lately(name, digest).await? {
            return Err(unknown());
        }
        Ok(Blob::of(&elsewhere.target, digest, &elsewhere.meta))
    }

    /// The bytes of a blob that was looked up before, or `range` of them.
    pub async fn read(
        &self,
        blob: &Blob,
        range: Option<ByteRange>,
    ) -> Result<Content, RegistryError> {
        let content = self.core.store.read(&blob.key, range).await;
        content.map_err(|error| match error {
            // Removed since it was looked up.
            StoreError::NotFound => RegistryError::BlobUnknown(blob.digest),
            error => error.into(),
        })
    }

    /// Links a blob that another repository holds: `from`, or any of the repositories that the actor may pull from. `false`
    /// if there is none: then the client must send it, and learns nothing about which repositories have it.
    pub async fn mount(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        from: Option<&RepositoryName>,
        actor: Actor<'_>,
    ) -> Result<bool, RegistryError> {
        self.core.check_writable()?;
        let held = self.core.locks.hold(actor, name).changing().await?;
        let mut held = held.sharing([digest]).await?;
        let viewer = held.actor().viewer();
        let mut candidates = Candidates::new(&self.core, viewer, name);
        let found = match from {
            Some(from) if viewer.may_pull(from) => candidates.find_in(from, digest).await?,
            Some(_) => None,
            None => candidates.find(digest).await?,
        };
        let Some(found) = found else {
            return Ok(false);
        };
        let link = Place::LayerLink(name, *digest);
        let commit = Commit {
            steps: vec![put_link(&link, &found.target)],
            events: vec![Event::BlobMounted { digest: *digest }],
            ..Commit::default()
        };
        self.core.commit(&mut held, commit).await?;
        Ok(true)
    }

    /// Takes the blob out of the repository; its bytes stay for the others, and for the collector.
    pub async fn delete(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        actor: Actor<'_>,
    ) -> Result<(), RegistryError> {
        self.core.check_deletable()?;
        let held = self.core.locks.hold(actor, name).changing().await?;
        let mut held = held.removing(digest).await?;
        let link = Place::LayerLink(name, *digest).key();
        if self.core.find(&link).await?.is_none() {
            return Err(RegistryError::BlobUnknown(*digest));
        }
        let day = self.core.unix_day();
        // Its name says it all.
        let tombstone = Step::put(layout::tombstone(day, name, digest), Bytes::new());
        let removal = || Step::remove_tree(layer_directory(name, digest), link.clone());
        let commit = Commit {
            steps: vec![tombstone, Step::Barrier, removal()],
            // Without room for a tombstone, deleting is all the more needed.
            without_room: vec![removal()],
            events: vec![Event::BlobUnlinked { digest: *digest }],
            ..Commit::default()
        };
        self.core.commit(&mut held, commit).await
    }

    /// Whether `name` has deleted the blob within the grace period.
    pub(super) async fn is_deleted_lately(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        // Mostly there is no day at all.
        for day in self.days_of_tombstones().await? {
            let tombstones = [
                layout::tombstone(day, name, digest),
                layout::repository_tombstone(day, name),
            ];
            if !self.is_over(day) {
                let found = self.core.find_each(&tombstones).await?;
                if found.iter().any(Option::is_some) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Forgets deletions whose grace period is over.
    pub async fn sweep_tombstones(&self) -> Result<(), RegistryError> {
        if self.core.settings.readonly {
            return Ok(());
        }
        let days = self.days_of_tombstones().await?.into_iter();
        let over = days.filter(|day| self.is_over(*day));
        let steps: Vec<Step> = over
            .map(|day| Step::remove_tree(layout::tombstones_of_day(day), None))
            .collect();
        if steps.is_empty() {
            return Ok(());
        }
        let actor = Actor::task("the sweeper of tombstones");
        let mut held = self.core.locks.hold_own_files(actor);
        let commit = Commit {
            steps,
            ..Commit::default()
        };
        self.core.commit(&mut held, commit).await
    }

    /// Sweeps now and then; never returns.
    pub async fn keep_tombstones(&self) {
        let _beating = self.heartbeat.begin();
        loop {
            self.heartbeat.beat_before(SWEEP_TIME);
            if let Err(error) = self.sweep_tombstones().await {
                tracing::warn!(error = %error, "cannot forget old deletions of blobs");
            }
            self.heartbeat.rest_for(SWEEP_PAUSE);
            self.core.clock.sleep(SWEEP_PAUSE).await;
        }
    }

    async fn days_of_tombstones(&self) -> Result<Vec<u64>, RegistryError> {
        let mut days = Vec::new();
        let directory = layout::tombstones_directory();
        let add = |day: &str| days.extend(day.parse::<u64>());
        self.core.each_directory(&directory, add).await?;
        Ok(days)
    }

    /// Whether the grace period of the last deletion of `day` is over.
    fn is_over(&self, day: u64) -> bool {
        let end = day.saturating_add(1).saturating_mul(DAY_SECS);
        let grace = self.core.settings.limits.grace_period_secs;
        end.saturating_add(grace) <= self.core.clock.unix_secs()
    }
}
