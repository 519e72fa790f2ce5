//! Syncs the directories that have changed.
//!
//! Must not know why they changed. Invariant: a directory without a failure is durable when [`sync_directories`] returns.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::disk::Reach;
use super::volume::{Volume, is_absent};

/// How many directories are synced at once. Each sync ends in a flush of the drive, and the kernel joins those that
/// come together; a request alone changes about six directories.
const SYNCS_MAX: usize = 8;

/// Syncs each directory once; returns the positions of those that failed. The last one comes after the others, so that its
/// `reach` is that of all. `moved` hears of each.
pub(super) fn sync_directories(
    volume: &Volume,
    directories: &[&Path],
    reach: Reach,
    moved: &(dyn Fn() + Sync),
) -> Vec<(usize, io::Error)> {
    let Some((last, others)) = directories.split_last() else {
        return Vec::new();
    };
    let failures = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(directory) = others.get(position) else {
                return;
            };
            if let Err(error) = sync(volume, directory, Reach::Drive) {
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.push((position, error));
            }
            moved();
        }
    };
    thread::scope(|scope| {
        for _ in 1..others.len().min(SYNCS_MAX) {
            // Without helpers this thread does it all.
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let mut failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = sync(volume, last, reach) {
        failures.push((others.len(), error));
    }
    failures
}

/// Instead of a directory that was removed meanwhile, the root is synced, which reaches as far.
fn sync(volume: &Volume, directory: &Path, reach: Reach) -> io::Result<()> {
    match volume.sync_directory(directory, reach) {
        Err(error) if is_absent(&error) => volume.sync_directory(volume.root(), reach),
        done => done,
    }
}
