//! `boathouse check`: reads the configuration as `serve` would, and shows what is in force.
//!
//! Must not start or write anything. Invariant: what is in force goes to stdout, everything else to stderr, and no secret to
//! either.

use std::process::ExitCode;

use crate::cli::installation::{self, Where};
use crate::cli::talk;
use crate::clock::{Clock as _, SystemClock};
use crate::config;

/// `boathouse check`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
}

/// Exit code 0 if the files are fine, 1 if not.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let files = installation::config_files(&arguments.place)?;
    if arguments.place.config.is_empty() {
        for file in &files {
            talk::line(format_args!("note: this is of {}", file.display()));
        }
    }
    let loaded = match config::load_served(&files, &crate::cli::environment()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            for error in &errors {
                talk::line(format_args!("error: {error}"));
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    let in_force = loaded.in_force.iter().map(|key| format!("{key}\n"));
    talk::print(&in_force.collect::<String>())?;
    for note in &loaded.notes {
        talk::line(format_args!("note: {note}"));
    }
    for warning in &loaded.warnings {
        talk::line(format_args!("warning: {warning}"));
    }
    for mistake in loaded.config.auth().mistakes(0) {
        talk::line(format_args!("warning: {mistake}"));
    }
    let now_unix_secs = SystemClock::new().unix_secs();
    for certificate in loaded.config.auth().ending_certificates(now_unix_secs) {
        talk::line(format_args!("warning: {certificate}"));
    }
    Ok(ExitCode::SUCCESS)
}
