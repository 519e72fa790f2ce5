//! Directories that are moved, copied or restored in part: what is served is what lies there, whole, or nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::program::{Program, Ran, command, free_address, ran};

const PASSWORD: (&str, &str) = ("BOATHOUSE_ADMIN_PASSWORD", "a-password-for-tests");

struct Lab {
    directory: TempDir,
}

impl Lab {
    /// An installation in `old`, with one repository, whose server has ended.
    async fn installed() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = free_address();
        let lab = Self { directory };
        let server = lab.up("old", &["--addr", &address.to_string()]).await;
        server.end();
        let tag = "old/data/docker/registry/v2/repositories/kept/_manifests/tags/v1/current";
        fs::create_dir_all(lab.path(tag)).unwrap();
        let digest = format!("sha256:{}", "0".repeat(64));
        fs::write(lab.path(tag).join("link"), digest).unwrap();
        lab
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    async fn up(&self, name: &str, more: &[&str]) -> Program {
        let directory = self.path(name);
        let arguments = [&["up", "--dir", directory.to_str().unwrap()], more].concat();
        let mut program =
            Program::start(&self.path(&format!("{name}.log")), &arguments, &[PASSWORD]);
        program.says("the index is up to the store").await;
        program
    }

    /// A start that must come to nothing.
    async fn refused(&self, name: &str) -> String {
        let directory = self.path(name);
        let arguments = ["up", "--dir", directory.to_str().unwrap()];
        let log = self.path(&format!("{name}.log"));
        Program::start(&log, &arguments, &[PASSWORD])
            .refuses()
            .await
    }

    /// Whether the running server has the repository.
    fn has_the_repository(&self, name: &str) -> bool {
        let directory = self.path(name);
        let place = ["--dir", directory.to_str().unwrap()];
        let status = timed(&[&["status", "--json"], &place[..]].concat());
        assert!(
            !status.talk.contains("no server listens"),
            "{}",
            status.talk
        );
        let status: serde_json::Value = serde_json::from_str(&status.fine()).unwrap();
        status["repositories"] == 1
    }
}

fn timed(arguments: &[&str]) -> Ran {
    ran(arguments, &[PASSWORD], "")
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_directory_that_was_moved_or_copied_is_what_is_served() {
    let lab = Lab::installed().await;
    let config = fs::read_to_string(lab.path("old/boathouse.yml")).unwrap();
    let place = lab.directory.path().to_str().unwrap();
    assert!(!config.contains(place), "{config}");
    let authority = fs::read(lab.path("old/ca.crt")).unwrap();

    // Moved: the old place is gone, and stays so.
    fs::rename(lab.path("old"), lab.path("moved")).unwrap();
    let server = lab.up("moved", &[]).await;
    assert!(lab.has_the_repository("moved"));
    assert_eq!(fs::read(lab.path("moved/ca.crt")).unwrap(), authority);
    assert!(!lab.path("old").exists());

    // Copied while it runs, with its socket and its mark: the copy is an installation of its own.
    copy(&lab.path("moved"), &lab.path("copy"));
    let said = lab.refused("copy").await;
    assert!(
        said.contains("cannot listen") && said.contains("hint: "),
        "{said}"
    );
    let other = free_address().to_string();
    let directory = lab.path("copy");
    let arguments = ["up", "--dir", directory.to_str().unwrap()];
    let environment = [("REGISTRY_HTTP_ADDR", other.as_str())];
    let mut copied = Program::start(&lab.path("copy.log"), &arguments, &environment);
    copied.says("the index is up to the store").await;
    let removed = timed(&[
        "user",
        "remove",
        "admin",
        "--dir",
        directory.to_str().unwrap(),
    ]);
    assert!(
        removed.talk.contains("the running server goes by it now"),
        "{}",
        removed.talk
    );
    removed.fine();
    assert!(
        lab.has_the_repository("moved"),
        "another installation was changed"
    );
    let said = timed(&["status", "--dir", directory.to_str().unwrap()]);
    assert!(!said.talk.contains("no server listens"), "{}", said.talk);
    drop((server, copied));
}

#[tokio::test]
async fn absolute_paths_are_read_as_before_and_a_copy_says_so() {
    let lab = Lab::installed().await;
    // As earlier versions wrote it.
    let file = lab.path("old/boathouse.yml");
    let old = lab.path("old");
    let old = old.to_str().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let text = text
        .replace("relative_paths: config_directory\n", "")
        .replace(
            "state_directory: \".\"",
            &format!("state_directory: \"{old}\""),
        )
        .replace(": \"ca.crt\"", &format!(": \"{old}/ca.crt\""))
        .replace(": \"keys\"", &format!(": \"{old}/keys\""))
        .replace(": \"users.yml\"", &format!(": \"{old}/users.yml\""))
        .replace(": \"data\"", &format!(": \"{old}/data\""));
    assert_eq!(text.matches(old).count(), 5, "{text}");
    fs::write(&file, text).unwrap();
    copy(&lab.path("old"), &lab.path("copy"));
    let server = lab.up("copy", &[]).await;
    assert!(lab.has_the_repository("copy"));
    let log = server.end();
    assert!(
        log.contains("outside of") && log.contains("old/data"),
        "{log}"
    );
    // With the old place gone, nothing is made there.
    fs::rename(lab.path("old"), lab.path("elsewhere")).unwrap();
    let said = lab.refused("copy").await;
    assert!(
        said.contains("not complete") && said.contains("hint: restore"),
        "{said}"
    );
    assert!(!lab.path("old").exists());
}

#[tokio::test]
async fn a_part_that_is_missing_is_named_and_made_again_only_when_asked() {
    let lab = Lab::installed().await;
    for (part, paths) in [
        ("certificate authority", &["ca.crt"][..]),
        ("certificate authority", &["keys/ca.key"]),
        (
            "certificate authority",
            &["ca.crt", "keys/ca.key", "keys/tls.crt", "keys/tls.key"],
        ),
        ("key for tokens", &["keys/token.key"]),
        ("users", &["users.yml"]),
        ("data", &["data"]),
        // A disk that is not mounted.
        ("data", &["data/docker", "data/boathouse"]),
    ] {
        let name = "copy";
        copy(&lab.path("old"), &lab.path(name));
        for path in paths {
            let path = lab.path(name).join(path);
            fs::remove_dir_all(&path)
                .or_else(|_| fs::remove_file(&path))
                .unwrap();
        }
        let before = listed(&lab.path(name));
        let said = lab.refused(name).await;
        assert!(
            said.contains(&format!("missing: {part} (")),
            "{part}: {said}"
        );
        assert!(said.contains("--recreate-missing"), "{said}");
        assert_eq!(
            listed(&lab.path(name)),
            before,
            "{paths:?}: something was made"
        );

        let server = lab.up(name, &["--recreate-missing"]).await;
        let has_data = part != "data";
        assert_eq!(
            lab.has_the_repository(name),
            has_data,
            "{paths:?}: {}",
            server.log()
        );
        server.end();
        let server = lab.up(name, &[]).await;
        server.end();
        fs::remove_dir_all(lab.path(name)).unwrap();
    }
}

/// Every path below, but for locks.
fn listed(directory: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path.clone());
            }
            if path.extension().is_none_or(|end| end != "lock") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths
}

#[tokio::test]
async fn serve_refuses_when_what_was_there_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let place = directory.path().display();
    let address = free_address();
    let text = format!(
        "http: {{addr: '{address}'}}\nstorage: {{filesystem: {{rootdirectory: {place}/data}}}}\n\
         tls: {{ca_certificate: {place}/ca.crt, keys_directory: {place}/keys}}\n\
         users_file: {place}/users.yml\nacl: []\n"
    );
    let config = path("c.yml");
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap().to_owned();
    let start = |more: &[&str]| {
        let arguments = [&["serve", "--config", config.as_str()], more].concat();
        Program::start(&path("log"), &arguments, &[])
    };
    // The first start makes what is missing, as ever.
    let mut server = start(&[]);
    server.says("the index is up to the store").await;
    server.end();
    ran(&["user", "add", "ann", "--config", &config], &[], "").fine();
    let mut server = start(&[]);
    server.says("the index is up to the store").await;
    server.end();
    for name in ["users.yml", "ca.crt", "data"] {
        fs::rename(path(name), path("aside")).unwrap();
        let said = start(&[]).refuses().await;
        assert!(said.contains("missing: ") && said.contains(name), "{said}");
        assert!(!path(name).exists());
        fs::rename(path("aside"), path(name)).unwrap();
    }
    fs::rename(path("data"), path("aside")).unwrap();
    let mut server = start(&["--recreate-missing"]);
    server.says("the index is up to the store").await;
    server.end();
}

#[tokio::test]
async fn a_relative_path_that_means_two_places_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["etc", "work"] {
        fs::create_dir(path(name)).unwrap();
    }
    let address = free_address();
    let write = |more: &str| {
        let text = format!(
            "http: {{addr: '{address}'}}\nstorage: {{filesystem: {{rootdirectory: data}}}}\n{more}"
        );
        fs::write(path("etc/c.yml"), text).unwrap();
    };
    write("");
    let run = |arguments: &[&str], file: &str| {
        let mut command = command(&[arguments, &["--config", file]].concat(), &[]);
        let output = command.current_dir(path("work")).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran {
            code: output.status.code(),
            out: text(output.stdout),
            talk: text(output.stderr),
        }
    };
    let absolute = path("etc/c.yml");
    let absolute = absolute.to_str().unwrap();
    let root = |ran: Ran| {
        let out = ran.fine();
        let line = out
            .lines()
            .find(|line| line.starts_with("storage.filesystem.rootdirectory"));
        line.unwrap().to_owned()
    };
    let [in_etc, in_work] = ["etc/data", "work/data"].map(path);
    let [etc, work] = [&in_etc, &in_work].map(|path| path.to_str().unwrap());

    // Neither exists: as in distribution, and said.
    let neither = run(&["check"], absolute);
    assert!(
        neither.talk.contains("neither ") && neither.talk.contains(work),
        "{}",
        neither.talk
    );
    assert!(root(neither).contains(work));
    fs::create_dir(&in_etc).unwrap();
    for file in [absolute, "../etc/c.yml"] {
        let root = root(run(&["check"], file));
        assert!(root.contains("etc/data "), "{root}");
    }
    fs::create_dir(&in_work).unwrap();
    for command in ["check", "serve"] {
        let said = run(&[command], absolute).failed();
        assert!(
            said.contains("means two places") && said.contains(etc) && said.contains(work),
            "{said}"
        );
        assert!(said.contains("hint: write the full path"), "{said}");
    }
    write("relative_paths: config_directory\n");
    assert!(root(run(&["check"], absolute)).contains(etc));
    write("relative_paths: working_directory\n");
    assert!(root(run(&["check"], absolute)).contains(work));
    write("");
    // One place by two names is one place.
    fs::remove_dir(&in_work).unwrap();
    std::os::unix::fs::symlink(&in_etc, &in_work).unwrap();
    assert!(root(run(&["check"], absolute)).contains(etc));
    fs::remove_file(&in_work).unwrap();
    fs::remove_dir(&in_etc).unwrap();
    fs::create_dir(&in_work).unwrap();
    assert!(root(run(&["check"], absolute)).contains(work));
    // A variable starts at the working directory, whatever lies beside the file.
    fs::create_dir(&in_etc).unwrap();
    let mut command = command(
        &["check", "--config", absolute],
        &[("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "data")],
    );
    let output = command.current_dir(path("work")).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains(work));
}

#[tokio::test]
async fn a_moved_directory_finds_its_running_server_or_says_that_it_does_not() {
    let lab = Lab::installed().await;
    let server = lab.up("old", &[]).await;
    fs::rename(lab.path("old"), lab.path("moved")).unwrap();
    let moved = lab.path("moved");
    let said = timed(&["user", "revoke", "admin", "--dir", moved.to_str().unwrap()]).failed();
    assert!(
        said.contains("RUNNING SERVER MAY STILL GO BY WHAT WAS BEFORE")
            && said.contains("moved/control.sock has not loaded it"),
        "{said}"
    );
    server.end();
}
