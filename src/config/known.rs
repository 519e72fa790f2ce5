//! Compares a tree with the table of known keys.
//!
//! Must not know what a key means. Invariant: every entry of the tree is then read by a section, or named in an error or a
//! note.

use super::error::{ConfigError, ConfigErrors};
use super::key::{Fate, Row};
use super::keys::{self, Known, Scope};
use super::node::{Node, Value};

/// Finds unknown keys, keys not built yet and wrong kinds of values; returns the notes about harmless keys.
pub(super) fn check(tree: &Node, scope: Scope, errors: &mut ConfigErrors) -> Vec<String> {
    let mut walk = Walk {
        scope,
        errors,
        notes: Vec::new(),
    };
    match &tree.value {
        Value::Map(_) => walk.map(tree, &mut Vec::new()),
        Value::Null => {}
        Value::Scalar { .. } | Value::List(_) => walk.errors.push(
            ConfigError::new(
                Some(&tree.place),
                "",
                format!("the file must be a map of keys, not {}", tree.kind()),
            )
            .hint("a key is written `name: value`"),
        ),
    }
    walk.notes
}

struct Walk<'a> {
    scope: Scope,
    errors: &'a mut ConfigErrors,
    notes: Vec<String>,
}

impl Walk<'_> {
    fn map<'tree>(&mut self, node: &'tree Node, path: &mut Vec<&'tree str>) {
        for entry in node.entries() {
            path.push(&entry.key);
            match keys::look_up(self.scope, path) {
                Known::Unknown => self.unknown(path, entry),
                _ if entry.value.is_null() => {}
                Known::Key(row) => self.key(row, &entry.value, path),
                Known::Prefix { list } => self.prefix(list, &entry.value, path),
            }
            path.pop();
        }
    }

    fn key<'tree>(&mut self, row: &Row, node: &'tree Node, path: &mut Vec<&'tree str>) {
        let dotted = path.join(".");
        match row.fate {
            // A row with rows below it may be a map.
            Fate::Built => {
                if keys::has_children(self.scope, &dotted) {
                    self.map(node, path);
                }
            }
            Fate::Harmless(why) => self
                .notes
                .push(format!("{}: {dotted} has no effect: {why}", node.place)),
            Fate::NotYet(unless) => self.refuse(row, node, unless, "not supported yet".to_owned()),
            Fate::Refused(unless, why) => {
                self.refuse(row, node, unless, format!("not supported: {why}"));
            }
        }
    }

    /// An error about the whole of `row`, whichever key below it was written, unless the value changes nothing.
    fn refuse(&mut self, row: &Row, node: &Node, unless: &[&str], message: String) {
        let written = match &node.value {
            Value::Scalar { text, .. } => text.as_str(),
            Value::List(items) if items.is_empty() => "[]",
            Value::Map(entries) if entries.is_empty() => "{}",
            Value::Null | Value::List(_) | Value::Map(_) => "(more)",
        };
        if !unless.contains(&written) {
            self.errors.push(
                ConfigError::new(Some(&node.place), row.shown_path(), message).hint(row.hint),
            );
        }
    }

    fn prefix<'tree>(&mut self, list: bool, node: &'tree Node, path: &mut Vec<&'tree str>) {
        match &node.value {
            Value::List(items) if list => {
                for item in items {
                    path.push("[]");
                    if matches!(item.value, Value::Map(_)) {
                        self.map(item, path);
                    } else {
                        self.wrong_kind(item, path, "a map");
                    }
                    path.pop();
                }
            }
            Value::Map(_) if !list => self.map(node, path),
            Value::Null | Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                self.wrong_kind(node, path, if list { "a list" } else { "a map" });
            }
        }
    }

    fn wrong_kind(&mut self, node: &Node, path: &[&str], expected: &str) {
        self.errors.push(ConfigError::new(
            Some(&node.place),
            shown(path),
            format!("must be {expected}, not {}", node.kind()),
        ));
    }

    fn unknown(&mut self, path: &[&str], entry: &super::node::Entry) {
        let error = ConfigError::new(Some(&entry.place), shown(path), "unknown key");
        let hint = keys::nearest(self.scope, path).map_or_else(
            || "remove it, or look for its name in the documentation".to_owned(),
            |key| format!("did you mean `{}`?", key.replace(".[]", "[]")),
        );
        self.errors.push(error.hint(hint));
    }
}

/// A path as people write it: `acl[].match`.
fn shown(path: &[&str]) -> String {
    path.join(".").replace(".[]", "[]")
}
