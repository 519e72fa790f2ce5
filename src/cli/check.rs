//! `boathouse check`: reads the configuration as `serve` would, and shows what is in force.
//!
//! Must not start or write anything. Invariant: what is in force goes to stdout, talk to stderr, and no secret to either.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config;

/// Checks configuration files and shows what is in force.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// A configuration file; may be given several times
    #[arg(long = "config", value_name = "FILE", required = true)]
    pub config: Vec<PathBuf>,
}

impl Check {
    /// Exit code 0 if the files are fine, 1 if not.
    pub fn run(
        &self,
        environment: &BTreeMap<String, String>,
        out: &mut dyn Write,
        talk: &mut dyn Write,
    ) -> io::Result<ExitCode> {
        match config::load(&self.config, environment) {
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
