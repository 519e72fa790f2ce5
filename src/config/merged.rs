//! Several files as one, and the configuration in force as YAML.
//!
//! Must not know any key but those that hold secrets. Invariant: what [`merged`] returns was read again, and gave the same
//! values, users and rules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::error::{ConfigError, ConfigErrors, Place};
use super::node::{Entry, Node, Value, join};
use super::reader::{self, InForce};
use super::{Loaded, Parts, Served, check, merge_document, read_files, written, yaml};
use crate::auth::RuleText;

/// What is shown instead of a secret.
const MASK: &str = "(set)";
/// The place of a value that no file gives.
const DEFAULT: &str = "default";

/// Neither certificates nor the users file are needed to write the configuration itself.
pub(super) const PARTS: Parts = Parts {
    looks_at_certificates: false,
    reads_users_file: false,
};

/// Several files as one.
#[derive(Debug)]
pub struct Merged {
    /// The file: YAML without comments, and with all secrets.
    pub text: String,
    /// The `REGISTRY_…` variables that decide a value. They are not in the text: they apply to it as to the files.
    pub variables: Vec<String>,
}

/// The configuration in force.
#[derive(Debug)]
pub struct Shown {
    /// As YAML, with the place of each value as a comment.
    pub text: String,
    /// The same as a list.
    pub keys: Vec<ShownKey>,
    /// Keys without effect.
    pub notes: Vec<String>,
}

/// A key in force.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct ShownKey {
    /// With dots, and `[N]` for an item of a list.
    pub key: String,
    /// As it would be written; `null` if it has none.
    pub value: Option<String>,
    /// A file and its line, a variable, or `default`.
    pub from: String,
}

/// The files as one that means the same. Relative paths in it are full ones.
pub fn merged(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
) -> Result<Merged, ConfigErrors> {
    let (tree, loaded) = read_with_full_paths(files, environment)?;
    let text = written::yaml(&tree);
    let again = check_text(&text, environment)?;
    if let Some(key) = difference(&loaded, &again, &|_| false) {
        let message = "cannot be written so that it reads back the same";
        return Err(ConfigError::new(None, key, message)
            .hint("a key or a text is too long, or has a character that YAML cannot hold")
            .into());
    }
    Ok(Merged {
        text,
        variables: variables(&loaded, files),
    })
}

/// The configuration in force, without secrets.
pub fn shown(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
) -> Result<Shown, ConfigErrors> {
    let mut tree = read_files(files)?;
    let loaded = check(&mut tree, files, environment, PARTS)?;
    let shown = shown_tree(&tree, &loaded.in_force);
    let mut keys = Vec::new();
    leaves(&shown, String::new(), &mut keys);
    Ok(Shown {
        text: written::yaml_with_places(&shown),
        keys,
        notes: loaded.notes,
    })
}

/// The tree of the files without the environment, whose relative paths are full ones, and what it means with the environment.
pub(super) fn read_with_full_paths(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
) -> Result<(Node, Loaded<Served>), ConfigErrors> {
    let mut tree = read_files(files)?;
    let loaded = check(&mut tree.clone(), files, environment, PARTS)?;
    write_full_paths(&mut tree, files, &loaded);
    Ok((tree, loaded))
}

/// Replaces relative paths by where they lead, but for those of variables, which are in no file.
pub(super) fn write_full_paths(tree: &mut Node, files: &[PathBuf], loaded: &Loaded<Served>) {
    for path in &loaded.full_paths {
        let is_in_a_file = tree.find(&path.key).is_some_and(|node| {
            let mut files = files.iter();
            files.any(|file| node.place.is_in(&Place::file(file)))
        });
        if is_in_a_file {
            let (old, new) = (path.written.to_string_lossy(), path.path.to_string_lossy());
            tree.replace_text(&path.key, &old, &new);
        }
    }
}

/// The variables from which a value in force comes.
pub(super) fn variables(loaded: &Loaded<Served>, files: &[PathBuf]) -> Vec<String> {
    let is_file = |place: &Place| files.iter().any(|file| place.is_in(&Place::file(file)));
    let places = loaded.in_force.iter().filter_map(|key| key.place.as_ref());
    let names = places.filter(|place| !is_file(place)).map(Place::to_string);
    names.collect::<BTreeSet<String>>().into_iter().collect()
}

/// Checks a text as the only file.
pub(super) fn check_text(
    text: &str,
    environment: &BTreeMap<String, String>,
) -> Result<Loaded<Served>, ConfigErrors> {
    let file = Path::new("/merged");
    let place = Place::file(file);
    let mut errors = ConfigErrors::default();
    let mut tree = Node::empty_map(place.clone());
    for document in yaml::documents(text, &place)? {
        merge_document(&mut tree, document, &mut errors);
    }
    errors.or(())?;
    check(&mut tree, &[file.to_owned()], environment, PARTS)
}

/// The first key whose value differs, but for those that may.
pub(super) fn difference(
    one: &Loaded<Served>,
    other: &Loaded<Served>,
    may_differ: &dyn Fn(&str) -> bool,
) -> Option<String> {
    fn rules(loaded: &Loaded<Served>) -> Vec<RuleText> {
        let rules = loaded.config.auth().accounts.acl.iter();
        rules.map(|rule| rule.text().without_place()).collect()
    }
    let mut names = differing_keys(&one.in_force, &other.in_force).into_iter();
    if let Some(name) = names.find(|name| !may_differ(name)) {
        return Some(name);
    }
    let users = [one, other].map(|loaded| &loaded.config.auth().accounts.users);
    let differ = [
        ("users", users[0] != users[1]),
        ("acl", rules(one) != rules(other)),
    ];
    let differ = differ
        .iter()
        .find(|(key, differ)| *differ && !may_differ(key));
    differ.map(|(key, _)| (*key).to_owned())
}

/// The keys whose values differ, in the order of their names.
pub(super) fn differing_keys(one: &[InForce], other: &[InForce]) -> BTreeSet<String> {
    fn values(in_force: &[InForce]) -> BTreeMap<&str, &reader::Value> {
        let keys = in_force.iter();
        keys.map(|key| (key.key.as_str(), &key.value)).collect()
    }
    let (before, after) = (values(one), values(other));
    let names = before.keys().chain(after.keys()).copied();
    let differing = names.filter(|name| before.get(name) != after.get(name));
    differing.map(str::to_owned).collect()
}

/// Every key in force as a tree. What is in force only in words is shown as it is written.
fn shown_tree(tree: &Node, in_force: &[InForce]) -> Node {
    let of_default = Place::variable(DEFAULT);
    let mut shown = Node::empty_map(of_default.clone());
    for key in in_force {
        let place = key.place.clone().unwrap_or_else(|| of_default.clone());
        let path: Vec<&str> = key.key.split('.').collect();
        let node = match (&key.value, tree.find(&key.key)) {
            (reader::Value::Summary(_), Some(node)) => masked(node),
            (reader::Value::Summary(_), None) => continue,
            (value, _) => Node {
                value: shown_value(value, &place),
                place,
            },
        };
        // A section that is summarised has keys of its own, too.
        let is_section = matches!(key.value, reader::Value::Summary(_))
            && in_force
                .iter()
                .any(|other| other.key.starts_with(&format!("{}.", key.key)));
        if !is_section {
            shown.set(&path, node);
        }
    }
    shown
}

fn shown_value(value: &reader::Value, place: &Place) -> Value {
    let scalar = |text: String, plain| Value::Scalar { text, plain };
    match value {
        reader::Value::None | reader::Value::Summary(_) => Value::Null,
        reader::Value::Secret(_) => scalar(MASK.to_owned(), false),
        reader::Value::Flag(_) | reader::Value::Number(_) | reader::Value::Seconds(_) => {
            scalar(value.to_string(), true)
        }
        reader::Value::Text(text) => scalar(text.clone(), true),
        reader::Value::Path(path) => scalar(path.to_string_lossy().into_owned(), true),
        reader::Value::List(items) => Value::List(
            items
                .iter()
                .map(|text| Node {
                    place: place.clone(),
                    value: scalar(text.clone(), true),
                })
                .collect(),
        ),
    }
}

/// The node with its passwords masked.
fn masked(node: &Node) -> Node {
    let value = match &node.value {
        Value::Map(entries) => {
            let entries = entries.iter().map(|entry| Entry {
                key: entry.key.clone(),
                place: entry.place.clone(),
                value: if entry.key == "password" && !entry.value.is_map() {
                    Node {
                        place: entry.value.place.clone(),
                        value: Value::Scalar {
                            text: MASK.to_owned(),
                            plain: false,
                        },
                    }
                } else {
                    masked(&entry.value)
                },
            });
            Value::Map(entries.collect())
        }
        Value::List(items) => Value::List(items.iter().map(masked).collect()),
        Value::Null | Value::Scalar { .. } => node.value.clone(),
    };
    Node {
        place: node.place.clone(),
        value,
    }
}

/// The single values of a tree, and its lists of such.
fn leaves(node: &Node, key: String, keys: &mut Vec<ShownKey>) {
    let is_scalar = |node: &Node| matches!(node.value, Value::Null | Value::Scalar { .. });
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            for entry in entries {
                leaves(&entry.value, join(&key, &entry.key), keys);
            }
        }
        Value::List(items) if !items.iter().all(is_scalar) => {
            for (position, item) in items.iter().enumerate() {
                leaves(item, format!("{key}[{position}]"), keys);
            }
        }
        value => keys.push(ShownKey {
            key,
            value: match value {
                Value::Null => None,
                Value::Scalar { text, .. } => Some(text.clone()),
                Value::List(_) | Value::Map(_) => Some(written::flow(node)),
            },
            from: node.place.to_string(),
        }),
    }
}
