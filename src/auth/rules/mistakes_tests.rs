//! What is said of rules that are probably not meant, and of no others.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::decide;
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
    let found = mistakes(&rules, &BTreeMap::from(users), false, |_| true);
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
        let found = mistakes(&[parsed], &users, false, |_| true).into_iter();
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

thread_local! {
    /// How often a rule was compared with another, or asked whether it matches, to find the one that decides.
    pub(super) static COMPARISONS: Cell<usize> = const { Cell::new(0) };
}

/// The rules of a large lab: one or two for each account or team.
fn rules_of_a_lab(kind: &str, count: usize) -> Vec<RuleText> {
    let text = |number: usize| {
        let account = format!("user-{number}");
        let own = format!("user-{number}/*");
        match kind {
            "literal names" => rule(Some(&account), Some(&format!("team/app-{number}")), PULL),
            "a level each" => rule(Some(&account), Some(&own), ALL),
            "all below each" => rule(Some(&account), Some(&format!("/^user-{number}/.*$/")), ALL),
            "shared names" => rule(Some(&account), Some("shared/*"), PULL),
            "one account" => rule(Some("ann"), Some(&own), PULL),
            "names alone" => rule(None, Some(&own), PULL),
            "accounts alone" => rule(Some(&account), None, ALL),
            other => panic!("{other}"),
        }
    };
    let admin = rule(Some("zoe"), None, ALL);
    let everybody = rule(None, Some("public/*"), PULL);
    let mut texts = vec![admin];
    texts.extend((0..count).map(text));
    texts.push(everybody);
    texts
}

#[test]
fn thousands_of_rules_are_not_compared_with_one_another() {
    const RULES: usize = 1_000;
    let users: BTreeMap<String, User> = (0..RULES)
        .map(|number| (format!("user-{number}"), User::default()))
        .chain(["ann", "zoe"].map(|name| (name.to_owned(), User::default())))
        .collect();
    for kind in [
        "literal names",
        "a level each",
        "all below each",
        "shared names",
        "one account",
        "names alone",
        "accounts alone",
    ] {
        let texts = rules_of_a_lab(kind, RULES);
        let rules: Vec<Rule> = texts
            .into_iter()
            .map(|text| Rule::parse(text).expect("a rule"))
            .collect();
        COMPARISONS.with(|count| count.set(0));
        mistakes(&rules, &users, false, |_| true);
        let comparisons = COMPARISONS.with(Cell::get);
        assert!(comparisons < 4 * RULES, "{kind}: {comparisons} comparisons");
    }
}

/// Patterns that are often related to one another.
const PATTERNS: &[&str] = &[
    "",
    "a",
    "b",
    "a/b",
    "a/b/c",
    "*",
    "a*",
    "a/*",
    "a/b*",
    "*/b",
    "a?",
    "[ab]",
    "a\\*",
    "**",
    "a/**",
    "/.*/",
    "/^.*$/",
    "/^a.*$/",
    "/^a/.*$/",
    "/^a/b.+$/",
    "/^a\\.b/.*$/",
    "/a/",
    "/^a$/",
    "/^(a|b)/",
    "${account}",
    "${account}/*",
    "a/${account}",
    "/^${account}/.*$/",
    "/^a/${account}.*$/",
    "${account:1}",
    "/^(.*)$/",
    "a.b/c",
];

fn pattern() -> impl Strategy<Value = Option<String>> {
    proptest::option::weighted(
        0.8,
        proptest::sample::select(PATTERNS).prop_map(str::to_owned),
    )
}

fn any_rule() -> impl Strategy<Value = RuleText> {
    let ip = proptest::option::weighted(
        0.2,
        proptest::sample::select(&["10.0.0.0/8", "10.1.0.0/16", "::1"][..]),
    );
    let label = proptest::option::weighted(
        0.2,
        proptest::sample::select(&["red", "*", "${account}"][..]),
    );
    (pattern(), pattern(), ip, label, any::<bool>()).prop_map(
        |(account, name, ip, label, denies)| RuleText {
            account,
            name,
            ip: ip.map(str::to_owned),
            labels: label
                .map(|label| ("team".to_owned(), label.to_owned()))
                .into_iter()
                .collect(),
            actions: if denies {
                Vec::new()
            } else {
                vec!["pull".to_owned()]
            },
            ..RuleText::default()
        },
    )
}

proptest! {
    #[test]
    fn the_rule_that_covers_or_decides_is_the_one_that_a_search_of_all_finds(
        texts in proptest::collection::vec(any_rule(), 1..12),
        account in "[ab./]{0,4}",
        name in "[abc./*]{0,5}",
    ) {
        let rules: Vec<Rule> = texts
            .into_iter()
            .filter_map(|text| Rule::parse(text).ok())
            .collect();
        let ordered = Ordered { rules: &rules, index: RuleIndex::new(&rules) };
        for (position, rule) in rules.iter().enumerate() {
            let expected = rules.iter().take(position).find(|earlier| covers(earlier, rule));
            let found = ordered.first_that_covers(position, rule);
            prop_assert_eq!(found.map(std::ptr::from_ref), expected.map(std::ptr::from_ref));
        }
        let labels = BTreeMap::from([("team".to_owned(), vec!["red".to_owned()])]);
        let question = Question {
            fields: Fields { account: &account, resource_type: "repository", name: &name, service: "boathouse" },
            client: [10, 1, 2, 3].into(),
            labels: &labels,
        };
        let expected = decide(&rules, &question);
        let found = ordered.decide(&question);
        prop_assert_eq!(found.map(std::ptr::from_ref), expected.map(std::ptr::from_ref));
    }
}

#[test]
fn an_action_or_a_type_that_no_client_asks_for_is_told_and_no_other() {
    let typed = |resource_type: &str, actions: &[&str]| RuleText {
        r#type: Some(resource_type.to_owned()),
        ..rule(Some("ann"), None, actions)
    };
    let action = |word: &str| MistakeKind::UnknownAction(word.to_owned());
    let of_type = |word: &str| MistakeKind::UnknownType(word.to_owned());
    for (text, expected) in [
        (typed("repository", &["pull", "psuh"]), vec![action("psuh")]),
        (typed("repository", &["Pull"]), vec![action("Pull")]),
        (typed("repo", PULL), vec![of_type("repo")]),
        (
            typed("repositories", &["write"]),
            vec![action("write"), of_type("repositories")],
        ),
        (typed("registry", ALL), vec![]),
        (typed("repository", &["pull", "push", "delete"]), vec![]),
        (typed("/^repo/", PULL), vec![]),
        (typed("repo*", PULL), vec![]),
        (typed("${type}", PULL), vec![]),
    ] {
        let found = said(vec![text]);
        let found: Vec<MistakeKind> = found.into_iter().map(|(_, kind)| kind).collect();
        assert_eq!(found, expected);
    }
    let told = Mistake {
        place: "a.yml:1".to_owned(),
        kind: action("psuh"),
    };
    assert_eq!(
        told.to_string(),
        "a.yml:1: acl[]: actions: no client of a registry asks for `psuh`, only for `pull`, `push`, `delete`, `*`"
    );
}
