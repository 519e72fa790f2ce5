//! The way of a request to the committer: its bytes are written and synced, so that only names are left to be changed.
//!
//! Must not change any name that a reader sees. Invariant: whatever fails here leaves the store as it was.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::change::{Change, Phase, Placement, gather_whole_directories};
use super::nursery::Nursery;
use super::session::Sessions;
use super::upload::{FileUpload, Received};
use super::volume::Volume;
use crate::layout::Key;
use crate::store::{Condition, Step, StoreError};

/// A step, with an upload in it that has nothing in flight any more.
pub(super) enum Incoming {
    Upload(Received, Key),
    Step(Step),
}

/// Ends what uploads still have in flight, so that the rest of a step can be done without waiting.
pub(super) async fn receive(
    sessions: &Arc<Sessions>,
    steps: Vec<Step>,
) -> Result<Vec<Incoming>, StoreError> {
    let mut incoming = Vec::with_capacity(steps.len());
    for step in steps {
        incoming.push(match step {
            Step::Finish { upload, key } => {
                let upload = upload.into_any().downcast::<FileUpload>().ok();
                let upload = upload.filter(|upload| upload.is_of(sessions));
                let Some(upload) = upload else {
                    let source = io::Error::other("the upload belongs to another store");
                    return Err(StoreError::from_io(format!("write {key}"), source));
                };
                Incoming::Upload(upload.into_received().await?, key)
            }
            step @ (Step::Put { .. } | Step::Remove(_) | Step::RemoveTree(_) | Step::Barrier) => {
                Incoming::Step(step)
            }
        });
    }
    Ok(incoming)
}

/// Writes and syncs all bytes of a request, so that only names are left to be changed; tells the phases of that, and the
/// sessions that end with it.
pub(super) fn stage(
    volume: &Volume,
    incoming: Vec<Incoming>,
) -> Result<(Vec<Phase>, Vec<PathBuf>), StoreError> {
    let mut phases = Vec::new();
    let mut phase = Phase::new();
    let mut sessions = Vec::new();
    for step in incoming {
        match step {
            Incoming::Upload(received, key) => {
                received
                    .sync()
                    .map_err(|source| StoreError::from_io(format!("write {key}"), source))?;
                if volume.boundary.is_apart(&received.data, &volume.path(&key)) {
                    // The administrator has moved the blobs, or the repositories, to a disk of their own.
                    let file = volume
                        .copy_temporary(received.file(), &key)
                        .map_err(|source| StoreError::from_io(format!("write {key}"), source))?;
                    phase.push(Change::Place(Placement {
                        file,
                        key,
                        condition: Condition::Any,
                    }));
                } else {
                    phase.push(Change::Finish {
                        data: received.data,
                        key,
                    });
                }
                sessions.push(received.directory);
            }
            Incoming::Step(Step::Put {
                key,
                bytes,
                condition,
            }) => {
                let file = volume
                    .write_temporary(&bytes, &key)
                    .map_err(|source| StoreError::from_io(format!("write {key}"), source))?;
                phase.push(Change::Place(Placement {
                    file,
                    key,
                    condition,
                }));
            }
            Incoming::Step(Step::Remove(key)) => phase.push(Change::Remove(key)),
            Incoming::Step(Step::RemoveTree(prefix)) => phase.push(Change::RemoveTree(prefix)),
            // `receive` has turned every Finish into an upload.
            Incoming::Step(Step::Barrier | Step::Finish { .. }) => {
                phases.push(prepare(volume, std::mem::take(&mut phase))?);
            }
        }
    }
    phases.push(prepare(volume, phase)?);
    Ok((phases, sessions))
}

/// Puts what must appear together into a directory that is synced here, beside other requests, and not in the committer.
fn prepare(volume: &Volume, phase: Phase) -> Result<Phase, StoreError> {
    let mut phase = gather_whole_directories(phase);
    for change in &mut phase {
        let Change::Whole {
            directory,
            nursery,
            placements,
        } = change
        else {
            continue;
        };
        let target = volume.directory(directory);
        if !target.exists() {
            let filled = Nursery::fill(volume, &target, placements);
            let failed = |source| StoreError::from_io(format!("write {directory}"), source);
            *nursery = Some(filled.map_err(failed)?);
        }
    }
    Ok(phase)
}
