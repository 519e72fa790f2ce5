//! `boathouse check`: reads the configuration as `serve` would, and shows what is in force.
//!
//! Must not start or write anything. Invariant: what is in force goes to stdout, talk to stderr, and no secret to either.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::installation::{self, Where};
use super::talk;
use crate::config;

/// Checks configuration files and shows what is in force.
#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    place: Where,
}

impl Check {
    /// Exit code 0 if the files are fine, 1 if not.
    pub(super) fn run(
        &self,
        environment: &BTreeMap<String, String>,
        out: &mut dyn Write,
        talk: &mut dyn Write,
    ) -> anyhow::Result<ExitCode> {
        let files = installation::config_files(&self.place)?;
        let mut code = ExitCode::SUCCESS;
        let shown = self.show(&files, environment, out, talk);
        talk::written(shown.map(|shown| code = shown))?;
        Ok(code)
    }

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
