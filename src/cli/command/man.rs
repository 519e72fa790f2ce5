//! `boathouse man`: the manual pages.
//!
//! Invariant: they are made from the arguments themselves, so they cannot lag behind.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::cli;

/// `boathouse man DIR`, for packagers
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Where the pages go; made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// One page for the program and one for each command: `boathouse.1`, `boathouse-up.1`, …
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let directory = &arguments.directory;
    let write = || {
        fs::create_dir_all(directory)?;
        clap_mangen::generate_to(cli::Arguments::command(), directory)
    };
    write().with_context(|| format!("cannot write into {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_page() {
        let directory = tempfile::tempdir().unwrap();
        let pages = Arguments {
            directory: directory.path().join("man"),
        };
        run(&pages).unwrap();
        let read = |name: String| fs::read_to_string(pages.directory.join(name));
        let program = read("boathouse.1".into()).unwrap();
        for command in cli::Arguments::command().get_subcommands() {
            if command.is_hide_set() {
                continue;
            }
            let name = command.get_name();
            let page = read(format!("boathouse-{name}.1")).unwrap();
            assert!(
                page.contains(".SH SYNOPSIS") && page.contains(name),
                "{page}"
            );
            // roff writes a hyphen as `\-`.
            let written = name.replace('-', "\\-");
            assert!(program.contains(&written), "{program}");
        }
    }
}
