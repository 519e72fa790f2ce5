//! `ext_auth` and `ext_authz`.

use super::*;

fn in_path(text: &str, path: &str) -> Result<Loaded, ConfigErrors> {
    load_with(&[text, STORAGE], &[("PATH", path)])
}

#[test]
fn an_external_decider_turns_authentication_on_and_stands_for_a_list() {
    for text in [
        "ext_auth: {command: /bin/sh}\nacl: []\n",
        "ext_authz: {command: /bin/sh}\nusers: {}\n",
        "ext_auth: {command: /bin/sh}\next_authz: {command: /bin/sh, args: [-c, 'exit 0']}\n",
    ] {
        assert!(taken(text).config.auth.required, "{text}");
    }
    for (text, missing) in [
        ("ext_auth: {command: /bin/sh}\n", "acl: no rules"),
        ("ext_authz: {command: /bin/sh}\n", "users: no users"),
        ("ext_auth:\nacl: []\n", "users: no users"),
        ("ext_authz:\nusers: {}\n", "acl: no rules"),
    ] {
        let message = refused(text);
        assert!(message.contains(missing), "{text}{message}");
    }
}

#[test]
fn a_program_must_be_there_when_the_configuration_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir(directory.path().join("folder")).expect("made");
    fs::write(directory.path().join("plain"), "").expect("written");
    let here = directory.path().display().to_string();
    let both = format!("{here}:/bin");
    let text =
        |command: &str| format!("users: {{}}\nacl: []\next_auth: {{command: '{command}'}}\n");
    for (command, path, problem) in [
        ("", "/bin", "missing"),
        ("sh", "", "no such program in PATH"),
        ("plain", &both, "no such program in PATH"),
        ("../bin/sh", "/bin", "no such program"),
        (&format!("{here}/folder"), "", "is a directory"),
        (&format!("{here}/plain"), "", "is not executable"),
        (&format!("{here}/none"), "", "no such program"),
    ] {
        let refused = in_path(&text(command), path)
            .expect_err(command)
            .to_string();
        assert!(refused.contains(problem), "{command}: {refused}");
        assert!(refused.contains("ext_auth.command"), "{refused}");
    }
    for (command, path) in [("sh", both.as_str()), ("/bin/sh", "")] {
        in_path(&text(command), path).expect(command);
    }
}

#[test]
fn an_external_decider_is_named_as_what_is_not_asked() {
    let notes = taken("ext_auth: {command: /bin/sh}\next_authz: {command: /bin/sh}\n").notes;
    for start in ["ext_auth decides", "ext_authz decides"] {
        assert!(
            notes.iter().any(|note| note.starts_with(start)),
            "{notes:?}"
        );
    }
}

#[test]
fn an_account_elsewhere_may_be_revoked_and_have_rules() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("users.yml");
    fs::write(&path, "revoked: {bbo: 2026-01-01T00:00:00Z}\n").expect("written");
    let loaded = taken(&format!(
        "http: {{addr: 'localhost:1', secret: sixteen-letters-}}\next_auth: {{command: /bin/sh}}\nusers_file: {}\nacl: [{{match: {{account: bbo}}, actions: [pull]}}]\n",
        path.display()
    ));
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(loaded.config.auth.mistakes(0), []);
}

#[test]
fn htpasswd_stands_alone() {
    let message = refused(
        "auth: {htpasswd: {realm: lab, path: /dev/null}}\next_auth: {command: /bin/sh}\next_authz: {command: /bin/sh}\n",
    );
    for key in ["ext_auth: cannot stand", "ext_authz: cannot stand"] {
        assert!(message.contains(key), "{message}");
    }
}
