//! A drive whose power can be cut: see `tests/crash/power-cut`, which says what this models.
//!
//! `outer.img` is the medium. The ext4 in it holds `inner.img`, which is what the drive has taken in, and the file system
//! in that one is what the registry writes to. A flush that the inner file system sends becomes an fsync of `inner.img`,
//! and only that brings bytes into `outer.img`: the outer page cache is the drive's own cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::random::Random;

const INNER_BYTES: u64 = 384 << 20;
const OUTER_BYTES: u64 = 512 << 20;

/// What this kernel says names this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Nothing may come to a file system but what it is asked for: no commit of its journal by the clock (5 s by default), and
/// none of ext4's own care for programs that rename without fsync. Tables are written now and not later by a thread of
/// the kernel; the journal is small, so that it is also seen full.
const EXT4: FileSystem = FileSystem {
    name: "ext4",
    make: "-q -F -E lazy_itable_init=0,lazy_journal_init=0 -J size=8 -m 0",
    options: "loop,noatime,commit=3600,noauto_da_alloc",
};

/// Its fsync brings in one file or directory, and not all that happened before: a directory that is forgotten is not saved
/// by the syncs of others.
const BTRFS: FileSystem = FileSystem {
    name: "btrfs",
    make: "-q -f",
    options: "loop,noatime,commit=3600",
};

/// How a file system is made and mounted.
#[derive(Debug)]
struct FileSystem {
    name: &'static str,
    make: &'static str,
    options: &'static str,
}

impl FileSystem {
    /// The inner one: `BOATHOUSE_CRASH_FILE_SYSTEM`, else ext4.
    fn of_environment() -> &'static Self {
        match std::env::var("BOATHOUSE_CRASH_FILE_SYSTEM").as_deref() {
            Err(_) | Ok("ext4") => &EXT4,
            Ok("btrfs") => &BTRFS,
            Ok(other) => panic!("no file system {other} here, only ext4 and btrfs"),
        }
    }

    /// In a new sparse file.
    fn make(&self, image: &Path, size_bytes: u64) {
        let file = fs::File::create(image).expect("an image");
        file.set_len(size_bytes).expect("a sparse file");
        let options: Vec<&str> = self.make.split(' ').chain([text(image)]).collect();
        run(&format!("mkfs.{}", self.name), &options);
    }

    /// Replays the journal, where there is something in it.
    fn mount(&self, image: &Path, mount_point: &Path) {
        let (image, mount_point) = (text(image), text(mount_point));
        let how = ["-t", self.name, "-o", self.options];
        let arguments = [&how[..], &[image, mount_point]].concat();
        // A loop device goes away some time after its unmount, and btrfs refuses a second one with the same name.
        let is_mounted = (0..40).any(|_| {
            let output = Command::new("mount").args(&arguments).output();
            let is_done = output.is_ok_and(|output| output.status.success());
            if !is_done {
                std::thread::sleep(Duration::from_millis(100));
            }
            is_done
        });
        if !is_mounted {
            run("mount", &arguments);
        }
        let device = run("findmnt", &["-no", "SOURCE", mount_point]);
        let name = Path::new(device.trim()).file_name().expect("a device");
        // With direct I/O the page cache below would be passed by, and nothing would ever be lost there.
        let direct = Path::new("/sys/block").join(name).join("loop/dio");
        let direct = fs::read_to_string(&direct).expect("a loop device");
        assert_eq!(direct.trim(), "0", "{} uses direct I/O", device.trim());
    }
}

/// Whether what the drive has taken in, but was not told to flush, survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DriveCache {
    Kept,
    Lost,
}

pub(super) struct Drive {
    directory: PathBuf,
    inner: &'static FileSystem,
}

impl Drive {
    /// Needs root, loop devices and a mount namespace of its own.
    pub(super) fn make(directory: &Path, random: &mut Random) -> Self {
        let drive = Self {
            directory: directory.to_owned(),
            inner: FileSystem::of_environment(),
        };
        for mount_point in [drive.outer(), drive.lab()] {
            fs::create_dir(mount_point).expect("a mount point");
        }
        EXT4.make(&drive.medium(), OUTER_BYTES);
        EXT4.mount(&drive.medium(), &drive.outer());
        drive.inner.make(&drive.taken_in(), INNER_BYTES);
        drive.inner.mount(&drive.taken_in(), &drive.lab());
        let boot_id = drive.boot_id();
        fs::write(&boot_id, new_boot_id(random)).expect("a boot id");
        run("mount", &["--bind", text(&boot_id), BOOT_ID]);
        drive
    }

    /// Where the registry's directory is.
    pub(super) fn lab(&self) -> PathBuf {
        self.directory.join("lab")
    }

    /// Cuts the power, and switches on again: the mounted file system is then what a boot finds. The server must be dead.
    pub(super) fn cut(&self, cache: DriveCache, random: &mut Random) {
        let copy = self.directory.join("copy.img");
        let stood = match cache {
            DriveCache::Kept => self.taken_in(),
            DriveCache::Lost => self.medium(),
        };
        // Read through the page cache of the file system below, never through the loop device: what the upper file system
        // has only in memory is not in it.
        run("cp", &["--sparse=always", text(&stood), text(&copy)]);
        // What is unmounted here is written back into what is thrown away.
        run("umount", &[text(&self.lab())]);
        match cache {
            DriveCache::Kept => {
                run("cp", &["--sparse=always", text(&copy), text(&stood)]);
                run("sync", &[text(&stood)]);
            }
            DriveCache::Lost => {
                run("umount", &[text(&self.outer())]);
                fs::rename(&copy, &stood).expect("the same directory");
                EXT4.mount(&stood, &self.outer());
            }
        }
        self.inner.mount(&self.taken_in(), &self.lab());
        fs::write(self.boot_id(), new_boot_id(random)).expect("a boot id");
    }

    fn medium(&self) -> PathBuf {
        self.directory.join("outer.img")
    }

    fn outer(&self) -> PathBuf {
        self.directory.join("outer")
    }

    fn taken_in(&self) -> PathBuf {
        self.outer().join("inner.img")
    }

    fn boot_id(&self) -> PathBuf {
        self.directory.join("boot-id")
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        // Also where a test failed half way; what cannot be undone ends with the namespace.
        for mounted in [Path::new(BOOT_ID), &self.lab(), &self.outer()] {
            let _ = Command::new("umount").arg(mounted).output();
        }
    }
}

/// Another boot has another name, or the registry would trust in what it remembers of this one.
fn new_boot_id(random: &mut Random) -> String {
    format!("{:016x}{:016x}\n", random.next(), random.next())
}

/// What it prints, if it succeeds.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}
