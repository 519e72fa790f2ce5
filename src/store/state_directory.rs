//! The directory beside the data: the lock of the running instance, its secret, and whether the data were taken over from
//! another registry.
//!
//! Must not know what the secret is used for. Invariants: nothing but the lock file is written before the lock is held, and
//! it is held for as long as the value lives; a secret, once there, is never replaced; a takeover is on the disk before
//! anything is written by which a later start would take the data for our own.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::Clock;
use crate::durable_file;
use crate::layout::{OWN_DIRECTORY, repositories_directory, unfinished_move};
use crate::oci::RepositoryName;
use crate::store::StoreError;
use crate::store::shared_state::SharedState;

/// The length of the secret: that of the output of the hash it keys.
pub const SECRET_BYTES: usize = 32;

/// Says that the data held repositories when we first opened them, and since when.
const TAKEN_OVER: &str = "taken-over";

/// Of the directory that the store makes at its first start, in its own directory.
const TEMPORARY: &str = "tmp";

/// Of the file that is locked.
const LOCK: &str = "lock";

/// Of the secret.
const SECRET: &str = "secret";

/// All may read it: it holds a time and a version.
const PUBLIC_FILE: u32 = 0o644;

/// A locked state directory.
pub struct StateDirectory {
    path: PathBuf,
    secret: [u8; SECRET_BYTES],
    is_taken_over: bool,
    /// Unlocked by the system when it is closed, however the process ends.
    _lock: File,
}

impl StateDirectory {
    /// Takes the lock in the directory at `path` (made if it is missing), then reads the secret, or makes one.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateDirectoryError> {
        let path = path.into();
        let lock = lock(&path)?;
        Self::with_secret(path, lock)
    }

    /// [`StateDirectory::open`] in the directory of the data. A first start on the data of another registry is recorded
    /// before the secret is made, so a start that was killed half-way does not count.
    pub fn open_beside(
        root_directory: &Path,
        clock: &dyn Clock,
    ) -> Result<Self, StateDirectoryError> {
        let path = root_directory.join(OWN_DIRECTORY);
        let lock = lock(&path)?;
        if root_directory.join(unfinished_move().as_str()).exists() {
            return Err(StateDirectoryError::UnfinishedMove);
        }
        let is_first_start = !path.join(SECRET).exists() && !path.join(TEMPORARY).exists();
        if is_first_start && holds_repositories(root_directory)? {
            record_takeover(&path, clock)
                .map_err(|source| failed("record the takeover in", &path, source))?;
        }
        Self::with_secret(path, lock)
    }

    fn with_secret(path: PathBuf, lock: File) -> Result<Self, StateDirectoryError> {
        let secret = match fs::read(path.join(SECRET)) {
            Ok(bytes) => {
                bytes
                    .try_into()
                    .map_err(|bytes: Vec<u8>| StateDirectoryError::BadSecret {
                        path: path.join(SECRET),
                        length_bytes: bytes.len(),
                    })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_secret(&path).map_err(|source| failed("write the secret in", &path, source))?
            }
            Err(source) => return Err(failed("read the secret in", &path, source)),
        };
        Ok(Self {
            is_taken_over: path.join(TAKEN_OVER).exists(),
            path,
            secret,
            _lock: lock,
        })
    }

    /// Takes the lock in the directory at `path` (made if it is missing), for data in a bucket.
    pub fn lock(path: &Path) -> Result<File, StateDirectoryError> {
        lock(path)
    }

    /// The directory at `path`, locked by `lock`, for data in a bucket: what is `shared` is there.
    pub fn of_bucket(path: PathBuf, lock: File, shared: &SharedState) -> Self {
        Self {
            path,
            secret: shared.secret,
            is_taken_over: shared.is_taken_over,
            _lock: lock,
        }
    }

    /// The lock in the directory at `path`, where an instance has run before; nothing is made. `None` where none has: then none
    /// runs.
    pub fn lock_if_used(path: &Path) -> Result<Option<File>, StateDirectoryError> {
        match File::open(path.join(LOCK)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => {
                let lock = opened.map_err(|source| failed("open the lock in", path, source))?;
                hold(lock, path).map(Some)
            }
        }
    }

    /// Whether the data held repositories of another registry at our first start.
    pub fn is_taken_over(&self) -> bool {
        self.is_taken_over
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

fn failed(doing: &str, path: &Path, source: io::Error) -> StateDirectoryError {
    let doing = format!("{doing} {}", path.display());
    StateDirectoryError::Store(StoreError::from_io(doing, source))
}

fn lock(path: &Path) -> Result<File, StateDirectoryError> {
    durable_file::make_private_directory_if_ours(path)
        .map_err(|source| failed("make the directory", path, source))?;
    let lock = durable_file::open_lock(&path.join(LOCK))
        .map_err(|source| failed("open the lock in", path, source))?;
    hold(lock, path)
}

fn hold(lock: File, path: &Path) -> Result<File, StateDirectoryError> {
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StateDirectoryError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed("lock", path, source)),
    }
}

/// Whether there is a directory that can be a repository, or a part of its name (no `lost+found`).
fn holds_repositories(root_directory: &Path) -> Result<bool, StateDirectoryError> {
    let directory = root_directory.join(repositories_directory().as_str());
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(failed("look into", &directory, source)),
    };
    for entry in entries {
        let entry = entry.map_err(|source| failed("look into", &directory, source))?;
        let name = entry.file_name();
        let name = name.to_str().map(str::parse::<RepositoryName>);
        if matches!(name, Some(Ok(_))) && entry.path().is_dir() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn record_takeover(path: &Path, clock: &dyn Clock) -> io::Result<()> {
    let now = OffsetDateTime::from(clock.now()).truncate_to_second();
    let now = now.format(&Rfc3339).map_err(io::Error::other)?;
    let record = format!(
        "{now} boathouse {} took over the data of another registry\n",
        env!("CARGO_PKG_VERSION")
    );
    durable_file::replace(&path.join(TAKEN_OVER), record.as_bytes(), PUBLIC_FILE)?;
    tracing::info!(
        record = %path.join(TAKEN_OVER).display(),
        "taking over the data of another registry"
    );
    Ok(())
}

/// A new secret, durable before anything can be signed with it.
fn make_secret(directory: &Path) -> io::Result<[u8; SECRET_BYTES]> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    durable_file::replace(&directory.join(SECRET), &secret, durable_file::PRIVATE_FILE)?;
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
    /// The store is the destination of a move that has not ended.
    #[error("the data are an incomplete copy: `boathouse move` has not finished here")]
    UnfinishedMove,
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
            Self::InUse { .. } => Some("stop the other instance first"),
            Self::BadSecret { .. } => Some(
                "restore the file from a backup, or remove it: a new one is made, all logins and uploads in progress end",
            ),
            Self::UnfinishedMove => Some(
                "stop the server on the old data, and run `boathouse move` again: it goes on where it was",
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
    use crate::clock::ManualClock;
    use crate::layout::Prefix;

    fn open_beside(root: &Path) -> Result<StateDirectory, StateDirectoryError> {
        StateDirectory::open_beside(root, &ManualClock::at_unix_secs(1_800_000_000))
    }

    fn make(root: &Path, directory: &str) {
        let repositories: Prefix = repositories_directory();
        fs::create_dir_all(root.join(repositories.as_str()).join(directory)).unwrap();
    }

    #[test]
    fn a_takeover_is_recorded_at_the_first_start_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), "team/app");
        assert!(open_beside(directory.path()).unwrap().is_taken_over());
        let record = directory.path().join("boathouse/taken-over");
        let record = fs::read_to_string(record).unwrap();
        assert!(
            record.starts_with("2027-01-15T08:00:00Z boathouse "),
            "{record}"
        );
        assert!(open_beside(directory.path()).unwrap().is_taken_over());
    }

    #[test]
    fn what_was_pushed_here_is_not_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), "lost+found");
        fs::write(
            directory
                .path()
                .join("docker/registry/v2/repositories/file"),
            "",
        )
        .unwrap();
        assert!(!open_beside(directory.path()).unwrap().is_taken_over());
        make(directory.path(), "app");
        assert!(!open_beside(directory.path()).unwrap().is_taken_over());
        // As people are told to who have lost it.
        fs::create_dir(directory.path().join("boathouse/tmp")).unwrap();
        fs::remove_file(directory.path().join("boathouse/secret")).unwrap();
        assert!(!open_beside(directory.path()).unwrap().is_taken_over());
    }

    #[test]
    fn a_first_start_that_was_killed_half_way_is_still_a_takeover() {
        // What is on the disk after each of its steps, but for the last.
        for left in [&[][..], &["lock"], &["lock", "taken-over.new"]] {
            let directory = tempfile::tempdir().unwrap();
            make(directory.path(), "app");
            let own = directory.path().join(OWN_DIRECTORY);
            fs::create_dir(&own).unwrap();
            for name in left {
                fs::write(own.join(name), "").unwrap();
            }
            let is_taken_over = open_beside(directory.path()).unwrap().is_taken_over();
            assert!(is_taken_over, "a takeover was forgotten after {left:?}");
        }
    }

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
        let in_use = StateDirectory::lock_if_used(directory.path());
        assert!(matches!(in_use, Err(StateDirectoryError::InUse { .. })));
        drop(first);
        let lock = StateDirectory::lock_if_used(directory.path()).unwrap();
        assert!(lock.is_some() && StateDirectory::open(directory.path()).is_err());
        drop(lock);
        StateDirectory::open(directory.path()).unwrap();
        let unused = directory.path().join("unused");
        assert!(StateDirectory::lock_if_used(&unused).unwrap().is_none());
        assert!(!unused.exists());
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
