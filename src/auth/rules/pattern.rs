//! Patterns of an ACL rule: a glob, or a regular expression between slashes, with placeholders.
//!
//! Must not know rules' order or actions. Invariant: the kind of matcher is fixed when the rule is read, whatever is filled in
//! for placeholders (`placeholder`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use regex::bytes::Regex;

use super::glob::Glob;
use super::go_regex::{self, RegexError};
use super::placeholder::{
    Capture, Captured, EmptyValue, Fields, Piece, Values, split, unescape_placeholders,
};
use crate::auth::bounded::Bounded;

/// The most combinations of label values that are tried: no real rule needs more, and each costs a compilation.
const LABEL_COMBINATIONS_MAX: usize = 1_000;

/// Filled expressions remembered per pattern (at most twice as many): the accounts that are at work at a time. An ordinary
/// one takes some 10 KiB.
const COMPILED_MAX: usize = 128;

/// Longer ones are compiled each time: a request brings what they are filled with.
const COMPILED_LENGTH_MAX: usize = 1_024;

/// Stand-ins for placeholders while an expression is translated: private-use characters that no rule contains.
const STAND_IN_FIRST: u32 = 0xF_0000;
const STAND_IN_LAST: u32 = 0xF_00FF;

/// An expression up to this length without counts is compiled when it is first needed. It cannot exceed the size limit of the
/// engine (10 MB): what compiles to most is a class of Unicode like `\pL`, with 20 KB for three letters.
const LAZY_LENGTH_MAX: usize = 256;

/// A pattern, checked once. An expression without a placeholder is compiled once, when it is first needed or when
/// [`Pattern::prepare`] is called. With a placeholder, what it becomes for a request is compiled when it is first needed and
/// kept for a while.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    matcher: Matcher,
    empty_value: EmptyValue,
}

#[derive(Debug, Clone)]
enum Matcher {
    Glob(Glob),
    GlobTemplate(Vec<Piece>),
    Regex(Expression),
    RegexTemplate(Vec<Piece>, Compiled),
}

/// An expression without placeholders.
#[derive(Debug, Clone)]
struct Expression(Arc<(String, OnceLock<Option<Regex>>)>);

impl Expression {
    /// Checks what `go_regex` has translated.
    fn new(translated: String) -> Result<Self, RegexError> {
        // `{` may be a count, which multiplies the size.
        let compiled = if translated.len() > LAZY_LENGTH_MAX || translated.contains('{') {
            OnceLock::from(Some(compile(&translated)?))
        } else {
            go_regex::check(&translated)?;
            OnceLock::new()
        };
        Ok(Self(Arc::new((translated, compiled))))
    }

    /// `None` cannot be: what was checked compiles.
    fn regex(&self) -> Option<&Regex> {
        let (translated, compiled) = &*self.0;
        compiled.get_or_init(|| compile(translated).ok()).as_ref()
    }
}

fn compile(translated: &str) -> Result<Regex, RegexError> {
    #[cfg(test)]
    tests::COMPILATIONS.with(|count| count.set(count.get() + 1));
    go_regex::compile(translated)
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
        let known = {
            let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            table.get_mut(expression.clone()).map(|known| known.clone())
        };
        let regex = known.unwrap_or_else(|| {
            let regex = compile(&expression).ok();
            if expression.len() <= COMPILED_LENGTH_MAX {
                let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                table.insert(expression, regex.clone());
            }
            regex
        });
        regex.is_some_and(|regex| regex.is_match(text.as_bytes()))
    }
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
                Matcher::Regex(Expression::new(translated)?)
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

    /// Compiles what would else be compiled by the first request that needs it.
    pub(super) fn prepare(&self) {
        if let Matcher::Regex(expression) = &self.matcher {
            expression.regex();
        }
    }

    /// Whether this is a glob that can never match.
    pub(super) fn is_malformed(&self) -> bool {
        matches!(&self.matcher, Matcher::Glob(glob) if glob.is_malformed())
    }

    /// Whether it is filled in for each request.
    pub(super) fn has_placeholders(&self) -> bool {
        match &self.matcher {
            Matcher::Glob(_) | Matcher::Regex(_) => false,
            Matcher::GlobTemplate(_) | Matcher::RegexTemplate(..) => true,
        }
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
            Matcher::Regex(expression) => {
                let regex = expression.regex();
                return regex.is_some_and(|regex| regex.is_match(text.as_bytes()));
            }
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
        let Matcher::Regex(expression) = &self.matcher else {
            return None;
        };
        let found = expression.regex()?.captures(text.as_bytes())?;
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
    // Checked with the stand-ins, so that a broken expression is refused when it is read.
    Expression::new(translated.clone())?;
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
    fn what_is_compiled_later_is_checked_at_once() {
        let parse = |text: &str| Pattern::parse(text, &BTreeSet::new(), EmptyValue::IsText);
        let before = COMPILATIONS.with(Cell::get);
        for broken in ["/(/", "/a**/", "/[z-a]/", "/a\\E/", "/^${account}(/"] {
            assert!(parse(broken).is_err(), "{broken}");
        }
        let whole = parse("/^team/.*$/").expect("a pattern");
        assert_eq!(COMPILATIONS.with(Cell::get), before);
        whole.prepare();
        whole.clone().prepare();
        assert_eq!(COMPILATIONS.with(Cell::get), before + 1);
        // What may be too large is compiled at once.
        assert!(parse("/(\\pL{999}x)+/").is_err());
        let long = format!("/{}/", "a".repeat(LAZY_LENGTH_MAX + 1));
        parse(&long).expect("a pattern");
        assert_eq!(COMPILATIONS.with(Cell::get), before + 3);
    }

    /// 5,000 accounts with a rule each were compiled for seconds, at each start, each reload and each command.
    #[test]
    fn a_rule_for_one_account_is_compiled_for_requests_of_that_account_only() {
        use super::super::{Question, Rule, RuleText, decide};
        const ACCOUNTS: usize = 5_000;
        let rule = |account: Option<String>, name: String| {
            let text = RuleText {
                account,
                name: Some(name),
                ..RuleText::default()
            };
            Rule::parse(text).expect("a rule")
        };
        let of_account = |number| {
            rule(
                Some(format!("user-{number}")),
                format!("/^team-{number}/.*$/"),
            )
        };
        let rules: Vec<Rule> = (0..ACCOUNTS).map(of_account).collect();
        assert_eq!(COMPILATIONS.with(Cell::get), 0);
        for _ in 0..2 {
            let question = Question {
                fields: Fields {
                    account: "user-4321",
                    resource_type: "repository",
                    name: "team-4321/app",
                    service: "boathouse",
                },
                client: [192, 0, 2, 1].into(),
                labels: &BTreeMap::new(),
            };
            let decisive = decide(&rules, &question).expect("a rule that matches");
            assert_eq!(decisive.text().account.as_deref(), Some("user-4321"));
            assert_eq!(COMPILATIONS.with(Cell::get), 1);
        }
        // What a request of any account may need is compiled before.
        rule(None, "/^shared/.*$/".to_owned());
        rule(Some("/^user-/".to_owned()), "app".to_owned());
        assert_eq!(COMPILATIONS.with(Cell::get), 3);
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
