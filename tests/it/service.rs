//! The program under a service manager: what it reports, sockets that it is given, a reload that fails, secrets as files.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use http::{Method, StatusCode};

use crate::lab::{Lab, PASSWORD};
use crate::program::{MISCONFIGURED, Program, Ran, command_of};
use crate::support::Call;

/// Longest wait for one message.
const MESSAGE_TIME: Duration = Duration::from_mins(2);
/// Starts a program with its standard input as its first passed socket, as systemd does.
const PASS_SOCKET: &str = r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&0 </dev/null"#;

/// The service manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn of(lab: &Lab) -> Self {
        let socket = UnixDatagram::bind(lab.path("notify")).unwrap();
        socket.set_read_timeout(Some(MESSAGE_TIME)).unwrap();
        Self(socket)
    }

    /// The next message that has `text`.
    fn receives(&self, text: &str) -> String {
        let mut buffer = [0; 4_096];
        loop {
            let length = self.0.recv(&mut buffer);
            let length = length.unwrap_or_else(|error| panic!("no message with `{text}`: {error}"));
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if message.contains(text) {
                return message;
            }
        }
    }
}

fn notifying(lab: &Lab) -> Command {
    let mut command = lab.command(&["serve"]);
    command.env("NOTIFY_SOCKET", lab.path("notify"));
    command
}

#[tokio::test]
async fn it_is_ready_when_commands_are_taken_and_a_reload_reports_what_became_of_it() {
    let lab = Lab::open();
    let manager = Manager::of(&lab);
    let mut program = Program::start(&lab.path("log"), &mut notifying(&lab));
    let ready = manager.receives("READY=1");
    let address = program.listens().await;
    assert_eq!(ready, format!("READY=1\nSTATUS=serving at {address}"));

    // At once: no wait for the control socket.
    lab.run(&["reload"]).fine();
    manager.receives("RELOADING=1\nMONOTONIC_USEC=");
    manager.receives("READY=1");

    let good = lab.read("boathouse.yml");
    lab.write("boathouse.yml", format!("{good}htpp: {{}}\n"));
    let said = lab.run(&["reload"]).failed();
    assert!(said.starts_with("error: nothing was reloaded\n"), "{said}");
    assert!(said.contains("boathouse.yml:3: htpp: "), "{said}");
    program.get("/v2/").send().await.expect(StatusCode::OK);
    // By the signal, the service manager learns of it.
    program.signal(rustix::process::Signal::HUP);
    let failed = manager.receives("READY=1");
    assert!(
        failed.contains("STATUS=the last reload failed: ") && failed.contains("htpp"),
        "{failed}"
    );

    lab.write(
        "boathouse.yml",
        format!("{good}compatibility: {{referrers_fallback_tags: true}}\n"),
    );
    let said = lab.run(&["reload"]);
    assert_eq!(said.code, Some(0), "{}", said.talk);
    let key = "note: compatibility.referrers_fallback_tags has changed; restart to apply it";
    assert!(said.talk.contains(key), "{}", said.talk);

    program.end();
    manager.receives("STOPPING=1\nEXTEND_TIMEOUT_USEC=");
    let said = lab.run(&["reload"]).failed();
    assert!(said.contains("no server listens at "), "{said}");
}

#[tokio::test]
async fn the_status_shows_that_the_file_of_accounts_has_a_mistake() {
    let lab = Lab::empty();
    let manager = Manager::of(&lab);
    let mut command = lab.up_command("lab", &[]);
    command.env("NOTIFY_SOCKET", lab.path("notify"));
    // Looked at three times in this time.
    command.env("WATCHDOG_USEC", "3000000");
    let mut program = Program::start(&lab.path("log"), &mut command);
    program.listens().await;
    manager.receives("READY=1");
    let good = lab.read("lab/users.yml");
    lab.write("lab/users.yml", "users: [");
    manager.receives("degraded: the file of accounts has a mistake");
    lab.write("lab/users.yml", good);
    while manager.receives("STATUS=").contains("file of accounts") {}
}

#[test]
fn a_start_with_a_broken_configuration_has_an_exit_code_of_its_own() {
    let lab = Lab::configured("htpp: {}\n");
    let manager = Manager::of(&lab);
    let said = Ran::of(&mut notifying(&lab), "").failed_with(MISCONFIGURED);
    assert!(said.contains("boathouse.yml:1: htpp: "), "{said}");
    let status = manager.receives("STATUS=not started");
    assert!(status.contains("boathouse.yml:1: htpp: "), "{status}");
}

/// The program with a socket that is bound already.
fn with_socket(lab: &Lab, socket: &TcpListener) -> Command {
    let mut command = command_of("/bin/sh");
    command.args([
        "-c",
        PASS_SOCKET,
        env!("CARGO_BIN_EXE_boathouse"),
        "serve",
        "--config",
    ]);
    command.arg(lab.path("boathouse.yml"));
    let descriptor: OwnedFd = socket.try_clone().unwrap().into();
    command.stdin(Stdio::from(descriptor));
    command
}

#[tokio::test]
async fn a_passed_socket_is_served_and_clients_wait_at_it_during_a_restart() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let lab = Lab::empty();
    fs::create_dir(lab.path("data")).unwrap();
    let place = lab.place("data");
    let config = format!(
        "http: {{addr: '{address}'}}\nstorage: {{filesystem: {{rootdirectory: {place}}}}}\n"
    );
    lab.write("boathouse.yml", &config);
    for _ in 0..2 {
        let early = tokio::spawn(Call::to(address, Method::GET, "/v2/").send());
        let mut program = Program::start(&lab.path("log"), &mut with_socket(&lab, &socket));
        assert_eq!(program.listens().await, address);
        early.await.unwrap().expect(StatusCode::OK);
        program.end();
    }
    // One that the configuration does not name is a mistake in it, not one more way in.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    drop(socket);
    let program = Program::start(&lab.path("log"), &mut with_socket(&lab, &other));
    let said = program.refuses_with(MISCONFIGURED).await;
    let other = other.local_addr().unwrap();
    assert!(
        said.contains(&format!("passed a socket at {other}")) && said.contains("hint: "),
        "{said}"
    );
}

#[test]
fn commands_see_the_credentials_that_the_server_sees() {
    let lab = Lab::configured("storage: {filesystem: {rootdirectory: DIR/data}}\n");
    lab.write("htpasswd", "ann:x\n");
    lab.write(
        "credentials/REGISTRY_AUTH_HTPASSWD_PATH",
        lab.place("htpasswd"),
    );
    lab.write("credentials/REGISTRY_AUTH_HTPASSWD_REALM", "lab\n");
    let with_credentials = |line: &[&str]| {
        let mut command = lab.command(line);
        command.env("CREDENTIALS_DIRECTORY", lab.path("credentials"));
        Ran::of(&mut command, "").fine()
    };
    let listed = with_credentials(&["user", "list", "--json"]);
    assert!(listed.contains("\"name\": \"ann\""), "{listed}");
    let checked = with_credentials(&["check", "--verbose"]);
    assert!(checked.contains("auth.htpasswd.path: "), "{checked}");
}

#[tokio::test]
async fn the_first_password_comes_from_a_credential() {
    let lab = Lab::empty();
    lab.write(
        "credentials/BOATHOUSE_ADMIN_PASSWORD",
        "from a credential\n",
    );
    // Which counts instead of the variable that the lab sets.
    let mut command = lab.up_command("dir", &[]);
    command.env("CREDENTIALS_DIRECTORY", lab.path("credentials"));
    let mut program = Program::start(&lab.path("log"), &mut command);
    program.listens().await;
    program.end();
    let users = fs::read_to_string(lab.path("dir/users.yml")).unwrap();
    let (_, hash) = users.split_once("$2").unwrap();
    let hash: String = hash
        .chars()
        .take_while(|letter| !"'\"\n".contains(*letter))
        .collect();
    let is_password = |text: &str| bcrypt::verify(text, &format!("$2{hash}")).unwrap();
    assert!(is_password("from a credential") && !is_password(PASSWORD));
}
