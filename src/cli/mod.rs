//! The command line: arguments, dispatch, exit code, and how an error is told.
//!
//! The one module that knows every other, and the only one with `anyhow`. Invariant: stdout is data, stderr is talk; an
//! error ends with what to do about it.

mod acl_explain;
mod acl_explain_json;
mod acl_explain_text;
mod assemble;
mod auth_settings;
mod authority_scope;
mod certificates;
pub mod check;
mod client;
mod completions;
mod doctor;
mod first_run;
mod foreign_files;
mod installation;
mod missing_parts;
mod moment;
mod password;
mod person;
mod places;
mod port;
mod private_file;
mod progress;
mod reload;
mod running;
mod signals;
mod store_commands;
mod talk;
mod token_key;
mod trust;
mod up;
mod user;
mod user_changes;
mod user_list;
mod welcome;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::telemetry;
use assemble::Start;
use missing_parts::Expected;

/// A self-contained home for container images and VM images.
#[derive(Debug, Parser)]
#[command(name = "boathouse", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set everything up if this is the first run, then serve
    Up(UpArguments),
    /// Serve by config files that are there already
    Serve(ServeArguments),
    /// Check config files and print what is in force
    Check(check::Check),
    /// Print or install what clients on this machine need to trust a registry
    Trust(trust::TrustArguments),
    /// Find out, on a client, what keeps it from a registry: name, port, certificate, clock, login, push, pull
    Doctor(doctor::DoctorArguments),
    /// Print a script that completes this program's command lines
    Completions(completions::Completions),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man(completions::ManualPages),
    /// Print how much is stored, and how the index is
    Status(store_commands::StatusArguments),
    /// Print who takes how much room, and what deleting a tag would free
    Du(store_commands::UsageArguments),
    /// Fill the index anew from the store; the registry serves meanwhile
    Rebuild(store_commands::RebuildArguments),
    /// Make, change, end and list accounts
    User(user::UserArguments),
    /// Ask the access rules
    Acl(acl_explain::AclArguments),
}

/// `boathouse up`
#[derive(Debug, Default, Args)]
struct UpArguments {
    /// Keep everything below this directory instead of in the platform's places
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where to listen (first run only) [default: every address, the first free port of 443, 5443, 8443]
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<port::ListenAddress>,
    /// A further name or address of this machine, for its certificates (first run only; may be repeated)
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Make a new certificate authority; every client must then trust it anew
    #[arg(long)]
    new_ca: bool,
    /// Start although parts of the installation are missing: make a new authority, new keys, an admin, an empty store
    #[arg(long)]
    recreate_missing: bool,
    #[command(flatten)]
    log: LogArguments,
}

/// How a server logs, where the command line decides.
#[derive(Debug, Default, Clone, Copy, Args)]
struct LogArguments {
    /// How log lines are written, whatever `log.formatter` says
    #[arg(long = "log-format", value_enum, value_name = "FORMAT")]
    format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

/// `boathouse serve`
#[derive(Debug, Args)]
struct ServeArguments {
    /// A config file; may be repeated, for example for `registry.yml` and `auth_config.yml`
    #[arg(long = "config", value_name = "FILE", required = true)]
    config: Vec<PathBuf>,
    /// Start although parts of the installation are missing: make a new authority, new keys, an empty store
    #[arg(long)]
    recreate_missing: bool,
    #[command(flatten)]
    log: LogArguments,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Up(arguments) => up::run(&arguments),
        Command::Serve(arguments) => assemble::serve(&Start {
            config_files: arguments.config,
            makes_new_authority: false,
            expected: if arguments.recreate_missing {
                Expected::None
            } else {
                Expected::Known
            },
            greets: false,
            log_format: arguments.log.format,
        }),
        Command::Check(check) => run_check(&check),
        Command::Trust(arguments) => trust::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Completions(completions) => completions.print(Arguments::command()),
        Command::Man(pages) => pages.write(Arguments::command()),
        Command::Status(arguments) => store_commands::status(&arguments),
        Command::Du(arguments) => store_commands::usage(&arguments),
        Command::Rebuild(arguments) => store_commands::rebuild(&arguments),
        Command::User(arguments) => user::run(&arguments),
        Command::Acl(arguments) => acl_explain::run(&arguments),
    };
    let code = match result {
        Ok(code) => code,
        Err(error) => {
            telemetry::flush();
            talk::line(told(&error));
            ExitCode::FAILURE
        }
    };
    telemetry::flush();
    code
}

fn run_check(check: &check::Check) -> anyhow::Result<ExitCode> {
    check.run(&environment(), &mut io::stdout().lock(), &mut talk::Talk)
}

/// The variables of this process; a name or value that is not UTF-8 is none of ours.
fn environment() -> BTreeMap<String, String> {
    let variables = std::env::vars_os();
    variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The error and its causes, and last the hints of all of them.
fn told(error: &anyhow::Error) -> String {
    let mut told = Vec::new();
    let mut hints = Vec::new();
    for (depth, cause) in error.chain().enumerate() {
        let intro = if depth == 0 { "error" } else { "  because" };
        for (number, line) in cause.to_string().lines().enumerate() {
            match line {
                hint if hint.starts_with("hint: ") => hints.push(hint.to_owned()),
                line if number == 0 => told.push(format!("{intro}: {line}")),
                line => told.push(line.to_owned()),
            }
        }
    }
    told.extend(hints);
    told.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_documented_command_lines_are_understood() {
        for line in [
            "boathouse up",
            "boathouse up --dir d --addr [::1]:5443 --host a --host 10.0.0.5 --new-ca",
            "boathouse serve --config a.yml --config b.yml",
            "boathouse check",
            "boathouse check --config a.yml",
            "boathouse serve --config a.yml --log-format json",
            "boathouse completions bash",
            "boathouse man pages",
            "boathouse user add ann --push team/** --push a --pull b --expires 90d --password-stdin",
            "boathouse user add root --admin --dir d",
            "boathouse status --json",
            "boathouse du team/app:1 --dir d",
            "boathouse rebuild --check --config a.yml",
            "boathouse user --config a.yml --config b.yml passwd ann --expires 2027-01-31T18:00:00Z",
            "boathouse user remove ann",
            "boathouse user revoke ann --config a.yml",
            "boathouse user list --json",
            "boathouse acl explain ann team/app push --ip 10.0.0.5 --json --dir d",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "boathouse",
            "boathouse serve",
            "boathouse up --addr nowhere",
            "boathouse user add",
            "boathouse user add ann --admin --pull a",
            "boathouse user add ann --expires soon",
            "boathouse acl explain ann team/app look",
        ] {
            assert!(
                Arguments::try_parse_from(line.split(' ')).is_err(),
                "{line}"
            );
        }
    }

    #[test]
    fn hints_come_last() {
        let cause = anyhow::anyhow!("it is full\nhint: make room");
        let error = cause.context("cannot write x\nhint: look");
        let expected = "error: cannot write x\n  because: it is full\nhint: look\nhint: make room";
        assert_eq!(told(&error), expected);
    }
}
