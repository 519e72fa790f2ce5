//! `boathouse reload`: the running server reads users, rules and certificates again.
//!
//! Must not know how they are read. Invariant: exit code 0 means that all that can be reloaded is in force.

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::cli::installation::{Installation, Where};
use crate::cli::progress::Meter;
use crate::cli::running::{ask, unexpected};
use crate::cli::talk;
use crate::instance::places::control_socket;
use crate::server::control::{Answer, Request};

/// `boathouse reload`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
}

/// Asks the running server, and reports what it says.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // The configuration says where the server listens for commands. One with mistakes could not be loaded by the server either.
    let installation = Installation::find(&arguments.place).context("nothing was reloaded")?;
    let socket = control_socket(&installation.loaded.config);
    match ask(&socket, &Request::Reload, &Meter::quiet())? {
        Some(Answer::Reloaded { needs_restart }) => {
            talk::line("users, rules and certificates were reloaded");
            for key in needs_restart {
                talk::line(format_args!("note: {key} has changed; restart to apply it"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(answer) => Err(unexpected(answer)),
        None => bail!(
            "nothing was reloaded: no server listens at {}\nhint: start the server; it reads the files at its start",
            socket.display()
        ),
    }
}
