//! What a log is made of: the request's name in it and in the answer, and one JSON object per line where that is asked for.

use std::net::SocketAddr;

use boathouse::server;
use boathouse::telemetry::FIELD_BYTES_MAX;
use http::{Method, StatusCode};

use crate::client::{Raw, basic};
use crate::lab::{Lab, account};
use crate::support::{Call, Options, TestRegistry};

#[tokio::test]
async fn every_answer_names_its_request_and_no_two_alike() {
    let registry = TestRegistry::open();
    let mut names = std::collections::BTreeSet::new();
    for path in ["/v2/", "/healthz", "/token", "/nowhere", "/v2/a/tags/list"] {
        let answer = registry.get(path).send().await;
        names.insert(answer.header("x-request-id").to_owned());
    }
    assert_eq!(names.len(), 5, "{names:?}");
}

#[tokio::test]
async fn only_a_trusted_proxy_names_requests_and_only_in_harmless_words() {
    let answered = async |registry: &TestRegistry, name: &str| {
        let call = registry.get("/v2/").header("x-request-id", name);
        let answer = call.send().await.expect(StatusCode::OK);
        answer.header("x-request-id").to_owned()
    };
    let stranger = TestRegistry::open();
    assert_ne!(answered(&stranger, "mine").await, "mine");
    let proxied = TestRegistry::start(Options {
        server: server::Settings {
            trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
            ..server::Settings::for_tests()
        },
        ..Options::default()
    });
    assert_eq!(answered(&proxied, "of-a.proxy_1").await, "of-a.proxy_1");
    for bad in ["two words", "\"quoted\"", &"x".repeat(65)] {
        assert_ne!(answered(&proxied, bad).await, bad);
    }
}

#[tokio::test]
async fn the_command_line_makes_every_line_json_whatever_the_config_says() {
    let lab = Lab::configured(
        "log: {formatter: text}\nstorage: {filesystem: {rootdirectory: DIR/data}}\nhttp: {addr: 'ADDRESS'}\n",
    );
    let serve = ["serve", "--log-format", "json"];
    let program = lab.serve_by(&mut lab.command(&serve)).await;
    let answer = program.get("/healthz").send().await;
    let log = program.end();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let access = lines.iter().find(|line| line["message"] == "request");
    assert_eq!(
        access.unwrap()["id"],
        answer.header("x-request-id"),
        "{log}"
    );
}

#[tokio::test]
async fn a_program_that_reads_the_log_is_told_what_a_person_would_be() {
    let lab = Lab::empty();
    let mut first = lab.up("home", &[]).await;
    first.says("shown again by").await;
    let address = first.address().to_string();
    let text = first.end();
    assert!(text.contains("\nTrust its certificates"), "{text}");

    let json = ["--addr", &address, "--log-format", "json"];
    let mut second = lab.up("home", &json).await;
    second.says("\"serving\"").await;
    let log = second.end();
    // That `--addr` counts on the first run only is said before anything is served.
    let lines = log.lines().filter(|line| !line.starts_with("note: "));
    let lines: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let serving = lines.iter().find(|line| line["message"] == "serving");
    let serving = serving.unwrap_or_else(|| panic!("{log}"));
    let fingerprint = serving["fingerprint"].as_str().unwrap();
    assert!(text.contains(fingerprint), "{text}\n{fingerprint}");
    let port = address.rsplit(':').next().unwrap();
    assert_eq!(serving["registry"], format!("localhost:{port}"));
}

/// An account whose name would end a quoted text and turn the rest of its line around.
const ODD_ACCOUNT: &str = "o\"dd\u{202e}\u{9b}";
/// What is below `/v2/` in a request's path, and what of it is decoded.
const ODD_PATH: &str = "%0aFORGED%20status=200/%1b%5b2J%c2%9b%e2%80%ae%22%5c/tags/list";
const ODD_PATH_DECODED: &str = "\nFORGED status=200/\u{1b}[2J\u{9b}\u{202e}\"\\/tags/list";

/// The program with accounts, and its log until it has answered everything that `ask` asks.
async fn log_of(format: &str, ask: impl AsyncFnOnce(SocketAddr)) -> String {
    // As YAML writes its name.
    let odd = account(r#""o\"dd\u202e\u009b""#, "secret");
    let lab = Lab::configured(&format!(
        "log: {{level: debug, formatter: {format}}}\n\
         storage: {{filesystem: {{rootdirectory: DIR/data}}}}\n\
         http: {{addr: 'ADDRESS'}}\n\
         token: {{issuer: lab, expiration: 900}}\n\
         users: {{{}, {odd}}}\n\
         acl:\n\
         - {{match: {{account: ann, name: 'ann/*'}}, actions: ['*']}}\n\
         - {{match: {{account: ann, name: 'locked/*'}}, actions: [pull]}}\n",
        account("ann", "secret")
    ));
    let program = lab.serve().await;
    ask(program.address()).await;
    program.end()
}

/// Sends a request as bytes; gives the status.
async fn raw(address: SocketAddr, line: &[u8], user_agent: &[u8]) -> u16 {
    let agent = [b"user-agent: ".as_slice(), user_agent].concat();
    let lines = [line, b"host: lab", b"connection: close", &agent, b"", b""];
    let mut raw = Raw::to(address).await;
    raw.send(lines.join(&b"\r\n"[..])).await;
    raw.status().await
}

/// Every field that a client chooses, with all that could break a line or lie about it.
async fn ask_oddly(address: SocketAddr) {
    let line = format!("GET /v2/{ODD_PATH} HTTP/1.1");
    let agent = [
        b"od\xffd \"agent\\ \xc2\x9b\xe2\x80\xae ".as_slice(),
        &[b'x'; 3_000],
    ]
    .concat();
    assert_eq!(raw(address, line.as_bytes(), &agent).await, 400);
    let long = format!(
        "{} /v2/{}/tags/list HTTP/1.1",
        "BREW".repeat(300),
        "a%0a".repeat(2_000)
    );
    raw(address, long.as_bytes(), b"x").await;
    let scope = "/token?service=boathouse&scope=repository:%0aFORGED%1b%5b2J%e2%80%ae:pull:x:y:z";
    let call = Call::to(address, Method::GET, scope);
    call.header("authorization", &basic("ann", "secret"))
        .send()
        .await;
    let call = Call::to(address, Method::GET, "/v2/bob/app/tags/list");
    let call = call.header("authorization", &basic(ODD_ACCOUNT, "secret"));
    call.send().await.expect(StatusCode::FORBIDDEN);
}

fn is_dangerous(character: char) -> bool {
    character.is_control()
        || ('\u{200b}'..='\u{200f}').contains(&character)
        || ('\u{2028}'..='\u{202e}').contains(&character)
        || ('\u{2066}'..='\u{2069}').contains(&character)
}

#[tokio::test]
async fn nothing_that_a_client_chooses_breaks_out_of_its_field() {
    let log = log_of("text", ask_oddly).await;
    for line in log.lines() {
        assert!(!line.chars().any(is_dangerous), "{line:?}");
        assert!(!line.starts_with("FORGED"), "{line}");
        // Each field is cut; an escape may take eight characters for one.
        assert!(line.len() < 10 * FIELD_BYTES_MAX, "{} bytes", line.len());
    }
    let access: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("boathouse::access"))
        .collect();
    let has = |text: &str| access.iter().any(|line| line.contains(text));
    assert!(
        has(r#" path="/v2/\nFORGED status=200/\u{1b}[2J\u{9b}\u{202e}\"\\/tags/list" route="#),
        "a path is not one value: {log}"
    );
    assert!(
        has(r#" user_agent="od\\xffd \"agent\\ \u{9b}\u{202e} xxx"#),
        "{log}"
    );
    assert!(has(r#" account="o\"dd\u{202e}\u{9b}" method=GET"#), "{log}");
    assert!(has(" path=/v2/bob/app/tags/list route="), "{log}");
}

#[tokio::test]
async fn a_program_that_reads_the_log_gets_back_what_the_client_sent() {
    let log = log_of("json", ask_oddly).await;
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| {
            assert!(!line.chars().any(is_dangerous), "{line:?}");
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        })
        .collect();
    let access: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "request")
        .collect();
    let odd = access
        .iter()
        .find(|line| line["status"] == 400)
        .expect("a line");
    assert_eq!(odd["path"], format!("/v2/{ODD_PATH_DECODED}"));
    let agent = odd["user_agent"].as_str().unwrap();
    assert!(
        agent.starts_with("od\\xffd \"agent\\ \u{9b}\u{202e} xxx"),
        "{agent}"
    );
    assert!(
        agent.len() <= FIELD_BYTES_MAX + 3 && agent.ends_with('…'),
        "{agent}"
    );
    let denied = access
        .iter()
        .find(|line| line["status"] == 403)
        .expect("a line");
    assert_eq!(denied["account"], ODD_ACCOUNT);
    for line in &access {
        for (name, value) in line.as_object().unwrap() {
            let length = value.as_str().unwrap_or_default().len();
            assert!(length <= FIELD_BYTES_MAX + 3, "{name}: {length} bytes");
        }
    }
}

#[tokio::test]
async fn a_refused_request_names_the_account_whose_credential_is_good() {
    let log = log_of("json", async |address| {
        let call = |path: &str, credential: &str| {
            let call = Call::to(address, Method::GET, path);
            call.header("authorization", credential).send()
        };
        let ann = basic("ann", "secret");
        let denied = call("/v2/bob/denied/tags/list", &ann).await;
        denied.expect(StatusCode::FORBIDDEN);
        let given = call(
            "/token?service=boathouse&scope=repository:ann/app:pull",
            &ann,
        )
        .await;
        let token = given.expect(StatusCode::OK).json()["token"].clone();
        let bearer = format!("Bearer {}", token.as_str().unwrap());
        let lacking = call("/v2/ann/lacking/tags/list", &bearer).await;
        lacking.expect(StatusCode::UNAUTHORIZED);
        let broken = call("/v2/ann/broken/tags/list", "Bearer not.a.token").await;
        broken.expect(StatusCode::UNAUTHORIZED);
        let locked = Call::to(address, Method::POST, "/v2/locked/app/blobs/uploads/");
        let locked = locked.header("authorization", &ann).send().await;
        locked.expect(StatusCode::FORBIDDEN);
        // A password in the place of a name.
        let swapped = basic("hunter2-is-my-password", "ann");
        call("/v2/ann/swapped/tags/list", &swapped).await;
        for attempt in 0..12 {
            let wrong = basic("ann", &format!("wrong {attempt}"));
            call("/token?service=boathouse", &wrong).await;
            call("/v2/ann/wrong/tags/list", &wrong).await;
        }
    })
    .await;
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |path: &str, status: u16| {
        let found = lines.iter().find(|line| {
            line["message"] == "request" && line["path"] == path && line["status"] == status
        });
        let found = found.unwrap_or_else(|| panic!("{path} {status}: {log}"));
        (
            found["account"].as_str().unwrap().to_owned(),
            found["refusal"].as_str().unwrap_or("none").to_owned(),
        )
    };
    // What was asked for, what decided, and whom a failed login named.
    let details = |path: &str, status: u16| {
        let found = lines
            .iter()
            .find(|line| line["path"] == path && line["status"] == status);
        let found = found.unwrap_or_else(|| panic!("{path} {status}: {log}"));
        let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        [text("needed"), text("decided_by"), text("claimed_account")]
    };
    let is = |found: [String; 3], expected: [&str; 3]| assert_eq!(found, expected);
    let no_rule = ["repository:bob/denied:pull", "no rule matches", ""];
    is(details("/v2/bob/denied/tags/list", 403), no_rule);
    let by_token = "the token: it was made without this right";
    let lacking = ["repository:ann/lacking:pull", by_token, ""];
    is(details("/v2/ann/lacking/tags/list", 401), lacking);
    let [needed, rule, _] = details("/v2/locked/app/blobs/uploads/", 403);
    assert_eq!(needed, "repository:locked/app:pull,push");
    assert!(
        rule.ends_with(".yml:8"),
        "not the place of the rule: {rule}"
    );
    is(details("/token", 401), ["", "", "ann"]);
    is(details("/token", 429), ["", "", "ann"]);
    let swapped = ["repository:ann/swapped:pull", "", ""];
    is(details("/v2/ann/swapped/tags/list", 401), swapped);
    assert!(
        !log.contains("hunter2"),
        "a name that nobody has is in the log"
    );
    let told = |account: &str, refusal: &str| (account.to_owned(), refusal.to_owned());
    let denied = of("/v2/bob/denied/tags/list", 403);
    assert_eq!(denied, told("ann", "not permitted"));
    let lacking = of("/v2/ann/lacking/tags/list", 401);
    assert_eq!(lacking, told("ann", "insufficient scope"));
    assert_eq!(of("/token", 200), told("ann", "none"));
    // Nobody has shown to be anybody here.
    let broken = of("/v2/ann/broken/tags/list", 401);
    assert_eq!(broken, told("", "invalid token: malformed"));
    assert_eq!(of("/token", 401), told("", "authentication failed"));
    let slowed = told("", "slowed: too many failed logins");
    assert_eq!(of("/token", 429), slowed);
    assert_eq!(of("/v2/ann/wrong/tags/list", 429), slowed);
}
