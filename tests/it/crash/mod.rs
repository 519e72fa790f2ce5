//! A server that is killed, or whose power is cut, in the middle of its work loses nothing that it acknowledged
//! (DESIGN D2).
//!
//! The server is a process of its own; this process is its client, and keeps the list of what was acknowledged. A module
//! of the tests and not a program of its own, so that `cargo test` runs a few rounds and no helper is ever shipped;
//! `tests/crash/run` and `tests/crash/power-cut` run the same code for longer, and say what is promised and modelled.

#![expect(clippy::print_stdout, reason = "the verdict is printed")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

mod backup;
mod drive;
mod ledger;
pub(crate) mod process;
mod verdict;
mod workload;

use crate::program::Ran;
use crate::random::Random;
use drive::{Drive, DriveCache};
use ledger::Ledger;
use process::{Executable, Process};
use verdict::{Crash, Tally, judge, judge_keys};

/// After so many rounds another tree is begun: everything is read back after every round, so a tree that grew for
/// hundreds of rounds would make them slower and slower.
const ROUNDS_PER_TREE: u64 = 20;

/// `BOATHOUSE_CRASH_ROUNDS`, `BOATHOUSE_CRASH_SEED`.
struct Run {
    rounds: u64,
    random: Random,
    executable: Executable,
    tally: Tally,
    began: tokio::time::Instant,
}

impl Run {
    fn of_environment(rounds: u64) -> Self {
        let number = |name| {
            std::env::var(name)
                .ok()
                .map(|text| text.parse().expect(name))
        };
        // Another one each time, and printed, so that over many runs many are tried.
        let seed = number("BOATHOUSE_CRASH_SEED").unwrap_or_else(|| {
            let digits = uuid_digits();
            u64::from_str_radix(&digits, 16).expect("hexadecimal digits") >> 16
        });
        println!("seed {seed}");
        Self {
            rounds: number("BOATHOUSE_CRASH_ROUNDS").unwrap_or(rounds),
            random: Random::of_seed(seed),
            executable: Executable::boathouse(),
            tally: Tally::default(),
            began: tokio::time::Instant::now(),
        }
    }

    /// Every fourth start is killed as well, before the one that is read from.
    async fn start_again(&mut self, lab: &Path) -> Process {
        if self.random.below(4) == 0 {
            let after = Duration::from_millis(self.random.below(40) as u64);
            Process::start_and_kill(&self.executable, lab, after).await;
        }
        Process::start(&self.executable, lab).await
    }

    /// The index of the running server is what a fresh reading of the store gives.
    fn judge_index(&mut self, lab: &Path) {
        if let Some(differences) = self.executable.index_differences(lab) {
            self.tally.wrong(&format!("the index: {differences}"));
        }
    }

    /// Ends the run with its verdict.
    fn end(self) {
        let (in_flight, sessions) = (self.tally.in_flight, self.tally.sessions);
        println!("in flight at the crash: {in_flight} changes, {sessions} upload sessions");
        println!("{}", self.tally);
        println!("{:.1} s", self.began.elapsed().as_secs_f64());
        assert!(self.tally.acknowledged > 0, "nothing was acknowledged");
        assert_eq!(
            (self.tally.lost, self.tally.wrong),
            (0, 0),
            "{}",
            self.tally
        );
    }
}

/// 16 digits that are different each time.
fn uuid_digits() -> String {
    use std::hash::{BuildHasher, Hasher};
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    format!("{:016x}", hasher.finish())
}

#[tokio::test]
async fn what_was_acknowledged_survives_sigkill() {
    let mut run = Run::of_environment(3);
    while run.tally.rounds < run.rounds {
        let lab = tempfile::tempdir().expect("a directory");
        let ledger = Arc::new(Ledger::default());
        let mut server = Process::start(&run.executable, lab.path()).await;
        for _ in 0..ROUNDS_PER_TREE.min(run.rounds - run.tally.rounds) {
            run.tally.rounds += 1;
            if run.random.below(4) == 0 {
                // What a start would find out by itself must be so without one.
                push_a_few(server.address, &ledger, &mut run.random).await;
                run.judge_index(lab.path());
            }
            push_until_killed(server, &ledger, &mut run.random).await;
            server = run.start_again(lab.path()).await;
            judge(server.address, &ledger, Crash::Kill, &mut run.tally).await;
            run.judge_index(lab.path());
        }
        run.tally.acknowledged += ledger.acknowledged();
        server.kill();
        if let Some(other) = std::env::var_os("BOATHOUSE_CRASH_DOCKER_REGISTRY") {
            judge_by_docker_registry(
                Executable::docker_registry(other.into()),
                lab.path(),
                &ledger,
                &mut run.tally,
            )
            .await;
        }
    }
    run.end();
}

#[tokio::test]
#[ignore = "needs root and loop devices: tests/crash/power-cut"]
async fn what_was_acknowledged_survives_a_power_cut() {
    let mut run = Run::of_environment(10);
    while run.tally.rounds < run.rounds {
        let place = tempfile::tempdir().expect("a directory");
        let drive = Drive::make(place.path(), &mut run.random);
        let ledger = Arc::new(Ledger::default());
        let mut server = Process::start(&run.executable, &drive.lab()).await;
        for _ in 0..ROUNDS_PER_TREE.min(run.rounds - run.tally.rounds) {
            run.tally.rounds += 1;
            push_until_killed(server, &ledger, &mut run.random).await;
            if run.random.below(4) == 0 {
                // What a process that was killed has done, but not synced, is there for the next one to build upon.
                server = Process::start(&run.executable, &drive.lab()).await;
                push_until_killed(server, &ledger, &mut run.random).await;
            }
            let caches = [DriveCache::Kept, DriveCache::Lost];
            drive.cut(caches[run.random.below(caches.len())], &mut run.random);
            server = run.start_again(&drive.lab()).await;
            judge(server.address, &ledger, Crash::PowerCut, &mut run.tally).await;
            run.judge_index(&drive.lab());
        }
        run.tally.acknowledged += ledger.acknowledged();
        server.kill();
    }
    run.end();
}

/// Every other round many clients push, and the kill comes at any moment. In the others it comes right after an
/// acknowledgement to a single client, when no other request's sync can have made it durable by accident.
async fn push_until_killed(server: Process, ledger: &Arc<Ledger>, random: &mut Random) {
    if random.below(2) == 0 {
        let mut workers = JoinSet::new();
        for _ in 0..8 {
            let (ledger, random) = (Arc::clone(ledger), random.fork());
            workers.spawn(workload::work(server.address, ledger, random, u64::MAX));
        }
        let pause = 20 + random.below(250) as u64;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        server.kill();
        workers.join_all().await;
    } else {
        push_a_few(server.address, ledger, random).await;
        server.kill();
    }
}

/// A single client, until a few more changes were acknowledged to it.
async fn push_a_few(address: SocketAddr, ledger: &Arc<Ledger>, random: &mut Random) {
    let enough = ledger.acknowledged() + 1 + random.below(12) as u64;
    workload::work(address, Arc::clone(ledger), random.fork(), enough).await;
}

/// The real docker-registry serves the tree, and its collector walks it: a verdict that is not our own code's.
async fn judge_by_docker_registry(
    executable: Executable,
    lab: &Path,
    ledger: &Arc<Ledger>,
    tally: &mut Tally,
) {
    let other = Process::start(&executable, lab).await;
    judge_keys(other.address, ledger, None, tally).await;
    other.kill();
    let mut collect = executable.command(&["garbage-collect", "--dry-run"], lab);
    let collect = Ran::of(&mut collect, "");
    let told = (collect.out + &collect.talk).to_lowercase();
    let complains = ["error", "failed", "panic"]
        .iter()
        .any(|word| told.contains(word));
    if collect.code != Some(0) || complains {
        tally.wrong(&format!("garbage-collect --dry-run: {told}"));
    }
}
