//! `users.yml`: the users, rules and revocations that commands make; read and written here.
//!
//! Must not know why a user changes. Invariants: what is written reads back as the very same value, or nothing is written; a
//! reader sees the old file or the new one, whole; only the owner may read it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_saphyr::FlowMap;

use super::account_file::Parsed;
use super::accounts::{self, Account, Moment, RuleEntry};
use super::error::{ConfigError, ConfigErrors, Place};
use super::node::Node;
use super::{from_node, keys, known, yaml};
use crate::auth::{Accounts, RuleText, User};
use crate::durable_file;

/// A change takes milliseconds; who waits longer waits for a process that is stuck.
const LOCK_ATTEMPTS_MAX: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What a `users_file` holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsersFile {
    /// Accounts by name.
    pub users: BTreeMap<String, User>,
    /// Rules, which come after those of the configuration.
    pub acl: Vec<RuleText>,
    /// Accounts (of the configuration too) whose tokens from before that second are void.
    pub revoked: BTreeMap<String, u64>,
}

/// Why a `users_file` was not changed.
#[derive(Debug, thiserror::Error)]
pub enum UsersFileError {
    /// The file that is there cannot be read as one.
    #[error(transparent)]
    Content(#[from] ConfigErrors),
    /// The new content would not read back; a name or a pattern is too long, or too many.
    #[error(
        "{path}: this change cannot be written\nhint: shorten the name or the pattern (1,000 characters are safe)"
    )]
    Unwritable {
        /// The file.
        path: PathBuf,
    },
    /// Another command holds the lock and does not end.
    #[error(
        "{path}: another command has been changing this file for {} s; nothing was changed\nhint: end that command (`fuser {path}.lock` shows its process id), then run this one again",
        LOCK_PAUSE.as_millis() * u128::from(LOCK_ATTEMPTS_MAX) / 1_000
    )]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{path}: cannot {action} the file of users")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

#[cfg(test)]
thread_local! {
    static PARSES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The first line of the file.
const HEADER: &str = "# Users, rules and revocations, in addition to those of the configuration, whose rules come first.\n";

/// The file as it is written.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    users: BTreeMap<&'a str, FlowMap<Account>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    acl: Vec<RuleEntry>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    revoked: BTreeMap<&'a str, Moment>,
}

impl UsersFile {
    /// Reads the text of a `users_file`.
    pub fn parse(text: &str, source: &Place) -> Result<Self, ConfigErrors> {
        #[cfg(test)]
        PARSES.with(|count| count.set(count.get() + 1));
        let mut errors = ConfigErrors::default();
        let mut tree = Node::empty_map(source.clone());
        for document in yaml::documents(text, source)? {
            tree.merge(document, "", &mut errors);
        }
        known::check(&tree, keys::Scope::UsersFile, &mut errors);
        let users = tree
            .find("users")
            .map(|node| accounts::accounts(node, &mut errors));
        let acl = tree
            .find("acl")
            .map(|node| accounts::rules(node, &mut errors));
        let mut revoked = BTreeMap::new();
        for entry in tree.find("revoked").map_or(&[][..], Node::entries) {
            match from_node::read::<Moment>(&entry.value, &format!("revoked.{}", entry.key)) {
                Ok(moment) => {
                    revoked.insert(entry.key.clone(), moment.0);
                }
                Err(error) => errors.push(error),
            }
        }
        errors.or(Self {
            users: users.unwrap_or_default(),
            acl: acl.unwrap_or_default(),
            revoked,
        })
    }

    /// How often this thread has parsed such a text.
    #[cfg(test)]
    pub(crate) fn parses() -> usize {
        PARSES.with(std::cell::Cell::get)
    }

    /// Reads the file; one that is not there is empty.
    pub fn read(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read_if_there(path).map(Option::unwrap_or_default)
    }

    /// Reads the file, if there is one.
    pub fn read_if_there(path: &Path) -> Result<Option<Self>, ConfigErrors> {
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        Self::parse(&read_text(path)?, &Place::file(path)).map(Some)
    }

    /// The file as YAML. Every text is in quotes, so that none is taken for something else.
    pub fn render(&self) -> String {
        HEADER.to_owned() + &self.render_sections()
    }

    /// An account as it is written below `users:` of a config file: one line.
    pub fn entry(name: &str, password_hash: &str) -> String {
        format!(
            "  {}: {{password: {}}}\n",
            quoted(name),
            quoted(password_hash)
        )
    }

    /// Its sections, but for empty ones.
    pub(super) fn render_sections(&self) -> String {
        let users = self.users.iter();
        let revoked = self.revoked.iter();
        let written = Written {
            users: users
                .map(|(name, user)| (name.as_str(), FlowMap(Account::from(user))))
                .collect(),
            acl: self.acl.iter().map(RuleEntry::from).collect(),
            revoked: revoked
                .map(|(name, &moment)| (name.as_str(), Moment(moment)))
                .collect(),
        };
        let options = serde_saphyr::ser_options! {
            quote_all: true,
            prefer_block_scalars: false,
            compact_list_indent: false,
        };
        // `update` refuses to write what does not read back.
        serde_saphyr::to_string_with_options(&written, options).unwrap_or_default()
    }

    /// Reads the file, lets `change` alter it, and writes it: one change at a time, whole or not at all. If `change` refuses,
    /// the file stays as it is. Returns what `change` returned, and the new content as it was read back.
    ///
    /// A server that follows the file judges every later request by the new content (`account_file`).
    pub fn update<T, E: From<UsersFileError>>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<(T, Self), E> {
        let failed = |action| {
            move |source| UsersFileError::Io {
                path: path.to_owned(),
                action,
                source,
            }
        };
        // A link stays one, and leads to the new content.
        let real = real(path).map_err(failed("find"))?;
        let path = real.as_path();
        let _alone = Self::lock(path)?;
        let mut content = Self::read(path).map_err(UsersFileError::from)?;
        let result = change(&mut content)?;
        let text = content.render();
        let parsed = Self::parse(&text, &Place::file(path));
        let Some(written) = parsed.ok().filter(|parsed| parsed.same_as(&content)) else {
            let path = path.to_owned();
            return Err(UsersFileError::Unwritable { path }.into());
        };
        durable_file::replace(path, text.as_bytes(), 0o600).map_err(failed("write"))?;
        Ok((result, written))
    }

    /// Whether a server reads the file that was started by a version which does not follow it. Such a server holds the lock of
    /// a file beside it (`users.yml.serving-…`) for as long as it runs.
    pub fn is_read_by_an_older_server(path: &Path) -> Result<bool, UsersFileError> {
        let held = || -> io::Result<bool> {
            let path = real(path)?;
            let mut start = path.file_name().unwrap_or_default().to_owned();
            start.push(".serving-");
            for entry in fs::read_dir(durable_file::directory_of(&path))? {
                let entry = entry?;
                let name = entry.file_name();
                let is_mark = name.as_bytes().starts_with(start.as_bytes());
                if is_mark && entry.file_type()?.is_file() {
                    match File::open(entry.path())?.try_lock_shared() {
                        // Left by a server that was killed.
                        Ok(()) => {}
                        Err(TryLockError::WouldBlock) => return Ok(true),
                        Err(TryLockError::Error(error)) => return Err(error),
                    }
                }
            }
            Ok(false)
        };
        held().map_err(|source| UsersFileError::Io {
            path: path.to_owned(),
            action: "see which servers read",
            source,
        })
    }

    /// Keeps other changes of the file at `path` out. The lock is a file of its own: the rename replaces the file of users, and a
    /// lock would stay with the old one; any user who may read the directory could lock it.
    fn lock(path: &Path) -> Result<File, UsersFileError> {
        let failed = |source| UsersFileError::Io {
            path: path.to_owned(),
            action: "lock",
            source,
        };
        let lock = durable_file::open_lock(&Self::lock_path(path)).map_err(failed)?;
        durable_file::give_to_owner_of(path, &lock).map_err(failed)?;
        for _ in 0..LOCK_ATTEMPTS_MAX {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        let path = path.to_owned();
        Err(UsersFileError::Busy { path })
    }

    /// The file that is locked while the file at `path` is changed.
    pub fn lock_path(path: &Path) -> PathBuf {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        path.with_file_name(name)
    }

    /// Equal but for the places of the rules, which change with every edit.
    pub fn same_as(&self, other: &Self) -> bool {
        let acl = |file: &Self| -> Vec<RuleText> {
            file.acl.iter().map(RuleText::without_place).collect()
        };
        self.users == other.users && self.revoked == other.revoked && acl(self) == acl(other)
    }
}

/// The file itself, behind every link; one that does not exist yet by its real directory.
fn real(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = fs::canonicalize(durable_file::directory_of(path))?;
            Ok(directory.join(path.file_name().unwrap_or_default()))
        }
        real => real,
    }
}

/// The whole text of a configuration file, bounded.
pub(super) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let place = Place::file(path);
    let refused =
        |message: String, hint: &str| ConfigError::new(Some(&place), "", message).hint(hint);
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refused("no such file".to_owned(), "check the path"),
        kind => refused(
            format!("cannot be opened: {kind}"),
            "check the path and its permissions",
        ),
    })?;
    let mut bytes = Vec::new();
    file.take(yaml::TEXT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| {
            refused(
                format!("cannot be read: {}", error.kind()),
                "it must be an ordinary file",
            )
        })?;
    text(&bytes, &place).map(str::to_owned)
}

/// The text that `bytes` are.
pub(super) fn text<'a>(bytes: &'a [u8], place: &Place) -> Result<&'a str, ConfigError> {
    str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.iter().take(error.valid_up_to());
        let lines = valid.filter(|byte| **byte == b'\n').count();
        let line = u64::try_from(lines).unwrap_or(u64::MAX).saturating_add(1);
        ConfigError::new(Some(&place.at_line(line)), "", "not UTF-8")
            .hint("save the file in the UTF-8 encoding")
    })
}

/// What a server takes from the text of a `users_file`, beside the accounts of the configuration at `places`.
pub(super) fn parse_accounts(
    text: &str,
    source: &Place,
    places: &BTreeMap<String, Place>,
    has_others: bool,
) -> Result<Parsed, ConfigErrors> {
    let file = UsersFile::parse(text, source)?;
    let (mut warnings, mut errors) = (Vec::new(), ConfigErrors::default());
    for (name, account) in &file.users {
        if let Some(place) = places.get(name) {
            errors.push(
                ConfigError::new(
                    Some(place),
                    format!("users.{name}"),
                    "this user is in the users_file too",
                )
                .hint("remove one of the two"),
            );
        }
        accounts::check_password(name, account, Some(source), &mut warnings, &mut errors);
    }
    for name in file.revoked.keys() {
        if !file.users.contains_key(name) && !places.contains_key(name) && !has_others {
            warnings.push(format!(
                "{source}: revoked.{name}: there is no such user, so this has no effect"
            ));
        }
    }
    let acl = accounts::compiled(file.acl, &mut warnings, &mut errors);
    errors.or(Parsed {
        accounts: Accounts {
            users: file.users,
            acl,
            revoked: file.revoked,
            ..Accounts::default()
        },
        warnings,
        left_out: Vec::new(),
    })
}

/// A double-quoted YAML scalar in which everything but letters, digits and ASCII signs is escaped.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            ' ' => out.push(' '),
            _ if char.is_ascii_graphic() || (!char.is_ascii() && char.is_alphanumeric()) => {
                out.push(char);
            }
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\U{:08X}", u32::from(char));
            }
        }
    }
    out.push('"');
    out
}
