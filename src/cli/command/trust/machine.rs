//! The machine that is to trust: where its programs and directories are.
//!
//! Must not know what is put there. Invariant: every path that is read or changed for trust's sake goes through here, so that
//! a test (or a script that prepares the disk of another machine) can put all of it below another root.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::clients::Place;
use crate::platform;

/// Looked through before `PATH`: an ordinary user's `PATH` often lacks the directories of system programs, and what runs as
/// root should be the system's.
const PROGRAM_DIRECTORIES: [&str; 7] = [
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/opt/homebrew/bin",
];

/// This machine, or one whose disk lies below a directory.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Machine {
    root: PathBuf,
    home: Option<PathBuf>,
    program_directories: Vec<PathBuf>,
    /// Whether what is done here is done for every user.
    pub(super) is_for_everybody: bool,
    pub(super) is_macos: bool,
}

impl Machine {
    /// This machine, or what lies below `root`.
    pub(in crate::cli) fn below(root: Option<&Path>) -> Self {
        let home = env::var_os("HOME").map(PathBuf::from);
        let usual = PROGRAM_DIRECTORIES.iter().map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        Self {
            root: root.unwrap_or(Path::new("/")).to_owned(),
            home: home.filter(|home| home.is_absolute()),
            program_directories: usual.chain(env::split_paths(&path)).collect(),
            is_for_everybody: platform::effective_user_id() == 0,
            is_macos: platform::IS_MACOS,
        }
    }

    #[cfg(test)]
    pub(in crate::cli) fn for_tests(root: &Path, is_for_everybody: bool, is_macos: bool) -> Self {
        Self {
            root: root.to_owned(),
            home: Some("/home/ann".into()),
            program_directories: vec!["/usr/bin".into(), "/usr/sbin".into()],
            is_for_everybody,
            is_macos,
        }
    }

    /// Whether this is the running system and not a disk prepared for another.
    pub(in crate::cli) fn is_running(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where an absolute path is.
    pub(in crate::cli) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Where `place` is; `None` for a place of a user without a home.
    pub(super) fn place(&self, place: &Place) -> Option<PathBuf> {
        match place {
            Place::System(path) => Some(self.path(path)),
            Place::Home(below) => Some(self.path(self.home.as_ref()?.join(below))),
        }
    }

    /// Where a program is, if it is here.
    pub(in crate::cli) fn program(&self, name: impl AsRef<OsStr>) -> Option<PathBuf> {
        let name = Path::new(name.as_ref());
        self.program_directories
            .iter()
            .filter(|directory| directory.is_absolute())
            .map(|directory| self.path(directory.join(name)))
            .find(|path| path.is_file())
    }
}
