//! The progress of long work: a bar on a terminal, elsewhere a line now and then.
//!
//! Must not know what is done. Invariant: it is talk, on stderr; data stay alone on stdout.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::talk;
use crate::clock::{Clock, SystemClock};
use crate::registry::Progress;

/// How often a line is written where there is no terminal.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// Where progress is shown.
pub(super) struct Meter {
    shows: Shows,
}

enum Shows {
    Nothing,
    Bar(ProgressBar),
    Lines {
        label: &'static str,
        unit: &'static str,
        clock: SystemClock,
        last: Mutex<Duration>,
    },
}

impl Meter {
    /// Shows nothing.
    pub(super) fn quiet() -> Self {
        Self {
            shows: Shows::Nothing,
        }
    }

    /// Shows `label` and how many repositories are done.
    pub(super) fn new(label: &'static str) -> Self {
        Self::of(label, "repositories")
    }

    /// Shows `label` and how many `unit` are done.
    pub(super) fn of(label: &'static str, unit: &'static str) -> Self {
        let shows = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::no_length().with_message(label);
            let style =
                format!("{{msg}} [{{bar:40}}] {{human_pos}}/{{human_len}} {unit}, {{eta}} left");
            // The template is of constants; a bad one would show the plain bar.
            if let Ok(style) = ProgressStyle::with_template(&style) {
                bar.set_style(style);
            }
            Shows::Bar(bar)
        } else {
            Shows::Lines {
                label,
                unit,
                clock: SystemClock::new(),
                last: Mutex::default(),
            }
        };
        Self { shows }
    }

    pub(super) fn tell(&self, progress: Progress) {
        match &self.shows {
            Shows::Nothing => {}
            Shows::Bar(bar) => {
                if let Some(total) = progress.total {
                    bar.set_length(total);
                }
                bar.set_position(progress.done);
            }
            Shows::Lines {
                label,
                unit,
                clock,
                last,
            } => {
                let now = clock.elapsed();
                // No code panics while it holds this lock.
                let Ok(mut last) = last.lock() else { return };
                if now.saturating_sub(*last) < LINE_PAUSE {
                    return;
                }
                *last = now;
                let total = progress
                    .total
                    .map_or_else(String::new, |total| format!(" of {total}"));
                talk::line(format_args!("{label}: {}{total} {unit}", progress.done));
            }
        }
    }

    pub(super) fn end(&self) {
        if let Shows::Bar(bar) = &self.shows {
            bar.finish_and_clear();
        }
    }
}
