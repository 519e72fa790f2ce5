//! `delete`, `copy` and `restore-tag`: on a running server and without one.

use http::StatusCode;
use serde_json::{Value, json};

use super::images::Images;
use crate::client::Client;
use crate::lab::Lab;
use crate::program::Program;
use crate::support::OCI_MANIFEST;

async fn is_there(server: &Program, name: &str, reference: &str) -> bool {
    let client = Client::plain(server.address());
    let path = format!("/v2/{name}/manifests/{reference}");
    client.get(&path).await.unwrap().status == StatusCode::OK
}

#[track_caller]
fn deleted(lab: &Lab, image: &str) -> Value {
    lab.json(&["delete", image, "--yes"])
}

#[tokio::test]
async fn an_image_goes_with_its_last_tag_and_with_what_only_it_needs() {
    let lab = Lab::open();
    let server = lab.serve().await;
    let images: Images = server.push_everything().await;

    // Another tag points at it.
    let removed = deleted(&lab, "a:v1");
    assert_eq!(
        (&removed["tags"], &removed["manifests"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(removed["uncollected_bytes"], 0);
    assert!(is_there(&server, "a", &images.common.digest.to_string()).await);

    // What is promised is what `du` says.
    let row = &lab.json(&["du", "a:multi"])[0];
    let removed = deleted(&lab, "a:multi");
    assert_eq!(
        (&removed["tags"], &removed["manifests"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(removed["uncollected_bytes"], row["unique_bytes"]);
    assert_eq!(removed["freed_bytes"], 0);
    for child in &images.children {
        assert!(!is_there(&server, "a", &child.digest.to_string()).await);
    }

    // The signature goes with it; `a/b` has the same image.
    let removed = deleted(&lab, "a:same");
    assert_eq!(removed["manifests"], 2);
    assert!(!is_there(&server, "a", &images.referrer.digest.to_string()).await);
    assert!(is_there(&server, "a/b", "v1").await);

    let by_digest = format!("a@{}", images.untagged.digest);
    assert_eq!(deleted(&lab, &by_digest)["manifests"], 1);
    let rows = lab.json(&["list", "a"]);
    assert_eq!(rows["tags"].as_array().unwrap().len(), 1);
    assert_eq!(rows["untagged_bytes"], 0);
    assert_eq!(lab.differences(), 0);
}

/// The links of an image's blobs outlive its manifest: they hold nothing, and no promise is smaller for them.
#[tokio::test]
async fn links_of_a_deleted_image_hold_nothing() {
    let lab = Lab::open();
    let server = lab.serve().await;
    server.push("x", Some("v1"), &[1; 5_000], "").await;
    server.push("y", Some("v1"), &[1; 5_000], "").await;
    let whole = lab.json(&["du"])[0]["bytes"].clone();
    let planned = |image: &str| lab.run(&["delete", image]).talk;
    for image in ["x:v1", "x"] {
        assert!(planned(image).contains("free once collected: 0 B"));
    }
    assert_eq!(deleted(&lab, "x:v1")["uncollected_bytes"], 0);
    let nothing = json!({ "name": "x", "bytes": 0, "shared_bytes": 0, "unique_bytes": 0 });
    let all = json!({ "name": "y", "bytes": whole, "shared_bytes": 0, "unique_bytes": whole });
    assert_eq!(lab.json(&["du"]), json!([nothing, all]));
    let empty = json!({ "name": "x", "tags": 0, "manifests": 0, "bytes": 0 });
    assert_eq!(lab.json(&["list"])[0], empty);
    assert_eq!(lab.json(&["show", "y:v1"])["unique_bytes"], whole);
    assert_eq!(lab.json(&["du", "y"])[0]["unique_bytes"], whole);
    assert_eq!(deleted(&lab, "x")["uncollected_bytes"], 0);
    assert_eq!(deleted(&lab, "y")["uncollected_bytes"], whole);
}

/// A manifest may reference a blob that its repository does not link: a collection keeps the blob for it all the same.
#[tokio::test]
async fn nothing_is_promised_that_another_manifest_references_without_a_link() {
    let lab = Lab::configured(
        "http: {addr: 'ADDRESS'}\nvalidation: {manifests: {references: any}}\n\
         storage: {filesystem: {rootdirectory: DIR/data}, delete: {enabled: true}}\n",
    );
    let server = lab.serve().await;
    server.push("x", Some("v1"), &[1; 5_000], "").await;
    let client = Client::plain(server.address());
    let manifest = client.get("/v2/x/manifests/v1").await.unwrap();
    let manifest = String::from_utf8(manifest.body.to_vec()).unwrap();
    let other = manifest.replacen('{', r#"{"annotations":{"a":"b"},"#, 1);
    client
        .push_manifest("y", Some("v1"), OCI_MANIFEST, &other)
        .await;
    let removed = deleted(&lab, "x");
    assert_eq!(removed["uncollected_bytes"], manifest.len());
}

/// Where the index cannot be opened (here something is in its way; mostly the volume is too full), the store has the answers.
#[tokio::test]
async fn without_an_index_the_store_answers() {
    let lab = Lab::open();
    let server = lab.serve().await;
    let images = server.push_everything().await;
    let line = |line: &[&'static str]| (lab.json(line), line.to_vec());
    let same = [
        line(&["list"]),
        line(&["list", "a"]),
        line(&["restore-tag", "a:v1"]),
    ];
    server.end();
    std::fs::create_dir(lab.path("data/boathouse/index.opening.new")).unwrap();
    let check = || {
        for (before, line) in &same {
            let mut now = lab.json(line);
            if let Some(now) = now.as_object_mut() {
                let why = now.remove("from_store").unwrap();
                assert!(
                    why.as_str()
                        .unwrap()
                        .starts_with("the index cannot be used: "),
                    "{why}"
                );
            }
            assert_eq!(now, *before, "{line:?}");
        }
        let shown = lab.json(&["show", "a:v1"]);
        assert_eq!(shown["digest"], images.common.digest.to_string());
        assert_eq!(shown["referrers"].as_array().unwrap().len(), 1);
        assert_eq!(shown["unique_bytes"], Value::Null);
        for line in [
            &["list"][..],
            &["list", "a"],
            &["show", "a:v1"],
            &["du"],
            &["du", "a:v2"],
        ] {
            let ran = lab.run(line);
            let notes = ran
                .talk
                .matches("note: read from the stored data, since the index")
                .count();
            assert_eq!(notes, 1, "{line:?}: {}", ran.talk);
            assert_eq!(
                ran.out.contains("not known"),
                line[0] != "list",
                "{line:?}: {}",
                ran.out
            );
        }
        let planned = lab.run(&["delete", "a:v2"]).talk;
        assert!(
            planned.contains("free once collected: not known"),
            "{planned}"
        );
    };
    check();
    let mut command = lab.command(&["serve"]);
    let mut server = Program::start(&lab.path("log"), &mut command);
    server.listens().await;
    server.takes_commands(&lab.socket()).await;
    check();
    for server_runs in [true, false] {
        let at = |name: &str| format!("{name}-{server_runs}");
        lab.json(&["copy", "a:v1", &at("copy")]);
        assert_eq!(lab.json(&["list", &at("copy")])["tags"][0]["tag"], "v1");
        lab.json(&["copy", "a:v2", &format!("{}:v1", at("copy"))]);
        lab.json(&[
            "restore-tag",
            &format!("{}:v1", at("copy")),
            &images.common.digest.to_string(),
        ]);
        assert_eq!(
            lab.json(&["list", &at("copy")])["tags"][0]["digest"],
            images.common.digest.to_string()
        );
        assert_eq!(deleted(&lab, &format!("{}:v1", at("copy")))["tags"], 1);
        assert_eq!(deleted(&lab, &at("copy"))["uncollected_bytes"], Value::Null);
        let names = lab.json(&["list"]);
        assert_eq!(names.as_array().unwrap().len(), 3, "{names}");
        server.kill();
    }
}

#[tokio::test]
async fn a_repository_goes_by_command_too_and_the_log_says_who_did_it() {
    let lab = Lab::open();
    let mut server = lab.serve().await;
    server.push_everything().await;
    let removed = deleted(&lab, "a");
    assert_eq!(removed["tags"], 4);
    assert!(!is_there(&server, "a", "v2").await);
    assert!(is_there(&server, "a/b", "v1").await);
    let names = |rows: Value| -> Vec<String> {
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(lab.json(&["list"])), ["a-b", "a/b"]);
    server.says("deleted by command").await;
    server.kill();

    // Alone, on the data that a killed server left.
    let removed = deleted(&lab, "a-b");
    assert_eq!(removed["tags"], 1);
    assert_eq!(names(lab.json(&["list"])), ["a/b"]);
    let again = lab.run(&["delete", "a-b", "--yes"]).failed();
    assert!(again.contains("repository a-b is not known"), "{again}");
    let server = lab.serve().await;
    assert!(is_there(&server, "a/b", "v1").await);
}

#[tokio::test]
async fn nothing_goes_before_somebody_has_agreed() {
    let lab = Lab::open();
    let server = lab.serve().await;
    server.push_everything().await;
    let refused = lab.run(&["delete", "a:v2"]);
    assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""));
    for says in [
        "to delete: a:v2 (1 tag, 1 manifest)",
        "free once collected: ",
        "hint: pass --yes",
    ] {
        assert!(refused.talk.contains(says), "{says}: {}", refused.talk);
    }
    assert!(is_there(&server, "a", "v2").await);
    let unknown = lab.run(&["delete", "a:v9", "--yes"]).failed();
    assert!(
        unknown.contains("manifest v9 is not in this repository"),
        "{unknown}"
    );

    let locked = Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\n",
    );
    let server = locked.serve().await;
    server.push("a", Some("v1"), &[1; 10], "").await;
    for image in ["a", "a:v1"] {
        let refused = locked.run(&["delete", image, "--yes"]).failed();
        assert!(refused.contains("deleting is switched off"), "{refused}");
        assert!(
            refused.contains("hint: set `storage.delete.enabled: true`"),
            "{refused}"
        );
    }
    assert!(is_there(&server, "a", "v1").await);
}

#[tokio::test]
async fn an_image_is_copied_whole_and_takes_no_room() {
    let lab = Lab::open();
    let mut server = lab.serve().await;
    let images = server.push_everything().await;
    let copied = lab.json(&["copy", "a:multi", "team/c"]);
    assert_eq!(copied["manifests"], 3);
    assert_eq!(copied["digest"], images.index.digest.to_string());
    assert!(is_there(&server, "team/c", "multi").await);
    for child in &images.children {
        assert!(is_there(&server, "team/c", &child.digest.to_string()).await);
    }
    // The signature comes along, and one that cosign has under a tag of its own.
    let client = Client::plain(server.address());
    let signature = format!("sha256-{}.sig", images.common.digest.hex());
    let (_, signed) = client.push_image("a", Some(&signature), &[8; 80], "").await;
    let stored = lab.json(&["status"])["stored_bytes"].clone();
    let copied = lab.json(&["copy", "a:v1", "team/signed"]);
    assert_eq!(
        (&copied["manifests"], &copied["referrers"]),
        (&json!(3), &json!(2))
    );
    for reference in [
        images.referrer.digest.to_string(),
        signed.to_string(),
        signature,
    ] {
        assert!(
            is_there(&server, "team/signed", &reference).await,
            "{reference}"
        );
    }
    let by_digest = format!("a@{}", images.own.digest);
    lab.json(&["copy", &by_digest, "a:stable"]);
    assert!(is_there(&server, "a", "stable").await);
    assert_eq!(lab.json(&["status"])["stored_bytes"], stored);
    for (line, says) in [
        (["copy", &by_digest, "c"], "write TO as REPOSITORY:TAG"),
        (["copy", "a:v1", &by_digest], "write TO as REPOSITORY:TAG"),
        (
            ["copy", "a:v9", "c"],
            "manifest v9 is not in this repository",
        ),
        (
            ["copy", "nowhere:v9", "c"],
            "repository nowhere is not known",
        ),
        (["copy", "a", "c"], "hint: write FROM as REPOSITORY:TAG"),
    ] {
        let refused = lab.run(&line).failed();
        assert!(refused.contains(says), "{refused}");
    }
    server.kill();
    lab.json(&["copy", "a/b:v1", "d:v7"]);
    let server = lab.serve().await;
    assert!(is_there(&server, "d", "v7").await);
    let layer = boathouse::oci::Digest::of(boathouse::oci::Algorithm::Sha256, &[1; 1_000]);
    let client = Client::plain(server.address());
    let blob = client.get(&format!("/v2/d/blobs/{layer}")).await.unwrap();
    assert_eq!(blob.status, StatusCode::OK);
    assert_eq!(lab.differences(), 0);
}

#[tokio::test]
async fn a_tag_goes_back_to_what_it_pointed_at() {
    let lab = Lab::open();
    let mut server = lab.serve().await;
    let mut pushed = Vec::new();
    for number in 1..=3 {
        pushed.push(
            server
                .push("app", Some("v1"), &[number; 10], "")
                .await
                .digest,
        );
    }
    let [first, second, third] = [0, 1, 2].map(|at: usize| pushed[at].to_string());
    let earlier = lab.json(&["restore-tag", "app:v1"]);
    assert_eq!(
        (&earlier[0]["digest"], &earlier[1]["digest"]),
        (&json!(second), &json!(first))
    );
    let at = || lab.json(&["show", "app:v1"])["digest"].clone();
    assert_eq!(at(), third);
    lab.json(&["restore-tag", "app:v1", &first]);
    assert_eq!(at(), first);
    assert!(is_there(&server, "app", "v1").await);
    // What no tag points to any more can be named.
    let content = lab.json(&["list", "app"]);
    let mut without_tag = [&second, &third];
    without_tag.sort();
    assert_eq!(content["untagged"], json!(without_tag));
    let text = lab.run(&["list", "app"]).fine();
    assert!(text.contains(&format!("\n  {third}\n")), "{text}");
    let unknown = lab.run(&["restore-tag", "app:gone"]).failed();
    let line = format!(
        "`boathouse list --config {} app`",
        lab.place("boathouse.yml")
    );
    assert!(unknown.contains(&line), "{unknown}");
    // The way back is there too.
    assert_eq!(lab.json(&["restore-tag", "app:v1"])[0]["digest"], third);

    deleted(&lab, &format!("app@{second}"));
    let earlier = lab.json(&["restore-tag", "app:v1"]);
    let lost = earlier
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["digest"] == second);
    assert_eq!(lost.unwrap()["is_present"], false);
    let refused = lab.run(&["restore-tag", "app:v1", &second]).failed();
    assert!(refused.contains("is not in this repository"), "{refused}");
    assert_eq!(at(), first);

    // Where a tag was deleted and its image stays, the tag can be made again.
    lab.json(&["restore-tag", "app:keep", &third]);
    deleted(&lab, "app:v1");
    lab.json(&["restore-tag", "app:v1", &third]);
    assert_eq!(at(), third);
    server.kill();
    lab.json(&["restore-tag", "app:v2", &third]);
    let server = lab.serve().await;
    assert!(is_there(&server, "app", "v2").await);
    let refused = lab.run(&["restore-tag", "app"]).failed();
    assert!(refused.contains("hint: write REPOSITORY:TAG"), "{refused}");
}
