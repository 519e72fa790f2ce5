//! `boathouse list`: the repositories, or the tags of one.
//!
//! Must not know where the figures come from. Invariant: the answer goes to stdout, as text or, with `--json`, as the one
//! JSON value that the server sent.

use std::fmt::Write as _;
use std::process::ExitCode;

use indicatif::HumanBytes;

use crate::cli::installation::Where;
use crate::cli::moment;
use crate::cli::progress::Meter;
use crate::cli::running::{ask_or_look, note_source, unexpected};
use crate::cli::talk;
use crate::oci::{ImageName, RepositoryName};
use crate::registry::{RepositoryContent, RepositorySummary, TagSummary};
use crate::server::control::{Answer, Request};

/// More manifests without a tag are for programs to read.
const UNTAGGED_SHOWN_MAX: usize = 50;

/// `boathouse list`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// A repository, to list its tags; all repositories without it
    #[arg(value_name = "REPOSITORY")]
    repository: Option<RepositoryName>,
    /// Print one JSON value
    #[arg(long)]
    json: bool,
}

/// Lists repositories or tags.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let repository = arguments.repository.clone();
    let request = Request::List {
        repository: repository.map(|repository| ImageName {
            repository,
            reference: None,
        }),
    };
    match ask_or_look(&arguments.place, &request, &Meter::quiet())? {
        Answer::Repositories { rows, from_store } => {
            note_source(from_store.as_deref());
            let text = repositories_text(&rows);
            talk::data(&rows, arguments.json, text)
        }
        Answer::Content(content) => print_content(&content, arguments.json),
        answer => Err(unexpected(answer)),
    }
}

/// Prints the tags of a repository.
pub(super) fn print_content(
    content: &RepositoryContent,
    is_json: bool,
) -> anyhow::Result<ExitCode> {
    note_source(content.from_store.as_deref());
    talk::data(content, is_json, content_text(content))
}

fn repositories_text(rows: &[RepositorySummary]) -> String {
    let row = |row: &RepositorySummary| {
        [
            row.name.clone(),
            row.tags.to_string(),
            row.manifests.to_string(),
            HumanBytes(row.bytes).to_string(),
        ]
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    talk::columns(["repository", "tags", "manifests", "size"], &rows)
}

fn content_text(content: &RepositoryContent) -> String {
    let row = |tag: &TagSummary| {
        [
            tag.tag.clone(),
            short(&tag.digest).to_owned(),
            shown_kind(&tag.platforms, tag.artifact_type.as_deref()),
            HumanBytes(tag.bytes).to_string(),
            shown_time(tag.pushed_unix_secs),
        ]
    };
    let rows: Vec<_> = content.tags.iter().map(row).collect();
    let mut text = talk::columns(["tag", "digest", "for", "size", "pushed"], &rows);
    if !content.untagged.is_empty() {
        let size = HumanBytes(content.untagged_bytes);
        // Writing into a String cannot fail.
        let _ = writeln!(text, "\nmanifests of no tagged image, {size}:");
        for digest in content.untagged.iter().take(UNTAGGED_SHOWN_MAX) {
            let _ = writeln!(text, "  {digest}");
        }
        let more = content.untagged.len().saturating_sub(UNTAGGED_SHOWN_MAX);
        if more > 0 {
            let _ = writeln!(text, "  and {more} more, which --json has");
        }
    }
    text
}

/// The beginning of a digest, as docker prints it: `show` and `--json` have all of it.
fn short(digest: &str) -> &str {
    const HEX_DIGITS: usize = 12;
    let start = digest.find(':').map_or(0, |colon| colon + 1);
    digest.get(..start + HEX_DIGITS).unwrap_or(digest)
}

/// The platforms of an image, or else what kind of artifact it is.
pub(super) fn shown_kind(platforms: &[String], artifact_type: Option<&str>) -> String {
    if platforms.is_empty() {
        // Anyone who may push decides what stands there.
        let kind = artifact_type.unwrap_or("-");
        return kind.escape_default().to_string();
    }
    platforms.join(",")
}

/// A moment, or a dash where none is known.
pub(super) fn shown_time(unix_secs: Option<u64>) -> String {
    unix_secs.map_or_else(|| "-".to_owned(), moment::shown)
}
