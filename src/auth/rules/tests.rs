//! Which rules decide about whom.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn matches(text: RuleText, account: &str, name: &str, client: &str) -> bool {
    let labels = BTreeMap::from([
        ("team".to_owned(), vec!["red".to_owned(), "/.*/".to_owned()]),
        ("stage".to_owned(), vec!["dev".to_owned(), "qa".to_owned()]),
    ]);
    let question = Question {
        fields: Fields {
            account,
            resource_type: "repository",
            name,
            service: "boathouse",
        },
        client: client.parse().expect("an address"),
        labels: &labels,
    };
    Rule::parse(text).expect("a rule").matches(&question)
}

fn on_name(pattern: &str) -> RuleText {
    RuleText {
        name: Some(pattern.to_owned()),
        ..RuleText::default()
    }
}

#[test]
fn placeholders_stand_for_their_values_only() {
    for (pattern, account, name, expected) in [
        ("${account}/*", "alice", "alice/x", true),
        ("${account}/*", "*", "alice/x", false),
        ("${account}", "/.*/", "anything", false),
        ("\\${account}/*", "*", "\\x/y", false),
        ("/^${account}/", ".*", "alice", false),
        ("/^[${account}]+$/", "a-c", "b", false),
        ("/^[${account}]x]$/", "", "x", false),
        ("${labels:team}-${labels:stage}", "a", "red-qa", true),
        ("${labels:team}", "a", "anything", false),
        ("${labels:none}", "a", "", false),
        ("/^(?:${labels:none})?$/", "a", "", true),
    ] {
        let outcome = matches(on_name(pattern), account, name, "192.0.2.1");
        assert_eq!(outcome, expected, "{pattern} {account} {name}");
    }
    let capture = RuleText {
        account: Some("/^(.+)@lab$/".to_owned()),
        ..on_name("${account:1}/*")
    };
    assert!(matches(capture.clone(), "bob@lab", "bob/x", "192.0.2.1"));
    assert!(!matches(capture, "*@lab", "bob/x", "192.0.2.1"));
}

/// Whether a rule that grants something, with this text in `field`, decides about a caller whose values are all empty.
fn matches_the_empty(field: &str, pattern: &str, actions: &[&str]) -> bool {
    let mut text = RuleText {
        actions: actions.iter().map(|&action| action.to_owned()).collect(),
        ..RuleText::default()
    };
    match field {
        "account" => text.account = Some(pattern.to_owned()),
        "type" => text.r#type = Some(pattern.to_owned()),
        "name" => text.name = Some(pattern.to_owned()),
        "service" => text.service = Some(pattern.to_owned()),
        label => {
            text.labels.insert(label.to_owned(), pattern.to_owned());
        }
    }
    let labels = BTreeMap::from([
        ("x".to_owned(), vec![String::new()]),
        ("none".to_owned(), Vec::new()),
        ("team".to_owned(), vec!["red".to_owned()]),
    ]);
    let question = Question {
        fields: Fields {
            account: "",
            resource_type: "repository",
            name: "team/app",
            service: "",
        },
        client: [192, 0, 2, 1].into(),
        labels: &labels,
    };
    Rule::parse(text).expect("a rule").matches(&question)
}

#[test]
fn an_empty_value_matches_nothing() {
    let patterns = [
        "/${account}/",
        "/${service}/",
        "/${labels:x}/",
        "/${labels:none}/",
        "/^${account}/",
        "/${account}$/",
        "/^${account}$/",
        "/(?i)${account}/",
        "/(${account})/",
        "/^(?:${account}|${service})/",
        "/${account}${service}${labels:x}/",
        "/${account}.*/",
        "/${account}|${service}/",
        "/^${account}?$/",
        "/^${account}*/",
        "/${account}?/",
        "/${account}*./",
        "/y?${account}*/",
        "/.+${account}{0}/",
        "/[^${account}]/",
        "/[^${account}!]/",
        "/\\b${account}\\b/",
        "/${account}\\/?/",
        "${account}",
        "${account}*",
        "*${service}",
        "${account}*/${labels:x}*",
        "*${labels:x}*/*",
        "${account}team/app",
    ];
    for field in ["account", "type", "name", "service", "team"] {
        for pattern in patterns {
            // Label placeholders are not filled in the pattern of a label.
            if field == "team" && pattern.contains("${labels") {
                continue;
            }
            let is_wider = matches_the_empty(field, pattern, &["pull"]);
            assert!(!is_wider, "an empty value opened {field}: {pattern}");
        }
    }
    // What does not depend on the value matches as before.
    for pattern in ["/^(${account}|team)\\/app$/", "/^team${account}?|^team/"] {
        assert!(matches_the_empty("name", pattern, &["pull"]), "{pattern}");
    }
    let captured = RuleText {
        account: Some("/^(.*)$/".to_owned()),
        actions: vec!["pull".to_owned()],
        ..on_name("/${account:1}/")
    };
    assert!(!matches(captured.clone(), "", "team/app", "192.0.2.1"));
    assert!(matches(captured, "team", "team/app", "192.0.2.1"));
    // A part of a name may be optional, and what is left must still open nothing more.
    for (pattern, name, expected) in [
        ("${account:1}${account:2}/*", "bob/x", true),
        ("/^${account:1}${account:2}\\//", "bob/x", true),
        ("/^${account:1}\\/|${account:2}/", "team/app", false),
        ("${account:2}*", "app", false),
    ] {
        let optional = RuleText {
            account: Some("/^([a-z]+)(-[a-z]+)?@/".to_owned()),
            actions: vec!["pull".to_owned()],
            ..on_name(pattern)
        };
        let outcome = matches(optional, "bob@lab", name, "192.0.2.1");
        assert_eq!(outcome, expected, "{pattern}");
    }
}

#[test]
fn a_rule_that_denies_still_denies_an_empty_value() {
    for pattern in ["/^${account}/", "${account}team/*", "/${service}.*/"] {
        assert!(matches_the_empty("name", pattern, &[]), "{pattern}");
    }
    // As in docker_auth, where it becomes the glob `//`.
    assert!(!matches_the_empty("name", "/${account}/", &[]));
}

#[test]
fn networks_mean_what_they_mean_to_go() {
    for (ip, client, expected) in [
        ("192.0.2.0/24", "192.0.2.77", true),
        ("192.0.2.9/24", "192.0.2.77", true),
        ("192.0.2.1", "::ffff:192.0.2.1", true),
        ("::ffff:192.0.2.0/120", "192.0.2.1", true),
        ("172.16.0.0/012", "172.31.0.1", true),
        ("172.16.0.0/0012", "172.32.0.1", false),
        ("fd00::/08", "fd00::1", true),
        ("fd00::/8", "fd00::1", true),
        ("fd00::/8", "192.0.2.1", false),
    ] {
        let text = RuleText {
            ip: Some(ip.to_owned()),
            ..RuleText::default()
        };
        assert_eq!(matches(text, "a", "b", client), expected, "{ip} {client}");
    }
    for ip in [
        "192.0.2.0/33",
        "192.0.2.0/+8",
        "192.0.2.0/",
        "192.0.2.0/8/8",
        "192.0.2.0/00000000000000000000000000000000000000033",
        "::/129",
        "fe80::%eth0/64",
    ] {
        let text = RuleText {
            ip: Some(ip.to_owned()),
            ..RuleText::default()
        };
        assert_eq!(Rule::parse(text).err(), Some(RuleError::Network), "{ip}");
    }
}

#[test]
fn a_broken_expression_is_refused_when_read() {
    for pattern in ["/(/", "/${account}(/", "/a**/", "/\\${account}/"] {
        assert!(Rule::parse(on_name(pattern)).is_err(), "{pattern}");
    }
    assert!(Rule::parse(on_name("[")).is_ok_and(|rule| rule.is_malformed()));
}

proptest! {
    #[test]
    fn an_account_never_brings_a_pattern(
        account in r"[a-b*?/.\[\]\\^$+(){}|-]{1,6}",
        name in r"[a-b*?/.\[\]\\^$+(){}|-]{1,6}",
    ) {
        for pattern in ["${account}", "/^${account}$/"] {
            let outcome = matches(on_name(pattern), &account, &name, "192.0.2.1");
            prop_assert_eq!(outcome, account == name, "{}", pattern);
        }
    }

    #[test]
    fn no_rule_panics(pattern in r"[a-b*?/.\[\]\\^$+(){}|:1labels-]{0,14}|/?\$\{(account|name:1|labels:team)\}.{0,5}/?") {
        if let Ok(rule) = Rule::parse(on_name(&pattern)) {
            let _ = rule.is_malformed();
        }
    }
}
