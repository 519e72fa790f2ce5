//! Patterns of an ACL rule: a glob, or a regular expression between slashes, with placeholders.
//!
//! Must not know rules' order or actions. Invariants: the kind of matcher is fixed when the rule is read; whatever is
//! substituted stands for itself, letter by letter, so a request can never bring a pattern of its own; an empty value never
//! makes a pattern match more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use regex::bytes::Regex;

use super::acl::RuleText;
use super::bounded::Bounded;
use super::glob::Glob;
use super::go_regex::{self, RegexError};

/// More combinations of label values than this are not tried: nobody's rule needs them, and each costs a compilation.
const LABEL_COMBINATIONS_MAX: usize = 1_000;

/// Filled expressions remembered per pattern (at most twice as many): the accounts that are at work at a time. An ordinary
/// one takes some 10 KiB.
const COMPILED_MAX: usize = 128;

/// Longer ones are compiled each time: a request brings what they are filled with.
const COMPILED_LENGTH_MAX: usize = 1_024;

/// Stand-ins for placeholders while an expression is translated: private-use characters that no rule contains.
const STAND_IN_FIRST: u32 = 0xF_0000;
const STAND_IN_LAST: u32 = 0xF_00FF;

/// An expression that matches nothing, also with any repeat behind it (that binds to the last `\z`). Inside a class the regex
/// crate refuses it, and then the whole expression matches nothing.
const MATCHES_NOTHING: &str = r"\z.\z";

/// The four texts of a request that rules match and placeholders name.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    /// Who asks.
    pub account: &'a str,
    /// `repository`, `registry`, …
    pub resource_type: &'a str,
    /// The resource's name.
    pub name: &'a str,
    /// The service that the token is for.
    pub service: &'a str,
}

/// One of [`Fields`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    /// `account`
    Account,
    /// `type`
    Type,
    /// `name`
    Name,
    /// `service`
    Service,
}

impl Field {
    /// All of them, in the order of a rule.
    pub(super) const ALL: [Self; 4] = [Self::Account, Self::Type, Self::Name, Self::Service];

    /// Its text in a request.
    pub(super) fn of<'a>(self, fields: &Fields<'a>) -> &'a str {
        match self {
            Self::Account => fields.account,
            Self::Type => fields.resource_type,
            Self::Name => fields.name,
            Self::Service => fields.service,
        }
    }

    /// Its pattern in a rule.
    pub(super) fn of_rule(self, text: &RuleText) -> Option<&str> {
        match self {
            Self::Account => text.account.as_deref(),
            Self::Type => text.r#type.as_deref(),
            Self::Name => text.name.as_deref(),
            Self::Service => text.service.as_deref(),
        }
    }

    /// Its key in a rule.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Type => "type",
            Self::Name => "name",
            Self::Service => "service",
        }
    }

    /// The first letter of a capture's field may be a capital, as in `docker_auth`.
    fn from_capture(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| {
            let (key, name) = (field.key().as_bytes(), name.as_bytes());
            name.split_first().zip(key.split_first()).is_some_and(
                |((name_first, name_rest), (key_first, key_rest))| {
                    name_first.eq_ignore_ascii_case(key_first) && name_rest == key_rest
                },
            )
        })
    }
}

/// `${account:1}`: a group of the rule's own expression for a field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Capture {
    /// As written, so that `${account:01}` is found again.
    text: String,
    /// Whose expression.
    pub field: Field,
    /// Which group.
    pub group: usize,
}

impl Capture {
    /// The placeholder as written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The captures that a text makes available to all patterns of its rule. The search is `docker_auth`'s: from a `${` to
    /// the first `:digits}`, so that a plain placeholder before a capture hides it.
    pub(super) fn find_in(mut text: &str) -> Vec<Self> {
        let mut captures = Vec::new();
        while let Some(start) = text.find("${") {
            let behind = text.get(start + 2..).unwrap_or_default();
            let Some((name, digits)) = capture_end(behind) else {
                return captures;
            };
            let length = "${:}".len() + name.len() + digits.len();
            if let (Some(field), Ok(group), Some(whole)) = (
                Field::from_capture(name),
                digits.parse(),
                text.get(start..start + length),
            ) {
                captures.push(Self {
                    text: whole.to_owned(),
                    field,
                    group,
                });
            }
            text = text.get(start + length..).unwrap_or_default();
        }
        captures
    }
}

/// The shortest non-empty name and the digits behind it, of `name:digits}…`.
fn capture_end(text: &str) -> Option<(&str, &str)> {
    text.match_indices(':').find_map(|(colon, _)| {
        let (name, rest) = text.split_at_checked(colon)?;
        let (digits, _) = rest.get(1..)?.split_once('}')?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        (is_number && !name.is_empty()).then_some((name, digits))
    })
}

/// Values of captures for one request, by the text of the placeholder.
pub(super) type Captured = BTreeMap<String, String>;

/// What an empty value means where a placeholder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EmptyValue {
    /// Nothing matches there: for rules that grant. `/${account}/` of the anonymous caller would match every name otherwise,
    /// and `${account}*` every name of one level.
    MatchesNothing,
    /// It is the empty text, as `docker_auth` reads it: for rules that deny. Where such a rule did not match, a later one
    /// could grant.
    IsText,
}

/// A pattern, read once. Without a placeholder it is compiled then; with one, what it becomes for a request is compiled when
/// it is first needed and kept for a while.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    matcher: Matcher,
    empty_value: EmptyValue,
}

#[derive(Debug, Clone)]
enum Matcher {
    Glob(Glob),
    GlobTemplate(Vec<Piece>),
    Regex(Box<Regex>),
    RegexTemplate(Vec<Piece>, Compiled),
}

/// Expressions that a template became lately. A catalog asks a rule once for each of thousands of repositories, mostly with
/// the same account in it; to compile takes a thousand times as long as to match.
#[derive(Debug, Clone)]
struct Compiled(Arc<Mutex<Bounded<String, Option<Regex>>>>);

impl Compiled {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Bounded::new(COMPILED_MAX))))
    }

    /// Whether `text` matches `expression`; one that cannot be compiled matches nothing.
    fn is_match(&self, expression: String, text: &str) -> bool {
        let compile = |expression: &str| {
            #[cfg(test)]
            tests::COMPILATIONS.with(|count| count.set(count.get() + 1));
            go_regex::compile(expression).ok()
        };
        let known = {
            let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            table.get_mut(expression.clone()).map(|known| known.clone())
        };
        let regex = known.unwrap_or_else(|| {
            let regex = compile(&expression);
            if expression.len() <= COMPILED_LENGTH_MAX {
                let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                table.insert(expression, regex.clone());
            }
            regex
        });
        regex.is_some_and(|regex| regex.is_match(text.as_bytes()))
    }
}

/// A piece of a pattern with placeholders; text is ready for its matcher.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
    Capture(String),
    Label(String),
}

impl Pattern {
    /// Reads a pattern; `captures` are those of the whole rule.
    pub(super) fn parse(
        text: &str,
        captures: &BTreeSet<Capture>,
        empty_value: EmptyValue,
    ) -> Result<Self, PatternError> {
        let expression = text
            .strip_prefix('/')
            .and_then(|text| text.strip_suffix('/'))
            .filter(|expression| !expression.is_empty());
        let matcher = if let Some(expression) = expression {
            let pieces = split(expression, captures);
            if let [] | [Piece::Text(_)] = pieces.as_slice() {
                let translated = go_regex::translate(expression)?;
                Matcher::Regex(Box::new(go_regex::compile(&translated)?))
            } else {
                Matcher::RegexTemplate(translate_pieces(&pieces)?, Compiled::new())
            }
        } else {
            let mut pieces = split(text, captures);
            if let [] | [Piece::Text(_)] = pieces.as_slice() {
                Matcher::Glob(Glob::new(text))
            } else {
                unescape_placeholders(&mut pieces);
                Matcher::GlobTemplate(pieces)
            }
        };
        Ok(Self {
            matcher,
            empty_value,
        })
    }

    /// Whether this is a glob that can never match.
    pub(super) fn is_malformed(&self) -> bool {
        matches!(&self.matcher, Matcher::Glob(glob) if glob.is_malformed())
    }

    /// Whether `text` matches; a label placeholder stands for each of the caller's values in turn.
    pub(super) fn matches(
        &self,
        text: &str,
        fields: &Fields<'_>,
        captured: &Captured,
        labels: &BTreeMap<String, Vec<String>>,
    ) -> bool {
        let (pieces, compiled) = match &self.matcher {
            Matcher::Glob(glob) => return glob.matches(text),
            Matcher::Regex(regex) => return regex.is_match(text.as_bytes()),
            Matcher::GlobTemplate(pieces) => (pieces, None),
            Matcher::RegexTemplate(pieces, compiled) => (pieces, Some(compiled)),
        };
        let values = Values {
            fields,
            captured,
            empty_value: self.empty_value,
        };
        let matches_with = |chosen: &BTreeMap<&str, &str>| match compiled {
            Some(compiled) => {
                let expression = values.fill_expression(pieces, chosen);
                // `/${account}/` that became `//` matches nothing in any rule: docker_auth reads a glob there.
                let is_open = expression.is_empty()
                    || (values.may_open(pieces, chosen)
                        && compiled.is_match(expression.clone(), ""));
                !is_open && compiled.is_match(expression, text)
            }
            None => values
                .fill_glob(pieces, chosen)
                .is_some_and(|glob| Glob::new(&glob).matches(text)),
        };
        let sets: BTreeMap<&str, &[String]> = pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Label(label) => Some((label.as_str(), labels.get(label)?.as_slice())),
                _ => None,
            })
            .collect();
        matches_with(&BTreeMap::new())
            || (!sets.is_empty() && combinations(&sets).any(|chosen| matches_with(&chosen)))
    }

    /// The first placeholder whose value is empty, so that what it is in matches nothing; for explanations.
    pub(super) fn empty_placeholder(
        &self,
        fields: &Fields<'_>,
        captured: &Captured,
        labels: &BTreeMap<String, Vec<String>>,
    ) -> Option<String> {
        let (Matcher::GlobTemplate(pieces) | Matcher::RegexTemplate(pieces, _)) = &self.matcher
        else {
            return None;
        };
        let values = Values {
            fields,
            captured,
            empty_value: self.empty_value,
        };
        // The longest of a label's values: it is empty if all are, and if there is none.
        let longest = |values: &'_ Vec<String>| {
            let longest = values.iter().max_by_key(|value| value.len());
            longest.cloned().unwrap_or_default()
        };
        let longest: BTreeMap<&str, String> = labels
            .iter()
            .map(|(label, values)| (label.as_str(), longest(values)))
            .collect();
        let chosen = longest
            .iter()
            .map(|(&label, value)| (label, value.as_str()));
        let chosen = chosen.collect();
        let mut pieces_of_it = pieces.iter();
        pieces_of_it
            .find(|piece| values.is_nothing(piece, pieces, &chosen))
            .map(Piece::as_written)
    }

    /// The text of group `group` where `text` matches this expression; of a glob or a template, nothing.
    pub(super) fn capture(&self, text: &str, group: usize) -> Option<String> {
        let Matcher::Regex(regex) = &self.matcher else {
            return None;
        };
        let found = regex.captures(text.as_bytes())?;
        if group >= found.len() {
            return None;
        }
        let bytes = found.get(group).map_or(&b""[..], |part| part.as_bytes());
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// Every choice of one value per label, up to [`LABEL_COMBINATIONS_MAX`].
fn combinations<'a>(
    sets: &'a BTreeMap<&'a str, &'a [String]>,
) -> impl Iterator<Item = BTreeMap<&'a str, &'a str>> {
    let count = sets
        .values()
        .fold(1_usize, |count, values| count.saturating_mul(values.len()));
    (0..count.min(LABEL_COMBINATIONS_MAX)).map(move |mut choice| {
        let choose = |(&label, values): (&&'a str, &&'a [String])| {
            let value = values.get(choice % values.len())?;
            choice /= values.len();
            Some((label, value.as_str()))
        };
        sets.iter().filter_map(choose).collect()
    })
}

/// Splits a text at its placeholders.
fn split(text: &str, captures: &BTreeSet<Capture>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some((piece, length)) = placeholder(rest, captures) {
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(piece);
            rest = rest.get(length..).unwrap_or_default();
        } else {
            let mut characters = rest.chars();
            plain.extend(characters.next());
            rest = characters.as_str();
        }
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    pieces
}

/// The placeholder at the start of `text`, and its length.
fn placeholder(text: &str, captures: &BTreeSet<Capture>) -> Option<(Piece, usize)> {
    let inside = text.strip_prefix("${")?;
    if let Some(capture) = captures
        .iter()
        .find(|capture| text.starts_with(&capture.text))
    {
        return Some((Piece::Capture(capture.text.clone()), capture.text.len()));
    }
    let (word, _) = inside.split_once('}')?;
    let length = word.len() + "${}".len();
    if let Some(label) = word.strip_prefix("labels:") {
        return Some((Piece::Label(label.to_owned()), length));
    }
    let field = Field::ALL.into_iter().find(|field| field.key() == word)?;
    Some((Piece::Field(field), length))
}

/// A backslash before a placeholder would quote only the first letter of the value, or undo its quoting: it is dropped,
/// as the value is quoted anyway.
fn unescape_placeholders(pieces: &mut [Piece]) {
    let Some((_, before_last)) = pieces.split_last_mut() else {
        return;
    };
    for piece in before_last {
        if let Piece::Text(text) = piece {
            let backslashes = text.len() - text.trim_end_matches('\\').len();
            if backslashes % 2 == 1 {
                text.pop();
            }
        }
    }
}

/// Translates an expression with its placeholders in place.
fn translate_pieces(pieces: &[Piece]) -> Result<Vec<Piece>, PatternError> {
    let is_stand_in =
        |character: &char| (STAND_IN_FIRST..=STAND_IN_LAST).contains(&u32::from(*character));
    let mut joined = String::new();
    let mut stand_ins = BTreeMap::new();
    for (number, piece) in (STAND_IN_FIRST..=STAND_IN_LAST).zip(pieces) {
        match piece {
            Piece::Text(text) if text.chars().any(|character| is_stand_in(&character)) => {
                return Err(PatternError::Unsupported);
            }
            Piece::Text(text) => joined.push_str(text),
            placeholder => {
                let stand_in = char::from_u32(number).ok_or(PatternError::Unsupported)?;
                stand_ins.insert(stand_in, placeholder.clone());
                joined.push(stand_in);
            }
        }
    }
    if pieces.len() > (STAND_IN_LAST - STAND_IN_FIRST) as usize {
        return Err(PatternError::Unsupported);
    }
    let translated = go_regex::translate(&joined)?;
    // Compiled once with the stand-ins, so that a broken expression is refused when it is read.
    go_regex::compile(&translated)?;
    let mut filled = Vec::new();
    let mut plain = String::new();
    for character in translated.chars() {
        if let Some(placeholder) = stand_ins.get(&character) {
            filled.push(Piece::Text(std::mem::take(&mut plain)));
            filled.push(placeholder.clone());
        } else {
            plain.push(character);
        }
    }
    filled.push(Piece::Text(plain));
    Ok(filled)
}

impl Piece {
    /// How it is written in a rule.
    fn as_written(&self) -> String {
        match self {
            Self::Text(text) | Self::Capture(text) => text.clone(),
            Self::Field(field) => format!("${{{}}}", field.key()),
            Self::Label(label) => format!("${{labels:{label}}}"),
        }
    }
}

/// What placeholders stand for in a request, but for labels: these are chosen one combination after the other.
struct Values<'a> {
    fields: &'a Fields<'a>,
    captured: &'a Captured,
    empty_value: EmptyValue,
}

impl<'a> Values<'a> {
    /// The value of a placeholder; none: it stands for its own text.
    fn of(&self, piece: &Piece, chosen: &BTreeMap<&str, &'a str>) -> Option<&'a str> {
        match piece {
            Piece::Text(_) => None,
            Piece::Field(field) => Some(field.of(self.fields)),
            Piece::Capture(text) => self.captured.get(text).map(String::as_str),
            Piece::Label(label) => chosen.get(label.as_str()).copied(),
        }
    }

    /// Whether this placeholder has an empty value with which nothing matches. A captured part may be optional: beside
    /// another value, an empty one is the empty text.
    fn is_nothing(
        &self,
        piece: &Piece,
        pieces: &[Piece],
        chosen: &BTreeMap<&str, &'a str>,
    ) -> bool {
        let has_value = |other: &Piece| {
            self.of(other, chosen)
                .is_some_and(|value| !value.is_empty())
        };
        let is_optional = matches!(piece, Piece::Capture(_)) && pieces.iter().any(has_value);
        self.of(piece, chosen) == Some("")
            && self.empty_value == EmptyValue::MatchesNothing
            && !is_optional
    }

    /// Whether an empty value may have left an expression that matches everything: it matches the empty text then.
    fn may_open(&self, pieces: &[Piece], chosen: &BTreeMap<&str, &'a str>) -> bool {
        self.empty_value == EmptyValue::MatchesNothing
            && pieces
                .iter()
                .any(|piece| self.of(piece, chosen) == Some(""))
    }

    /// An expression with every placeholder replaced by its quoted value.
    fn fill_expression(&self, pieces: &[Piece], chosen: &BTreeMap<&str, &'a str>) -> String {
        let mut expression = String::new();
        for piece in pieces {
            match (piece, self.of(piece, chosen)) {
                (Piece::Text(text), _) => expression.push_str(text),
                (piece, Some(_)) if self.is_nothing(piece, pieces, chosen) => {
                    expression.push_str(MATCHES_NOTHING);
                }
                (_, Some(value)) => expression.push_str(&regex::escape(value)),
                // To Go the `$` of an unknown placeholder is the end of the text, so that it matches nothing.
                (placeholder, None) => {
                    let written = placeholder.as_written();
                    expression.push('$');
                    expression.push_str(&regex::escape(written.get(1..).unwrap_or_default()));
                }
            }
        }
        expression
    }

    /// A glob with every placeholder replaced by its quoted value; none if one that is empty makes it match nothing.
    fn fill_glob(&self, pieces: &[Piece], chosen: &BTreeMap<&str, &'a str>) -> Option<String> {
        let mut glob = String::new();
        for piece in pieces {
            match (piece, self.of(piece, chosen)) {
                (Piece::Text(text), _) => glob.push_str(text),
                (piece, Some(_)) if self.is_nothing(piece, pieces, chosen) => return None,
                (_, Some(value)) => glob.push_str(&quote_for_glob(value)),
                (placeholder, None) => glob.push_str(&placeholder.as_written()),
            }
        }
        Some(glob)
    }
}

fn quote_for_glob(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len());
    for character in value.chars() {
        if character.is_ascii() && !character.is_ascii_alphanumeric() {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted
}

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The expression between the slashes.
    #[error(transparent)]
    Regex(#[from] RegexError),
    /// Too many placeholders, or characters that stand in for them.
    #[error("more placeholders than fit, or a private-use character beside one")]
    Unsupported,
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        pub(super) static COMPILATIONS: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn a_template_is_compiled_once_for_an_account() {
        let pattern = Pattern::parse(
            "/^${account}/.+$/",
            &BTreeSet::new(),
            EmptyValue::MatchesNothing,
        )
        .expect("a pattern");
        // A rule is copied with each reload's settings; the copies may share.
        let pattern = pattern.clone();
        for number in 0..1_000 {
            for account in ["ann", "bob"] {
                let name = format!("ann/{number}");
                let fields = Fields {
                    account,
                    resource_type: "repository",
                    name: &name,
                    service: "boathouse",
                };
                let matches = pattern.matches(&name, &fields, &Captured::new(), &BTreeMap::new());
                assert_eq!(matches, account == "ann");
            }
        }
        assert_eq!(COMPILATIONS.with(Cell::get), 2);
    }
}
