//! A backup back into an installation.
//!
//! Must not know who asks, nor print anything. Invariants: only what is in the list of the backup is restored, and only bytes
//! that have the digest in it; the configuration comes last, so that an interrupted restore is not taken for an installation.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, anyhow, bail};

use super::files::{CopyError, Durable, Target, for_each};
use super::record::Record;
use super::{CONFIG, FINISHED, PRIVATE_DIRECTORY, UNFINISHED, finish, lock};
use crate::config::{self, Relocated};
use crate::durable_file;
use crate::instance::places::Places;
use crate::layout::OWN_DIRECTORY;
use crate::oci::Digest;
use crate::platform;
use crate::registry::{Progress, Tell};

/// Is in the directory as long as the restore is not complete.
const MARK: &str = ".restoring";

/// What was restored.
#[derive(Debug)]
pub(crate) struct Restored {
    /// What the backup says about itself.
    pub(crate) record: Record,
    /// Files of the data that are missing or damaged in the backup, and were left out.
    pub(crate) damaged: Vec<String>,
}

/// Restores the backup in `backup` to `places`, which must be absent or empty, or what an interrupted restore left.
pub(crate) fn restore(backup: &Path, places: &Places, tell: Tell<'_>) -> anyhow::Result<Restored> {
    let nothing = || {
        anyhow!(
            "there is no backup in {}\nhint: name the directory that `boathouse backup` was given",
            backup.display()
        )
    };
    if !backup.is_dir() {
        return Err(nothing());
    }
    if backup.join(FINISHED).exists() {
        finish(&Target::at(backup)?, backup)?;
    }
    let _reading = lock(backup)?;
    let Some(record) = Record::read(backup)? else {
        if backup.join(UNFINISHED).exists() {
            bail!(
                "the backup in {} was never completed\nhint: run `boathouse backup` again, it goes on where it was; or restore another backup",
                backup.display()
            );
        }
        return Err(nothing());
    };
    let config_directory = durable_file::directory_of(&places.config);
    let mut directories = vec![config_directory, &places.state_directory];
    directories.dedup();
    for directory in &directories {
        refuse_others(directory)?;
    }
    let mut locks = Vec::new();
    for directory in &directories {
        let target = Target::at(directory).with_context(|| cannot_write(directory))?;
        locks.push(lock(directory)?);
        target
            .write(
                Path::new(MARK),
                b"",
                durable_file::PRIVATE_FILE,
                PRIVATE_DIRECTORY,
            )
            .and_then(|()| durable_file::sync_directory(directory))
            .with_context(|| cannot_write(directory))?;
    }
    let target = |directory: &Path| Target::at(directory).with_context(|| cannot_write(directory));
    let copies = Copies {
        backup,
        config: target(config_directory)?,
        data: target(&places.state_directory)?,
        data_mode: fs::metadata(backup.join(Relocated::DATA))
            .map_or(PRIVATE_DIRECTORY, |data| data.mode()),
        damaged: Mutex::default(),
    };
    let mut config = None;
    let (mut done, total) = (0, Some(record.links + record.blobs));
    record.each_file(backup, |mut files| {
        files.retain(|(digest, file)| {
            let is_config = file == CONFIG;
            if is_config {
                config = Some(*digest);
            }
            !is_config
        });
        for_each(&files, |(digest, file)| copies.copy(digest, file))?;
        done += files.len() as u64;
        tell(Progress { done, total });
        Ok(())
    })?;
    let Some(config) = config else {
        bail!("the backup in {} has no configuration", backup.display());
    };
    let sync = || -> anyhow::Result<()> {
        for directory in &directories {
            platform::sync_file_system(directory).with_context(|| cannot_write(directory))?;
        }
        Ok(())
    };
    // A store without any image has its directory all the same.
    copies
        .data
        .make_directory(Path::new(Relocated::DATA), copies.data_mode)
        .with_context(|| cannot_write(&places.data))?;
    sync()?;
    copies.copy_config(&config, places)?;
    sync()?;
    for directory in &directories {
        fs::remove_file(directory.join(MARK))
            .and_then(|()| durable_file::sync_directory(directory))
            .with_context(|| cannot_write(directory))?;
    }
    let mut damaged = copies
        .damaged
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    damaged.sort();
    Ok(Restored { record, damaged })
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

struct Copies<'a> {
    backup: &'a Path,
    config: Target,
    /// Of the directory that the data's is in.
    data: Target,
    data_mode: u32,
    damaged: Mutex<Vec<String>>,
}

impl Copies<'_> {
    fn copy(&self, digest: &Digest, file: &str) -> anyhow::Result<()> {
        let (source, relative) = (self.backup.join(file), PathBuf::from(file));
        let is_of_data = relative.starts_with(Relocated::DATA);
        let is_open =
            is_of_data && !relative.starts_with(Path::new(Relocated::DATA).join(OWN_DIRECTORY));
        let directory_mode = if is_open {
            self.data_mode
        } else {
            PRIVATE_DIRECTORY
        };
        let target = if is_of_data { &self.data } else { &self.config };
        let copied = target.copy(&source, &relative, digest, Durable::Later, directory_mode);
        let problem = match copied {
            Ok((found, _)) if found == *digest => return Ok(()),
            Ok(_) => anyhow!("{file}: its bytes are not those of the backup's list"),
            Err(CopyError::Read(error)) => anyhow!("{file}: {error}"),
            Err(CopyError::Write(error)) => {
                return Err(error)
                    .with_context(|| format!("cannot write {}", target.path(&relative).display()));
            }
        };
        if !is_of_data {
            return Err(problem).context("the backup is damaged\nhint: restore another one");
        }
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.push(problem.to_string());
        Ok(())
    }
}

impl Copies<'_> {
    /// The configuration, which says where the data are.
    fn copy_config(&self, digest: &Digest, places: &Places) -> anyhow::Result<()> {
        if places.state_directory == durable_file::directory_of(&places.config) {
            return self.copy(digest, CONFIG);
        }
        let path = self.backup.join(CONFIG);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if Digest::of(digest.algorithm(), text.as_bytes()) != *digest {
            bail!(
                "the backup is damaged: {CONFIG} is not that of its list\nhint: restore another one"
            );
        }
        let text = config::with_data_at(&text, &places.data, &places.state_directory)?;
        self.config
            .write(
                Path::new(CONFIG),
                text.as_bytes(),
                durable_file::PRIVATE_FILE,
                PRIVATE_DIRECTORY,
            )
            .with_context(|| cannot_write(&places.config))
    }
}

/// Only a directory that is absent or empty is restored to, or one in which a restore was interrupted.
fn refuse_others(directory: &Path) -> anyhow::Result<()> {
    let mut entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot read {}", directory.display()))?,
    };
    let is_other = |entry: io::Result<fs::DirEntry>| {
        entry.map_or(true, |entry| entry.file_name() != "lost+found")
    };
    if entries.any(is_other) && !directory.join(MARK).exists() {
        bail!(
            "{} is not empty, and a restore changes nothing that is there\nhint: name another directory, or empty this one",
            directory.display()
        );
    }
    Ok(())
}
