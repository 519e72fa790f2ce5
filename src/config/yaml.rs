//! YAML text into trees.
//!
//! Must not know any key. Invariants: a plain scalar keeps the text in the file (`0755`, `0123`, `yes`), and only
//! the key that is read decides what it means; errors carry a line and never any text of the file.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Error as YamlError, MergeKeyPolicy, Spanned};

use super::error::{ConfigError, Place};
use super::node::{Entry, Node, Value};

/// Longest text taken: a lab with ten thousand users needs about 2 MiB.
pub(super) const TEXT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Deepest nesting: the deepest known key has six levels; more is a mistake or an attack on the stack.
const DEPTH_MAX: usize = 32;
/// Most nodes, aliases expanded: twenty for each of ten thousand users.
const NODES_MAX: usize = 200_000;
/// Most documents in one text.
const DOCUMENTS_MAX: usize = 64;

/// The documents of `text`; empty ones are left out.
pub(super) fn documents(text: &str, source: &Place) -> Result<Vec<Node>, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > TEXT_BYTES_MAX {
        return Err(ConfigError::new(
            Some(source),
            "",
            format!(
                "longer than {} MiB, the most that a configuration may have",
                TEXT_BYTES_MAX >> 20
            ),
        ));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_documents: DOCUMENTS_MAX,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Merge,
        reject_unsupported_tags: true,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
        // An excerpt would print neighbouring lines, and those may hold secrets.
        with_snippet: false,
    };
    let reader = Reader { text, source };
    serde_saphyr::from_multiple_with_options::<Spanned<Raw>>(text, options)
        .map_err(|error| describe(&error, source))?
        .into_iter()
        .map(|document| reader.node(document))
        .collect()
}

/// What the YAML reader hands over, before plain scalars get their own text back.
enum Raw {
    Null,
    Text(String),
    /// A scalar that YAML would type: a number, a truth value.
    Typed,
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a scalar, a list or a map")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Typed)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Typed)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Raw, E> {
        Ok(Raw::Typed)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Typed)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Raw, E> {
        Ok(Raw::Typed)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Typed)
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

/// Turns what was read into nodes, with the text at hand.
struct Reader<'a> {
    text: &'a str,
    source: &'a Place,
}

impl Reader<'_> {
    fn node(&self, raw: Spanned<Raw>) -> Result<Node, ConfigError> {
        let place = self.source.at_line(raw.referenced.line());
        let written = self.written(raw.defined.span());
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Text(text) => Value::Scalar {
                plain: !written.is_some_and(|written| written.starts_with(['"', '\'', '|', '>'])),
                text,
            },
            Raw::Typed => Value::Scalar {
                plain: !written.is_some_and(|written| written.starts_with(['"', '\''])),
                text: written
                    .map(|written| written.trim_matches(['"', '\'']).to_owned())
                    .ok_or_else(|| {
                        ConfigError::new(Some(&place), "", "a value that cannot be read here")
                            .hint("write it in quotes")
                    })?,
            },
            Raw::List(items) => Value::List(
                items
                    .into_iter()
                    .map(|item| self.node(item))
                    .collect::<Result<_, _>>()?,
            ),
            Raw::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| self.entry(key, value))
                    .collect::<Result<_, _>>()?,
            ),
        };
        Ok(Node { place, value })
    }

    fn entry(&self, key: Spanned<Raw>, value: Spanned<Raw>) -> Result<Entry, ConfigError> {
        let key = self.node(key)?;
        match key.value {
            Value::Scalar { text, .. } => Ok(Entry {
                place: key.place,
                key: text,
                value: self.node(value)?,
            }),
            Value::Null | Value::List(_) | Value::Map(_) => {
                Err(
                    ConfigError::new(Some(&key.place), "", "the name of a key must be text")
                        .hint("write it in quotes (`\"\":` is the empty name)"),
                )
            }
        }
    }

    fn written(&self, span: serde_saphyr::Span) -> Option<&str> {
        let start = usize::try_from(span.byte_offset()?).ok()?;
        let length = usize::try_from(span.byte_len()?).ok()?;
        self.text
            .get(start..start.checked_add(length)?)
            .filter(|written| !written.is_empty())
    }
}

/// The reader's own texts may quote the file, so that only its kinds are used.
fn describe(error: &YamlError, source: &Place) -> ConfigError {
    let error = error.without_snippet();
    let place = error.location().map_or_else(
        || source.clone(),
        |location| source.at_line(location.line()),
    );
    let (message, hint) = match error {
        YamlError::DuplicateMappingKey { .. } => ("duplicate key", "keep one of the two"),
        YamlError::Budget { .. }
        | YamlError::AliasReplayLimitExceeded { .. }
        | YamlError::AliasExpansionLimitExceeded { .. }
        | YamlError::AliasReplayStackDepthExceeded { .. } => (
            "nested too deep, or more entries than a configuration may have",
            "split what was generated, or remove anchors that multiply",
        ),
        YamlError::UnknownAnchor { .. } => (
            "an alias (`*name`) whose anchor (`&name`) is not in this document",
            "a text that begins with `*` needs quotes",
        ),
        YamlError::UnsupportedTag { .. } | YamlError::InvalidScalar { .. } => (
            "a tag (`!name`) that does not fit its value",
            "remove the tag; a text that begins with `!` needs quotes",
        ),
        YamlError::MergeValueNotMapOrSeqOfMaps { .. } => (
            "`<<` merges maps, and this is none",
            "give it an alias of a map",
        ),
        _ => (
            "this is not YAML",
            "look for a tab in the indentation, a missing space after a colon, and quotes or brackets that are not closed, \
             here and on the line above",
        ),
    };
    ConfigError::new(Some(&place), "", message).hint(hint)
}
