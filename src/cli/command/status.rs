//! `boathouse status`: what is stored, and the index of it.
//!
//! Must not know how it is counted. Invariant: the answer goes to stdout, as text or, with `--json`, as the one JSON value that
//! the server sent.

use std::fmt::Write as _;
use std::process::ExitCode;

use indicatif::HumanBytes;

use crate::cli::installation::{Installation, Where};
use crate::cli::progress::Meter;
use crate::cli::running::{ask_or_do, unexpected};
use crate::cli::talk;
use crate::registry::Status;
use crate::server::control::{Answer, Request};

/// `boathouse status`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How much there is.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let installation = Installation::find(&arguments.place)?;
    match ask_or_do(&installation, &Request::Status, &Meter::quiet())? {
        Answer::Status(status) => talk::data(&*status, arguments.json, status_text(&status)),
        answer => Err(unexpected(answer)),
    }
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
        not_ready,
        degraded,
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
    for trouble in not_ready {
        let _ = writeln!(text, "not ready     {trouble}");
    }
    for trouble in degraded {
        let _ = writeln!(text, "degraded      {trouble}");
    }
    text
}
