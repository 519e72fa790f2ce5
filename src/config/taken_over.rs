//! The files of the old programs as one clean `boathouse.yml` and one file of users, with the same meaning.
//!
//! The new file names the old ones, so that later commands know them. Must not touch the file system but to read the old files.
//! Invariant: what is returned was read again, and differs from the old files in nothing but where users and rules are kept, and
//! in the certificates, if own ones were asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use super::error::{ConfigError, ConfigErrors, Place};
use super::key::Fate;
use super::keys::{FAMILIES, Scope, has_children};
use super::merged::{self, check_text};
use super::node::{Node, Value};
use super::template::{Entry, write_level};
use super::users_file::UsersFile;
use super::{InForce, Loaded, known, load, read_files, written};
use crate::auth::{Rule, RuleText};
use crate::oci::{Algorithm, Digest};

/// What is in the old files.
#[derive(Debug)]
pub struct OldFiles {
    /// What they mean.
    pub loaded: Loaded,
    /// The program that reads each of them.
    pub programs: Vec<(PathBuf, OldProgram)>,
    /// Keys that have no effect and are not in the new file, each with the reason.
    pub left_out: Vec<String>,
    /// The variables from which a value in force comes; they stay in force over the new file.
    pub variables: Vec<String>,
    tree: Node,
}

/// One of the two programs that are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldProgram {
    /// distribution's registry.
    Distribution,
    /// `docker_auth`
    DockerAuth,
}

/// A file from which a configuration was made, as it was then. `Display` is the line for it in that configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OldFile {
    /// Its full path.
    pub path: PathBuf,
    /// Of its content.
    pub digest: Digest,
}

/// Before the digest and the path of an [`OldFile`].
const MADE_FROM: &str = "# made from: ";

impl OldFile {
    /// Reads the file at the full path `path`.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            digest: Digest::of(Algorithm::Sha256, &fs::read(path)?),
        })
    }

    /// The files that the text of a configuration names.
    pub fn named_in(text: &str) -> Vec<Self> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(MADE_FROM));
        let files = lines.filter_map(|line| {
            let (digest, path) = line.split_once(' ')?;
            Some(Self {
                path: path.into(),
                digest: digest.parse().ok()?,
            })
        });
        files.collect()
    }
}

impl fmt::Display for OldFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A line break in a path would end the comment.
        let path = self.path.display().to_string();
        let path = path.replace(char::is_control, "?");
        write!(out, "{MADE_FROM}{} {path}", self.digest)
    }
}

/// Where the new files are.
#[derive(Debug)]
pub struct NewPlaces<'a> {
    /// The file of users and rules.
    pub users: &'a Path,
    /// For certificates of our own; `None` leaves them as they were.
    pub certificates: Option<NewCertificates<'a>>,
}

/// Certificates of our own.
#[derive(Debug)]
pub struct NewCertificates<'a> {
    /// `tls.hosts`
    pub hosts: &'a [String],
    /// `tls.ca_certificate`
    pub ca_certificate: &'a Path,
    /// `tls.keys_directory`
    pub keys_directory: &'a Path,
}

impl OldFiles {
    /// Reads and checks them.
    pub fn read(
        files: &[PathBuf],
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigErrors> {
        let loaded = load(files, environment)?;
        let (tree, served) = merged::read_with_full_paths(files, environment)?;
        let programs = files.iter().map(|file| {
            let of_registry = ["storage", "http"];
            let tree = read_files(std::slice::from_ref(file))?;
            let is_registry = of_registry
                .iter()
                .any(|key| tree.find_even_null(key).is_some());
            let program = if is_registry {
                OldProgram::Distribution
            } else {
                OldProgram::DockerAuth
            };
            Ok((file.clone(), program))
        });
        Ok(Self {
            programs: programs.collect::<Result<_, ConfigErrors>>()?,
            variables: merged::variables(&served, files),
            // What is wrong was refused above.
            left_out: known::check(&tree, Scope::Config, &mut ConfigErrors::default()),
            loaded,
            tree,
        })
    }

    /// The users and rules for a file of their own, which commands can change; `None` if there are none.
    pub fn accounts(&self) -> Option<UsersFile> {
        let auth = &self.loaded.config.auth;
        let has_accounts = auth.required && !auth.is_foreign_only && auth.htpasswd().is_none();
        has_accounts.then(|| UsersFile {
            users: auth.users(),
            acl: auth
                .rules()
                .iter()
                .map(|rule| rule.text().without_place())
                .collect(),
            revoked: auth.revoked(),
        })
    }

    /// How `new`, which was made of these files, differs from what they are now, as far as the files `changed` decide it: a line
    /// for each key, user and rule. What only `new` has may have been added there.
    pub fn differences(&self, new: &Loaded, changed: &[PathBuf]) -> Vec<String> {
        let in_changed = |place: &Place| changed.iter().any(|file| place.is_in(&Place::file(file)));
        let mut lines = Vec::new();
        for key in merged::differing_keys(&self.loaded.in_force, &new.in_force) {
            if is_moved(&key) {
                continue;
            }
            let old = place_of(&key, &self.loaded.in_force);
            match (old, place_of(&key, &new.in_force)) {
                (Some(old), _) if !in_changed(old) => {}
                (Some(old), Some(new)) => lines.push(format!("{key}: {old} and {new} differ")),
                (Some(old), None) => lines.push(format!("{key}: only at {old}")),
                (None, Some(new)) => lines.push(format!("{key}: only at {new}")),
                (None, None) => {}
            }
        }
        let sections = ["users", "acl"].map(|key| self.tree.find_even_null(key));
        let mut sections = sections.into_iter().flatten();
        if sections.any(|node| in_changed(&node.place)) {
            self.compare_accounts(new, &mut lines);
        }
        lines
    }

    fn compare_accounts(&self, new: &Loaded, lines: &mut Vec<String>) {
        let (old, new) = (&self.loaded.config.auth, &new.config.auth);
        let (old_users, new_users) = (old.users(), new.users());
        let file = new.users_file.as_deref().unwrap_or(Path::new("users.yml"));
        let (file, place) = (file.display(), |name: &str| {
            old.places
                .get(name)
                .map(Place::to_string)
                .unwrap_or_default()
        });
        for (name, user) in &old_users {
            match new_users.get(name) {
                None => lines.push(format!("users.{name}: only at {}", place(name))),
                Some(new) if new != user => {
                    lines.push(format!("users.{name}: {} and {file} differ", place(name)));
                }
                Some(_) => {}
            }
        }
        let added = new_users
            .keys()
            .filter(|name| !old_users.contains_key(*name));
        lines.extend(added.map(|name| format!("users.{name}: only in {file}")));
        let texts = |rules: Vec<Rule>| -> Vec<RuleText> {
            rules.iter().map(|rule| rule.text().clone()).collect()
        };
        let (old_rules, new_rules) = (texts(old.rules()), texts(new.rules()));
        let bare = |rules: &[RuleText]| -> Vec<RuleText> {
            rules.iter().map(RuleText::without_place).collect()
        };
        let (old_bare, new_bare) = (bare(&old_rules), bare(&new_rules));
        let before = lines.len();
        for (rules, others) in [(&old_rules, &new_bare), (&new_rules, &old_bare)] {
            let only_here = rules
                .iter()
                .filter(|rule| !others.contains(&rule.without_place()));
            lines.extend(only_here.map(|rule| format!("acl: a rule only at {}", rule.place)));
        }
        if lines.len() == before && old_bare != new_bare {
            lines.push("acl: the same rules in another order or number".to_owned());
        }
    }

    /// The text of `boathouse.yml`, below the comment `head`.
    pub fn render(
        &self,
        head: &str,
        places: &NewPlaces<'_>,
        environment: &BTreeMap<String, String>,
    ) -> Result<String, ConfigErrors> {
        let mut tree = self.tree.clone();
        let path = |path: &Path| Node {
            place: Place::variable("boathouse.yml"),
            value: Value::Scalar {
                text: path.to_string_lossy().into_owned(),
                plain: false,
            },
        };
        if self.accounts().is_some() {
            tree.remove("users");
            tree.remove("acl");
            tree.set(&["users_file"], path(places.users));
        }
        if let Some(certificates) = &places.certificates {
            let hosts = certificates.hosts.iter().map(|host| path(Path::new(host)));
            let hosts = Node {
                value: Value::List(hosts.collect()),
                ..path(Path::new(""))
            };
            tree.set(&["tls", "hosts"], hosts);
            tree.set(
                &["tls", "ca_certificate"],
                path(certificates.ca_certificate),
            );
            tree.set(
                &["tls", "keys_directory"],
                path(certificates.keys_directory),
            );
        }
        let text = head.to_owned() + &text_of(&tree);
        let again = check_text(&text, environment)?;
        let before = check_text(&written::yaml(&self.tree), environment)?;
        match merged::difference(&before, &again, &is_moved) {
            None => Ok(text),
            Some(key) => Err(ConfigError::new(None, key, "cannot be taken over as it is")
                .hint(
                    "serve the old files themselves: `boathouse serve --config FILE --config FILE`",
                )
                .into()),
        }
    }
}

/// Where a key was written, if it was.
fn place_of<'a>(key: &str, in_force: &'a [InForce]) -> Option<&'a Place> {
    let found = in_force.iter().find(|known| known.key == key)?;
    found.place.as_ref()
}

/// Whether a key is about where users and rules are kept, or about certificates of our own.
fn is_moved(key: &str) -> bool {
    let section = key.split('.').next().unwrap_or_default();
    ["users", "acl", "users_file", "tls"].contains(&section)
}

/// The keys that have an effect, in the order of the documentation, each with what it is for.
fn text_of(tree: &Node) -> String {
    let mut seen = BTreeSet::new();
    let mut entries = Vec::new();
    let mut blocks = String::new();
    let rows = FAMILIES
        .iter()
        .flat_map(|family| family.keys)
        .map(|key| key.row());
    for row in rows.filter(|row| row.fate == Fate::Built) {
        // What has any name, or is a list, is written as a whole.
        let path = row.path.split(".*").next().unwrap_or_default();
        let path = path.split(".[]").next().unwrap_or_default();
        let Some(node) = tree.find(path) else {
            continue;
        };
        // Its version is that of distribution's format.
        let is_section = path == row.path && node.is_map() && has_children(Scope::Config, path);
        if path == "version" || is_section || !seen.insert(path) {
            continue;
        }
        if path == "acl" || path == "users" {
            let mut section = Node::empty_map(node.place.clone());
            section.set(&[path], node.clone());
            blocks.push('\n');
            blocks.push_str(&written::yaml(&section));
            continue;
        }
        entries.push(Entry {
            path: path.split('.').collect(),
            comment: row.paragraphs().into_iter().next().unwrap_or_default(),
            value: Some(written::flow(node)),
            is_commented: false,
        });
    }
    let mut text = String::new();
    write_level(&mut text, &entries.iter().collect::<Vec<_>>(), 0);
    text + &blocks
}
