//! A server that runs goes by a change at once, or the command says that it does not.

use super::*;

/// A server of its own process on an installation; ended when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it on a free port, and waits until it answers.
    async fn start(directory: &Path) -> Self {
        let config = directory.join("boathouse.yml");
        let text = fs::read_to_string(&config).unwrap();
        // The free port may be taken by somebody else in the meantime: then the next one.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            let address = free.unwrap();
            fs::write(&config, text.replace("127.0.0.1:0", &address.to_string())).unwrap();
            let log = fs::File::create(directory.join("log")).unwrap();
            let child = Command::new(env!("CARGO_BIN_EXE_boathouse"))
                .args(["serve", "--config"])
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            let mut server = Self { child, address };
            while server.child.try_wait().unwrap().is_none() {
                if tokio::net::TcpStream::connect(address).await.is_ok() {
                    return server;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        panic!("{}", fs::read_to_string(directory.join("log")).unwrap());
    }

    fn get(&self, path: &str) -> Call {
        Call::to(self.address, Method::GET, path)
    }

    /// The token of an account, and a status where it is refused.
    async fn token(&self, account: &str, password: &str) -> Result<String, u16> {
        let path = "/token?service=boathouse&scope=repository:team/app:pull,push";
        let answer = self.get(path).basic(account, password).send().await;
        match answer.status {
            StatusCode::OK => Ok(answer.json()["token"].as_str().unwrap().to_owned()),
            refused => Err(refused.as_u16()),
        }
    }

    /// What a token opens: the status of a look at an image that is not there.
    async fn look(&self, token: &str) -> u16 {
        let call = self.get("/v2/team/app/manifests/v1").bearer(token);
        call.send().await.status.as_u16()
    }
}

#[tokio::test]
async fn every_change_counts_in_the_running_server_when_the_command_ends() {
    let directory = installation();
    let place = directory.path();
    let server = Server::start(place).await;
    let user = |arguments: &[&str]| {
        let arguments = [&["user"], arguments].concat();
        done(place, &arguments).trim_end().to_owned()
    };
    let first = user(&["add", "ann", "--push", "team/**"]);
    let token = server.token("ann", &first).await.unwrap();
    assert_eq!(server.look(&token).await, 404, "let in, and nothing there");

    let second = user(&["passwd", "ann"]);
    assert_eq!(
        server.look(&token).await,
        401,
        "a token outlived its password"
    );
    assert_eq!(server.token("ann", &first).await, Err(401));
    let token = server.token("ann", &second).await.unwrap();
    assert_eq!(server.look(&token).await, 404);

    for _ in 0..2 {
        let token = server.token("ann", &second).await.unwrap();
        assert_eq!(server.look(&token).await, 404);
        user(&["revoke", "ann"]);
        assert_eq!(
            server.look(&token).await,
            401,
            "a token outlived its revocation"
        );
    }

    let token = server.token("ann", &second).await.unwrap();
    user(&["remove", "ann"]);
    assert_eq!(
        server.look(&token).await,
        401,
        "a token outlived its account"
    );
    assert_eq!(server.token("ann", &second).await, Err(401));
    // Of the same name, and of nothing that was before.
    let third = user(&["add", "ann"]);
    assert_eq!(server.look(&token).await, 401);
    let token = server.token("ann", &third).await.unwrap();
    assert_eq!(
        server.look(&token).await,
        401,
        "rules outlived their account"
    );
}

#[tokio::test]
async fn accounts_of_the_config_are_revoked_too() {
    let directory = installation();
    let place = directory.path();
    let config = place.join("boathouse.yml");
    let hash = bcrypt::hash("amys", 4).unwrap();
    let text = fs::read_to_string(&config).unwrap();
    let old = "$2y$04$abcdefghijklmnopqrstuu5nTzPGVsNTFuMqkPVtDFQi7HyyPrHx2";
    let text = text.replace(old, &hash).replace("[push]", "[pull]");
    fs::write(&config, text).unwrap();
    let server = Server::start(place).await;
    let token = server.token("amy", "amys").await.unwrap();
    assert_eq!(server.look(&token).await, 404);
    done(place, &["user", "revoke", "amy"]);
    assert_eq!(server.look(&token).await, 401);
    let token = server.token("amy", "amys").await.unwrap();
    assert_eq!(server.look(&token).await, 404);
}

/// Exit code, stdout and stderr of a command.
fn ended(directory: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = boathouse(directory, arguments, "");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn whether_a_server_was_told_is_said_and_shown_by_the_exit_code() {
    let directory = installation();
    let place = directory.path();
    let (code, _, talk) = ended(place, &["user", "add", "ann"]);
    assert!(
        code == Some(0) && talk.contains("no server is running"),
        "{talk}"
    );
    let server = Server::start(place).await;
    let (code, _, talk) = ended(place, &["user", "add", "bob"]);
    assert!(
        code == Some(0) && talk.contains("the running server goes by it now"),
        "{talk}"
    );
    // One that cannot be reached is not taken for none.
    let socket = place.join("data/boathouse/control.sock");
    fs::rename(&socket, place.join("elsewhere")).unwrap();
    let (code, password, talk) = ended(place, &["user", "add", "dora"]);
    assert!(
        code == Some(1) && talk.contains("THE RUNNING SERVER MAY STILL GO BY"),
        "{talk}"
    );
    assert!(
        talk.contains("does not listen at") && talk.contains("hint: "),
        "{talk}"
    );
    assert_eq!(
        password.len(),
        25,
        "the file has its hash, so somebody must know it"
    );
    fs::rename(place.join("elsewhere"), &socket).unwrap();
    // Killed, it leaves its socket behind.
    drop(server);
    let (code, _, talk) = ended(place, &["user", "add", "carl"]);
    assert!(
        code == Some(0) && talk.contains("no server is running"),
        "{talk}"
    );
}

#[tokio::test]
async fn a_server_that_cannot_go_by_a_change_is_not_said_to() {
    let directory = installation();
    let place = directory.path();
    let config = place.join("boathouse.yml");
    let guarded = fs::read_to_string(&config).unwrap();
    let (open, rest) = guarded.split_once("users_file:").unwrap();
    fs::write(&config, open).unwrap();
    let _server = Server::start(place).await;
    let open = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{open}users_file:{rest}")).unwrap();
    let (code, _, talk) = ended(place, &["user", "add", "ann"]);
    assert!(
        code == Some(1) && talk.contains("started open to everybody"),
        "{talk}"
    );
}
