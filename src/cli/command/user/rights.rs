//! Giving rights to an account in the file of users, and taking them away.
//!
//! The rules that commands write stand in this order: what is denied, then what is limited (a lower level on a part of what a
//! later rule gives), then what is granted, the higher level first. The first rule that matches decides, so a denial always
//! counts, and no grant takes away what another one gives. Must not know where the file is. Invariants: rules of other accounts,
//! and rules that no grant says, stay as they are; a change that cannot be expressed exactly is refused.

use super::changes::ChangeError;
use crate::auth::{Grant, Level, RuleText, exactly};
use crate::config::UsersFile;

/// The rights that commands gave the account, each with the position of its rule, in their order.
pub(super) fn rights_of(acl: &[RuleText], name: &str) -> Vec<(usize, Grant)> {
    let rules = acl.iter().enumerate();
    let rights = rules.filter_map(|(at, rule)| Some((at, Grant::of_rule(rule, name)?)));
    rights.collect()
}

/// What the account may do by the rules that are for it alone, after "ann ": each with the position of its rule.
pub(super) fn in_words(acl: &[RuleText], name: &str) -> Vec<(usize, String)> {
    let account = exactly(name);
    let rights = rights_of(acl, name);
    let own = acl.iter().enumerate();
    let own = own.filter(|(_, rule)| rule.account.as_ref() == Some(&account));
    let words = own.map(|(at, rule)| {
        let mut positions = rights.iter().enumerate();
        let words = match positions.find(|(_, (of_right, _))| *of_right == at) {
            Some((position, (_, right))) if is_limit(&rights, position) && !is_denial(right) => {
                right.in_words().replacen("may ", "may only ", 1)
            }
            Some((_, (_, right))) => right.in_words(),
            None => in_words_by_hand(rule),
        };
        (at, words)
    });
    words.collect()
}

/// A rule that was written by hand: its actions, and the conditions other than the account.
fn in_words_by_hand(rule: &RuleText) -> String {
    let others = RuleText {
        account: None,
        ..rule.clone()
    };
    format!(
        "[{}] on {}",
        rule.actions.join(", "),
        others.shown_conditions()
    )
}

/// Gives a right. Returns the rule that was written; `None` if the account has the right already.
pub(super) fn grant(
    file: &mut UsersFile,
    name: &str,
    new: &Grant,
) -> Result<Option<RuleText>, ChangeError> {
    let rule = new.rule(name)?;
    if *new == Grant::Everything {
        return Ok(grant_everything(file, name, rule));
    }
    // A denial or a limit of the same pattern is taken back.
    remove_rules(file, name, |is_limit, right| {
        let is_same = right.covers(new) && new.covers(right);
        is_same && new.gives_more_than(right) && (is_limit || is_denial(right))
    });
    let rights = rights_of(&file.acl, name);
    let decisive = rights.iter().find(|(_, right)| right.covers(new));
    match decisive {
        Some((_, denial)) if is_denial(denial) => {
            return Err(ChangeError::Denied {
                name: name.to_owned(),
                wanted: new.pattern().to_owned(),
                denied: denial.pattern().to_owned(),
            });
        }
        Some((_, right)) if !new.gives_more_than(right) => return Ok(None),
        // One that gives less.
        Some(_) | None => {}
    }
    let mut positions = rights.iter().enumerate();
    let gives_less = positions.find(|(position, (_, right))| {
        let is_limit_elsewhere = is_limit(&rights, *position) && !right.covers(new);
        !is_denial(right) && !is_limit_elsewhere && new.gives_more_than(right)
    });
    let at = match (gives_less, rights.last()) {
        (Some((_, (at, _))), _) => *at,
        (None, Some((last, _))) => last.saturating_add(1),
        (None, None) => file.acl.len(),
    };
    file.acl.insert(at, rule.clone());
    // What the new rule makes useless. A limit on a part of its pattern stays.
    remove_rules(file, name, |is_limit, right| {
        let is_useless = new.covers(right) && !right.gives_more_than(new) && right != new;
        is_useless && !is_limit && !is_denial(right)
    });
    Ok(Some(rule))
}

/// An administrator has one rule, and no denials.
fn grant_everything(file: &mut UsersFile, name: &str, rule: RuleText) -> Option<RuleText> {
    let rights = rights_of(&file.acl, name);
    if matches!(rights.as_slice(), [(_, Grant::Everything)]) {
        return None;
    }
    remove_rules(file, name, |_, _| true);
    // Before rules for everybody that were written by hand.
    let at = first_about(&file.acl, name);
    file.acl.insert(at, rule.clone());
    Some(rule)
}

/// Takes a right away. Returns whether anything was changed.
pub(super) fn deny(file: &mut UsersFile, name: &str, taken: &Grant) -> Result<bool, ChangeError> {
    let before = file.acl.clone();
    match taken {
        Grant::Everything => remove_rules(file, name, |_, right| *right == Grant::Everything),
        Grant::On(level, pattern) => {
            let left = Grant::On(level.below(), pattern.clone());
            if is_denial(&left) {
                let rule = left.rule(name)?;
                remove_rules(file, name, |_, right| left.covers(right));
                let at = first_about(&file.acl, name);
                file.acl.insert(at, rule);
            } else {
                limit(file, name, &left)?;
            }
        }
    }
    Ok(file.acl != before)
}

/// Leaves `left` of what the account has on that pattern.
fn limit(file: &mut UsersFile, name: &str, left: &Grant) -> Result<(), ChangeError> {
    let rule = left.rule(name)?;
    let mut wider = None;
    let mut within = Vec::new();
    for (at, right) in rights_of(&file.acl, name) {
        if !right.gives_more_than(left) {
            if right.covers(left) {
                // It decides about the whole pattern.
                break;
            }
        } else if left.covers(&right) {
            within.push(right);
        } else if right.covers(left) {
            wider = Some(at);
            // What comes later decides about no part of the pattern.
            break;
        } else if !right.is_apart_from(left) {
            return Err(ChangeError::Overlap {
                name: name.to_owned(),
                pattern: left.pattern().to_owned(),
                granted: right.pattern().to_owned(),
            });
        }
    }
    if let Some(at) = wider {
        file.acl.insert(at, rule);
    }
    remove_rules(file, name, |_, right| within.contains(right));
    for right in &within {
        let (Grant::On(level, _), pattern) = (left, right.pattern()) else {
            continue;
        };
        grant(file, name, &Grant::On(*level, pattern.to_owned()))?;
    }
    Ok(())
}

/// Whether no access at all is what it says.
fn is_denial(right: &Grant) -> bool {
    matches!(right, Grant::On(Level::Nothing, _))
}

/// Whether the right at this position limits one that comes later.
fn is_limit(rights: &[(usize, Grant)], position: usize) -> bool {
    let mut later = rights.iter().skip(position);
    let Some((_, right)) = later.next() else {
        return false;
    };
    later.any(|(_, later)| later.gives_more_than(right) && later.covers(right))
}

/// Removes rules that commands wrote for the account. `is_removed` is given whether the right limits a later one.
fn remove_rules(file: &mut UsersFile, name: &str, is_removed: impl Fn(bool, &Grant) -> bool) {
    let rights = rights_of(&file.acl, name);
    for (position, (at, right)) in rights.iter().enumerate().rev() {
        if is_removed(is_limit(&rights, position), right) {
            file.acl.remove(*at);
        }
    }
}

/// The position of the first rule that may be about this account: all before it are for one other account each.
fn first_about(acl: &[RuleText], name: &str) -> usize {
    let pattern = exactly(name);
    let is_of_another = |rule: &RuleText| {
        rule.account.as_deref().is_some_and(|account| {
            let is_literal = account == exactly(account) && !account.starts_with('/');
            is_literal && account != pattern
        })
    };
    let found = acl.iter().position(|rule| !is_of_another(rule));
    found.unwrap_or(acl.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pull team/*`, `nothing a/**`, `everything`, …
    fn right(text: &str) -> Grant {
        let (word, pattern) = text.split_once(' ').unwrap_or((text, ""));
        let level = match word {
            "nothing" => Level::Nothing,
            "pull" => Level::Pull,
            "push" => Level::Push,
            "delete" => Level::Delete,
            _ => return Grant::Everything,
        };
        Grant::On(level, pattern.to_owned())
    }

    fn of(rights: &[&str]) -> UsersFile {
        let mut file = UsersFile::default();
        let rules = rights.iter().map(|text| right(text).rule("ann").unwrap());
        file.acl = rules.collect();
        file
    }

    #[track_caller]
    fn assert_rights(file: &UsersFile, expected: &[&str]) {
        let rights = rights_of(&file.acl, "ann").into_iter();
        let rights: Vec<Grant> = rights.map(|(_, right)| right).collect();
        let expected: Vec<Grant> = expected.iter().map(|text| right(text)).collect();
        assert_eq!(rights, expected);
    }

    #[test]
    fn a_grant_takes_nothing_away_and_leaves_no_rule_without_effect() {
        for (before, granted, after) in [
            (&[][..], "push team/**", &["push team/**"][..]),
            (
                &["push team/app"],
                "pull team/**",
                &["push team/app", "pull team/**"],
            ),
            (
                &["pull team/**"],
                "push team/app",
                &["push team/app", "pull team/**"],
            ),
            (
                &["pull team/app", "pull base/*"],
                "push team/**",
                &["push team/**", "pull base/*"],
            ),
            (&["push a/**"], "delete b/**", &["delete b/**", "push a/**"]),
            // The limit on a part stays, the denial of the same pattern is taken back.
            (
                &["pull team/x/**", "push team/**"],
                "delete team/**",
                &["pull team/x/**", "delete team/**"],
            ),
            (
                &["pull team/x/**", "push team/**"],
                "push team/x/**",
                &["push team/**"],
            ),
            (
                &["pull team/x/**", "push team/**"],
                "push team/x/y",
                &["push team/x/y", "pull team/x/**", "push team/**"],
            ),
            (&["nothing team/**"], "push team/**", &["push team/**"]),
            (&["nothing a/**", "pull b"], "everything", &["everything"]),
        ] {
            let mut file = of(before);
            let rule = grant(&mut file, "ann", &right(granted)).unwrap();
            let is_there = rule.is_none_or(|rule| file.acl.contains(&rule));
            assert!(is_there, "{before:?} {granted}");
            assert_rights(&file, after);
            assert_eq!(
                grant(&mut file, "ann", &right(granted)).unwrap(),
                None,
                "{granted}"
            );
            assert_rights(&file, after);
        }
        let mut file = of(&["nothing team/**"]);
        let refused = grant(&mut file, "ann", &right("push team/app"));
        assert!(matches!(refused, Err(ChangeError::Denied { .. })));
    }

    #[test]
    fn a_denial_takes_what_is_named_and_no_more() {
        for (before, denied, after) in [
            (
                &["push team/**"][..],
                "pull team/x",
                &["nothing team/x", "push team/**"][..],
            ),
            (&["push team/**"], "pull team/**", &["nothing team/**"]),
            (&["push team/**"], "push team/**", &["pull team/**"]),
            (&["delete team/**"], "delete team/**", &["push team/**"]),
            (
                &["push team/**"],
                "push team/x/**",
                &["pull team/x/**", "push team/**"],
            ),
            (
                &["push team/x/y", "push team/**", "push b"],
                "push team/x/**",
                &["pull team/x/**", "push team/**", "push b"],
            ),
            (
                &["everything"],
                "delete team/**",
                &["push team/**", "everything"],
            ),
            (&["everything"], "push **", &["pull **"]),
            (&["everything", "push a"], "everything", &["push a"]),
            (
                &["nothing team/x", "push team/**"],
                "push team/**",
                &["nothing team/x", "pull team/**"],
            ),
            // Nothing of it was granted.
            (&["push team/**"], "push base/**", &["push team/**"]),
            (&["push team/**"], "delete team/**", &["push team/**"]),
            (
                &["pull team/x", "push team/**"],
                "push team/x",
                &["pull team/x", "push team/**"],
            ),
        ] {
            let mut file = of(before);
            deny(&mut file, "ann", &right(denied)).unwrap();
            assert_rights(&file, after);
            let is_changed = deny(&mut file, "ann", &right(denied)).unwrap();
            assert!(!is_changed, "{denied} twice");
        }
        let mut file = of(&["push team/*"]);
        let refused = deny(&mut file, "ann", &right("push */app"));
        assert!(matches!(refused, Err(ChangeError::Overlap { .. })));
    }

    #[test]
    fn rules_of_others_stay_and_a_denial_comes_before_those_for_everybody() {
        let mut file = of(&["push team/**"]);
        let of_bob = right("pull team/*").rule("bob").unwrap();
        let of_all = RuleText {
            name: Some("team/*".to_owned()),
            actions: vec!["pull".to_owned()],
            ..RuleText::default()
        };
        file.acl = [of_bob.clone(), of_all.clone()]
            .into_iter()
            .chain(file.acl)
            .collect();
        deny(&mut file, "ann", &right("pull team/x")).unwrap();
        let denial = right("nothing team/x").rule("ann").unwrap();
        let granted = right("push team/**").rule("ann").unwrap();
        assert_eq!(file.acl, [of_bob, denial, of_all, granted]);
    }
}
