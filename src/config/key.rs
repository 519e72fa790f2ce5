//! What a key is: its path, whose key it is, what becomes of it, which values it takes, and what people are told about it.
//!
//! A key is declared once, by `keys!` in the file of the section that reads it. All else follows from that row: whether the key
//! is known, whether a `REGISTRY_…` variable reaches it, its default and range, its line in the file that `up` writes, its row
//! in `docs/configuration.md`, and whether a reload takes up a change. Must not know any key, nor how values are read
//! (`reader`). Invariant: a default or a range is written in one place.

use std::fmt::Display;
use std::ops::RangeInclusive;

/// Whose configuration file a key is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// distribution's `config.yml` (2.8 and 3.1); `REGISTRY_…` variables reach these keys.
    Distribution,
    /// `docker_auth`'s `auth_config.yml`.
    DockerAuth,
    /// Ours.
    Boathouse,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// A section reads it.
    Built,
    /// Accepted, with all below it, and this note. Only a key without which nothing that a client can see changes.
    Harmless(&'static str),
    /// An error, with all below it, unless the value is one of these, which change nothing. (`[]` is the empty list.) The
    /// feature is to be built.
    NotYet(&'static [&'static str]),
    /// The same for what is not going to be built, for this reason.
    Refused(&'static [&'static str], &'static str),
}

/// Values with which a feature is off.
pub(super) const OFF: &[&str] = &["false", "False", "FALSE", "no", "off", "", "[]", "{}"];

/// In which files a key may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    Config,
    UsersFile,
    Both,
}

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakesEffect {
    AtRestart,
    /// At SIGHUP, or when a `user` command tells the server.
    AtReload,
}

/// How a key appears in the file that the first run writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InTemplate {
    No,
    /// Only its comment, above the map of the keys below it.
    Heading,
    /// Behind `#`, with its default.
    Commented,
    /// With its default.
    Default,
    /// With this value.
    Value(&'static str),
    /// With a value that the first run decides.
    FirstRun(FirstRunValue),
}

/// What the first run decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstRunValue {
    Address,
    Hosts,
    RootDirectory,
    Bucket,
    BucketEndpoint,
    BucketRegion,
    AccessKeyFile,
    SecretKeyFile,
    CaCertificate,
    KeysDirectory,
    UsersFile,
    StateDirectory,
}

/// What does not depend on the type of a key's value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// With dots; `*` is any name, `[]` an item of a list.
    pub(super) path: &'static str,
    pub(super) source: Source,
    pub(super) fate: Fate,
    pub(super) files: Files,
    pub(super) takes_effect: TakesEffect,
    pub(super) in_template: InTemplate,
    /// What to do instead, for a key that is not supported.
    pub(super) hint: &'static str,
    /// The text of its documentation: the first paragraph is also in the file that `up` writes.
    pub(super) doc: &'static str,
}

impl Row {
    const fn new(path: &'static str, source: Source) -> Self {
        Self {
            path,
            source,
            fate: Fate::Built,
            files: Files::Config,
            takes_effect: TakesEffect::AtRestart,
            in_template: InTemplate::No,
            hint: "remove the key if you can do without it",
            doc: "",
        }
    }

    /// The paragraphs of its documentation.
    pub(super) fn paragraphs(&self) -> Vec<String> {
        let joined = |paragraph: &str| {
            let lines: Vec<&str> = paragraph.lines().map(str::trim).collect();
            lines.join(" ").trim().to_owned()
        };
        self.doc.split("\n\n").map(joined).collect()
    }

    /// The path as people write it: `acl[].match`.
    pub(super) fn shown_path(&self) -> String {
        self.path.replace(".[]", "[]")
    }
}

/// A key, with the kind of its values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<K> {
    /// With dots.
    pub(super) path: &'static str,
    pub(super) row: Row,
    pub(super) kind: K,
}

/// A key of distribution's `config.yml`.
pub(super) const fn distribution(path: &'static str) -> Row {
    Row::new(path, Source::Distribution)
}

/// A key of `docker_auth`'s `auth_config.yml`.
pub(super) const fn docker_auth(path: &'static str) -> Row {
    Row::new(path, Source::DockerAuth)
}

/// A key of ours.
pub(super) const fn ours(path: &'static str) -> Row {
    Row::new(path, Source::Boathouse)
}

/// `true` or `false`, with the default.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag(pub(super) bool);

/// A whole number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<N> {
    pub(super) default: N,
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) unit: &'static str,
}

/// A whole number with a sign.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signed(pub(super) i32);

/// A duration as Go writes it, in whole seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seconds {
    pub(super) default: u64,
    pub(super) max: u64,
}

/// One of some words; a value may have several.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<T: 'static> {
    pub(super) default: T,
    pub(super) words: &'static [(&'static str, T)],
}

/// A text, with the default.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text(pub(super) &'static str);

/// A text that may be missing; an empty one is.
#[derive(Debug, Clone, Copy)]
pub(super) struct OptionalText;

/// A URL that may be missing.
#[derive(Debug, Clone, Copy)]
pub(super) struct OptionalUrl;

/// An address to listen on. By default every address, at this port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listen(pub(super) u16);

/// A secret that may be missing.
#[derive(Debug, Clone, Copy)]
pub(super) struct OptionalSecret;

/// A path, and which it is by default, in words.
#[derive(Debug, Clone, Copy)]
pub(super) struct FilePath(pub(super) &'static str);

/// A path that may be missing.
#[derive(Debug, Clone, Copy)]
pub(super) struct OptionalPath;

/// A list of texts, by default empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Texts;

/// A list of paths, by default empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paths;

/// What its section reads by code of its own: how it is written, and the default as YAML.
#[derive(Debug, Clone, Copy)]
pub(super) struct Special {
    written: &'static str,
    default: &'static str,
}

/// A key that is not read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unread;

macro_rules! kinds {
    ($( $name:ident($($argument:ident: $type:ty),*) -> $kind:ty = $value:expr; )*) => {
        impl Row {
            $(
                pub(super) const fn $name(self, $($argument: $type),*) -> Key<$kind> {
                    Key { path: self.path, row: self, kind: $value }
                }
            )*
        }
    };
}

kinds! {
    flag(default: bool) -> Flag = Flag(default);
    signed(default: i32) -> Signed = Signed(default);
    seconds(default: u64, max: u64) -> Seconds = Seconds { default, max };
    text(default: &'static str) -> Text = Text(default);
    optional_text() -> OptionalText = OptionalText;
    optional_url() -> OptionalUrl = OptionalUrl;
    listen(port: u16) -> Listen = Listen(port);
    optional_secret() -> OptionalSecret = OptionalSecret;
    path(default: &'static str) -> FilePath = FilePath(default);
    optional_path() -> OptionalPath = OptionalPath;
    texts() -> Texts = Texts;
    paths() -> Paths = Paths;
    special(written: &'static str, default: &'static str) -> Special = Special { written, default };
}

impl Row {
    /// A number within `range`; `unit` follows it in the documentation.
    pub(super) const fn number<N: Copy>(
        self,
        default: N,
        range: RangeInclusive<u64>,
        unit: &'static str,
    ) -> Key<Number<N>> {
        let (min, max) = (*range.start(), *range.end());
        Key {
            path: self.path,
            row: self,
            kind: Number {
                default,
                min,
                max,
                unit,
            },
        }
    }

    pub(super) const fn words<T: Copy>(
        self,
        default: T,
        words: &'static [(&'static str, T)],
    ) -> Key<Words<T>> {
        Key {
            path: self.path,
            row: self,
            kind: Words { default, words },
        }
    }

    pub(super) const fn harmless(mut self, why: &'static str) -> Key<Unread> {
        self.fate = Fate::Harmless(why);
        Key {
            path: self.path,
            row: self,
            kind: Unread,
        }
    }

    /// Not supported, unless the value is one of `unless`.
    pub(super) const fn not_yet(mut self, unless: &'static [&'static str]) -> Key<Unread> {
        self.fate = Fate::NotYet(unless);
        Key {
            path: self.path,
            row: self,
            kind: Unread,
        }
    }
}

impl Row {
    /// Not supported for this reason, unless the value is one of `unless`.
    pub(super) const fn refused(
        mut self,
        unless: &'static [&'static str],
        why: &'static str,
    ) -> Key<Unread> {
        self.fate = Fate::Refused(unless, why);
        Key {
            path: self.path,
            row: self,
            kind: Unread,
        }
    }
}

impl<K: Copy> Key<K> {
    /// In the file that `up` writes, behind `#`.
    pub(super) const fn commented(self) -> Self {
        self.in_template(InTemplate::Commented)
    }

    pub(super) const fn in_template(mut self, in_template: InTemplate) -> Self {
        self.row.in_template = in_template;
        self
    }

    pub(super) const fn in_files(mut self, files: Files) -> Self {
        self.row.files = files;
        self
    }

    pub(super) const fn at_reload(mut self) -> Self {
        self.row.takes_effect = TakesEffect::AtReload;
        self
    }

    pub(super) const fn hint(mut self, hint: &'static str) -> Self {
        self.row.hint = hint;
        self
    }

    pub(super) const fn doc(mut self, doc: &'static str) -> Self {
        self.row.doc = doc;
        self
    }
}

/// Declares keys, and a table of them. The comment above a key is its documentation: the first paragraph is also in
/// the file that `up` writes.
macro_rules! keys {
    (table $table:ident; $( $(#[doc = $doc:literal])+ $name:ident: $kind:ty = $key:expr; )*) => {
        $(
            pub(super) const $name: $crate::config::key::Key<$kind> = $key.doc(concat!($($doc, "\n"),+));
        )*
        const $table: &[&dyn $crate::config::key::Declared] = &[$(&$name),*];
    };
}
pub(super) use keys;

/// A section of the documentation, and the keys in it.
#[derive(Clone, Copy)]
pub(super) struct Family {
    pub(super) heading: &'static str,
    pub(super) intro: &'static str,
    /// Those that a section reads.
    pub(super) keys: &'static [&'static dyn Declared],
    /// Those that have no effect or are not supported.
    pub(super) unread: &'static [Key<Unread>],
}

/// A key of any kind.
pub(super) trait Declared: Sync {
    fn row(&self) -> &Row;

    /// What may be written, in words; empty for a key that is not read.
    fn expected(&self) -> String;

    /// The default as YAML, or in words; empty if there is none.
    fn default(&self) -> String;
}

/// A kind of values, in words.
pub(super) trait Kind {
    fn expected(&self) -> String;
    fn default(&self) -> String;
}

impl<K: Kind + Sync> Declared for Key<K> {
    fn row(&self) -> &Row {
        &self.row
    }

    fn expected(&self) -> String {
        self.kind.expected()
    }

    fn default(&self) -> String {
        self.kind.default()
    }
}

impl Kind for Flag {
    fn expected(&self) -> String {
        "`true` or `false`".to_owned()
    }

    fn default(&self) -> String {
        self.0.to_string()
    }
}

impl<N: Display> Kind for Number<N> {
    fn expected(&self) -> String {
        format!("{} to {} {}", self.min, self.max, self.unit)
            .trim_end()
            .to_owned()
    }

    fn default(&self) -> String {
        self.default.to_string()
    }
}

impl Kind for Signed {
    fn expected(&self) -> String {
        "whole number".to_owned()
    }

    fn default(&self) -> String {
        self.0.to_string()
    }
}

impl Kind for Seconds {
    fn expected(&self) -> String {
        format!("duration (`30s`, `1m30s`), at most {} s", self.max)
    }

    fn default(&self) -> String {
        format!("{}s", self.default)
    }
}

impl<T: PartialEq> Kind for Words<T> {
    fn expected(&self) -> String {
        // An empty word is the default, which is said beside it.
        let words = self.words.iter().filter(|(word, _)| !word.is_empty());
        let words: Vec<String> = words.map(|(word, _)| format!("`{word}`")).collect();
        words.join(", ")
    }

    fn default(&self) -> String {
        self.word(&self.default).to_owned()
    }
}

impl<T: PartialEq> Words<T> {
    /// The first word that has this value; empty if none has.
    pub(super) fn word(&self, value: &T) -> &'static str {
        let word = self.words.iter().find(|(_, known)| known == value);
        word.map_or("", |(word, _)| word)
    }
}

impl Kind for Text {
    fn expected(&self) -> String {
        "text".to_owned()
    }

    fn default(&self) -> String {
        if self.0.is_empty() {
            "\"\"".to_owned()
        } else {
            self.0.to_owned()
        }
    }
}

impl Kind for Listen {
    fn expected(&self) -> String {
        "`HOST:PORT`, `[IPV6]:PORT` or `:PORT`".to_owned()
    }

    fn default(&self) -> String {
        format!(":{}", self.0)
    }
}

impl Kind for FilePath {
    fn expected(&self) -> String {
        "path".to_owned()
    }

    fn default(&self) -> String {
        self.0.to_owned()
    }
}

impl Kind for Texts {
    fn expected(&self) -> String {
        "list of texts".to_owned()
    }

    fn default(&self) -> String {
        "[]".to_owned()
    }
}

impl Kind for Paths {
    fn expected(&self) -> String {
        "list of paths".to_owned()
    }

    fn default(&self) -> String {
        "[]".to_owned()
    }
}

impl Kind for Special {
    fn expected(&self) -> String {
        self.written.to_owned()
    }

    fn default(&self) -> String {
        self.default.to_owned()
    }
}

macro_rules! optional_kinds {
    ($( $kind:ty: $expected:literal; )*) => {
        $(
            impl Kind for $kind {
                fn expected(&self) -> String {
                    $expected.to_owned()
                }

                /// An empty text is none.
                fn default(&self) -> String {
                    "\"\"".to_owned()
                }
            }
        )*
    };
}

optional_kinds! {
    OptionalText: "text";
    OptionalUrl: "URL without a path";
    OptionalSecret: "secret text";
    OptionalPath: "path";
}

impl Kind for Unread {
    fn expected(&self) -> String {
        String::new()
    }

    fn default(&self) -> String {
        String::new()
    }
}
