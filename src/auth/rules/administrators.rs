//! Who is an administrator: an account that may log in, and that has an unconditional `*` on everything.
//!
//! Must not know files. A rule that is about a part only, and stands before that of the administrator, makes no difference: an
//! administrator who is kept from one repository can still give the rights of all others back.

use std::collections::BTreeMap;

use super::{Fields, Question, Rule};
use crate::auth::User;

/// The accounts that may log in at that second (since 1970), and may do everything. Accounts that only an external
/// authenticator knows are not among them.
pub fn administrators<'a>(
    users: &'a BTreeMap<String, User>,
    rules: &[Rule],
    now_unix_secs: u64,
) -> Vec<&'a str> {
    // Most rules are about a part of the repositories or one account: of a lab's thousands, these few are tried for each account.
    let wide: Vec<&Rule> = rules.iter().filter(|rule| rule.has_no_name()).collect();
    let is_administrator = |(name, user): &(&String, &User)| {
        let first = wide
            .iter()
            .find(|rule| rule.is_about_all_of(name, &user.labels));
        !name.is_empty()
            && user.may_log_in(now_unix_secs)
            && first.is_some_and(|rule| rule.text().actions == ["*"])
    };
    let found = users.iter().filter(is_administrator);
    found.map(|(name, _)| name.as_str()).collect()
}

impl Rule {
    /// Whether the caller's labels are those that the rule asks for.
    pub(super) fn labels_match(
        &self,
        account: &str,
        labels: &BTreeMap<String, Vec<String>>,
    ) -> bool {
        let question = Question {
            fields: Fields {
                account,
                resource_type: "repository",
                name: "a",
                service: "",
            },
            client: std::net::Ipv4Addr::LOCALHOST.into(),
            labels,
        };
        let captured = self.captured(&question.fields);
        self.unmet_label(&question, &captured).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::super::RuleText;
    use super::*;

    const HASH: &str = "$2y$04$abcdefghijklmnopqrstuu5nTzPGVsNTFuMqkPVtDFQi7HyyPrHx2";

    fn user() -> User {
        User {
            password_hash: Some(HASH.to_owned()),
            ..User::default()
        }
    }

    /// A rule with the fields that `change` sets.
    fn rule(actions: &[&str], change: impl FnOnce(&mut RuleText)) -> Rule {
        let mut text = RuleText {
            actions: actions.iter().map(|&action| action.to_owned()).collect(),
            ..RuleText::default()
        };
        change(&mut text);
        Rule::parse(text).unwrap()
    }

    fn names(users: &[(&str, User)], rules: &[Rule]) -> Vec<String> {
        let users = users.iter().cloned();
        let users = users.map(|(name, user)| (name.to_owned(), user)).collect();
        let found = administrators(&users, rules, 100);
        found.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn only_an_unconditional_star_makes_an_administrator() {
        let some = |text: &str| Some(text.to_owned());
        let all: &[&str] = &["*"];
        let of_ann = |rules: &[Rule]| names(&[("ann", user())], rules) == ["ann"];
        assert!(of_ann(&[rule(all, |_| {})]));
        assert!(of_ann(&[
            rule(all, |text| text.account = some("/^(ann|bob)$/"))
        ]));
        assert!(of_ann(&[rule(all, |text| text.name = some("/.*/"))]));
        // Before it, a rule about a part.
        let part = rule(&["pull"], |text| text.name = some("public/*"));
        assert!(of_ann(&[
            part,
            rule(all, |text| text.account = some("ann"))
        ]));
        for conditional in [
            rule(&["pull", "push", "delete"], |_| {}),
            rule(all, |text| text.account = some("bob")),
            rule(all, |text| text.account = some("${account}x")),
            rule(all, |text| text.name = some("**")),
            rule(all, |text| text.r#type = some("repository")),
            rule(all, |text| text.service = some("lab")),
            rule(all, |text| text.ip = some("10.0.0.0/8")),
            rule(all, |text| {
                text.labels.insert("team".to_owned(), "ops".to_owned());
            }),
        ] {
            assert!(
                !of_ann(std::slice::from_ref(&conditional)),
                "{conditional:?}"
            );
            // It does not hide what comes after it either.
            let shown = format!("{conditional:?}");
            if conditional.text().actions == ["*"] {
                assert!(of_ann(&[conditional, rule(all, |_| {})]), "{shown}");
            }
        }
        assert!(
            !of_ann(&[rule(&[], |_| {}), rule(all, |_| {})]),
            "denied first"
        );
        let labelled = User {
            labels: BTreeMap::from([("team".to_owned(), vec!["ops".to_owned()])]),
            ..user()
        };
        let of_team = rule(all, |text| {
            text.labels.insert("team".to_owned(), "ops".to_owned());
        });
        assert_eq!(names(&[("ann", labelled)], &[of_team]), ["ann"]);
    }

    #[test]
    fn an_administrator_may_log_in() {
        let all = [rule(&["*"], |_| {})];
        let with = |change: fn(&mut User)| {
            let mut user = user();
            change(&mut user);
            names(&[("ann", user)], &all).len()
        };
        assert_eq!(with(|user| user.expires_unix_secs = Some(101)), 1);
        assert_eq!(with(|user| user.expires_unix_secs = Some(100)), 0);
        assert_eq!(with(|user| user.password_hash = None), 1, "any password");
        assert_eq!(with(|user| user.password_hash = Some("x".to_owned())), 0);
        assert_eq!(names(&[("", user())], &all).len(), 0, "anonymous callers");
    }
}
