//! What is wrong with a configuration, and where.
//!
//! Must not know how files are read. Invariant: no value of any key is ever in a message: a value may be a secret, and so may
//! the text on a neighbouring line.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where something was written: a file and its line, or the name of an environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    source: Arc<str>,
    line: Option<u64>,
}

impl Place {
    /// A whole file.
    pub fn file(path: &Path) -> Self {
        Self {
            source: path.display().to_string().into(),
            line: None,
        }
    }

    /// An environment variable.
    pub fn variable(name: &str) -> Self {
        Self {
            source: name.into(),
            line: None,
        }
    }

    /// This line of the same source. Variables have no lines worth telling.
    pub(super) fn at_line(&self, line: u64) -> Self {
        Self {
            source: Arc::clone(&self.source),
            line: Some(line).filter(|line| *line > 0),
        }
    }

    /// Whether this is somewhere in the source `other`.
    pub(super) fn is_in(&self, other: &Self) -> bool {
        self.source == other.source
    }

    /// From what `Display` makes of a place.
    pub(super) fn written(text: &str) -> Self {
        let (source, line) = match text.rsplit_once(':') {
            Some((source, line)) if line.parse::<u64>().is_ok() => (source, line.parse().ok()),
            _ => (text, None),
        };
        Self {
            source: source.into(),
            line,
        }
    }

    /// The line, where one is known.
    pub fn line(&self) -> Option<u64> {
        self.line
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(out, "{}:{line}", self.source),
            None => write!(out, "{}", self.source),
        }
    }
}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.parts().concat())]
pub struct ConfigError {
    /// Where; absent for what is missing altogether.
    pub place: Option<Place>,
    /// The key with dots, empty where no key is concerned.
    pub key: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl ConfigError {
    pub(super) fn new(
        place: Option<&Place>,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            place: place.cloned(),
            key: key.into(),
            message: message.into(),
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `place: key: message`, and the hint on a line of its own.
    fn parts(&self) -> [String; 4] {
        let place = self.place.as_ref();
        [
            place.map_or_else(String::new, |place| format!("{place}: ")),
            if self.key.is_empty() {
                String::new()
            } else {
                format!("{}: ", self.key)
            },
            self.message.clone(),
            self.hint
                .as_ref()
                .map_or_else(String::new, |hint| format!("\nhint: {hint}")),
        ]
    }
}

/// Every mistake that was found, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The mistakes, one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }

    pub(super) fn push(&mut self, error: ConfigError) {
        self.0.push(error);
    }

    pub(super) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// `value`, unless something was found.
    pub(super) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// `text` as one word of a shell, for hints that are command lines.
pub fn shell_word(text: &str) -> String {
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "/._-:@+".contains(character);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.0.iter().enumerate() {
            if position > 0 {
                writeln!(out)?;
            }
            write!(out, "{error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::shell_word;

    #[test]
    fn a_word_of_a_shell_stays_one() {
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word("[::1]:443"), "'[::1]:443'");
        assert_eq!(shell_word("/etc/lab-1/a.yml"), "/etc/lab-1/a.yml");
        assert_eq!(shell_word(""), "''");
    }
}
