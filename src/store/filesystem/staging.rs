//! The way of a request to the committer: its bytes are written and synced, so that only names are left to be changed.
//!
//! Must not change any name that a reader sees, before the committer does. Invariant: whatever fails before that leaves the
//! store as it was.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::change::{Change, Phase, Placement, gather_whole_directories};
use super::committer::Committer;
use super::nursery::Nursery;
use super::upload::Received;
use super::volume::{Incoming, Volume};
use super::{blocking, interrupted};
use crate::layout::Key;
use crate::store::{Condition, Step, StoreError};

/// How many requests write and sync their bytes at once. File systems join what syncs at the same time; beyond this they
/// only queue, each on a thread.
const STAGING_REQUESTS_MAX: usize = 32;

/// Everything that is written with names goes through here.
pub(super) struct Writer {
    volume: Arc<Volume>,
    staging: Semaphore,
    pub(super) committer: Committer,
}

impl Writer {
    pub(super) fn start(volume: Arc<Volume>) -> Result<Self, StoreError> {
        Ok(Self {
            committer: Committer::start(Arc::clone(&volume))?,
            staging: Semaphore::new(STAGING_REQUESTS_MAX),
            volume,
        })
    }

    /// Gives the bytes of `received`, if any, their key, then carries out `steps`; all is durable on return.
    pub(super) async fn write(
        self: &Arc<Self>,
        received: Option<(Received, Key)>,
        steps: Vec<Step>,
    ) -> Result<(), StoreError> {
        let session = received.as_ref().map(|(data, _)| data.directory.clone());
        let phases = {
            let _permit = self.staging.acquire().await;
            let volume = Arc::clone(&self.volume);
            blocking(move || stage(&volume, received, steps)).await??
        };
        let writer = Arc::clone(self);
        // A task of its own, so that it cleans up also where the caller goes away.
        let task = tokio::spawn(async move {
            let mut leftovers = writer.committer.commit(phases).await?;
            leftovers.extend(session);
            if leftovers.is_empty() {
                return Ok(());
            }
            // Out of sight already: a failure is only room lost until the next start or the next purge.
            blocking(move || {
                for path in leftovers {
                    let _ = writer.volume.disk.remove_tree(&path);
                }
            })
            .await
        });
        task.await.map_err(interrupted)?
    }
}

/// Writes and syncs all bytes of a request.
fn stage(
    volume: &Volume,
    received: Option<(Received, Key)>,
    steps: Vec<Step>,
) -> Result<Vec<Phase>, StoreError> {
    let mut phases = Vec::new();
    let mut phase = Phase::new();
    // What may become visible in any order.
    let mut stretch = Phase::new();
    if let Some((received, key)) = received {
        let file = arrive(volume, &received, &key);
        stretch.push(Change::Place(Placement {
            file: file.map_err(|source| StoreError::from_io(format!("write {key}"), source))?,
            key,
            condition: Condition::Any,
        }));
    }
    for step in steps {
        match step {
            Step::Put {
                key,
                bytes,
                condition,
            } => {
                let file = volume.write_temporary(&bytes, &key);
                stretch.push(Change::Place(Placement {
                    file: file
                        .map_err(|source| StoreError::from_io(format!("write {key}"), source))?,
                    key,
                    condition,
                }));
            }
            Step::Remove(key) => stretch.push(Change::Remove(key)),
            Step::RemoveTree { prefix, first: _ } => stretch.push(Change::RemoveTree(prefix)),
            Step::Settle(key) => stretch.push(Change::Settle(key)),
            Step::Then => prepare(volume, &mut phase, std::mem::take(&mut stretch))?,
            Step::Barrier => {
                prepare(volume, &mut phase, std::mem::take(&mut stretch))?;
                phases.push(std::mem::take(&mut phase));
            }
        }
    }
    prepare(volume, &mut phase, stretch)?;
    phases.push(phase);
    Ok(phases)
}

/// Makes the bytes of an upload durable, where they can be renamed to `key` from.
fn arrive(volume: &Volume, received: &Received, key: &Key) -> std::io::Result<Incoming> {
    received.sync()?;
    if volume.boundary.is_apart(&received.data, &volume.path(key)) {
        // The administrator has moved the blobs, or the repositories, to a disk of their own.
        return volume.copy_temporary(received.file(), key);
    }
    // The session keeps them if this fails.
    Ok(Incoming::kept(received.data.clone()))
}

/// Adds a stretch to a phase. What must appear together is put into a directory that is synced here, in parallel with other
/// requests, and not in the committer.
fn prepare(volume: &Volume, phase: &mut Phase, stretch: Phase) -> Result<(), StoreError> {
    for mut change in gather_whole_directories(stretch) {
        if let Change::Whole {
            directory,
            nursery,
            placements,
        } = &mut change
        {
            let target = volume.directory(directory);
            if !target.exists() {
                let filled = Nursery::fill(volume, &target, placements);
                let failed = |source| StoreError::from_io(format!("write {directory}"), source);
                *nursery = Some(filled.map_err(failed)?);
            }
        }
        phase.push(change);
    }
    Ok(())
}
