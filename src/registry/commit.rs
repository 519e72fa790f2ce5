//! The one way to change a repository.
//!
//! Must not know why it is changed. Invariants: nothing else in the registry calls `store.apply`; the actor's permit is
//! confirmed right before the store is touched; the index hears of every commit, and a commit that fails or is dropped
//! half-way puts its repository in doubt.

use super::core::Core;
use super::error::RegistryError;
use super::event::Event;
use super::locks::{Held, MayCommit};
use crate::oci::Digest;
use crate::store::{Step, StoreError, Upload};

/// What is written at once, and what has happened then.
#[derive(Default)]
pub(super) struct Commit {
    /// A received blob: its bytes come before the steps. Where the commit is refused, they are discarded.
    pub(super) upload: Option<(Box<dyn Upload>, Digest)>,
    /// What the store does, in this order.
    pub(super) steps: Vec<Step>,
    /// What the store does instead if it has no room for the steps; nothing if that is no way out.
    pub(super) without_room: Vec<Step>,
    /// What has happened in the repository when all of it is done; nothing where no list can show it.
    pub(super) events: Vec<Event>,
}

impl Core {
    /// Carries out `commit` for the actor that holds what it needs; durable on return. An operation may commit in several
    /// parts under one hold.
    pub(super) async fn commit(
        &self,
        held: &mut Held<'_, impl MayCommit>,
        commit: Commit,
    ) -> Result<(), RegistryError> {
        let Commit {
            upload,
            steps,
            without_room,
            events,
        } = commit;
        if let Err(refusal) = held.actor().confirm().await {
            if let Some((upload, _)) = upload {
                discard(upload).await;
            }
            return Err(refusal.into());
        }
        // Without an event there is nothing that the index could miss.
        let is_news = !events.is_empty();
        if is_news {
            held.change.begin();
        }
        let applied = match upload {
            Some((upload, digest)) => upload.finish(&digest, steps).await,
            None => self.store.apply(steps).await,
        };
        match applied {
            Err(StoreError::Full) if !without_room.is_empty() => {
                self.store.apply(without_room).await?;
            }
            applied => applied?,
        }
        if let Some(repository) = held.change.repository() {
            tracing::debug!(actor = %held.actor(), %repository, events = events.len(), "committed");
        }
        if is_news {
            held.change.made(events);
        }
        Ok(())
    }
}

/// Forgets an upload that cannot be used. A failure here must not hide why.
pub(super) async fn discard(upload: Box<dyn Upload>) {
    if let Err(error) = upload.abort().await {
        tracing::warn!(error = %error, "cannot remove an upload that is of no use");
    }
}
