//! `boathouse completions` and `boathouse man`: what shells and `man` know of the command line.
//!
//! Must not know any command. Invariant: both are made from the arguments themselves, so they cannot lag behind.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap_complete::Shell;

use super::talk;

/// `boathouse completions SHELL`
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell that will read the script
    #[arg(value_enum)]
    shell: Shell,
}

/// `boathouse man DIR`, for whoever makes packages
#[derive(Debug, clap::Args)]
pub(super) struct ManualPages {
    /// Where the pages go; made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Completions {
    pub(super) fn print(&self, mut command: clap::Command) -> anyhow::Result<ExitCode> {
        let name = command.get_name().to_owned();
        // The generator panics where it cannot write, and a reader that has seen enough is no reason to.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        let mut out = io::stdout().lock();
        talk::written(out.write_all(&script).and_then(|()| out.flush()))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl ManualPages {
    /// One page for the program and one for each command: `boathouse.1`, `boathouse-up.1`, …
    pub(super) fn write(&self, command: clap::Command) -> anyhow::Result<ExitCode> {
        let directory = &self.directory;
        let write = || {
            fs::create_dir_all(directory)?;
            clap_mangen::generate_to(command, directory)
        };
        write().with_context(|| format!("cannot write into {}", directory.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Arguments;

    #[test]
    fn every_command_has_its_page() {
        let directory = tempfile::tempdir().unwrap();
        let pages = ManualPages {
            directory: directory.path().join("man"),
        };
        pages.write(Arguments::command()).unwrap();
        let read = |name: String| fs::read_to_string(pages.directory.join(name));
        let program = read("boathouse.1".into()).unwrap();
        for command in Arguments::command().get_subcommands() {
            if command.is_hide_set() {
                continue;
            }
            let name = command.get_name();
            let page = read(format!("boathouse-{name}.1")).unwrap();
            assert!(
                page.contains(".SH SYNOPSIS") && page.contains(name),
                "{page}"
            );
            assert!(program.contains(name), "{program}");
        }
    }

    #[test]
    fn every_shell_completes_a_command() {
        for shell in [
            Shell::Bash,
            Shell::Elvish,
            Shell::Fish,
            Shell::PowerShell,
            Shell::Zsh,
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "boathouse", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("new-ca"));
        }
    }
}
