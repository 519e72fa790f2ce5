//! Holds a tree against the table of known keys.
//!
//! Must not know what a key means. Invariant: after this, every entry of the tree is either read by a section or was spoken of
//! in an error or a note.

use super::error::{ConfigError, ConfigErrors};
use super::keys::{self, Fate, Key, Known};
use super::node::{Node, Value};

/// Finds unknown keys, keys not built yet and wrong kinds of values; returns the notes about harmless keys.
pub(super) fn check(tree: &Node, tables: &[&[Key]], errors: &mut ConfigErrors) -> Vec<String> {
    let mut walk = Walk {
        tables,
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
    tables: &'a [&'a [Key]],
    errors: &'a mut ConfigErrors,
    notes: Vec<String>,
}

impl Walk<'_> {
    fn map<'tree>(&mut self, node: &'tree Node, path: &mut Vec<&'tree str>) {
        for entry in node.entries() {
            path.push(&entry.key);
            match keys::look_up(self.tables, path) {
                Known::Unknown => self.unknown(path, entry),
                _ if entry.value.is_null() => {}
                Known::Key(fate) => self.key(fate, &entry.value, path),
                Known::Prefix { list } => self.prefix(list, &entry.value, path),
            }
            path.pop();
        }
    }

    fn key<'tree>(&mut self, fate: Fate, node: &'tree Node, path: &mut Vec<&'tree str>) {
        let dotted = path.join(".");
        match fate {
            // A row with rows below it may be a map.
            Fate::Built => {
                if keys::has_children(self.tables, &dotted) {
                    self.map(node, path);
                }
            }
            Fate::Harmless(why) => self
                .notes
                .push(format!("{}: {dotted} has no effect: {why}", node.place)),
            Fate::NotYet(unless) => {
                let written = match &node.value {
                    Value::Scalar { text, .. } => text.clone(),
                    Value::List(items) if items.is_empty() => "[]".to_owned(),
                    Value::Null | Value::List(_) | Value::Map(_) => "(more)".to_owned(),
                };
                if !unless.contains(&written.as_str()) {
                    self.errors.push(
                        ConfigError::new(Some(&node.place), &*dotted, "not supported yet")
                            .hint(not_yet_hint(&dotted)),
                    );
                }
            }
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
        let hint = keys::nearest(self.tables, path).map_or_else(
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

fn not_yet_hint(key: &str) -> &'static str {
    match key {
        "server.addr" => {
            "remove it: tokens are served on http.addr, at /token, /auth and /auth/token"
        }
        "storage.s3" => "use storage.filesystem",
        _ => "remove the key if you can do without it",
    }
}
