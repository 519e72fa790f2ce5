//! `auth.htpasswd`: the users of a file in Apache's format, as distribution takes them.
//!
//! Must not know how passwords are checked. Invariants: the file of now decides, without a reload; a file that has gone lets
//! nobody in; one that cannot be read leaves things as they were, and is spoken of once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::authentication::{AuthConfig, read_rules, warn_of_malformed};
use super::error::{ConfigError, Place};
use super::reader::Reader;
use super::users_file::read_text;
use super::yaml::TEXT_BYTES_MAX;
use crate::auth::{BCRYPT_COST_MAX, LiveUsers, Rule, RuleText, Scheme, User};

/// What stands for the rules where there are none.
const NO_RULES: &str =
    "Without `acl`, whoever is in the file may do everything, as in distribution.";

/// Reads the section, and with `acl` the rules that then govern.
pub(super) fn read(reader: &mut Reader<'_>, config: &mut AuthConfig) {
    for key in ["auth.token", "users", "users_file", "token"] {
        if reader.is_given(key) {
            reader.refuse(
                key,
                "cannot stand beside auth.htpasswd: who logs in, and how, would have two answers",
                "keep `auth.htpasswd`, or move its entries to `users` for tokens and for the commands that change users",
            );
        }
    }
    let realm = reader.text_if_set("auth.htpasswd.realm");
    let path = reader.path_if_set("auth.htpasswd.path");
    for (key, is_missing) in [
        ("auth.htpasswd.realm", realm.is_none()),
        ("auth.htpasswd.path", path.is_none()),
    ] {
        if is_missing {
            reader.refuse(key, "missing", "`auth.htpasswd` needs realm and path");
        }
    }
    if let Some(realm) = realm {
        config.scheme = Scheme::Basic { realm };
    }
    if let Some(path) = path {
        open(reader, config, &path);
    }
    if reader.is_given("acl") {
        if reader.node("acl").is_none() {
            reader.refuse(
                "acl",
                "no rules are configured",
                "an empty list is written `[]`; without the key, whoever logs in may do everything",
            );
        }
        read_rules(reader, config);
        warn_of_malformed(reader, &config.acl);
    } else {
        let place = reader.place("auth.htpasswd").map(Place::to_string);
        let rule = RuleText {
            actions: vec!["*".to_owned()],
            comment: Some(NO_RULES.to_owned()),
            place: place.unwrap_or_default(),
            ..RuleText::default()
        };
        config.acl = Rule::parse(rule).into_iter().collect();
    }
}

fn open(reader: &mut Reader<'_>, config: &mut AuthConfig, path: &Path) {
    match HtpasswdFile::open(path) {
        Err(error) => reader.errors.push(error),
        Ok((file, entries)) => {
            reader.remember(
                "auth.htpasswd",
                format_args!("{} users", entries.users.len()),
            );
            reader
                .warnings
                .extend(entries.useless.iter().map(ConfigError::to_string));
            for error in entries.too_dear {
                reader.errors.push(error);
            }
            config.htpasswd = Some(Arc::new(file));
        }
    }
}

/// A file of users; looked at whenever somebody logs in.
pub struct HtpasswdFile {
    path: PathBuf,
    state: Mutex<State>,
}

/// Shows no hash.
impl std::fmt::Debug for HtpasswdFile {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "HtpasswdFile({})", self.path.display())
    }
}

struct State {
    stamp: Option<Stamp>,
    users: Arc<BTreeMap<String, User>>,
}

/// What changes when a file does. Size and time alone miss a file that was put in its place with both kept.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            size_bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        })
    }
}

impl HtpasswdFile {
    fn open(path: &Path) -> Result<(Self, Entries), ConfigError> {
        // Before the text: a change between the two is seen at the next look.
        let stamp = Stamp::of(path);
        let place = Place::file(path);
        let text = read_text(path)?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > TEXT_BYTES_MAX {
            return Err(ConfigError::new(Some(&place), "", "longer than 8 MiB")
                .hint("so many users belong into a directory service"));
        }
        let entries = Entries::parse(&text, &place)?;
        let state = State {
            stamp,
            users: Arc::new(entries.users.clone()),
        };
        let file = Self {
            path: path.to_owned(),
            state: Mutex::new(state),
        };
        Ok((file, entries))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl LiveUsers for HtpasswdFile {
    /// One look at the file's metadata; its text, some KiB at most, is read only after a change.
    fn users(&self) -> Arc<BTreeMap<String, User>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.path);
        if stamp != state.stamp {
            state.stamp = stamp;
            let path = self.path.display();
            match Self::open(&self.path) {
                Ok((_, entries)) => {
                    for error in entries.useless.iter().chain(&entries.too_dear) {
                        tracing::warn!("{error}");
                    }
                    state.users = Arc::new(entries.users);
                    tracing::info!(%path, users = state.users.len(), "was read again");
                }
                Err(_) if stamp.is_none() => {
                    state.users = Arc::default();
                    tracing::error!(%path, "has gone: nobody can log in until it is there again");
                }
                Err(error) => tracing::error!(%error, "users stay as they were"),
            }
        }
        Arc::clone(&state.users)
    }
}

/// What a file holds.
#[derive(Debug, Default)]
struct Entries {
    users: BTreeMap<String, User>,
    /// Entries that are taken and let nobody in.
    useless: Vec<ConfigError>,
    /// Entries that are not taken: each wrong password of anybody would cost as much.
    too_dear: Vec<ConfigError>,
}

impl Entries {
    /// As distribution reads it: blank lines and comments are passed over, any other line needs a colon, and the last entry
    /// of a name holds.
    fn parse(text: &str, source: &Place) -> Result<Self, ConfigError> {
        let mut entries = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refused = |message: &str, hint: &str| {
                ConfigError::new(Some(&source.at_line(number)), "", message).hint(hint)
            };
            let Some((name, hash)) = line.split_once(':') else {
                return Err(refused("not an entry", "an entry is written NAME:HASH"));
            };
            let user = User {
                password_hash: Some(hash.to_owned()),
                ..User::default()
            };
            let hint = "make the entry with `htpasswd -B`";
            match user.bcrypt_cost() {
                _ if name.is_empty() => {
                    let error = refused("an entry without a name lets nobody in", hint);
                    entries.useless.push(error);
                    continue;
                }
                Some(cost) if cost > BCRYPT_COST_MAX => {
                    let hint =
                        format!("use a cost of at most {BCRYPT_COST_MAX}: `htpasswd -B -C 10`");
                    entries
                        .too_dear
                        .push(refused("this bcrypt hash is too dear", &hint));
                    entries.users.remove(name);
                    continue;
                }
                Some(_) => {}
                None => entries.useless.push(refused(
                    "not a bcrypt hash: nobody can log in with it",
                    hint,
                )),
            }
            entries.users.insert(name.to_owned(), user);
        }
        Ok(entries)
    }
}
