//! The configuration for a copy of the installation in which everything is below one directory: its paths made relative.
//!
//! Must not touch the file system but to read the configuration. Invariants: the new text differs from the
//! files in nothing but paths; every file that a path of it leads to is named, so that the caller can copy it there.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::certificates::{CA_CERTIFICATE, CLIENT_AUTHORITIES, KEYS_DIRECTORY};
use super::error::{ConfigError, ConfigErrors, Place};
use super::merged::{check_text, difference, read_with_full_paths, variables};
use super::node::{Node, Value};
use super::reader::{self, InForce};
use super::relative::RelativePaths;
use super::storage::{RELATIVE_PATHS, ROOT_DIRECTORY, STATE_DIRECTORY};
use super::tokens::USERS_FILE;
use super::{Served, users_file, written, yaml};
use crate::durable_file::directory_of;

/// What the configuration names besides.
const OTHERS: &str = "files";

/// See the module.
#[derive(Debug)]
pub struct Relocated {
    /// The only configuration file of the copy.
    pub text: String,
    /// Whether `text` is the file as it is, with its comments.
    pub is_verbatim: bool,
    /// Files that the configuration names, and where they are in the copy.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// The variables that decide a value here, and are not part of the copy.
    pub variables: Vec<String>,
}

impl Relocated {
    /// Where the images are in the copy.
    pub const DATA: &str = "data";
    /// Where certificates and keys that were made here are in the copy.
    pub const KEYS: &str = "keys";
    /// The certificate of the authority.
    pub const CA: &str = "ca.crt";
    /// Users and rules.
    pub const USERS: &str = "users.yml";
}

/// The configuration of `files`, for a copy.
pub fn relocated(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
) -> Result<Relocated, ConfigErrors> {
    let (mut tree, loaded) = read_with_full_paths(files, environment)?;
    let Served::Registry(_) = &loaded.config else {
        return Err(ConfigError::new(None, "storage", "no storage is configured").into());
    };
    let directory = files.first().map(|file| directory_of(file));
    let directory = directory.and_then(|directory| std::path::absolute(directory).ok());
    let directory: PathBuf = directory.unwrap_or_default().components().collect();
    let mut moved = Moved {
        directory: &directory,
        paths: Vec::new(),
    };
    for InForce { key, value, .. } in &loaded.in_force {
        match value {
            reader::Value::Path(path) => moved.add(key, path),
            reader::Value::List(paths) if key == CLIENT_AUTHORITIES.path => {
                for path in paths {
                    moved.add(key, Path::new(path));
                }
            }
            _ => {}
        }
    }
    let variables = variables(&loaded, files);
    // A file whose paths lead to the same places in the copy stays as a person has written it.
    let is_relative = |one: &MovedPath| {
        let mut full_paths = loaded.full_paths.iter();
        let is_default = tree.find(&one.key).is_none();
        let is_kept =
            is_default || full_paths.any(|full| full.key == one.key && full.path == one.path);
        is_kept && directory.join(&one.target) == one.path
    };
    let places = RELATIVE_PATHS.kind.word(&RelativePaths::ConfigDirectory);
    let says_so = matches!(
        tree.find(RELATIVE_PATHS.path).map(|node| &node.value),
        Some(Value::Scalar { text, .. }) if text == places
    );
    let is_verbatim = files.len() == 1 && says_so && moved.paths.iter().all(is_relative);
    let text = if is_verbatim {
        users_file::read_text(files.first().map_or(Path::new(""), PathBuf::as_path))?
    } else {
        // The tree that is written reads back the same; nothing but its paths is changed after that.
        let again = check_text(&written::yaml(&tree), environment)?;
        if let Some(key) = difference(&loaded, &again, &|_| false) {
            let message = "cannot be written so that it reads back the same";
            return Err(ConfigError::new(None, key, message).into());
        }
        for one in &moved.paths {
            one.write_into(&mut tree);
        }
        let place = tree.place.clone();
        let value = Value::Scalar {
            text: places.to_owned(),
            plain: true,
        };
        tree.set(&[RELATIVE_PATHS.path], Node { place, value });
        written::yaml(&tree)
    };
    let others = moved
        .paths
        .into_iter()
        .filter(|one| !one.is_of_installation());
    Ok(Relocated {
        text,
        is_verbatim,
        files: others.map(|one| (one.path, one.target)).collect(),
        variables,
    })
}

/// The text of a copy's configuration for an installation whose data and state are not beside it.
pub fn with_data_at(
    text: &str,
    root_directory: &Path,
    state_directory: &Path,
) -> Result<String, ConfigErrors> {
    let file = Place::variable("boathouse.yml");
    let mut documents = yaml::documents(text, &file)?;
    let moved = [
        (ROOT_DIRECTORY.path, Relocated::DATA, root_directory),
        (STATE_DIRECTORY.path, ".", state_directory),
    ];
    // On their lines, so that comments stay.
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let is_replaced = moved.iter().all(|(key, old, new)| {
        let node = documents.iter().find_map(|document| document.find(key));
        let number = node.and_then(|node| node.place.line());
        let number = number.and_then(|number| usize::try_from(number).ok());
        let line = number.and_then(|number| lines.get_mut(number.checked_sub(1)?));
        let old = users_file::quoted(old);
        match line {
            Some(line) if line.matches(&old).count() == 1 => {
                *line = line.replace(&old, &users_file::quoted(&new.to_string_lossy()));
                true
            }
            _ => false,
        }
    });
    if is_replaced {
        return Ok(lines.join("\n") + "\n");
    }
    let tree = documents.first_mut();
    let Some(tree) = tree else {
        return Ok(text.to_owned());
    };
    for (key, _, new) in moved {
        let value = Value::Scalar {
            text: new.to_string_lossy().into_owned(),
            plain: false,
        };
        let path: Vec<&str> = key.split('.').collect();
        let place = file.clone();
        tree.set(&path, Node { place, value });
    }
    Ok(written::yaml(tree))
}

/// The paths of a configuration, as they are found.
struct Moved<'a> {
    /// Of the first configuration file.
    directory: &'a Path,
    paths: Vec<MovedPath>,
}

/// A path in force.
struct MovedPath {
    key: String,
    path: PathBuf,
    /// Below the directory of the copy.
    target: PathBuf,
}

impl Moved<'_> {
    fn add(&mut self, key: &str, path: &Path) {
        let fixed = [
            (ROOT_DIRECTORY.path, Relocated::DATA),
            (STATE_DIRECTORY.path, "."),
            (CA_CERTIFICATE.path, Relocated::CA),
            (KEYS_DIRECTORY.path, Relocated::KEYS),
            (USERS_FILE.path, Relocated::USERS),
        ];
        let fixed = fixed.into_iter().find(|(name, _)| *name == key);
        let target = match fixed {
            Some((_, target)) => PathBuf::from(target),
            None => self.target_of_other(key, path),
        };
        self.paths.push(MovedPath {
            key: key.to_owned(),
            path: path.to_owned(),
            target,
        });
    }

    /// A file beside the configuration keeps its place, unless that is needed for something else.
    fn target_of_other(&self, key: &str, path: &Path) -> PathBuf {
        let below = path.strip_prefix(self.directory).ok();
        let is_free = |below: &&Path| {
            let mut parts = below.components();
            let taken = [
                Relocated::DATA,
                Relocated::CA,
                Relocated::USERS,
                "boathouse.yml",
                "index",
                "control.sock",
            ];
            let is_plain = parts
                .clone()
                .all(|part| matches!(part, Component::Normal(_)));
            let first = parts.next().map(|part| part.as_os_str().to_owned());
            is_plain && first.is_some_and(|first| taken.iter().all(|name| first != *name))
        };
        if let Some(below) = below.filter(is_free) {
            return below.to_owned();
        }
        let name = path.file_name().unwrap_or_default();
        let here = Path::new(OTHERS).join(key).join(name);
        let is_taken = |target: &Path| {
            self.paths
                .iter()
                .any(|one| one.target == target && one.path != path)
        };
        let numbered =
            (1..).map(|number| Path::new(OTHERS).join(format!("{key}-{number}")).join(name));
        let mut targets = std::iter::once(here).chain(numbered);
        targets.find(|target| !is_taken(target)).unwrap_or_default()
    }
}

impl MovedPath {
    /// Whether it is a part of every installation, which the caller copies by itself.
    fn is_of_installation(&self) -> bool {
        let parts = [
            Relocated::DATA,
            ".",
            Relocated::CA,
            Relocated::KEYS,
            Relocated::USERS,
        ];
        parts.iter().any(|part| self.target == Path::new(part))
    }

    fn write_into(&self, tree: &mut Node) {
        let target = self.target.to_string_lossy();
        if let Some(Value::List(_)) = tree.find(&self.key).map(|node| &node.value) {
            tree.replace_text(&self.key, &self.path.to_string_lossy(), &target);
            return;
        }
        let place = tree.place.clone();
        let value = Value::Scalar {
            text: target.into_owned(),
            plain: false,
        };
        let path: Vec<&str> = self.key.split('.').collect();
        tree.set(&path, Node { place, value });
    }
}
