//! What a command says: talk on stderr, data on stdout.
//!
//! Must not know what is said. Invariants: messages that cannot be written change nothing (a full disk behind stderr, a reader that
//! has gone); a reader of data that has seen enough ends the command without a word, any other failure to write data is an
//! error.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

/// One line on stderr.
pub(super) fn line(line: impl fmt::Display) {
    // Written at once, so that lines of several threads do not mix.
    let text = format!("{line}\n");
    // There is no other place to say it.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// A question on stderr, without an end of line.
pub(super) fn ask(question: impl fmt::Display) {
    let text = question.to_string();
    // As in `line`.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// stderr for those who write talk bit by bit.
pub(super) struct Talk;

impl Write for Talk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // As in `line`.
        let _ = io::stderr().write_all(bytes);
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
    fn only_a_reader_that_has_gone_is_no_error() {
        let is_fine = |kind: io::ErrorKind| written(Err(kind.into())).is_ok();
        assert!(is_fine(io::ErrorKind::BrokenPipe) && !is_fine(io::ErrorKind::StorageFull));
    }
}
