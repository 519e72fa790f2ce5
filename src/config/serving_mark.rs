//! Marks beside a `users_file`: which running servers read it, and where each of them listens for commands.
//!
//! A server and a command agree on the users file, and on nothing else: the working directory, the environment and the other
//! config files of the two may differ, and with them the place of the control socket. Must not know how a server is asked.
//! Invariants: a server holds the lock of its mark for as long as it lives, so a mark whose lock is free was left by a server
//! that has ended, however it ended; a mark is never seen without its lock and its content; only its owner may open it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use crate::durable_file;

/// Between the name of the users file and the id of the mark.
const INFIX: &str = ".serving-";
/// Enough that two marks never have the same.
const ID_BYTES: usize = 8;
/// A mark holds one path.
const MARK_BYTES_MAX: u64 = 64 * 1024;

/// The mark of this process; removed when dropped.
#[derive(Debug)]
pub struct ServingMark {
    path: PathBuf,
    id: String,
    /// Unlocked by the system when it is closed, however the process ends.
    _lock: File,
}

/// A server that runs and reads the users file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingServer {
    /// The id of its mark, which the server answers with.
    pub id: String,
    /// Where it listens for commands, as the server calls the place.
    pub socket: PathBuf,
}

impl ServingMark {
    /// Leaves a mark beside `users_file`, which need not exist yet. Accounts must be read after this: what a command changed
    /// before it is then in them, and what a command changes after it finds the mark.
    pub fn leave(users_file: &Path, socket: &Path) -> io::Result<Self> {
        let users_file = real(users_file)?;
        let mut bytes = [0; ID_BYTES];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let id = HEXLOWER.encode(&bytes);
        let path = users_file.with_file_name(name_of(&users_file, &id));
        let mut new = path.clone().into_os_string();
        new.push(".new");
        let mut lock = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(durable_file::PRIVATE_FILE)
            .open(&new)?;
        let written = lock
            .lock()
            .and_then(|()| lock.write_all(socket.as_os_str().as_bytes()))
            .and_then(|()| fs::rename(&new, &path));
        if let Err(error) = written {
            // The first error is the one to report.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        Ok(Self {
            path,
            id,
            _lock: lock,
        })
    }

    /// What the server answers to those who found its mark.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether this is a mark beside `users_file` as it is now: a link may have been changed, a directory moved.
    pub fn is_beside(&self, users_file: &Path) -> bool {
        real(users_file)
            .is_ok_and(|real| self.path == real.with_file_name(name_of(&real, &self.id)))
            && self.path.exists()
    }

    /// The servers that run and read `users_file`. Marks of servers that have ended are removed.
    pub fn servers(users_file: &Path) -> io::Result<Vec<ServingServer>> {
        let users_file = real(users_file)?;
        let directory = durable_file::directory_of(&users_file);
        let mut servers = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = id_in(&name, &users_file) else {
                continue;
            };
            // A pipe would be waited for; nothing of ours is one.
            if !entry.file_type()?.is_file() {
                continue;
            }
            let path = entry.path();
            let mark = match File::open(&path) {
                // Its server has just ended.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                mark => mark?,
            };
            // Shared, so that two commands at once do not take each other for a server.
            match mark.try_lock_shared() {
                Ok(()) => {
                    // One that stays is found free by the next command too.
                    let _ = fs::remove_file(&path);
                }
                Err(TryLockError::WouldBlock) => {
                    let mut socket = Vec::new();
                    mark.take(MARK_BYTES_MAX).read_to_end(&mut socket)?;
                    let socket = PathBuf::from(OsString::from_vec(socket));
                    servers.push(ServingServer { id, socket });
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        servers.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(servers)
    }

    /// Whether a server that runs as the owner of `users_file` could have left a mark: if not, its absence proves nothing.
    pub fn could_be_left(users_file: &Path) -> io::Result<bool> {
        let users_file = real(users_file)?;
        let directory = fs::metadata(durable_file::directory_of(&users_file))?;
        let file = match fs::metadata(&users_file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            file => file?,
        };
        let mode = directory.mode();
        let is_writable = file.uid() == 0
            || (file.uid() == directory.uid() && mode & 0o200 != 0)
            || (file.gid() == directory.gid() && mode & 0o020 != 0)
            || mode & 0o002 != 0;
        Ok(is_writable)
    }
}

impl Drop for ServingMark {
    fn drop(&mut self) {
        // One that stays is found free.
        let _ = fs::remove_file(&self.path);
    }
}

/// The file itself, behind every link; one that does not exist yet by its real directory.
pub(super) fn real(users_file: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(users_file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = fs::canonicalize(durable_file::directory_of(users_file))?;
            Ok(directory.join(users_file.file_name().unwrap_or_default()))
        }
        real => real,
    }
}

fn name_of(users_file: &Path, id: &str) -> OsString {
    let mut name = users_file.file_name().unwrap_or_default().to_owned();
    name.push(INFIX);
    name.push(id);
    name
}

/// The id in the name of a mark beside this users file.
fn id_in(name: &std::ffi::OsStr, users_file: &Path) -> Option<String> {
    let start = name_of(users_file, "");
    let id = name.as_bytes().strip_prefix(start.as_bytes())?;
    let id = std::str::from_utf8(id).ok()?;
    let is_id = id.len() == 2 * ID_BYTES && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn every_server_that_runs_is_found_by_any_path_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let users_file = directory.path().join("real/users.yml");
        fs::create_dir(directory.path().join("real")).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("real", &link).unwrap();
        let found = |path: &Path| ServingMark::servers(path).unwrap();
        assert_eq!(found(&users_file), []);

        // The file need not exist; the next one comes through a link to its directory.
        let one = ServingMark::leave(&users_file, Path::new("/one")).unwrap();
        fs::write(&users_file, "").unwrap();
        let two = ServingMark::leave(&link.join("users.yml"), Path::new("/two")).unwrap();
        for path in [&users_file, &link.join("users.yml")] {
            let mut sockets: Vec<_> = found(path)
                .into_iter()
                .map(|server| server.socket)
                .collect();
            sockets.sort();
            assert_eq!(sockets, [Path::new("/one"), Path::new("/two")]);
        }
        let mode = fs::metadata(&one.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others may lock it");
        assert_eq!(found(&directory.path().join("real/other.yml")), []);

        // Killed: its mark stays, and its lock is free.
        let stale = directory
            .path()
            .join("real/users.yml.serving-0123456789abcdef");
        fs::write(&stale, "/gone").unwrap();
        fs::write(directory.path().join("real/users.yml.serving-x"), "").unwrap();
        drop(two);
        let left = found(&users_file);
        assert_eq!(left.len(), 1);
        assert_eq!(
            (left[0].id.as_str(), left[0].socket.as_path()),
            (one.id(), Path::new("/one"))
        );
        assert!(!stale.exists());
        assert!(one.is_beside(&link.join("users.yml")));

        // The directory moves under the server.
        fs::rename(
            directory.path().join("real"),
            directory.path().join("moved"),
        )
        .unwrap();
        let moved = directory.path().join("moved/users.yml");
        assert_eq!(found(&moved), left);
        assert!(!one.is_beside(&moved));
    }
}
