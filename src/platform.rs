//! What differs between operating systems: the only file that asks which one this is.
//!
//! Must not know anything of Boathouse beyond its directories' names. Invariant: every question has an answer on every
//! platform; where a system cannot tell, the answer says so (`None`, an empty list) instead of failing.
//!
//! `std` and `rustix` answer all but two questions, which need `unsafe` calls that neither offers: interface addresses
//! (`getifaddrs`; `/proc/net` has no counterpart on macOS) by `if-addrs`, an option of sockets by `socket2`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{fs, fs::File, io, net::IpAddr, path::Path};

/// Whether this is macOS, which keeps programs' files in places of its own.
pub const IS_MACOS: bool = cfg!(target_os = "macos");
/// Where macOS stops although its hard limit says "infinite" (`OPEN_MAX`).
const MACOS_DESCRIPTORS_MAX: u64 = 10_240;

/// Raises the limit of open descriptors as far as this user may, and tells it (`None` = unlimited).
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

/// Names this boot of the machine: what was not fsynced is there exactly as long as this stays the same.
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

/// The name that the system has for this machine, in lower case; with its domain on some.
pub fn node_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase()
}

/// Where others reach this machine: not by loopback, nor by IPv6 link-local, which cannot stand in an image reference.
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

/// Takes these permissions from what this process makes from now on, beside those that it was told to take.
pub fn tighten_umask(taken: u32) {
    use rustix::{fs::Mode, process::umask};
    // It can only be asked for by setting it: to the closest, so that nothing is made open in between.
    let before = umask(Mode::RWXG | Mode::RWXO);
    umask(before | Mode::from_bits_truncate(taken));
}

/// The user this process acts as; 0 is root.
pub fn effective_user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Lets a socket hold at most so much that the network does not take yet (Linux; elsewhere its whole buffer, of megabytes).
pub fn limit_unsent(socket: &impl std::os::fd::AsFd, bytes: u32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(bytes)?;
    let _ = (socket, bytes);
    Ok(())
}

/// Opens the file at `path` if the system can without waiting for a disk and without following any link, to be read or
/// (cheaper) only to be asked about; an error other than "not found" leaves it open.
pub fn open_at_once(path: &Path, is_read: bool) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
        // Not waiting for who might write into a pipe, either.
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

/// Reads what the system has in memory from `offset_bytes` on, without waiting for a disk; an error where that is nothing.
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

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn the_machine_answers() {
        assert!(boot_id().is_some() && boot_id() == boot_id());
        assert!(!node_name().is_empty());
        assert!(!interface_addresses().iter().any(IpAddr::is_loopback));
    }
}
