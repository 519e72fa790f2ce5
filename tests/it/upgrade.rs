//! What earlier versions have written: every later version opens it, and shows what they showed.
//!
//! `tests/upgrade/VERSION.tar.gz` is a directory that `boathouse up --dir` of that version made, with configuration, accounts,
//! keys, index and data, as it was when its server had ended. A version that writes something else adds one:
//! `BOATHOUSE_UPGRADE_WRITE=yes cargo test --test it upgrade`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use boathouse::oci::{Algorithm, Digest};
use http::{Method, StatusCode};

use crate::client::{Client, Protocol};
use crate::lab::{ANY_ADDRESS, Lab, PASSWORD};
use crate::program::ran;
use crate::support::{OCI_MANIFEST, image_manifest};

/// The same data without accounts and certificates.
const OPEN: &str = "http: {addr: 'ADDRESS'}\n\
    storage: {filesystem: {rootdirectory: DIR/home/data}, delete: {enabled: true}}\n\
    state_directory: DIR/home\n";
const LAYER: &[u8] = b"a layer of an earlier version";
const SIGNATURE: &[u8] = b"a signature of an earlier version";
const DELETED: &[u8] = b"a layer that was deleted";
/// In the order in which an upload brings them, before and after the change of version.
const HALVES: [&[u8]; 2] = [b"begun by one version, ", b"ended by another"];
/// Where the upload goes on.
const UPLOAD: &str = "home/upload-location";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upgrade")
}

fn tar(arguments: &[&str]) {
    let status = Command::new("tar").args(arguments).status();
    assert!(status.expect("tar").success(), "tar {arguments:?}");
}

fn user(lab: &Lab, line: &[&str]) -> String {
    let directory = lab.place("home");
    ran(
        &[&["user"], line, &["--dir", &directory]].concat(),
        &[],
        PASSWORD,
    )
    .fine()
}

/// Writes what this version writes.
async fn write() {
    let lab = Lab::empty();
    lab.up("home", &[]).await.end();
    user(
        &lab,
        &["add", "ci", "--push", "team/**", "--password-stdin"],
    );
    user(&lab, &["revoke", "ci"]);
    lab.configure("open.yml", OPEN);
    let mut serve = crate::program::command(&["serve", "--config", &lab.place("open.yml")], &[]);
    let server = lab.serve_by(&mut serve).await;
    let client = Client::plain(server.address());
    let (image, digest) = client.push_image("team/app", Some("v1"), LAYER, "").await;
    let subject = format!(
        r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{}}}"#,
        image.len()
    );
    client
        .push_image("team/app", None, SIGNATURE, &subject)
        .await;
    let (_, deleted) = client.push_image("team/old", Some("v0"), DELETED, "").await;
    for path in [
        "/v2/team/old/manifests/v0".to_owned(),
        format!("/v2/team/old/manifests/{deleted}"),
        format!(
            "/v2/team/old/blobs/{}",
            Digest::of(Algorithm::Sha256, DELETED)
        ),
    ] {
        let delete = client.call(Method::DELETE, &path).send().await;
        delete.expect(StatusCode::ACCEPTED);
    }
    let begun = client.call(Method::POST, "/v2/team/app/blobs/uploads/");
    let begun = begun.send().await.expect(StatusCode::ACCEPTED);
    let patch = client.call(Method::PATCH, begun.header("location"));
    let patched = patch.body(HALVES[0]).send().await;
    lab.write(
        UPLOAD,
        patched.expect(StatusCode::ACCEPTED).header("location"),
    );
    server.end();
    let archive = directory().join(concat!(env!("CARGO_PKG_VERSION"), ".tar.gz"));
    let (archive, place) = (archive.to_str().unwrap(), lab.place(""));
    fs::create_dir_all(directory()).unwrap();
    tar(&[
        "-czf",
        archive,
        "-C",
        &place,
        "--numeric-owner",
        "--owner=0",
        "--group=0",
        "home",
    ]);
}

/// What `up` of this version makes of an installation of an earlier one.
async fn is_served_by_up(lab: &Lab) {
    let mut up = lab.up_command("home", &[]);
    let server = lab
        .serve_by(up.env("REGISTRY_HTTP_ADDR", ANY_ADDRESS))
        .await;
    // The authority that clients trust, and the accounts.
    let client = Client::new(lab.target("home", server.address()), Protocol::Http1);
    let get = |account: &'static str, path: &str| {
        client
            .call(Method::GET, path)
            .basic(account, PASSWORD)
            .send()
    };
    let listed = get("admin", "/v2/_catalog").await.expect(StatusCode::OK);
    assert_eq!(listed.names("repositories"), ["team/app", "team/old"]);
    let image = get("ci", "/v2/team/app/manifests/v1")
        .await
        .expect(StatusCode::OK);
    assert_eq!(image.body, image_manifest(LAYER, ""));
    let layer = Digest::of(Algorithm::Sha256, LAYER);
    let layer = get("ci", &format!("/v2/team/app/blobs/{layer}")).await;
    assert_eq!(layer.expect(StatusCode::OK).body, LAYER);
    let wrong = client.call(Method::GET, "/v2/").basic("ci", "wrong").send();
    wrong.await.expect(StatusCode::UNAUTHORIZED);
    server.end();
    let users: serde_json::Value = serde_json::from_str(&user(lab, &["list", "--json"])).unwrap();
    let text = users.to_string();
    assert!(
        text.contains("\"admin\"") && text.contains("\"ci\""),
        "{text}"
    );
}

/// The same data openly: what was deleted stays so, what was attached is listed, what was begun goes on.
async fn is_served_openly(lab: &Lab) {
    lab.configure("open.yml", OPEN);
    let mut serve = crate::program::command(&["serve", "--config", &lab.place("open.yml")], &[]);
    let server = lab.serve_by(&mut serve).await;
    let image = Digest::of(Algorithm::Sha256, image_manifest(LAYER, "").as_bytes());
    let attached = server
        .get(&format!("/v2/team/app/referrers/{image}"))
        .send()
        .await;
    assert_eq!(attached.expect(StatusCode::OK).digests().len(), 1);
    let tags = server.get("/v2/team/app/tags/list").send().await;
    assert_eq!(tags.expect(StatusCode::OK).names("tags"), ["v1"]);
    for path in [
        "/v2/team/old/manifests/v0".to_owned(),
        format!(
            "/v2/team/old/blobs/{}",
            Digest::of(Algorithm::Sha256, DELETED)
        ),
    ] {
        server.get(&path).send().await.expect(StatusCode::NOT_FOUND);
    }
    let whole = Digest::of(Algorithm::Sha256, &HALVES.concat());
    let location = lab.read(UPLOAD);
    let separator = if location.contains('?') { '&' } else { '?' };
    let put = server.call(Method::PUT, &format!("{location}{separator}digest={whole}"));
    let put = put.body(HALVES[1]).send().await;
    put.expect(StatusCode::CREATED);
    let pulled = server
        .get(&format!("/v2/team/app/blobs/{whole}"))
        .send()
        .await;
    assert_eq!(pulled.expect(StatusCode::OK).body, HALVES.concat());
    let client = Client::plain(server.address());
    client
        .push_image("team/app", Some("v2"), b"of this version", "")
        .await;
    server.end();
}

#[tokio::test]
async fn what_every_earlier_version_has_written_is_opened() {
    if std::env::var_os("BOATHOUSE_UPGRADE_WRITE").is_some() {
        write().await;
    }
    let mut versions = 0;
    for entry in fs::read_dir(directory()).unwrap() {
        let archive = entry.unwrap().path();
        if archive.extension().is_none_or(|ending| ending != "gz") {
            continue;
        }
        let lab = Lab::empty();
        let (from, to) = (archive.to_str().unwrap(), lab.place(""));
        // With its modes, and as this user's.
        tar(&["-xzpf", from, "-C", &to, "--no-same-owner"]);
        is_served_by_up(&lab).await;
        is_served_openly(&lab).await;
        versions += 1;
    }
    assert!(versions > 0, "no earlier version");
}
