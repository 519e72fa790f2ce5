//! `boathouse du`: how much storage repositories and tags use.
//!
//! Must not know how it is counted. Invariant: the answer goes to stdout, as text or, with `--json`, as the one JSON value that
//! the server sent.

use std::fmt::Write as _;
use std::process::ExitCode;

use indicatif::HumanBytes;

use crate::cli::installation::Where;
use crate::cli::progress::Meter;
use crate::cli::running::{ask_or_look, note_source, unexpected};
use crate::cli::talk;
use crate::registry::Usage;
use crate::server::control::{Answer, Request};

/// `boathouse du`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// A repository, or one of its tags; all repositories without it
    #[arg(value_name = "REPOSITORY[:TAG]")]
    subject: Option<String>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// Prints the usage.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
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
    match ask_or_look(&arguments.place, &request, &Meter::quiet())? {
        Answer::Usage { rows, from_store } => {
            note_source(from_store.as_deref());
            let text = match (tag, rows.as_slice()) {
                (Some(_), [row]) => tag_text(row),
                _ => rows_text(&rows),
            };
            talk::data(&rows, arguments.json, text)
        }
        answer => Err(unexpected(answer)),
    }
}

/// A size that is known only while the index is complete.
pub(super) fn known(bytes: Option<u64>) -> String {
    bytes.map_or_else(
        || "not known".to_owned(),
        |bytes| HumanBytes(bytes).to_string(),
    )
}

fn tag_text(row: &Usage) -> String {
    format!(
        "held: {}; shared: {}\nfree once collected, if the image is deleted: {}\n",
        HumanBytes(row.bytes),
        known(row.shared_bytes),
        known(row.unique_bytes)
    )
}

fn rows_text(rows: &[Usage]) -> String {
    let mut text = format!("{:>12} {:>12} {:>12}  \n", "held", "shared", "unique");
    for row in rows {
        let name = row.name.as_deref().unwrap_or("(without a tag)");
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "{:>12} {:>12} {:>12}  {name}",
            HumanBytes(row.bytes).to_string(),
            known(row.shared_bytes),
            known(row.unique_bytes)
        );
    }
    text
}
