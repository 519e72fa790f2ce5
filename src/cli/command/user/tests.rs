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
            recreates_missing: false,
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
        "`ci` is added and expires at 2027-04-15T08:00:00Z; in force from the next request on"
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
            .contains("has expired at 2027-01-15T07:00:00Z, and cannot log in"),
        "{}",
        ended.talk
    );
    let renewed = lab.run("passwd ci --expires 1h");
    assert!(!renewed.talk.contains("has expired"), "{}", renewed.talk);
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
    for input in ["", "\n", "two\nlines\n", "too short", &"x".repeat(73)] {
        let ended = lab.run_with("passwd ann --password-stdin", input, None);
        ended.result.unwrap_err();
    }
    assert_eq!(lab.users(), before);
    let colon = lab.run_with("passwd ann --password-stdin", "left:right and more", None);
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
        error.starts_with("`ann` is added, and ")
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
            error.contains("`amy` is defined at ") && error.contains("config.yml:4"),
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
        ("add ann", "the account `ann` exists already"),
        ("add a:b", "cannot be the name of an account"),
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

/// What a command that must succeed says.
#[track_caller]
fn said(lab: &Lab, line: &str) -> String {
    let ended = lab.run(line);
    ended
        .result
        .unwrap_or_else(|error| panic!("{line}: {error:#}"));
    ended.talk
}

#[track_caller]
fn refused(lab: &Lab, line: &str) -> String {
    let before = fs::read(lab.directory.path().join("users.yml")).unwrap_or_default();
    let ended = lab.run(line);
    let error = ended.result.expect_err(line).to_string();
    let after = fs::read(lab.directory.path().join("users.yml")).unwrap_or_default();
    assert!(before == after && ended.out.is_empty(), "{line}");
    error
}

#[test]
fn rights_are_given_and_taken_and_then_told_in_words() {
    let lab = Lab::new();
    said(&lab, "add ann --pull base/app");
    let told = said(&lab, "grant ann --push team/** --delete team/scratch");
    let words = "\nann may delete from and push to team/scratch\nann may push to team/**\nann may pull from base/app\n";
    assert!(
        told.contains("the rights of `ann` are changed; in force from the next request on"),
        "{told}"
    );
    assert!(told.ends_with(words), "{told}");
    let told = said(&lab, "grant ann --push team/app");
    assert!(
        told.starts_with("`ann` has these rights already\n"),
        "{told}"
    );

    let told = said(&lab, "deny ann --push team/release/**");
    assert!(
        told.contains("\nann may only pull from team/release/**\nann may push to team/**\n"),
        "{told}"
    );
    let told = said(&lab, "deny ann --pull team/secret");
    assert!(told.contains("\nann may not use team/secret\n"), "{told}");
    let error = refused(&lab, "deny ann --push */release");
    assert!(
        error.contains("overlap") && error.contains("\nhint: "),
        "{error}"
    );
    let told = said(&lab, "deny ann --push other/**");
    assert!(
        told.starts_with("`ann` does not have these rights\n"),
        "{told}"
    );

    let told = said(&lab, "grant ann --admin");
    assert!(told.ends_with("\nann may do everything\n"), "{told}");
    assert_eq!(lab.users().acl.len(), 1);
    for line in ["grant eve --pull a", "deny eve --pull a"] {
        assert!(refused(&lab, line).contains("there is no account `eve`"));
    }
    assert!(refused(&lab, "grant ann --pull Team").contains("no repository has `T`"));
}

#[test]
fn accounts_of_the_config_get_rights_too_and_its_rules_come_first() {
    let lab = Lab::configured(
        "users_file: DIR/users.yml\nusers:\n  amy: {password: x}\nacl:\n- {match: {name: 'team/*'}, actions: [pull]}\n",
    );
    let told = said(&lab, "grant amy --push base/**");
    assert!(told.ends_with("\namy may push to base/**\n"), "{told}");
    let told = said(&lab, "grant amy --push team/**");
    assert!(
        told.contains("config.yml:6 comes first: it decides about `team/a`"),
        "{told}"
    );
    let error = refused(&lab, "deny amy --pull team/app");
    assert!(
        error.contains("the rule at ") && error.contains("config.yml:6 still gives `amy`"),
        "{error}"
    );
    assert!(error.contains("acl explain 'amy' team/app"), "{error}");
}

#[test]
fn the_last_administrator_stays() {
    let lab = Lab::new();
    said(&lab, "add root --admin");
    for line in [
        "remove root",
        "deny root --admin",
        "deny root --pull **",
        "deny root --push **",
        "passwd root --expires 90d",
    ] {
        let error = refused(&lab, line);
        let expected =
            "`root` is the last administrator: the only account that may log in and do everything";
        assert!(
            error.contains(expected) && error.contains("\nhint: "),
            "{line}: {error}"
        );
    }
    said(&lab, "passwd root");
    said(&lab, "revoke root");
    said(&lab, "deny root --push team/release");
    // One that has expired is none; one that will expire counts until then.
    said(&lab, "add guest --admin --expires 1h");
    refused(&lab, "passwd root --expires 2h");
    said(&lab, "add ann");
    said(&lab, "grant ann --admin");
    said(&lab, "remove root");
    said(&lab, "remove guest");
    assert!(refused(&lab, "remove ann").contains("`ann` is the last"));
}

#[test]
fn a_revocation_says_that_the_password_still_works() {
    let lab = Lab::new();
    let password = lab.run("add ci --push team/**").out;
    let told = said(&lab, "revoke ci");
    let expected = "note: the password of `ci` still works; `boathouse user revoke ci --password` changes it too";
    assert!(told.contains(expected), "{told}");
    let hash = lab.users().users["ci"].password_hash.clone();
    assert!(is_password(hash.as_ref(), password.trim_end()));

    let ended = lab.run("revoke ci --password");
    ended.result.unwrap();
    let user = lab.users().users["ci"].clone();
    assert!(is_password(
        user.password_hash.as_ref(),
        ended.out.trim_end()
    ));
    assert_eq!(user.valid_after_unix_secs, Some(1_800_000_001));
    assert!(!ended.talk.contains("still works"), "{}", ended.talk);
    let ended = lab.run_with("revoke ci --password-stdin", "chosen by a person", None);
    ended.result.unwrap();
    let hash = lab.users().users["ci"].password_hash.clone();
    assert!(ended.out.is_empty() && is_password(hash.as_ref(), "chosen by a person"));

    let told = said(&lab, "revoke amy");
    assert!(
        told.contains("`amy` still works; to change it too, write another hash at "),
        "{told}"
    );
    assert!(refused(&lab, "revoke amy --password").contains("`amy` is defined at "));
}

#[test]
fn weak_passwords_are_refused_and_stored_hashes_are_not() {
    let lab = Lab::new();
    for (input, why) in [("short", "5 characters"), ("password2027", "common")] {
        let ended = lab.run_with("add ann --password-stdin", input, None);
        let error = format!("{:#}", ended.result.unwrap_err());
        assert!(
            error.contains("too easy to guess") && error.contains(why),
            "{error}"
        );
    }
    lab.run("add bob").result.unwrap();
    let path = lab.directory.path().join("users.yml");
    let weak = bcrypt::hash("abc", 4).unwrap();
    let mut users = lab.users();
    users.users.get_mut("bob").unwrap().password_hash = Some(weak.clone());
    fs::write(&path, users.render()).unwrap();
    said(&lab, "grant bob --pull a");
    assert_eq!(lab.users().users["bob"].password_hash, Some(weak));
}

#[test]
fn a_lost_users_file_is_made_again_only_if_that_is_asked_for() {
    let lab = Lab::new();
    said(&lab, "add ann --admin");
    let path = lab.directory.path().join("users.yml");
    let own = lab.directory.path().join("data/boathouse");
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("parts"), "users\n").unwrap();
    fs::remove_file(&path).unwrap();
    let error = refused(&lab, "add admin --admin");
    assert!(
        error.contains("hint: restore it from a backup; without one: boathouse user add admin --admin --recreate-missing"),
        "{error}"
    );
    assert!(!path.exists());
    said(&lab, "add admin --admin --recreate-missing");
    assert_eq!(lab.users().users.len(), 1);
}

#[test]
fn a_hash_for_a_config_file_is_printed_and_nothing_is_written() {
    let print = |line: &[&str], input: &str| {
        let command = Action::augment_subcommands(clap::Command::new("user"));
        let words = ["user", "passwd", "--hash"].iter().chain(line);
        let matches = command.try_get_matches_from(words).unwrap();
        let Ok(Action::Passwd(arguments)) = Action::from_arg_matches(&matches) else {
            panic!("passwd");
        };
        let (mut out, mut talk) = (Vec::new(), Vec::new());
        print_hash(&arguments, &mut input.as_bytes(), &mut out, &mut talk).map(|()| {
            let talk = String::from_utf8(talk).unwrap();
            assert!(talk.contains("nothing was changed"), "{talk}");
            String::from_utf8(out).unwrap()
        })
    };
    // The line is one of a configuration.
    let check = |entry: &str, name: &str, password: &str| {
        let lab = Lab::configured(&format!("users:\n{entry}acl: []\n"));
        let users = lab.load().config.auth.users();
        assert!(is_password(users[name].password_hash.as_ref(), password));
    };
    let entry = print(&["ann@lab", "--password-stdin"], "correct horse\n").unwrap();
    check(&entry, "ann@lab", "correct horse");
    let printed = print(&["ci"], "").unwrap();
    let (password, entry) = printed.split_once('\n').unwrap();
    check(entry, "ci", password);
    assert!(print(&["ann", "--password-stdin"], "weak").is_err());
}
