//! A backup that is made while clients push, and while server or backup are killed, holds everything that was acknowledged
//! before it began, whole.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::ledger::Ledger;
use super::process::Process;
use super::verdict::judge_copy;
use super::{Run, workload};
use crate::program::{Program, Ran, ran};

/// Clients that push and delete meanwhile.
const CLIENTS: usize = 6;

/// What is killed while the backup is made.
#[derive(Debug, Clone, Copy)]
enum Killed {
    Nothing,
    Server,
    Backup,
}

#[tokio::test]
async fn what_was_acknowledged_before_a_backup_began_is_in_it() {
    let mut run = Run::of_environment(6);
    let kills = [Killed::Nothing, Killed::Server, Killed::Backup];
    for round in 0..run.rounds {
        run.tally.rounds += 1;
        let lab = tempfile::tempdir().expect("a directory");
        // On another disk, so that blobs are copied; on the same one in every fourth round.
        let other = tempfile::tempdir_in("/dev/shm")
            .ok()
            .filter(|_| round % 4 != 3);
        let shelf = other.unwrap_or_else(|| tempfile::tempdir().expect("a directory"));
        let killed = kills[(round % 3) as usize];
        let moment =
            copy_while_pushing(&mut run, lab.path(), &shelf.path().join("b"), killed).await;
        let copy = lab.path().join("copy");
        let copy_name = copy.to_str().expect("a plain path");
        let backup = shelf.path().join("b");
        ran(
            &[
                "restore",
                backup.to_str().expect("a plain path"),
                "--dir",
                copy_name,
            ],
            &[],
            "",
        )
        .fine();
        let found = ran(&["check", "--data", "--dir", copy_name], &[], "");
        let found = found.out + &found.talk;
        if found.contains("bytes of") {
            run.tally
                .wrong(&format!("{killed:?}: a link without its bytes: {found}"));
        }
        let (ledger, moment) = moment;
        let server = Process::start(&run.executable, &copy).await;
        judge_copy(server.address, &ledger, moment, &mut run.tally).await;
        server.kill();
        run.tally.acknowledged += ledger.acknowledged();
    }
    run.end();
}

/// Makes a backup while clients push; returns what they know, and when the backup began.
async fn copy_while_pushing(
    run: &mut Run,
    lab: &Path,
    backup: &Path,
    killed: Killed,
) -> (Arc<Ledger>, u64) {
    let ledger = Arc::new(Ledger::default());
    let server = Process::start(&run.executable, lab).await;
    let mut workers = JoinSet::new();
    for _ in 0..CLIENTS {
        let (ledger, random) = (Arc::clone(&ledger), run.random.fork());
        workers.spawn(workload::work(server.address, ledger, random, u64::MAX));
    }
    pause(run, 100, 400).await;
    let moment = ledger.now();
    let line = ["backup", backup.to_str().expect("a plain path"), "--config"];
    let mut command = run.executable.command(&line, lab);
    let mut program = Program::start(&lab.join("backup.log"), &mut command);
    let mut server = Some(server);
    match killed {
        Killed::Nothing => {}
        Killed::Server => {
            pause(run, 0, 150).await;
            server.take().expect("it runs").kill();
        }
        Killed::Backup => {
            pause(run, 0, 150).await;
            program.kill();
        }
    }
    let ended = loop {
        if let Some(ended) = program.ended() {
            break ended;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(
        ended.success() || !matches!(killed, Killed::Nothing),
        "{}",
        program.log()
    );
    // Pushes go on for a moment, and end at any.
    pause(run, 0, 100).await;
    if run.random.below(2) == 0
        && let Some(server) = server.take()
    {
        server.kill();
        workers.abort_all();
    }
    if !ended.success() {
        // What was interrupted goes on: beside the server, or alone.
        let again = Ran::of(&mut run.executable.command(&line, lab), "");
        again.fine();
    }
    if let Some(server) = server {
        server.kill();
    }
    workers.abort_all();
    while workers.join_next().await.is_some() {}
    for complaint in ledger.take_complaints() {
        run.tally.wrong(&complaint);
    }
    (ledger, moment)
}

async fn pause(run: &mut Run, least_ms: u64, more_ms: usize) {
    let pause = least_ms + run.random.below(more_ms) as u64;
    tokio::time::sleep(Duration::from_millis(pause)).await;
}
