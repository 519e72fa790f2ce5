//! The person at the terminal, if there is one.
//!
//! Invariant: silence, an end of input, or anything but a clear yes is a no.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

/// Who is asked before something is changed.
pub(in crate::cli) trait Person {
    /// Whether a person can answer.
    fn is_there(&self) -> bool;
    /// Whether they say yes.
    fn agrees(&self, question: &str) -> io::Result<bool>;
}

/// Asks on stderr, reads from stdin.
pub(in crate::cli) struct AtTerminal;

impl Person for AtTerminal {
    fn is_there(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    fn agrees(&self, question: &str) -> io::Result<bool> {
        let mut stderr = io::stderr().lock();
        write!(stderr, "{question} [y/N] ")?;
        stderr.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(is_yes(&answer))
    }
}

fn is_yes(answer: &str) -> bool {
    let answer = answer.trim();
    answer.eq_ignore_ascii_case("y") || answer.eq_ignore_ascii_case("yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        assert!(is_yes("y\n") && is_yes(" YES \r\n"));
        for no in ["", "\n", "n", "no", "yeah", "yes please"] {
            assert!(!is_yes(no), "{no}");
        }
    }
}
