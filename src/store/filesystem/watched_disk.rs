//! A disk whose calls are counted, so that one that does not answer shows.
//!
//! Must not know what is written or why. Invariant: it does what the disk inside does, and each call that returns is a move.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::disk::{Disk, NewTime, Reach};
use crate::heartbeat::Heartbeat;

pub(super) struct WatchedDisk {
    inner: Arc<dyn Disk>,
    heartbeat: Arc<Heartbeat>,
}

impl WatchedDisk {
    pub(super) fn new(inner: Arc<dyn Disk>, heartbeat: Arc<Heartbeat>) -> Self {
        Self { inner, heartbeat }
    }
}

impl Disk for WatchedDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.make_directory(path)
    }

    fn write(&self, file: &File, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.write(file, bytes, offset_bytes)
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.sync_file(file)
    }

    fn sync_directory(&self, path: &Path, reach: Reach) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.sync_directory(path, reach)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.rename(from, to)
    }

    fn rename_if_absent(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.rename_if_absent(from, to)
    }

    fn set_time(&self, file: &File, time: NewTime) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.set_time(file, time)
    }

    fn read_directory(&self, path: &Path) -> io::Result<fs::ReadDir> {
        self.inner.read_directory(path)
    }

    fn device(&self, path: &Path) -> io::Result<u64> {
        self.inner.device(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let _under_way = self.heartbeat.enter();
        self.inner.remove_file(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        // A tree of a million files takes minutes; nobody waits for it.
        self.inner.remove_tree(path)
    }
}
