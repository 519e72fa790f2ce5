//! The rights that a person gives or takes on the command line, and the rule that each becomes.
//!
//! A grant is a glob of repository names in which `**` also crosses `/`; a rule's own glob cannot (`docker_auth`'s `*` never
//! does), so such a grant becomes a regular expression. Must not know users or files. Invariant: a grant that could match no
//! repository is refused.

use super::coverage::covers;
use super::index::is_expression;
use super::{Rule, RuleError, RuleText};

/// The type of what is pulled and pushed.
const REPOSITORY: &str = "repository";

/// What an account may do with repositories. Each level includes those before it, like the roles of other registries: so the
/// rule that gives more can stand first, and no grant takes away what another one gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No access at all.
    Nothing,
    /// Pulling.
    Pull,
    /// Pushing and pulling.
    Push,
    /// Deleting, pushing and pulling.
    Delete,
}

impl Level {
    const ALL: [Self; 4] = [Self::Nothing, Self::Pull, Self::Push, Self::Delete];

    /// The actions in a rule.
    pub fn actions(self) -> &'static [&'static str] {
        match self {
            Self::Nothing => &[],
            Self::Pull => &["pull"],
            Self::Push => &["pull", "push"],
            Self::Delete => &["pull", "push", "delete"],
        }
    }

    /// The next lower level.
    #[must_use]
    pub fn below(self) -> Self {
        match self {
            Self::Nothing | Self::Pull => Self::Nothing,
            Self::Push => Self::Pull,
            Self::Delete => Self::Push,
        }
    }
}

/// What an account gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// Everything everywhere, the list of all repositories too.
    Everything,
    /// This with the repositories that the pattern matches.
    On(Level, String),
}

/// Why a grant is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// No pattern at all.
    #[error("the pattern is empty\nhint: `**` is every repository")]
    Empty,
    /// A letter that no repository has in its name.
    #[error(
        "{pattern}: no repository has `{character}` in its name\nhint: write a name without the registry, as in `team/app`, with `*` for a part of it and `**` for everything below"
    )]
    Character {
        /// What was written.
        pattern: String,
        /// The letter.
        character: char,
    },
    /// Empty parts, which no name has.
    #[error("{pattern}: no repository has a name that begins or ends with `/` or holds `//`")]
    Slash {
        /// What was written.
        pattern: String,
    },
    /// A regular expression that cannot be read.
    #[error("{pattern}: {error}\nhint: `/text/` is a regular expression as Go reads it")]
    Rule {
        /// What was written.
        pattern: String,
        /// What is wrong with it.
        error: RuleError,
    },
}

impl Grant {
    /// What is written on the command line as the pattern for every repository.
    const EVERYTHING: &str = "**";

    /// Whether its level is higher, whatever the patterns are.
    pub fn gives_more_than(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Everything) => false,
            (Self::Everything, Self::On(..)) => true,
            (Self::On(level, _), Self::On(other, _)) => level > other,
        }
    }

    /// The pattern as it is written on the command line.
    pub fn pattern(&self) -> &str {
        match self {
            Self::Everything => Self::EVERYTHING,
            Self::On(_, pattern) => pattern,
        }
    }

    /// What the account may do, after "ann ".
    pub fn in_words(&self) -> String {
        match self {
            Self::Everything => "may do everything".to_owned(),
            Self::On(Level::Nothing, pattern) => format!("may not use {pattern}"),
            Self::On(Level::Pull, pattern) => format!("may pull from {pattern}"),
            Self::On(Level::Push, pattern) => format!("may push to {pattern}"),
            Self::On(Level::Delete, pattern) => {
                format!("may delete from and push to {pattern}")
            }
        }
    }

    /// The rule that gives this to `account`.
    pub fn rule(&self, account: &str) -> Result<RuleText, GrantError> {
        let account = Some(exactly(account));
        let (level, pattern) = match self {
            Self::Everything => {
                return Ok(RuleText {
                    account,
                    actions: vec!["*".to_owned()],
                    ..RuleText::default()
                });
            }
            Self::On(level, pattern) => (level, pattern),
        };
        let actions = level.actions().iter();
        let text = RuleText {
            account,
            r#type: Some(REPOSITORY.to_owned()),
            name: Some(name_pattern(pattern)?),
            actions: actions.map(|&action| action.to_owned()).collect(),
            ..RuleText::default()
        };
        match Rule::parse(text.clone()) {
            Ok(_) => Ok(text),
            Err(error) => Err(GrantError::Rule {
                pattern: pattern.clone(),
                error,
            }),
        }
    }

    /// What a rule gives to this account and no other, if a grant says it all.
    pub fn of_rule(rule: &RuleText, account: &str) -> Option<Self> {
        let name = rule.name.as_deref().map(written_of).unwrap_or_default();
        let levels = Level::ALL.into_iter();
        levels
            .map(|level| Self::On(level, name.clone()))
            .chain([Self::Everything])
            .find(|grant| {
                grant.rule(account).is_ok_and(|text| {
                    let comment = rule.comment.clone();
                    let place = rule.place.clone();
                    *rule
                        == RuleText {
                            comment,
                            place,
                            ..text
                        }
                })
            })
    }

    /// Whether this surely is about all that the other one is about.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.parsed(), other.parsed()) {
            (Some(wide), Some(narrow)) => covers(&wide, &narrow),
            _ => false,
        }
    }

    /// Whether no repository is surely matched by both patterns.
    pub fn is_apart_from(&self, other: &Self) -> bool {
        let (one, two) = (self.pattern(), other.pattern());
        let is_fixed = |pattern: &str| !is_expression(pattern) && !pattern.contains(['*', '?']);
        if is_fixed(one) || is_fixed(two) {
            return !self.covers(other) && !other.covers(self);
        }
        let start = |pattern: &str| {
            let end = if is_expression(pattern) {
                Some(0)
            } else {
                pattern.find(['*', '?'])
            };
            let start = end.and_then(|end| pattern.get(..end));
            start.unwrap_or_default().to_owned()
        };
        let (one, two) = (start(one), start(two));
        !one.starts_with(&two) && !two.starts_with(&one)
    }

    /// Names that the pattern matches, to try rules with.
    pub fn sample_names(&self) -> Vec<String> {
        let pattern = self.pattern();
        if is_expression(pattern) {
            return Vec::new();
        }
        let sample = |below: &str| {
            let name = pattern.replace("**", below);
            name.replace(['*', '?'], "a")
        };
        let mut names = vec![sample("a")];
        if pattern.contains("**") {
            names.push(sample("a/b"));
        }
        names
    }

    /// Of one account, to compare patterns. `None` for a pattern that cannot be read.
    fn parsed(&self) -> Option<Rule> {
        let everything = Self::On(Level::Nothing, Self::EVERYTHING.to_owned());
        let of_pattern = match self {
            Self::Everything => &everything,
            Self::On(..) => self,
        };
        Rule::parse(of_pattern.rule("a").ok()?).ok()
    }
}

/// A rule's pattern for names as people are shown it. `**` means more on the command line than in a rule, so the two are told
/// apart wherever a pattern is printed.
pub fn shown_name(pattern: &str) -> String {
    let written = written_of(pattern);
    if written != pattern {
        format!("`{pattern}` (`{written}` on the command line)")
    } else if pattern.contains("**") && !is_expression(pattern) {
        format!("`{pattern}` (in a rule, `**` is `*` and stops at `/`)")
    } else {
        format!("`{pattern}`")
    }
}

/// What was written for a rule's pattern.
fn written_of(pattern: &str) -> String {
    let inside = pattern
        .strip_prefix("/^")
        .and_then(|rest| rest.strip_suffix("$/"));
    let glob = inside.map(|inside| {
        let glob = inside.replace("[^/]*", "*").replace("[^/]", "?");
        glob.replace(".*", "**").replace("\\.", ".")
    });
    glob.filter(|glob| everything_below(glob) == pattern)
        .unwrap_or_else(|| pattern.to_owned())
}

/// A pattern that matches this account and no other.
pub fn exactly(account: &str) -> String {
    // Between slashes it would be a regular expression, and `${…}` would be filled in.
    if (account.starts_with('/') && account.ends_with('/')) || account.contains("${") {
        let escaped: String = account
            .chars()
            .map(|character| match character {
                '$' | '{' | '}' => format!("[{character}]"),
                _ => regex::escape(&character.to_string()),
            })
            .collect();
        return format!("/^{escaped}$/");
    }
    let mut pattern = String::new();
    for character in account.chars() {
        if matches!(character, '*' | '?' | '[' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// A rule's pattern for the names that a grant means.
fn name_pattern(written: &str) -> Result<String, GrantError> {
    let is_expression = written.len() > 2 && written.starts_with('/') && written.ends_with('/');
    if is_expression {
        return Ok(written.to_owned());
    }
    if written.is_empty() {
        return Err(GrantError::Empty);
    }
    let may_stand = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || "._-/*?".contains(character)
    };
    if let Some(character) = written.chars().find(|&character| !may_stand(character)) {
        return Err(GrantError::Character {
            pattern: written.to_owned(),
            character,
        });
    }
    if written.split('/').any(str::is_empty) {
        return Err(GrantError::Slash {
            pattern: written.to_owned(),
        });
    }
    if written.contains("**") {
        Ok(everything_below(written))
    } else {
        Ok(written.to_owned())
    }
}

/// The regular expression for a glob in which `**` crosses `/`.
pub(super) fn everything_below(glob: &str) -> String {
    let mut expression = String::from("/^");
    let mut characters = glob.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '*' if characters.next_if_eq(&'*').is_some() => {
                while characters.next_if_eq(&'*').is_some() {}
                expression.push_str(".*");
            }
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '.' => expression.push_str("\\."),
            _ => expression.push(character),
        }
    }
    expression.push_str("$/");
    expression
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Fields, Question, decide};
    use super::*;

    fn allows(grant: &Grant, owner: &str, account: &str, name: &str, action: &str) -> bool {
        let rules = [Rule::parse(grant.rule(owner).expect("a grant")).expect("a rule")];
        let question = Question {
            fields: Fields {
                account,
                resource_type: "repository",
                name,
                service: "boathouse",
            },
            client: [127, 0, 0, 1].into(),
            labels: &BTreeMap::new(),
        };
        let asked = [action.to_owned()];
        decide(&rules, &question).is_some_and(|rule| rule.grant(&asked) == asked)
    }

    #[test]
    fn two_stars_cross_slashes_and_one_does_not() {
        for (pattern, name, expected) in [
            ("team/*", "team/a", true),
            ("team/*", "team/a/b", false),
            ("team/**", "team/a/b", true),
            ("team/**", "team/a", true),
            ("team/**", "team", false),
            ("team/**", "my/team/a", false),
            ("team/**", "team/a.b", true),
            ("**", "a/b/c", true),
            ("a.b/**", "axb/c", false),
            ("a/**/z", "a/b/c/z", true),
            ("a*/**", "abc/d/e", true),
            ("a*/**", "b/a/e", false),
            ("team/ap?/**", "team/app/x", true),
            ("/^team/(a|b)$/", "team/b", true),
        ] {
            let grant = Grant::On(Level::Pull, pattern.to_owned());
            let outcome = allows(&grant, "ann", "ann", name, "pull");
            assert_eq!(outcome, expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_grant_is_for_one_account_and_its_actions() {
        let push = Grant::On(Level::Push, "team/*".to_owned());
        assert!(allows(&push, "ann", "ann", "team/a", "push"));
        assert!(allows(&push, "ann", "ann", "team/a", "pull"));
        assert!(!allows(&push, "ann", "ann", "team/a", "delete"));
        assert!(!allows(&push, "ann", "bob", "team/a", "push"));
        let everything = Grant::Everything;
        assert!(allows(
            &everything,
            "ann",
            "ann",
            "any/thing/else",
            "delete"
        ));
        for odd in [
            "a*",
            "?",
            "[a]",
            "\\",
            "/.*/",
            "${account}",
            "/${account}/",
            "a$",
        ] {
            assert!(allows(&everything, odd, odd, "x", "pull"), "{odd}");
            assert!(!allows(&everything, odd, "ab", "x", "pull"), "{odd}");
        }
    }

    #[test]
    fn a_rule_tells_the_grant_that_it_came_from() {
        let grants = [
            Grant::Everything,
            Grant::On(Level::Push, "team/**".to_owned()),
            Grant::On(Level::Pull, "a.b/*/x?/**".to_owned()),
            Grant::On(Level::Delete, "team/*".to_owned()),
            Grant::On(Level::Nothing, "team/*".to_owned()),
            Grant::On(Level::Pull, "/^a.*$/".to_owned()),
        ];
        for grant in grants {
            let rule = grant.rule("ann").expect("a grant");
            let told = match &grant {
                // If two spellings mean the same, either may have been used.
                Grant::On(level, pattern) if pattern == "/^a.*$/" => {
                    Grant::On(*level, "a**".to_owned())
                }
                other => other.clone(),
            };
            assert_eq!(Grant::of_rule(&rule, "ann"), Some(told), "{grant:?}");
            assert_eq!(Grant::of_rule(&rule, "bob"), None, "{grant:?}");
        }
        let mut more = Grant::Everything.rule("ann").expect("a grant");
        more.ip = Some("10.0.0.0/8".to_owned());
        assert_eq!(Grant::of_rule(&more, "ann"), None);
    }

    #[test]
    fn what_matches_no_repository_is_refused() {
        for pattern in [
            "",
            "Team/*",
            "lab:5443/team/*",
            "team/",
            "/team",
            "a//b",
            "[ab]",
            "a b",
            "/(/",
        ] {
            let grant = Grant::On(Level::Pull, pattern.to_owned());
            assert!(grant.rule("ann").is_err(), "{pattern}");
        }
    }

    #[test]
    fn patterns_cover_each_other_or_are_apart_where_that_is_certain() {
        let grant = |pattern: &str| Grant::On(Level::Pull, pattern.to_owned());
        for (wide, narrow) in [
            ("**", "a/b"),
            ("team/**", "team/*"),
            ("team/**", "team/a/**"),
            ("team/*", "team/a"),
            ("team/a", "team/a"),
            ("a/**/z", "a/**/z"),
            ("/^a/", "/^a/"),
        ] {
            assert!(grant(wide).covers(&grant(narrow)), "{wide} {narrow}");
            assert!(
                !grant(wide).is_apart_from(&grant(narrow)),
                "{wide} {narrow}"
            );
            assert!(Grant::Everything.covers(&grant(narrow)), "{narrow}");
            let turned = wide != narrow && grant(narrow).covers(&grant(wide));
            assert!(!turned, "{narrow} {wide}");
        }
        for (one, two) in [
            ("team/**", "base/**"),
            ("team/a", "team/b"),
            ("a/*", "a/b/c"),
        ] {
            assert!(grant(one).is_apart_from(&grant(two)), "{one} {two}");
            assert!(grant(two).is_apart_from(&grant(one)), "{one} {two}");
        }
        for (one, two) in [("*/app", "team/*"), ("/^a/", "b/**"), ("a**", "ab/**")] {
            assert!(!grant(one).is_apart_from(&grant(two)), "{one} {two}");
        }
    }

    #[test]
    fn two_stars_are_told_apart_wherever_they_are_shown() {
        for (pattern, shown) in [
            (
                "/^team/.*$/",
                "`/^team/.*$/` (`team/**` on the command line)",
            ),
            (
                "team/**",
                "`team/**` (in a rule, `**` is `*` and stops at `/`)",
            ),
            ("team/*", "`team/*`"),
            ("/^a|b/", "`/^a|b/`"),
        ] {
            assert_eq!(shown_name(pattern), shown);
        }
    }
}
