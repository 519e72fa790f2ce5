//! Logs: tracing to stderr, as text or JSON.
//!
//! Must not know what is logged. Invariants: stdout contains data only; a log that cannot be written neither stops nor
//! slows the code that logs.

#[cfg(test)]
pub(crate) mod kept;
mod lines;
mod writer;

use std::sync::OnceLock;

use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, ParseError};

pub use lines::{FIELD_BYTES_MAX, Field, chain, field};

use lines::{Format, Guarded};
use writer::LogWriter;

/// The target of the access log, which has one line for each request and does not depend on the level.
pub const ACCESS_LOG_TARGET: &str = "boathouse::access";

/// Environment variables with a filter such as `boathouse=debug,h2=trace`, which replaces the configured level; the first
/// one counts.
const FILTER_VARIABLES: [&str; 2] = ["BOATHOUSE_LOG", "RUST_LOG"];

/// Crates whose debug output hides ours; a filter variable can enable them.
const QUIET_CRATES: [&str; 5] = ["h2", "hyper", "hyper_util", "rustls", "sled"];

/// Crates whose every line is about a failure that is told here with its cause and a hint, some with a whole answer of a server.
const SILENT_CRATES: [&str; 4] = [
    "aws_config",
    "aws_runtime",
    "aws_sdk_s3",
    "aws_smithy_runtime",
];

/// The log of this process, after it was started.
static WRITER: OnceLock<LogWriter> = OnceLock::new();

/// The configuration of logs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `log.level`: error, warn, info, debug, trace.
    pub level: Level,
    /// `log.formatter: json`
    pub json: bool,
    /// `log.accesslog.disabled`
    pub access_log_disabled: bool,
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A filter variable is malformed.
    #[error("{variable} is not a log filter\nhint: write it like `boathouse=debug,h2=info`")]
    Filter {
        /// The variable.
        variable: &'static str,
        /// The error in it.
        source: ParseError,
    },
    /// The log thread could not be started.
    #[error("cannot start the thread that writes the log")]
    Thread(#[from] std::io::Error),
    /// Logging runs already.
    #[error("logging was started twice")]
    AlreadyStarted,
}

/// Sends the logs of the whole program to stderr from now on; `environment` reads a variable.
pub fn start(
    settings: &Settings,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(), TelemetryError> {
    let filter = filter(settings, environment)?;
    let writer = LogWriter::start(std::io::stderr(), |lines| {
        tracing::warn!(lines, "log lines were lost: stderr could not be written");
    })?;
    let has_colours = has_colours(&std::io::stderr(), environment);
    let format = match (settings.json, has_colours) {
        (true, _) => Format::Json,
        (false, true) => Format::ColouredText,
        (false, false) => Format::Text,
    };
    lines::set_json(settings.json);
    let is_for_journal = is_journal(environment);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Guarded::new(writer.clone(), format, is_for_journal))
        // Errors of the formatter go to stderr by a macro that panics if it cannot write.
        .log_internal_errors(false);
    let started = if settings.json {
        tracing::subscriber::set_global_default(subscriber.json().flatten_event(true).finish())
    } else {
        tracing::subscriber::set_global_default(subscriber.with_ansi(has_colours).finish())
    };
    started.map_err(|_| TelemetryError::AlreadyStarted)?;
    WRITER
        .set(writer)
        .map_err(|_| TelemetryError::AlreadyStarted)
}

/// Whether a person sees colours there: on a terminal, unless `NO_COLOR` has a value (no-color.org).
pub fn has_colours(
    output: &impl std::io::IsTerminal,
    environment: &dyn Fn(&str) -> Option<String>,
) -> bool {
    output.is_terminal() && environment("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes a message to the person who started the program, between the log lines; before logging is started, it is lost.
pub fn say(text: &str) {
    if let Some(writer) = WRITER.get() {
        writer.hand_over(text.as_bytes());
    }
}

/// Log lines that were lost since the start, because stderr could not be written or was not read.
pub fn lost_lines() -> u64 {
    WRITER.get().map_or(0, LogWriter::lost_lines)
}

/// Waits a moment for the last lines; call it before the program ends.
pub fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush();
    }
}

/// Whether stderr goes to the journal of systemd: `JOURNAL_STREAM` then has its device and inode (systemd.exec(5)). Where stderr
/// was redirected since, they differ.
fn is_journal(environment: &dyn Fn(&str) -> Option<String>) -> bool {
    let stream = environment("JOURNAL_STREAM");
    let stderr = rustix::fs::fstat(std::io::stderr());
    let (Some(stream), Ok(stderr)) = (stream, stderr) else {
        return false;
    };
    stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}

fn filter(
    settings: &Settings,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<EnvFilter, TelemetryError> {
    for variable in FILTER_VARIABLES {
        if let Some(value) = environment(variable).filter(|value| !value.is_empty()) {
            return EnvFilter::try_new(value)
                .map_err(|source| TelemetryError::Filter { variable, source });
        }
    }
    // The access log does not depend on the level, as in distribution: `log.level: error` keeps it.
    let access = if settings.access_log_disabled {
        "off"
    } else {
        "info"
    };
    let mut directives = format!("{},{ACCESS_LOG_TARGET}={access}", settings.level);
    directives.extend(SILENT_CRATES.map(|name| format!(",{name}=off")));
    if settings.level > Level::WARN {
        directives.extend(QUIET_CRATES.map(|name| format!(",{name}=warn")));
    }
    Ok(EnvFilter::new(directives))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(level: Level, access_log_disabled: bool) -> Settings {
        Settings {
            level,
            json: false,
            access_log_disabled,
        }
    }

    #[test]
    fn the_access_log_is_apart_from_the_level() {
        let none = |_: &str| None;
        let on = filter(&settings(Level::ERROR, false), &none).expect("a filter");
        assert!(on.to_string().contains("boathouse::access=info"));
        let off = filter(&settings(Level::DEBUG, true), &none).expect("a filter");
        assert!(off.to_string().contains("boathouse::access=off"));
    }

    #[test]
    fn our_variable_comes_before_the_usual_one() {
        let both = |name: &str| Some(format!("{}=trace", name.to_lowercase()));
        let filter = filter(&settings(Level::INFO, false), &both).expect("a filter");
        assert_eq!(filter.to_string(), "boathouse_log=trace");
    }

    #[test]
    fn a_broken_filter_names_its_variable() {
        let broken = |name: &str| (name == "RUST_LOG").then(|| "a=b=c".to_owned());
        let error = filter(&settings(Level::INFO, false), &broken).expect_err("an error");
        assert!(
            error
                .to_string()
                .starts_with("RUST_LOG is not a log filter")
        );
    }
}
