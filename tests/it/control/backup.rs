//! `backup` and `restore`: whole, checked, and nothing else than what was there.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use http::{Method, StatusCode};
use serde_json::Value;

use super::images::{Images, next};
use crate::client::{Client, Protocol};
use crate::lab::{Lab, PASSWORD};
use crate::program::{Ran, ran};

const BLOBS: &str = "data/docker/registry/v2/blobs/sha256";

/// A backup into the directory `to`, as JSON.
#[track_caller]
fn backed_up(lab: &Lab, to: &Path) -> Value {
    lab.json(&["backup", to.to_str().unwrap()])
}

fn restored(lab: &Lab, from: &Path, to: &str) -> Ran {
    ran(
        &["restore", from.to_str().unwrap(), "--dir", &lab.place(to)],
        &[],
        "",
    )
}

/// A directory on another disk than the labs, where this machine has one.
fn other_disk() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// What a command says about the installation in a directory.
#[track_caller]
fn in_directory(lab: &Lab, name: &str, line: &[&str]) -> String {
    ran(&[line, &["--dir", &lab.place(name)]].concat(), &[], "").fine()
}

/// The file of the blob that holds `content` in the data below `directory`.
fn blob(directory: &Path, content: &[u8]) -> PathBuf {
    let digest = boathouse::oci::Digest::of(boathouse::oci::Algorithm::Sha256, content);
    let hex = digest.hex();
    directory
        .join(BLOBS)
        .join(&hex[..2])
        .join(&hex)
        .join("data")
}

/// Every image of [`Images`] is served by the restored installation `name`, and nothing is damaged in it.
async fn serves_the_same(lab: &Lab, name: &str, images: &Images) {
    let server = lab.up(name, &[]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&in_directory(lab, name, &["du", "--json"])).unwrap(),
        lab.json(&["du"]),
    );
    for (path, digest) in [
        ("a/manifests/v1", &images.common.digest),
        ("a/manifests/multi", &images.index.digest),
        ("a/b/manifests/v1", &images.common.digest),
        ("a-b/manifests/solo", &images.solo.digest),
    ] {
        let answer = server
            .get(&format!("/v2/{path}"))
            .send()
            .await
            .expect(StatusCode::OK);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    }
    let referrers = format!("/v2/a/referrers/{}", images.common.digest);
    let referrers = server.get(&referrers).send().await.expect(StatusCode::OK);
    assert_eq!(referrers.digests(), [images.referrer.digest.to_string()]);
    server.end();
    let found = in_directory(lab, name, &["check", "--data"]);
    assert!(found.contains(": 0 findings"), "{found}");
}

#[tokio::test]
async fn a_backup_of_a_running_server_is_restored_and_served_elsewhere() {
    let lab = Lab::open();
    let server = lab.serve().await;
    let images = server.push_everything().await;
    let disk = other_disk();
    let backup = disk.path().join("backup");
    let made = backed_up(&lab, &backup);
    assert_eq!(
        (&made["repositories"], &made["blobs"]),
        (&3.into(), &16.into()),
        "{made}"
    );
    assert_eq!(
        fs::metadata(&backup).unwrap().permissions().mode() & 0o777,
        0o700
    );
    // With the programs of every system as well.
    let sums = Command::new("sha256sum")
        .args(["--check", "--quiet", "--strict", "SHA256SUMS"])
        .current_dir(&backup)
        .status();
    assert!(sums.unwrap().success());

    restored(&lab, &backup, "copy").fine();
    let config = lab.read("copy/boathouse.yml");
    assert!(
        !config.contains(&lab.place("")) && config.contains("relative_paths: config_directory"),
        "{config}"
    );
    serves_the_same(&lab, "copy", &images).await;
    // Also with the backup moved, and without a server.
    server.end();
    let moved = disk.path().join("moved");
    fs::rename(&backup, &moved).unwrap();
    backed_up(&lab, &moved);
    restored(&lab, &moved, "another").fine();
    serves_the_same(&lab, "another", &images).await;
}

#[tokio::test]
async fn accounts_authority_and_keys_are_those_of_the_original() {
    let lab = Lab::empty();
    let server = lab.up("old", &[]).await;
    in_directory(&lab, "old", &["user", "add", "ann", "--pull", "team/**"]);
    let disk = other_disk();
    let backup = disk.path().join("backup");
    let made = ran(
        &[
            "backup",
            backup.to_str().unwrap(),
            "--dir",
            &lab.place("old"),
        ],
        &[],
        "",
    );
    // What `up` has written is kept as it is, with its comments.
    assert!(!made.talk.contains("without its comments"), "{}", made.talk);
    made.fine();
    let old_token = {
        let client = Client::new(lab.target("old", server.address()), Protocol::Http1);
        let path = "/token?service=boathouse&scope=repository:team/app:pull,push";
        let call = client.call(Method::GET, path).basic("admin", PASSWORD);
        let answer = call.send().await.expect(StatusCode::OK);
        answer.json()["token"].as_str().unwrap().to_owned()
    };
    server.end();
    restored(&lab, &backup, "new").fine();
    for name in [
        "boathouse.yml",
        "ca.crt",
        "users.yml",
        "keys/ca.key",
        "keys/token.key",
        "data/boathouse/secret",
    ] {
        let [old, new] = ["old", "new"].map(|side| lab.path(side).join(name));
        assert_eq!(fs::read(&old).unwrap(), fs::read(&new).unwrap(), "{name}");
        let bits = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(bits(&old), bits(&new), "{name}");
        let above = |path: &Path| bits(path.parent().unwrap());
        assert_eq!(above(&old), above(&new), "above {name}");
    }
    fs::rename(lab.path("old"), lab.path("gone")).unwrap();
    let server = lab.up("new", &[]).await;
    // By the authority of the original, with a token and a password of the original.
    let client = Client::new(lab.target("gone", server.address()), Protocol::Http1);
    let call = client
        .call(Method::GET, "/v2/team/app/manifests/v1")
        .bearer(&old_token);
    assert_eq!(
        call.send().await.status,
        StatusCode::NOT_FOUND,
        "let in, and nothing there"
    );
    let call = client.call(Method::GET, "/v2/").basic("admin", PASSWORD);
    assert_eq!(call.send().await.status, StatusCode::OK);
    assert!(in_directory(&lab, "new", &["user", "list"]).contains("ann"));
    drop(server);
}

#[tokio::test]
async fn files_that_the_configuration_names_come_along() {
    let lab = Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\nstate_directory: DIR/state\n\
         auth: {htpasswd: {realm: r, path: DIR/etc/passwords}}\n",
    );
    let hash = bcrypt::hash("a-long-password", 4).unwrap();
    lab.write("etc/passwords", format!("ann:{hash}\n"));
    lab.serve_by(&mut lab.command(&["serve"])).await.end();
    let disk = other_disk();
    let made = lab.run(&["backup", disk.path().join("b").to_str().unwrap()]);
    assert!(made.talk.contains("without its comments"), "{}", made.talk);
    made.fine();
    restored(&lab, &disk.path().join("b"), "copy").fine();
    assert!(
        lab.read("copy/etc/passwords").contains(&hash)
            || lab
                .read("copy/files/auth.htpasswd.path/passwords")
                .contains(&hash)
    );
    fs::remove_dir_all(lab.path("etc")).unwrap();
    fs::remove_dir_all(lab.path("state")).unwrap();
    fs::remove_dir_all(lab.path("data")).unwrap();
    let server = lab.up("copy", &[]).await;
    let call = server.get("/v2/").basic("ann", "a-long-password");
    assert_eq!(call.send().await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_second_run_brings_the_backup_up_to_date() {
    let lab = Lab::open();
    let server = lab.serve().await;
    server.push("a", Some("v1"), &[1; 1_000], "").await;
    server.push("gone", Some("v1"), &[9; 900], "").await;
    let disk = other_disk();
    let backup = disk.path().join("backup");
    backed_up(&lab, &backup);
    let kept = blob(&backup, &[1; 1_000]);
    let before = fs::metadata(&kept).unwrap().ino();
    fs::remove_dir_all(lab.repository("gone")).unwrap();
    server.push("a", Some("v2"), &[2; 200], "").await;
    server
        .call(Method::DELETE, "/v2/a/manifests/v1")
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    // As an interrupted run leaves it.
    fs::create_dir_all(backup.join("unfinished/data")).unwrap();
    fs::write(backup.join("unfinished/data/x"), "x").unwrap();
    fs::write(kept.with_file_name("data.part"), "x").unwrap();
    let made = lab.run(&["backup", backup.to_str().unwrap()]);
    assert!(made.out.contains("copied now: 2 blobs"), "{}", made.out);
    made.fine();
    assert_eq!(fs::metadata(&kept).unwrap().ino(), before, "copied again");
    assert!(!blob(&backup, &[9; 900]).exists(), "kept without a link");
    assert!(!backup.join("unfinished").exists() && !kept.with_file_name("data.part").exists());
    restored(&lab, &backup, "copy").fine();
    let server = lab.up("copy", &[]).await;
    let tags = server.get("/v2/a/tags/list").send().await.json();
    assert_eq!(tags["tags"], serde_json::json!(["v2"]));
    let catalog = server.get("/v2/_catalog").send().await.json();
    assert_eq!(catalog["repositories"], serde_json::json!(["a"]));
}

#[tokio::test]
async fn damage_is_named_and_never_copied() {
    let lab = Lab::open();
    let server = lab.serve().await;
    server.push("a", Some("v1"), &[1; 1_000], "").await;
    server.push("a", Some("v2"), &[2; 200], "").await;
    server.end();
    let broken = blob(&lab.path(""), &[1; 1_000]);
    fs::write(&broken, [3; 1_000]).unwrap();
    for disk in [other_disk(), tempfile::tempdir().unwrap()] {
        let backup = disk.path().join("backup");
        let made = lab.run(&["backup", backup.to_str().unwrap()]);
        let said = made.failed();
        assert!(
            said.contains("damaged: sha256:") && said.contains("not what its digest says"),
            "{said}"
        );
        assert!(
            !blob(&backup, &[1; 1_000]).exists(),
            "a damaged blob was copied"
        );
        assert!(blob(&backup, &[2; 200]).exists());
        fs::write(&broken, [1; 1_000]).unwrap();
        lab.run(&["backup", backup.to_str().unwrap()]).fine();

        // On its way or on its shelf, the backup itself is damaged: `--verify` mends it, a restore says so.
        let shelf = blob(&backup, &[2; 200]);
        fs::remove_file(&shelf).unwrap();
        fs::write(&shelf, [4; 200]).unwrap();
        let name = if disk.path().starts_with("/dev/shm") {
            "one"
        } else {
            "two"
        };
        let said = restored(&lab, &backup, name).failed();
        assert!(
            said.contains("damaged: data/") && said.contains("1 files are missing or damaged"),
            "{said}"
        );
        assert!(
            !blob(&lab.path(name), &[2; 200]).exists(),
            "a damaged blob was restored"
        );
        assert!(blob(&lab.path(name), &[1; 1_000]).exists());
        lab.run(&["backup", backup.to_str().unwrap(), "--verify"])
            .fine();
        restored(&lab, &backup, &format!("{name}-mended")).fine();
        // A configuration or key that is damaged is no installation.
        fs::write(backup.join("boathouse.yml"), "x: y\n").unwrap();
        let said = restored(&lab, &backup, &format!("{name}-not")).failed();
        assert!(said.contains("the backup is damaged"), "{said}");
        assert!(!lab.path(format!("{name}-not/boathouse.yml")).exists());
        fs::write(&broken, [3; 1_000]).unwrap();
    }
}

#[tokio::test]
async fn on_the_same_disk_it_takes_no_room_and_is_called_no_backup() {
    let lab = Lab::open();
    lab.serve()
        .await
        .push("a", Some("v1"), &[1; 1_000], "")
        .await;
    let place = tempfile::tempdir_in(lab.path("")).unwrap();
    let backup = place.path().join("backup");
    // The lab itself holds the configuration.
    let refused = lab.run(&["backup", backup.to_str().unwrap()]).failed();
    assert!(
        refused.contains("contain each other") && refused.contains("hint: "),
        "{refused}"
    );
    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    let made = lab.run(&["backup", backup.to_str().unwrap()]);
    assert!(made.talk.contains("this is no backup"), "{}", made.talk);
    made.fine();
    let links = |path: &Path| fs::metadata(path).unwrap().nlink();
    assert_eq!(links(&blob(&backup, &[1; 1_000])), 2);
    let link = "docker/registry/v2/repositories/a/_manifests/tags/v1/current/link";
    assert_eq!(
        links(&backup.join("data").join(link)),
        1,
        "the old registry writes links in place"
    );
}

#[tokio::test]
async fn nothing_of_others_is_overwritten() {
    let lab = Lab::open();
    lab.serve()
        .await
        .push("a", Some("v1"), &[1; 1_000], "")
        .await;
    let disk = other_disk();
    let backup = disk.path().join("backup");
    lab.write("photos/cat", "x");
    let said = lab.run(&["backup", &lab.place("photos")]).failed();
    assert!(said.contains("contain each other"), "{said}");
    fs::create_dir(disk.path().join("photos")).unwrap();
    fs::write(disk.path().join("photos/cat"), "x").unwrap();
    let said = lab
        .run(&["backup", disk.path().join("photos").to_str().unwrap()])
        .failed();
    assert!(said.contains("something else than a backup"), "{said}");
    backed_up(&lab, &backup);
    let other = Lab::open();
    other.serve().await.end();
    let said = other.run(&["backup", backup.to_str().unwrap()]).failed();
    assert!(said.contains("of another installation"), "{said}");
    let said = restored(&lab, &backup, "photos").failed();
    assert!(said.contains("is not empty"), "{said}");
    assert_eq!(lab.read("photos/cat"), "x");
    let said = restored(&lab, disk.path(), "copy").failed();
    assert!(said.contains("there is no backup in"), "{said}");
    assert!(!lab.path("copy").exists());
}

#[tokio::test]
async fn a_backup_that_was_never_completed_is_not_restored_and_an_interrupted_restore_is_begun_again()
 {
    let lab = Lab::open();
    let server = lab.serve().await;
    let images = server.push_everything().await;
    let disk = other_disk();
    let backup = disk.path().join("backup");
    backed_up(&lab, &backup);
    // Interrupted between the last rename of the files and the end: the next command goes on.
    fs::create_dir(backup.join("finished")).unwrap();
    fs::rename(backup.join("keys"), backup.join("finished/keys")).ok();
    fs::rename(
        backup.join("backup.json"),
        backup.join("finished/backup.json"),
    )
    .unwrap();
    fs::create_dir(lab.path("copy")).unwrap();
    lab.write("copy/.restoring", "");
    lab.write("copy/data/docker/half", "x");
    restored(&lab, &backup, "copy").fine();
    assert!(!backup.join("finished").exists() && !lab.path("copy/.restoring").exists());
    serves_the_same(&lab, "copy", &images).await;
    fs::remove_file(backup.join("backup.json")).unwrap();
    fs::create_dir(backup.join("unfinished")).unwrap();
    let said = restored(&lab, &backup, "another").failed();
    assert!(said.contains("was never completed"), "{said}");
    let said = restored(&lab, &lab.path("nowhere"), "another").failed();
    assert!(said.contains("hint: "), "{said}");
}

/// Waits until a request waits for others that change the same.
async fn until_one_waits(server: &crate::program::Program) {
    for _ in 0..2_000 {
        let page = server.get("/metrics").send().await;
        let page = String::from_utf8(page.body.to_vec()).unwrap();
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix("boathouse_lock_wait_seconds "));
        if value.is_some_and(|value| value.parse::<f64>().unwrap() > 0.0) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("no push waits for the hold");
}

#[tokio::test]
async fn nothing_changes_in_a_repository_while_its_links_are_read() {
    let lab = Lab::open();
    let server = lab.serve().await;
    server.push("a", Some("v1"), &[1; 1_000], "").await;
    for ends_well in [true, false] {
        let mut hold = lab.ask("{\"request\":\"hold\",\"details\":{\"repository\":\"a\"}}\n");
        assert_eq!(next(&mut hold).unwrap()["answer"], "held");
        // Others go on.
        server.push("b", Some("v1"), &[2; 200], "").await;
        let address = server.address();
        let push = tokio::spawn(async move {
            let client = Client::plain(address);
            client
                .call(Method::DELETE, "/v2/a/manifests/v1")
                .send()
                .await
                .status
        });
        until_one_waits(&server).await;
        assert!(!push.is_finished());
        let tags = server.get("/v2/a/tags/list").send().await.json();
        assert_eq!(tags["tags"], serde_json::json!(["v1"]), "pulls go on");
        if ends_well {
            hold.get_mut().write_all(b"\n").unwrap();
            assert_eq!(next(&mut hold).unwrap()["answer"], "released");
        } else {
            // A backup that was killed.
            drop(hold);
        }
        assert_eq!(push.await.unwrap(), StatusCode::ACCEPTED);
        server.push("a", Some("v1"), &[1; 1_000], "").await;
    }
    let mut hold = lab.ask("{\"request\":\"hold\",\"details\":{\"repository\":\"A\"}}\n");
    assert_eq!(next(&mut hold).unwrap()["answer"], "failed");
}
