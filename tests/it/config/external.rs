//! `ext_auth`, `ldap_auth` and `ext_authz`.

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
    let notes = taken(
        "ext_auth: {command: /bin/sh}\next_authz: {command: /bin/sh}\nldap_auth: {addr: 'lab:636'}\n",
    )
    .notes;
    for said in [
        "known to ext_auth and ldap_auth only",
        "ext_authz decides what no rule",
    ] {
        assert!(notes.iter().any(|note| note.contains(said)), "{notes:?}");
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
    assert_eq!(loaded.config.auth.mistakes(), []);
}

#[test]
fn htpasswd_stands_alone() {
    let message = refused(
        "auth: {htpasswd: {realm: lab, path: /dev/null}}\next_auth: {command: /bin/sh}\next_authz: {command: /bin/sh}\n",
    );
    for key in [
        "ext_auth: cannot be combined",
        "ext_authz: cannot be combined",
    ] {
        assert!(message.contains(key), "{message}");
    }
}

#[test]
fn a_directory_is_looked_at_as_far_as_that_is_possible() {
    let lines = |text: &str| {
        let text = format!("http: {{addr: 'localhost:1'}}\nacl: []\nldap_auth: {text}\n");
        taken(&text).warnings
    };
    let whole = "addr: 'ldap.lab:636', base: o=lab, filter: '(uid=${account})'";
    for (text, said) in [
        ("{}", "0.yml:3: ldap_auth.addr: missing"),
        ("{addr: 'ldap.lab:636'}", "0.yml:3: ldap_auth.base: missing"),
        (
            "{addr: 'ldap.lab:636'}",
            "0.yml:3: ldap_auth.filter: does not contain",
        ),
        (
            "{addr: 'ldap.lab:389', filter: '(uid=${account})'}",
            "ldap_auth.tls: the connection is not encrypted",
        ),
        (
            "{addr: 'ldap.lab:636', tls: none, filter: '(uid=${account})'}",
            "is not encrypted",
        ),
        (
            &format!("{{{whole}, insecure_tls_skip_verify: true}}"),
            "is not encrypted",
        ),
        (
            "{addr: 'ldap.lab:636', filter: '(uid=bob)'}",
            "does not contain `${account}`",
        ),
        (
            &format!("{{{whole}, bind_dn: cn=x}}"),
            "0.yml:3: ldap_auth.bind_password_file: missing",
        ),
        (
            &format!("{{{whole}, bind_dn: cn=x, bind_password_file: /no/such}}"),
            "cannot be read",
        ),
        (
            &format!("{{{whole}, ca_certificate: /no/such}}"),
            "cannot be read",
        ),
    ] {
        let warnings = lines(text);
        assert!(
            warnings.iter().any(|line| line.contains(said)),
            "{text}: {warnings:?}"
        );
    }
    for text in [
        &format!("{{{whole}}}"),
        "{addr: 'localhost:389', base: o=lab, filter: '(uid=${account})'}",
        "{addr: 'ldap.lab:389', tls: starttls, base: o=lab, filter: '(uid=${account})'}",
        "{addr: 'ldap.lab:636', tls: '', base: o=lab, filter: '(uid=${account})'}",
    ] {
        assert_eq!(lines(text), Vec::<String>::new(), "{text}");
    }
    for (text, said) in [
        ("{addr: ldap.lab}", "ldap_auth.addr: must be HOST:PORT"),
        (
            "{tls: ssl}",
            "0.yml:2: ldap_auth.tls: unknown value\nhint: one of none, starttls, always",
        ),
        (
            "{filter: '(uid=${account}'}",
            "ldap_auth.filter: not a filter",
        ),
        (
            "{initial_bind_as_user: true, bind_dn: cn=x}",
            "must contain `${account}`",
        ),
        (
            "{labels: {groups: {parse_cn: true}}}",
            "ldap_auth.labels.groups.attribute: missing",
        ),
        (
            "{labels: {groups: {attribute: a, parse_cn: perhaps}}}",
            "must be true or false",
        ),
        ("{labels: {groups: {atribute: a}}}", "unknown key"),
    ] {
        let message = refused(&format!("acl: []\nldap_auth: {text}\n"));
        assert!(message.contains(said), "{text}: {message}");
        assert!(!message.contains("always, "), "{message}");
    }
}
