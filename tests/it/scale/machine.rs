//! The machine under measurement.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

/// Cores, memory, file system, kernel.
pub(super) fn description(place: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = field("/proc/cpuinfo", "model name");
    let memory = field("/proc/meminfo", "MemTotal");
    let kibibytes = memory.trim_end_matches(" kB").parse::<u64>();
    let memory = kibibytes.expect("a number") >> 20;
    let kernel = read("/proc/sys/kernel/osrelease");
    let place = place.to_str().expect("a plain path");
    let file_system = told_by("findmnt", &["-no", "FSTYPE", "-T", place]);
    format!("{cores} cores ({model}), {memory} GiB, {file_system}, Linux {kernel}")
}

/// What another registry calls itself: the name of its program and the number.
pub(super) fn version_of(program: &Path) -> String {
    let told = told_by(program.to_str().expect("a plain path"), &["--version"]);
    let (_, version) = told.rsplit_once(' ').expect("a version at the end");
    let version = version.split('+').next().unwrap_or(version);
    format!("docker-registry {version}")
}

/// Brings to the disk what was written below `place`, so that it is not written while something is measured.
pub(super) fn sync(place: &Path) {
    told_by("sync", &["-f", place.to_str().expect("a plain path")]);
}

/// Has the kernel forget files and directories, of all programs.
pub(super) fn forget_files() {
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root");
}

/// What a directory takes on the disk.
pub(super) fn disk_bytes(directory: &Path) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    let entries = fs::read_dir(directory).expect("a directory");
    let sizes = entries.map(|entry| {
        let entry = entry.expect("an entry");
        let metadata = entry.metadata().expect("its metadata");
        let below = if metadata.is_dir() {
            disk_bytes(&entry.path())
        } else {
            0
        };
        below + metadata.blocks() * BLOCK_BYTES
    });
    sizes.sum()
}

fn field(path: &str, name: &str) -> String {
    let text = read(path);
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("no {name} in {path}"));
    value.trim_start_matches([' ', '\t', ':']).to_owned()
}

fn read(path: &str) -> String {
    let text = fs::read_to_string(path).expect(path);
    text.trim_end().to_owned()
}

fn told_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect(program);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
