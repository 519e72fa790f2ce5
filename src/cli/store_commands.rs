//! `boathouse status`, `rebuild` and `du`: what is stored, and the index of it.
//!
//! Must not know how it is counted. Invariants: the answer goes to stdout, as text or, with `--json`, as the one JSON value
//! that the server sent; a difference between index and store is exit code 1.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use indicatif::HumanBytes;
use serde::Serialize;

use super::installation::{Installation, Where};
use super::progress::Meter;
use super::running::{ask_or_do, unexpected};
use super::talk;
use crate::registry::{Comparison, Filled, Status, Usage};
use crate::server::control::{Answer, Request};

/// `boathouse status`
#[derive(Debug, clap::Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    place: Where,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `boathouse rebuild`
#[derive(Debug, clap::Args)]
pub(super) struct RebuildArguments {
    #[command(flatten)]
    place: Where,
    /// Change nothing: compare the index with the store; exit code 1 if they differ
    #[arg(long)]
    check: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `boathouse du`
#[derive(Debug, clap::Args)]
pub(super) struct UsageArguments {
    #[command(flatten)]
    place: Where,
    /// A repository, or one of its tags; all repositories without it
    #[arg(value_name = "REPOSITORY[:TAG]")]
    subject: Option<String>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// How much there is.
pub(super) fn status(arguments: &StatusArguments) -> anyhow::Result<ExitCode> {
    let installation = Installation::find(&arguments.place)?;
    match ask_or_do(&installation, &Request::Status, &Meter::quiet())? {
        Answer::Status(status) => print(&*status, arguments.json, status_text(&status)),
        answer => Err(unexpected(answer)),
    }
}

/// Fills the index anew, or compares it.
pub(super) fn rebuild(arguments: &RebuildArguments) -> anyhow::Result<ExitCode> {
    let installation = Installation::find(&arguments.place)?;
    let (request, label) = if arguments.check {
        (Request::Compare, "comparing the index with the store")
    } else {
        (Request::Rebuild, "filling the index from the store")
    };
    match ask_or_do(&installation, &request, &Meter::new(label))? {
        Answer::Filled(filled) => print(&filled, arguments.json, filled_text(&filled)),
        Answer::Compared(comparison) => {
            print(&comparison, arguments.json, comparison_text(&comparison))?;
            Ok(if comparison.differences == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        answer => Err(unexpected(answer)),
    }
}

/// Who takes how much room.
pub(super) fn usage(arguments: &UsageArguments) -> anyhow::Result<ExitCode> {
    let installation = Installation::find(&arguments.place)?;
    let (repository, tag) = match arguments.subject.as_deref() {
        None => (None, None),
        Some(subject) => match subject.split_once(':') {
            None => (Some(subject), None),
            Some((repository, tag)) => (Some(repository), Some(tag)),
        },
    };
    let request = Request::Usage {
        repository: repository.map(str::to_owned),
        tag: tag.map(str::to_owned),
    };
    match ask_or_do(&installation, &request, &Meter::quiet())? {
        Answer::Usage { rows } => {
            let text = match (tag, rows.as_slice()) {
                (Some(_), [row]) => tag_text(row),
                _ => rows_text(&rows),
            };
            print(&rows, arguments.json, text)
        }
        answer => Err(unexpected(answer)),
    }
}

fn print(data: &impl Serialize, is_json: bool, text: String) -> anyhow::Result<ExitCode> {
    let text = if is_json {
        format!("{}\n", serde_json::to_string(data)?)
    } else {
        text
    };
    let written = io::stdout().lock().write_all(text.as_bytes());
    talk::written(written)?;
    Ok(ExitCode::SUCCESS)
}

fn status_text(status: &Status) -> String {
    let Status {
        repositories,
        tags,
        manifests,
        blobs,
        logical_bytes,
        stored_bytes,
        lists_from_index,
        log_lines_lost,
        index,
    } = status;
    let mut text = format!(
        "repositories  {repositories}\ntags          {tags}\nmanifests     {manifests}\n\
         blobs         {blobs}\nheld          {} by all repositories together\n\
         stored        {} (each blob once)\n",
        HumanBytes(*logical_bytes),
        HumanBytes(*stored_bytes),
    );
    let reason = index.reason.as_ref();
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let lists = if *lists_from_index { "index" } else { "store" };
    // Writing into a String cannot fail.
    let _ = writeln!(
        text,
        "index         {}{reason}; lists come from the {lists}",
        index.health
    );
    let disk = index.disk_bytes.map_or_else(
        || "in memory".to_owned(),
        |bytes| format!("{} on disk", HumanBytes(bytes)),
    );
    let _ = writeln!(text, "              {} entries, {disk}", index.keys);
    let mut facts = Vec::new();
    if let Some(micros) = index.commit_p99_micros {
        let whole = micros / 1_000;
        let rest = micros % 1_000 / 100;
        let commits = index.commits;
        facts.push(format!(
            "{commits} commits, slow ones take {whole}.{rest} ms"
        ));
    }
    for (count, what) in [
        (index.queued, "changes wait"),
        (index.dropped_batches, "batches of changes were dropped"),
        (index.unread_repositories, "repositories must be read again"),
        (index.quarantines, "times set aside since the start"),
    ] {
        if count > 0 {
            facts.push(format!("{count} {what}"));
        }
    }
    for fact in facts {
        let _ = writeln!(text, "              {fact}");
    }
    if *log_lines_lost > 0 {
        let _ = writeln!(
            text,
            "log           {log_lines_lost} lines were lost since the start: stderr could not be written"
        );
    }
    text
}

fn filled_text(filled: &Filled) -> String {
    let Filled {
        repositories,
        links,
        took_ms,
    } = filled;
    let rate = links.saturating_mul(1_000) / (*took_ms).max(1);
    format!(
        "the index was filled anew: {repositories} repositories, {links} links in {}.{:03} s ({rate} links/s)\n",
        took_ms / 1_000,
        took_ms % 1_000
    )
}

fn comparison_text(comparison: &Comparison) -> String {
    let Comparison {
        repositories,
        facts,
        differences,
        told,
    } = comparison;
    let mut text = told.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    // Writing into a String cannot fail.
    let _ = writeln!(
        text,
        "{repositories} repositories and {facts} facts compared: {differences} differences"
    );
    text
}

fn tag_text(row: &Usage) -> String {
    format!(
        "{} in all, {} of it shared\ndeleting the tag with its manifest would free {}\n",
        HumanBytes(row.bytes),
        HumanBytes(row.shared_bytes),
        HumanBytes(row.unique_bytes)
    )
}

fn rows_text(rows: &[Usage]) -> String {
    let mut text = format!("{:>12} {:>12} {:>12}  \n", "all", "shared", "unique");
    for row in rows {
        let name = row.name.as_deref().unwrap_or("(without a tag)");
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "{:>12} {:>12} {:>12}  {name}",
            HumanBytes(row.bytes).to_string(),
            HumanBytes(row.shared_bytes).to_string(),
            HumanBytes(row.unique_bytes).to_string()
        );
    }
    text
}
