//! Typed access to the merged tree.
//!
//! Must not know the sections. Invariants: a key that is absent gets its default; every key that is asked for is remembered
//! with its value and place, secrets as `(set)`; a value that does not fit is an error that names the key and what was
//! expected, never the value.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, ConfigErrors, Place};
use super::node::{Node, Value};
use super::relative::{Chosen, RelativePaths, choose};

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(set)")
    }
}

/// A key in force: what it is and where that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The key with dots.
    pub key: String,
    /// Its value as text; `(set)` for secrets.
    pub value: String,
    /// Where it was written; `None` is the default.
    pub place: Option<Place>,
}

impl fmt::Display for InForce {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}  # ", self.key, self.value)?;
        match &self.place {
            Some(place) => write!(out, "{place}"),
            None => out.write_str("default"),
        }
    }
}

/// Reads keys and gathers what there is to say about them.
pub(super) struct Reader<'a> {
    tree: &'a Node,
    /// Whether certificates and keys that the files name are read.
    pub(super) looks_at_certificates: bool,
    /// Whether the `users_file` is read.
    pub(super) reads_users_file: bool,
    pub(super) errors: ConfigErrors,
    pub(super) warnings: Vec<String>,
    pub(super) notes: Vec<String>,
    pub(super) in_force: Vec<InForce>,
    pub(super) by_working_directory: Vec<String>,
    files: &'a [PathBuf],
    relative_paths: RelativePaths,
}

impl<'a> Reader<'a> {
    pub(super) fn new(tree: &'a Node, files: &'a [PathBuf], looks_at_certificates: bool) -> Self {
        let mut reader = Self {
            tree,
            looks_at_certificates,
            reads_users_file: true,
            errors: ConfigErrors::default(),
            warnings: Vec::new(),
            notes: Vec::new(),
            in_force: Vec::new(),
            by_working_directory: Vec::new(),
            files,
            relative_paths: RelativePaths::Unclear,
        };
        // Before any path is read.
        reader.relative_paths = reader.choice(
            "relative_paths",
            RelativePaths::Unclear,
            &[
                ("config_directory", RelativePaths::ConfigDirectory),
                ("working_directory", RelativePaths::WorkingDirectory),
            ],
        );
        reader
    }

    /// The node at `key`; a null counts as absent.
    pub(super) fn node(&self, key: &str) -> Option<&'a Node> {
        self.tree.find(key)
    }

    /// Whether `key` stands there, be it with nothing behind it.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.tree.find_even_null(key).is_some()
    }

    pub(super) fn place(&self, key: &str) -> Option<&'a Place> {
        self.tree.find_even_null(key).map(|node| &node.place)
    }

    /// An error about `key`, at its place if it has one.
    pub(super) fn refuse(&mut self, key: &str, message: &str, hint: &str) {
        self.errors
            .push(ConfigError::new(self.place(key), key, message).hint(hint));
    }

    /// A warning about `key`, with its place if it has one.
    pub(super) fn warn(&mut self, key: &str, message: &str) {
        let text = match self.place(key) {
            Some(place) => format!("{place}: {key}: {message}"),
            None => format!("{key}: {message}"),
        };
        self.warnings.push(text);
    }

    pub(super) fn remember(&mut self, key: &str, value: impl fmt::Display) {
        self.in_force.push(InForce {
            key: key.to_owned(),
            value: value.to_string(),
            place: self.place(key).cloned(),
        });
    }

    pub(super) fn text(&mut self, key: &str, default: &str) -> String {
        let value = self
            .scalar(key)
            .map_or(default, |(text, _)| text)
            .to_owned();
        self.remember(key, shown(&value));
        value
    }

    pub(super) fn text_if_set(&mut self, key: &str) -> Option<String> {
        let value = self.scalar(key).map(|(text, _)| text.to_owned());
        self.remember(
            key,
            value.as_deref().map_or_else(|| "(none)".to_owned(), shown),
        );
        value
    }

    pub(super) fn secret(&mut self, key: &str) -> Option<Secret> {
        let value = self
            .scalar(key)
            .filter(|(text, _)| !text.is_empty())
            .map(|(text, _)| Secret(text.to_owned()));
        self.remember(key, if value.is_some() { "(set)" } else { "(none)" });
        value
    }

    /// The path at `key`, absolute.
    pub(super) fn path_if_set(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.scalar(key).map(|(text, _)| text);
        let path = text
            .filter(|text| !text.is_empty())
            .map(|text| self.absolute(key, Path::new(text)));
        let told = path.as_ref().map_or_else(
            || "(none)".to_owned(),
            |path| shown(&path.display().to_string()),
        );
        self.remember(key, told);
        path
    }

    /// The path at `key`, absolute.
    pub(super) fn path(&mut self, key: &str, default: PathBuf) -> PathBuf {
        let value = match self.scalar(key) {
            Some((text, _)) if !text.is_empty() => self.absolute(key, Path::new(text)),
            _ => default,
        };
        self.remember(key, shown(&value.display().to_string()));
        value
    }

    /// Where a path leads that may be relative.
    fn absolute(&mut self, key: &str, path: &Path) -> PathBuf {
        if path.is_absolute() {
            return path.to_owned();
        }
        // A variable lies in no directory.
        let file = self.files.iter().find(|file| {
            self.place(key)
                .is_some_and(|place| place.is_in(&Place::file(file)))
        });
        let chosen = match choose(path, file.map(PathBuf::as_path), self.relative_paths) {
            Ok(chosen) => chosen,
            Err(error) => {
                self.refuse(
                    key,
                    &format!("this relative path cannot be used: {error}"),
                    "write the full path",
                );
                return path.to_owned();
            }
        };
        match chosen {
            Chosen::One(path) => path,
            Chosen::ByWorkingDirectory(path) => {
                self.by_working_directory.push(key.to_owned());
                path
            }
            Chosen::Neither { working, config } => {
                self.by_working_directory.push(key.to_owned());
                self.notes.push(format!(
                    "{key}: neither {} nor {} exists; it is {}, in the working directory",
                    working.display(),
                    config.display(),
                    working.display()
                ));
                working
            }
            Chosen::Both { working, config } => {
                self.refuse(
                    key,
                    &format!(
                        "this relative path means two places: {} and {}",
                        config.display(),
                        working.display()
                    ),
                    "write the full path, or `relative_paths: config_directory` or `working_directory` for all of them",
                );
                config
            }
        }
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        let value = match self.scalar(key) {
            None => default,
            Some((text, plain)) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" if plain => true,
                "false" | "no" | "off" if plain => false,
                _ => {
                    self.refuse(key, "must be true or false", "write it without quotes");
                    default
                }
            },
        };
        self.remember(key, value);
        value
    }

    /// A whole number: plain decimal digits only. YAML would read `0755`, `1e3` and `1_000` in ways that few people expect.
    pub(super) fn number(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let value = match self.scalar(key) {
            None => default,
            Some((text, plain)) => match whole_number(text).filter(|_| plain) {
                Some(number) if range.contains(&number) => number,
                _ => {
                    let expected = format!(
                        "must be a whole number from {} to {}",
                        range.start(),
                        range.end()
                    );
                    self.refuse(
                        key,
                        &expected,
                        "decimal digits only: no unit, quotes, sign or leading zero",
                    );
                    default
                }
            },
        };
        self.remember(key, value);
        value
    }

    /// The same for sizes and counts in memory.
    pub(super) fn count(&mut self, key: &str, default: usize, range: RangeInclusive<u64>) -> usize {
        let number = self.number(key, u64::try_from(default).unwrap_or(u64::MAX), range);
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    /// One of these words.
    pub(super) fn choice<T: Copy + PartialEq>(
        &mut self,
        key: &str,
        default: T,
        words: &[(&str, T)],
    ) -> T {
        let value = match self.scalar(key) {
            None => default,
            Some((text, _)) => {
                let known = words
                    .iter()
                    .find(|(word, _)| word.eq_ignore_ascii_case(text));
                known.map_or_else(
                    || {
                        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                        let hint = format!("one of {}", names.join(", "));
                        self.refuse(key, "not a word that is known here", &hint);
                        default
                    },
                    |(_, value)| *value,
                )
            }
        };
        let word = words.iter().find(|(_, known)| *known == value);
        self.remember(key, word.map_or("", |(word, _)| word));
        value
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let texts = match self.node(key) {
            None => Vec::new(),
            Some(node) => super::accounts::texts(node, key, &mut self.errors),
        };
        self.remember(
            key,
            format!(
                "[{}]",
                texts
                    .iter()
                    .map(|text| shown(text))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        );
        texts
    }

    /// The text at `key`, and whether it stands there without quotes.
    pub(super) fn scalar(&mut self, key: &str) -> Option<(&'a str, bool)> {
        let node = self.node(key)?;
        if let Value::Scalar { text, plain } = &node.value {
            return Some((text, *plain));
        }
        let message = format!("must be a single value, not {}", node.kind());
        self.errors
            .push(ConfigError::new(Some(&node.place), key, message));
        None
    }
}

/// Decimal digits without a leading zero.
pub(super) fn whole_number(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// A value for people: empty and unprintable text stays visible.
fn shown(text: &str) -> String {
    let plain =
        !text.is_empty() && text.chars().all(|char| !char.is_control()) && text.trim() == text;
    if plain {
        text.to_owned()
    } else {
        format!("{text:?}")
    }
}
