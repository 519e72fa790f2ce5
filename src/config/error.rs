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
#[error("{}", self.text())]
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

    fn text(&self) -> String {
        let mut text = String::new();
        if let Some(place) = &self.place {
            text.push_str(&format!("{place}: "));
        }
        if !self.key.is_empty() {
            text.push_str(&format!("{}: ", self.key));
        }
        text.push_str(&self.message);
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\nhint: {hint}"));
        }
        text
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
