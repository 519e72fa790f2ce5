//! `boathouse version`: which program this is, for a report of a mistake.
//!
//! Invariant: everything was recorded by the build (`build.rs`); nothing is asked of the machine.

use std::process::ExitCode;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::talk;

/// `boathouse version`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The version, the source, and the build's date.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let build = Build::of_this_program();
    talk::data(&build, arguments.json, build.text())
}

#[derive(Debug, Serialize)]
struct Build {
    version: &'static str,
    /// The id of the commit; `None` where the source was neither a repository nor a crate made from one.
    commit: Option<&'static str>,
    /// Whether the source had changes that are not in the commit.
    modified: bool,
    /// RFC 3339: `SOURCE_DATE_EPOCH` of the build, else the date of the commit, so that the same source gives the same program.
    built: Option<String>,
    target: &'static str,
}

impl Build {
    fn of_this_program() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("BOATHOUSE_COMMIT"),
            modified: option_env!("BOATHOUSE_COMMIT_MODIFIED") == Some("true"),
            built: option_env!("SOURCE_DATE_EPOCH")
                .or(option_env!("BOATHOUSE_COMMIT_UNIX_SECS"))
                .and_then(date),
            target: env!("BOATHOUSE_TARGET"),
        }
    }

    fn text(&self) -> String {
        let Self {
            version,
            commit,
            modified,
            built,
            target,
        } = self;
        let commit = commit.unwrap_or("unknown: not built from a git repository");
        let changes = if *modified {
            ", with local changes"
        } else {
            ""
        };
        let built = built
            .as_deref()
            .unwrap_or("unknown: set SOURCE_DATE_EPOCH for the build");
        format!(
            "boathouse {version}\ncommit    {commit}{changes}\nbuilt     {built}\ntarget    {target}\n"
        )
    }
}

/// Seconds since 1970 as a date.
fn date(unix_secs: &str) -> Option<String> {
    let moment = OffsetDateTime::from_unix_timestamp(unix_secs.parse().ok()?).ok()?;
    moment.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build() -> Build {
        Build {
            version: "1.2.3",
            commit: Some("0123abc"),
            modified: false,
            built: date("1767225600"),
            target: "x86_64-unknown-linux-gnu",
        }
    }

    #[test]
    fn a_build_names_its_commit_and_date() {
        let expected = "boathouse 1.2.3\ncommit    0123abc\nbuilt     2026-01-01T00:00:00Z\n\
                        target    x86_64-unknown-linux-gnu\n";
        assert_eq!(build().text(), expected);
    }

    #[test]
    fn changes_that_are_in_no_commit_are_named() {
        let build = Build {
            modified: true,
            ..build()
        };
        assert!(
            build
                .text()
                .contains("commit    0123abc, with local changes\n")
        );
    }

    #[test]
    fn a_build_without_git_says_so() {
        let build = Build {
            commit: None,
            built: None,
            ..build()
        };
        let text = build.text();
        assert!(
            text.contains("commit    unknown: not built from a git repository\n"),
            "{text}"
        );
        assert!(
            text.contains("built     unknown: set SOURCE_DATE_EPOCH"),
            "{text}"
        );
    }

    #[test]
    fn a_date_that_is_no_number_is_unknown() {
        assert_eq!(date("soon"), None);
        assert_eq!(date(""), None);
    }
}
