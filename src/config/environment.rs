//! `REGISTRY_…` variables, put into the tree as distribution applies them.
//!
//! Must not read the process's environment: it is handed in. Invariants: only distribution's own keys are reached; variables
//! are applied in the order of their names, so that `REGISTRY_STORAGE` comes before what refines it; no value is shown.

use std::collections::BTreeMap;

use super::bucket;
use super::error::{ConfigError, ConfigErrors, Place};
use super::key::Fate;
use super::keys::{self, Known, Scope};
use super::node::{Entry, Node, Value};
use super::yaml;

const PREFIX: &str = "REGISTRY_";

/// Names the configuration file where no argument does, as in distribution.
pub const FILE_VARIABLE: &str = "REGISTRY_CONFIGURATION_PATH";

/// Variables that other programs read: the password file of podman, skopeo and buildah.
const OF_OTHERS: [&str; 2] = [FILE_VARIABLE, "REGISTRY_AUTH_FILE"];

/// Keys that distribution's variables call by another name than its files do: the name of the field in its source. The name
/// of the file reaches nothing there.
const FIELD_NAMES: [(&str, &str); 5] = [
    ("health.filecheckers", "health.file"),
    ("health.httpcheckers", "health.http"),
    ("health.tcpcheckers", "health.tcp"),
    ("notifications.eventconfig", "notifications.events"),
    (
        "compatibility.schema1.trustkey",
        "compatibility.schema1.signingkeyfile",
    ),
];

/// Applies every variable; returns warnings about those that match no key.
pub(super) fn apply(
    tree: &mut Node,
    environment: &BTreeMap<String, String>,
    errors: &mut ConfigErrors,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, payload) in environment {
        let Some(fields) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if OF_OTHERS.contains(&name.as_str()) || is_of_kubernetes(name) {
            continue;
        }
        let Some(path) = key_path(fields) else {
            warnings.push(format!("{name}: has no effect: it matches no key"));
            continue;
        };
        let place = Place::variable(name);
        let node = match yaml::documents(payload, &place) {
            Ok(documents) => {
                // An empty value is YAML's null and unsets the key.
                let mut node = documents.into_iter().next().unwrap_or(Node {
                    place: place.clone(),
                    value: Value::Null,
                });
                node.stand_at(&place);
                node
            }
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if let Err(message) = put(tree, &path, node, &place) {
            errors.push(ConfigError::new(Some(&place), "", message).hint(
                "positions in a list begin at 0, and the next one that is free adds an item",
            ));
        }
    }
    warnings
}

/// The path of the key that a variable reaches, whose name after the prefix is `fields`: a number is a position in a list.
/// `None` if it matches no key.
fn key_path(fields: &str) -> Option<Vec<String>> {
    let dotted = bucket::renamed_path(&fields.to_lowercase().replace('_', "."));
    let is_below = |key: &str| {
        let rest = dotted.strip_prefix(key);
        rest.filter(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    if FIELD_NAMES.iter().any(|(_, key)| is_below(key).is_some()) {
        return None;
    }
    let mut fields = FIELD_NAMES.iter();
    let renamed = fields.find_map(|(field, key)| Some(format!("{key}{}", is_below(field)?)));
    let path: Vec<String> = renamed
        .as_deref()
        .unwrap_or(&dotted)
        .split('.')
        .map(str::to_owned)
        .collect();
    let mut row_path: Vec<&str> = Vec::new();
    for (position, segment) in path.iter().enumerate() {
        let is_last = position + 1 == path.len();
        match keys::look_up(Scope::Environment, &row_path) {
            _ if row_path.is_empty() || position_of(segment).is_none() => row_path.push(segment),
            Known::Prefix { list: true } => row_path.push("[]"),
            // An item of a list of texts, which has no row of its own.
            Known::Key(row) if row.fate == Fate::Built && is_last => {}
            Known::Key(_) | Known::Prefix { .. } | Known::Unknown => row_path.push(segment),
        }
    }
    let known = keys::look_up(Scope::Environment, &row_path);
    (!matches!(known, Known::Unknown)).then_some(path)
}

fn position_of(segment: &str) -> Option<usize> {
    super::reader::whole_number(segment).and_then(|number| usize::try_from(number).ok())
}

/// Whether Kubernetes sets the variable in each container, for a service whose name is `registry` or begins with it:
/// `REGISTRY_PORT`, `REGISTRY_SERVICE_HOST`, `REGISTRY_SERVICE_PORT_HTTP`, `REGISTRY_PORT_5000_TCP_ADDR`. No key of
/// distribution ends like these, and a service `registry-proxy` must not seem to configure `proxy`.
fn is_of_kubernetes(name: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    const PARTS: [&str; 3] = ["PROTO", "PORT", "ADDR"];
    let is_number = |text: &str| position_of(text).is_some();
    let parts: Vec<&str> = name.split('_').collect();
    let is_port = match parts.as_slice() {
        [.., "PORT"] => true,
        [.., "PORT", number, protocol] => is_number(number) && PROTOCOLS.contains(protocol),
        [.., "PORT", number, protocol, part] => {
            is_number(number) && PROTOCOLS.contains(protocol) && PARTS.contains(part)
        }
        _ => false,
    };
    is_port || name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT")
}

/// Replaces the node at `path`; the maps on the way are made as needed, and an item of a list that is one longer.
fn put(tree: &mut Node, path: &[&str], node: Node, place: &Place) -> Result<(), String> {
    let Some((key, rest)) = path.split_first() else {
        *tree = node;
        return Ok(());
    };
    let absent = || Node {
        place: place.clone(),
        value: Value::Null,
    };
    let is_list = match &tree.value {
        Value::List(_) => true,
        // No key of a map is a number.
        Value::Null => position_of(key).is_some(),
        Value::Scalar { .. } | Value::Map(_) => false,
    };
    if is_list {
        if tree.is_null() {
            tree.value = Value::List(Vec::new());
        }
        let Value::List(items) = &mut tree.value else {
            return Ok(());
        };
        let count = items.len();
        let position = position_of(key).filter(|position| *position <= count);
        let Some(position) = position else {
            return Err(format!(
                "`{key}` is not a position in this list, which has {count} items"
            ));
        };
        if position == count {
            items.push(absent());
        }
        return match items.get_mut(position) {
            Some(item) => put(item, rest, node, place),
            None => Ok(()),
        };
    }
    // `auth: token` is distribution's short form of `auth: {token: {}}`, and what refines it keeps the choice.
    tree.expand_short_form();
    if !matches!(tree.value, Value::Map(_)) {
        *tree = Node::empty_map(place.clone());
    }
    let Value::Map(entries) = &mut tree.value else {
        return Ok(());
    };
    // Names of headers and the like keep the case in which a file wrote them. (distribution would keep both spellings, and send
    // both values.)
    let known = entries
        .iter()
        .position(|entry| entry.key.eq_ignore_ascii_case(key));
    if let Some(entry) = known.and_then(|position| entries.get_mut(position)) {
        return put(&mut entry.value, rest, node, place);
    }
    let mut value = absent();
    put(&mut value, rest, node, place)?;
    entries.push(Entry {
        key: (*key).to_owned(),
        place: place.clone(),
        value,
    });
    Ok(())
}
