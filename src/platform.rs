//! What differs between operating systems: only this file asks which system it runs on.
//!
//! Must not know anything of Boathouse. Invariant: every function returns on every platform; if a system has no answer, the
//! result says so (`None`, an empty list).
//!
//! Two functions need `unsafe` calls that neither `std` nor `rustix` offers: interface addresses (`getifaddrs`; `/proc/net`
//! has no counterpart on macOS) by `if-addrs`, and a socket option by `socket2`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{fs, fs::File, io, net::IpAddr, path::Path, time::Duration};

/// Whether this is macOS, where programs' files have other places.
pub const IS_MACOS: bool = cfg!(target_os = "macos");

/// What gives the program its memory. The C library's allocator on Linux keeps what a peak has taken until the next one;
/// this one gives it back within seconds, by threads of its own. macOS has such an allocator already.
#[cfg(target_os = "linux")]
pub type Allocator = tikv_jemallocator::Jemalloc;
/// See [`Allocator`].
#[cfg(not(target_os = "linux"))]
pub type Allocator = std::alloc::System;
/// The one of this platform.
#[cfg(target_os = "linux")]
pub const ALLOCATOR: Allocator = tikv_jemallocator::Jemalloc;
/// The one of this platform.
#[cfg(not(target_os = "linux"))]
pub const ALLOCATOR: Allocator = std::alloc::System;

/// The unit of times in `/proc`, the same on all processors that are supported.
const TICK_MILLIS: u64 = 10;

/// Where macOS stops although its hard limit says "infinite" (`OPEN_MAX`).
const MACOS_DESCRIPTORS_MAX: u64 = 10_240;

/// Raises the limit of open file descriptors as far as possible, and returns it (`None` = unlimited).
pub fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    for current in [limit.maximum, Some(MACOS_DESCRIPTORS_MAX)] {
        let wanted = Rlimit {
            current,
            maximum: limit.maximum,
        };
        let raises = current.is_none() || current > limit.current;
        if raises && setrlimit(Resource::Nofile, wanted).is_ok() {
            return current;
        }
    }
    limit.current
}

/// Identifies this boot of the machine: data that were not synced exist only while it stays the same.
pub fn boot_id() -> Option<String> {
    let text = if IS_MACOS {
        let mut command = std::process::Command::new("/usr/sbin/sysctl");
        let output = command.args(["-n", "kern.bootsessionuuid"]).output();
        String::from_utf8(output.ok()?.stdout).ok()?
    } else {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?
    };
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// The name of this machine, in lower case; on some systems with its domain.
pub fn node_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase()
}

/// The addresses of this machine without loopback and without IPv6 link-local, which is not possible in an image reference.
pub fn interface_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<IpAddr> = interfaces.iter().map(if_addrs::Interface::ip).collect();
    addresses.retain(|address| match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    });
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Adds `taken` to the umask: files that this process creates do not have these permissions.
pub fn tighten_umask(taken: u32) {
    use rustix::{fs::Mode, process::umask};
    // The umask can be read only by setting it: to the strictest value, so that no file is created with open permissions
    // meanwhile.
    let before = umask(Mode::RWXG | Mode::RWXO);
    umask(before | Mode::from_bits_truncate(taken));
}

/// The address of a Unix socket: a path or, on Linux, also an abstract name, which begins with `@`.
pub fn socket_address(name: &str) -> io::Result<std::os::unix::net::SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.strip_prefix('@') {
        use std::os::linux::net::SocketAddrExt as _;
        return std::os::unix::net::SocketAddr::from_abstract_name(name);
    }
    std::os::unix::net::SocketAddr::from_pathname(name)
}

/// The effective user id of this process; 0 is root.
pub fn effective_user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Limits the data that a socket buffers before they are sent (Linux; elsewhere the whole buffer is used, of megabytes).
pub fn limit_unsent(socket: &impl std::os::fd::AsFd, bytes: u32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(bytes)?;
    let _ = (socket, bytes);
    Ok(())
}

/// Opens the file at `path` only if the system can do so without waiting for a disk and without following a link. It is
/// opened for reading, or (cheaper) only for its metadata. Any error but "not found" means that it is not known whether the
/// file exists.
pub fn open_at_once(path: &Path, is_read: bool) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
        // Without waiting for a writer of a pipe.
        let flags = if is_read {
            OFlags::NONBLOCK
        } else {
            OFlags::PATH
        } | OFlags::CLOEXEC;
        let resolve = ResolveFlags::CACHED | ResolveFlags::NO_SYMLINKS;
        Ok(openat2(CWD, path, flags, Mode::empty(), resolve)?.into())
    }
    #[cfg(not(target_os = "linux"))]
    Err(io::Error::other(format!("{path:?}, {is_read}")))
}

/// Makes durable all that was written to the file system of `path`, by any process. macOS has no call for one file system.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    // Twice: ext4 without a journal flushes the drive's cache before it writes its directories, so that only the second flush
    // is behind them.
    #[cfg(target_os = "linux")]
    for _ in 0..2 {
        rustix::fs::syncfs(File::open(path)?)?;
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        rustix::fs::sync();
    }
    Ok(())
}

/// Reads from `offset_bytes` what the system has in memory, without waiting for a disk; an error if that is nothing.
pub fn read_at_once(file: &File, bytes: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::{ReadWriteFlags, preadv2};
        let mut bytes = [io::IoSliceMut::new(bytes)];
        Ok(preadv2(
            file,
            &mut bytes,
            offset_bytes,
            ReadWriteFlags::NOWAIT,
        )?)
    }
    #[cfg(not(target_os = "linux"))]
    Err(io::Error::other(format!(
        "{file:?}, {}, {offset_bytes}",
        bytes.len()
    )))
}

/// What this process takes now; `None` where the system does not tell, as on macOS, which has no `/proc`.
#[derive(Debug, Default)]
pub struct ProcessUsage {
    /// Processor time, of its own and of the system for it.
    pub cpu_time: Option<Duration>,
    /// Memory in RAM.
    pub resident_bytes: Option<u64>,
    /// File descriptors that are open.
    pub open_descriptors: Option<u64>,
    /// The limit of file descriptors.
    pub descriptors_max: Option<u64>,
}

/// Source: proc(5). Blocks for about a millisecond where thousands of files are open.
pub fn process_usage() -> ProcessUsage {
    let open = fs::read_dir("/proc/self/fd").ok();
    let stat = fs::read_to_string("/proc/self/stat").ok();
    let status = fs::read_to_string("/proc/self/status").ok();
    ProcessUsage {
        cpu_time: stat.and_then(|text| cpu_time(&text)),
        resident_bytes: status.and_then(|text| resident_bytes(&text)),
        // Without the one of the directory.
        open_descriptors: open.map(|open| (open.count() as u64).saturating_sub(1)),
        descriptors_max: getrlimit(Resource::Nofile).current,
    }
}

/// The sum of `utime` and `stime`. The name of the program stands in brackets before them, and may contain spaces.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * TICK_MILLIS))
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn the_machine_answers() {
        assert!(boot_id().is_some() && boot_id() == boot_id());
        assert!(!node_name().is_empty());
        assert!(!interface_addresses().iter().any(IpAddr::is_loopback));
    }

    #[test]
    fn the_files_of_proc_are_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 900 0 3 0 250 50 0 0 20 0 4 0 100 1 2";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(3)));
        let status = "Name:\tboathouse\nVmRSS:\t   2048 kB\nThreads:\t4\n";
        assert_eq!(resident_bytes(status), Some(2 * 1024 * 1024));
        assert_eq!((cpu_time("7"), resident_bytes("")), (None, None));
    }
}
