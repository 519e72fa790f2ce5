//! `boathouse up --from`: an old installation becomes ours, with the same meaning, and the old files stay as they were.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use boathouse::config::{self, Loaded};
use http::StatusCode;

use crate::golden::golden;
use crate::guide;
use crate::lab::Lab;
use crate::program::{Ran, command};

const PASSWORD: &str = "the old password";
const SECRET: &str = "thisisasecretforhttp";

/// What no reading of a plain installation may change.
const PLAIN: &str =
    "storage: {filesystem: {rootdirectory: DIR/registry-data}}\nhttp: {addr: '0.0.0.0:0'}\n";

/// The two files of the guide, and some data.
fn old_installation() -> Lab {
    let lab = Lab::empty();
    let hash = bcrypt::hash(PASSWORD, 4).unwrap();
    let more = "store\", headers: {X-A: [b]}}";
    let registry = guide::REGISTRY.replace("store\"}", more);
    lab.configure("registry.yml", &registry);
    let auth_config = guide::AUTH_CONFIG.replace("HASH", &hash) + "    comment: everybody\n";
    lab.configure("auth_config.yml", &auth_config);
    fs::create_dir_all(lab.path("registry-data/docker/registry/v2/repositories")).unwrap();
    let (certificate, key) = (lab.place("certs/cert.pem"), lab.place("certs/privkey.pem"));
    let line = [
        "token-key",
        "make",
        "--certificate",
        &certificate,
        "--key",
        &key,
    ];
    Ran::of(&mut command(&line, &[]), "").fine();
    lab
}

fn up(lab: &Lab, files: &[&str], more: &[&str]) -> Command {
    let mut command = command(&["up"], &[]);
    for file in files {
        command.arg("--from").arg(lab.path(file));
    }
    command.args(more);
    command
}

const BOTH: [&str; 2] = ["registry.yml", "auth_config.yml"];

/// Every key in force with its value, but for where users and rules are kept.
fn values(loaded: &Loaded) -> Vec<String> {
    let moved = ["users", "acl", "users_file"];
    let keys = loaded.in_force.iter();
    let keys = keys.filter(|key| !moved.contains(&key.key.as_str()));
    let value = |key: &config::InForce| match &key.value {
        config::Value::Secret(secret) => format!("{}: {}", key.key, secret.expose()),
        value => format!("{}: {value}", key.key),
    };
    keys.map(value).collect()
}

fn rules(loaded: &Loaded) -> Vec<String> {
    let rules = loaded.config.auth.rules();
    let texts = rules.iter().map(|rule| {
        let mut text = rule.text().clone();
        text.place.clear();
        format!("{text:?}")
    });
    texts.collect()
}

fn load(lab: &Lab, files: &[&str]) -> Loaded {
    let files: Vec<_> = files.iter().map(|file| lab.path(file)).collect();
    config::load(&files, &BTreeMap::new()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Without what differs from run to run.
fn shown(lab: &Lab, text: &str) -> String {
    let text = lab.shown(text);
    let digest = regex::Regex::new("sha256:[0-9a-f]{64}|\\$2[aby]\\$[^'\"]*").unwrap();
    digest.replace_all(&text, "HEX").into_owned()
}

#[tokio::test]
async fn the_guide_s_installation_becomes_ours_with_the_same_meaning() {
    let lab = old_installation();
    let before = BOTH.map(|file| lab.read(file));
    let key = lab.read("certs/privkey.pem");
    let mut program = lab.serve_by(&mut up(&lab, &BOTH, &[])).await;
    program.says("listening for token requests").await;
    golden("taken-over.yml", &shown(&lab, &lab.read("boathouse.yml")));
    golden("taken-over-users.yml", &shown(&lab, &lab.read("users.yml")));
    let log = program.log();
    let (report, _) = log.split_once("prints one that does.\n").expect("a report");
    golden("taken-over.txt", &shown(&lab, report));
    for secret in [SECRET, "$2b$", "<redacted>"] {
        assert!(!log.contains(secret), "{log}");
    }
    // The old password, under the old names, and an old name for the account.
    let path = "/token?service=jarosik-oci-service&scope=repository:team/app:pull,push";
    let login = |password: &'static str| program.get(path).basic("tjarosik", password).send();
    login(PASSWORD).await.expect(StatusCode::OK);
    let (old, new) = (load(&lab, &BOTH), load(&lab, &["boathouse.yml"]));
    assert_eq!(values(&old), values(&new));
    assert_eq!(old.config.auth.users(), new.config.auth.users());
    assert_eq!(rules(&old), rules(&new));
    // Commands change what was the configuration's.
    let directory = lab.place("");
    let passwd = [
        "user",
        "passwd",
        "tjarosik",
        "--dir",
        &directory,
        "--password-stdin",
    ];
    Ran::of(&mut command(&passwd, &[]), "another password").fine();
    login(PASSWORD).await.expect(StatusCode::UNAUTHORIZED);
    login("another password").await.expect(StatusCode::OK);
    program.end();
    assert_eq!(BOTH.map(|file| lab.read(file)), before);
    assert_eq!(lab.read("certs/privkey.pem"), key);
    for file in ["boathouse.yml", "users.yml"] {
        let mode = fs::metadata(lab.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // The same again only serves, in any order of the files.
    let changed = lab.read("users.yml");
    lab.serve_by(&mut up(&lab, &BOTH, &[])).await.end();
    let turned = [BOTH[1], BOTH[0]];
    lab.serve_by(&mut up(&lab, &turned, &["--dir", &directory]))
        .await
        .end();
    assert_eq!(lab.read("users.yml"), changed);
}

/// What was changed in the old files is listed, and nothing that was added here since is lost.
#[tokio::test]
async fn files_that_were_changed_since_are_compared_and_not_taken_over_again() {
    let lab = old_installation();
    lab.serve_by(&mut up(&lab, &BOTH, &[])).await.end();
    let directory = lab.place("");
    let add = [
        "user", "add", "ci", "--pull", "team/**", "--dir", &directory,
    ];
    Ran::of(&mut command(&add, &[]), "").fine();
    let (config, users) = (lab.read("boathouse.yml"), lab.read("users.yml"));
    let refused = || Ran::of(&mut up(&lab, &BOTH, &[]), "").failed();

    // A comment has no meaning: `ci`, which only the new file has, is no difference of that file either.
    let registry = lab.read("registry.yml");
    lab.write("registry.yml", registry.clone() + "# more\n");
    let log = lab.serve_by(&mut up(&lab, &BOTH, &[])).await.end();
    assert!(log.contains("nothing that has an effect"), "{log}");

    lab.write(
        "registry.yml",
        registry.replace("enabled: true", "enabled: false"),
    );
    let said = shown(&lab, &refused());
    assert!(
        said.contains(
            "DIR/registry.yml changed since DIR/boathouse.yml was made from it; nothing was changed"
        ) && said
            .contains("\n  storage.delete.enabled: DIR/registry.yml:10 and DIR/boathouse.yml:")
            && !said.contains("\n  users"),
        "{said}"
    );
    lab.write("registry.yml", &registry);

    let auth = lab.read("auth_config.yml");
    let changed = auth.replace("\"marcin\"", "\"martin\"");
    lab.write("auth_config.yml", &changed);
    let said = shown(&lab, &refused());
    for line in [
        "users.martin: only at DIR/auth_config.yml:",
        "users.marcin: only in DIR/users.yml",
        "users.ci: only in DIR/users.yml",
        "acl: a rule only at DIR/auth_config.yml:",
        "acl: a rule only at DIR/users.yml:",
        "hint: write what you want to bring over into DIR/boathouse.yml, users and rules in DIR/users.yml; what was added there since stays",
        "hint: `boathouse up --dir DIR` starts",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(!said.contains("tjarosik"), "{said}");

    let other = Ran::of(&mut up(&lab, &["registry.yml"], &[]), "").failed();
    assert!(other.contains("was made from other files: "), "{other}");
    assert_eq!(
        (lab.read("boathouse.yml"), lab.read("users.yml")),
        (config, users)
    );
}

/// What is written into the new file is not called left out.
#[tokio::test]
async fn only_keys_that_are_not_in_the_new_file_are_left_out() {
    let lab = Lab::empty();
    let more = "server: {hsts: true}\nlog: {fields: {service: registry}}\n";
    lab.configure("registry.yml", &(PLAIN.to_owned() + more));
    fs::create_dir_all(lab.path("registry-data/docker")).unwrap();
    let log = lab
        .serve_by(&mut up(&lab, &["registry.yml"], &[]))
        .await
        .end();
    let said = shown(&lab, &log);
    assert!(
        said.contains("  left out      DIR/registry.yml:4: log.fields has no effect"),
        "{said}"
    );
    assert!(
        said.contains("  note          server.hsts: has no effect"),
        "{said}"
    );
    assert!(lab.read("boathouse.yml").contains("hsts: true"));
}

/// Clients that come over plain HTTP without a proxy are the only ones for whom something changes, and that is printed.
#[tokio::test]
async fn own_certificates_are_made_where_there_were_none_and_no_proxy_has_any() {
    for (more, arguments, is_own) in [
        ("", &[][..], true),
        ("", &["--tls", "keep"], false),
        ("  trusted_proxies: [127.0.0.1]\n", &[], false),
        (
            "  trusted_proxies: [127.0.0.1]\n",
            &["--tls", "own", "--host", "lab.example"],
            true,
        ),
        ("  host: http://lab.example\n", &[], false),
    ] {
        let lab = Lab::empty();
        let text = PLAIN.replace("{addr: '0.0.0.0:0'}\n", "\n  addr: '0.0.0.0:0'\n");
        lab.configure("registry.yml", &(text + more));
        fs::create_dir_all(lab.path("registry-data/docker")).unwrap();
        let program = lab
            .serve_by(&mut up(&lab, &["registry.yml"], arguments))
            .await;
        let log = program.end();
        assert_eq!(
            lab.path("ca.crt").exists(),
            is_own,
            "{more}{arguments:?}\n{log}"
        );
        let said = "certificates  of an authority of its own";
        assert_eq!(log.contains(said), is_own, "{log}");
        assert_eq!(log.contains("certificates  as before: "), !is_own, "{log}");
        assert!(!lab.path("users.yml").exists());
        let config = load(&lab, &["boathouse.yml"]).config;
        assert_eq!(config.tls != boathouse::tls::Settings::None, is_own);
        assert!(!config.auth.required);
    }
}

/// The old programs start by their old files, so what these hold is not lost.
#[tokio::test]
async fn the_way_back_names_what_changed_since_and_nothing_else() {
    let lab = old_installation();
    lab.serve_by(&mut up(&lab, &BOTH, &[])).await.end();
    let check = |code: i32| {
        let ran = lab.run(&["check", "--hand-back"]);
        assert_eq!(ran.code, Some(code), "{}{}", ran.out, ran.talk);
        lab.shown(&ran.out)
    };
    assert_eq!(check(0), "0 repositories looked through: 0 findings\n");
    for line in [
        &["user", "add", "ann", "--pull", "a", "--password-stdin"][..],
        &["user", "passwd", "tjarosik", "--password-stdin"],
        &["user", "remove", "marcin"],
    ] {
        lab.run_with(line, "another password").fine();
    }
    let text = check(1);
    for expected in [
        "DIR/users.yml: an account of the users file (ann); ",
        "DIR/users.yml: an account whose password, labels or end have changed since (tjarosik); ",
        "DIR/users.yml: an account that was removed since (marcin); 2.8 and 3.1: can log in again; ",
        "DIR/users.yml: rules that have changed since (3 before, ",
        ": 4 findings\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    fs::remove_file(lab.path("auth_config.yml")).unwrap();
    let text = check(1);
    let expected = "2.8 3.1  DIR/registry.yml, DIR/auth_config.yml: the files from which this configuration was made cannot be read (no such file); ";
    assert!(text.starts_with(expected), "{text}");
}

#[tokio::test]
async fn data_that_are_in_use_are_refused_before_anything_is_written() {
    let lab = old_installation();
    let mut serve = command(&["serve"], &[]);
    for file in BOTH {
        serve.arg("--config").arg(lab.path(file));
    }
    let server = lab.serve_by(&mut serve).await;
    let said = Ran::of(&mut up(&lab, &BOTH, &[]), "").failed();
    for file in ["boathouse.yml", "users.yml"] {
        assert!(!lab.path(file).exists(), "{file} was left behind");
    }
    assert!(
        said.contains("nothing was changed") && said.contains("another instance is running on"),
        "{said}"
    );
    server.end();
    lab.serve_by(&mut up(&lab, &BOTH, &[])).await.end();
}

#[test]
fn an_error_leaves_nothing_behind() {
    let lab = old_installation();
    let refused = |lab: &Lab, more: &[&str]| {
        let refused = Ran::of(&mut up(lab, &BOTH, more), "").failed();
        shown(lab, &refused)
    };
    // The old registry still runs.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let registry = lab.read("registry.yml");
    lab.write("registry.yml", registry.replace("127.0.0.1:0", &address));
    let said = refused(&lab, &[]);
    assert!(
        said.contains("nothing was changed") && said.contains("hint: stop the old registry"),
        "{said}"
    );
    lab.write("registry.yml", &registry);
    // No key.
    fs::rename(lab.path("certs"), lab.path("certs.away")).unwrap();
    assert!(
        refused(&lab, &[])
            .contains("hint: bring them from the old token server, or make them: boathouse")
    );
    fs::rename(lab.path("certs.away"), lab.path("certs")).unwrap();
    for file in ["boathouse.yml", "users.yml"] {
        assert!(!lab.path(file).exists());
    }
    assert!(!lab.path("registry-data/boathouse").exists());
    // A disk that is not mounted.
    let root = lab.path("registry-data");
    fs::rename(&root, lab.path("away")).unwrap();
    assert!(
        refused(&lab, &[]).contains("the directory of the images is missing: DIR/registry-data")
    );
    assert!(!root.exists());
    fs::rename(lab.path("away"), &root).unwrap();
    // What is not ours to replace.
    lab.write("users.yml", "users: {eve: {}}\n");
    assert!(refused(&lab, &[]).contains("users.yml exists already, with other users or rules"));
    assert!(!lab.path("boathouse.yml").exists());
    fs::remove_file(lab.path("users.yml")).unwrap();
    lab.write("boathouse.yml", "http: {}\n");
    assert!(
        refused(&lab, &[])
            .contains("boathouse.yml exists already, and was not made from these files")
    );
    assert_eq!(lab.read("boathouse.yml"), "http: {}\n");
}
