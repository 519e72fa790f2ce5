//! Accounts as people and scripts handle them: the program's commands beside a running server, and refresh tokens.

mod external;
mod running;

use http::StatusCode;
use serde_json::Value;

use crate::golden::golden;
use crate::lab::Lab;
use crate::program::{Ran, ran};
use crate::support::{Options, TestRegistry, with_users};

/// A directory with a config, whose user is `amy`, and a file of users.
fn installation() -> Lab {
    Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\n\
        users_file: DIR/users.yml\nusers:\n  amy: {password: $2y$04$abcdefghijklmnopqrstuu5nTzPGVsNTFuMqkPVtDFQi7HyyPrHx2}\n\
        acl:\n- match: {account: amy, name: 'team/*'}\n  actions: [push]\n\
        - match: {account: bob}\n  actions: ['*']\n  comment: a guest\n\
        - match: {ip: 10.0.0.0/8, name: 'lab/app'}\n  actions: [pull]\n",
    )
}

/// Runs the program on an installation, as `--dir` finds it.
fn boathouse(lab: &Lab, arguments: &[&str]) -> Ran {
    ran(&[arguments, &["--dir", &lab.place("")]].concat(), &[], "")
}

/// stdout of a command that must succeed.
#[track_caller]
fn done(lab: &Lab, arguments: &[&str]) -> String {
    boathouse(lab, arguments).fine()
}

/// stdout of `acl explain`, which ends with 1 where not everything that was asked about is allowed.
#[track_caller]
fn explained(lab: &Lab, arguments: &[&str], code: i32) -> String {
    let ran = boathouse(lab, &[&["acl", "explain"], arguments].concat());
    assert_eq!(
        ran.code,
        Some(code),
        "{arguments:?}: {}{}",
        ran.out,
        ran.talk
    );
    ran.out
}

#[track_caller]
fn json(lab: &Lab, arguments: &[&str]) -> Value {
    serde_json::from_str(&done(lab, arguments)).unwrap()
}

#[test]
fn the_list_shows_accounts_of_all_files_and_no_hash() {
    let lab = installation();
    done(
        &lab,
        &["user", "add", "ci", "--push", "team/**", "--expires", "90d"],
    );
    done(&lab, &["user", "add", "", "--pull", "public/**"]);
    done(&lab, &["user", "revoke", "amy"]);
    let shown = done(&lab, &["user", "list"]);
    // How wide a column is depends on the length of the directory's name.
    let narrow = regex::Regex::new("   +").unwrap();
    let narrow = narrow.replace_all(&lab.shown(&shown), "  ").into_owned();
    golden("user-list.txt", &narrow);
    let listed = done(&lab, &["user", "list", "--json"]);
    golden("user-list.json", &lab.shown(&listed));
    assert!(!listed.contains("$2") && !shown.contains("$2"), "{listed}");
    done(&lab, &["user", "remove", "ci"]);
    assert_eq!(
        json(&lab, &["user", "list", "--json"])["accounts"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

/// Rights that no account is named for.
#[test]
fn the_list_shows_rules_for_everybody_and_those_of_htpasswd() {
    let lab = installation();
    lab.configure(
        "more.yml",
        "users: {amy: {password: x, labels: {team: [ops]}}}\n\
         acl:\n\
         - {match: {account: amy}, actions: [pull]}\n\
         - {match: {account: 'ci-*', name: 'ci/**'}, actions: [push, pull]}\n\
         - {match: {labels: {team: ops}, ip: 10.0.0.0/8}, actions: ['*']}\n\
         - {match: {name: 'public/*'}, actions: [pull]}\n\
         storage: {filesystem: {rootdirectory: DIR/data}}\n",
    );
    let listed = ran(
        &["user", "list", "--config", &lab.place("more.yml")],
        &[],
        "",
    )
    .fine();
    let narrow = regex::Regex::new("   +").unwrap();
    let narrow = narrow.replace_all(&lab.shown(&listed), "  ").into_owned();
    golden("user-list-rules.txt", &narrow);

    lab.write(
        "htpasswd",
        "ann:$2y$04$8V8Wmy8aZlSUUPExATbHaeieZ4/V3CAuxE0jmw820Fy60YNJLcyuq\n",
    );
    lab.configure(
        "htpasswd.yml",
        "auth: {htpasswd: {realm: lab, path: DIR/htpasswd}}\n\
         storage: {filesystem: {rootdirectory: DIR/data}}\n",
    );
    let listed = [
        "user",
        "list",
        "--json",
        "--config",
        &lab.place("htpasswd.yml"),
    ];
    let listed: Value = serde_json::from_str(&ran(&listed, &[], "").fine()).unwrap();
    assert_eq!(listed["accounts"][0]["name"], "ann");
    assert_eq!(listed["rules"][0]["actions"], serde_json::json!(["*"]));
    assert_eq!(listed["rules"][0]["match"], serde_json::json!({}));
}

#[test]
fn one_account_is_shown_with_every_rule_that_may_decide_about_it() {
    let lab = installation();
    done(&lab, &["user", "add", "ci", "--push", "team/**"]);
    done(&lab, &["user", "deny", "ci", "--push", "team/release"]);
    done(&lab, &["user", "revoke", "ci"]);
    let shown = lab.shown(&done(&lab, &["user", "show", "ci"]));
    golden("user-show.txt", &shown);
    let shown = json(&lab, &["user", "show", "amy", "--json"]);
    assert_eq!(shown["is_administrator"], false);
    assert_eq!(shown["rules"][0]["meaning"], "[push] on name `team/*`");
    assert_eq!(shown["rules"].as_array().unwrap().len(), 2);
    let said = boathouse(&lab, &["user", "show", "eve"]).failed();
    assert!(said.contains("there is no account `eve`\nhint: "), "{said}");
}

#[test]
fn a_hash_for_a_config_file_needs_no_installation() {
    let lab = Lab::empty();
    let line = ["user", "passwd", "ann", "--hash", "--password-stdin"];
    let printed = ran(&line, &[], "correct horse").fine();
    lab.configure(
        "hand.yml",
        &format!(
            "storage: {{filesystem: {{rootdirectory: DIR/data}}}}\nacl: []\nusers:\n{printed}"
        ),
    );
    let listed = ["user", "list", "--json", "--config", &lab.place("hand.yml")];
    let listed: Value = serde_json::from_str(&ran(&listed, &[], "").fine()).unwrap();
    assert_eq!(listed["accounts"][0]["name"], "ann");
}

#[test]
fn errors_go_to_stderr_with_a_hint_and_exit_code_1() {
    let lab = installation();
    for (arguments, told) in [
        (["user", "remove", "eve"], "no account `eve`"),
        (["user", "add", "amy"], "boathouse.yml:5"),
    ] {
        let Ran { code, out, talk } = boathouse(&lab, &arguments);
        assert_eq!(code, Some(1));
        assert_eq!(out, "");
        assert!(talk.contains(told) && talk.contains("\nhint: "), "{talk}");
    }
    assert!(!lab.path("users.yml").exists());
}

#[test]
fn what_decides_is_explained_to_people_and_to_scripts() {
    let lab = installation();
    done(&lab, &["user", "add", "ci", "--push", "team/*"]);
    let config = lab.place("boathouse.yml");

    let shown = explained(&lab, &["ci", "team/app"], 1);
    golden("acl-explain-granted.txt", &lab.shown(&shown));
    let shown = explained(&lab, &["amy", "team/a/b", "push"], 1);
    golden("acl-explain-nothing.txt", &lab.shown(&shown));
    let shown = explained(&lab, &["amy", "team/a", "push"], 1);
    assert!(
        shown.contains(
            "To push to it, pull and push must be granted, and this rule does not grant pull."
        ),
        "{shown}"
    );
    let shown = explained(&lab, &["bob", "x"], 1);
    assert!(
        shown.contains("no   bob may not pull") && shown.contains("There is no account `bob`"),
        "{shown}"
    );
    assert!(
        shown.contains("comment: a guest") && shown.contains("(everything that is asked for)"),
        "{shown}"
    );
    let shown = explained(&lab, &["", "lab/app", "pull"], 1);
    assert!(
        shown.contains("no   an anonymous caller may not")
            && shown.contains("no file has an account for them"),
        "{shown}"
    );
    assert!(
        shown.contains("ip 10.0.0.0/8 does not contain 127.0.0.1"),
        "{shown}"
    );

    let answer = json(
        &lab,
        &[
            "acl", "explain", "amy", "lab/app", "pull", "--ip", "10.1.2.3", "--json",
        ],
    );
    assert_eq!(
        answer["actions"],
        serde_json::json!([{"action": "pull", "needs": ["pull"], "allowed": true}])
    );
    assert_eq!(answer["standing"], "known");
    assert_eq!(answer["rule"]["place"], format!("{config}:12"));
    assert_eq!(
        answer["rule"]["match"],
        serde_json::json!({"ip": "10.0.0.0/8", "name": "lab/app"})
    );
    assert_eq!(
        answer["passed_over"][0],
        serde_json::json!({"place": format!("{config}:7"), "unmet": "name"})
    );
    let answer = explained(&lab, &["amy", "lab/app", "--json"], 1);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["rule"], Value::Null);
    let ran = boathouse(&lab, &["acl", "explain", "amy", "team/*"]);
    assert_eq!(ran.code, Some(2), "a pattern is no name");
}

#[test]
fn where_no_rule_is_asked_that_is_explained() {
    let explained = |auth: &str| {
        let base =
            "http: {addr: '127.0.0.1:0'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\n";
        let lab = Lab::configured(&format!("{base}{auth}"));
        let pair = rcgen::generate_simple_self_signed(["lab".to_owned()]).unwrap();
        lab.write("token.crt", pair.cert.pem());
        lab.write("htpasswd", "ann:x\n");
        let code = i32::from(auth.contains("rootcertbundle"));
        let shown = explained(&lab, &["ann", "x", "push"], code);
        let answer = explained(&lab, &["ann", "x", "push", "--json"], code);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        (shown, answer["standing"].clone())
    };
    let (shown, standing) = explained("");
    assert!(
        shown.starts_with("yes ") && shown.contains("every client may do everything"),
        "{shown}"
    );
    assert_eq!(standing, "open");
    let (shown, standing) = explained(
        "auth: {token: {realm: 'https://x/token', service: y, issuer: z, rootcertbundle: DIR/token.crt}}\n",
    );
    assert!(
        shown.starts_with("no ") && shown.contains("Tokens come from another server"),
        "{shown}"
    );
    assert_eq!(standing, "foreign");
    let (shown, standing) = explained("auth:\n  htpasswd: {realm: lab, path: DIR/htpasswd}\n");
    assert!(
        shown.starts_with("yes ") && shown.contains("boathouse.yml:4 decides"),
        "{shown}"
    );
    assert!(
        shown.contains("Without `acl`, every user of the file"),
        "{shown}"
    );
    assert_eq!(standing, "known");
}

#[test]
fn check_warns_of_the_usual_mistakes_with_their_lines() {
    let lab = installation();
    let Ran { code, talk, .. } = lab.run(&["check"]);
    assert_eq!(code, Some(0), "{talk}");
    let config = lab.place("boathouse.yml");
    for told in [
        format!("warning: {config}:7: acl[]: `push` without `pull`"),
        format!("warning: {config}:7: acl[]: `team/*` does not match `team/a/b`"),
        format!("warning: {config}:9: acl[]: this rule never decides: there is no account `bob`"),
    ] {
        assert!(talk.contains(&told), "{told}\n{talk}");
    }
    assert!(!talk.contains(":12:"), "{talk}");
}

#[test]
fn check_refuses_an_action_that_does_not_exist() {
    let lab = Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\nusers: {amy: {password: x}}\n\
         acl:\n- {match: {account: amy}, actions: [pull, psuh]}\n",
    );
    let said = lab.run(&["check"]).failed();
    let expected = format!(
        "error: {}:5: acl[]: actions: no client of a registry asks for `psuh`, only for `pull`, `push`, `delete`, `*`",
        lab.place("boathouse.yml")
    );
    assert!(said.contains(&expected), "{said}");
}

/// A server goes on with the accounts that it read last; nobody should be told that there are none, nor be given a line that
/// is refused.
#[tokio::test]
async fn a_lost_file_of_users_is_named_where_accounts_are_shown() {
    let lab = Lab::empty();
    lab.up("home", &[]).await.end();
    std::fs::remove_file(lab.path("home/users.yml")).unwrap();
    let home = lab.place("home");
    let repair = format!("boathouse user --dir {home} add admin --admin --recreate-missing");
    for line in [
        &["user", "list"][..],
        &["user", "show", "admin"],
        &["acl", "explain", "admin", "a"],
    ] {
        let Ran { talk, .. } = ran(&[line, &["--dir", &home]].concat(), &[], "");
        assert!(
            talk.contains("users.yml is missing, so its accounts and rules are not shown"),
            "{line:?}: {talk}"
        );
        assert!(talk.contains(&repair), "{line:?}: {talk}");
    }
    for line in [&["check"][..], &["user", "add", "ann"]] {
        let said = ran(&[line, &["--dir", &home]].concat(), &[], "").failed();
        assert!(said.contains("--recreate-missing"), "{line:?}: {said}");
    }
    // As it was printed.
    let words: Vec<&str> = repair.split(' ').skip(1).collect();
    ran(&words, &[], "").fine();
    let listed = ran(&["user", "list", "--dir", &home], &[], "");
    assert!(!listed.talk.contains("missing"), "{}", listed.talk);
    assert!(listed.fine().contains("admin"));
}

/// Every command line that is printed can be pasted.
#[test]
fn a_command_line_that_is_printed_names_the_installation_again() {
    let lab = installation();
    done(&lab, &["user", "add", "ci", "--push", "team/**"]);
    let home = lab.place("");
    let revoked = boathouse(&lab, &["user", "revoke", "ci"]).talk;
    let line = format!("boathouse user --dir {home} revoke ci --password");
    assert!(revoked.contains(&format!("`{line}`")), "{revoked}");
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    ran(&words, &[], "").fine();
    let there = boathouse(&lab, &["user", "add", "ci"]).failed();
    assert!(
        there.contains(&format!("`boathouse user --dir {home} passwd`")),
        "{there}"
    );
    let by_file = lab.run(&["list", "nowhere"]).talk + &lab.run(&["restore-tag", "a:b"]).talk;
    let file = lab.place("boathouse.yml");
    assert!(
        by_file.contains(&format!("`boathouse list --config {file} a`")),
        "{by_file}"
    );
}

#[test]
fn rights_of_anonymous_callers_that_accounts_lack_are_warned_of() {
    let lab = installation();
    done(&lab, &["user", "add", "ci", "--push", "team/**"]);
    let talk = boathouse(&lab, &["user", "add", "", "--pull", "public/**"]).talk;
    let says = "warning: this is for callers without a login only: once logged in, `amy` and 1 more may not pull all of public/**";
    assert!(talk.contains(says), "{talk}");
    for name in ["amy", "ci"] {
        done(&lab, &["user", "grant", name, "--pull", "public/**"]);
    }
    let talk = boathouse(&lab, &["user", "grant", "", "--pull", "public/**"]).talk;
    assert!(!talk.contains("callers without a login only"), "{talk}");
    let explained = explained(&lab, &["", "public/a", "pull"], 0);
    assert!(
        explained.contains("match:   callers without credentials, ") && !explained.contains("``"),
        "{explained}"
    );
}

/// What `up` would refuse to start without.
#[tokio::test]
async fn check_refuses_what_up_would_refuse() {
    let lab = Lab::empty();
    lab.up("home", &[]).await.end();
    let home = lab.place("home");
    let check = || ran(&["check", "--dir", &home], &[], "");
    check().fine();
    for part in ["users.yml", "keys/token.key", "ca.crt"] {
        let (path, aside) = (lab.path("home").join(part), lab.path("aside"));
        std::fs::rename(&path, &aside).unwrap();
        let said = check().failed();
        assert!(said.contains("missing: ") && said.contains(part), "{said}");
        let program =
            crate::program::Program::start(&lab.path("log"), &mut lab.up_command("home", &[]));
        let log = program.refuses().await;
        assert!(log.contains(part), "{log}");
        std::fs::rename(&aside, &path).unwrap();
    }
}

fn with_refresh_tokens(is_on: bool) -> TestRegistry {
    let mut options = Options::default();
    let all: &[&str] = &["*"];
    with_users(&mut options, &["ann"], &[("ann", "ann/*", all)]);
    options.auth.token.refresh_tokens = is_on;
    TestRegistry::start(options)
}

const LOGIN: &str = "/token?account=ann&client_id=docker&offline_token=true&service=boathouse";

#[tokio::test]
async fn docker_s_login_and_its_later_posts_work_with_a_refresh_token() {
    let registry = with_refresh_tokens(true);
    let login = registry.get(LOGIN).basic("ann", "ann-secret").send().await;
    let login = login.expect(StatusCode::OK).json();
    let kept = login["refresh_token"].as_str().unwrap();
    let post = |form: String| {
        let call = registry.post("/token");
        let call = call.header("content-type", "application/x-www-form-urlencoded");
        call.body(form.as_bytes()).send()
    };
    let form = format!(
        "grant_type=refresh_token&service=boathouse&client_id=docker&refresh_token={kept}\
         &scope=repository%3Aann%2Fapp%3Apull%2Cpush"
    );
    let answer = post(form).await.expect(StatusCode::OK).json();
    assert_eq!(answer.get("refresh_token"), None);
    let token = answer["access_token"].as_str().unwrap();
    let begin = registry.post("/v2/ann/app/blobs/uploads/");
    begin
        .bearer(token)
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    let as_bearer = registry.get("/v2/").bearer(kept).send().await;
    as_bearer.expect(StatusCode::UNAUTHORIZED);
    let forged = "grant_type=refresh_token&service=boathouse&refresh_token=x.y.z".to_owned();
    post(forged).await.expect(StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn refresh_tokens_are_off_unless_configured() {
    let registry = with_refresh_tokens(false);
    let login = registry.get(LOGIN).basic("ann", "ann-secret").send().await;
    let login = login.expect(StatusCode::OK).json();
    assert!(login["token"].is_string() && login.get("refresh_token").is_none());
}
