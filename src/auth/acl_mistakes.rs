//! Rules that are allowed and probably not meant.
//!
//! Must not know files. Invariant: a rule of which it is said that it never decides, never does; what cannot be told for
//! certain is not said.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::acl::{Question, Rule, RuleText, Unmet, decide};
use super::grant::everything_below;
use super::pattern::{Field, Fields};
use super::settings::User;

/// The type of what is pulled and pushed.
const REPOSITORY: &str = "repository";

/// Accounts that a rule is tried with, of a lab with thousands.
const SAMPLES_MAX: usize = 100;

/// Something that is probably not meant, and the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where the rule stands.
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
        /// Where the earlier rule stands.
        by: String,
    },
    /// The rule is for an account that there is not.
    NoSuchAccount(String),
    /// Nobody can push without pulling.
    PushWithoutPull,
    /// `*` beside other actions.
    StarAmongOthers,
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
                "`{pattern}` does not match `{missed}`, since `*` stops at `/`; for everything below write `{instead}`"
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
                out.write_str("`push` without `pull` is of no use: whoever pushes must be allowed to pull too")
            }
            MistakeKind::StarAmongOthers => out.write_str(
                "`*` beside other actions is not a wildcard; `[\"*\"]` alone grants everything",
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

/// What is probably not meant, of the rules from position `from` on.
pub fn mistakes(rules: &[Rule], users: &BTreeMap<String, User>, from: usize) -> Vec<Mistake> {
    let mut found = Vec::new();
    for (position, rule) in rules.iter().enumerate().skip(from) {
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
        if let Some(kind) = empty_value(rule, users) {
            say(kind);
        }
        let earlier = rules.iter().take(position);
        if let Some(account) = text
            .account
            .as_deref()
            .filter(|account| is_literal(account))
            && !users.contains_key(account)
        {
            say(MistakeKind::NoSuchAccount(account.to_owned()));
        } else if let Some(by) = earlier.into_iter().find(|earlier| covers(earlier, rule)) {
            let by = by.text().place.clone();
            say(MistakeKind::Shadowed { by });
        } else if let Some(kind) = one_level(rules, rule, users) {
            say(kind);
        }
    }
    found
}

/// Whether a pattern stands for itself: neither an expression, nor a glob with signs, nor with something to fill in.
fn is_literal(pattern: &str) -> bool {
    !is_expression(pattern) && !pattern.contains(['*', '?', '[', '\\']) && !pattern.contains("${")
}

fn is_expression(pattern: &str) -> bool {
    pattern.len() > 2 && pattern.starts_with('/') && pattern.ends_with('/')
}

/// Whether `earlier` surely matches all that `later` matches.
fn covers(earlier: &Rule, later: &Rule) -> bool {
    let (first, second) = (earlier.text(), later.text());
    let fields = Field::ALL.into_iter().all(|field| {
        let (wide, narrow) = (field.of_rule(first), field.of_rule(second));
        covers_field(earlier, field, wide, narrow)
    });
    let labels = first
        .labels
        .iter()
        .all(|(label, pattern)| second.labels.get(label) == Some(pattern) && !has_capture(pattern));
    fields && labels && earlier.covers_network_of(later)
}

fn covers_field(earlier: &Rule, field: Field, wide: Option<&str>, narrow: Option<&str>) -> bool {
    let Some(wide) = wide else {
        return true;
    };
    // Types have no slash.
    if ["/.*/", "/^.*$/"].contains(&wide) || (field == Field::Type && wide == "*") {
        return true;
    }
    let Some(narrow) = narrow else {
        return false;
    };
    if has_capture(wide) {
        return false;
    }
    if wide == narrow {
        return true;
    }
    if wide.contains("${") || narrow.contains("${") {
        return false;
    }
    if is_literal(narrow) {
        return earlier.pattern_matches(field, narrow);
    }
    match (prefix(wide), prefix(narrow)) {
        (Some((wide, _, true)), Some((narrow, ..))) => narrow.starts_with(&wide),
        (Some((wide, star, false)), Some((narrow, rest, false))) if star == "*" => narrow
            .strip_prefix(wide.as_str())
            .is_some_and(|more| !more.contains('/') && !rest.contains('/')),
        _ => false,
    }
}

/// A pattern whose value comes from another pattern of its rule.
fn has_capture(pattern: &str) -> bool {
    pattern.contains("${") && pattern.contains(':')
}

/// The plain text that a pattern begins with, what follows it, and whether that is anything at all, also with slashes.
fn prefix(pattern: &str) -> Option<(String, String, bool)> {
    if is_expression(pattern) {
        let inside = pattern.strip_prefix("/^")?.strip_suffix("$/")?;
        let text = inside.strip_suffix(".*").or(inside.strip_suffix(".+"))?;
        let plain = text.replace("\\.", "");
        let is_plain = plain
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "/_-".contains(character));
        return is_plain.then(|| (text.replace("\\.", "."), String::new(), true));
    }
    if pattern.contains(['[', '\\']) {
        return None;
    }
    let sign = pattern.find(['*', '?'])?;
    let (text, rest) = pattern.split_at_checked(sign)?;
    Some((text.to_owned(), rest.to_owned(), false))
}

/// `team/*`, where no rule treats `team/a/b` in the same way for somebody whom this rule decides about.
fn one_level(rules: &[Rule], rule: &Rule, users: &BTreeMap<String, User>) -> Option<MistakeKind> {
    let text = rule.text();
    let pattern = text.name.as_deref()?;
    let last = pattern.rsplit('/').next()?;
    let is_star = !last.is_empty() && last.chars().all(|character| character == '*');
    if is_expression(pattern) || pattern.contains(['[', '\\']) || !is_star {
        return None;
    }
    let no_labels = BTreeMap::new();
    let decisive = |account: &str, name: &str| {
        let question = Question {
            fields: Fields {
                account,
                resource_type: REPOSITORY,
                name,
                service: text.service.as_deref().unwrap_or_default(),
            },
            client: sample_client(text),
            labels: users.get(account).map_or(&no_labels, |user| &user.labels),
        };
        decide(rules, &question)
    };
    let (missed, found) = users.keys().take(SAMPLES_MAX).find_map(|account| {
        let name = pattern
            .replace("${account}", account)
            .replace("**", "*")
            .replace(['*', '?'], "a");
        let is_decided_here =
            decisive(account, &name).is_some_and(|found| std::ptr::eq(found, rule));
        let deeper = format!("{name}/b");
        is_decided_here.then(|| (deeper.clone(), decisive(account, &deeper)))
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
        let is_about = rule.unmet(&question) != Some(Unmet::Account);
        rule.empty_placeholder(&question).filter(|_| is_about)
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
mod tests {
    use super::*;

    const ALL: &[&str] = &["*"];
    const PULL: &[&str] = &["pull"];

    fn rule(account: Option<&str>, name: Option<&str>, actions: &[&str]) -> RuleText {
        RuleText {
            account: account.map(str::to_owned),
            name: name.map(str::to_owned),
            actions: actions.iter().map(|&action| action.to_owned()).collect(),
            ..RuleText::default()
        }
    }

    /// Position and kind of what is said of these rules, among the users ann, bob and zoe.
    fn said(texts: Vec<RuleText>) -> Vec<(String, MistakeKind)> {
        let numbered = texts.into_iter().enumerate().map(|(number, text)| {
            let place = number.to_string();
            Rule::parse(RuleText { place, ..text }).expect("a rule")
        });
        let rules: Vec<Rule> = numbered.collect();
        let users = ["ann", "bob", "zoe"].map(|name| (name.to_owned(), User::default()));
        let found = mistakes(&rules, &BTreeMap::from(users), 0);
        found.into_iter().map(|one| (one.place, one.kind)).collect()
    }

    fn missed(kind: &MistakeKind) -> (&str, &str) {
        match kind {
            MistakeKind::OneLevel {
                missed, instead, ..
            } => (missed, instead),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_star_that_stops_at_a_slash_is_told() {
        for (pattern, name, instead) in [
            ("team/*", "team/a/b", "/^team/.*$/"),
            ("*", "a/b", "/^.*$/"),
            ("team/**", "team/a/b", "/^team/.*$/"),
            ("${account}/*", "ann/a/b", "/^${account}/.*$/"),
            ("a.b/*/*", "a.b/a/a/b", "/^a\\.b/[^/]*/.*$/"),
        ] {
            let found = said(vec![rule(None, Some(pattern), PULL)]);
            let [(_, kind)] = found.as_slice() else {
                panic!("{pattern}: {found:?}");
            };
            assert_eq!(missed(kind), (name, instead), "{pattern}");
            Rule::parse(rule(None, Some(instead), PULL)).expect("what is proposed can be written");
        }
        for fine in ["team/app", "team/*/app", "/^team/[^/]+$/", "team/a*", "[*"] {
            assert_eq!(said(vec![rule(None, Some(fine), PULL)]), [], "{fine}");
        }
    }

    #[test]
    fn nothing_is_said_where_another_rule_treats_deeper_names_alike() {
        let both = vec![
            rule(Some("ann"), Some("team/*"), PULL),
            rule(Some("ann"), Some("/^team/.+$/"), PULL),
        ];
        assert_eq!(said(both), []);
        // Denied deeper too, since nothing grants it.
        assert_eq!(said(vec![rule(None, Some("secret/*"), &[])]), []);
        let open_below = vec![
            rule(None, Some("secret/*"), &[]),
            rule(None, Some("/./"), PULL),
        ];
        let found = said(open_below);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, "0");
        assert_eq!(missed(&found[0].1).0, "secret/a/b");
        // The admin's rights hide nothing of what the others miss.
        let after_admin = vec![
            rule(Some("zoe"), None, ALL),
            rule(None, Some("team/*"), PULL),
        ];
        assert_eq!(said(after_admin).len(), 1);
        // A rule about other things than repositories.
        let catalog = RuleText {
            r#type: Some("registry".to_owned()),
            ..rule(None, Some("*"), ALL)
        };
        assert_eq!(said(vec![catalog]), []);
    }

    #[test]
    fn a_rule_behind_one_that_matches_all_of_it_is_told() {
        let with_ip = |ip: &str, text: RuleText| RuleText {
            ip: Some(ip.to_owned()),
            ..text
        };
        let ann = || rule(Some("ann"), Some("team/app"), PULL);
        let covered: Vec<(RuleText, RuleText)> = vec![
            (rule(None, None, PULL), ann()),
            (rule(Some("ann"), None, ALL), ann()),
            (rule(Some("a*"), Some("team/*"), ALL), ann()),
            (rule(Some("/^a/"), Some("/^team/.*$/"), ALL), ann()),
            (
                rule(None, Some("team/*"), ALL),
                rule(None, Some("team/a*"), PULL),
            ),
            (
                rule(None, Some("/^team/.*$/"), ALL),
                rule(None, Some("team/*/x"), PULL),
            ),
            (
                rule(None, Some("/^a\\.b/.+$/"), ALL),
                rule(None, Some("/^a\\.b/c/.*$/"), PULL),
            ),
            (rule(None, Some("/.*/"), ALL), rule(None, None, PULL)),
            (with_ip("10.0.0.0/8", ann()), with_ip("10.1.0.0/16", ann())),
        ];
        for (first, second) in covered {
            let what = format!("{first:?} {second:?}");
            let found = said(vec![first, second]);
            let by = "0".to_owned();
            assert!(
                found.contains(&("1".to_owned(), MistakeKind::Shadowed { by })),
                "{what} {found:?}"
            );
        }
        let labelled = RuleText {
            labels: BTreeMap::from([("team".to_owned(), "red".to_owned())]),
            ..rule(None, None, PULL)
        };
        let free: Vec<(RuleText, RuleText)> = vec![
            (ann(), rule(Some("ann"), None, PULL)),
            (rule(Some("bob"), None, ALL), ann()),
            (
                rule(None, Some("team/*"), ALL),
                rule(None, Some("team/a/*"), PULL),
            ),
            (
                rule(None, Some("team/*x"), ALL),
                rule(None, Some("team/a*"), PULL),
            ),
            (
                rule(None, Some("team/?"), ALL),
                rule(None, Some("team/a*"), PULL),
            ),
            (
                rule(None, Some("/^team/.*x$/"), ALL),
                rule(None, Some("team/app/a*"), PULL),
            ),
            (
                rule(None, Some("${account}/x"), ALL),
                rule(None, Some("ann/x"), PULL),
            ),
            (with_ip("10.1.0.0/16", ann()), ann()),
            (labelled, ann()),
        ];
        for (first, second) in free {
            let what = format!("{first:?} {second:?}");
            let found = said(vec![first, second]);
            let is_shadowed =
                |(_, kind): &(String, MistakeKind)| matches!(kind, MistakeKind::Shadowed { .. });
            assert!(!found.iter().any(is_shadowed), "{what}");
        }
    }

    #[test]
    fn accounts_that_are_not_there_and_odd_actions_are_told() {
        let found = said(vec![
            rule(Some("eve"), Some("x"), PULL),
            rule(Some(""), Some("x"), PULL),
            rule(Some("dev-*"), Some("x"), PULL),
            rule(Some("bob"), Some("x"), &["push"]),
            rule(Some("bob"), Some("y"), &["pull", "*"]),
        ]);
        let expected = [
            ("0", MistakeKind::NoSuchAccount("eve".to_owned())),
            ("1", MistakeKind::NoSuchAccount(String::new())),
            ("3", MistakeKind::PushWithoutPull),
            ("4", MistakeKind::StarAmongOthers),
        ];
        let expected = expected.map(|(place, kind)| (place.to_owned(), kind));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_placeholder_that_is_empty_for_somebody_is_told() {
        let told = |pattern: &str, account: Option<&str>, actions: &[&str]| {
            let parsed = Rule::parse(rule(account, Some(pattern), actions)).expect("a rule");
            let mut users = BTreeMap::from([("ann", ""), ("", "")].map(|(name, label)| {
                let labels = BTreeMap::from([("team".to_owned(), vec![label.to_owned()])]);
                let user = User {
                    labels,
                    ..User::default()
                };
                (name.to_owned(), user)
            }));
            users.insert("bob".to_owned(), User::default());
            let found = mistakes(&[parsed], &users, 0).into_iter();
            let callers = found.filter_map(|found| match found.kind {
                MistakeKind::EmptyValue { caller, .. } => Some(caller),
                _ => None,
            });
            callers.collect::<Vec<String>>().join(", ")
        };
        for (pattern, account, actions, expected) in [
            ("/${account}/", None, ALL, "anonymous callers"),
            ("${account}/*", Some("*"), ALL, "anonymous callers"),
            ("/${account}/", Some("/.+/"), ALL, ""),
            ("/${account}/", Some("ann"), ALL, ""),
            ("/^${account}/", None, &[], ""),
            (
                "/${service}/",
                Some("bob"),
                PULL,
                "clients that name no service",
            ),
            ("/${labels:team}/", Some("ann"), PULL, "`ann`"),
            ("/${labels:team}/", Some("bob"), PULL, ""),
            ("/^app/", None, PULL, ""),
        ] {
            assert_eq!(told(pattern, account, actions), expected, "{pattern}");
        }
    }
}
