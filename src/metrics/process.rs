//! What the process itself takes, by the names that every exporter of Prometheus uses.
//!
//! Source: proc(5). Must not know what the process does. Invariant: what the system does not tell is left out, as on macOS,
//! which has no `/proc`.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::exposition::{Page, number};

/// The unit of times in `/proc`, the same on all processors that are supported.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the process takes now.
#[derive(Debug, Default)]
pub(super) struct Process {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    open_descriptors: Option<u64>,
    descriptors_max: Option<u64>,
}

impl Process {
    /// Reads `/proc`; blocks for about a millisecond where thousands of files are open.
    pub(super) fn now() -> Self {
        let open = fs::read_dir("/proc/self/fd").ok();
        Self {
            cpu_seconds: fs::read_to_string("/proc/self/stat")
                .ok()
                .and_then(|text| cpu_seconds(&text)),
            resident_bytes: fs::read_to_string("/proc/self/status")
                .ok()
                .and_then(|text| resident_bytes(&text)),
            // Without the one of the directory.
            open_descriptors: open.map(|open| (open.count() as u64).saturating_sub(1)),
            descriptors_max: getrlimit(Resource::Nofile).current,
        }
    }

    pub(super) fn show(&self, page: &mut Page) {
        if let Some(seconds) = self.cpu_seconds {
            page.counter_of_fractions(
                "process_cpu_seconds",
                "Processor time of the process, of its own and of the system for it",
                seconds,
            );
        }
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory of the process that is in RAM",
                self.resident_bytes,
            ),
            (
                "process_open_fds",
                "File descriptors that are open",
                self.open_descriptors,
            ),
            (
                "process_max_fds",
                "The limit of file descriptors",
                self.descriptors_max,
            ),
        ] {
            if let Some(value) = value {
                page.gauge(name, help, number(value));
            }
        }
    }
}

/// The sum of `utime` and `stime`. The name of the program stands in brackets before them, and may contain spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(number(ticks()? + ticks()?) / TICKS_PER_SECOND)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 900 0 3 0 250 50 0 0 20 0 4 0 100 1 2";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        let status = "Name:\tboathouse\nVmRSS:\t   2048 kB\nThreads:\t4\n";
        assert_eq!(resident_bytes(status), Some(2 * 1024 * 1024));
        assert_eq!((cpu_seconds("7"), resident_bytes("")), (None, None));
    }
}
