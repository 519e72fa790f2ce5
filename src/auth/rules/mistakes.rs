//! Rules that are allowed and probably not meant.
//!
//! Must not know files. Invariant: a rule of which it is said that it never decides, never does; what cannot be told for
//! certain is not said.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::coverage::covers;
use super::grant::{everything_below, shown_name};
use super::index::{RuleIndex, Start, is_expression, is_literal, starts_of};
use super::{Fields, Question, Rule, RuleText, Unmet};
use crate::auth::User;

/// The type of what is pulled and pushed.
const REPOSITORY: &str = "repository";

/// The types of what clients of a registry ask for: `registry` is the catalog.
const TYPES: [&str; 2] = [REPOSITORY, "registry"];

/// What clients of a registry ask for.
const ACTIONS: [&str; 4] = ["pull", "push", "delete", "*"];

/// Accounts that a rule is tried with, of a lab with thousands.
const SAMPLES_MAX: usize = 100;

/// Something that is probably not meant, and the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where the rule is written.
    pub place: String,
    /// What it is.
    pub kind: MistakeKind,
}

/// What is probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MistakeKind {
    /// The last `*` stops at a slash.
    OneLevel {
        /// The pattern of the name.
        pattern: String,
        /// A name that it misses.
        missed: String,
        /// The pattern for everything below.
        instead: String,
    },
    /// An earlier rule matches all that this one matches.
    Shadowed {
        /// Where the earlier rule is written.
        by: String,
    },
    /// The rule is for an account that there is not.
    NoSuchAccount(String),
    /// A push needs the right to pull too.
    PushWithoutPull,
    /// `*` beside other actions.
    StarAmongOthers,
    /// No client of a registry asks for this action.
    UnknownAction(String),
    /// No client of a registry asks for this type.
    UnknownType(String),
    /// A placeholder has an empty value for somebody, and matches nothing then.
    EmptyValue {
        /// The key of the pattern.
        key: String,
        /// As written.
        placeholder: String,
        /// For whom it is empty.
        caller: String,
    },
}

impl Mistake {
    /// Whether it is an error in the file of a registry. A server only warns: as an issuer of tokens it may serve other programs,
    /// whose actions it does not know.
    pub fn is_error(&self) -> bool {
        matches!(self.kind, MistakeKind::UnknownAction(_))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: acl[]: ", self.place)?;
        match &self.kind {
            MistakeKind::OneLevel {
                pattern,
                missed,
                instead,
            } => write!(
                out,
                "`{pattern}` does not match `{missed}`, since {}; for everything below write {}",
                if pattern.contains("**") {
                    "`**` in a rule is `*`, which stops at `/`"
                } else {
                    "`*` stops at `/`"
                },
                shown_name(instead),
            ),
            MistakeKind::Shadowed { by } => write!(
                out,
                "this rule never decides: the one at {by} comes first and matches all that it matches"
            ),
            MistakeKind::NoSuchAccount(account) if account.is_empty() => out.write_str(
                "this rule never decides: anonymous callers are not admitted; the user \"\" would admit them",
            ),
            MistakeKind::NoSuchAccount(account) => write!(
                out,
                "this rule never decides: there is no account `{account}`"
            ),
            MistakeKind::PushWithoutPull => {
                out.write_str("`push` without `pull` is of no use: a push needs the right to pull too")
            }
            MistakeKind::StarAmongOthers => out.write_str(
                "`*` together with other actions is not a wildcard; `[\"*\"]` alone grants everything",
            ),
            MistakeKind::UnknownAction(action) => write!(
                out,
                "actions: no client of a registry asks for `{action}`, only for {}",
                listed(&ACTIONS)
            ),
            MistakeKind::UnknownType(resource_type) => write!(
                out,
                "match.type: no client of a registry asks for `{resource_type}`, only for {}",
                listed(&TYPES)
            ),
            MistakeKind::EmptyValue {
                key,
                placeholder,
                caller,
            } => write!(
                out,
                "{key}: `{placeholder}` is empty for {caller}, and an empty value matches nothing"
            ),
        }
    }
}

fn listed(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

/// What is probably not meant, of the rules whose text `is_looked_at`. `has_others`: there are accounts beside `users`, whose
/// names are not known.
pub fn mistakes(
    rules: &[Rule],
    users: &BTreeMap<String, User>,
    has_others: bool,
    is_looked_at: impl Fn(&RuleText) -> bool,
) -> Vec<Mistake> {
    let mut found = Vec::new();
    let rules = Ordered {
        rules,
        index: RuleIndex::new(rules),
    };
    let looked_at = rules.rules.iter().enumerate();
    for (position, rule) in looked_at.filter(|(_, rule)| is_looked_at(rule.text())) {
        let text = rule.text();
        let mut say = |kind| {
            found.push(Mistake {
                place: text.place.clone(),
                kind,
            });
        };
        let grants_all = text.actions == ["*"];
        let has = |action: &str| text.actions.iter().any(|granted| granted == action);
        if !grants_all && has("push") && !has("pull") {
            say(MistakeKind::PushWithoutPull);
        }
        if text.actions.len() > 1 && has("*") {
            say(MistakeKind::StarAmongOthers);
        }
        let is_unknown = |action: &&String| !ACTIONS.contains(&action.as_str());
        if let Some(action) = text.actions.iter().find(is_unknown) {
            say(MistakeKind::UnknownAction(action.clone()));
        }
        if let Some(literal) = text.r#type.as_deref().filter(|text| is_literal(text))
            && !TYPES.contains(&literal)
        {
            say(MistakeKind::UnknownType(literal.to_owned()));
        }
        if let Some(kind) = empty_value(rule, users) {
            say(kind);
        }
        if let Some(account) = text
            .account
            .as_deref()
            .filter(|account| is_literal(account))
            && !has_others
            && !users.contains_key(account)
        {
            say(MistakeKind::NoSuchAccount(account.to_owned()));
        } else if let Some(by) = rules.first_that_covers(position, rule) {
            let by = by.text().place.clone();
            say(MistakeKind::Shadowed { by });
        } else if let Some(kind) = one_level(&rules, rule, users) {
            say(kind);
        }
    }
    found
}

/// Rules in their order, found without asking each: thousands of rules are compared with all before them.
struct Ordered<'a> {
    rules: &'a [Rule],
    index: RuleIndex<'a>,
}

impl<'a> Ordered<'a> {
    /// The first rule before `position` that surely matches all that `rule` matches.
    fn first_that_covers(&self, position: usize, rule: &Rule) -> Option<&'a Rule> {
        self.first(&starts_of(rule), position, |earlier| covers(earlier, rule))
    }

    /// The rule that decides the question.
    fn decide(&self, question: &Question<'_>) -> Option<&'a Rule> {
        let starts = [question.fields.account, question.fields.name].map(Start::of_text);
        self.first(&starts, self.rules.len(), |rule| rule.matches(question))
    }

    fn first(
        &self,
        starts: &[Start<'_>; 2],
        end: usize,
        is_it: impl Fn(&Rule) -> bool,
    ) -> Option<&'a Rule> {
        let found = self.index.first(starts, end, |position| {
            #[cfg(test)]
            tests::COMPARISONS.with(|count| count.set(count.get() + 1));
            self.rules.get(position).is_some_and(&is_it)
        });
        self.rules.get(found?)
    }
}

/// `team/*`, where no rule treats `team/a/b` in the same way for somebody whom this rule decides about.
fn one_level(
    rules: &Ordered<'_>,
    rule: &Rule,
    users: &BTreeMap<String, User>,
) -> Option<MistakeKind> {
    let text = rule.text();
    let pattern = text.name.as_deref()?;
    let last = pattern.rsplit('/').next()?;
    let is_star = !last.is_empty() && last.chars().all(|character| character == '*');
    if is_expression(pattern) || pattern.contains(['[', '\\']) || !is_star {
        return None;
    }
    let service = text.service.as_deref().unwrap_or_default();
    let client = sample_client(text);
    // Most rules are for one account.
    let is_about = |account: &&String| {
        let literal = text.account.as_deref().filter(|text| is_literal(text));
        literal.is_none_or(|literal| literal == *account)
    };
    let accounts = users.iter().take(SAMPLES_MAX);
    let (missed, found) =
        accounts
            .filter(|(account, _)| is_about(account))
            .find_map(|(account, user)| {
                let name = pattern
                    .replace("${account}", account)
                    .replace("**", "*")
                    .replace(['*', '?'], "a");
                let question = |name| Question {
                    fields: Fields {
                        account,
                        resource_type: REPOSITORY,
                        name,
                        service,
                    },
                    client,
                    labels: &user.labels,
                };
                let is_decided_here = rule.matches(&question(&name))
                    && rules
                        .decide(&question(&name))
                        .is_some_and(|found| std::ptr::eq(found, rule));
                let deeper = format!("{name}/b");
                is_decided_here.then(|| (deeper.clone(), rules.decide(&question(&deeper))))
            })?;
    let asked: Vec<String> = match text.actions.as_slice() {
        [all] if all == "*" => ["pull", "push", "delete"].map(str::to_owned).to_vec(),
        [] => vec!["pull".to_owned()],
        actions => actions.to_vec(),
    };
    let granted = found.map_or_else(Vec::new, |rule| rule.grant(&asked));
    // A rule that denies is held to be meant for everything below as much as one that grants.
    let is_treated_alike = match text.actions.as_slice() {
        [] => granted.is_empty(),
        _ => granted.len() == asked.len(),
    };
    let below = format!("{}**", pattern.trim_end_matches('*'));
    (!is_treated_alike).then(|| MistakeKind::OneLevel {
        pattern: pattern.to_owned(),
        missed,
        instead: everything_below(&below),
    })
}

/// A placeholder that is empty for an account that this rule may be about, or for clients that name no service.
fn empty_value(rule: &Rule, users: &BTreeMap<String, User>) -> Option<MistakeKind> {
    if !rule.has_placeholders() {
        return None;
    }
    let no_labels = BTreeMap::new();
    let ask = |account: &str, service: &str, labels| {
        let question = Question {
            fields: Fields {
                account,
                resource_type: REPOSITORY,
                name: "a",
                service,
            },
            client: sample_client(rule.text()),
            labels,
        };
        let found = rule.empty_placeholder(&question)?;
        (rule.unmet(&question) != Some(Unmet::Account)).then_some(found)
    };
    let said = |(key, placeholder), caller| MistakeKind::EmptyValue {
        key,
        placeholder,
        caller,
    };
    let of_account = users.iter().take(SAMPLES_MAX).find_map(|(name, user)| {
        let found = ask(name, "a", &user.labels)?;
        let caller = match name.as_str() {
            "" => "anonymous callers".to_owned(),
            name => format!("`{name}`"),
        };
        Some(said(found, caller))
    });
    of_account.or_else(|| {
        let mut accounts = users.keys().take(SAMPLES_MAX);
        let found = accounts.find_map(|name| {
            let account = Some(name.as_str()).filter(|name| !name.is_empty());
            ask(account.unwrap_or("a"), "", &no_labels)
        })?;
        Some(said(found, "clients that name no service".to_owned()))
    })
}

/// Somebody whom a rule with this condition is about.
fn sample_client(text: &RuleText) -> IpAddr {
    let address = text.ip.as_deref().unwrap_or_default();
    let address = address.split('/').next().unwrap_or_default();
    address.parse().unwrap_or(Ipv4Addr::LOCALHOST.into())
}

#[cfg(test)]
#[path = "mistakes_tests.rs"]
mod tests;
