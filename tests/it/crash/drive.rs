//! A drive whose power can be cut: see `tests/crash/power-cut`, which says what this models.
//!
//! `outer.img` is the medium. The ext4 in it holds `inner.img`, which is what the drive has taken in, and the ext4 in
//! that one is what the registry writes to. A flush that the inner file system sends becomes an fsync of `inner.img`,
//! and only that brings bytes into `outer.img`: the outer page cache is the drive's own cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::random::Random;

const INNER_BYTES: u64 = 384 << 20;
const OUTER_BYTES: u64 = 512 << 20;

/// What this kernel says names this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Nothing may come to a file system but what it is asked for: no commit of its journal by the clock (5 s by default), and
/// none of ext4's own care for programs that rename without fsync.
const INNER_OPTIONS: &str = "loop,noatime,commit=3600,noauto_da_alloc";
const OUTER_OPTIONS: &str = "loop,noatime,commit=3600";

/// Whether what the drive has taken in, but was not told to flush, survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DriveCache {
    Kept,
    Lost,
}

pub(super) struct Drive {
    directory: PathBuf,
}

impl Drive {
    /// Needs root, loop devices and a mount namespace of its own.
    pub(super) fn make(directory: &Path, random: &mut Random) -> Self {
        let drive = Self {
            directory: directory.to_owned(),
        };
        for mount_point in [drive.outer(), drive.lab()] {
            fs::create_dir(mount_point).expect("a mount point");
        }
        make_file_system(&drive.medium(), OUTER_BYTES);
        mount(OUTER_OPTIONS, &drive.medium(), &drive.outer());
        make_file_system(&drive.taken_in(), INNER_BYTES);
        mount(INNER_OPTIONS, &drive.taken_in(), &drive.lab());
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
                mount(OUTER_OPTIONS, &stood, &self.outer());
            }
        }
        // Replays the journal.
        mount(INNER_OPTIONS, &self.taken_in(), &self.lab());
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

fn make_file_system(image: &Path, size_bytes: u64) {
    let file = fs::File::create(image).expect("an image");
    file.set_len(size_bytes).expect("a sparse file");
    // Tables written now and not later by a thread of the kernel; a small journal, so that it is also seen full.
    let options = "lazy_itable_init=0,lazy_journal_init=0";
    let journal = "size=8";
    let arguments = [
        "-q",
        "-F",
        "-E",
        options,
        "-J",
        journal,
        "-m",
        "0",
        text(image),
    ];
    run("mkfs.ext4", &arguments);
}

fn mount(options: &str, image: &Path, mount_point: &Path) {
    run(
        "mount",
        &["-t", "ext4", "-o", options, text(image), text(mount_point)],
    );
    let device = run("findmnt", &["-no", "SOURCE", text(mount_point)]);
    let name = Path::new(device.trim()).file_name().expect("a device");
    // With direct I/O the page cache below would be passed by, and nothing would ever be lost there.
    let direct = Path::new("/sys/block").join(name).join("loop/dio");
    let direct = fs::read_to_string(&direct).expect("a loop device");
    assert_eq!(direct.trim(), "0", "{} uses direct I/O", device.trim());
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
