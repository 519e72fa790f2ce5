//! `boathouse man`: the manual pages.
//!
//! Invariant: what they say of arguments is made from the arguments themselves, so it cannot lag behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::cli;

/// `boathouse man DIR`, for packagers
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Where the pages go; made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// What the page of the program says besides its arguments, in roff.
const MORE: &str = r".SH FILES
.TP
/etc/boathouse
Root\*(Aqs configuration (boathouse.yml), accounts (users.yml), authority (ca.crt) and keys. A user has them in
~/.config/boathouse; on macOS they are in /Library/Application Support/Boathouse, below the home directory for a user.
.TP
/var/lib/boathouse
Root\*(Aqs images. A user\*(Aqs are in ~/.local/share/boathouse.
.SH EXIT STATUS
.TP
0
Success.
.TP
1
The command failed, or what it looked for was found: see the page of the command.
.TP
2
The command line has a mistake.
.TP
78
The configuration has a mistake, so that another start fails too (up, serve).
.SH EXAMPLES
.TP
boathouse up
Set a registry up if this is the first run, and serve.
.TP
boathouse user add ann --push \*(Aqteam/**\*(Aq
Add an account that may push to all repositories below team.
.TP
boathouse trust --remote lab:5443 --install
Have the clients on this machine trust the registry of another machine.
.SH SEE ALSO
The documentation in /usr/share/doc/boathouse, docs/operations.md and docs/configuration.md first of all.
";

/// One page for the program and one for each command: `boathouse.1`, `boathouse-up.1`, …
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let directory = &arguments.directory;
    let write = || {
        fs::create_dir_all(directory)?;
        let mut program = cli::Arguments::command().disable_help_subcommand(true);
        program.build();
        write_pages(&program, MORE, directory)
    };
    write().with_context(|| format!("cannot write into {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The page of `command`, which ends with `more`, and those of its own commands.
fn write_pages(command: &clap::Command, more: &str, directory: &Path) -> std::io::Result<()> {
    for command in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        write_pages(command, "", directory)?;
    }
    let man = Man::new(command.clone())
        .source(concat!("boathouse ", env!("CARGO_PKG_VERSION")))
        .manual("Boathouse");
    let mut page = Vec::new();
    man.render(&mut page)?;
    page.extend(more.as_bytes());
    fs::write(directory.join(man.get_filename()), page)
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
        assert!(program.contains(".SH FILES"), "{program}");
        let nested = read("boathouse-user-add.1".into()).unwrap();
        assert!(nested.contains("boathouse 0."), "{nested}");
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
