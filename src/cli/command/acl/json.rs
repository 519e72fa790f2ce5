//! An explanation for a program.
//!
//! Must not decide anything. Invariant: keys are only ever added; scripts read them.

use std::io::{self, Write};
use std::net::IpAddr;

use serde::Serialize;

use super::{Report, Wish};
use crate::auth::{RuleText, Standing, Unmet};
use crate::cli::moment;

impl Report<'_> {
    /// Writes all of it as one object.
    pub(super) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let explanation = self.explanation();
        let standing = explanation.map(|explanation| explanation.standing);
        let (standing, ended) = match standing {
            _ if self.is_foreign => ("foreign", None),
            Some(Standing::Open) => ("open", None),
            Some(Standing::Known) => ("known", None),
            Some(Standing::External) => ("external", None),
            Some(Standing::Ended(end)) => ("ended", Some(moment::shown(end))),
            Some(Standing::Unknown) | None => ("unknown", None),
        };
        let passed_over = explanation.map_or(&[][..], |explanation| &explanation.passed_over);
        let report = JsonReport {
            account: &self.arguments.account,
            name: self.arguments.name.as_str(),
            ip: self.arguments.ip,
            standing,
            ended,
            actions: self
                .verdicts
                .iter()
                .map(|(action, explanation)| JsonVerdict {
                    action: *action,
                    needs: &explanation.needed,
                    allowed: explanation.is_allowed,
                    left_to_program: explanation.is_left_to_program,
                })
                .collect(),
            rule: explanation
                .and_then(|explanation| explanation.decisive.as_ref())
                .map(JsonRule::from),
            passed_over: passed_over
                .iter()
                .map(|(rule, unmet)| JsonPassedOver {
                    place: &rule.place,
                    unmet: unmet_key(unmet),
                })
                .collect(),
        };
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)
    }
}

fn unmet_key(unmet: &Unmet) -> String {
    match unmet {
        Unmet::Account => "account".to_owned(),
        Unmet::Type => "type".to_owned(),
        Unmet::Name => "name".to_owned(),
        Unmet::Service => "service".to_owned(),
        Unmet::Ip => "ip".to_owned(),
        Unmet::Label(label) => format!("labels.{label}"),
        Unmet::Empty { key, .. } => key.clone(),
    }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    account: &'a str,
    name: &'a str,
    ip: IpAddr,
    standing: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    actions: Vec<JsonVerdict<'a>>,
    rule: Option<JsonRule<'a>>,
    passed_over: Vec<JsonPassedOver<'a>>,
}

#[derive(Serialize)]
struct JsonVerdict<'a> {
    action: Wish,
    needs: &'a [String],
    allowed: bool,
    /// `ext_authz` decides, which was not asked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    left_to_program: bool,
}

#[derive(Serialize)]
struct JsonRule<'a> {
    place: &'a str,
    r#match: serde_json::Map<String, serde_json::Value>,
    actions: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonPassedOver<'a> {
    place: &'a str,
    unmet: String,
}

impl<'a> From<&'a RuleText> for JsonRule<'a> {
    fn from(rule: &'a RuleText) -> Self {
        let mut conditions: serde_json::Map<_, _> = rule
            .conditions()
            .map(|(key, pattern)| (key.to_owned(), pattern.into()))
            .collect();
        if !rule.labels.is_empty() {
            let labels = rule.labels.iter();
            let labels = labels.map(|(label, pattern)| (label.clone(), pattern.clone().into()));
            conditions.insert(
                "labels".to_owned(),
                serde_json::Value::Object(labels.collect()),
            );
        }
        Self {
            place: &rule.place,
            r#match: conditions,
            actions: &rule.actions,
            comment: rule.comment.as_deref(),
        }
    }
}
