//! `list` and `show`: what is there, from a running server and without one.

use boathouse::oci::{Algorithm, Digest};
use serde_json::json;

use crate::client::Client;
use crate::golden::golden;
use crate::lab::Lab;
use crate::support::{OCI_INDEX, OCI_MANIFEST};

/// Pushes an image for one platform, without a tag; returns its descriptor in an index, and the manifest.
async fn push_for(client: &Client, architecture: &str) -> (String, String) {
    let config = format!(r#"{{"os":"linux","architecture":"{architecture}"}}"#);
    let of_config = client.push_blob("team/app", config.as_bytes()).await;
    let layer = client.push_blob("team/app", &[1; 100]).await;
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{of_config}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":100}}]}}"#,
        config.len()
    );
    let digest = client.push_manifest("team/app", None, OCI_MANIFEST, &manifest);
    let digest = digest.await;
    let descriptor = format!(
        r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
        manifest.len()
    );
    (descriptor, manifest)
}

#[tokio::test]
async fn lists_name_tags_platforms_sizes_and_times() {
    let lab = Lab::open();
    let mut server = lab.serve().await;
    let client = Client::plain(server.address());
    let ((amd64, single_text), (arm64, _)) = (
        push_for(&client, "amd64").await,
        push_for(&client, "arm64").await,
    );
    let attestation = amd64.replace(
        r#""os":"linux","architecture":"amd64""#,
        r#""os":"unknown","architecture":"unknown""#,
    );
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{arm64},{amd64},{attestation}]}}"#
    );
    let multi = client.push_manifest("team/app", Some("v2"), OCI_INDEX, &index);
    let multi = multi.await;
    let single = client.push_manifest("team/app", Some("v1"), OCI_MANIFEST, &single_text);
    let single = single.await;
    // `v1` has pointed to the index as well.
    client
        .push_manifest("team/app", Some("v1"), OCI_INDEX, &index)
        .await;
    let digest = Digest::of(Algorithm::Sha256, index.as_bytes());
    assert_eq!(digest, multi);
    client
        .push_manifest("team/app", Some("v1"), OCI_MANIFEST, &single_text)
        .await;
    server.push("hello", Some("latest"), &[2; 50], "").await;

    let check = || {
        let rows = lab.json(&["list"]);
        assert_eq!(rows[0]["name"], "hello");
        assert_eq!(rows[1]["name"], "team/app");
        assert_eq!(rows[1]["tags"], 2);
        assert_eq!(rows[1]["manifests"], 3);
        let content = lab.json(&["list", "team/app"]);
        let [v1, v2] = [&content["tags"][0], &content["tags"][1]];
        assert_eq!(v1["digest"], single.to_string());
        assert_eq!(v1["platforms"], json!(["linux/amd64"]));
        assert_eq!(v2["digest"], multi.to_string());
        assert_eq!(v2["platforms"], json!(["linux/amd64", "linux/arm64"]));
        assert_eq!(v2.get("artifact_type"), None);
        assert_eq!(content["untagged_bytes"], 0);
        assert_eq!(content.get("untagged"), None, "an index lists the others");
        for tag in [v1, v2] {
            assert!(
                tag["pushed_unix_secs"].as_u64().unwrap() > 1_700_000_000,
                "{tag}"
            );
            assert!(tag["bytes"].as_u64().unwrap() > 100, "{tag}");
        }
        let shown = lab.json(&["show", "team/app:v1"]);
        assert_eq!(shown["digest"], single.to_string());
        assert_eq!(shown["blobs"].as_array().unwrap().len(), 2);
        assert_eq!(shown["earlier"].as_array().unwrap().len(), 1, "{shown}");
        assert_eq!(shown["earlier"][0]["digest"], multi.to_string());
        assert_eq!(shown["earlier"][0]["is_present"], true);
        let by_digest = lab.json(&["show", &format!("team/app@{multi}")]);
        assert_eq!(by_digest["tags"], json!(["v2"]));
        assert_eq!(by_digest["manifests"].as_array().unwrap().len(), 3);
        assert_eq!(by_digest.get("earlier"), None);
        for (name, line) in [
            ("list.txt", &["list"][..]),
            ("list-repository.txt", &["list", "team/app"]),
            ("list-artifact.txt", &["list", "hello"]),
            ("show-index.txt", &["show", "team/app:v2"]),
            ("show-image.txt", &["show", "team/app:v1"]),
        ] {
            golden(name, &lab.shown(&lab.run(line).fine()));
        }
        // A name without a tag is the repository, in every command.
        let content = lab.json(&["list", "team/app"]);
        assert_eq!(lab.json(&["show", "team/app"]), content);
        for (line, says) in [
            (["list", "nowhere"], "repository nowhere is not known"),
            (
                ["show", "team/app:v9"],
                "manifest v9 is not in this repository",
            ),
            (["show", "nowhere"], "repository nowhere is not known"),
            (["show", "nowhere:v1"], "repository nowhere is not known"),
        ] {
            let refused = lab.run(&line);
            assert_eq!(refused.out, "");
            let said = refused.failed();
            assert!(said.contains(says), "{line:?}: {said}");
        }
    };
    check();
    server.kill();
    check();
    let host = lab.run(&["show", "lab:5443/team/app:v1"]);
    assert!(
        host.talk.contains("leave out the registry \"lab:5443\""),
        "{}",
        host.talk
    );
}

/// Whoever may push decides what stands in a manifest and in a config: none of it may reach a terminal as it is.
#[tokio::test]
async fn what_a_manifest_says_cannot_steer_the_terminal() {
    let lab = Lab::open();
    let server = lab.serve().await;
    let client = Client::plain(server.address());
    let config = r#"{"os":"li\u001b[2Jnux","architecture":"a\u0007"}"#;
    let of_config = client.push_blob("app", config.as_bytes()).await;
    let size = config.len();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"x/\u001b[31m","config":{{"mediaType":"a/\u001b[2J","digest":"{of_config}","size":{size}}},"layers":[]}}"#,
    );
    client
        .push_manifest("app", Some("v1"), OCI_MANIFEST, &manifest)
        .await;
    for line in [["list", "app"], ["show", "app:v1"]] {
        let text = lab.run(&line).fine();
        assert!(text.contains(r"x/\u{1b}[31m"), "{text}");
        assert!(
            !text
                .chars()
                .any(|letter| letter.is_control() && letter != '\n'),
            "{text:?}"
        );
    }
}
