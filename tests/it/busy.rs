//! A store that is a bucket: requests that find it busy, and what it holds while a change is half done.

use std::collections::BTreeMap;
use std::sync::Arc;

use boathouse::index::Index;
use boathouse::layout::OwnedPlace;
use boathouse::oci::{Algorithm, Digest};
use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use crate::data::Data;
use crate::support::{Answer, Call, OCI_MANIFEST, Options, TestRegistry, image_manifest};

/// Enough for each request of an operation to be refused once, and to lose its answer once.
const SEEDS: u64 = 24;

const LAYER: &[u8] = b"layer";

fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

fn start(seed: u64) -> TestRegistry {
    TestRegistry::start_in(Data::in_bucket(seed), Options::default())
}

async fn begin(registry: &TestRegistry) -> String {
    let begun = registry.post("/v2/a/blobs/uploads/").send().await;
    let begun = begun.expect(StatusCode::ACCEPTED);
    begun.header("location").to_owned()
}

/// Sends a request while every request to the bucket fails, and sees that it is told to come again.
async fn refused(registry: &TestRegistry, call: Call) {
    registry.data.be_busy(1);
    let answer = call.send().await;
    registry.data.be_busy(0);
    assert_eq!(answer.header("retry-after"), "1");
    answer.expect_error(503, "UNAVAILABLE");
}

/// Sends a request until it is not told to come again, as clients do.
async fn insist(call: impl Fn() -> Call) -> Answer {
    for _ in 0..1_000 {
        let answer = call().send().await;
        if answer.status != StatusCode::SERVICE_UNAVAILABLE {
            return answer;
        }
        answer.header("retry-after");
    }
    panic!("busy for ever");
}

async fn expect_blob(registry: &TestRegistry, content: &[u8]) {
    let blob = registry.get(&format!("/v2/a/blobs/{}", digest(content)));
    let blob = blob.send().await.expect(StatusCode::OK);
    assert_eq!(blob.body, content);
    let files = registry.data.files();
    let sessions: Vec<&String> = files
        .keys()
        .filter(|key| key.contains("/_uploads/"))
        .collect();
    assert!(sessions.is_empty(), "{sessions:?}");
}

#[tokio::test]
async fn a_busy_store_ends_no_upload() {
    for seed in 0..SEEDS {
        // In chunks: the last request is sent again.
        let registry = start(seed);
        let location = begin(&registry).await;
        let sent = registry.patch(&location).body(LAYER).send().await;
        sent.expect(StatusCode::ACCEPTED);
        let finish = || registry.put(&format!("{location}?digest={}", digest(LAYER)));
        refused(&registry, finish()).await;
        let status = registry.get(&location).send().await;
        assert_eq!(status.expect(StatusCode::NO_CONTENT).header("range"), "0-4");
        refused(&registry, finish()).await;
        finish().send().await.expect(StatusCode::CREATED);
        expect_blob(&registry, LAYER).await;

        // In one PUT, whose client knows of no byte that has arrived.
        let registry = start(seed);
        let location = begin(&registry).await;
        let put = || registry.put(&format!("{location}?digest={}", digest(LAYER)));
        refused(&registry, put().body(LAYER)).await;
        put().body(LAYER).send().await.expect(StatusCode::CREATED);
        expect_blob(&registry, LAYER).await;

        // In one POST, whose session has no name.
        let registry = start(seed);
        let post = || registry.post(&format!("/v2/a/blobs/uploads/?digest={}", digest(LAYER)));
        refused(&registry, post().body(LAYER)).await;
        post().body(LAYER).send().await.expect(StatusCode::CREATED);
        expect_blob(&registry, LAYER).await;
    }
}

#[tokio::test]
async fn a_change_that_a_busy_store_cut_short_can_be_repeated_and_lists_are_right() {
    for seed in 0..SEEDS {
        let clock = boathouse::clock::ManualClock::at_unix_secs(1_800_000_000);
        let index = Arc::new(Index::in_memory(Arc::new(clock)));
        let options = Options {
            index: Some(index),
            ..Options::default()
        };
        let registry = TestRegistry::start_in(Data::in_bucket(seed), options);
        let (first, first_digest) = registry.push_image("a", "v1", LAYER).await;
        registry
            .registry
            .index_sync
            .read_everything()
            .await
            .unwrap();
        let second = image_manifest(LAYER, r#","annotations":{"second":"yes"}"#);
        let second_digest = digest(second.as_bytes());

        registry.data.be_busy(3);
        for tag in ["v1", "v2"] {
            let put = || {
                let put = registry.put(&format!("/v2/a/manifests/{tag}"));
                let put = put.header("content-type", OCI_MANIFEST);
                put.body(second.as_bytes())
            };
            insist(put).await.expect(StatusCode::CREATED);
            let get = || registry.get(&format!("/v2/a/manifests/{tag}"));
            assert_eq!(insist(get).await.expect(StatusCode::OK).body, second);
        }
        let by_digest = |digest: &Digest| registry.get(&format!("/v2/a/manifests/{digest}"));
        let old = insist(|| by_digest(&first_digest)).await;
        assert_eq!(old.expect(StatusCode::OK).body, first);
        let delete = || registry.delete(&format!("/v2/a/manifests/{second_digest}"));
        // What an attempt has done whose answer was lost is not there any more for the next one.
        let deleted = insist(delete).await.status;
        assert!(matches!(deleted.as_u16(), 202 | 404), "{deleted}");
        registry.data.be_busy(0);

        for when in ["before", "after"] {
            let tags = registry.get("/v2/a/tags/list").send().await;
            let tags = tags.expect(StatusCode::OK).json();
            assert_eq!(tags["tags"], json!([]), "seed {seed}, {when}");
            let gone = by_digest(&second_digest).send().await;
            gone.expect_error(404, "MANIFEST_UNKNOWN");
            registry
                .registry
                .index_sync
                .read_everything()
                .await
                .unwrap();
        }
    }
}

/// Every state that a reader of the bucket may meet, however short it lasts.
#[tokio::test]
async fn a_change_that_is_half_done_leads_from_no_tag_or_link_to_nothing() {
    for seed in 0..SEEDS {
        let registry = start(seed);
        registry.data.journal();
        for round in 0..3 {
            let layer = format!("layer {round}");
            registry.push_image("a", "v1", layer.as_bytes()).await;
            let (_, image) = registry.push_image("a", "v2", layer.as_bytes()).await;
            let paths = [
                "manifests/v2".to_owned(),
                format!("manifests/{image}"),
                format!("blobs/{}", digest(layer.as_bytes())),
            ];
            for path in paths {
                let gone = registry.delete(&format!("/v2/a/{path}")).send().await;
                gone.expect(StatusCode::ACCEPTED);
            }
        }
        let mut keys = BTreeMap::new();
        for (key, content) in registry.data.journal() {
            match content {
                Some(content) => keys.insert(key.clone(), content),
                None => keys.remove(&key),
            };
            expect_whole(&keys, &format!("seed {seed}, after {key}"));
        }
    }
}

/// Sees that each tag leads to a manifest of the repository, and each link to data.
fn expect_whole(keys: &BTreeMap<String, Bytes>, when: &str) {
    let links = keys.iter().filter(|(key, _)| key.ends_with("/link"));
    for (link, content) in links {
        let target: Digest = std::str::from_utf8(content).unwrap().parse().unwrap();
        let data = OwnedPlace::BlobData(target).key();
        assert!(
            keys.contains_key(data.as_str()),
            "no data for {link}, {when}"
        );
        if link.ends_with("/current/link") {
            let revision = OwnedPlace::RevisionLink("a".parse().unwrap(), target).key();
            let is_there = keys.contains_key(revision.as_str());
            assert!(is_there, "no manifest for {link}, {when}");
        }
    }
}
