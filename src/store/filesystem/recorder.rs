//! A disk that remembers what was synced, and so can tell what a power cut leaves.
//!
//! It looks at inodes: a sync of a file records its content, a sync of a directory the names in it. After each call it
//! takes a [`Cut`]. Whatever was not synced may survive a real cut or not; a cut therefore shows both ends, what is
//! durable for certain ([`Cut::durable`]) and what is visible and so may survive ([`Cut::visible`]).

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::disk::{Disk, NewTime, Reach, RealDisk};

pub(super) struct RecordingDisk {
    root: PathBuf,
    synced: Mutex<Synced>,
    cuts: Mutex<Vec<Cut>>,
    /// How many bytes can still be written.
    pub(super) room_bytes: AtomicU64,
    pub(super) refuses_file_syncs: AtomicBool,
    pub(super) refuses_writes: AtomicBool,
    pub(super) refuses_removals: AtomicBool,
    /// As some network file systems.
    pub(super) cannot_sync_directories: AtomicBool,
    /// What lies below these counts as on file systems of their own.
    pub(super) other_devices: Mutex<Vec<PathBuf>>,
    /// Files and directories are others', who let us write: then their times cannot be chosen.
    pub(super) belongs_to_others: AtomicBool,
    /// Directories whose path contains this cannot be synced.
    pub(super) refused_directory: Mutex<Option<&'static str>>,
    /// Whether a sync of the file system does anything; on some (FUSE) it does nothing.
    pub(super) syncs_file_system: AtomicBool,
    /// How often a directory was read.
    pub(super) directories_read: AtomicUsize,
    /// While this is held, no directory is synced.
    pub(super) gate: Mutex<()>,
}

#[derive(Default)]
struct Synced {
    durable: Durable,
    /// Kept open so that no inode number is used twice.
    held: HashMap<u64, File>,
}

#[derive(Default, Clone)]
struct Durable {
    files: HashMap<u64, Arc<Vec<u8>>>,
    directories: HashMap<u64, Arc<BTreeMap<String, u64>>>,
}

/// The moment after one call.
pub(super) struct Cut {
    pub(super) call: String,
    root: u64,
    durable: Durable,
    /// Every path below the root, directories with a slash at their end, with its inode.
    visible: BTreeMap<String, u64>,
    contents: BTreeMap<String, Vec<u8>>,
}

impl RecordingDisk {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            synced: Mutex::default(),
            cuts: Mutex::default(),
            room_bytes: AtomicU64::new(u64::MAX),
            refuses_file_syncs: AtomicBool::new(false),
            refuses_writes: AtomicBool::new(false),
            refuses_removals: AtomicBool::new(false),
            cannot_sync_directories: AtomicBool::new(false),
            other_devices: Mutex::default(),
            belongs_to_others: AtomicBool::new(false),
            refused_directory: Mutex::default(),
            syncs_file_system: AtomicBool::new(false),
            directories_read: AtomicUsize::new(0),
            gate: Mutex::default(),
        }
    }

    /// The moments since the last time this was asked.
    pub(super) fn take_cuts(&self) -> Vec<Cut> {
        std::mem::take(&mut self.cuts.lock().unwrap())
    }

    /// The present moment.
    pub(super) fn cut_now(&self) -> Cut {
        let synced = self.synced.lock().unwrap();
        self.cut("now".to_owned(), &synced)
    }

    fn sync_below(&self, directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                self.sync_below(&path)?;
            } else {
                self.sync_file(&File::open(path)?)?;
            }
        }
        self.sync_directory(directory, Reach::Medium)
    }

    fn cut(&self, call: String, synced: &Synced) -> Cut {
        let mut visible = BTreeMap::new();
        let mut contents = BTreeMap::new();
        walk(&self.root, "", &mut visible, &mut contents);
        Cut {
            call,
            root: fs::metadata(&self.root).unwrap().ino(),
            durable: synced.durable.clone(),
            visible,
            contents,
        }
    }

    fn record<T>(
        &self,
        call: String,
        work: impl FnOnce(&mut Synced) -> io::Result<T>,
    ) -> io::Result<T> {
        // One call at a time, so that each cut shows exactly what one call has changed.
        let mut synced = self.synced.lock().unwrap();
        let result = work(&mut synced)?;
        let cut = self.cut(call, &synced);
        self.cuts.lock().unwrap().push(cut);
        Ok(result)
    }
}

fn walk(
    directory: &Path,
    prefix: &str,
    visible: &mut BTreeMap<String, u64>,
    contents: &mut BTreeMap<String, Vec<u8>>,
) {
    // Sessions are opened beside the recorder, so a name may vanish between two looks.
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            visible.insert(format!("{name}/"), metadata.ino());
            walk(&entry.path(), &format!("{name}/"), visible, contents);
        } else if let Ok(content) = fs::read(entry.path()) {
            visible.insert(name.clone(), metadata.ino());
            contents.insert(name, content);
        }
    }
}

impl Cut {
    /// What a power cut leaves for certain: path and content of every file that can be reached by synced names. A file
    /// whose content was not synced is there with none.
    pub(super) fn durable(&self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        self.reach(self.root, "", &mut found);
        found
    }

    /// What is durable below the directory that is visible at `path`, whether its own name is durable or not.
    pub(super) fn durable_below(&self, path: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        self.reach(self.visible[path], "", &mut found);
        found
    }

    /// What a power cut may leave: every path, with the content it has now.
    pub(super) fn visible(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.contents
    }

    pub(super) fn visible_directories(&self) -> impl Iterator<Item = &str> {
        let paths = self.visible.keys();
        paths.filter_map(|path| path.ends_with('/').then_some(path.as_str()))
    }

    /// Whether what is visible at `path` has its content for certain, if it survives.
    pub(super) fn is_whole(&self, path: &str) -> bool {
        let synced = self.durable.files.get(&self.visible[path]);
        synced.map(|content| content.as_slice()) == self.contents.get(path).map(Vec::as_slice)
    }

    fn reach(&self, directory: u64, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        let Some(names) = self.durable.directories.get(&directory) else {
            return;
        };
        for (name, inode) in &**names {
            if name.ends_with('/') {
                self.reach(*inode, &format!("{prefix}{name}"), found);
            } else {
                let content = self.durable.files.get(inode);
                let content = content.map(|content| content.to_vec());
                found.insert(format!("{prefix}{name}"), content.unwrap_or_default());
            }
        }
    }
}

impl Disk for RecordingDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.record(format!("make {}", path.display()), |_| {
            RealDisk.make_directory(path)
        })
    }

    fn write(&self, file: &File, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        if self.refuses_writes.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is broken"));
        }
        let room = self.room_bytes.load(Ordering::SeqCst);
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        RealDisk.write(file, &bytes[..fits], offset_bytes)?;
        if room != u64::MAX {
            self.room_bytes.store(room - fits as u64, Ordering::SeqCst);
        }
        if fits < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        if self.refuses_file_syncs.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is broken"));
        }
        self.record("sync a file".to_owned(), |synced| {
            let metadata = file.metadata()?;
            let mut content = vec![0; usize::try_from(metadata.len()).unwrap()];
            file.read_exact_at(&mut content, 0)?;
            let durable = &mut synced.durable;
            durable.files.insert(metadata.ino(), Arc::new(content));
            synced.held.insert(metadata.ino(), file.try_clone()?);
            Ok(())
        })
    }

    fn sync_directory(&self, path: &Path, _reach: Reach) -> io::Result<()> {
        if !path.starts_with(&self.root) {
            return Ok(());
        }
        drop(self.gate.lock().unwrap());
        let refused = *self.refused_directory.lock().unwrap();
        if self.cannot_sync_directories.load(Ordering::SeqCst) {
            return Err(rustix::io::Errno::INVAL.into());
        }
        if refused.is_some_and(|text| path.to_str().unwrap().ends_with(text)) {
            return Err(io::Error::other("the disk is broken"));
        }
        self.record(format!("sync {}", path.display()), |synced| {
            let directory = File::open(path)?;
            let mut names = BTreeMap::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                let name = entry.file_name().into_string().unwrap();
                let metadata = entry.metadata()?;
                let slash = if metadata.is_dir() { "/" } else { "" };
                names.insert(format!("{name}{slash}"), metadata.ino());
            }
            let inode = directory.metadata()?.ino();
            synced.durable.directories.insert(inode, Arc::new(names));
            synced.held.insert(inode, directory);
            Ok(())
        })
    }

    fn sync_file_system(&self, _path: &Path) -> io::Result<()> {
        if self.syncs_file_system.load(Ordering::SeqCst) {
            self.sync_below(&self.root)?;
        }
        Ok(())
    }

    fn read_directory(&self, path: &Path) -> io::Result<fs::ReadDir> {
        self.directories_read.fetch_add(1, Ordering::SeqCst);
        RealDisk.read_directory(path)
    }

    fn device(&self, path: &Path) -> io::Result<u64> {
        let devices = self.other_devices.lock().unwrap();
        let real = path.canonicalize()?;
        let other = devices.iter().position(|device| real.starts_with(device));
        Ok(other.map_or(0, |position| position as u64 + 1))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let parents = [from, to].map(|path| self.device(path.parent().unwrap()));
        if let [Ok(from), Ok(to)] = parents
            && from != to
        {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        let call = format!("rename {} to {}", from.display(), to.display());
        self.record(call, |_| RealDisk.rename(from, to))
    }

    fn rename_if_absent(&self, from: &Path, to: &Path) -> io::Result<()> {
        let call = format!("rename {} to {}", from.display(), to.display());
        self.record(call, |_| RealDisk.rename_if_absent(from, to))
    }

    fn set_time(&self, file: &File, time: NewTime) -> io::Result<()> {
        let is_owner = !self.belongs_to_others.load(Ordering::SeqCst);
        if !is_owner && time != NewTime::Now {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.record("set a time".to_owned(), |_| RealDisk.set_time(file, time))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.record(format!("remove {}", path.display()), |_| {
            RealDisk.remove_file(path)
        })
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        if self.refuses_removals.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.record(format!("remove {}", path.display()), |_| {
            RealDisk.remove_tree(path)
        })
    }
}
