//! `users` and `acl` as `docker_auth` writes them, from a config file or a `users_file`.
//!
//! Must not know passwords beyond their stored form, nor what a rule matches. Invariant: a rule without `match` or `actions`
//! is never taken (`docker_auth` crashes on both), and nothing is guessed from a value of the wrong kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_saphyr::{FlowMap, FlowSeq};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::{ConfigError, ConfigErrors, Place};
use super::from_node;
use super::node::{Node, Value, join};
use crate::auth::{BCRYPT_COST_MAX, PatternError, RegexError, Rule, RuleError, RuleText, User};

/// An account as it is written in a file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Account {
    #[serde(
        default,
        deserialize_with = "stored_password",
        skip_serializing_if = "Option::is_none"
    )]
    password: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_after: Option<Moment>,
}

/// Only an account without the key `password` accepts any password. The key with nothing behind it is an empty text, which is
/// no hash and accepts none: `docker_auth` would accept any, and a hash that was cut out must not open an account.
fn stored_password<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let written = Option::<String>::deserialize(deserializer)?;
    Ok(Some(written.unwrap_or_default()))
}

/// A rule as it is written in a file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RuleEntry {
    r#match: Option<FlowMap<Conditions>>,
    actions: Option<FlowSeq<Vec<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Conditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    /// A label without a pattern matches the empty value, as in `docker_auth`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, Option<String>>,
}

/// Seconds since 1970, in a file as RFC 3339 writes them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment(pub(super) u64);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = String::deserialize(deserializer)?;
        let moment = OffsetDateTime::parse(&written, &Rfc3339).ok();
        let unix_secs = moment.and_then(|moment| u64::try_from(moment.unix_timestamp()).ok());
        unix_secs.map(Self).ok_or_else(|| {
            de::Error::custom(
                "must be a moment after 1970\nhint: written like 2027-01-31T18:00:00Z",
            )
        })
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let moment = i64::try_from(self.0).ok();
        let moment = moment.and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok());
        // `None` past the year 9999, which no moment reads back as.
        let written = moment.and_then(|moment| moment.format(&Rfc3339).ok());
        written.serialize(serializer)
    }
}

impl From<Account> for User {
    fn from(account: Account) -> Self {
        let user = Self {
            password_hash: account.password,
            labels: account.labels,
            expires_unix_secs: account.expires.map(|moment| moment.0),
            valid_after_unix_secs: account.valid_after.map(|moment| moment.0),
        };
        // A YAML block ends with a line break, which is not part of the hash.
        let before_line_break = user
            .password_hash
            .as_deref()
            .and_then(|text| text.strip_suffix('\n'));
        let of_block = before_line_break.map(|hash| Self {
            password_hash: Some(hash.to_owned()),
            ..user.clone()
        });
        of_block
            .filter(|user| user.bcrypt_cost().is_some())
            .unwrap_or(user)
    }
}

impl From<&User> for Account {
    fn from(user: &User) -> Self {
        Self {
            password: user.password_hash.clone(),
            labels: user.labels.clone(),
            expires: user.expires_unix_secs.map(Moment),
            valid_after: user.valid_after_unix_secs.map(Moment),
        }
    }
}

impl From<&RuleText> for RuleEntry {
    fn from(rule: &RuleText) -> Self {
        let rule = rule.clone();
        let labels = rule.labels.into_iter();
        Self {
            r#match: Some(FlowMap(Conditions {
                account: rule.account,
                r#type: rule.r#type,
                name: rule.name,
                service: rule.service,
                ip: rule.ip,
                labels: labels.map(|(name, text)| (name, Some(text))).collect(),
            })),
            actions: Some(FlowSeq(rule.actions)),
            comment: rule.comment,
        }
    }
}

/// The message about a password that never matches.
const NOT_A_HASH: &str = "not a bcrypt hash, so this user cannot log in; `htpasswd -nB -C 10 NAME` prints one (`$2y$10$` and 53 characters)";

/// The accounts of a `users` map. A null is no account, as in `docker_auth`.
pub(super) fn accounts(users: &Node, errors: &mut ConfigErrors) -> BTreeMap<String, User> {
    let mut accounts = BTreeMap::new();
    for entry in users.entries() {
        match from_node::read::<Option<Account>>(&entry.value, &join("users", &entry.key)) {
            Ok(Some(account)) => {
                accounts.insert(entry.key.clone(), account.into());
            }
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    accounts
}

/// The rules of an `acl` list.
pub(super) fn rules(acl: &Node, errors: &mut ConfigErrors) -> Vec<RuleText> {
    let Value::List(items) = &acl.value else {
        return Vec::new();
    };
    let mut rules = Vec::new();
    // What is not a map was refused when the keys were looked at.
    let is_rule = |item: &&Node| matches!(item.value, Value::Map(_));
    for (position, item) in items.iter().enumerate().filter(|(_, item)| is_rule(item)) {
        match rule(item, &format!("acl[{position}]")) {
            Ok(rule) => rules.push(rule),
            Err(error) => errors.push(error),
        }
    }
    rules
}

fn rule(node: &Node, key: &str) -> Result<RuleText, ConfigError> {
    let entry: RuleEntry = from_node::read(node, key)?;
    let missing = |what: &str, hint: &str| {
        let message = format!("a rule without `{what}`");
        ConfigError::new(Some(&node.place), key, message).hint(hint)
    };
    let FlowMap(conditions) = entry
        .r#match
        .ok_or_else(|| missing("match", "`match: {}` is the rule for everything"))?;
    let FlowSeq(actions) = entry.actions.ok_or_else(|| {
        missing(
            "actions",
            "`actions: []` denies, `actions: [\"*\"]` grants everything",
        )
    })?;
    let labels = conditions.labels.into_iter();
    Ok(RuleText {
        account: conditions.account,
        r#type: conditions.r#type,
        name: conditions.name,
        service: conditions.service,
        ip: conditions.ip,
        labels: labels
            .map(|(name, pattern)| (name, pattern.unwrap_or_default()))
            .collect(),
        actions,
        comment: entry.comment,
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

/// What is accepted and seldom meant: an account without a password, which accepts any, and one whose password is not a bcrypt
/// hash, which accepts none.
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
        Some(_) if account.bcrypt_cost().is_none() => {
            warn(".password", NOT_A_HASH);
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

/// A list of texts; a null is the empty list.
pub(super) fn texts(node: &Node, key: &str, errors: &mut ConfigErrors) -> Vec<String> {
    from_node::read(node, key).unwrap_or_else(|error| {
        errors.push(error);
        Vec::new()
    })
}
