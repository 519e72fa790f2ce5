//! Typed access to the merged tree.
//!
//! Must not know the sections. Invariants: a key that is absent gets its default; every key that is read is remembered with
//! its value and place; a value that does not fit is an error that names the key and what was expected, never the value.

use std::fmt;
use std::path::{Path, PathBuf};

use super::duration;
use super::error::{ConfigError, ConfigErrors, Place};
use super::key::{
    FilePath, Flag, Key, Listen, Number, OptionalPath, OptionalSecret, OptionalText, OptionalUrl,
    Paths, Seconds, Signed, Text, Texts, Words,
};
use super::node::{self, Node};
use super::relative::{Chosen, RelativePaths, choose};
use crate::host_port::{BaseUrl, HostPort};

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

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

/// A value in force, in the type in which two of them are compared. `Display` and `Debug` show no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The key has no value.
    None,
    /// `true` or `false`
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A duration.
    Seconds(u64),
    /// A text, a word, a URL or an address.
    Text(String),
    /// A path.
    Path(PathBuf),
    /// A list.
    List(Vec<String>),
    /// A value that is not shown.
    Secret(Secret),
    /// What is in a file or a section, in words.
    Summary(String),
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("(none)"),
            Self::Flag(value) => value.fmt(out),
            Self::Number(value) => value.fmt(out),
            Self::Seconds(value) => write!(out, "{value}s"),
            Self::Text(value) => out.write_str(&shown(value)),
            Self::Path(value) => out.write_str(&shown(&value.display().to_string())),
            Self::List(values) => {
                let values: Vec<String> = values.iter().map(|value| shown(value)).collect();
                write!(out, "[{}]", values.join(", "))
            }
            Self::Secret(value) => write!(out, "{value:?}"),
            Self::Summary(value) => out.write_str(value),
        }
    }
}

/// A key in force: its value, and where that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The key with dots.
    pub key: String,
    /// Its value.
    pub value: Value,
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

/// Where a relative path of a key leads.
#[derive(Debug, Clone)]
pub(super) struct FullPath {
    pub(super) key: String,
    /// As it is written.
    pub(super) written: PathBuf,
    pub(super) path: PathBuf,
}

/// Reads keys and gathers what there is to say about them.
pub(super) struct Reader<'a> {
    tree: &'a Node,
    /// Whether certificates and keys that the files name are read.
    pub(super) looks_at_certificates: bool,
    /// Whether the `users_file` is read.
    pub(super) reads_users_file: bool,
    /// `PATH`
    pub(super) search_path: &'a str,
    /// Where a service or a user keeps what grows, if that can be found out.
    pub(super) usual_state_directory: Option<PathBuf>,
    pub(super) errors: ConfigErrors,
    pub(super) warnings: Vec<String>,
    pub(super) notes: Vec<String>,
    pub(super) in_force: Vec<InForce>,
    pub(super) by_working_directory: Vec<String>,
    /// What relative paths lead to.
    pub(super) full_paths: Vec<FullPath>,
    /// The configuration files, in their order.
    pub(super) files: &'a [PathBuf],
    /// Where relative paths start; it must be read before any path.
    pub(super) relative_paths: RelativePaths,
}

impl<'a> Reader<'a> {
    pub(super) fn new(tree: &'a Node, files: &'a [PathBuf], looks_at_certificates: bool) -> Self {
        Self {
            tree,
            looks_at_certificates,
            reads_users_file: true,
            search_path: "",
            usual_state_directory: None,
            errors: ConfigErrors::default(),
            warnings: Vec::new(),
            notes: Vec::new(),
            in_force: Vec::new(),
            by_working_directory: Vec::new(),
            full_paths: Vec::new(),
            files,
            relative_paths: RelativePaths::Unclear,
        }
    }

    /// The value of `key`, or its default.
    pub(super) fn get<K: Readable>(&mut self, key: &Key<K>) -> K::Value {
        let (value, typed) = key.kind.read(self, key.path);
        self.record(key.path, typed);
        value
    }

    /// The path at `key`, absolute; `default` if there is none.
    pub(super) fn path(&mut self, key: &Key<FilePath>, default: PathBuf) -> PathBuf {
        let value = self.path_at(key.path).unwrap_or(default);
        self.record(key.path, Value::Path(value.clone()));
        value
    }

    /// The node at `key`; a null counts as absent.
    pub(super) fn node(&self, key: &str) -> Option<&'a Node> {
        self.tree.find(key)
    }

    /// Whether `key` is present, even without a value.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.tree.find_even_null(key).is_some()
    }

    pub(super) fn place(&self, key: &str) -> Option<&'a Place> {
        self.tree.find_even_null(key).map(|node| &node.place)
    }

    /// The place of `key` or, where it is missing, of the section that lacks it.
    fn place_or_section(&self, mut key: &str) -> Option<&'a Place> {
        loop {
            let place = self.place(key);
            if place.is_some() {
                return place;
            }
            (key, _) = key.rsplit_once('.')?;
        }
    }

    /// An error about `key`, with its place or that of its section.
    pub(super) fn refuse(&mut self, key: &str, message: &str, hint: &str) {
        self.errors
            .push(ConfigError::new(self.place_or_section(key), key, message).hint(hint));
    }

    /// A warning about `key`, with its place or that of its section.
    pub(super) fn warn(&mut self, key: &str, message: &str) {
        let text = match self.place_or_section(key) {
            Some(place) => format!("{place}: {key}: {message}"),
            None => format!("{key}: {message}"),
        };
        self.warnings.push(text);
    }

    /// Something about a section, in words.
    pub(super) fn summarise(&mut self, key: &str, summary: impl fmt::Display) {
        self.record(key, Value::Summary(summary.to_string()));
    }

    pub(super) fn record(&mut self, key: &str, value: Value) {
        self.in_force.push(InForce {
            key: key.to_owned(),
            value,
            place: self.place(key).cloned(),
        });
    }

    fn path_at(&mut self, key: &str) -> Option<PathBuf> {
        let (text, _) = self.scalar(key)?;
        (!text.is_empty()).then(|| self.absolute(key, Path::new(text)))
    }

    /// Where a path leads that may be relative.
    pub(super) fn absolute(&mut self, key: &str, path: &Path) -> PathBuf {
        if path.is_absolute() {
            return path.to_owned();
        }
        let full = self.where_it_leads(key, path);
        self.full_paths.push(FullPath {
            key: key.to_owned(),
            written: path.to_owned(),
            path: full.clone(),
        });
        full
    }

    fn where_it_leads(&mut self, key: &str, path: &Path) -> PathBuf {
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

    /// The text at `key`, and whether it is written without quotes.
    pub(super) fn scalar(&mut self, key: &str) -> Option<(&'a str, bool)> {
        let node = self.node(key)?;
        if let node::Value::Scalar { text, plain } = &node.value {
            return Some((text, *plain));
        }
        let message = format!("must be a single value, not {}", node.kind());
        self.errors
            .push(ConfigError::new(Some(&node.place), key, message));
        None
    }
}

/// A kind of values that can be read.
pub(super) trait Readable {
    /// What the section gets.
    type Value;

    /// The value at `key`, in both forms. A value that does not fit is an error in `reader`, and the default counts.
    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (Self::Value, Value);
}

impl Readable for Flag {
    type Value = bool;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (bool, Value) {
        let value = match reader.scalar(key) {
            None => self.0,
            Some((text, plain)) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" if plain => true,
                "false" | "no" | "off" if plain => false,
                _ => {
                    reader.refuse(key, "must be true or false", "write it without quotes");
                    self.0
                }
            },
        };
        (value, Value::Flag(value))
    }
}

/// Plain decimal digits only. YAML would read `0755`, `1e3` and `1_000` in ways that few people expect.
impl<N: Copy + TryFrom<u64> + TryInto<i64>> Readable for Number<N> {
    type Value = N;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (N, Value) {
        let number = |text| {
            let number = whole_number(text)?;
            N::try_from(number)
                .ok()
                .filter(|_| (self.min..=self.max).contains(&number))
        };
        let value = match reader.scalar(key) {
            None => self.default,
            Some((text, plain)) => number(text).filter(|_| plain).unwrap_or_else(|| {
                let expected = format!("must be a whole number from {} to {}", self.min, self.max);
                let hint = "decimal digits only: no unit, quotes, sign or leading zero";
                reader.refuse(key, &expected, hint);
                self.default
            }),
        };
        (value, Value::Number(value.try_into().unwrap_or(i64::MAX)))
    }
}

impl Readable for Signed {
    type Value = i32;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (i32, Value) {
        let value = match reader.scalar(key) {
            None => self.0,
            Some((text, plain)) => text.parse().ok().filter(|_| plain).unwrap_or_else(|| {
                reader.refuse(
                    key,
                    "must be a whole number",
                    "decimal digits, with `-` before a negative one",
                );
                self.0
            }),
        };
        (value, Value::Number(value.into()))
    }
}

impl Readable for Seconds {
    type Value = u64;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (u64, Value) {
        let secs = match reader.scalar(key) {
            None => self.default,
            Some((text, _)) => {
                let secs = duration::whole_secs(text).filter(|secs| *secs <= self.max);
                secs.unwrap_or_else(|| {
                    let is_without_unit = whole_number(text).is_some();
                    let expected = if is_without_unit {
                        "a duration without a unit".to_owned()
                    } else {
                        format!("must be a duration of at most {} s", self.max)
                    };
                    reader.refuse(key, &expected, "written like `30s` or `1m30s`");
                    self.default
                })
            }
        };
        (secs, Value::Seconds(secs))
    }
}

impl<T: Copy + PartialEq> Readable for Words<T> {
    type Value = T;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (T, Value) {
        let value = match reader.scalar(key) {
            None => self.default,
            Some((text, _)) => {
                let mut words = self.words.iter();
                let known = words.find(|(word, _)| word.eq_ignore_ascii_case(text));
                known.map_or_else(
                    || {
                        // An empty word stands for the default.
                        let words = self.words.iter().map(|(word, _)| *word);
                        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
                        let hint = format!("one of {}", words.join(", "));
                        reader.refuse(key, "unknown value", &hint);
                        self.default
                    },
                    |(_, value)| *value,
                )
            }
        };
        (value, Value::Text(self.word(&value).to_owned()))
    }
}

impl Readable for Text {
    type Value = String;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (String, Value) {
        let text = reader.scalar(key).map_or(self.0, |(text, _)| text);
        (text.to_owned(), Value::Text(text.to_owned()))
    }
}

impl Readable for OptionalText {
    type Value = Option<String>;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (Option<String>, Value) {
        let text = reader.scalar(key).filter(|(text, _)| !text.is_empty());
        let text = text.map(|(text, _)| text.to_owned());
        (text.clone(), text.map_or(Value::None, Value::Text))
    }
}

impl Readable for OptionalUrl {
    type Value = Option<BaseUrl>;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (Option<BaseUrl>, Value) {
        let (text, value) = OptionalText.read(reader, key);
        let url = text.and_then(|text| {
            let url = text.parse().ok();
            if url.is_none() {
                reader.refuse(
                    key,
                    "must be a URL without a path",
                    "written like `https://registry.example:5000`",
                );
            }
            url
        });
        (url, value)
    }
}

impl Readable for Listen {
    type Value = HostPort;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (HostPort, Value) {
        let address = match reader.scalar(key) {
            None => HostPort::every_address(self.0),
            Some((text, _)) => text.parse().unwrap_or_else(|_| {
                reader.refuse(
                    key,
                    "must be an address and a port",
                    "written like `:5000`, `127.0.0.1:5000` or `[::1]:5000`",
                );
                HostPort::every_address(self.0)
            }),
        };
        let value = Value::Text(address.to_string());
        (address, value)
    }
}

impl Readable for OptionalSecret {
    type Value = Option<Secret>;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (Option<Secret>, Value) {
        let (text, _) = OptionalText.read(reader, key);
        let secret = text.map(Secret::new);
        (secret.clone(), secret.map_or(Value::None, Value::Secret))
    }
}

impl Readable for OptionalPath {
    type Value = Option<PathBuf>;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (Option<PathBuf>, Value) {
        let path = reader.path_at(key);
        (path.clone(), path.map_or(Value::None, Value::Path))
    }
}

impl Readable for Texts {
    type Value = Vec<String>;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (Vec<String>, Value) {
        let texts = match reader.node(key) {
            None => Vec::new(),
            Some(node) => super::accounts::texts(node, key, &mut reader.errors),
        };
        (texts.clone(), Value::List(texts))
    }
}

impl Readable for Paths {
    type Value = Vec<PathBuf>;

    fn read(&self, reader: &mut Reader<'_>, key: &str) -> (Vec<PathBuf>, Value) {
        let (texts, _) = Texts.read(reader, key);
        let texts = texts.iter().filter(|text| !text.is_empty());
        let paths: Vec<PathBuf> = texts
            .map(|text| reader.absolute(key, Path::new(text)))
            .collect();
        let shown = paths.iter().map(|path| path.display().to_string());
        let shown = Value::List(shown.collect());
        (paths, shown)
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
