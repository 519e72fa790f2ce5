//! `REGISTRY_…` variables, put into the tree as distribution applies them.
//!
//! Must not read the process's environment: it is handed in. Invariants: only distribution's own keys are reached; variables
//! are applied in the order of their names, so that `REGISTRY_STORAGE` comes before what refines it; no value is shown.

use std::collections::BTreeMap;

use super::error::{ConfigErrors, Place};
use super::keys::{self, Known, Scope};
use super::node::{Entry, Node, Value};
use super::yaml;

const PREFIX: &str = "REGISTRY_";
/// Names the file in distribution; here `--config` does.
const FILE_VARIABLE: &str = "REGISTRY_CONFIGURATION_PATH";

/// Applies every variable; returns warnings about those that match no key.
pub(super) fn apply(
    tree: &mut Node,
    environment: &BTreeMap<String, String>,
    errors: &mut ConfigErrors,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, payload) in environment {
        let Some(keys) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if name == FILE_VARIABLE {
            warnings.push(format!("{name}: has no effect: `--config` names the file"));
            continue;
        }
        let path = keys.to_lowercase();
        let path: Vec<&str> = path.split('_').collect();
        if matches!(keys::look_up(Scope::Environment, &path), Known::Unknown) {
            warnings.push(format!("{name}: has no effect: it matches no key"));
            continue;
        }
        let place = Place::variable(name);
        match yaml::documents(payload, &place) {
            Ok(mut documents) => {
                // An empty value is YAML's null and unsets the key.
                let mut node = documents.pop().unwrap_or(Node {
                    place: place.clone(),
                    value: Value::Null,
                });
                node.stand_at(&place);
                put(tree, &path, node, &place);
            }
            Err(error) => errors.push(error),
        }
    }
    warnings
}

/// Replaces the node at `path`; the maps on the way are made as needed.
fn put(tree: &mut Node, path: &[&str], node: Node, place: &Place) {
    let Some((key, rest)) = path.split_first() else {
        *tree = node;
        return;
    };
    // `auth: token` is distribution's short form of `auth: {token: {}}`, and what refines it keeps the choice.
    tree.expand_short_form();
    if !matches!(tree.value, Value::Map(_)) {
        *tree = Node::empty_map(place.clone());
    }
    let Value::Map(entries) = &mut tree.value else {
        return;
    };
    // Names of headers and the like keep the case in which a file wrote them.
    let known = entries
        .iter()
        .position(|entry| entry.key.eq_ignore_ascii_case(key));
    if let Some(entry) = known.and_then(|position| entries.get_mut(position)) {
        put(&mut entry.value, rest, node, place);
    } else {
        let mut value = Node {
            place: place.clone(),
            value: Value::Null,
        };
        put(&mut value, rest, node, place);
        entries.push(Entry {
            key: (*key).to_owned(),
            place: place.clone(),
            value,
        });
    }
}
