//! `boathouse user show`: one account, and every rule that may decide about it.
//!
//! Must not decide anything. Invariant: no hash is shown.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::list::place;
use super::rights;
use crate::auth::{RuleText, administrators};
use crate::cli::moment;
use crate::config::AuthConfig;

/// An account as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    name: String,
    /// The file, and the line where one is known.
    place: String,
    has_password: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    has_ended: bool,
    /// Tokens that were issued before are void.
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_after: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, Vec<String>>,
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
        let valid_after = auth.revoked().get(name).copied();
        let valid_after = valid_after.max(user.valid_after_unix_secs);
        Some(Self {
            name: name.to_owned(),
            place: place(auth, name),
            has_password: user.password_hash.is_some(),
            expires: user.expires_unix_secs.map(moment::shown),
            has_ended: user
                .expires_unix_secs
                .is_some_and(|end| now_unix_secs >= end),
            valid_after: valid_after.map(moment::shown),
            labels: user.labels.clone(),
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
        let name = match self.name.as_str() {
            "" => "(callers without credentials)",
            name => name,
        };
        writeln!(out, "account     {name}")?;
        writeln!(out, "defined in  {}", self.place)?;
        let password = match (self.name.as_str(), self.has_password) {
            ("", _) => "none is asked for",
            (_, true) => "yes",
            (_, false) => "none: any password lets it in",
        };
        writeln!(out, "password    {password}")?;
        let end = self.expires.as_deref().unwrap_or("never");
        let note = if self.has_ended { " (expired)" } else { "" };
        writeln!(out, "expires     {end}{note}")?;
        if let Some(moment) = &self.valid_after {
            writeln!(out, "tokens      revoked if issued before {moment}")?;
        }
        for (label, values) in &self.labels {
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
