//! Where a relative path in a config file starts.
//!
//! distribution and `docker_auth` start at the working directory; a path in a config file often means the
//! directory of that file. Must not know any key. Invariant: a path that means two existing places is never decided silently:
//! serving the wrong one would look like an empty registry.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// `relative_paths`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RelativePaths {
    /// Not said: the one of the two places that exists.
    Unclear,
    /// The directory of the config file that has the path, as `up` writes it: the directory can be moved.
    ConfigDirectory,
    /// The directory in which the program was started.
    WorkingDirectory,
}

/// What a relative path means; all paths are absolute.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    /// The same to every process.
    One(PathBuf),
    /// Another one to a process with another working directory.
    ByWorkingDirectory(PathBuf),
    /// Nothing exists at either place.
    Neither { working: PathBuf, config: PathBuf },
    /// Something exists at both.
    Both { working: PathBuf, config: PathBuf },
}

/// Where `path` of the config file `file`, or of a variable, leads.
pub(super) fn choose(
    path: &Path,
    file: Option<&Path>,
    relative_paths: RelativePaths,
) -> io::Result<Chosen> {
    let working = absolute(path)?;
    let Some(file) = file else {
        return Ok(Chosen::ByWorkingDirectory(working));
    };
    let config = absolute(&crate::durable_file::directory_of(file).join(path))?;
    Ok(match relative_paths {
        RelativePaths::ConfigDirectory => Chosen::One(config),
        RelativePaths::WorkingDirectory => Chosen::ByWorkingDirectory(working),
        RelativePaths::Unclear => match (exists(&config), exists(&working)) {
            _ if is_same(&config, &working) => Chosen::One(config),
            (true, false) => Chosen::One(config),
            (false, true) => Chosen::ByWorkingDirectory(working),
            (false, false) => Chosen::Neither { working, config },
            (true, true) => Chosen::Both { working, config },
        },
    })
}

/// Without `.` in it.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    std::path::absolute(path).map(|path| path.components().collect())
}

/// What cannot be looked at may be there.
fn exists(path: &Path) -> bool {
    !fs::symlink_metadata(path).is_err_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    })
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| {
        // Of what does not exist yet, the directory decides.
        fs::canonicalize(path).or_else(|_| {
            let directory = fs::canonicalize(crate::durable_file::directory_of(path))?;
            io::Result::Ok(directory.join(path.file_name().unwrap_or_default()))
        })
    };
    one == other || matches!((real(one), real(other)), (Ok(one), Ok(other)) if one == other)
}
