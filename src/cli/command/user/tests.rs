//! What a command says, to whom, and how it ends, whatever becomes of the file and the running server.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::{FromArgMatches as _, Subcommand as _};

use super::*;
use crate::config;

/// A configuration with one user of its own, and a file of users.
struct Lab {
    directory: tempfile::TempDir,
    config: PathBuf,
}

/// How a command ended.
struct Ended {
    result: anyhow::Result<()>,
    out: String,
    talk: String,
}

/// stdout of a script that has ended.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lab {
    fn new() -> Self {
        Self::configured("users_file: DIR/users.yml\nusers:\n  amy: {password: x}\nacl: []\n")
    }

    fn configured(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().to_str().unwrap().to_owned();
        let config = directory.path().join("config.yml");
        let text = format!("storage: {{filesystem: {{rootdirectory: DIR/data}}}}\n{text}");
        fs::write(&config, text.replace("DIR", &place)).unwrap();
        Self { directory, config }
    }

    fn users(&self) -> UsersFile {
        UsersFile::read(&self.directory.path().join("users.yml")).unwrap()
    }

    fn load(&self) -> Loaded {
        let files = [self.config.clone()];
        config::load_without_users_file(&files, &BTreeMap::new())
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn run(&self, line: &str) -> Ended {
        self.run_with(line, "", None)
    }

    fn run_with(&self, line: &str, input: &str, broken_out: Option<&mut dyn Write>) -> Ended {
        let command = Action::augment_subcommands(clap::Command::new("user"));
        let words = std::iter::once("user").chain(line.split(' ').map(|word| {
            // A word that a shell would have had in quotes.
            if word == "''" { "" } else { word }
        }));
        let matches = command.try_get_matches_from(words).unwrap();
        let action = Action::from_arg_matches(&matches).unwrap();
        let (mut out, mut talk) = (Vec::new(), Vec::new());
        let result = Command {
            loaded: &self.load(),
            config_file: Some(&self.config),
            now_unix_secs: 1_800_000_000,
            input: &mut input.as_bytes(),
            out: broken_out.unwrap_or(&mut out),
            talk: &mut talk,
            is_terminal: false,
        }
        .run(&action);
        Ended {
            result,
            out: String::from_utf8(out).unwrap(),
            talk: String::from_utf8(talk).unwrap(),
        }
    }
}

fn is_password(hash: Option<&String>, password: &str) -> bool {
    bcrypt::verify(password, hash.unwrap()).unwrap()
}

#[test]
fn a_generated_password_is_all_that_a_script_gets() {
    let lab = Lab::new();
    let added = lab.run("add ci --push team/** --pull base/app --expires 90d");
    added.result.unwrap();
    let password = added.out.strip_suffix('\n').unwrap();
    assert!(
        password.len() == 24 && !password.contains([':', ' ', '\n']),
        "{password}"
    );
    assert!(!added.talk.contains(password), "{}", added.talk);
    assert!(added.talk.contains(
        "`ci` was added with 2 rules until 2027-04-15T08:00:00Z; in force from the next request on"
    ));
    let user = &lab.users().users["ci"];
    assert!(is_password(user.password_hash.as_ref(), password));
    assert_eq!(user.expires_unix_secs, Some(1_800_000_000 + 90 * 86_400));

    let changed = lab.run("passwd ci");
    changed.result.unwrap();
    assert!(changed.out != added.out && changed.out.len() == 25);
    let user = &lab.users().users["ci"];
    assert!(is_password(
        user.password_hash.as_ref(),
        changed.out.trim_end()
    ));
}

#[test]
fn another_password_alone_does_not_bring_back_an_account_that_has_ended() {
    let lab = Lab::new();
    lab.run("add ci --expires 1h").result.unwrap();
    let path = lab.directory.path().join("users.yml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("2027-01-15T09:", "2027-01-15T07:")).unwrap();
    let ended = lab.run("passwd ci");
    ended.result.unwrap();
    assert!(
        ended
            .talk
            .contains("has ended at 2027-01-15T07:00:00Z and stays so"),
        "{}",
        ended.talk
    );
    let renewed = lab.run("passwd ci --expires 1h");
    assert!(!renewed.talk.contains("has ended"), "{}", renewed.talk);
}

#[test]
fn a_given_password_is_printed_nowhere() {
    let lab = Lab::new();
    for (line, input) in [
        ("add ann --password-stdin", "correct horse\n"),
        ("passwd ann --password-stdin", "other horse\r\n"),
        ("passwd ann --password-stdin", "third horse"),
    ] {
        let ended = lab.run_with(line, input, None);
        ended.result.unwrap();
        assert_eq!(ended.out, "");
        assert!(!ended.talk.contains("horse"), "{}", ended.talk);
        let user = &lab.users().users["ann"];
        let password = input.trim_end_matches(['\r', '\n']);
        assert!(is_password(user.password_hash.as_ref(), password), "{line}");
    }
    let before = lab.users();
    for input in ["", "\n", "two\nlines\n", &"x".repeat(73)] {
        let ended = lab.run_with("passwd ann --password-stdin", input, None);
        ended.result.unwrap_err();
    }
    assert_eq!(lab.users(), before);
    let colon = lab.run_with("passwd ann --password-stdin", "a:b", None);
    assert!(colon.result.is_ok() && colon.talk.contains("Tart"));
}

#[test]
fn a_password_that_cannot_be_printed_is_an_error() {
    let lab = Lab::new();
    lab.run("add ann").result.unwrap();
    let ended = lab.run_with("passwd ann", "", Some(&mut Closed));
    let error = format!("{:#}", ended.result.unwrap_err());
    assert!(error.contains("it is lost"), "{error}");
}

/// Servers of an earlier version hold a lock for as long as they run, and read accounts only when they are told.
#[test]
fn a_server_that_does_not_follow_the_file_is_not_passed_over() {
    let lab = Lab::new();
    let mark = lab
        .directory
        .path()
        .join("users.yml.serving-0123456789abcdef");
    let mark = fs::File::create(mark).unwrap();
    mark.lock().unwrap();
    let ended = lab.run("add ann");
    let error = ended.result.unwrap_err().to_string();
    assert!(
        error.starts_with("`ann` was added with no rules of its own, and ")
            && error.contains("a server of an earlier version is running")
            && error.contains("\nhint: "),
        "{error}"
    );
    assert_eq!(ended.out.len(), 25, "the password must not be lost");
    assert!(lab.users().users.contains_key("ann"));
    // Left by a server that was killed.
    mark.unlock().unwrap();
    lab.run("passwd ann").result.unwrap();
}

#[test]
fn a_change_parses_the_file_twice() {
    let lab = Lab::new();
    lab.run("add ann --push team/**").result.unwrap();
    for line in [
        "add bob --push team/* --pull base/app",
        "passwd bob",
        "revoke bob",
        "remove bob",
    ] {
        let before = UsersFile::parses();
        lab.run(line).result.unwrap();
        // Once to change it, and once to see that what is written reads back.
        assert_eq!(UsersFile::parses() - before, 2, "{line}");
    }
}

#[test]
fn what_stands_in_the_config_is_not_changed() {
    let lab = Lab::new();
    for line in ["add amy", "passwd amy", "remove amy"] {
        let ended = lab.run(line);
        let error = ended.result.unwrap_err().to_string();
        assert!(
            error.contains("`amy` stands in ") && error.contains("config.yml:4"),
            "{error}"
        );
        assert!(ended.out.is_empty(), "{line}");
    }
    assert!(!lab.directory.path().join("users.yml").exists());
    lab.run("revoke amy").result.unwrap();
    assert_eq!(lab.users().revoked["amy"], 1_800_000_000);
}

#[test]
fn a_refused_change_prints_no_password() {
    let lab = Lab::new();
    lab.run("add ann").result.unwrap();
    let before = lab.users();
    for (line, expected) in [
        ("add ann", "there is an account `ann` already"),
        ("add a:b", "is no name for an account"),
        (
            "add bob --pull Team/app",
            "no repository has `T` in its name",
        ),
        ("add bob --expires 2001-01-01T00:00:00Z", "has passed"),
        ("add '' --push a", "anonymous callers"),
        ("passwd bob", "there is no account `bob`"),
        ("remove bob", "there is no account `bob`"),
        ("revoke bob", "there is no account `bob`"),
    ] {
        let ended = lab.run(line);
        let error = ended.result.unwrap_err().to_string();
        assert!(error.contains(expected), "{line}: {error}");
        assert!(ended.out.is_empty(), "{line}");
    }
    assert_eq!(lab.users(), before);
}

#[test]
fn without_a_users_file_the_way_to_one_is_told() {
    let lab = Lab::configured("users: {amy: {password: x}}\nacl: []\n");
    let error = lab.run("add ann").result.unwrap_err().to_string();
    assert!(
        error.contains("hint: add `users_file: ") && error.contains("config.yml"),
        "{error}"
    );

    let lab = Lab::configured("users_file: no/such/users.yml\n");
    let error = lab.run("add ann").result.unwrap_err().to_string();
    assert!(error.contains("hint: write its full path"), "{error}");

    let lab = Lab::configured("auth: {htpasswd: {realm: lab, path: DIR/htpasswd}}\n");
    fs::write(lab.directory.path().join("htpasswd"), "").unwrap();
    let error = lab.run("add ann").result.unwrap_err().to_string();
    assert!(
        error.contains("auth.htpasswd") && error.contains("htpasswd -B -C 10"),
        "{error}"
    );
}

#[test]
fn a_grant_that_does_less_than_it_seems_is_told() {
    let lab = Lab::new();
    let ended = lab.run("add ann --push team/*");
    ended.result.unwrap();
    assert!(
        ended
            .talk
            .contains("note: `team/*` does not cover `team/a/b`; `team/**` would"),
        "{}",
        ended.talk
    );
    let ended = lab.run("add bob --push team/**");
    assert!(
        !ended.talk.contains("note") && !ended.talk.contains("warning"),
        "{}",
        ended.talk
    );

    let open = "users_file: DIR/users.yml\nacl:\n- {match: {name: /^team/}, actions: [pull]}\n";
    let lab = Lab::configured(open);
    let ended = lab.run("add ann --push team/**");
    ended.result.unwrap();
    assert!(
        !ended.talk.contains("never decides"),
        "an expression that is not of a known form"
    );
    let open = "users_file: DIR/users.yml\nacl:\n- {match: {name: /^team/.*$/}, actions: [pull]}\n";
    let lab = Lab::configured(open);
    let ended = lab.run("add ann --push team/**");
    assert!(
        ended
            .talk
            .contains("users.yml:5: acl[]: this rule never decides: the one at "),
        "{}",
        ended.talk
    );
    assert!(
        ended.talk.contains("config.yml:4 comes first"),
        "{}",
        ended.talk
    );
}
