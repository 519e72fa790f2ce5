//! What `up` writes at first, and what `check` shows.

use super::*;
use crate::lab::Lab;
use crate::program::{Ran, ran};

/// Of files that no machine has: a file of users would be read.
fn template(hosts: &[&str]) -> Template {
    Template {
        directory: "/etc/boathouse".into(),
        address: "[::]:5443".to_owned(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        storage: TemplateStorage::Directory("/nonexistent/a b/\"data\"".into()),
        ca_certificate: "/nonexistent/ca.crt".into(),
        keys_directory: "/nonexistent/keys".into(),
        users_file: "/nonexistent/users.yml".into(),
        state_directory: "/nonexistent/state".into(),
    }
}

#[test]
fn the_template_reads_back() {
    let text = template(&["lab.local", "192.0.2.7"]).render();
    let config = load_with(&[&text], &[])
        .unwrap_or_else(|errors| panic!("{errors}"))
        .config;
    assert_eq!(config.server.address.to_string(), "[::]:5443");
    assert_eq!(config.storage.to_string(), "/nonexistent/a b/\"data\"");
    assert_eq!(config.state_directory, Path::new("/nonexistent/state"));
    assert!(config.auth.required);
    assert_eq!(
        config.tls,
        tls::Settings::Automatic {
            ca_certificate: "/nonexistent/ca.crt".into(),
            keys_directory: "/nonexistent/keys".into(),
            hosts: vec!["lab.local".to_owned(), "192.0.2.7".to_owned()],
        }
    );
}

#[test]
fn uncommenting_every_default_changes_nothing() {
    let text = template(&[]).render();
    let uncommented: String = text
        .lines()
        .map(|line| {
            let indent = line.len() - line.trim_start().len();
            match line.trim_start().strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => format!("{}{key}\n", &line[..indent]),
                _ => format!("{line}\n"),
            }
        })
        .collect();
    assert!(
        uncommented
            .lines()
            .filter(|line| !line.contains('#'))
            .count()
            > 50
    );
    let load = |text: &str| load_with(&[text], &[]).unwrap_or_else(|errors| panic!("{errors}"));
    let (plain, full) = (load(&text), load(&uncommented));
    assert_eq!(format!("{:?}", plain.config), format!("{:?}", full.config));
    assert_eq!(plain.warnings.len(), full.warnings.len());
}

#[test]
fn check_shows_what_is_in_force() {
    let run = |text: &str| Lab::configured(text).run(&["check", "--verbose"]);
    let storage = "storage: {filesystem: {rootdirectory: DIR/images}}\n";
    let Ran { code, out, talk } = run(&format!("{storage}redis: {{addr: x}}\n"));
    assert_eq!(code, Some(0));
    assert!(
        out.contains("storage.filesystem.rootdirectory: /")
            && out.contains("/images  # ")
            && out.contains("boathouse.yml:1\n"),
        "{out}"
    );
    assert!(
        out.contains("limits.connections: 1024  # default\n"),
        "{out}"
    );
    assert!(
        talk.contains("note: ")
            && talk.contains("redis has no effect")
            && talk.contains("warning: "),
        "{talk}"
    );
    let lab = Lab::configured(&format!("{storage}redis: {{addr: x}}\n"));
    let brief = lab.run(&["check"]).fine();
    assert!(
        brief.lines().count() == 1 && brief.contains("which --verbose prints"),
        "{brief}"
    );
    let Ran { code, out, talk } = run("http: {}\n");
    assert!(
        code == Some(1) && out.is_empty() && talk.starts_with("error: storage: no storage"),
        "{code:?}{out}{talk}"
    );
}

#[test]
fn check_finds_what_up_has_set_up() {
    let lab = Lab::empty();
    let check = || ran(&["check", "--verbose", "--dir", &lab.place("")], &[], "");
    let nothing = check();
    assert_eq!(nothing.code, Some(1));
    assert!(
        nothing.talk.contains("hint: name the installation"),
        "{}",
        nothing.talk
    );
    let text = "storage: {filesystem: {rootdirectory: DIR/data}}\nhttp: {addr: 'localhost:1'}\n";
    lab.configure("boathouse.yml", text);
    std::fs::create_dir_all(lab.path("data/docker")).unwrap();
    let found = check();
    assert_eq!(found.code, Some(0), "{}", found.talk);
    let file = lab.place("boathouse.yml");
    assert!(
        found.talk.contains(&format!("note: using {file}")),
        "{}",
        found.talk
    );
    assert!(found.out.contains("localhost:1"), "{}", found.out);
}

#[test]
fn the_file_for_a_bucket_names_it_and_holds_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let key_file = |name: &str| {
        let path = directory.path().join(name);
        fs::write(&path, format!("of {name}\n")).unwrap();
        path
    };
    let files = (key_file("access"), key_file("secret"));
    for (endpoint, key_files) in [(Some("http://minio.lab:9000"), Some(files)), (None, None)] {
        let text = Template {
            storage: TemplateStorage::Bucket(TemplateBucket {
                endpoint: endpoint.map(str::to_owned),
                bucket: "images".to_owned(),
                region: "us-east-1".to_owned(),
                key_files: key_files.clone(),
            }),
            ..template(&[])
        }
        .render();
        assert!(
            !text.contains("filesystem") && !text.contains("of secret"),
            "{text}"
        );
        let loaded = load_with(&[&text], &[]).unwrap_or_else(|errors| panic!("{errors}"));
        let store::Settings::Bucket(bucket) = loaded.config.storage else {
            panic!("a bucket: {text}");
        };
        assert_eq!(bucket.bucket, "images");
        assert_eq!(bucket.endpoint.as_deref(), endpoint);
        let has_keys = matches!(bucket.credentials, store::s3::Credentials::Keys { .. });
        assert_eq!(has_keys, key_files.is_some());
        assert_eq!(
            bucket.spool_directory,
            Path::new("/nonexistent/state/spool")
        );
    }
}
