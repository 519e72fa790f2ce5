//! What a command says: talk on stderr, data on stdout.
//!
//! Must not know what is said. Invariants: a command line that is printed names the installation as this command did, so that it
//! works when it is pasted; messages that cannot be written change nothing (a full disk behind stderr, a reader that
//! has gone); a reader of data that has seen enough ends the command without a word, any other failure to write data is an
//! error.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::Context as _;
use serde::Serialize;

use crate::config::shell_word;

/// What names the installation that this command is about, in every command line that is printed.
static NAMED: OnceLock<Named> = OnceLock::new();

/// How a command line named the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// `--dir DIR`, or `--config FILE` for each file.
    words: String,
    /// The commands that take these words.
    commands: Vec<String>,
}

impl Named {
    /// By the arguments of `matches`; `None` if it named none.
    pub(super) fn by(command: &clap::Command, matches: &clap::ArgMatches) -> Option<Self> {
        let (_, mut matches) = matches.subcommand()?;
        loop {
            for option in ["dir", "config"] {
                let Ok(Some(values)) = matches.try_get_many::<PathBuf>(option) else {
                    continue;
                };
                let words = values
                    .map(|value| format!("--{option} {}", shell_word(&value.to_string_lossy())));
                let takes = |command: &&clap::Command| {
                    let mut arguments = command.get_arguments();
                    arguments.any(|argument| argument.get_long() == Some(option))
                };
                let commands = command.get_subcommands().filter(takes);
                return Some(Self {
                    words: words.collect::<Vec<_>>().join(" "),
                    commands: commands.map(|one| one.get_name().to_owned()).collect(),
                });
            }
            matches = matches.subcommand()?.1;
        }
    }

    /// `text`, in which every command line of this program names the installation.
    fn in_text(&self, text: &str) -> String {
        const PROGRAM: &str = "boathouse ";
        let mut named = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(PROGRAM) {
            let (before, line) = rest.split_at(at + PROGRAM.len());
            named.push_str(before);
            rest = line;
            let is_letter = |letter: char| letter.is_ascii_lowercase() || letter == '-';
            let word_end = line.find(|letter| !is_letter(letter)).unwrap_or(line.len());
            let (command, after) = line.split_at(word_end);
            // Another word may be the name of a user, before the program's.
            if !self.commands.iter().any(|one| one == command) {
                continue;
            }
            named.push_str(command);
            rest = after;
            let arguments = after.split(['`', '\n', '"']).next().unwrap_or_default();
            let is_named = ["--dir", "--config", "--remote"]
                .iter()
                .any(|option| arguments.contains(option));
            if !is_named {
                named.push(' ');
                named.push_str(&self.words);
            }
        }
        named.push_str(rest);
        named
    }
}

/// From now on, every command line that is printed names the installation as this command did.
pub(super) fn name_installation(named: Option<Named>) {
    if let Some(named) = named {
        // Set once, at the start.
        let _ = NAMED.set(named);
    }
}

/// `text` as it is printed.
fn with_installation(text: &str) -> Cow<'_, str> {
    match NAMED.get() {
        Some(named) => Cow::Owned(named.in_text(text)),
        None => Cow::Borrowed(text),
    }
}

/// One line on stderr. Command lines in it name the installation.
pub(super) fn line(line: impl fmt::Display) {
    // Written at once, so that lines of several threads do not mix.
    let text = format!("{line}\n");
    let text = with_installation(&text);
    // There is no other place to say it.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// A question on stderr, without an end of line.
pub(super) fn ask(question: impl fmt::Display) {
    let text = question.to_string();
    // As in `line`.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// stderr for those who write talk bit by bit. Each bit holds whole command names, as literals of a format do.
pub(super) struct Talk;

impl Write for Talk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match std::str::from_utf8(bytes) {
            Ok(text) => io::stderr().write_all(with_installation(text).as_bytes()),
            Err(_) => io::stderr().write_all(bytes),
        };
        // As in `line`.
        let _ = written;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What became of data on stdout. A reader that has seen enough (`| head`) is no failure.
pub(super) fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write the result"),
    }
}

/// Writes text to stdout.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Writes an answer to stdout: as text or, if `is_json`, as one line of JSON.
pub(super) fn data(data: &impl Serialize, is_json: bool, text: String) -> anyhow::Result<ExitCode> {
    let text = if is_json {
        format!("{}\n", serde_json::to_string(data)?)
    } else {
        text
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// A table with its head, whose columns are as wide as their longest cell; the last one has no width.
pub(super) fn columns<const COLUMNS: usize>(
    head: [&str; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let head = head.map(str::to_owned);
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_that_is_printed_names_the_installation() {
        let named = |line: &[&str]| {
            let command = crate::cli::command_line();
            let matches = command.clone().try_get_matches_from(line).unwrap();
            Named::by(&command, &matches)
        };
        assert_eq!(named(&["boathouse", "user", "list"]), None);
        let dir = named(&["boathouse", "user", "revoke", "ann", "--dir", "/srv/a b"]).unwrap();
        for (text, expected) in [
            (
                "hint: `boathouse user revoke ann --password` changes it too, `boathouse trust` not",
                "hint: `boathouse user --dir '/srv/a b' revoke ann --password` changes it too, `boathouse trust --dir '/srv/a b'` not",
            ),
            (
                "without one: boathouse user add admin --admin --recreate-missing",
                "without one: boathouse user --dir '/srv/a b' add admin --admin --recreate-missing",
            ),
            ("`boathouse up`", "`boathouse up --dir '/srv/a b'`"),
            (
                "sudo -u boathouse boathouse status",
                "sudo -u boathouse boathouse status --dir '/srv/a b'",
            ),
        ] {
            assert_eq!(dir.in_text(text), expected);
        }
        for text in [
            "`boathouse trust --remote lab:5443 --install`",
            "`boathouse up --dir /other` starts",
            "sudo -u boathouse boathouse …",
            "`boathouse version`",
            "boathouse is a registry",
        ] {
            assert_eq!(dir.in_text(text), text);
        }
        let line = [
            "boathouse",
            "list",
            "--config",
            "a.yml",
            "--config",
            "b.yml",
        ];
        let files = named(&line).unwrap();
        assert_eq!(
            files.in_text("`boathouse acl explain '' a`"),
            "`boathouse acl --config a.yml --config b.yml explain '' a`"
        );
        assert_eq!(
            files.in_text("`boathouse up`"),
            "`boathouse up`",
            "it takes none"
        );
    }

    #[test]
    fn only_a_reader_that_has_gone_is_no_error() {
        let is_fine = |kind: io::ErrorKind| written(Err(kind.into())).is_ok();
        assert!(is_fine(io::ErrorKind::BrokenPipe) && !is_fine(io::ErrorKind::StorageFull));
    }
}
