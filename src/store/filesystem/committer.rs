//! The one way to write keys: bytes are staged by the caller, then one thread changes all names, in groups.
//!
//! While one group syncs, the next gathers in the queue. Must not know how a change is carried out. Invariant: a phase of a
//! group begins only when every directory that the phases before it changed is synced; a request is answered only when the
//! phase that ends it is durable; what fails one request fails no other.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::publish::{Changed, Publisher, Settling};
use super::session::Received;
use super::staging::{Phase, stage, start_phases};
use super::volume::Volume;
use super::{blocking, interrupted};
use crate::heartbeat::Heartbeat;
use crate::layout::Key;
use crate::store::{Step, StoreError};

/// How many requests may wait: more than there are connections by default, so that it bounds memory and not speed.
const QUEUED_REQUESTS_MAX: usize = 1024;

/// How many requests share a group. Each costs a few renames, so the last one waits milliseconds for the others.
const GROUP_REQUESTS_MAX: usize = 128;

/// How many requests write and sync their bytes at once. File systems join what syncs at the same time; beyond this they
/// only queue, each on a thread.
const STAGING_REQUESTS_MAX: usize = 32;

/// Answers with what is to be removed now that it is out of sight.
type Answer = oneshot::Sender<Result<Vec<PathBuf>, StoreError>>;

struct Request {
    phases: Vec<Phase>,
    answer: Answer,
}

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

/// The way to the thread, which ends when this is dropped.
pub(super) struct Committer {
    queue: mpsc::Sender<Request>,
    pub(super) heartbeat: Arc<Heartbeat>,
}

impl Committer {
    pub(super) fn start(volume: Arc<Volume>) -> Result<Self, StoreError> {
        let (queue, waiting) = mpsc::channel(QUEUED_REQUESTS_MAX);
        let heartbeat = Heartbeat::new("the committer of the store", Arc::clone(&volume.clock));
        let beats = Arc::clone(&heartbeat);
        std::thread::Builder::new()
            .name("store-committer".to_owned())
            .spawn(move || {
                let _beating = beats.begin();
                run(&mut Publisher::new(volume), waiting, &beats);
            })
            .map_err(|source| StoreError::from_io("start the committer's thread", source))?;
        Ok(Self { queue, heartbeat })
    }

    /// Carries out `phases` and makes them durable; gives back the paths that are to be removed.
    pub(super) async fn commit(&self, phases: Vec<Phase>) -> Result<Vec<PathBuf>, StoreError> {
        let stopped = || {
            let source = io::Error::other("the committer has stopped");
            StoreError::from_io("write to the store", source)
        };
        let (answer, result) = oneshot::channel();
        let request = Request { phases, answer };
        self.queue.send(request).await.map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())?
    }
}

fn run(publisher: &mut Publisher, mut waiting: mpsc::Receiver<Request>, heartbeat: &Heartbeat) {
    publisher.prepare();
    heartbeat.rest();
    while let Some(first) = waiting.blocking_recv() {
        heartbeat.beat();
        let mut group = vec![first];
        while group.len() < GROUP_REQUESTS_MAX
            && let Ok(request) = waiting.try_recv()
        {
            group.push(request);
        }
        commit_group(publisher, group, heartbeat);
        heartbeat.rest();
    }
}

/// A request on its way through its group.
struct Member {
    /// The phase of the group in which it begins.
    start: usize,
    phases: std::vec::IntoIter<Phase>,
    answer: Answer,
    trash: Vec<PathBuf>,
    failure: Option<StoreError>,
}

fn commit_group(publisher: &mut Publisher, group: Vec<Request>, heartbeat: &Heartbeat) {
    let phases: Vec<&[Phase]> = group.iter().map(|request| &*request.phases).collect();
    let starts = start_phases(&phases);
    let mut members: Vec<Member> = starts
        .into_iter()
        .zip(group)
        .map(|(start, request)| Member {
            start,
            phases: request.phases.into_iter(),
            answer: request.answer,
            trash: Vec::new(),
            failure: None,
        })
        .collect();
    let mut number = 0;
    while !members.is_empty() {
        run_phase(publisher, &mut members, number, heartbeat);
        let (ended, going_on) = members
            .into_iter()
            .partition(|member| member.failure.is_some() || member.phases.len() == 0);
        answer(ended);
        members = going_on;
        number += 1;
    }
}

/// Carries out one phase of all members and makes it durable.
fn run_phase(
    publisher: &mut Publisher,
    members: &mut [Member],
    number: usize,
    heartbeat: &Heartbeat,
) {
    let mut settling = Settling::default();
    // Which members changed a directory, by their position.
    let mut changers: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
    for (position, member) in members.iter_mut().enumerate() {
        if number < member.start {
            continue;
        }
        let mut changed = Changed::default();
        let result = member
            .phases
            .next()
            .unwrap_or_default()
            .into_iter()
            .try_for_each(|change| publisher.publish(change, &mut changed));
        heartbeat.beat();
        member.failure = result.err();
        member.trash.append(&mut changed.trash);
        for directory in std::mem::take(&mut changed.directories) {
            changers.entry(directory).or_default().push(position);
        }
        settling.add(changed);
    }
    let directories: Vec<&Path> = changers.keys().map(PathBuf::as_path).collect();
    let failures = publisher.sync(&directories, &|| heartbeat.beat());
    if failures.is_empty() {
        publisher.settle(settling);
    }
    let changers: Vec<Vec<usize>> = changers.into_values().collect();
    for (directory, error) in failures {
        for position in changers.get(directory).into_iter().flatten() {
            let source = io::Error::new(error.kind(), error.to_string());
            if let Some(member) = members.get_mut(*position) {
                member.failure = Some(StoreError::from_io("sync a directory", source));
            }
        }
    }
}

fn answer(ended: Vec<Member>) {
    for member in ended {
        let result = match member.failure {
            // Its trash stays until the next start: a failed sync says nothing about what is durable.
            Some(failure) => Err(failure),
            None => Ok(member.trash),
        };
        // It fails only where the caller has gone away; the work is done.
        let _ = member.answer.send(result);
    }
}
