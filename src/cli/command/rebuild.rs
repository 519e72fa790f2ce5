//! `boathouse rebuild`: fills the index from the store, or compares them.
//!
//! Must not know how that is done. Invariants: the answer goes to stdout, as text or, with `--json`, as the one JSON value that
//! the server sent; a difference between index and store is exit code 1.

use std::fmt::Write as _;
use std::process::ExitCode;

use crate::cli::installation::{Installation, Where};
use crate::cli::progress::Meter;
use crate::cli::running::{ask_or_do, unexpected};
use crate::cli::talk;
use crate::registry::{Comparison, Filled};
use crate::server::control::{Answer, Request};

/// `boathouse rebuild`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// Change nothing: compare the index with the store; exit code 1 if they differ
    #[arg(long)]
    check: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Fills the index anew, or compares it.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let installation = Installation::find_without_accounts(&arguments.place)?;
    let (request, label) = if arguments.check {
        (Request::Compare, "comparing the index with the store")
    } else {
        (Request::Rebuild, "filling the index from the store")
    };
    match ask_or_do(&installation, &request, &Meter::new(label))? {
        Answer::Filled(filled) => talk::data(&filled, arguments.json, filled_text(&filled)),
        Answer::Compared(comparison) => {
            talk::data(&comparison, arguments.json, comparison_text(&comparison))?;
            Ok(if comparison.differences == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        answer => Err(unexpected(answer)),
    }
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
