//! Many clients at once, all with the same blob or the same tag.

use boathouse::oci::{Algorithm, Digest};
use futures_util::future::join_all;
use http::StatusCode;

use crate::support::{OCI_MANIFEST, TestRegistry, image_manifest};

const CLIENTS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_blob_from_all_is_one_blob() {
    let registry = TestRegistry::open();
    let content: Vec<u8> = (0..500_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let pushes = (0..CLIENTS).map(|client| {
        // Half of them into one repository, the others each into its own.
        let name = if client % 2 == 0 {
            "shared".to_owned()
        } else {
            format!("own/{client}")
        };
        let (registry, content) = (&registry, &content);
        async move {
            registry.push_blob(&name, content).await;
            name
        }
    });
    let names = join_all(pushes).await;
    let digest = Digest::of(Algorithm::Sha256, &content);
    for name in names {
        let blob = registry.get(&format!("/v2/{name}/blobs/{digest}"));
        let blob = blob.send().await.expect(StatusCode::OK);
        assert!(blob.body == content, "{name}");
    }
    let files = registry.data.files();
    let copies = files.values().filter(|bytes| **bytes == content).count();
    assert_eq!(copies, 1, "{:?}", files.keys());
    assert!(!files.keys().any(|name| name.contains("_uploads")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_tag_moved_by_all_ends_at_one_of_theirs() {
    let registry = TestRegistry::open();
    registry.push_image("a", "v1", b"layer").await;
    let manifests: Vec<String> = (0..CLIENTS)
        .map(|client| image_manifest(b"layer", &format!(r#","annotations":{{"by":"{client}"}}"#)))
        .collect();
    let moves = manifests.iter().map(|manifest| {
        let put = registry
            .put("/v2/a/manifests/v1")
            .header("content-type", OCI_MANIFEST);
        put.body(manifest.as_bytes()).send()
    });
    for answer in join_all(moves).await {
        answer.expect(StatusCode::CREATED);
    }
    let tagged = registry.get("/v2/a/manifests/v1").send().await;
    let tagged = tagged.expect(StatusCode::OK);
    assert!(manifests.iter().any(|manifest| tagged.body == manifest));
    // Whoever lost still finds what it pushed, and the list has the tag once.
    for manifest in &manifests {
        let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
        let answer = registry.get(&format!("/v2/a/manifests/{digest}"));
        assert_eq!(
            answer.send().await.expect(StatusCode::OK).body,
            manifest.as_bytes()
        );
    }
    let tags = registry.get("/v2/a/tags/list").send().await;
    assert_eq!(tags.json()["tags"], serde_json::json!(["v1"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manifest_deleted_while_it_is_tagged_leaves_no_tag_to_nothing() {
    let registry = TestRegistry::open();
    registry.push_image("a", "base", b"layer").await;
    for round in 0..40 {
        let manifest = image_manifest(
            b"layer",
            &format!(r#","annotations":{{"round":"{round}"}}"#),
        );
        let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
        let by_digest = format!("/v2/a/manifests/{digest}");
        let put = |path: &str| {
            let put = registry.put(path).header("content-type", OCI_MANIFEST);
            put.body(manifest.as_bytes())
        };
        put(&by_digest).send().await.expect(StatusCode::CREATED);
        // Each of the two is given a start now and then.
        let pause =
            |is_later: bool| tokio::time::sleep(std::time::Duration::from_millis(is_later.into()));
        let tagged = async {
            pause(round % 3 == 1).await;
            put("/v2/a/manifests/v1").send().await
        };
        let deleted = async {
            pause(round % 3 == 2).await;
            registry.delete(&by_digest).send().await
        };
        let (tagged, deleted) = tokio::join!(tagged, deleted);
        tagged.expect(StatusCode::CREATED);
        deleted.expect(StatusCode::ACCEPTED);
        let tag = registry.get("/v2/a/manifests/v1").send().await.status;
        let revision = registry.get(&by_digest).send().await.status;
        assert_eq!(tag, revision, "round {round}: a tag and its manifest part");
        let tags = registry.get("/v2/a/tags/list").send().await.json();
        let is_listed = tags["tags"].as_array().unwrap().contains(&"v1".into());
        assert_eq!(is_listed, tag == StatusCode::OK, "round {round}");
        if is_listed {
            registry
                .delete(&by_digest)
                .send()
                .await
                .expect(StatusCode::ACCEPTED);
        }
    }
}
