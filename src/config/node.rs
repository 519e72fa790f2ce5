//! The tree that configuration files become, and how several become one.
//!
//! Must not know any key. Invariant: every node knows its place; `Debug` shows none of the text.

use std::fmt;

use super::error::{ConfigError, ConfigErrors, Place};

/// A value and where it is written.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value as written, not yet interpreted.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Scalar {
        text: String,
        /// Without quotes: may be read as a number or a truth value.
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Node,
}

impl fmt::Debug for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at {}", self.kind(), self.place)
    }
}

impl Node {
    /// An empty map, written at `place`.
    pub(super) fn empty_map(place: Place) -> Self {
        Self {
            place,
            value: Value::Map(Vec::new()),
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.value, Value::Map(_))
    }

    /// The word for what this is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The entries of a map; none for anything else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Null | Value::Scalar { .. } | Value::List(_) => &[],
        }
    }

    /// The items of a list; none for anything else.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Null | Value::Scalar { .. } | Value::Map(_) => &[],
        }
    }

    /// The text of a single value.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The node at a path of keys; a null counts as absent.
    pub(super) fn find(&self, path: &str) -> Option<&Self> {
        self.find_even_null(path).filter(|node| !node.is_null())
    }

    /// The node at a path of keys; a key without a value counts too.
    pub(super) fn find_even_null(&self, path: &str) -> Option<&Self> {
        let mut node = self;
        for key in path.split('.') {
            node = &node.entries().iter().find(|entry| entry.key == key)?.value;
        }
        Some(node)
    }

    /// The node at a path of keys, to change it.
    fn find_mut(&mut self, path: &str) -> Option<&mut Self> {
        let mut node = self;
        for key in path.split('.') {
            node = node.top_mut(key)?;
        }
        Some(node)
    }

    /// Replaces the text of every single value at or in the node at `path` that is `old`.
    pub(super) fn replace_text(&mut self, path: &str, old: &str, new: &str) {
        fn replace(node: &mut Node, old: &str, new: &str) {
            match &mut node.value {
                Value::Scalar { text, .. } if text == old => new.clone_into(text),
                Value::List(items) => items.iter_mut().for_each(|item| replace(item, old, new)),
                Value::Null | Value::Scalar { .. } | Value::Map(_) => {}
            }
        }
        if let Some(node) = self.find_mut(path) {
            replace(node, old, new);
        }
    }

    /// Puts `node` at a path of keys; what is on the way and is not a map becomes one.
    pub(super) fn set(&mut self, path: &[&str], node: Self) {
        let Some((key, rest)) = path.split_first() else {
            *self = node;
            return;
        };
        if !self.is_map() {
            self.value = Value::Map(Vec::new());
        }
        let place = node.place.clone();
        let Value::Map(entries) = &mut self.value else {
            return;
        };
        if let Some(known) = entries.iter_mut().find(|entry| entry.key == *key) {
            known.value.set(rest, node);
            return;
        }
        let mut value = Self::empty_map(place.clone());
        value.set(rest, node);
        entries.push(Entry {
            key: (*key).to_owned(),
            place,
            value,
        });
    }

    /// Removes a top-level key.
    pub(super) fn remove(&mut self, key: &str) {
        if let Value::Map(entries) = &mut self.value {
            entries.retain(|entry| entry.key != key);
        }
    }

    /// Gives the whole node one place: line numbers inside a variable are of no use.
    pub(super) fn stand_at(&mut self, place: &Place) {
        self.place = place.clone();
        match &mut self.value {
            Value::Null | Value::Scalar { .. } => {}
            Value::List(items) => items.iter_mut().for_each(|item| item.stand_at(place)),
            Value::Map(entries) => {
                for entry in entries {
                    entry.place = place.clone();
                    entry.value.stand_at(place);
                }
            }
        }
    }

    /// `storage: filesystem` and `auth: token`, distribution's short form: a map with this one key.
    pub(super) fn expand_short_form(&mut self) {
        if let Value::Scalar { text, .. } = &self.value {
            self.value = Value::Map(vec![Entry {
                key: text.clone(),
                place: self.place.clone(),
                value: Self::empty_map(self.place.clone()),
            }]);
        }
    }

    /// Gives the key `old` of a map the name `new`. Where both are present, they merge.
    pub(super) fn rename_key(
        &mut self,
        old: &str,
        new: &str,
        path: &str,
        errors: &mut ConfigErrors,
    ) {
        let Value::Map(entries) = &mut self.value else {
            return;
        };
        let Some(position) = entries.iter().position(|entry| entry.key == old) else {
            return;
        };
        let mut renamed = entries.remove(position);
        if let Some(known) = entries.iter_mut().find(|entry| entry.key == new) {
            known.value.merge(renamed.value, &join(path, new), errors);
        } else {
            new.clone_into(&mut renamed.key);
            entries.insert(position, renamed);
        }
    }

    /// The node at a top-level key, to change it.
    pub(super) fn top_mut(&mut self, key: &str) -> Option<&mut Self> {
        match &mut self.value {
            Value::Map(entries) => entries
                .iter_mut()
                .find(|entry| entry.key == key)
                .map(|entry| &mut entry.value),
            Value::Null | Value::Scalar { .. } | Value::List(_) => None,
        }
    }

    /// Takes in `other`: maps merge, a null gives way, anything else given twice is a mistake.
    pub(super) fn merge(&mut self, other: Self, path: &str, errors: &mut ConfigErrors) {
        if other.is_null() {
            return;
        }
        if self.is_null() {
            *self = other;
            return;
        }
        match (&mut self.value, other.value) {
            (Value::Map(ours), Value::Map(theirs)) => {
                for entry in theirs {
                    match ours.iter_mut().find(|known| known.key == entry.key) {
                        Some(known) => {
                            known
                                .value
                                .merge(entry.value, &join(path, &entry.key), errors);
                        }
                        None => ours.push(entry),
                    }
                }
            }
            _ => errors.push(
                ConfigError::new(
                    Some(&other.place),
                    path,
                    format!("given twice, also at {}", self.place),
                )
                .hint("keep one of the two; only maps are merged"),
            ),
        }
    }
}

/// `path.key`, or `key` at the top.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
