//! `boathouse user list`: accounts of all files, what was granted to each by name, and the rules that decide about others too.
//!
//! Invariant: no hash is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde::Serialize;

use crate::auth::{Grant, Level, Rule, RuleText, User, exactly};
use crate::cli::{moment, talk};
use crate::config::AuthConfig;

/// Everything that is shown.
#[derive(Debug, Serialize)]
struct List {
    accounts: Vec<Row>,
    /// Rules that name none of the accounts, in their order: they may decide about any.
    rules: Vec<SharedRule>,
}

/// What files say about an account, but for its rules.
#[derive(Debug, Serialize)]
pub(super) struct Account {
    pub(super) name: String,
    /// The file, and the line where one is known.
    pub(super) place: String,
    pub(super) has_password: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<String>,
    pub(super) has_ended: bool,
    /// Tokens that were issued before are void.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) valid_after: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, Vec<String>>,
}

/// An account as it is listed.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    account: Account,
    rules: Vec<RuleRow>,
}

/// A rule that names the account. [`SharedRule`]s may decide about it too.
#[derive(Debug, Serialize)]
struct RuleRow {
    place: String,
    actions: Vec<String>,
    /// The pattern of the name, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip)]
    summary: String,
}

/// A rule that names none of the accounts.
#[derive(Debug, Serialize)]
struct SharedRule {
    place: String,
    /// What must hold, by the key in the file; with nothing in it, the rule is for every account and repository.
    #[serde(rename = "match")]
    conditions: BTreeMap<String, String>,
    actions: Vec<String>,
    #[serde(skip)]
    matches: String,
}

/// Writes the accounts, and the rules that name none of them.
pub(super) fn write(
    auth: &AuthConfig,
    now_unix_secs: u64,
    as_json: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let list = List {
        accounts: rows(auth, now_unix_secs),
        rules: shared_rules(auth),
    };
    if as_json {
        serde_json::to_writer_pretty(&mut *out, &list)?;
        return writeln!(out);
    }
    let rows: Vec<_> = list.accounts.into_iter().map(Row::into_cells).collect();
    let head = ["NAME", "EXPIRES", "MAY", "DEFINED IN"];
    out.write_all(talk::columns(head, &rows).as_bytes())?;
    if !list.rules.is_empty() {
        writeln!(
            out,
            "\nRules that name none of these accounts; the first rule that matches decides:"
        )?;
        let rows: Vec<_> = list.rules.into_iter().map(SharedRule::into_cells).collect();
        let head = ["MATCHES", "MAY", "DEFINED IN"];
        out.write_all(talk::columns(head, &rows).as_bytes())?;
    }
    Ok(())
}

impl SharedRule {
    fn into_cells(self) -> [String; 3] {
        [
            self.matches,
            format!("[{}]", self.actions.join(", ")),
            self.place,
        ]
    }
}

/// The rules that no account's own row shows.
fn shared_rules(auth: &AuthConfig) -> Vec<SharedRule> {
    let names: BTreeSet<String> = auth.users().keys().map(|name| exactly(name)).collect();
    let is_shared = |rule: &&RuleText| {
        let account = rule.account.as_ref();
        account.is_none_or(|account| !names.contains(account))
    };
    let rules = auth.rules();
    let shared = rules.iter().map(Rule::text).filter(is_shared);
    let shown = shared.map(|rule| {
        let conditions = rule.conditions();
        let conditions = conditions.map(|(key, pattern)| (key.to_owned(), pattern.to_owned()));
        let labels = rule.labels.iter();
        let labels = labels.map(|(label, pattern)| (format!("labels.{label}"), pattern.clone()));
        SharedRule {
            place: rule.place.clone(),
            conditions: conditions.chain(labels).collect(),
            actions: rule.actions.clone(),
            matches: rule.shown_conditions(),
        }
    });
    shown.collect()
}

impl Account {
    /// `user`, whose name is `name`.
    pub(super) fn of(auth: &AuthConfig, name: &str, user: &User, now_unix_secs: u64) -> Self {
        let revoked = auth.revoked().get(name).copied();
        let valid_after = user.valid_after_unix_secs.max(revoked);
        Self {
            name: name.to_owned(),
            place: place(auth, name),
            has_password: user.password_hash.is_some(),
            expires: user.expires_unix_secs.map(moment::shown),
            has_ended: user
                .expires_unix_secs
                .is_some_and(|end| now_unix_secs >= end),
            valid_after: valid_after.map(moment::shown),
            labels: user.labels.clone(),
        }
    }
}

impl Row {
    fn into_cells(self) -> [String; 4] {
        let Self { account, rules } = self;
        let name = match account.name.as_str() {
            "" => "(anonymous)".to_owned(),
            name => name.to_owned(),
        };
        let ends = match account.expires {
            Some(end) if account.has_ended => format!("{end} (expired)"),
            Some(end) => end,
            None => "-".to_owned(),
        };
        let may: Vec<String> = rules.into_iter().map(|rule| rule.summary).collect();
        let may = match may.as_slice() {
            [] => "-".to_owned(),
            may => may.join(", "),
        };
        [name, ends, may, account.place]
    }
}

fn rows(auth: &AuthConfig, now_unix_secs: u64) -> Vec<Row> {
    let (users, rules) = (auth.users(), auth.rules());
    let row = |(name, user): (&String, &User)| Row {
        account: Account::of(auth, name, user, now_unix_secs),
        rules: rules_of(&rules, name),
    };
    users.iter().map(row).collect()
}

pub(super) fn place(auth: &AuthConfig, name: &str) -> String {
    match (auth.places.get(name), &auth.account_file) {
        (Some(place), _) => place.to_string(),
        (None, Some(file)) => file.path().display().to_string(),
        (None, None) => String::new(),
    }
}

fn rules_of(acl: &[Rule], name: &str) -> Vec<RuleRow> {
    let pattern = exactly(name);
    let own = acl
        .iter()
        .map(Rule::text)
        .filter(|rule| rule.account.as_deref() == Some(pattern.as_str()));
    own.map(|rule| {
        let summary = match Grant::of_rule(rule, name) {
            Some(Grant::Everything) => "everything".to_owned(),
            Some(Grant::On(Level::Nothing, pattern)) => format!("not {pattern}"),
            Some(Grant::On(Level::Pull, pattern)) => format!("pull {pattern}"),
            Some(Grant::On(Level::Push, pattern)) => format!("push {pattern}"),
            Some(Grant::On(Level::Delete, pattern)) => format!("delete {pattern}"),
            // Written by hand: only its file says all of it.
            None => format!("[{}] by {}", rule.actions.join(", "), rule.place),
        };
        RuleRow {
            place: rule.place.clone(),
            actions: rule.actions.clone(),
            name: rule.name.clone(),
            summary,
        }
    })
    .collect()
}
