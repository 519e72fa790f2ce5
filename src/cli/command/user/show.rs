//! `boathouse user show`: one account, and every rule that may decide about it.
//!
//! Must not decide anything. Invariant: no hash is shown.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::list::Account;
use super::rights;
use crate::auth::{RuleText, administrators};
use crate::config::AuthConfig;

/// An account as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    #[serde(flatten)]
    account: Account,
    /// It may log in and do everything.
    is_administrator: bool,
    /// In their order: the first one that matches decides.
    rules: Vec<ShownRule>,
}

/// A rule that may decide about the account.
#[derive(Debug, Serialize)]
struct ShownRule {
    place: String,
    actions: Vec<String>,
    /// What it says about the account.
    meaning: String,
}

impl Shown {
    /// The account; `None` if no file has it.
    pub(super) fn find(auth: &AuthConfig, name: &str, now_unix_secs: u64) -> Option<Self> {
        let users = auth.users();
        let user = users.get(name)?;
        let rules = auth.rules();
        let is_administrator = administrators(&users, &rules, now_unix_secs).contains(&name);
        let texts: Vec<RuleText> = rules.iter().map(|rule| rule.text().clone()).collect();
        let own: BTreeMap<usize, String> = rights::in_words(&texts, name).into_iter().collect();
        let about = rules.iter().enumerate();
        let about = about.filter(|(_, rule)| rule.may_be_about(name, &user.labels));
        Some(Self {
            account: Account::of(auth, name, user, now_unix_secs),
            is_administrator,
            rules: about
                .map(|(at, rule)| ShownRule::of(rule.text(), own.get(&at)))
                .collect(),
        })
    }

    /// Writes it, as text or as one JSON object.
    pub(super) fn write(&self, as_json: bool, out: &mut dyn Write) -> io::Result<()> {
        if as_json {
            serde_json::to_writer_pretty(&mut *out, self)?;
            return writeln!(out);
        }
        let account = &self.account;
        let name = match account.name.as_str() {
            "" => "(callers without credentials)",
            name => name,
        };
        writeln!(out, "account     {name}")?;
        writeln!(out, "defined in  {}", account.place)?;
        let password = match (account.name.as_str(), account.has_password) {
            ("", _) => "none is asked for",
            (_, true) => "yes",
            (_, false) => "none: any password lets it in",
        };
        writeln!(out, "password    {password}")?;
        let end = account.expires.as_deref().unwrap_or("never");
        let note = if account.has_ended { " (expired)" } else { "" };
        writeln!(out, "expires     {end}{note}")?;
        if let Some(moment) = &account.valid_after {
            writeln!(out, "tokens      revoked if issued before {moment}")?;
        }
        for (label, values) in &account.labels {
            writeln!(out, "label       {label}: {}", values.join(", "))?;
        }
        if self.is_administrator {
            writeln!(out, "admin       yes: it may do everything")?;
        }
        if self.rules.is_empty() {
            return writeln!(out, "\nNo rule is about it, so it may do nothing.");
        }
        writeln!(out, "\nRules about it; the first one that matches decides:")?;
        let width = self.rules.iter().map(|rule| rule.place.len()).max();
        let width = width.unwrap_or_default();
        for rule in &self.rules {
            writeln!(out, "  {:width$}  {}", rule.place, rule.meaning)?;
        }
        Ok(())
    }
}

impl ShownRule {
    /// `own` says what a rule for this account alone means.
    fn of(text: &RuleText, own: Option<&String>) -> Self {
        let of_many = || {
            let actions = text.actions.join(", ");
            format!("[{actions}] where {}", text.shown_conditions())
        };
        Self {
            place: text.place.clone(),
            actions: text.actions.clone(),
            meaning: own.cloned().unwrap_or_else(of_many),
        }
    }
}
