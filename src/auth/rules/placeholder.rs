//! Placeholders in the patterns of a rule, and what fills them in.
//!
//! Must not know what a pattern matches, nor rules' order. Invariants: whatever is substituted stands for itself, letter by
//! letter, so a request can never bring a pattern of its own; an empty value never makes a pattern match more.

use std::collections::{BTreeMap, BTreeSet};

use super::RuleText;

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

/// A piece of a pattern with placeholders; text is ready for its matcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Field(Field),
    Capture(String),
    Label(String),
}

impl Piece {
    /// How it is written in a rule.
    pub(super) fn as_written(&self) -> String {
        match self {
            Self::Text(text) | Self::Capture(text) => text.clone(),
            Self::Field(field) => format!("${{{}}}", field.key()),
            Self::Label(label) => format!("${{labels:{label}}}"),
        }
    }
}

/// What placeholders stand for in a request, but for labels: these are chosen one combination after the other.
pub(super) struct Values<'a> {
    pub fields: &'a Fields<'a>,
    pub captured: &'a Captured,
    pub empty_value: EmptyValue,
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
    pub(super) fn is_nothing(
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
    pub(super) fn may_open(&self, pieces: &[Piece], chosen: &BTreeMap<&str, &'a str>) -> bool {
        self.empty_value == EmptyValue::MatchesNothing
            && pieces
                .iter()
                .any(|piece| self.of(piece, chosen) == Some(""))
    }

    /// An expression with every placeholder replaced by its quoted value.
    pub(super) fn fill_expression(
        &self,
        pieces: &[Piece],
        chosen: &BTreeMap<&str, &'a str>,
    ) -> String {
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
    pub(super) fn fill_glob(
        &self,
        pieces: &[Piece],
        chosen: &BTreeMap<&str, &'a str>,
    ) -> Option<String> {
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

/// Splits a text at its placeholders.
pub(super) fn split(text: &str, captures: &BTreeSet<Capture>) -> Vec<Piece> {
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
pub(super) fn unescape_placeholders(pieces: &mut [Piece]) {
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
