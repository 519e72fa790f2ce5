//! Directories that are moved, copied or restored in part: what is served is what lies there, whole, or nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::{Client, Protocol};
use crate::lab::{ANY_ADDRESS, Lab};
use crate::program::{MISCONFIGURED, Program, Ran, command, ran};

/// An installation in `old`, with one repository, whose server has ended.
async fn installed() -> Lab {
    let lab = Lab::empty();
    lab.up("old", &[]).await.end();
    let tag = "old/data/docker/registry/v2/repositories/kept/_manifests/tags/v1/current";
    lab.write(&format!("{tag}/link"), format!("sha256:{}", "0".repeat(64)));
    lab
}

/// A start that must come to nothing.
async fn refused(lab: &Lab, name: &str) -> String {
    let log = lab.path(format!("{name}.log"));
    let program = Program::start(&log, &mut lab.up_command(name, &[]));
    program.refuses().await
}

/// Whether the running server has the repository.
fn has_the_repository(lab: &Lab, name: &str) -> bool {
    let status = ran_in(lab, name, &["status", "--json"]);
    assert!(
        !status.talk.contains("no server listens"),
        "{}",
        status.talk
    );
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    status["repositories"] == 1
}

/// A command on the installation in the directory `name`.
fn ran_in(lab: &Lab, name: &str, line: &[&str]) -> Ran {
    ran(&[line, &["--dir", &lab.place(name)]].concat(), &[], "")
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_directory_that_was_moved_or_copied_is_what_is_served() {
    let lab = installed().await;
    let config = lab.read("old/boathouse.yml");
    assert!(!config.contains(&lab.place("")), "{config}");
    let authority = fs::read(lab.path("old/ca.crt")).unwrap();

    // Moved: the old place is gone, and stays so.
    fs::rename(lab.path("old"), lab.path("moved")).unwrap();
    let server = lab.up("moved", &[]).await;
    assert!(has_the_repository(&lab, "moved"));
    assert_eq!(fs::read(lab.path("moved/ca.crt")).unwrap(), authority);
    assert!(!lab.path("old").exists());

    // Copied while it runs, with its socket and its mark: the copy is an installation of its own.
    copy(&lab.path("moved"), &lab.path("copy"));
    let said = refused(&lab, "copy").await;
    assert!(
        said.contains("cannot listen") && said.contains("hint: "),
        "{said}"
    );
    let mut command = lab.up_command("copy", &[]);
    let copied = lab.serve_by(command.env("REGISTRY_HTTP_ADDR", ANY_ADDRESS));
    let copied = copied.await;
    let changed = ran_in(&lab, "copy", &["user", "passwd", "admin"]);
    assert!(
        changed.talk.contains("in force from the next request on"),
        "{}",
        changed.talk
    );
    changed.fine();
    assert!(
        has_the_repository(&lab, "moved"),
        "another installation was changed"
    );
    let said = ran_in(&lab, "copy", &["status"]);
    assert!(!said.talk.contains("no server listens"), "{}", said.talk);
    drop((server, copied));
}

#[tokio::test]
async fn absolute_paths_are_read_as_before_and_a_copy_says_so() {
    let lab = installed().await;
    // As earlier versions wrote it.
    let old = &*lab.place("old");
    let text = lab.read("old/boathouse.yml");
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
    lab.write("old/boathouse.yml", text);
    copy(&lab.path("old"), &lab.path("copy"));
    let server = lab.up("copy", &[]).await;
    assert!(has_the_repository(&lab, "copy"));
    let log = server.end();
    assert!(
        log.contains("outside of") && log.contains("old/data"),
        "{log}"
    );
    // With the old place gone, nothing is made there.
    fs::rename(lab.path("old"), lab.path("elsewhere")).unwrap();
    let said = refused(&lab, "copy").await;
    assert!(
        said.contains("not complete") && said.contains("hint: restore"),
        "{said}"
    );
    assert!(!lab.path("old").exists());
}

#[tokio::test]
async fn a_part_that_is_missing_is_named_and_made_again_only_when_asked() {
    let lab = installed().await;
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
        let said = refused(&lab, name).await;
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
            has_the_repository(&lab, name),
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

/// docs/operations.md, "Behind a proxy": the section `tls:` of what `up` wrote goes, and its directory held the key for tokens.
#[tokio::test]
async fn without_the_section_tls_the_key_for_tokens_is_named() {
    let lab = installed().await;
    copy(&lab.path("old"), &lab.path("copy"));
    let text = lab.read("copy/boathouse.yml");
    let (before, rest) = text.split_once("\ntls:\n").unwrap();
    let after = rest.find("\n\n").unwrap();
    // As where the configuration is in /etc and the data are in /var/lib.
    let text = format!("{before}\n{}", &rest[after..])
        .replace("state_directory: \".\"", "state_directory: \"state\"");
    fs::create_dir(lab.path("copy/state")).unwrap();
    lab.write("copy/boathouse.yml", &text);
    let said = refused(&lab, "copy").await;
    let lines = ["certificate: keys/token.crt", "key: keys/token.key"];
    assert!(said.contains("missing: key for tokens ("), "{said}");
    assert!(
        lines.iter().all(|line| said.contains(line)) && !said.contains("every client must trust"),
        "{said}"
    );
    let key = lab.read("copy/keys/token.key");
    let lines = format!("\ntoken:\n  {}\n  {}\n", lines[0], lines[1]);
    lab.write("copy/boathouse.yml", text.replace("\ntoken:\n", &lines));
    let server = lab.up("copy", &[]).await;
    assert!(has_the_repository(&lab, "copy"), "{}", server.log());
    server.end();
    assert_eq!(lab.read("copy/keys/token.key"), key);
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
    let lab = Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\n\
         tls: {ca_certificate: DIR/ca.crt, keys_directory: DIR/keys}\n\
         users_file: DIR/users.yml\nacl: []\n",
    );
    let start = |more: &[&str]| lab.command(&[&["serve"], more].concat());
    // The first start makes what is missing, as ever.
    lab.serve().await.end();
    lab.run(&["user", "add", "ann"]).fine();
    lab.serve().await.end();
    for name in ["users.yml", "ca.crt", "data"] {
        fs::rename(lab.path(name), lab.path("aside")).unwrap();
        let refused = Program::start(&lab.path("log"), &mut start(&[]));
        let said = refused.refuses().await;
        assert!(said.contains("missing: ") && said.contains(name), "{said}");
        assert!(!lab.path(name).exists());
        fs::rename(lab.path("aside"), lab.path(name)).unwrap();
    }
    fs::rename(lab.path("data"), lab.path("aside")).unwrap();
    let mut recreate = start(&["--recreate-missing"]);
    lab.serve_by(&mut recreate).await.end();
}

#[tokio::test]
async fn serve_makes_no_root_directory_and_warns_of_an_empty_one() {
    let lab = Lab::open();
    fs::remove_dir(lab.path("data")).unwrap();
    let root = lab.place("data");
    let refused = Program::start(&lab.path("log"), &mut lab.command(&["serve"]));
    for said in [refused.refuses().await, lab.run(&["check"]).failed()] {
        let missing = format!("error: the directory of the images is missing: {root}\n");
        assert!(said.contains(&missing), "{said}");
        assert!(
            said.contains(&format!(
                "as the user that Boathouse runs as: mkdir -p -m 750 {root}\n"
            )),
            "{said}"
        );
    }
    assert!(!lab.path("data").exists(), "it was made");

    fs::create_dir(lab.path("data")).unwrap();
    let warning = format!("{root} holds no images: a new store begins there; hint: ");
    let checked = lab.run(&["check"]);
    assert!(checked.talk.contains(&warning), "{}", checked.talk);
    checked.fine();
    let log = lab.serve().await.end();
    assert_eq!(log.matches(&warning).count(), 1, "{log}");
    let log = lab.serve().await.end();
    assert!(!log.contains(&warning), "{log}");
    assert!(!lab.run(&["check"]).talk.contains(&warning));
}

/// The usual case: the mount point is there, and empty.
#[tokio::test]
async fn a_service_remembers_apart_from_the_data_that_it_has_served_them() {
    let lab = Lab::open();
    lab.configure(
        "other.yml",
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/other}}\n",
    );
    fs::create_dir(lab.path("state")).unwrap();
    let state = format!("{}:{}", lab.place("state"), lab.place("more"));
    let as_service = |mut command: Command| {
        command.env("STATE_DIRECTORY", &state);
        command
    };
    lab.serve_by(&mut as_service(lab.command(&["serve"])))
        .await
        .end();
    fs::remove_dir_all(lab.path("data")).unwrap();
    fs::create_dir(lab.path("data")).unwrap();
    let mut serve = as_service(lab.command(&["serve"]));
    let said = Program::start(&lab.path("log"), &mut serve).refuses().await;
    assert!(
        said.contains("missing: data (") && said.contains("mount its disk"),
        "{said}"
    );
    assert_eq!(fs::read_dir(lab.path("data")).unwrap().count(), 0);
    // Other data of the same service have never been there.
    let mut other = as_service(command(
        &["serve", "--config", &lab.place("other.yml")],
        &[],
    ));
    lab.serve_by(&mut other).await.end();
    let mut recreate = as_service(lab.command(&["serve", "--recreate-missing"]));
    lab.serve_by(&mut recreate).await.end();
    let served = format!("{}\n{}\n", lab.place("data"), lab.place("other"));
    assert_eq!(lab.read("state/served-data"), served);
}

#[tokio::test]
async fn a_relative_path_that_means_two_places_is_refused() {
    let lab = Lab::empty();
    let path = |name: &str| lab.path(name);
    fs::create_dir(path("work")).unwrap();
    let write = |more: &str| {
        let text = format!(
            "http: {{addr: 'ADDRESS'}}\nstorage: {{filesystem: {{rootdirectory: data}}}}\n{more}"
        );
        lab.configure("etc/c.yml", &text);
    };
    write("");
    let run = |arguments: &[&str], file: &str| {
        let mut command = command(&[arguments, &["--config", file]].concat(), &[]);
        Ran::of(command.current_dir(path("work")), "")
    };
    let absolute = &*lab.place("etc/c.yml");
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
    let neither = run(&["check", "--verbose"], absolute);
    assert!(
        neither.talk.contains("neither ") && neither.talk.contains(work),
        "{}",
        neither.talk
    );
    assert!(neither.out.contains(work), "{}", neither.out);
    let missing = "the directory of the images is missing: ";
    assert!(neither.failed().contains(missing));
    fs::create_dir(&in_etc).unwrap();
    for file in [absolute, "../etc/c.yml"] {
        let root = root(run(&["check", "--verbose"], file));
        assert!(root.contains("etc/data "), "{root}");
    }
    fs::create_dir(&in_work).unwrap();
    for (command, code) in [("check", 1), ("serve", MISCONFIGURED)] {
        let said = run(&[command], absolute).failed_with(code);
        assert!(
            said.contains("means two places") && said.contains(etc) && said.contains(work),
            "{said}"
        );
        assert!(said.contains("hint: write the full path"), "{said}");
    }
    write("relative_paths: config_directory\n");
    assert!(root(run(&["check", "--verbose"], absolute)).contains(etc));
    write("relative_paths: working_directory\n");
    assert!(root(run(&["check", "--verbose"], absolute)).contains(work));
    write("");
    // One place by two names is one place.
    fs::remove_dir(&in_work).unwrap();
    std::os::unix::fs::symlink(&in_etc, &in_work).unwrap();
    assert!(root(run(&["check", "--verbose"], absolute)).contains(etc));
    fs::remove_file(&in_work).unwrap();
    fs::remove_dir(&in_etc).unwrap();
    fs::create_dir(&in_work).unwrap();
    assert!(root(run(&["check", "--verbose"], absolute)).contains(work));
    // A variable starts at the working directory, whatever lies beside the file.
    fs::create_dir(&in_etc).unwrap();
    let mut command = command(
        &["check", "--verbose", "--config", absolute],
        &[("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "data")],
    );
    let ran = Ran::of(command.current_dir(path("work")), "");
    assert!(ran.fine().contains(work));
}

#[tokio::test]
async fn a_server_whose_directory_was_moved_says_that_it_does_not_see_its_accounts() {
    let lab = installed().await;
    let server = lab.up("old", &[]).await;
    let client = Client::new(lab.target("old", server.address()), Protocol::Http1);
    fs::rename(lab.path("old"), lab.path("moved")).unwrap();
    let revoked = ran_in(&lab, "moved", &["user", "revoke", "admin"]);
    let users = lab.place("moved/users.yml");
    let says_which = format!("in every server that reads {users}");
    assert!(revoked.talk.contains(&says_which), "{}", revoked.talk);
    revoked.fine();
    // The one that runs reads a file that is not there any more.
    let ready = client.get("/readyz").await.unwrap();
    let ready = String::from_utf8(ready.body.to_vec()).unwrap();
    assert!(
        ready.contains("degraded") && ready.contains("the file of accounts is missing"),
        "{ready}"
    );
    let log = server.end();
    assert!(log.contains("the file of accounts is missing"), "{log}");
}
