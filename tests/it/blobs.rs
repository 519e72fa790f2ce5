//! Blobs: reading, ranges, conditions, removing.

use std::sync::Arc;

use boathouse::clock::ManualClock;
use boathouse::store::faulty::{Fault, FaultyStore, Operation};
use boathouse::store::filesystem::{self, FilesystemStore};
use http::StatusCode;

use crate::support::{Options, TestRegistry};

#[tokio::test]
async fn a_blob_is_read_back_as_it_was_pushed() {
    let registry = TestRegistry::open();
    let content: Vec<u8> = (0..3_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let digest = registry.push_blob("team/app", &content).await;
    let path = format!("/v2/team/app/blobs/{digest}");

    let answer = registry.get(&path).send().await.expect(StatusCode::OK);
    assert_eq!(answer.body, content);
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    assert_eq!(answer.header("content-length"), content.len().to_string());
    assert_eq!(answer.header("etag"), format!("\"{digest}\""));
    assert_eq!(
        answer.header("docker-distribution-api-version"),
        "registry/2.0"
    );

    let answer = registry.head(&path).send().await.expect(StatusCode::OK);
    assert_eq!(answer.header("content-length"), content.len().to_string());
    assert!(answer.body.is_empty());
}

#[tokio::test]
async fn parts_and_conditions() {
    let registry = TestRegistry::open();
    let content: Vec<u8> = (0..10_000_u32).map(|number| (number % 251) as u8).collect();
    let digest = registry.push_blob("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");

    let part = registry
        .get(&path)
        .header("range", "bytes=500-1499")
        .send()
        .await;
    assert_eq!(part.header("content-range"), "bytes 500-1499/10000");
    assert_eq!(
        part.expect(StatusCode::PARTIAL_CONTENT).body,
        content[500..1500]
    );
    let rest = registry
        .get(&path)
        .header("range", "bytes=9000-")
        .send()
        .await;
    assert_eq!(
        rest.expect(StatusCode::PARTIAL_CONTENT).body,
        content[9000..]
    );
    let beyond = registry
        .get(&path)
        .header("range", "bytes=10000-")
        .send()
        .await;
    assert_eq!(
        beyond
            .expect(StatusCode::RANGE_NOT_SATISFIABLE)
            .header("content-range"),
        "bytes */10000"
    );

    for tag in [
        format!("\"{digest}\""),
        digest.to_string(),
        "*".into(),
        format!("W/\"x\", \"{digest}\""),
    ] {
        let answer = registry
            .get(&path)
            .header("if-none-match", &tag)
            .send()
            .await;
        assert!(answer.expect(StatusCode::NOT_MODIFIED).body.is_empty());
    }
    registry
        .get(&path)
        .header("if-none-match", "\"other\"")
        .send()
        .await
        .expect(StatusCode::OK);

    let other = registry
        .get(&path)
        .header("range", "bytes=0-1")
        .header("if-range", "\"other\"")
        .send()
        .await;
    other.expect(StatusCode::OK);
    let same = format!("\"{digest}\"");
    let same = registry
        .get(&path)
        .header("range", "bytes=0-1")
        .header("if-range", &same)
        .send()
        .await;
    same.expect(StatusCode::PARTIAL_CONTENT);
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let registry = TestRegistry::open();
    let digest = registry.push_blob("a", b"").await;
    let answer = registry
        .get(&format!("/v2/a/blobs/{digest}"))
        .send()
        .await
        .expect(StatusCode::OK);
    assert_eq!(answer.header("content-length"), "0");
    let range = registry
        .get(&format!("/v2/a/blobs/{digest}"))
        .header("range", "bytes=0-")
        .send()
        .await;
    range.expect(StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn a_deleted_blob_is_gone_from_its_repository_only() {
    let registry = TestRegistry::open();
    let digest = registry.push_blob("a", b"shared").await;
    registry.push_blob("b", b"shared").await;
    let path = format!("/v2/a/blobs/{digest}");
    registry
        .delete(&path)
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    registry
        .get(&path)
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    registry
        .delete(&path)
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    registry
        .get(&format!("/v2/b/blobs/{digest}"))
        .send()
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn deleting_and_writing_can_be_switched_off() {
    let mut options = Options::default();
    options.registry.deletes_enabled = false;
    let registry = TestRegistry::start(options);
    let digest = registry.push_blob("a", b"kept").await;
    registry.push_image("a", "v1", b"layer").await;
    for path in [format!("blobs/{digest}"), "manifests/v1".into()] {
        registry
            .delete(&format!("/v2/a/{path}"))
            .send()
            .await
            .expect_error(405, "UNSUPPORTED");
    }
    let directory = registry.stop().await;

    let mut options = Options::default();
    options.registry.readonly = true;
    let registry = TestRegistry::start_in(directory, options);
    registry
        .get(&format!("/v2/a/blobs/{digest}"))
        .send()
        .await
        .expect(StatusCode::OK);
    registry
        .post("/v2/a/blobs/uploads/")
        .send()
        .await
        .expect_error(405, "UNSUPPORTED");
    registry
        .delete(&format!("/v2/a/blobs/{digest}"))
        .send()
        .await
        .expect_error(405, "UNSUPPORTED");
}

#[tokio::test]
async fn nothing_answers_outside_the_registry() {
    let registry = TestRegistry::open();
    registry.get("/healthz").send().await.expect(StatusCode::OK);
    registry.get("/readyz").send().await.expect(StatusCode::OK);
    registry.get("/v2/").send().await.expect(StatusCode::OK);
    assert_eq!(
        registry
            .get("/v2")
            .send()
            .await
            .expect(StatusCode::MOVED_PERMANENTLY)
            .header("location"),
        "/v2/"
    );
    registry
        .get("/ca.crt")
        .send()
        .await
        .expect_error(404, "NAME_UNKNOWN");
    registry
        .get("/v2/a/b")
        .send()
        .await
        .expect_error(404, "NAME_UNKNOWN");
    let answer = registry
        .put("/v2/_catalog")
        .send()
        .await
        .expect_error(405, "UNSUPPORTED");
    assert_eq!(answer.header("allow"), "GET, HEAD");
    registry
        .get("/v2/A/tags/list")
        .send()
        .await
        .expect_error(400, "NAME_INVALID");
    registry
        .get("/v2/a/tags/list")
        .send()
        .await
        .expect_error(404, "NAME_UNKNOWN");
}

#[tokio::test]
async fn a_blob_is_deleted_on_a_full_disk_too() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let clock = ManualClock::at_unix_secs(1_800_000_000);
    let settings = filesystem::Settings::at(directory.path());
    let store = FilesystemStore::open(settings, Arc::new(clock.clone())).unwrap();
    let store = FaultyStore::new(Arc::new(store));
    let shared = Arc::new(store.clone());
    let registry = TestRegistry::start_on(shared, directory, clock, Options::default());
    let digest = registry.push_blob("a", b"in the way").await;
    store.fail(Operation::Apply, 0, Fault::Full);
    let path = format!("/v2/a/blobs/{digest}");
    let deleted = registry.delete(&path).send().await;
    deleted.expect(StatusCode::ACCEPTED);
    let gone = registry.get(&path).send().await;
    gone.expect_error(404, "BLOB_UNKNOWN");
}
