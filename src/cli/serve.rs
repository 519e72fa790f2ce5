//! `boathouse serve` and `boathouse check`: by config files that are there already.

use std::path::PathBuf;
use std::process::ExitCode;

use super::assemble::{self, Start};

pub(super) fn run(config_files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    assemble::serve(&Start {
        config_files: config_files.to_vec(),
        makes_new_authority: false,
        greets: false,
    })
}

pub(super) fn check(config_files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    assemble::check(config_files)
}
