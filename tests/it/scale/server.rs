//! A registry under measurement: when it answers, when its index is complete, what it takes of the machine.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::Client;
use crate::crash::process::{Executable, Process};
use crate::program::Memory;

/// What Boathouse logs when every list may come from the index.
const IS_COMPLETE: &str = "the index is up to the store";

/// Longest wait for a complete index: 1,000,000 links from a cold, slow disk.
const FILL_TIME_MAX: Duration = Duration::from_hours(1);

/// A running server, killed when dropped.
pub(super) struct Server {
    process: Process,
    began: Instant,
    /// From the start of the process to the first answer.
    pub(super) first_answer: Duration,
}

impl Server {
    /// Starts it over `<lab>/data`, and waits for its first answer.
    pub(super) async fn start(executable: &Executable, lab: &Path) -> Self {
        let began = Instant::now();
        let mut process = Process::spawn(executable, lab);
        assert!(
            process.program.answers(process.address).await,
            "{} does not start:\n{}",
            executable.path.display(),
            process.program.log()
        );
        Self {
            process,
            began,
            first_answer: began.elapsed(),
        }
    }

    /// Waits until the index is complete: the time from the start of the process, and how many repositories were read.
    pub(super) async fn complete_index(&mut self) -> (Duration, usize) {
        let complete = self.process.program.says_within(FILL_TIME_MAX, IS_COMPLETE);
        let line = complete.await;
        let took = self.began.elapsed();
        let reread = line
            .split(' ')
            .find_map(|word| word.strip_prefix("reread="));
        let reread = reread.and_then(|number| number.parse().ok());
        let reread = reread.unwrap_or_else(|| panic!("no `reread=` in {line}"));
        (took, reread)
    }

    pub(super) fn client(&self) -> Client {
        self.process.client()
    }

    pub(super) fn memory(&self) -> Memory {
        self.process.program.memory().expect("Linux")
    }

    pub(super) fn processor_time(&self) -> Duration {
        self.process.program.processor_time()
    }

    /// Ends it in order; gives how long that took.
    pub(super) fn stop(mut self) -> Duration {
        let asked = Instant::now();
        // Another registry may end by the signal itself.
        self.process.program.terminate();
        asked.elapsed()
    }
}
