//! What was looked at, in order, and what was found.
//!
//! Must not know how anything is looked at. Invariant: every step is in the report; after the first that failed, none was
//! tried.

use std::io::{self, Write};

use serde::Serialize;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    Name,
    Port,
    Tls,
    Clock,
    Login,
    Push,
    Pull,
}

impl Step {
    const ALL: [Self; 7] = [
        Self::Name,
        Self::Port,
        Self::Tls,
        Self::Clock,
        Self::Login,
        Self::Push,
        Self::Pull,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Port => "port",
            Self::Tls => "tls",
            Self::Clock => "clock",
            Self::Login => "login",
            Self::Push => "push",
            Self::Pull => "pull",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ok,
    Failed,
    /// Nothing was wrong, and the step would have left something behind.
    LeftOut,
    NotTried,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "FAILED",
            Self::LeftOut => "left out",
            Self::NotTried => "not tried",
        }
    }
}

/// What a step found, and what the next ones need of it.
pub(in crate::cli::command) struct Finding<T> {
    pub(super) found: String,
    /// What could be better all the same.
    pub(super) hint: Option<String>,
    pub(super) bytes_per_sec: Option<u64>,
    /// Whether the step was left out on purpose; `found` says why.
    pub(super) is_left_out: bool,
    pub(in crate::cli::command) value: T,
}

impl<T> Finding<T> {
    pub(super) fn new(found: impl Into<String>, value: T) -> Self {
        Self {
            found: found.into(),
            hint: None,
            bytes_per_sec: None,
            is_left_out: false,
            value,
        }
    }
}

/// A step has failed, and the report says why.
#[derive(Debug)]
pub(super) struct Stopped;

#[derive(Debug, Serialize)]
struct Line {
    step: Step,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_sec: Option<u64>,
}

/// The steps so far.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    registry: String,
    is_healthy: bool,
    steps: Vec<Line>,
}

impl Report {
    pub(super) fn new(registry: String) -> Self {
        let not_tried = |step| Line {
            step,
            outcome: Outcome::NotTried,
            found: None,
            hint: None,
            bytes_per_sec: None,
        };
        Self {
            registry,
            is_healthy: false,
            steps: Step::ALL.map(not_tried).into(),
        }
    }

    /// Writes down what a step found, and gives on what the next ones need.
    pub(super) fn note<T>(
        &mut self,
        step: Step,
        result: anyhow::Result<Finding<T>>,
    ) -> Result<T, Stopped> {
        let line = self.steps.iter_mut().find(|line| line.step == step);
        let (outcome, found, hint, bytes_per_sec, value) = match result {
            Ok(finding) => (
                if finding.is_left_out {
                    Outcome::LeftOut
                } else {
                    Outcome::Ok
                },
                finding.found,
                finding.hint,
                finding.bytes_per_sec,
                Ok(finding.value),
            ),
            Err(error) => {
                let (found, hint) = said(&error);
                (Outcome::Failed, found, hint, None, Err(Stopped))
            }
        };
        if let Some(line) = line {
            *line = Line {
                step,
                outcome,
                found: Some(found),
                hint,
                bytes_per_sec,
            };
        }
        let is_fine = |line: &Line| matches!(line.outcome, Outcome::Ok | Outcome::LeftOut);
        self.is_healthy = self.steps.iter().all(is_fine);
        value
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.is_healthy
    }

    /// For people.
    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for line in &self.steps {
            let (outcome, step) = (line.outcome.label(), line.step.label());
            let found = line.found.as_deref().unwrap_or_default();
            let text = format!("{outcome:11}{step:7}{found}");
            writeln!(out, "{}", text.trim_end())?;
            if let Some(hint) = &line.hint {
                writeln!(out, "{:18}hint: {hint}", "")?;
            }
        }
        out.flush()
    }

    /// For scripts.
    pub(super) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)?;
        out.flush()
    }
}

/// An error on one line with its causes, and the first hint among them.
fn said(error: &anyhow::Error) -> (String, Option<String>) {
    let mut found = Vec::new();
    let mut hints = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let (lines, hinted): (Vec<_>, Vec<_>) =
            text.lines().partition(|line| !line.starts_with("hint: "));
        found.push(lines.join(" "));
        hints.extend(hinted.iter().map(|hint| hint.replacen("hint: ", "", 1)));
    }
    let hint = (!hints.is_empty()).then(|| hints.swap_remove(0));
    (found.join(": "), hint)
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;
    use crate::golden::golden;

    #[test]
    fn after_a_failure_nothing_was_tried() {
        let mut report = Report::new("lab:5443".into());
        let seven = report.note(Step::Name, Ok(Finding::new("lab is ::1", 7)));
        assert_eq!(seven.unwrap(), 7);
        let cause = anyhow!("refused\nhint: look");
        let failed: anyhow::Result<Finding<()>> = Err(cause).context("cannot connect");
        report.note(Step::Port, failed).unwrap_err();
        let mut text = Vec::new();
        report.write_text(&mut text).unwrap();
        golden("doctor-failed.txt", std::str::from_utf8(&text).unwrap());
        let mut json = Vec::new();
        report.write_json(&mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["is_healthy"], false);
        assert_eq!(json["steps"][1]["hint"], "look");
        assert_eq!(json["steps"][6]["outcome"], "not_tried");
    }

    #[test]
    fn health_is_every_step() {
        let mut report = Report::new("lab:5443".into());
        for step in Step::ALL {
            assert!(!report.is_healthy());
            report.note(step, Ok(Finding::new("", ()))).unwrap();
        }
        assert!(report.is_healthy());
    }
}
