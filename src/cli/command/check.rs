//! `boathouse check`: reads the configuration as `serve` would, and shows what is in force.
//!
//! Must not start or write anything. Invariant: what is in force goes to stdout, talk to stderr, and no secret to either.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::installation::{self, Where};
use crate::cli::talk;
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
    let (mut out, environment) = (io::stdout().lock(), crate::cli::environment());
    let mut code = ExitCode::SUCCESS;
    let shown = arguments.show(&files, &environment, &mut out, &mut talk::Talk);
    talk::written(shown.map(|shown| code = shown))?;
    Ok(code)
}

impl Arguments {
    fn show(
        &self,
        files: &[PathBuf],
        environment: &BTreeMap<String, String>,
        out: &mut dyn Write,
        talk: &mut dyn Write,
    ) -> io::Result<ExitCode> {
        if self.place.config.is_empty() {
            for file in files {
                writeln!(talk, "note: this is of {}", file.display())?;
            }
        }
        match config::load(files, environment) {
            Ok(loaded) => {
                for key in &loaded.in_force {
                    writeln!(out, "{key}")?;
                }
                for note in &loaded.notes {
                    writeln!(talk, "note: {note}")?;
                }
                for warning in &loaded.warnings {
                    writeln!(talk, "warning: {warning}")?;
                }
                for mistake in loaded.config.auth.mistakes(0) {
                    writeln!(talk, "warning: {mistake}")?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Err(errors) => {
                for error in &errors {
                    writeln!(talk, "error: {error}")?;
                }
                Ok(ExitCode::FAILURE)
            }
        }
    }
}
