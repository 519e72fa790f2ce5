//! `boathouse hand-back`: writes what the old registry needs before it serves the data again.
//!
//! Must not know what that is (`registry::handing_back`). Invariants: it runs only where no server does; a second run writes
//! nothing; what is lost all the same is printed, and is in the exit code.

use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

use crate::cli::findings::{Findings, Wanted, old_user};
use crate::cli::installation::{Installation, Where};
use crate::cli::progress::Meter;
use crate::cli::running::with_instance;
use crate::cli::talk;
use crate::instance::missing_parts::refuse_missing_root;
use crate::registry::HandedBack;
use crate::store::user_access;

/// `boathouse hand-back`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The user that the old registry runs as (NAME, UID or UID:GID); by default the owner of the data
    #[arg(long, value_name = "USER")]
    as_user: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer {
    written: HandedBack,
    /// Files and directories that the old registry's user may read now.
    opened: u64,
    lost: Findings,
}

/// Exit code 0 if nothing is lost, 1 otherwise.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let installation = Installation::find(&arguments.place)?;
    let config = &installation.loaded.config;
    refuse_missing_root(config)?;
    if config.registry.readonly {
        anyhow::bail!(
            "the configuration lets nothing be written in the data\nhint: remove storage.maintenance.readonly, and run this again"
        );
    }
    let as_user = arguments.as_user.as_deref();
    let user = old_user(&installation, as_user)?;
    let meter = Meter::new("writing what the old registry needs");
    let written = with_instance(config, async |instance, _| {
        let tell = |progress| meter.tell(progress);
        let written = instance.registry.handing_back.run(&tell).await;
        instance.close().await;
        written.context("cannot write all that the old registry needs\nhint: what was written stays; run this again")
    })?;
    meter.end();
    let opened = match user {
        Some((root, user)) => user_access::open_up(root, &user)
            .with_context(|| format!("cannot change modes below {}", root.display()))?,
        None => 0,
    };
    let meter = Meter::new("looking for what is lost all the same");
    let lost = Findings::look(&installation, Wanted::Obstacles, as_user, &meter)?;
    let answer = Answer {
        written,
        opened,
        lost,
    };
    let text = text(&answer);
    talk::data(&answer, arguments.json, text)?;
    Ok(if answer.lost.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn text(answer: &Answer) -> String {
    let HandedBack {
        repositories,
        fallback_tags,
        layer_directories,
        links,
    } = answer.written;
    let opened = answer.opened;
    let findings = answer.lost.text(Wanted::Obstacles);
    let lost = match (answer.lost.is_empty(), answer.lost.has_notes()) {
        (true, false) => "nothing is lost\n".to_owned(),
        (true, true) => format!("nothing is lost\n{findings}"),
        (false, _) => format!(
            "what the old registry does not serve, or may delete, all the same:\n{findings}"
        ),
    };
    format!(
        "{repositories} repositories; written: {fallback_tags} fallback tags, {layer_directories} `_layers` directories, {links} links; opened to the old registry's user: {opened} files and directories\n{lost}"
    )
}
