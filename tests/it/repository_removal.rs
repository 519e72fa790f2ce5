//! `DELETE /v2/<name>/_boathouse/repository`: a repository goes with all that it holds, and nothing else does.

use boathouse::oci::{Algorithm, Digest};
use http::StatusCode;

use crate::support::{OCI_MANIFEST, Options, TestRegistry, image_manifest};

fn path_of(name: &str) -> String {
    format!("/v2/{name}/_boathouse/repository")
}

fn data_of(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2])
}

fn is_in(key: &str, name: &str) -> bool {
    key.starts_with(&format!("docker/registry/v2/repositories/{name}/_"))
}

#[tokio::test]
async fn a_repository_goes_with_all_that_it_holds() {
    let registry = TestRegistry::open();
    let (_, first) = registry.push_image("a", "v1", &[1; 100]).await;
    registry.push_image("a", "v2", &[2; 200]).await;
    let (manifest, _) = registry.push_image("a/b", "v1", &[1; 100]).await;
    registry.registry.index_sync.catch_up().await;

    let removed = registry.delete(&path_of("a")).send().await;
    let removed = removed.expect(StatusCode::ACCEPTED).json();
    assert_eq!(removed["tags"], 2);
    assert_eq!(removed["manifests"], 2);
    assert_eq!(removed["blobs"], 3);
    assert_eq!(removed["freed_bytes"], 0);

    let gone = registry.get("/v2/a/tags/list").send().await;
    gone.expect_error(404, "NAME_UNKNOWN");
    for reference in ["v1", &first.to_string()] {
        let gone = registry.get(&format!("/v2/a/manifests/{reference}"));
        gone.send().await.expect_error(404, "MANIFEST_UNKNOWN");
    }
    let layer = Digest::of(Algorithm::Sha256, &[1; 100]);
    let gone = registry.get(&format!("/v2/a/blobs/{layer}")).send().await;
    gone.expect_error(404, "BLOB_UNKNOWN");
    let catalog = registry.get("/v2/_catalog").send().await.json();
    assert_eq!(catalog["repositories"], serde_json::json!(["a/b"]));
    let listed = registry.registry.listings.summaries().await.unwrap();
    let listed: Vec<&str> = listed.value.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(listed, ["a/b"]);
    let files = registry.data.shared_files();
    assert!(!files.keys().any(|key| is_in(key, "a")), "{files:?}");

    let other = registry.get("/v2/a/b/manifests/v1").send().await;
    assert_eq!(other.expect(StatusCode::OK).body, manifest);
    let other = registry.get(&format!("/v2/a/b/blobs/{layer}")).send().await;
    other.expect(StatusCode::OK);

    let again = registry.delete(&path_of("a")).send().await;
    again.expect_error(404, "NAME_UNKNOWN");
    registry.push_image("a", "v1", &[1; 100]).await;
    let tags = registry.get("/v2/a/tags/list").send().await;
    assert_eq!(tags.expect(StatusCode::OK).names("tags"), ["v1"]);
}

/// The index knows nothing of it any more, also where it must not ask the store: its sums, and who holds a blob.
#[tokio::test]
async fn the_index_forgets_a_repository_that_was_removed() {
    let registry = TestRegistry::open();
    registry.push_image("a", "v1", &[1; 100]).await;
    registry.push_image("b", "v1", &[1; 100]).await;
    registry.registry.index_sync.catch_up().await;
    let before = registry.registry.listings.status().await.unwrap();
    let removed = registry.delete(&path_of("a")).send().await;
    removed.expect(StatusCode::ACCEPTED);
    let after = registry.registry.listings.status().await.unwrap();
    assert_eq!((after.repositories, after.tags, after.manifests), (1, 1, 1));
    assert_eq!(after.stored_bytes, before.stored_bytes);
    assert_eq!(after.logical_bytes * 2, before.logical_bytes);
    // No stamp of it is written afterwards, which would make it known again.
    registry.registry.index_sync.catch_up().await;
    let later = registry.registry.listings.status().await.unwrap();
    assert_eq!(later.repositories, 1);
}

#[tokio::test]
async fn nothing_is_removed_where_deleting_is_switched_off() {
    let mut options = Options::default();
    options.registry.deletes_enabled = false;
    let registry = TestRegistry::start(options);
    registry.push_image("a", "v1", &[1; 100]).await;
    let before = registry.data.shared_files();
    let refused = registry.delete(&path_of("a")).send().await;
    assert_eq!(refused.header("allow"), "");
    refused.expect_error(405, "UNSUPPORTED");
    assert_eq!(registry.data.shared_files(), before);
    let wrong = registry.get(&path_of("a")).send().await;
    wrong.expect_error(405, "UNSUPPORTED");
}

/// Blobs that were never part of an image (a scratch blob, a push that broke off): their bytes go at once, unless some
/// other repository has them.
#[tokio::test]
async fn bytes_that_no_image_needs_go_with_their_repository() {
    let registry = TestRegistry::open();
    let scratch = registry.push_blob("a", &[1; 1_000]).await;
    let shared = registry.push_blob("a", &[2; 2_000]).await;
    let unknown = registry.push_blob("a", &[3; 3_000]).await;
    registry.push_blob("b", &[2; 2_000]).await;
    // As the old registry links a blob that was pushed by its sha512.
    let wide = Digest::of(Algorithm::Sha512, &[3; 3_000]);
    let link = format!(
        "docker/registry/v2/repositories/c/_layers/sha512/{}/link",
        wide.hex()
    );
    registry.data.write(&link, unknown.to_string());

    let removed = registry.delete(&path_of("a")).send().await;
    let removed = removed.expect(StatusCode::ACCEPTED).json();
    assert_eq!(removed["freed_bytes"], 1_000);
    assert_eq!(registry.data.read(&data_of(&scratch)), None);
    assert!(registry.data.read(&data_of(&shared)).is_some());
    assert!(registry.data.read(&data_of(&unknown)).is_some());
    let other = registry.get(&format!("/v2/b/blobs/{shared}")).send().await;
    other.expect(StatusCode::OK);

    // An image needs its blobs, whoever else has them: they are for the collection.
    registry.push_image("d", "v1", &[4; 4_000]).await;
    let removed = registry.delete(&path_of("d")).send().await;
    let removed = removed.expect(StatusCode::ACCEPTED).json();
    assert_eq!(removed["freed_bytes"], 0);
    let layer = Digest::of(Algorithm::Sha256, &[4; 4_000]);
    assert!(registry.data.read(&data_of(&layer)).is_some());
}

on_a_directory! {"a bucket lists no upload sessions";
/// Who pushes into a repository while it is removed learns that the push has ended, and pushes anew.
#[tokio::test]
async fn uploads_end_with_their_repository() {
    let registry = TestRegistry::open();
    registry.push_image("a", "v1", &[1; 100]).await;
    let begun = registry.post("/v2/a/blobs/uploads/").send().await;
    let location = begun.header("location").to_owned();
    let sent = registry.patch(&location).body(&[5; 5_000]).send().await;
    sent.expect(StatusCode::ACCEPTED);
    let foreign = "docker/registry/v2/repositories/a/_uploads/3b1e0000-0000-4000-8000-000000000000";
    registry.data.write(&format!("{foreign}/data"), [6; 600]);

    let removed = registry.delete(&path_of("a")).send().await;
    let removed = removed.expect(StatusCode::ACCEPTED).json();
    assert_eq!(removed["uploads"], 2);
    assert_eq!(removed["freed_bytes"], 5_600);
    let digest = Digest::of(Algorithm::Sha256, &[5; 5_000]);
    let finished = registry.put(&format!("{location}?digest={digest}"));
    finished
        .send()
        .await
        .expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    let files = registry.data.shared_files();
    assert!(!files.keys().any(|key| is_in(key, "a")), "{files:?}");
}
}

/// What a manifest names was looked up before the removal, and is looked up again after it.
#[tokio::test]
async fn a_manifest_whose_blobs_went_with_the_repository_is_refused() {
    let registry = TestRegistry::open();
    registry.push_blob("a", b"{}").await;
    registry.push_blob("a", &[1; 100]).await;
    let removed = registry.delete(&path_of("a")).send().await;
    removed.expect(StatusCode::ACCEPTED);
    let manifest = image_manifest(&[1; 100], "");
    let put = registry.put("/v2/a/manifests/v1");
    let put = put
        .header("content-type", OCI_MANIFEST)
        .body(manifest.as_bytes());
    put.send().await.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
}
