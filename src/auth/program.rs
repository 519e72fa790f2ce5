//! A program that decides: it gets its input on stdin, and its exit status is the answer.
//!
//! Source: `docker_auth`'s `ext_auth` and `ext_authz`. Must not know what is decided. Invariants: the input, which may hold a
//! password, is in no argument, variable, file or log, and neither is what the program writes; a program that is not done in
//! time is killed with all processes of its group, and none is left as a zombie.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, join, select};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::fair_queue::FairQueue;
use crate::clock::Clock;

/// A program that asks a directory answers within a second. A login that takes longer than this looks dead to people, and
/// clients begin to give up.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Labels are at most 4 KiB; a program that writes more than this is not the one that was meant.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// Programs of one kind that run at a time. Most of them wait for another machine, so more than there are cores.
const AT_ONCE: usize = 8;

/// Questions that wait for a turn, in all and of one client: as many as wait for their passwords to be compared.
pub(super) const WAITING_MAX: usize = 1_024;
pub(super) const WAITING_PER_CLIENT_MAX: usize = 32;

/// A program, and how often it may run.
pub struct Program {
    key: &'static str,
    command: PathBuf,
    arguments: Vec<String>,
    clock: Arc<dyn Clock>,
    turns: FairQueue,
}

/// How a program ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its exit status; `None` if a signal ended it.
    pub(super) status: Option<i32>,
    /// What it wrote to stdout.
    pub(super) output: Vec<u8>,
}

impl Program {
    /// The program `command`, an absolute path, that the section `key` of the configuration names.
    pub fn new(
        key: &'static str,
        command: PathBuf,
        arguments: Vec<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            key,
            command,
            arguments,
            clock,
            turns: FairQueue::new(AT_ONCE, WAITING_MAX, WAITING_PER_CLIENT_MAX),
        }
    }

    /// Where questions wait for their turns.
    pub(super) fn turns(&self) -> &FairQueue {
        &self.turns
    }

    /// What went wrong, for the log.
    pub(super) fn trouble(&self, what: impl fmt::Display) -> String {
        format!("{}: {what}", self.key)
    }

    /// What an exit status means that is none of the answers.
    pub(super) fn unexpected(&self, status: Option<i32>) -> String {
        match status {
            Some(status) => self.trouble(format_args!(
                "the program ended with status {status}, which is an error"
            )),
            None => self.trouble("a signal ended the program"),
        }
    }

    /// Runs it with `input`. The error is for the log. The caller has a turn.
    pub(super) async fn run(&self, input: &[u8]) -> Result<Ended, String> {
        let spawned = Command::new(&self.command)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A script that traces itself writes the password there.
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let running = spawned.map_err(|error| {
            let command = self.command.display();
            self.trouble(format_args!("cannot start {command}: {error}"))
        })?;
        let ended = Box::pin(talk(Running(running), input));
        match select(ended, self.clock.sleep(TIME_MAX)).await {
            Either::Left((ended, _)) => ended.map_err(|what| self.trouble(what)),
            // What runs is dropped here, and killed by that.
            Either::Right(_) => Err(self.trouble(format_args!(
                "the program has not decided within {} s and was killed",
                TIME_MAX.as_secs()
            ))),
        }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Program")
            .field("key", &self.key)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// A program that was started. If it has not ended when this is dropped, its process group is killed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // There is an id until the process was waited for; until then no other process has it.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // It may have ended by itself. The runtime waits for it.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn talk(mut running: Running, input: &[u8]) -> Result<Ended, String> {
    let (stdin, stdout) = (running.0.stdin.take(), running.0.stdout.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program need not read its input.
            let _ = stdin.write_all(input).await;
        }
    };
    let read = async {
        let mut output = Vec::new();
        if let Some(stdout) = stdout {
            let limit = OUTPUT_BYTES_MAX as u64 + 1;
            stdout.take(limit).read_to_end(&mut output).await?;
        }
        Ok::<_, std::io::Error>(output)
    };
    let ((), output) = join(write, read).await;
    let output = output.map_err(|error| format!("cannot read what the program writes: {error}"))?;
    if output.len() > OUTPUT_BYTES_MAX {
        return Err(format!(
            "the program wrote more than {OUTPUT_BYTES_MAX} bytes and was killed"
        ));
    }
    // Last: a process that was waited for can no longer be killed safely.
    let status = running.0.wait().await;
    let status = status.map_err(|error| format!("cannot wait for the program: {error}"))?;
    Ok(Ended {
        status: status.code(),
        output,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::clock::{ManualClock, SystemClock};

    fn shell(script: &str, clock: Arc<dyn Clock>) -> Program {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        Program::new("ext_auth", "/bin/sh".into(), arguments, clock)
    }

    async fn run(script: &str, input: &[u8]) -> Result<Ended, String> {
        let program = shell(script, Arc::new(SystemClock::new()));
        program.run(input).await
    }

    #[tokio::test]
    async fn a_program_gets_its_input_and_its_status_is_the_answer() {
        let long = "a".repeat(200_000);
        for (script, input, status, output) in [
            ("cat", "alice secret", Some(0), "alice secret"),
            ("exit 2", "not read", Some(2), ""),
            ("wc -c | tr -d ' \\n'", &long, Some(0), "200000"),
            ("exec 0<&-; exit 3", &long, Some(3), ""),
            ("kill -9 $$", "", None, ""),
        ] {
            let expected = Ended {
                status,
                output: output.as_bytes().to_vec(),
            };
            let ended = run(script, input.as_bytes()).await;
            assert_eq!(ended, Ok(expected), "{script}");
        }
    }

    #[tokio::test]
    async fn the_input_is_in_no_argument_and_no_variable() {
        let script = "env; tr '\\0' ' ' < /proc/$$/cmdline; ps -o args= -p $$; exit 0";
        let ended = run(script, b"alice needle").await.unwrap();
        let output = String::from_utf8_lossy(&ended.output);
        assert!(
            output.contains("PATH=") && !output.contains("needle"),
            "{output}"
        );
    }

    #[tokio::test]
    async fn a_program_that_writes_without_end_is_killed() {
        let error = run("cat /dev/zero", b"").await.unwrap_err();
        assert!(error.contains("more than 65536 bytes"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_started_is_an_error() {
        let clock = Arc::new(SystemClock::new());
        let program = Program::new("ext_authz", "/no/such".into(), Vec::new(), clock);
        let error = program.run(b"").await.unwrap_err();
        assert!(
            error.starts_with("ext_authz: cannot start /no/such: "),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children_and_leaves_no_zombie() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let script = format!(
            "sleep 1000 & echo $$ $! > {0}.new; mv {0}.new {0}; wait",
            pids.display()
        );
        let clock = ManualClock::at_unix_secs(1_795_500_000);
        let program = shell(&script, Arc::new(clock.clone()));
        let question = tokio::spawn(async move { program.run(b"").await });
        while !pids.exists() {
            tokio::task::yield_now().await;
        }
        clock.advance(TIME_MAX);
        let error = question.await.unwrap().unwrap_err();
        assert!(error.contains("has not decided within 10 s"), "{error}");
        let pids = fs::read_to_string(pids).unwrap();
        for pid in pids.split_whitespace() {
            let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
            // The child of the child belongs to the machine's first process, which may take its time to wait for it.
            let is_there =
                || rustix::process::test_kill_process(pid).is_ok() && !is_zombie_of_another(pid);
            for _ in 0..20_000 {
                if !is_there() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(
                !is_there(),
                "a process of a program that was killed is left"
            );
        }
    }

    fn is_zombie_of_another(pid: Pid) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        let stat = stat.unwrap_or_default();
        let mut fields = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let (state, parent) = (fields.next(), fields.next());
        state == Some("Z") && parent != Some(&std::process::id().to_string())
    }
}
