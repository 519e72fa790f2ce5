//! What the process itself takes, by the names that every exporter of Prometheus uses.
//!
//! Must not know what the process does. Invariant: what the system does not tell (`platform`) is left out.

use super::exposition::{Page, number};
use crate::platform::ProcessUsage;

pub(super) fn show(usage: &ProcessUsage, page: &mut Page) {
    if let Some(time) = usage.cpu_time {
        page.counter_of_fractions(
            "process_cpu_seconds",
            "Processor time of the process, of its own and of the system for it",
            time.as_secs_f64(),
        );
    }
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Memory of the process that is in RAM",
            usage.resident_bytes,
        ),
        (
            "process_open_fds",
            "File descriptors that are open",
            usage.open_descriptors,
        ),
        (
            "process_max_fds",
            "The limit of file descriptors",
            usage.descriptors_max,
        ),
    ] {
        if let Some(value) = value {
            page.gauge(name, help, number(value));
        }
    }
}
