//! The figures, as a Markdown table.

use std::fmt::Write as _;
use std::time::Duration;

use super::requests::{Latency, REQUEST_TIME_MAX};

/// Something that was measured of one registry.
#[derive(Debug, Clone)]
pub(super) enum Figure {
    Repeated(Latency),
    /// One request that brings more than was asked for.
    RepeatedWith(Latency, String),
    Took(Duration),
    Bytes(u64),
    /// In words: something else than one number, or why there is none.
    Words(String),
}

impl Figure {
    pub(super) fn words(words: impl Into<String>) -> Self {
        Self::Words(words.into())
    }

    /// For a list that was given up.
    pub(super) fn too_long() -> Self {
        Self::Words(format!("not possible in {} s", REQUEST_TIME_MAX.as_secs()))
    }

    fn text(&self) -> String {
        match self {
            Self::Repeated(latency) => latency_text(latency),
            Self::RepeatedWith(latency, what) => format!("{} ({what})", latency_text(latency)),
            Self::Took(time) if *time < Duration::from_secs(1) => {
                format!("{} ms", milliseconds(*time))
            }
            Self::Took(time) => format!("{:.1} s", time.as_secs_f64()),
            Self::Bytes(bytes) => mebibytes(*bytes),
            Self::Words(words) => words.clone(),
        }
    }

    /// How many times as much `other` is.
    fn ratio(&self, other: &Self) -> Option<f64> {
        let ratio = match (self, other) {
            (Self::Repeated(one), Self::Repeated(two) | Self::RepeatedWith(two, _)) => {
                two.median.as_secs_f64() / one.median.as_secs_f64()
            }
            (Self::Took(one), Self::Took(two)) => two.as_secs_f64() / one.as_secs_f64(),
            #[expect(clippy::cast_precision_loss, reason = "printed with two digits")]
            (Self::Bytes(one), Self::Bytes(two)) => *two as f64 / *one as f64,
            _ => return None,
        };
        Some(ratio)
    }
}

/// Rows of what, ours and the other's.
pub(super) struct Table {
    text: String,
}

impl Table {
    pub(super) fn new(other: &str) -> Self {
        Self {
            text: format!("| What | Boathouse | {other} | Ratio |\n|---|---|---|---|\n"),
        }
    }

    pub(super) fn row(&mut self, what: &str, ours: &Figure, other: Option<&Figure>) {
        let ratio = other.and_then(|other| ours.ratio(other));
        let ratio = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.1}"));
        let other = other.map_or_else(|| "–".to_owned(), Figure::text);
        // Writing into a String cannot fail.
        let _ = writeln!(
            self.text,
            "| {what} | {} | {other} | {ratio} |",
            ours.text()
        );
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn latency_text(latency: &Latency) -> String {
    let (median, high) = (milliseconds(latency.median), milliseconds(latency.high));
    format!("{median} / {high} ms")
}

fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1_000.0;
    if milliseconds < 10.0 {
        format!("{milliseconds:.2}")
    } else {
        format!("{milliseconds:.0}")
    }
}
