//! The directory beside the data: the lock of the running instance, and its secret.
//!
//! Must not know what the secret is used for. Invariant: nothing but the lock file is written before the lock is held, and
//! it is held for as long as the value lives; a secret, once there, is never replaced.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::durable_file;
use crate::store::StoreError;

/// The length of the secret: that of the output of the hash it keys.
pub const SECRET_BYTES: usize = 32;

/// A locked state directory.
pub struct StateDirectory {
    path: PathBuf,
    secret: [u8; SECRET_BYTES],
    /// Unlocked by the system when it is closed, however the process ends.
    _lock: File,
}

impl StateDirectory {
    /// Takes the lock in the directory at `path` (made if it is missing), then reads the secret, or makes one.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateDirectoryError> {
        let path = path.into();
        let failed = |doing: &str| {
            let doing = format!("{doing} {}", path.display());
            move |source| StateDirectoryError::Store(StoreError::from_io(doing, source))
        };
        durable_file::make_private_directory_if_ours(&path)
            .map_err(failed("make the directory"))?;
        let lock =
            durable_file::open_lock(&path.join("lock")).map_err(failed("open the lock in"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateDirectoryError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        let secret = match fs::read(path.join("secret")) {
            Ok(bytes) => {
                bytes
                    .try_into()
                    .map_err(|bytes: Vec<u8>| StateDirectoryError::BadSecret {
                        path: path.join("secret"),
                        length_bytes: bytes.len(),
                    })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_secret(&path).map_err(failed("write the secret in"))?
            }
            Err(source) => return Err(failed("read the secret in")(source)),
        };
        Ok(Self {
            path,
            secret,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Random bytes that only this instance knows, the same at every start.
    pub fn secret(&self) -> &[u8; SECRET_BYTES] {
        &self.secret
    }
}

impl fmt::Debug for StateDirectory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret stays out of logs.
        formatter
            .debug_struct("StateDirectory")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// A new secret, durable before anything can be signed with it.
fn make_secret(directory: &Path) -> io::Result<[u8; SECRET_BYTES]> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    durable_file::replace(
        &directory.join("secret"),
        &secret,
        durable_file::PRIVATE_FILE,
    )?;
    Ok(secret)
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirectoryError {
    /// The lock is held.
    #[error("another instance is running on {}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The secret is not one of ours.
    #[error("{} holds {length_bytes} bytes, not {SECRET_BYTES}", path.display())]
    BadSecret {
        /// The file.
        path: PathBuf,
        /// What is in it.
        length_bytes: usize,
    },
    /// Something else.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StateDirectoryError {
    /// Whether the place can only be read: a read-only mount, or somebody else's.
    pub fn is_unwritable(&self) -> bool {
        let Self::Store(StoreError::Io { source, .. }) = self else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
        )
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::InUse { .. } => {
                Some("stop the other instance first, or let this one serve another directory")
            }
            Self::BadSecret { .. } => Some(
                "restore the file from a backup, or remove it: a new one is made, all logins and uploads in progress end",
            ),
            Self::Store(_) if self.is_unwritable() => Some(
                "let this user write there; or, to serve data that can only be read, set storage.maintenance.readonly.enabled: true, and state_directory to a place that can be written",
            ),
            Self::Store(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_secret_stays_the_same_and_is_readable_by_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("boathouse");
        let first = *StateDirectory::open(&path).unwrap().secret();
        let second = *StateDirectory::open(&path).unwrap().secret();
        assert_eq!(first, second);
        assert_ne!(first, [0; SECRET_BYTES]);
        let mode = |name| {
            let metadata = fs::metadata(path.join(name)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        assert_eq!(
            (mode("secret"), mode("lock"), mode(".")),
            (0o600, 0o600, 0o700)
        );
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(path.join("lock"), Permissions::from_mode(0o666)).unwrap();
        StateDirectory::open(&path).unwrap();
        let modes = (mode("lock"), mode("."));
        assert_eq!(modes, (0o600, 0o700), "of an earlier version");
    }

    #[test]
    fn a_second_instance_is_refused_while_the_first_lives() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(directory.path()).unwrap();
        let error = StateDirectory::open(directory.path()).unwrap_err();
        assert!(matches!(error, StateDirectoryError::InUse { .. }));
        assert!(error.hint().is_some());
        drop(first);
        StateDirectory::open(directory.path()).unwrap();
    }

    #[test]
    fn a_secret_of_the_wrong_length_is_an_error_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("secret"), "short").unwrap();
        let error = StateDirectory::open(directory.path()).unwrap_err();
        assert!(matches!(
            error,
            StateDirectoryError::BadSecret {
                length_bytes: 5,
                ..
            }
        ));
        let kept = fs::read(directory.path().join("secret")).unwrap();
        assert_eq!(kept, b"short");
    }
}
