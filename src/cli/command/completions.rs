//! `boathouse completions`: what shells know of the command line.
//!
//! Invariant: it is made from the arguments themselves, so it cannot lag behind.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::{self, talk};

/// `boathouse completions SHELL`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The shell that will read the script
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // The generator panics if it cannot write, and a closed reader (`| head`) must not cause a panic.
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut cli::Arguments::command(),
        "boathouse",
        &mut script,
    );
    let mut out = io::stdout().lock();
    talk::written(out.write_all(&script).and_then(|()| out.flush()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            clap_complete::generate(
                shell,
                &mut cli::Arguments::command(),
                "boathouse",
                &mut script,
            );
            assert!(String::from_utf8(script).unwrap().contains("new-ca"));
        }
    }
}
