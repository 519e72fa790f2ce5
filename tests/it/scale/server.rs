//! A registry under measurement: when it answers, when its index is complete, what it takes of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::crash::client::Client;
use crate::crash::process::{Process, Program};

/// What Boathouse logs when every list may come from the index.
const IS_COMPLETE: &str = "the index is up to the store";

/// Longest wait for a server that starts, or ends.
const START_TIME_MAX: Duration = Duration::from_mins(2);
/// Longest wait for a complete index: 1,000,000 links from a cold, slow disk.
const FILL_TIME_MAX: Duration = Duration::from_hours(1);

/// In which Linux tells processor time to programs, on every machine.
const TICKS_PER_SECOND: u64 = 100;

/// A running server, killed when dropped.
pub(super) struct Server {
    process: Process,
    lab: PathBuf,
    began: Instant,
    /// From the start of the process to the first answer.
    pub(super) first_answer: Duration,
}

/// What a process takes, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// Resident now.
    pub(super) resident: u64,
    /// The most that was.
    pub(super) peak: u64,
}

impl Server {
    /// Starts it over `<lab>/data`, and waits for its first answer.
    pub(super) async fn start(program: &Program, lab: &Path) -> Self {
        let began = Instant::now();
        let mut process = Process::spawn(program, lab);
        loop {
            let answer = Client::of(process.address).get("/v2/").await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                break;
            }
            let is_late = began.elapsed() > START_TIME_MAX;
            assert!(
                process.ended().is_none() && !is_late,
                "{} does not start:\n{}",
                program.path.display(),
                log(lab)
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self {
            process,
            lab: lab.to_owned(),
            began,
            first_answer: began.elapsed(),
        }
    }

    /// Waits until the index is complete: the time from the start of the process, and how many repositories were read.
    pub(super) async fn complete_index(&mut self) -> (Duration, usize) {
        loop {
            let log = log(&self.lab);
            if let Some(line) = log.lines().find(|line| line.contains(IS_COMPLETE)) {
                let took = self.began.elapsed();
                let reread = line
                    .split(' ')
                    .find_map(|word| word.strip_prefix("reread="));
                let reread = reread.and_then(|number| number.parse().ok());
                return (
                    took,
                    reread.unwrap_or_else(|| panic!("no `reread=` in {line}")),
                );
            }
            assert!(
                self.process.ended().is_none() && self.began.elapsed() < FILL_TIME_MAX,
                "the index does not become complete:\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) fn client(&self, patience: Duration) -> Client {
        Client::patient(self.process.address, patience)
    }

    pub(super) fn memory(&self) -> Memory {
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(&path).expect(&path);
        let bytes_of = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
            let kibibytes: Option<u64> = kibibytes.and_then(|number| number.parse().ok());
            kibibytes.unwrap_or_else(|| panic!("no {field} in {path}")) * 1024
        };
        Memory {
            resident: bytes_of("VmRSS:"),
            peak: bytes_of("VmHWM:"),
        }
    }

    /// Processor time so far.
    pub(super) fn processor_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.process.id());
        let stat = fs::read_to_string(&path).expect(&path);
        // The fields behind the name in brackets; utime and stime are the 14th and 15th of all.
        let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
        let ticks = rest.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.map(|field| field.parse::<u64>().expect(&path)).sum();
        Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
    }

    /// Ends it in order, and tells how long that took.
    pub(super) async fn stop(mut self) -> Duration {
        let id = i32::try_from(self.process.id()).expect("a process id");
        let id = Pid::from_raw(id).expect("a process id");
        let asked = Instant::now();
        kill_process(id, Signal::TERM).expect("its own child");
        while self.process.ended().is_none() {
            assert!(
                asked.elapsed() < START_TIME_MAX,
                "it does not end:\n{}",
                log(&self.lab)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        asked.elapsed()
    }
}

fn log(lab: &Path) -> String {
    fs::read_to_string(lab.join("log")).unwrap_or_default()
}
