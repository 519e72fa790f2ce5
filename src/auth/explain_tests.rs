//! What is explained is what happens.

use super::tests::{Lab, basic_header, hash_of, name, rule};
use super::*;

#[tokio::test]
async fn what_is_explained_is_what_a_request_is_told() {
    let mut lab = Lab::new();
    lab.reload(|accounts| {
        let bob = User {
            password_hash: Some(hash_of("bob")),
            ..User::default()
        };
        accounts.users.insert("bob".to_owned(), bob);
        accounts.acl = vec![
            rule("bob", "team/secret", &[]),
            rule("alice", "team/*", &["*"]),
            rule("bob", "team/*", &["pull", "delete"]),
            rule("bob", "drop/*", &["push"]),
        ];
    });
    let header = |account: &str| {
        basic_header(&format!(
            "{account}:{}",
            if account == "bob" { "bob" } else { "right" }
        ))
    };
    for account in ["alice", "bob"] {
        for repository in ["team/app", "team/secret", "team/a/b", "drop/x", "other"] {
            let name = name(repository);
            for access in [
                Access::Pull(name.clone()),
                Access::Push(name.clone()),
                Access::Delete(name),
            ] {
                let told = lab.may(&header(account), access.clone()).await.is_ok();
                let explained = lab.auth.explain(account, &access, &lab.origin);
                assert_eq!(explained.is_allowed, told, "{account} {access:?}");
            }
        }
    }
}

#[test]
fn the_rule_and_what_was_passed_over_are_named() {
    let mut lab = Lab::new();
    let placed = |place: &str, rule: &Rule| {
        let text = RuleText {
            place: place.to_owned(),
            ..rule.text().clone()
        };
        Rule::parse(text).expect("a rule")
    };
    let rules = vec![
        placed("c.yml:1", &rule("bob", "*", &["*"])),
        placed("c.yml:2", &rule("alice", "team/*", &["*"])),
        placed("u.yml:3", &rule("alice", "team/a/*", &["pull"])),
    ];
    lab.reload(move |accounts| accounts.acl = rules);
    let push = Access::Push(name("team/a/b"));
    let explained = lab.auth.explain("alice", &push, &lab.origin);
    assert!(!explained.is_allowed, "a push needs both");
    assert_eq!(explained.needed, ["pull", "push"]);
    assert_eq!(explained.standing, Standing::Known);
    assert_eq!(explained.decisive.expect("a rule").place, "u.yml:3");
    let passed_over: Vec<(&str, &Unmet)> = explained
        .passed_over
        .iter()
        .map(|(text, unmet)| (text.place.as_str(), unmet))
        .collect();
    assert_eq!(
        passed_over,
        [("c.yml:1", &Unmet::Account), ("c.yml:2", &Unmet::Name)]
    );
    let none = lab
        .auth
        .explain("alice", &Access::Pull(name("x")), &lab.origin);
    assert!(!none.is_allowed && none.decisive.is_none());
    assert_eq!(none.passed_over.len(), 3);
}

#[test]
fn an_empty_value_is_named_as_the_reason() {
    let mut lab = Lab::new();
    lab.reload(|accounts| accounts.acl = vec![rule("*", "/${account}/", &["*"])]);
    let pull = Access::Pull(name("team/app"));
    let explained = lab.auth.explain("", &pull, &lab.origin);
    assert!(!explained.is_allowed && explained.decisive.is_none());
    let unmet = Unmet::Empty {
        key: "name".to_owned(),
        placeholder: "${account}".to_owned(),
    };
    assert_eq!(explained.passed_over[0].1, unmet);
}

#[test]
fn an_account_that_cannot_log_in_may_nothing() {
    let mut lab = Lab::new();
    lab.reload(|accounts| {
        let ended = User {
            expires_unix_secs: Some(1_000),
            ..User::default()
        };
        accounts.users.insert("old".to_owned(), ended);
        accounts.acl = vec![rule("*", "*", &["*"])];
    });
    let pull = Access::Pull(name("x"));
    for (account, standing, is_allowed) in [
        ("alice", Standing::Known, true),
        ("", Standing::Known, true),
        ("old", Standing::Ended(1_000), false),
        ("nobody", Standing::Unknown, false),
    ] {
        let explained = lab.auth.explain(account, &pull, &lab.origin);
        assert_eq!(explained.standing, standing, "{account}");
        assert_eq!(explained.is_allowed, is_allowed, "{account}");
        assert!(explained.decisive.is_some(), "{account}");
    }
    lab.reload(|accounts| {
        accounts.users.remove("");
    });
    assert!(!lab.auth.explain("", &pull, &lab.origin).is_allowed);
    let open = Lab::with(|settings| settings.authentication = Authentication::Open);
    let explained = open.auth.explain("whoever", &pull, &open.origin);
    assert_eq!(
        (explained.is_allowed, explained.standing),
        (true, Standing::Open)
    );
}
