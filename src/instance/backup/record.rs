//! What a backup holds: a record of the whole, and a list of its files.
//!
//! The lists have the format of `sha256sum` and `sha512sum`, so that a backup can be checked without this program. Invariant: a
//! backup with a record is complete, and the record has the digests of the lists.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::PRIVATE_DIRECTORY;
use super::files::{Target, digest_of};
use crate::durable_file::PRIVATE_FILE;
use crate::oci::{Algorithm, Digest};

/// The name of the record.
pub(super) const RECORD: &str = "backup.json";

/// The only format so far.
const FORMAT: u32 = 1;

/// The lists, by the algorithm of the digests in them.
const LISTS: [(Algorithm, &str); 2] = [
    (Algorithm::Sha256, "SHA256SUMS"),
    (Algorithm::Sha512, "SHA512SUMS"),
];

/// What a complete backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Of the backup.
    pub(super) format: u32,
    /// The version of the program that made it.
    pub(crate) version: String,
    /// When it was complete (RFC 3339, UTC).
    pub(crate) completed: String,
    /// Which installation it is of.
    pub(super) installation: Option<String>,
    /// Whether it is on the disk of the data.
    pub(crate) same_disk: bool,
    /// Repositories.
    pub(crate) repositories: u64,
    /// Their links: tags, manifests, blobs.
    pub(crate) links: u64,
    /// Different blobs and manifests.
    pub(crate) blobs: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// What could not be copied, because it is damaged or missing in the installation.
    pub(crate) damaged: Vec<String>,
    /// The digests of the lists.
    pub(super) sums: Vec<String>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            completed: String::new(),
            installation: None,
            same_disk: false,
            repositories: 0,
            links: 0,
            blobs: 0,
            bytes: 0,
            damaged: Vec::new(),
            sums: Vec::new(),
        }
    }
}

impl Record {
    /// Of the backup in a directory; `None` if none was completed there.
    pub(super) fn read(directory: &Path) -> anyhow::Result<Option<Self>> {
        let path = directory.join(RECORD);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let unknown = || {
            format!(
                "{} is not the record of a backup that this version can read\nhint: use the version that made it, or a newer one",
                path.display()
            )
        };
        let record: Self = serde_json::from_slice(&text).with_context(unknown)?;
        if record.format != FORMAT {
            bail!(unknown());
        }
        Ok(Some(record))
    }

    /// Writes it, with the time of now.
    pub(super) fn write(&self, target: &Target, directory: &Path) -> io::Result<()> {
        let now = OffsetDateTime::now_utc().truncate_to_second();
        let record = Self {
            completed: now.format(&Rfc3339).map_err(io::Error::other)?,
            ..self.clone()
        };
        let mut text = serde_json::to_vec_pretty(&record)?;
        text.push(b'\n');
        target.write(
            &directory.join(RECORD),
            &text,
            PRIVATE_FILE,
            PRIVATE_DIRECTORY,
        )
    }

    /// Calls `visit` with the digest and the path of each file, in the order in which they were written, after the lists were
    /// found to be those of the record. `visit` gets as many at once as are good to have in memory.
    pub(super) fn each_file(
        &self,
        directory: &Path,
        mut visit: impl FnMut(Vec<(Digest, String)>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        const FILES_AT_ONCE: usize = 4_096;
        for ((algorithm, name), sum) in LISTS.iter().zip(&self.sums) {
            let path = directory.join(name);
            let cannot = || format!("cannot read {}", path.display());
            let (found, _) = digest_of(&path, Algorithm::Sha256).with_context(cannot)?;
            if found.to_string() != *sum {
                bail!(
                    "{} is damaged: it is not the list that {RECORD} is about",
                    path.display()
                );
            }
            let mut files = Vec::new();
            for line in BufReader::new(File::open(&path).with_context(cannot)?).lines() {
                let line = line.with_context(cannot)?;
                let file = line.split_once("  ").and_then(|(hex, file)| {
                    let digest = Digest::from_parts(*algorithm, hex).ok()?;
                    is_below(file).then(|| (digest, file.to_owned()))
                });
                let Some(file) = file else {
                    bail!(
                        "{} is damaged: a line in it cannot be understood",
                        path.display()
                    );
                };
                files.push(file);
                if files.len() >= FILES_AT_ONCE {
                    visit(std::mem::take(&mut files))?;
                }
            }
            visit(files)?;
        }
        Ok(())
    }
}

/// Whether a path of a list stays in the directory.
fn is_below(file: &str) -> bool {
    file.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The lists as they are written.
pub(super) struct Sums([BufWriter<File>; 2]);

impl Sums {
    pub(super) fn create(target: &Target, directory: &Path) -> io::Result<Self> {
        let create = |(_, name): &(Algorithm, &str)| {
            let file = target.create(&directory.join(name), PRIVATE_FILE, PRIVATE_DIRECTORY)?;
            io::Result::Ok(BufWriter::new(file))
        };
        let [sha256, sha512] = &LISTS;
        Ok(Self([create(sha256)?, create(sha512)?]))
    }

    /// Adds a file.
    pub(super) fn add(&mut self, digest: &Digest, relative: &Path) -> io::Result<()> {
        let [sha256, sha512] = &mut self.0;
        let list = match digest.algorithm() {
            Algorithm::Sha256 => sha256,
            Algorithm::Sha512 => sha512,
        };
        writeln!(list, "{}  {}", digest.hex(), relative.display())
    }

    /// Completes the lists; returns the digest of each.
    pub(super) fn finish(self, target: &Target, directory: &Path) -> io::Result<Vec<String>> {
        for mut list in self.0 {
            list.flush()?;
        }
        let digest = |(_, name): &(Algorithm, &str)| {
            let (digest, _) = digest_of(&target.path(directory.join(name)), Algorithm::Sha256)?;
            Ok(digest.to_string())
        };
        LISTS.iter().map(digest).collect()
    }
}
