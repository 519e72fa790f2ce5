//! `delete`, `copy` and `restore-tag`: on a running server and without one.

use http::StatusCode;
use serde_json::{Value, json};

use super::images::Images;
use crate::client::Client;
use crate::lab::Lab;
use crate::program::Program;

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
    let stored = lab.json(&["status"])["stored_bytes"].clone();
    let copied = lab.json(&["copy", "a:multi", "team/c"]);
    assert_eq!(copied["manifests"], 3);
    assert_eq!(copied["digest"], images.index.digest.to_string());
    assert!(is_there(&server, "team/c", "multi").await);
    for child in &images.children {
        assert!(is_there(&server, "team/c", &child.digest.to_string()).await);
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
    assert!(unknown.contains("`boathouse list app`"), "{unknown}");
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
