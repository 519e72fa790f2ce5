//! Trees into YAML text.
//!
//! Must not know any key. Invariant: the text reads back as the same tree, but for places, and for quotes around a text that
//! YAML could take for something else without them.

use std::fmt::Write as _;

use super::node::{Entry, Node, Value};
use super::users_file::quoted;

/// Longest value that is written on the line of its key.
const LINE_LENGTH_MAX: usize = 100;

/// Words that YAML, or an old reader of it, takes for something else than a text.
const RESERVED: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// How a tree is written.
#[derive(Clone, Copy)]
struct Writer {
    /// Whether each value is followed by its place, as a comment.
    shows_places: bool,
}

/// The tree as YAML, one key a line.
pub(super) fn yaml(tree: &Node) -> String {
    text_of(tree, false)
}

/// The same with the place of each value behind it.
pub(super) fn yaml_with_places(tree: &Node) -> String {
    text_of(tree, true)
}

fn text_of(tree: &Node, shows_places: bool) -> String {
    let mut text = String::new();
    Writer { shows_places }.block(&mut text, tree, 0);
    text
}

/// A node on one line.
pub(super) fn flow(node: &Node) -> String {
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Scalar { text, plain } => scalar(text, *plain),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|entry| format!("{}: {}", key(&entry.key), flow(&entry.value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

impl Writer {
    fn block(self, text: &mut String, node: &Node, depth: usize) {
        let indent = "  ".repeat(depth);
        match &node.value {
            Value::Map(entries) if !entries.is_empty() => {
                for Entry {
                    key: name, value, ..
                } in entries
                {
                    text.push_str(&indent);
                    text.push_str(&key(name));
                    text.push(':');
                    self.value(text, value, depth);
                }
            }
            Value::List(items) if !items.is_empty() => {
                for item in items {
                    let start = text.len();
                    if self.fits_on_a_line(item) {
                        // Writing to a String cannot fail.
                        let _ = writeln!(text, "{indent}- {}{}", flow(item), self.place(item));
                    } else {
                        // The mark of an item takes the place of the first line's indent.
                        self.block(text, item, depth + 1);
                        text.replace_range(start..start + indent.len() + 2, &format!("{indent}- "));
                    }
                }
            }
            _ => {
                let _ = writeln!(text, "{indent}{}{}", flow(node), self.place(node));
            }
        }
    }

    /// What follows the colon of a key.
    fn value(self, text: &mut String, value: &Node, depth: usize) {
        if self.fits_on_a_line(value) {
            let _ = writeln!(text, " {}{}", flow(value), self.place(value));
        } else {
            text.push('\n');
            self.block(text, value, depth + 1);
        }
    }

    fn fits_on_a_line(self, node: &Node) -> bool {
        match &node.value {
            Value::Null | Value::Scalar { .. } => true,
            Value::List(items) => items.is_empty() || is_small(node, items.iter()),
            Value::Map(entries) if entries.is_empty() => true,
            // Each of its values has a place of its own.
            Value::Map(_) if self.shows_places => false,
            Value::Map(entries) => is_small(node, entries.iter().map(|entry| &entry.value)),
        }
    }

    fn place(self, node: &Node) -> String {
        if self.shows_places {
            format!(
                "  # {}",
                node.place.to_string().replace(char::is_control, "?")
            )
        } else {
            String::new()
        }
    }
}

/// Whether a node with these values is short, and holds no map.
fn is_small<'a>(node: &Node, mut values: impl Iterator<Item = &'a Node>) -> bool {
    values.all(|value| !matches!(value.value, Value::Map(_))) && flow(node).len() <= LINE_LENGTH_MAX
}

/// A text that was written without quotes keeps what they decide (a number, a truth value), unless it needs some.
fn scalar(text: &str, plain: bool) -> String {
    if plain && is_plain(text) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

fn key(text: &str) -> String {
    let is_name = text.starts_with(|first: char| first.is_ascii_alphabetic()) && is_plain(text);
    let is_reserved = RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is_name && !is_reserved && !text.contains(':') {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// Whether a text means the same to YAML everywhere without quotes.
fn is_plain(text: &str) -> bool {
    let starts_well =
        text.starts_with(|first: char| first.is_ascii_alphanumeric() || "/.+-".contains(first));
    starts_well
        && !["-", "---", "..."].contains(&text)
        && !text.ends_with(':')
        && text
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || "/.+-_:@".contains(char))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::error::Place;
    use crate::config::yaml;

    fn place() -> Place {
        Place::variable("test")
    }

    /// Without places and quotes.
    fn bare(node: &Node) -> String {
        match &node.value {
            Value::Null => "~".to_owned(),
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::List(items) => format!("{:?}", items.iter().map(bare).collect::<Vec<_>>()),
            Value::Map(entries) => {
                let entries = entries.iter().map(|entry| (&entry.key, bare(&entry.value)));
                format!("{:?}", entries.collect::<Vec<_>>())
            }
        }
    }

    fn read(text: &str) -> Node {
        let mut documents =
            yaml::documents(text, &place()).unwrap_or_else(|error| panic!("{error}\n{text}"));
        documents.pop().unwrap_or_else(|| panic!("{text}"))
    }

    fn trees() -> impl Strategy<Value = Node> {
        let node = |value| Node {
            place: place(),
            value,
        };
        let texts = prop_oneof![
            "[a-zA-Z0-9:#\\[\\]{}, '\"&*!|>%@`~\\-\n\\\\.]{0,8}",
            any::<String>(),
            Just("true".to_owned()),
            Just("0755".to_owned()),
            Just("null".to_owned()),
        ];
        let scalars = texts
            .clone()
            .prop_map(move |text| node(Value::Scalar { text, plain: false }));
        let leaves = prop_oneof![Just(node(Value::Null)), scalars];
        let below = leaves.prop_recursive(4, 40, 4, move |inner| {
            let lists = proptest::collection::vec(inner.clone(), 0..4)
                .prop_map(move |items| node(Value::List(items)));
            let maps = proptest::collection::btree_map("[a-zA-Z0-9:#' \\-]{0,6}", inner, 0..4);
            let maps = maps.prop_map(move |map| {
                let entry = |(key, value)| Entry {
                    key,
                    place: place(),
                    value,
                };
                node(Value::Map(map.into_iter().map(entry).collect()))
            });
            prop_oneof![lists, maps]
        });
        proptest::collection::btree_map("[a-z]{1,3}", below, 1..4).prop_map(move |map| {
            let entry = |(key, value)| Entry {
                key,
                place: place(),
                value,
            };
            node(Value::Map(map.into_iter().map(entry).collect()))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn what_is_written_reads_back(tree in trees()) {
            prop_assert_eq!(bare(&read(&yaml(&tree))), bare(&tree));
            prop_assert_eq!(bare(&read(&yaml_with_places(&tree))), bare(&tree));
        }
    }

    #[test]
    fn what_needs_no_quotes_stays_as_it_was() {
        let text = "a: 0755\nb:\n  c: [yes, :1, x]\n  d: {e: 1.5h, f: null}\n  g:\n    - h: {i: -1}\n      j: []\n";
        assert_eq!(yaml(&read(text)), text.replace("yes, :1", "yes, \":1\""));
    }
}
