//! `boathouse delete`: an image, or a whole repository.
//!
//! Must not know how it is removed. Invariant: nothing goes before a person or `--yes` has agreed to what goes.

use std::process::ExitCode;

use anyhow::bail;
use indicatif::HumanBytes;

use super::trust::person::{AtTerminal, Person as _};
use crate::cli::installation::{Installation, Where};
use crate::cli::progress::Meter;
use crate::cli::running::{ask_or_do, unexpected};
use crate::cli::talk;
use crate::oci::ImageName;
use crate::registry::Removal;
use crate::server::control::{Answer, Request};

/// `boathouse delete`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// An image by its tag, or by its digest with all its tags; a whole repository without either
    #[arg(value_name = "REPOSITORY[:TAG|@DIGEST]")]
    image: ImageName,
    /// Delete without asking
    #[arg(long)]
    yes: bool,
    /// Print what was deleted as one JSON object
    #[arg(long)]
    json: bool,
}

/// Deletes an image or a repository.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let installation = Installation::find_without_accounts(&arguments.place)?;
    let image = &arguments.image;
    let ask = |is_trial| {
        let image = image.clone();
        let request = Request::Delete { image, is_trial };
        match ask_or_do(&installation, &request, &Meter::quiet())? {
            Answer::Removal(removal) => Ok(removal),
            answer => Err(unexpected(answer)),
        }
    };
    if !arguments.yes {
        let planned = ask(true)?;
        talk::line(format_args!("to delete: {}", text_of(image, &planned)));
        if !AtTerminal.is_there() {
            bail!("not a terminal, so nobody can be asked\nhint: pass --yes to delete");
        }
        if !AtTerminal.agrees("delete?")? {
            talk::line("nothing was deleted");
            return Ok(ExitCode::FAILURE);
        }
    }
    let removed = ask(false)?;
    let text = format!("deleted: {}\n", text_of(image, &removed));
    talk::data(&removed, arguments.json, text)
}

fn text_of(image: &ImageName, removal: &Removal) -> String {
    let Removal {
        tags,
        manifests,
        blobs: _,
        uploads,
        freed_bytes,
        uncollected_bytes,
    } = removal;
    let count = |count: u64, one: &str| {
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {one}{plural}")
    };
    let mut parts = vec![count(*tags, "tag")];
    parts.push(match (manifests, &image.reference) {
        (0, Some(_)) => "its image stays: other tags or indexes need it".to_owned(),
        (manifests, _) => count(*manifests, "manifest"),
    });
    if *uploads > 0 {
        parts.push(count(*uploads, "unfinished upload"));
    }
    let uncollected = uncollected_bytes.map_or_else(
        || "not known while the index is incomplete".to_owned(),
        |bytes| HumanBytes(bytes).to_string(),
    );
    format!(
        "{image} ({})\nfree at once: {}; free once collected: {uncollected}",
        parts.join(", "),
        HumanBytes(*freed_bytes)
    )
}
