//! An explanation for a person.
//!
//! Must not decide anything. Invariant: what is said is in the explanation.

use std::io::{self, Write};

use super::Report;
use crate::auth::{Explanation, RuleText, Standing, Unmet, shown_name};
use crate::cli::moment;

impl Report<'_> {
    /// Writes the verdicts, the rule that decides and the rules that do not match.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let account = &self.arguments.account;
        let name = &self.arguments.name;
        let who = match account.as_str() {
            "" => "an anonymous caller",
            account => account,
        };
        for (wish, explanation) in &self.verdicts {
            let (verb, mark) = if explanation.is_left_to_program {
                ("may perhaps", "?")
            } else if explanation.is_allowed {
                ("may", "yes")
            } else {
                ("may not", "no")
            };
            writeln!(out, "{mark:3}  {who} {verb} {} {name}", wish.phrase())?;
        }
        let Some(explanation) = self.explanation() else {
            return Ok(());
        };
        writeln!(out)?;
        if self.is_foreign {
            return writeln!(
                out,
                "Tokens come from another server (auth.token): what a token says alone decides, and there are no rules here."
            );
        }
        match explanation.standing {
            Standing::Open => {
                return writeln!(
                    out,
                    "Authentication is off: neither `auth` nor `users` is configured, so every client may do everything."
                );
            }
            Standing::Known => {}
            Standing::External => writeln!(
                out,
                "The account is not in `users`: an external authenticator decides whether it may log in, and with which labels. It is not asked here; the rules are judged as if the account had no labels."
            )?,
            Standing::Ended(end) => writeln!(
                out,
                "The account has ended at {}: it cannot log in, whatever the rules say.",
                moment::shown(end)
            )?,
            Standing::Unknown if account.is_empty() => writeln!(
                out,
                "Callers without credentials are not admitted, whatever the rules say: no file has an account for them."
            )?,
            Standing::Unknown => writeln!(
                out,
                "There is no account `{account}`: it cannot log in, whatever the rules say."
            )?,
        }
        match &explanation.decisive {
            Some(rule) => self.write_rule(rule, out)?,
            None if explanation.is_left_to_program => writeln!(
                out,
                "No rule matches, so `ext_authz` decides when a token is made. It is not asked here."
            )?,
            None => writeln!(out, "No rule matches, so nothing is granted.")?,
        }
        self.write_passed_over(explanation, out)
    }

    fn write_rule(&self, rule: &RuleText, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "The rule at {} decides, the first that matches:",
            rule.place
        )?;
        writeln!(out, "  match:   {}", rule.shown_conditions())?;
        writeln!(out, "  actions: {}", actions(rule))?;
        if let Some(comment) = &rule.comment {
            writeln!(out, "  comment: {comment}")?;
        }
        for (wish, explanation) in &self.verdicts {
            let grants = |action: &String| rule.actions == ["*"] || rule.actions.contains(action);
            let missing: Vec<&str> = explanation
                .needed
                .iter()
                .filter(|action| !grants(action))
                .map(String::as_str)
                .collect();
            if !missing.is_empty() {
                writeln!(
                    out,
                    "  To {} it, {} must be granted, and this rule does not grant {}.",
                    wish.phrase(),
                    explanation.needed.join(" and "),
                    missing.join(" and ")
                )?;
            }
        }
        Ok(())
    }

    /// Rules for other accounts are many and of no interest: they are counted.
    fn write_passed_over(&self, explanation: &Explanation, out: &mut dyn Write) -> io::Result<()> {
        let is_of_others = |(_, unmet): &&(RuleText, Unmet)| *unmet == Unmet::Account;
        let others = explanation.passed_over.iter().filter(is_of_others).count();
        let told = explanation
            .passed_over
            .iter()
            .filter(|one| !is_of_others(one));
        if others < explanation.passed_over.len() {
            writeln!(out, "Rules that do not match:")?;
        }
        for (rule, unmet) in told {
            writeln!(out, "  {}  {}", rule.place, self.reason(rule, unmet))?;
        }
        match others {
            0 => Ok(()),
            1 => writeln!(out, "One rule is for other accounts."),
            _ => writeln!(out, "{others} rules are for other accounts."),
        }
    }

    fn reason(&self, rule: &RuleText, unmet: &Unmet) -> String {
        let shown = |pattern: &Option<String>| pattern.clone().unwrap_or_default();
        match unmet {
            Unmet::Account => format!("account `{}` does not match", shown(&rule.account)),
            Unmet::Type => format!("type `{}` is not `repository`", shown(&rule.r#type)),
            Unmet::Name => {
                let pattern = shown(&rule.name);
                let name = self.arguments.name.as_str();
                let slashes = |text: &str| text.matches('/').count();
                let is_glob = !pattern.starts_with('/') && pattern.contains('*');
                let why = if is_glob && !pattern.contains("**") && slashes(name) > slashes(&pattern)
                {
                    " (`*` stops at `/`)"
                } else {
                    ""
                };
                format!("name {} does not match{why}", shown_name(&pattern))
            }
            Unmet::Service => format!("service `{}` is not this registry's", shown(&rule.service)),
            Unmet::Ip => format!(
                "ip {} does not contain {}",
                shown(&rule.ip),
                self.arguments.ip
            ),
            Unmet::Label(label) => format!(
                "the account has no label `{label}` that matches `{}`",
                rule.labels.get(label).map_or("", String::as_str)
            ),
            Unmet::Empty { key, placeholder } => {
                format!("{key}: `{placeholder}` is empty here, and an empty value matches nothing")
            }
        }
    }
}

fn actions(rule: &RuleText) -> String {
    match rule.actions.as_slice() {
        [] => "none: it denies".to_owned(),
        [all] if all == "*" => "* (everything that is asked for)".to_owned(),
        actions => actions.join(", "),
    }
}
