//! `users` and `acl` as `docker_auth` writes them, from a config file or a `users_file`.
//!
//! Must not know passwords beyond their stored form, nor what a rule matches. Invariant: a rule without `match` or `actions`
//! is never taken (`docker_auth` crashes on both), and nothing is guessed from a value of the wrong kind.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::{ConfigError, ConfigErrors, Place};
use super::node::{Node, Value, join};
use crate::auth::{BCRYPT_COST_MAX, PatternError, RegexError, Rule, RuleError, RuleText, User};

/// The accounts of a `users` map. A null is no account, as in `docker_auth`.
pub(super) fn accounts(users: &Node, errors: &mut ConfigErrors) -> BTreeMap<String, User> {
    users
        .entries()
        .iter()
        .filter(|entry| !entry.value.is_null())
        .map(|entry| {
            let key = join("users", &entry.key);
            (entry.key.clone(), account(&entry.value, &key, errors))
        })
        .collect()
}

fn account(node: &Node, key: &str, errors: &mut ConfigErrors) -> User {
    let mut field = |name: &str| {
        node.find(name)
            .and_then(|node| text(node, &join(key, name), errors))
    };
    let password_hash = field("password");
    let labels = node.find("labels").map_or(&[][..], Node::entries);
    User {
        password_hash,
        expires_unix_secs: moment_at(node, key, "expires", errors),
        valid_after_unix_secs: moment_at(node, key, "valid_after", errors),
        labels: labels
            .iter()
            .map(|entry| {
                let key = join(&join(key, "labels"), &entry.key);
                (entry.key.clone(), texts(&entry.value, &key, errors))
            })
            .collect(),
    }
}

/// The rules of an `acl` list.
pub(super) fn rules(acl: &Node, errors: &mut ConfigErrors) -> Vec<RuleText> {
    let Value::List(items) = &acl.value else {
        return Vec::new();
    };
    items
        .iter()
        .enumerate()
        .filter_map(|(position, item)| rule(item, &format!("acl[{position}]"), errors))
        .collect()
}

fn rule(node: &Node, key: &str, errors: &mut ConfigErrors) -> Option<RuleText> {
    let place = Some(&node.place);
    // What is no map was refused when the keys were looked at.
    if !matches!(node.value, Value::Map(_)) {
        return None;
    }
    let Some(conditions) = node.find("match") else {
        errors.push(
            ConfigError::new(place, key, "a rule without `match`")
                .hint("`match: {}` is the rule for everything"),
        );
        return None;
    };
    let Some(actions) = node.find("actions") else {
        errors.push(
            ConfigError::new(place, key, "a rule without `actions`")
                .hint("`actions: []` denies, `actions: [\"*\"]` grants everything"),
        );
        return None;
    };
    let mut condition = |name: &str| {
        conditions
            .find(name)
            .and_then(|node| text(node, &format!("{key}.match.{name}"), errors))
    };
    let account = condition("account");
    let r#type = condition("type");
    let name = condition("name");
    let service = condition("service");
    let ip = condition("ip");
    let labels = conditions.find("labels").map_or(&[][..], Node::entries);
    let labels = labels
        .iter()
        .map(|entry| {
            let key = format!("{key}.match.labels.{}", entry.key);
            // A label without a pattern matches the empty value, as in docker_auth.
            let pattern = if entry.value.is_null() {
                String::new()
            } else {
                text(&entry.value, &key, errors).unwrap_or_default()
            };
            (entry.key.clone(), pattern)
        })
        .collect();
    Some(RuleText {
        account,
        r#type,
        name,
        service,
        ip,
        labels,
        actions: texts(actions, &format!("{key}.actions"), errors),
        comment: node
            .find("comment")
            .and_then(|node| text(node, &format!("{key}.comment"), errors)),
        place: node.place.to_string(),
    })
}

/// Compiles rules. A pattern that cannot be compiled is a mistake at the place of its rule.
pub(super) fn compiled(
    texts: Vec<RuleText>,
    warnings: &mut Vec<String>,
    errors: &mut ConfigErrors,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    for text in texts {
        let place = Place::written(&text.place);
        match Rule::parse(text) {
            Ok(rule) => {
                // Such a glob matches nothing, here and in `docker_auth`.
                if rule.is_malformed() {
                    warnings.push(format!(
                        "{place}: acl[]: a pattern of this rule is malformed and matches nothing"
                    ));
                }
                rules.push(rule);
            }
            Err(RuleError::Network) => errors.push(
                ConfigError::new(
                    Some(&place),
                    "acl[].match.ip",
                    "neither an address nor a network",
                )
                .hint("written like 192.0.2.7 or 10.0.0.0/8"),
            ),
            Err(RuleError::Pattern { key, error }) => errors.push(
                ConfigError::new(
                    Some(&place),
                    format!("acl[].match.{key}"),
                    pattern_message(&error),
                )
                .hint(
                    "`/text/` is a regular expression as Go reads it; without slashes it is a glob",
                ),
            ),
        }
    }
    rules
}

/// An account without a password, and one without a hash, are taken as `docker_auth` takes them, and are seldom meant.
pub(super) fn check_password(
    name: &str,
    account: &User,
    place: Option<&Place>,
    warnings: &mut Vec<String>,
    errors: &mut ConfigErrors,
) {
    let mut warn = |key: &str, message: &str| {
        let place = place.map_or_else(String::new, |place| format!("{place}: "));
        warnings.push(format!("{place}users.{name}{key}: {message}"));
    };
    match &account.password_hash {
        // The empty name is the anonymous user, who has none.
        None if !name.is_empty() => {
            warn("", "has no password: any password lets this user in");
        }
        Some(hash) if !hash.starts_with("$2") => {
            warn(
                ".password",
                "is not a bcrypt hash: nobody can log in with it",
            );
        }
        None | Some(_) => {}
    }
    if let Some(cost) = account.bcrypt_cost()
        && cost > BCRYPT_COST_MAX
    {
        let message = format!(
            "bcrypt cost {cost} exceeds the maximum {BCRYPT_COST_MAX}: every failed login would cost as much"
        );
        errors.push(
            ConfigError::new(place, format!("users.{name}.password"), message)
                .hint("hash the password again; cost 10 is customary"),
        );
    }
}

/// The expression's own objections; the engine's would quote the text.
fn pattern_message(error: &PatternError) -> String {
    match error {
        PatternError::Regex(RegexError::Engine(_)) => "not a regular expression".to_owned(),
        PatternError::Regex(RegexError::Syntax(_)) | PatternError::Unsupported => error.to_string(),
    }
}

/// A single value as text; a number or a truth value is the text that stands there.
fn text(node: &Node, key: &str, errors: &mut ConfigErrors) -> Option<String> {
    if let Value::Scalar { text, .. } = &node.value {
        return Some(text.clone());
    }
    errors.push(ConfigError::new(
        Some(&node.place),
        key,
        format!("must be a single value, not {}", node.kind()),
    ));
    None
}

/// A list of single values; a null is the empty list.
pub(super) fn texts(node: &Node, key: &str, errors: &mut ConfigErrors) -> Vec<String> {
    match &node.value {
        Value::Null => Vec::new(),
        Value::List(items) => items
            .iter()
            .filter_map(|item| text(item, key, errors))
            .collect(),
        Value::Scalar { .. } | Value::Map(_) => {
            errors.push(
                ConfigError::new(
                    Some(&node.place),
                    key,
                    format!("must be a list, not {}", node.kind()),
                )
                .hint("a list is written `[one, two]`"),
            );
            Vec::new()
        }
    }
}

fn moment_at(node: &Node, key: &str, name: &str, errors: &mut ConfigErrors) -> Option<u64> {
    let node = node.find(name)?;
    moment(node, &join(key, name), errors)
}

/// A moment, as RFC 3339 writes it.
pub(super) fn moment(node: &Node, key: &str, errors: &mut ConfigErrors) -> Option<u64> {
    let written = text(node, key, errors)?;
    let unix_secs = OffsetDateTime::parse(&written, &Rfc3339)
        .ok()
        .and_then(|moment| u64::try_from(moment.unix_timestamp()).ok());
    if unix_secs.is_none() {
        errors.push(
            ConfigError::new(Some(&node.place), key, "must be a moment after 1970")
                .hint("written like 2027-01-31T18:00:00Z"),
        );
    }
    unix_secs
}
