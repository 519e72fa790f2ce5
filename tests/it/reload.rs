//! A reload that takes long.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use rustix::process::Signal;

use crate::lab::{Lab, account};
use crate::program::Program;

/// More than an answer takes on a busy machine.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// Waits until somebody reads the FIFO, and opens it for writing.
async fn opened_by_a_reader(fifo: &Path) -> File {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    for _ in 0..4_000 {
        match options.open(fifo) {
            Ok(file) => return file,
            Err(error) => assert_eq!(
                error.raw_os_error(),
                Some(rustix::io::Errno::NXIO.raw_os_error())
            ),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("nobody reads the configuration");
}

/// Connections are accepted, and requests answered.
async fn answers(program: &Program) {
    for _ in 0..4 {
        let answer = tokio::time::timeout(ANSWER_TIME, program.get("/v2/").send());
        answer
            .await
            .expect("a reload holds up the server")
            .expect(StatusCode::OK);
    }
}

/// `docker_auth` watches its file, so people change it and send no signal.
#[tokio::test]
async fn users_of_a_config_file_that_was_changed_are_taken_up_without_a_signal() {
    let lab = Lab::open();
    let users = |names: &[&str]| {
        let users: Vec<_> = names.iter().map(|name| account(name, "secret")).collect();
        let rules = "acl: [{match: {}, actions: ['*']}]";
        lab.write(
            "auth.yml",
            format!("users: {{{}}}\n{rules}\n", users.join(", ")),
        );
    };
    users(&["ann", "bob"]);
    let mut command = lab.command(&["serve"]);
    command.arg("--config").arg(lab.path("auth.yml"));
    let mut program = lab.serve_by(&mut command).await;
    program.token("ann", "secret").await.expect("ann logs in");
    users(&["bob"]);
    program
        .says("users, rules and certificates were read again")
        .await;
    let removed = program.token("ann", "secret").await;
    assert_eq!(removed, Err(401), "a removed account may log in");
    // A mistake changes nothing.
    lab.write(
        "auth.yml",
        "users: {ann: {}}\nacl: [{match: {nmae: a}, actions: []}]\n",
    );
    let said = program
        .says("a configuration file has changed: nothing was changed")
        .await;
    assert!(said.contains("auth.yml:2"), "{said}");
    program.token("bob", "secret").await.expect("bob logs in");
    assert_eq!(program.token("ann", "secret").await, Err(401));
    users(&["ann"]);
    while program.token("ann", "secret").await.is_err() {
        assert!(program.ended().is_none());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = program.end();
    assert_eq!(
        log.matches("a configuration file has changed").count(),
        1,
        "{log}"
    );
}

#[tokio::test]
async fn a_reload_that_is_held_up_holds_up_nothing_else() {
    let lab = Lab::open();
    // With one thread for all requests, one that waits for a file would show.
    let mut command = lab.command(&["serve"]);
    let mut program = lab.serve_by(command.env("TOKIO_WORKER_THREADS", "1")).await;
    program.takes_commands(&lab.socket()).await;
    let config = lab.path("boathouse.yml");
    let text = fs::read(&config).unwrap();
    fs::remove_file(&config).unwrap();
    // Whoever reads it waits until it is written.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &config,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();

    program.signal(Signal::HUP);
    let mut fifo = opened_by_a_reader(&config).await;
    answers(&program).await;
    fifo.write_all(&text).unwrap();
    drop(fifo);
    program.says("were read again").await;

    let mut socket = UnixStream::connect(lab.socket()).unwrap();
    socket.write_all(b"{\"request\":\"reload\"}\n").unwrap();
    let mut fifo = opened_by_a_reader(&config).await;
    answers(&program).await;
    socket.set_nonblocking(true).unwrap();
    let early = socket.read(&mut [0; 100]).unwrap_err();
    assert_eq!(early.kind(), ErrorKind::WouldBlock, "it was not done yet");
    socket.set_nonblocking(false).unwrap();
    fifo.write_all(&text).unwrap();
    drop(fifo);
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "{\"answer\":\"reloaded\"}\n");
}

#[tokio::test]
async fn a_usual_mistake_is_said_at_the_start_and_again_only_once_it_is_new() {
    const ONE_LEVEL: &str = "`public/*` does not match";
    const REDACTED: &str = "users.ann.password: not a bcrypt hash";
    const NOBODY: &str = "there is no account `nobody`";
    let config = "http: {addr: 'ADDRESS'}\n\
        storage: {filesystem: {rootdirectory: DIR/data}}\n\
        users: {ann: {password: <redacted>}, '': {}}\n\
        acl:\n\
        - {match: {account: '', name: 'public/*'}, actions: [pull]}\n";
    let lab = Lab::configured(config);
    let mut program = lab.serve().await;
    let count = |program: &Program, text: &str| program.log().matches(text).count();
    let mut reloads = 0;
    let mut reload = async |program: &mut Program| {
        program.signal(Signal::HUP);
        reloads += 1;
        while count(program, "were read again") < reloads {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    for text in [ONE_LEVEL, REDACTED] {
        assert_eq!(count(&program, text), 1, "{}", program.log());
        assert!(count(&program, "WARN") > 0);
    }
    reload(&mut program).await;
    let more = format!("{config}- {{match: {{account: nobody}}, actions: [pull]}}\n");
    lab.configure("boathouse.yml", &more);
    reload(&mut program).await;
    reload(&mut program).await;
    for text in [ONE_LEVEL, REDACTED, NOBODY] {
        assert_eq!(count(&program, text), 1, "{text}\n{}", program.log());
    }
    // What was mended and is wrong again is new.
    lab.configure("boathouse.yml", config);
    reload(&mut program).await;
    lab.configure("boathouse.yml", &more);
    reload(&mut program).await;
    assert_eq!(count(&program, NOBODY), 2, "{}", program.log());
    program.end();
}

/// Generated rules make the same mistake thousands of times; the log has room for other things.
#[tokio::test]
async fn of_thousands_of_mistakes_the_log_has_a_few() {
    let rules = (0..5_000).map(|number| {
        format!(
            "- {{match: {{account: 'gone-{number}', name: 'team-{number}/*'}}, actions: [pull]}}\n"
        )
    });
    let config = "http: {addr: 'ADDRESS'}\n\
        storage: {filesystem: {rootdirectory: DIR/data}}\n\
        users: {}\nacl:\n";
    let lab = Lab::configured(&(config.to_owned() + &rules.collect::<String>()));
    let program = lab.serve().await;
    let log = program.end();
    assert_eq!(log.matches("there is no account").count(), 20, "{log}");
    assert!(log.contains("more=4980"), "{log}");
}
