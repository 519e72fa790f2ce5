//! Finding the rules that may match, without asking every rule.
//!
//! Must not know what is asked of the rules that it finds. Invariant: a rule that could match, or cover another, is among
//! those that are tried, in their order.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use super::Rule;

/// What all texts that a pattern matches begin with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Start<'a> {
    /// It matches this text alone.
    Whole(Cow<'a, str>),
    /// They begin with this, which may be nothing.
    Head(Cow<'a, str>),
}

impl<'a> Start<'a> {
    /// Of a text that is matched.
    pub(super) fn of_text(text: &'a str) -> Self {
        Self::Whole(Cow::Borrowed(text))
    }

    /// Of a pattern in a rule; an absent one matches everything.
    pub(super) fn of_pattern(pattern: Option<&'a str>) -> Self {
        let Some(pattern) = pattern else {
            return Self::Head(Cow::Borrowed(""));
        };
        if is_expression(pattern) {
            return Self::Head(plain_start(pattern).map_or(Cow::Borrowed(""), Cow::Owned));
        }
        let sign = pattern.find(['*', '?', '[', '\\']);
        let end = sign.into_iter().chain(pattern.find("${")).min();
        match end.and_then(|end| pattern.get(..end)) {
            Some(head) => Self::Head(Cow::Borrowed(head)),
            None => Self::Whole(Cow::Borrowed(pattern)),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Whole(text) | Self::Head(text) => text,
        }
    }
}

/// Whether a pattern matches nothing but its own text.
pub(super) fn is_literal(pattern: &str) -> bool {
    matches!(Start::of_pattern(Some(pattern)), Start::Whole(_))
}

/// Whether a pattern is a regular expression.
pub(super) fn is_expression(pattern: &str) -> bool {
    pattern.len() > 2 && pattern.starts_with('/') && pattern.ends_with('/')
}

/// The text that an expression of the form `/^text.*$/` (or `.+`) begins with, where it is plain.
pub(super) fn plain_start(expression: &str) -> Option<String> {
    let inside = expression.strip_prefix("/^")?.strip_suffix("$/")?;
    let text = inside.strip_suffix(".*").or(inside.strip_suffix(".+"))?;
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/_-".contains(character);
    text.replace("\\.", "")
        .chars()
        .all(is_plain)
        .then(|| text.replace("\\.", "."))
}

/// Rules by what their patterns for account and name begin with.
pub(super) struct RuleIndex<'a> {
    positions: HashMap<[Start<'a>; 2], Vec<usize>>,
    /// The lengths of heads of accounts, and of names.
    head_lengths: [BTreeSet<usize>; 2],
}

impl<'a> RuleIndex<'a> {
    /// Of these rules, in their order.
    pub(super) fn new(rules: &'a [Rule]) -> Self {
        let mut index = Self {
            positions: HashMap::new(),
            head_lengths: [BTreeSet::new(), BTreeSet::new()],
        };
        for (position, rule) in rules.iter().enumerate() {
            let starts = starts_of(rule);
            for (start, lengths) in starts.iter().zip(&mut index.head_lengths) {
                if let Start::Head(head) = start {
                    lengths.insert(head.len());
                }
            }
            index.positions.entry(starts).or_default().push(position);
        }
        index
    }

    /// The first rule before `end` that `is_it`, of those that may match a text, or cover a pattern, with these starts.
    pub(super) fn first(
        &self,
        [account, name]: &[Start<'_>; 2],
        end: usize,
        mut is_it: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
        let [account_lengths, name_lengths] = &self.head_lengths;
        let names = wider(name, name_lengths);
        let mut first = end;
        for account in wider(account, account_lengths) {
            for name in &names {
                let Some(positions) = self.positions.get(&[account.clone(), name.clone()]) else {
                    continue;
                };
                let earlier = positions.iter().take_while(|&&position| position < first);
                if let Some(&found) = earlier.into_iter().find(|&&position| is_it(position)) {
                    first = found;
                }
            }
        }
        (first < end).then_some(first)
    }
}

/// The starts of a rule's patterns for account and name.
pub(super) fn starts_of(rule: &Rule) -> [Start<'_>; 2] {
    let text = rule.text();
    [&text.account, &text.name].map(|pattern| Start::of_pattern(pattern.as_deref()))
}

/// Of the starts that there are, those which what begins like this may be covered by.
fn wider<'a>(start: &'a Start<'_>, head_lengths: &BTreeSet<usize>) -> Vec<Start<'a>> {
    let text = start.text();
    let heads = head_lengths.range(..=text.len());
    let heads = heads.filter_map(|&length| Some(Start::Head(Cow::Borrowed(text.get(..length)?))));
    let whole = matches!(start, Start::Whole(_)).then(|| Start::of_text(text));
    heads.chain(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_what_all_matches_begin_with() {
        let whole = |text: &'static str| Start::Whole(Cow::Borrowed(text));
        let head = |text: &'static str| Start::Head(Cow::Borrowed(text));
        for (pattern, expected) in [
            ("team/app", whole("team/app")),
            ("", whole("")),
            ("/", whole("/")),
            ("//", whole("//")),
            ("team/*", head("team/")),
            ("team/a?c*", head("team/a")),
            ("te\\am", head("te")),
            ("a[bc]", head("a")),
            ("*", head("")),
            ("${account}/*", head("")),
            ("team/${account}/*", head("team/")),
            ("/^team/.*$/", head("team/")),
            ("/^a\\.b/.+$/", head("a.b/")),
            ("/^team/.*/", head("")),
            ("/^te|am.*$/", head("")),
            ("/^team*.*$/", head("")),
            ("/^team\\d.*$/", head("")),
            ("/team/.*$/", head("")),
        ] {
            assert_eq!(Start::of_pattern(Some(pattern)), expected, "{pattern}");
        }
        assert_eq!(Start::of_pattern(None), head(""));
    }
}
