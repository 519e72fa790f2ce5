//! Logs that cannot be written, or that nobody reads, and talk that nobody hears: lines are lost, and nothing else.

use std::fs::{File, OpenOptions};
use std::io::{PipeReader, Read as _};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::lab::Lab;
use crate::program::{Program, command, free_address};
use crate::support::Call;

/// More than a pipe holds and than lines may wait: some 100 bytes each.
const REQUESTS: usize = 300;

struct Server {
    lab: Lab,
    program: Program,
    address: SocketAddr,
}

impl Server {
    async fn start(stderr: impl Into<Stdio>) -> Self {
        let address = free_address();
        let lab = Lab::configured(&format!(
            "http: {{addr: '{address}'}}\nstorage: {{filesystem: {{rootdirectory: DIR/data}}}}\n"
        ));
        let mut program = Program::start_with(stderr, &mut lab.command(&["serve"]));
        assert!(program.answers(address).await, "it ended");
        Self {
            lab,
            program,
            address,
        }
    }

    async fn serves(&self, times: usize) {
        for _ in 0..times {
            // The path makes the line long.
            let path = format!("/v2/{}/tags/list", "long/".repeat(40) + "name");
            let call = Call::to(self.address, Method::GET, &path);
            assert_eq!(call.send().await.status, StatusCode::NOT_FOUND);
        }
    }

    fn lost_lines(&self) -> u64 {
        let status = self.lab.status();
        status["log_lines_lost"].as_u64().unwrap()
    }

    /// Waits until the thread that writes has given so many lines up.
    async fn has_lost(&self, lines: u64) {
        for _ in 0..600 {
            if self.lost_lines() >= lines {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("lost lines are not counted");
    }
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_log_disk_stops_nothing_from_the_start_on() {
    let server = Server::start(full()).await;
    server.serves(3).await;
    server.has_lost(3).await;
    server.program.end();
}

#[tokio::test]
async fn a_log_reader_that_has_gone_stops_nothing() {
    let (reader, writer) = std::io::pipe().unwrap();
    let server = Server::start(writer).await;
    server.serves(1).await;
    drop(reader);
    server.serves(3).await;
    server.has_lost(3).await;
    server.program.end();
}

#[tokio::test]
async fn a_log_reader_that_does_not_read_stops_nothing_and_hears_later_what_it_missed() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let server = Server::start(writer).await;
    for _ in 0..40 {
        server.serves(REQUESTS / 3).await;
        if server.lost_lines() > 0 {
            break;
        }
    }
    let lost = server.lost_lines();
    assert!(lost > 0, "the pipe takes everything");
    let text = std::thread::spawn(move || read_until(&mut reader, "log lines were lost"));
    while !text.is_finished() {
        server.serves(1).await;
    }
    let text = text.join().unwrap();
    assert!(text.contains("log lines were lost"), "{text}");
    drop(server);
}

fn read_until(reader: &mut PipeReader, wanted: &str) -> String {
    let mut text = String::new();
    let mut buffer = vec![0; 64 * 1024];
    while !text.contains(wanted) {
        match reader.read(&mut buffer).unwrap() {
            0 => break,
            count => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
        }
    }
    text
}

#[test]
fn a_command_whose_reader_has_gone_is_quiet() {
    let lab = Lab::configured("storage: {filesystem: {rootdirectory: DIR/data}}\n");
    let config = &*lab.place("boathouse.yml");
    for line in [
        &["check", "--config", config][..],
        &["user", "list", "--config", config],
        &["completions", "bash"],
        &[
            "acl", "explain", "ann", "team/app", "pull", "--config", config,
        ],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(line, &[])
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let talk = String::from_utf8(output.stderr).unwrap();
        assert!(
            !talk.contains("error") && !talk.contains("panic"),
            "{line:?}: {talk}"
        );
        assert_eq!(output.status.code(), Some(0), "{line:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn talk_that_cannot_be_written_changes_no_exit_code() {
    let lab = Lab::configured(
        "storage: {filesystem: {rootdirectory: DIR/data}}\nusers_file: DIR/users.yml\nacl: []\n",
    );
    let code = |line: &[&str]| {
        let mut command = lab.command(line);
        let status = command.stdout(Stdio::null()).stderr(full()).status();
        status.unwrap().code()
    };
    assert_eq!(code(&["check"]), Some(0));
    assert_eq!(code(&["user", "add", "ann"]), Some(0));
    assert_eq!(code(&["user", "add", "ann"]), Some(1), "there already");
    assert_eq!(code(&["user", "remove", "ann"]), Some(0));
    // Data that cannot be written are a failure.
    let status = lab
        .command(&["check"])
        .stdout(full())
        .stderr(Stdio::null())
        .status();
    assert_eq!(status.unwrap().code(), Some(1));
}
