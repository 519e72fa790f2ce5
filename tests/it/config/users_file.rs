//! The file that `user add` keeps: what it adds, and that it reads back.

use super::*;

#[test]
fn the_users_file_adds_users_and_rules() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("users.yml");
    fs::write(&path, "users: {amy: {password: $2y$x, expires: 2030-01-01T00:00:00Z}}\nacl: [{match: {account: amy}, actions: ['*']}]\nrevoked: {bob: 2026-01-01T00:00:00Z}\n").expect("written");
    let config = |users: &str| load(&format!("users_file: {}\n{users}", path.display()));
    let auth = config("users: {bob: {}}\nacl: [{match: {}, actions: []}]\n")
        .expect("taken")
        .config
        .auth;
    assert_eq!(auth.users().keys().collect::<Vec<_>>(), ["amy", "bob"]);
    assert_eq!(auth.rules().len(), 2);
    assert_eq!(auth.rules()[1].text().account.as_deref(), Some("amy"));
    assert_eq!(auth.revoked()["bob"], 1_767_225_600);
    assert_eq!(auth.users()["amy"].expires_unix_secs, Some(1_893_456_000));
    let errors = config("users: {amy: {}}\n").expect_err("both").to_string();
    assert!(
        errors.contains("users.amy: this user is in the users_file too"),
        "{errors}"
    );

    fs::write(&path, "users: {amy: {expires: tomorrow}}\nacls: []\n").expect("written");
    let errors = config("").expect_err("refused").to_string();
    assert!(
        errors.contains("users.yml:1: users.amy.expires: must be a moment"),
        "{errors}"
    );
    assert!(
        errors.contains("users.yml:2: acls: unknown key\nhint: did you mean `acl`?"),
        "{errors}"
    );
}

#[test]
fn the_users_file_is_replaced_whole_and_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("users.yml");
    fs::write(
        directory.path().join("users.yml.new"),
        "left over by a crash",
    )
    .expect("written");
    UsersFile::update(&path, |file| {
        file.users.insert(
            "admin".to_owned(),
            User {
                password_hash: Some("$2y$x".to_owned()),
                ..User::default()
            },
        );
        file.acl.push(RuleText {
            account: Some("admin".to_owned()),
            actions: vec!["*".to_owned()],
            ..RuleText::default()
        });
        Ok::<_, UsersFileError>(())
    })
    .expect("written");
    let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["users.yml", "users.yml.lock"]);
    let lock = fs::metadata(directory.path().join("users.yml.lock")).expect("there");
    assert_eq!(
        lock.permissions().mode() & 0o777,
        0o600,
        "others may lock it"
    );
    // Whoever may read the directory can lock it, and keeps nobody from revoking anything.
    let foreign = fs::File::open(directory.path()).expect("opened");
    foreign.try_lock().expect("locked");

    let link = directory.path().join("link.yml");
    std::os::unix::fs::symlink("users.yml", &link).expect("a link");
    let through_the_link: Result<_, UsersFileError> = UsersFile::update(&link, |file| {
        file.revoked.insert("y".to_owned(), 1);
        Ok(())
    });
    through_the_link.expect("written");
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert_eq!(UsersFile::read(&path).expect("read").revoked["y"], 1);

    let threads: Vec<_> = (0..8)
        .map(|number| {
            let path = path.clone();
            std::thread::spawn(move || {
                UsersFile::update(&path, |file| {
                    file.users.insert(format!("u{number}"), User::default());
                    Ok::<_, UsersFileError>(())
                })
                .expect("written");
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!(UsersFile::read(&path).expect("read").users.len(), 9);

    let before = fs::read(&path).expect("read");
    UsersFile::update(&path, |file| {
        file.revoked.insert("x".to_owned(), u64::MAX);
        Ok::<_, UsersFileError>(())
    })
    .expect_err("no such moment");
    assert_eq!(fs::read(&path).expect("read"), before);
    let refused: Result<((), _), UsersFileError> = UsersFile::update(&path, |file| {
        file.users.clear();
        Err(UsersFileError::Unwritable { path: path.clone() })
    });
    refused.expect_err("the change was refused");
    assert_eq!(fs::read(&path).expect("read"), before);
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-z0-9$/.*:#~-]{0,12}",
        Just("null".to_owned()),
        Just("~".to_owned()),
        Just("<<".to_owned()),
        prop::collection::vec(any::<char>(), 0..12).prop_map(String::from_iter),
    ]
}

fn labels<T: Strategy>(value: T) -> impl Strategy<Value = BTreeMap<String, T::Value>> {
    prop::collection::btree_map(text(), value, 0..3)
}

fn moment() -> impl Strategy<Value = u64> {
    0..253_402_300_800_u64
}

fn account() -> impl Strategy<Value = User> {
    (
        prop::option::of(text()),
        labels(prop::collection::vec(text(), 0..3)),
        prop::option::of(moment()),
        prop::option::of(moment()),
    )
        .prop_map(
            |(password_hash, labels, expires_unix_secs, valid_after_unix_secs)| User {
                password_hash,
                labels,
                expires_unix_secs,
                valid_after_unix_secs,
            },
        )
}

fn rule() -> impl Strategy<Value = RuleText> {
    let fields = prop::collection::vec(prop::option::of(text()), 6);
    (fields, labels(text()), prop::collection::vec(text(), 0..3)).prop_map(
        |(fields, labels, actions)| RuleText {
            account: fields[0].clone(),
            r#type: fields[1].clone(),
            name: fields[2].clone(),
            service: fields[3].clone(),
            ip: fields[4].clone(),
            comment: fields[5].clone(),
            labels,
            actions,
            place: String::new(),
        },
    )
}

proptest! {
    #[test]
    fn what_the_users_file_writer_writes_reads_back(
        users in prop::collection::btree_map(text(), account(), 0..4),
        acl in prop::collection::vec(rule(), 0..4),
        revoked in prop::collection::btree_map(text(), moment(), 0..3),
    ) {
        let written = UsersFile { users, acl, revoked };
        let text = written.render();
        let mut read = UsersFile::parse(&text, &Place::variable("x")).map_err(|errors| TestCaseError::fail(format!("{errors}\n{text}")))?;
        for rule in &mut read.acl {
            rule.place.clear();
        }
        prop_assert_eq!(read, written);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in prop_oneof![
        ".{0,200}",
        "([a-z]{0,4}|users|acl|http|[\\[\\]{}:,&*!|>'\"#%@ \n\t-]|- |: |\n  |---\n|<<|é|\u{feff}){0,60}",
    ]) {
        let _ = UsersFile::parse(&text, &Place::variable("x"));
        let _ = load_with(&[&text, STORAGE], &[("REGISTRY_HTTP", &text)]);
    }
}
