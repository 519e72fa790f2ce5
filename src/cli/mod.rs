//! The command line: arguments, dispatch, exit code, and how an error is told.
//!
//! The one module that knows every other, and the only one with `anyhow`. Invariant: stdout is data, stderr is talk; an
//! error ends with what to do about it.

mod command;
mod credentials;
mod findings;
mod installation;
mod moment;
mod password;
mod progress;
mod reachable;
mod running;
mod talk;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use self::command::Command;
use crate::server::UnexpectedSocket;
use crate::telemetry;

/// The exit code of a server that does not start because its configuration has mistakes: a restart does not help
/// (`RestartPreventExitStatus=`). `EX_CONFIG` of sysexits(3).
const MISCONFIGURED: u8 = 78;

/// A registry for container images and VM images, with its own accounts, tokens and certificates.
#[derive(Debug, Parser)]
#[command(name = "boathouse", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// The command line that is understood.
fn command_line() -> clap::Command {
    let mut command = Arguments::command();
    // Only then do subcommands have their global arguments.
    command.build();
    command
}

/// Runs the program.
pub fn main() -> ExitCode {
    let matches = command_line().get_matches();
    talk::name_installation(talk::Named::by(&command_line(), &matches));
    let arguments = Arguments::from_arg_matches(&matches);
    let result = arguments.unwrap_or_else(|error| error.exit()).command.run();
    let code = match result {
        Ok(code) => code,
        Err(error) => {
            telemetry::flush();
            talk::line(told(&error));
            if error.is::<UnexpectedSocket>() {
                ExitCode::from(MISCONFIGURED)
            } else {
                ExitCode::FAILURE
            }
        }
    };
    telemetry::flush();
    code
}

/// The variables of this process, and the credentials that stand for variables. A name or value that is not UTF-8 is not one of
/// ours.
fn environment() -> BTreeMap<String, String> {
    let variables = std::env::vars_os();
    variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .chain(credentials::readable_by_this_process())
        .collect()
}

/// The error and its causes, and last the hints of all of them. Several errors of a configuration keep their hints beside them.
fn told(error: &anyhow::Error) -> String {
    let mut told = Vec::new();
    let mut hints = Vec::new();
    for (depth, cause) in error.chain().enumerate() {
        let intro = if depth == 0 { "error" } else { "  because" };
        if let Some(errors) = cause.downcast_ref::<crate::config::ConfigErrors>() {
            told.extend(errors.iter().map(|error| format!("{intro}: {error}")));
            continue;
        }
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
            "boathouse up --from a.yml --from b.yml --dir d --tls own --host a",
            "boathouse serve",
            "boathouse serve --config a.yml --config b.yml",
            "boathouse check",
            "boathouse check --config a.yml",
            "boathouse serve --config a.yml --log-format json",
            "boathouse backup /mnt/backup --verify --json --dir d",
            "boathouse restore /mnt/backup --dir d",
            "boathouse restore /mnt/backup",
            "boathouse reload",
            "boathouse reload --config a.yml --config b.yml",
            "boathouse completions bash",
            "boathouse man pages",
            "boathouse version",
            "boathouse version --json",
            "boathouse user add ann --push team/** --push a --pull b --expires 90d --password-stdin",
            "boathouse user add root --admin --dir d",
            "boathouse status --json",
            "boathouse du team/app:1 --dir d",
            "boathouse rebuild --check --config a.yml",
            "boathouse check --data --json --config a.yml",
            "boathouse check --hand-back --as-user docker-registry --config a.yml --config b.yml",
            "boathouse hand-back --as-user 105:110 --json --dir d",
            "boathouse user --config a.yml --config b.yml passwd ann --expires 2027-01-31T18:00:00Z",
            "boathouse user remove ann",
            "boathouse config show --json --dir d",
            "boathouse config merge a.yml b.yml",
            "boathouse config export --for distribution --distribution-version 3.1 --config a.yml",
            "boathouse config export --for docker_auth",
            "boathouse token-key make --config a.yml --config b.yml --issuer lab",
            "boathouse token-key make --certificate a --key b",
            "boathouse token-key rotate --dir d",
            "boathouse welcome --dir d",
            "boathouse new-ca --dir d",
            "boathouse push-sample",
            "boathouse push-sample lab.example --image team/hello:2 --username ann --password-stdin",
            "boathouse trust --remote lab.example --remove --yes",
            "boathouse trust --mobileconfig lab.mobileconfig --dir d",
            "boathouse user revoke ann --config a.yml",
            "boathouse user list --json",
            "boathouse user show ann --json --dir d",
            "boathouse user grant ann --pull a --push b --delete c",
            "boathouse user grant ann --admin --config a.yml",
            "boathouse user deny ann --push team/** --dir d",
            "boathouse user passwd ann --hash --password-stdin",
            "boathouse user revoke ann --password",
            "boathouse user add ann --admin --recreate-missing",
            "boathouse acl explain ann team/app push --ip 10.0.0.5 --json --dir d",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "boathouse",
            "boathouse up --addr nowhere",
            "boathouse up --tls own",
            "boathouse up --from a.yml --addr :5000",
            "boathouse user add",
            "boathouse user add ann --admin --pull a",
            "boathouse user add ann --expires soon",
            "boathouse user grant ann",
            "boathouse user deny ann",
            "boathouse user revoke ann --password --password-stdin",
            "boathouse check --data --as-user x",
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

    #[test]
    fn errors_of_a_configuration_keep_their_hints_beside_them() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yml");
        std::fs::write(&file, "htp: {}\nstorge: {}\n").unwrap();
        let errors = crate::config::load(std::slice::from_ref(&file), &BTreeMap::new());
        let told = told(&errors.unwrap_err().into());
        let lines: Vec<&str> = told.lines().collect();
        for (name, line) in [("htp", lines[0]), ("storge", lines[2])] {
            assert!(line.starts_with("error: ") && line.contains(name), "{told}");
        }
        assert!(
            lines[1].starts_with("hint: ") && lines[3].starts_with("hint: "),
            "{told}"
        );
    }
}
