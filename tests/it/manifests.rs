//! Manifests and tags: exact bytes, references, moves, removals.

use boathouse::oci::{Algorithm, Digest};
use boathouse::registry::References;
use http::StatusCode;

use crate::support::{OCI_INDEX, OCI_MANIFEST, Options, TestRegistry, image_manifest};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn sha256(content: &str) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_bytes())
}

#[tokio::test]
async fn a_manifest_is_read_back_byte_for_byte() {
    let registry = TestRegistry::open();
    registry.push_blob("a", b"{}").await;
    registry.push_blob("a", b"layer").await;
    let manifest = format!(
        " \n{}\n",
        image_manifest(b"layer", r#","unknown":{"x":[1.5e3,null]}"#)
    );
    let digest = sha256(&manifest);
    let put = registry
        .put("/v2/a/manifests/v1")
        .header("content-type", OCI_MANIFEST);
    let answer = put
        .chunks(&[manifest.as_bytes()])
        .send()
        .await
        .expect(StatusCode::CREATED);
    assert_eq!(
        answer.header("location"),
        format!("/v2/a/manifests/{digest}")
    );
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    for reference in ["v1".to_owned(), digest.to_string()] {
        let path = format!("/v2/a/manifests/{reference}");
        // A client that accepts something else still gets what is there.
        let answer = registry
            .get(&path)
            .header("accept", DOCKER_MANIFEST)
            .send()
            .await
            .expect(StatusCode::OK);
        assert_eq!(answer.body, manifest);
        assert_eq!(answer.header("content-type"), OCI_MANIFEST);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        let head = registry.head(&path).send().await.expect(StatusCode::OK);
        assert_eq!(head.header("content-length"), manifest.len().to_string());
        assert_eq!(head.header("content-type"), OCI_MANIFEST);
        let known = registry
            .get(&path)
            .header("if-none-match", &format!("\"{digest}\""))
            .send()
            .await;
        known.expect(StatusCode::NOT_MODIFIED);
    }
    registry
        .get("/v2/a/manifests/v2")
        .send()
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
    registry
        .get(&format!("/v2/b/manifests/{digest}"))
        .send()
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn what_is_no_manifest_is_refused() {
    let registry = TestRegistry::open();
    registry.push_image("a", "v1", b"layer").await;
    let good = image_manifest(b"layer", "");
    let put = |reference: &str, content_type: &str, body: &str| {
        let call = registry
            .put(&format!("/v2/a/manifests/{reference}"))
            .header("content-type", content_type);
        call.body(body.as_bytes()).send()
    };
    for bad in [
        "",
        "[]",
        "{}",
        &good[1..],
        &good.replacen('{', r#"{"schemaVersion":2,"#, 1),
    ] {
        put("v2", OCI_MANIFEST, bad)
            .await
            .expect_error(400, "MANIFEST_INVALID");
    }
    put("v2", DOCKER_MANIFEST, &good)
        .await
        .expect_error(400, "MANIFEST_INVALID");
    put("v2", "application/json", &good)
        .await
        .expect_error(400, "MANIFEST_INVALID");
    put(&sha256("other").to_string(), OCI_MANIFEST, &good)
        .await
        .expect_error(400, "DIGEST_INVALID");
    put("sha256:bad", OCI_MANIFEST, &good)
        .await
        .expect_error(400, "DIGEST_INVALID");
    put(".hidden", OCI_MANIFEST, &good)
        .await
        .expect_error(400, "MANIFEST_INVALID");
    let wrong_size = good.replace("\"size\":5", "\"size\":6");
    put("v2", OCI_MANIFEST, &wrong_size)
        .await
        .expect_error(400, "MANIFEST_INVALID");
    let large = " ".repeat(4 * 1024 * 1024 + 1);
    put("v2", OCI_MANIFEST, &large)
        .await
        .expect_error(413, "MANIFEST_INVALID");
    registry
        .get("/v2/a/manifests/v2")
        .send()
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn everything_referenced_must_be_there_unless_told_otherwise() {
    let registry = TestRegistry::open();
    registry.push_blob("a", b"{}").await;
    let manifest = image_manifest(b"absent", "");
    let put = registry
        .put("/v2/a/manifests/v1")
        .header("content-type", OCI_MANIFEST);
    let answer = put
        .body(manifest.as_bytes())
        .send()
        .await
        .expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    let digest = Digest::of(Algorithm::Sha256, b"absent");
    assert_eq!(
        answer.json()["errors"][0]["detail"]["digest"],
        digest.to_string()
    );

    let foreign = manifest.replace(
        "\"application/octet-stream\"",
        "\"x\",\"urls\":[\"https://elsewhere.test/\"]",
    );
    let put = registry
        .put("/v2/a/manifests/v1")
        .header("content-type", OCI_MANIFEST);
    put.body(foreign.as_bytes())
        .send()
        .await
        .expect(StatusCode::CREATED);

    let mut options = Options::default();
    options.registry.references = References::Any;
    let registry = TestRegistry::start_in(registry.stop().await, options);
    let put = registry
        .put("/v2/a/manifests/v1")
        .header("content-type", OCI_MANIFEST);
    put.body(manifest.as_bytes())
        .send()
        .await
        .expect(StatusCode::CREATED);
    registry
        .get(&format!("/v2/a/blobs/{digest}"))
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn a_blob_of_another_repository_is_linked_when_the_caller_could_mount_it() {
    let registry = TestRegistry::open();
    let (manifest, _) = registry.push_image("source", "v1", b"layer").await;
    let put = registry
        .put("/v2/target/manifests/v1")
        .header("content-type", OCI_MANIFEST);
    put.body(manifest.as_bytes())
        .send()
        .await
        .expect(StatusCode::CREATED);
    let digest = Digest::of(Algorithm::Sha256, b"layer");
    registry
        .get(&format!("/v2/target/blobs/{digest}"))
        .send()
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn an_index_needs_its_children_here() {
    let registry = TestRegistry::open();
    let (manifest, digest) = registry.push_image("a", "v1", b"layer").await;
    let size = manifest.len();
    let child = format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{size}}}"#);
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{child}]}}"#);
    let put = |name: &str| {
        let call = registry
            .put(&format!("/v2/{name}/manifests/multi"))
            .header("content-type", OCI_INDEX);
        call.body(index.as_bytes()).send()
    };
    put("a").await.expect(StatusCode::CREATED);
    put("b").await.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(
        registry
            .get("/v2/a/manifests/multi")
            .send()
            .await
            .header("content-type"),
        OCI_INDEX
    );
}

#[tokio::test]
async fn a_repository_of_an_empty_index_is_seen_by_the_old_registry_too() {
    let registry = TestRegistry::open();
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
    let put = registry
        .put("/v2/a/manifests/v1")
        .header("content-type", OCI_INDEX);
    put.body(index.as_bytes())
        .send()
        .await
        .expect(StatusCode::CREATED);
    let layers = "docker/registry/v2/repositories/a/_layers/";
    assert!(
        registry.data.is_there(layers),
        "its collector skips repositories without one, and deletes what they hold"
    );
}

#[tokio::test]
async fn one_push_may_carry_many_tags() {
    let registry = TestRegistry::open();
    let (manifest, _) = registry.push_image("a", "v1", b"layer").await;
    let digest = Digest::of(Algorithm::Sha512, manifest.as_bytes());
    let path = format!("/v2/a/manifests/{digest}?tag=x&tag=y");
    let put = registry
        .put(&path)
        .header("content-type", OCI_MANIFEST)
        .body(manifest.as_bytes());
    let answer = put.send().await.expect(StatusCode::CREATED);
    assert_eq!(answer.header("oci-tag"), "x, y");
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    for tag in ["x", "y"] {
        let answer = registry
            .get(&format!("/v2/a/manifests/{tag}"))
            .send()
            .await
            .expect(StatusCode::OK);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    }
}

#[tokio::test]
async fn a_tag_moves_and_is_removed_without_its_manifest() {
    let registry = TestRegistry::open();
    let (_, first) = registry.push_image("a", "v1", b"first").await;
    let (_, second) = registry.push_image("a", "v1", b"second").await;
    let current = registry.get("/v2/a/manifests/v1").send().await;
    assert_eq!(current.header("docker-content-digest"), second.to_string());
    registry
        .delete("/v2/a/manifests/v1")
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    registry
        .get("/v2/a/manifests/v1")
        .send()
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
    registry
        .delete("/v2/a/manifests/v1")
        .send()
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
    for digest in [first, second] {
        registry
            .get(&format!("/v2/a/manifests/{digest}"))
            .send()
            .await
            .expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn a_removed_manifest_takes_its_tags_along() {
    let registry = TestRegistry::open();
    let (manifest, digest) = registry.push_image("a", "v1", b"first").await;
    registry.push_image("a", "other", b"other").await;
    let put = registry
        .put("/v2/a/manifests/v2")
        .header("content-type", OCI_MANIFEST);
    put.body(manifest.as_bytes())
        .send()
        .await
        .expect(StatusCode::CREATED);
    registry
        .delete(&format!("/v2/a/manifests/{digest}"))
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    for reference in ["v1".to_owned(), "v2".to_owned(), digest.to_string()] {
        let answer = registry
            .get(&format!("/v2/a/manifests/{reference}"))
            .send()
            .await;
        answer.expect_error(404, "MANIFEST_UNKNOWN");
    }
    let tags = registry
        .get("/v2/a/tags/list")
        .send()
        .await
        .expect(StatusCode::OK);
    assert_eq!(tags.json()["tags"], serde_json::json!(["other"]));
    registry
        .delete(&format!("/v2/a/manifests/{digest}"))
        .send()
        .await
        .expect_error(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn tags_that_differ_by_case_need_a_file_system_that_keeps_both() {
    let mut options = Options::default();
    options.registry.case_insensitive = true;
    let registry = TestRegistry::start(options);
    let (manifest, _) = registry.push_image("a", "Foo", b"layer").await;
    let put = |tag: &str| {
        let call = registry
            .put(&format!("/v2/a/manifests/{tag}"))
            .header("content-type", OCI_MANIFEST);
        call.body(manifest.as_bytes()).send()
    };
    let answer = put("foo").await.expect_error(400, "MANIFEST_INVALID");
    assert!(
        answer.json()["errors"][0]["message"]
            .as_str()
            .unwrap()
            .contains("Foo")
    );
    put("Foo").await.expect(StatusCode::CREATED);
}
