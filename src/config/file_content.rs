//! The content of a file that is followed, and what its metadata say of it.
//!
//! Must not know what the content means. Invariant: a content that was changed while it was read is not steady.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use super::error::{ConfigError, Place};
use super::yaml::TEXT_BYTES_MAX;

/// For how long a stamp must stay the same before it counts. The clocks of file systems tick every few milliseconds, the
/// coarsest (FAT) every 2 s.
pub(super) const SETTLING: Duration = Duration::from_secs(2);

/// What the metadata of a path say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Missing,
    There(Stamp),
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Look {
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Missing),
            metadata => Ok(Self::There(Stamp::from(&metadata?))),
        }
    }
}

/// A file as it was read.
pub(super) struct Content {
    pub(super) look: Look,
    /// `None` if there is no file.
    pub(super) bytes: Option<Vec<u8>>,
    /// Whether it stayed the same while it was read.
    pub(super) is_steady: bool,
}

impl Content {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let missing = Self {
            look: Look::Missing,
            bytes: None,
            is_steady: true,
        };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(missing),
            file => file.map_err(|error| unreadable(path, &error))?,
        };
        // Of the open file: what the path leads to may be another one by now, which the next look finds.
        let stamp = || file.metadata().map(|metadata| Stamp::from(&metadata));
        let mut bytes = Vec::new();
        let mut read = || {
            let before = stamp()?;
            // The parser refuses what is longer.
            (&file).take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
            Ok((before, stamp()?))
        };
        let (before, after) = read().map_err(|error: io::Error| unreadable(path, &error))?;
        Ok(Self {
            look: Look::There(before),
            bytes: Some(bytes),
            is_steady: before == after,
        })
    }
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    let place = Place::file(path);
    let message = format!("cannot be read: {}", error.kind());
    ConfigError::new(Some(&place), "", message)
        .hint("it must be a file that the user of Boathouse may read")
}
