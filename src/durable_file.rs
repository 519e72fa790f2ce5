//! Files that are complete or absent, also after a crash, and directories that only their owner may enter.
//!
//! Must not know what the files contain. Invariant: a file is never readable by more users than its mode says, not even
//! while it is written. Its name leads to the old content or to the new content, on disk. Its owner stays the same.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::platform;

/// A directory that only its owner may enter.
const PRIVATE_DIRECTORY: u32 = 0o700;
/// A file that only its owner may open.
pub const PRIVATE_FILE: u32 = 0o600;
/// All permissions of other users.
const OTHERS: u32 = 0o077;
/// Set on directories that all users share, such as `/tmp`.
const STICKY: u32 = 0o1000;

/// Writes `bytes` to a temporary file next to `path`, syncs it, and renames it. The temporary name is always the same, so
/// there must be only one writer.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // Left by a crash, with any mode, or a link that somebody put there. Never write through it.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)?;
    keep_owner(path, &file)?;
    // The umask reduces the mode above. A public file must be readable under any umask.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_directory(directory_of(path))
}

/// Writes `bytes` to a new file. Whatever has this name already stays as it is, and is an error of the kind `AlreadyExists`. A
/// file that cannot be written whole is removed again.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    let written = give_to_owner_of(directory_of(path), &file)
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.sync_all());
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(path);
        return written;
    }
    sync_directory(directory_of(path))
}

/// Makes the names in a directory durable, if the file system can.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    accept_unsyncable(path, File::open(path)?.sync_all())
}

/// The result of syncing the directory at `path`. Some file systems cannot sync directories and return an error (CIFS,
/// shared folders of virtual machines, some of FUSE and SMB). The disk has not failed then, and the registry should run.
/// Only the first directory causes a warning.
pub fn accept_unsyncable(path: &Path, synced: io::Result<()>) -> io::Result<()> {
    static IS_WARNED: AtomicBool = AtomicBool::new(false);
    match synced {
        Err(error) if is_unsupported(&error) => {
            if !IS_WARNED.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    directory = %path.display(),
                    error = %error,
                    "the file system cannot sync a directory; after a power cut, names of files that were acknowledged may be missing; hint: keep the data on a local file system"
                );
            }
            Ok(())
        }
        synced => synced,
    }
}

/// Whether an error of a sync means that the call is not supported here: the same list as in Syncthing and Borg.
fn is_unsupported(error: &io::Error) -> bool {
    // Two of them are the same on Linux.
    let answers = [
        Errno::INVAL,
        Errno::NOTSUP,
        Errno::OPNOTSUPP,
        Errno::NOSYS,
        Errno::BADF,
        Errno::NOTTY,
    ];
    Errno::from_io_error(error).is_some_and(|errno| answers.contains(&errno))
}

/// A file that root replaces must stay readable for the server, which runs as another user. Only root can change the owner,
/// and only root needs to.
fn keep_owner(path: &Path, new: &File) -> io::Result<()> {
    if platform::effective_user_id() != 0 {
        return Ok(());
    }
    // The owner of a link, not of its target: the link is replaced. A new file gets the owner of its directory.
    let owner = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::metadata(directory_of(path))?,
        old => old?,
    };
    fchown(new, Some(owner.uid()), Some(owner.gid()))
}

/// Creates a directory that only its owner may enter, with its parents (whose mode follows the umask). An existing
/// directory is closed to other users.
pub fn make_private_directory(path: &Path) -> io::Result<()> {
    if make_private(path)? & OTHERS != 0 {
        fs::set_permissions(path, Permissions::from_mode(PRIVATE_DIRECTORY))?;
        note_closed(path, PRIVATE_DIRECTORY);
    }
    Ok(())
}

/// The same for a directory that may also be shared or belong to another user: it is left unchanged, with a warning.
pub fn make_private_directory_if_ours(path: &Path) -> io::Result<()> {
    let mode = make_private(path)?;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let is_ours = fs::metadata(path)?.uid() == platform::effective_user_id();
    if is_ours && mode & STICKY == 0 {
        fs::set_permissions(path, Permissions::from_mode(PRIVATE_DIRECTORY))?;
        note_closed(path, PRIVATE_DIRECTORY);
    } else {
        tracing::warn!(path = %path.display(), "other users may enter this directory; hint: use a directory for Boathouse alone, with mode 0700");
    }
    Ok(())
}

/// Creates the directory if it is missing, and returns its mode.
fn make_private(path: &Path) -> io::Result<u32> {
    fs::create_dir_all(directory_of(path))?;
    match DirBuilder::new().mode(PRIVATE_DIRECTORY).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(metadata.permissions().mode())
}

/// Opens the lock file at `path`; creates it if it is missing. A user who can open the file can lock it and make its owner
/// wait, so only the owner may. A file that an earlier version left open to other users is closed to them.
pub fn open_lock(path: &Path) -> io::Result<File> {
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE_FILE)
        .open(path)?;
    if lock.metadata()?.permissions().mode() & OTHERS != 0 {
        lock.set_permissions(Permissions::from_mode(PRIVATE_FILE))?;
        note_closed(path, PRIVATE_FILE);
    }
    Ok(lock)
}

/// An earlier version created it for all users of the machine.
fn note_closed(path: &Path, mode: u32) {
    tracing::info!(path = %path.display(), mode = %format_args!("{mode:04o}"), "other users could open this file; its mode was corrected");
}

/// Gives a file that root has created to the owner of the file at `path`, so that a server that runs as that user can open
/// it. Only root can change the owner, and only root needs to.
pub fn give_to_owner_of(path: &Path, new: &File) -> io::Result<()> {
    keep_owner(path, new)
}

/// The directory of `path`; a bare name is in the current directory.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_written_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let victim = directory.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join("key.new")).unwrap();
        replace(&path, b"one", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read(&victim).unwrap(), b"kept");
        fs::write(directory.path().join("key.new"), "of a crash").unwrap();
        replace(&path, b"two", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(mode(&path), 0o644);
        assert!(!directory.path().join("key.new").exists());
    }

    #[test]
    fn a_new_file_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create(&path, b"one", 0o644).unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), mode(&path)),
            (b"one".to_vec(), 0o644)
        );
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
        for taken in [&path, &link] {
            let error = create(taken, b"two", 0o600).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert!(!directory.path().join("nowhere").exists());
    }

    #[test]
    fn a_directory_is_made_private_or_closed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/keys");
        make_private_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        make_private_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        make_private_directory_if_ours(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o1777)).unwrap();
        make_private_directory_if_ours(&path).unwrap();
        assert_eq!(mode(&path), 0o777, "of everybody: not ours to close");
    }

    #[test]
    fn a_lock_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        open_lock(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        open_lock(&path).unwrap();
        assert_eq!(mode(&path), 0o600, "of an earlier version");
    }

    #[test]
    fn a_directory_that_cannot_be_synced_is_not_a_broken_disk() {
        let after = |errno: Errno| accept_unsyncable(Path::new("d"), Err(errno.into()));
        for errno in [Errno::INVAL, Errno::NOTSUP, Errno::NOSYS, Errno::BADF] {
            assert!(after(errno).is_ok(), "{errno}");
        }
        for errno in [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::ROFS] {
            assert!(after(errno).is_err(), "{errno}");
        }
    }

    #[test]
    fn a_bare_name_lies_in_the_current_directory() {
        assert_eq!(directory_of(Path::new("users.yml")), Path::new("."));
        assert_eq!(directory_of(Path::new("/a/b")), Path::new("/a"));
    }
}
