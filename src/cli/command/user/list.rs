//! `boathouse user list`: accounts of all files, and what was granted to each by name.
//!
//! Invariant: no hash is shown.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::auth::{Grant, Rule, User, exactly};
use crate::cli::moment;
use crate::config::{AuthConfig, Loaded};

/// An account as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// The file, and the line where one is known.
    place: String,
    has_password: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    has_ended: bool,
    /// Tokens from before count no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_after: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, Vec<String>>,
    rules: Vec<RuleRow>,
}

/// A rule that names the account. Rules with patterns may decide about it too.
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

/// Writes the accounts.
pub(super) fn write(
    loaded: &Loaded,
    now_unix_secs: u64,
    as_json: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let rows = rows(&loaded.config.auth, now_unix_secs);
    if as_json {
        serde_json::to_writer_pretty(&mut *out, &rows)?;
        return writeln!(out);
    }
    let mut lines = vec![["NAME", "ENDS", "MAY", "FROM"].map(str::to_owned)];
    lines.extend(rows.into_iter().map(Row::into_cells));
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let (name_width, end_width, may_width) = (width(0), width(1), width(2));
    for [name, ends, may, from] in &lines {
        writeln!(
            out,
            "{name:name_width$}  {ends:end_width$}  {may:may_width$}  {from}"
        )?;
    }
    Ok(())
}

impl Row {
    fn into_cells(self) -> [String; 4] {
        let name = match self.name.as_str() {
            "" => "(anonymous)".to_owned(),
            name => name.to_owned(),
        };
        let ends = match self.expires {
            Some(end) if self.has_ended => format!("{end} (has ended)"),
            Some(end) => end,
            None => "-".to_owned(),
        };
        let may: Vec<String> = self.rules.into_iter().map(|rule| rule.summary).collect();
        let may = match may.as_slice() {
            [] => "-".to_owned(),
            may => may.join(", "),
        };
        [name, ends, may, self.place]
    }
}

fn rows(auth: &AuthConfig, now_unix_secs: u64) -> Vec<Row> {
    let (users, rules, revoked) = (auth.users(), auth.rules(), auth.revoked());
    let row = |(name, user): (&String, &User)| {
        let valid_after = user.valid_after_unix_secs.max(revoked.get(name).copied());
        Row {
            name: name.clone(),
            place: place(auth, name),
            has_password: user.password_hash.is_some(),
            expires: user.expires_unix_secs.map(moment::shown),
            has_ended: user
                .expires_unix_secs
                .is_some_and(|end| now_unix_secs >= end),
            valid_after: valid_after.map(moment::shown),
            labels: user.labels.clone(),
            rules: rules_of(&rules, name),
        }
    };
    users.iter().map(row).collect()
}

fn place(auth: &AuthConfig, name: &str) -> String {
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
            Some(Grant::Push(pattern)) => format!("push {pattern}"),
            Some(Grant::Pull(pattern)) => format!("pull {pattern}"),
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
