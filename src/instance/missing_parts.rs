//! Whether a part of an installation is missing that was there before: its authority, its keys, its users, its data.
//!
//! Without this, a start where the disk of the data is not mounted, or where a backup was restored in part, would make an empty
//! store and an authority that no client trusts, and call that a success. Must not make anything but its own records.
//! Invariants: a part that a start needs and that was ever there is made again only if the command line asks for it; `serve`
//! never makes the directory of the data.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::config::{AuthConfig, Config, Signing, service_directory, shell_word};
use crate::durable_file;
use crate::layout::OWN_DIRECTORY;
use crate::store;
use crate::tls;

/// Which parts have been there, one a line; beside the data.
const RECORD: &str = "parts";

/// Names a directory of a service that is not on the disk of the data: systemd sets it for `StateDirectory=`.
const STATE_DIRECTORY_VARIABLE: &str = "STATE_DIRECTORY";

/// The data that this service has served, one a line: root directories and buckets; in the directory of [`STATE_DIRECTORY_VARIABLE`].
const SERVED_RECORD: &str = "served-data";

/// The variables of the process.
pub(crate) type Environment = BTreeMap<String, String>;

/// Which parts must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// All: `up` writes the config last.
    All,
    /// Those of which there are traces, and the root directory: with `serve`, other parts are made when they are first needed.
    Known,
    /// None: the first run, or `--recreate-missing`.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Authority,
    TokenKey,
    Users,
    Data,
}

impl Part {
    /// As it stands in the record and in messages.
    fn name(self) -> &'static str {
        match self {
            Self::Authority => "certificate authority",
            Self::TokenKey => "key for tokens",
            Self::Users => "users",
            Self::Data => "data",
        }
    }

    /// What a start with `--recreate-missing` makes in its place.
    fn replacement(self) -> &'static str {
        match self {
            Self::Authority => "an authority that every client must trust again",
            Self::TokenKey => "a new key for tokens (all tokens end)",
            Self::Users => "no accounts but, with `up`, a new admin",
            Self::Data => "an empty store",
        }
    }
}

/// Refuses a start without parts that must be there. `makes_new_authority`: none is needed.
pub(crate) fn refuse(
    config: &Config,
    environment: &Environment,
    expected: Expected,
    makes_new_authority: bool,
) -> anyhow::Result<()> {
    let record = match expected {
        Expected::None => return Ok(()),
        Expected::All => String::new(),
        Expected::Known => record_of(config),
    };
    let mut missing = Vec::new();
    for (part, paths) in parts(config) {
        let is_there = match part {
            Part::Data => paths.iter().any(|path| exists(path)),
            Part::Authority | Part::TokenKey | Part::Users => paths.iter().all(|path| exists(path)),
        };
        let is_expected = match (expected, part) {
            (_, Part::Authority) if makes_new_authority => false,
            (Expected::All, _) => true,
            (_, Part::Data) => has_traces_of_data(config, environment),
            (_, part) => has(&record, part),
        };
        if is_expected && !is_there {
            missing.push((part, paths));
        }
    }
    if missing.is_empty() {
        return refuse_missing_root(config);
    }
    let mut lines = vec!["this installation is not complete".to_owned()];
    let replacements: Vec<&str> = missing.iter().map(|(part, _)| part.replacement()).collect();
    let replacements = replacements.join(", ");
    // `up` writes one directory for all keys, into the section that must go for another certificate.
    let lost_with_tls = missing.iter().any(|(part, _)| *part == Part::TokenKey)
        && !matches!(config.tls, tls::Settings::Automatic { .. });
    for (part, paths) in missing {
        let paths: Vec<String> = match part {
            Part::Data => vec![config.storage.to_string()],
            Part::Authority | Part::TokenKey | Part::Users => {
                let gone = paths.iter().filter(|path| !exists(path));
                gone.map(|path| path.display().to_string()).collect()
            }
        };
        lines.push(format!("  missing: {} ({})", part.name(), paths.join(", ")));
    }
    if lost_with_tls {
        lines.push(
            "hint: if `tls` was removed from the file that `up` wrote, its `keys_directory` has the key: add \
             `certificate: keys/token.crt` and `key: keys/token.key` to the section `token`"
                .to_owned(),
        );
    }
    bail!(
        "{}\nhint: restore what is missing from a backup, or mount its disk, and start again\n\
         hint: --recreate-missing starts without it, with {replacements}",
        lines.join("\n")
    )
}

/// Refuses a root directory that does not exist: it may be on a disk that is not mounted, and the images of a new store would be
/// hidden once it is.
pub(crate) fn refuse_missing_root(config: &Config) -> anyhow::Result<()> {
    let root = match &config.storage {
        store::Settings::Filesystem { root_directory } => root_directory,
        // Whether a bucket exists is found out when it is opened.
        store::Settings::Bucket(_) => return Ok(()),
    };
    if exists(root) {
        return Ok(());
    }
    bail!(
        "the directory of the images is missing: {}\n\
         hint: if it is on a disk of its own, mount that; for a new store, as the user that Boathouse runs as: mkdir -p -m 750 {}",
        root.display(),
        shell_word(&root.to_string_lossy())
    )
}

/// Refuses to begin a store in a bucket that no instance has used, where this installation had one: the name of the bucket, its
/// `rootdirectory` or its endpoint may be wrong.
pub(crate) fn refuse_new_bucket(
    config: &Config,
    environment: &Environment,
    expected: Expected,
) -> anyhow::Result<()> {
    // Keys are no trace: a first run that did not reach its bucket has made them.
    let has_served =
        was_served(config, environment) || exists(&config.state_directory.join("index.state"));
    if expected != Expected::None && has_served {
        bail!(
            "the {} does not hold the data of this installation\n\
             hint: check `bucket`, `rootdirectory` and `regionendpoint` of storage.s3; --recreate-missing begins an empty store there",
            config.storage
        );
    }
    Ok(())
}

/// What to say of a root directory in which nothing was ever stored: it may be where a disk is to be mounted.
pub(crate) fn empty_root_warning(config: &Config) -> Option<String> {
    let root = match &config.storage {
        store::Settings::Filesystem { root_directory } => root_directory,
        store::Settings::Bucket(_) => return None,
    };
    let is_empty = !data_directories(root).iter().any(|path| exists(path));
    is_empty.then(|| {
        format!(
            "{} holds no images: a new store begins there; hint: if it held images before, its disk is not mounted: mount it and start again",
            root.display()
        )
    })
}

/// Refuses to make a users file where a server of this installation has had one: a new file would end all accounts of the lost
/// one, and forget its rules and revocations.
pub(crate) fn refuse_new_users_file(config: &Config, file: &Path) -> anyhow::Result<()> {
    if has(&record_of(config), Part::Users) && !exists(file) {
        bail!(
            "{} is missing, and this installation had it: a new one would end every account in it and forget its revocations; nothing was changed\n\
             hint: restore it from a backup; without one: boathouse user add admin --admin --recreate-missing",
            file.display()
        );
    }
    Ok(())
}

/// What to say where the accounts of a users file are shown that is missing: a running server goes on with others.
pub(crate) fn users_file_warning(auth: &AuthConfig) -> Option<String> {
    let file = auth.users_file.as_ref().filter(|file| !exists(file))?;
    Some(format!(
        "{} is missing, so its accounts and rules are not shown; a server that is running goes on with those that it read last\n\
         hint: restore it from a backup; without one: boathouse user add admin --admin --recreate-missing",
        file.display()
    ))
}

/// Which parts were there at the last start; a record that cannot be read proves nothing.
fn record_of(config: &Config) -> String {
    fs::read_to_string(record_path(config)).unwrap_or_default()
}

fn has(record: &str, part: Part) -> bool {
    record.lines().any(|line| line == part.name())
}

/// Remembers for later starts which parts there are now, and apart from the data that they were served.
pub(crate) fn remember(config: &Config, environment: &Environment) {
    let mut text = String::new();
    for (part, paths) in parts(config) {
        if part != Part::Data && paths.iter().all(|path| exists(path)) {
            text.push_str(part.name());
            text.push('\n');
        }
    }
    write_record(&record_path(config), &text);
    if let Some(path) = served_record_path(environment)
        && !was_served(config, environment)
    {
        let mut served = fs::read_to_string(&path).unwrap_or_default();
        served.push_str(&config.storage.to_string());
        served.push('\n');
        write_record(&path, &served);
    }
}

fn write_record(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|before| before == text) {
        return;
    }
    if let Err(error) = durable_file::replace(path, text.as_bytes(), durable_file::PRIVATE_FILE) {
        // A store that may only be read has no record, and what is missing there cannot be made again either.
        tracing::debug!(%error, path = %path.display(), "cannot write down which parts there are");
    }
}

/// Whether both halves of the authority are there, or neither.
pub(crate) fn is_half_an_authority(config: &Config) -> bool {
    parts(config).iter().any(|(part, paths)| {
        let there = paths.iter().filter(|path| exists(path)).count();
        *part == Part::Authority && there > 0 && there < paths.len()
    })
}

/// What this configuration needs, and where it lies.
fn parts(config: &Config) -> Vec<(Part, Vec<PathBuf>)> {
    let mut parts = Vec::new();
    if let tls::Settings::Automatic {
        ca_certificate,
        keys_directory,
        ..
    } = &config.tls
    {
        let mut paths = vec![ca_certificate.clone()];
        paths.extend(tls::authority_keys(ca_certificate, keys_directory));
        parts.push((Part::Authority, paths));
    }
    let keys = super::keys::keys_directory(config);
    if config.auth.signing == Signing::Own {
        let paths = ["token.crt", "token.key"].map(|name| keys.join(name));
        parts.push((Part::TokenKey, paths.to_vec()));
    }
    if let Some(file) = &config.auth.users_file {
        parts.push((Part::Users, vec![file.clone()]));
    }
    match &config.storage {
        store::Settings::Filesystem { root_directory } => {
            parts.push((Part::Data, data_directories(root_directory).to_vec()));
        }
        // See `refuse_new_bucket`.
        store::Settings::Bucket(_) => {}
    }
    parts
}

/// The layout of the old registry, and what we keep beside it. Data that were ever served have one of them.
fn data_directories(root: &Path) -> [PathBuf; 2] {
    ["docker", OWN_DIRECTORY].map(|name| root.join(name))
}

/// Whether something that is not with the data shows that they were served: a file that is made then, or the service's record.
fn has_traces_of_data(config: &Config, environment: &Environment) -> bool {
    if was_served(config, environment) {
        return true;
    }
    let keys = super::keys::keys_directory(config);
    let traces = [
        config.state_directory.join("index.state"),
        keys.join("ca.key"),
        keys.join("token.key"),
    ];
    let is_elsewhere = |path: &&PathBuf| match &config.storage {
        store::Settings::Filesystem { root_directory } => !path.starts_with(root_directory),
        store::Settings::Bucket(_) => true,
    };
    traces.iter().filter(is_elsewhere).any(|path| exists(path))
}

/// Whether the service that this process runs as has served the data.
fn was_served(config: &Config, environment: &Environment) -> bool {
    let record = served_record_path(environment).and_then(|path| fs::read_to_string(path).ok());
    let served = config.storage.to_string();
    record.is_some_and(|record| record.lines().any(|line| line == served))
}

fn served_record_path(environment: &Environment) -> Option<PathBuf> {
    Some(service_directory(environment, STATE_DIRECTORY_VARIABLE)?.join(SERVED_RECORD))
}

fn record_path(config: &Config) -> PathBuf {
    config.own_directory().join(RECORD)
}

/// What cannot be looked at may be there; the start says why.
fn exists(path: &Path) -> bool {
    !fs::metadata(path).is_err_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    })
}
