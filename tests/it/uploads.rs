//! Uploads: sessions, chunks, order, restarts.

use std::time::Duration;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use boathouse::clock::ManualClock;
use boathouse::oci::{Algorithm, Digest};
use boathouse::store::faulty::{Hook, HookedStore};
use http::StatusCode;

use crate::client::{self, Raw};
use crate::data::Data;
use crate::support::{Answer, Options, TestRegistry};

async fn begin(registry: &TestRegistry, name: &str) -> String {
    let answer = registry
        .post(&format!("/v2/{name}/blobs/uploads/"))
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    assert_eq!(answer.header("range"), "0-0");
    assert!(
        answer
            .header("location")
            .ends_with(answer.header("docker-upload-uuid"))
    );
    answer.header("location").to_owned()
}

fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

async fn finish(registry: &TestRegistry, location: &str, digest: &Digest) -> Answer {
    registry
        .put(&format!("{location}?digest={digest}"))
        .send()
        .await
}

#[tokio::test]
async fn the_ways_to_push_all_lead_to_the_same_blob() {
    let registry = TestRegistry::open();
    let content = b"0123456789".repeat(1_000);
    let digest = sha256(&content);
    let (first, second) = content.split_at(4_000);

    // Streamed, as docker does: PATCH without a length, then an empty PUT.
    let location = begin(&registry, "streamed").await;
    let answer = registry
        .patch(&location)
        .chunks(&[first, second])
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    assert_eq!(answer.header("range"), "0-9999");
    let answer = finish(&registry, &location, &digest)
        .await
        .expect(StatusCode::CREATED);
    assert_eq!(
        answer.header("location"),
        format!("/v2/streamed/blobs/{digest}")
    );
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());

    // In chunks, the last with the PUT, as Tart does.
    let location = begin(&registry, "chunked").await;
    registry
        .patch(&location)
        .header("content-range", "0-3999")
        .body(first)
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    let put = registry
        .put(&format!("{location}?digest={digest}"))
        .header("content-range", "4000-9999");
    put.body(second).send().await.expect(StatusCode::CREATED);

    // All in the PUT, as containerd does; and all in the POST.
    let location = begin(&registry, "put").await;
    let put = registry
        .put(&format!("{location}?digest={digest}"))
        .body(&content);
    put.send().await.expect(StatusCode::CREATED);
    registry.push_blob("post", &content).await;

    for name in ["streamed", "chunked", "put", "post"] {
        let answer = registry
            .get(&format!("/v2/{name}/blobs/{digest}"))
            .send()
            .await
            .expect(StatusCode::OK);
        assert_eq!(answer.body, content, "{name}");
    }
    let files = registry.data.files();
    assert!(
        !files.keys().any(|name| name.contains("_uploads")),
        "no session is left: {:?}",
        files.keys()
    );
}

#[tokio::test]
async fn chunks_come_in_order_or_not_at_all() {
    let registry = TestRegistry::open();
    let location = begin(&registry, "a").await;
    let send = |range: &str, content: &[u8]| {
        registry
            .patch(&location)
            .header("content-range", range)
            .body(content)
            .send()
    };
    let early = send("5-9", b"56789")
        .await
        .expect_error(416, "BLOB_UPLOAD_INVALID");
    assert_eq!(early.header("range"), "0-0");
    send("0-4", b"01234").await.expect(StatusCode::ACCEPTED);
    let again = send("0-4", b"01234")
        .await
        .expect_error(416, "BLOB_UPLOAD_INVALID");
    assert_eq!(again.header("range"), "0-4");
    send("9-5", b"56789")
        .await
        .expect_error(416, "BLOB_UPLOAD_INVALID");
    send("bytes 5-9/x", b"56789")
        .await
        .expect_error(400, "BLOB_UPLOAD_INVALID");
    send("5-9", b"567").await.expect_error(400, "SIZE_INVALID");
    let status = registry
        .get(&location)
        .send()
        .await
        .expect(StatusCode::NO_CONTENT);
    assert_eq!(status.header("range"), "0-4");
    let bad_put = registry.put(&format!("{location}?digest={}", sha256(b"0123456789")));
    bad_put
        .header("content-range", "7-9")
        .body(b"789")
        .send()
        .await
        .expect_error(416, "BLOB_UPLOAD_INVALID");
    send("5-9", b"56789").await.expect(StatusCode::ACCEPTED);
    finish(&registry, &location, &sha256(b"0123456789"))
        .await
        .expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_wrong_digest_stores_nothing() {
    let registry = TestRegistry::open();
    let wrong = sha256(b"other");
    let location = begin(&registry, "a").await;
    registry
        .patch(&location)
        .body(b"content")
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    registry
        .put(&location)
        .send()
        .await
        .expect_error(400, "DIGEST_INVALID");
    registry
        .get(&location)
        .send()
        .await
        .expect(StatusCode::NO_CONTENT);
    finish(&registry, &location, &wrong)
        .await
        .expect_error(400, "DIGEST_INVALID");
    let whole = registry
        .post(&format!("/v2/a/blobs/uploads/?digest={wrong}"))
        .body(b"content");
    whole.send().await.expect_error(400, "DIGEST_INVALID");
    registry
        .get(&format!("/v2/a/blobs/{wrong}"))
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    registry
        .get(&format!("/v2/a/blobs/{}", sha256(b"content")))
        .send()
        .await
        .expect_error(404, "BLOB_UNKNOWN");
    let files = registry.data.files();
    assert!(
        !files.keys().any(|name| name.contains("docker/")),
        "nothing is left: {:?}",
        files.keys()
    );
}

#[tokio::test]
async fn a_finished_session_is_remembered() {
    let registry = TestRegistry::open();
    let digest = sha256(b"content");
    let location = begin(&registry, "a").await;
    registry
        .patch(&location)
        .body(b"content")
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    finish(&registry, &location, &digest)
        .await
        .expect(StatusCode::CREATED);
    finish(&registry, &location, &digest)
        .await
        .expect(StatusCode::CREATED);
    registry.push_blob("a", b"another").await;
    finish(&registry, &location, &sha256(b"another"))
        .await
        .expect_error(404, "BLOB_UPLOAD_INVALID");
    registry
        .patch(&location)
        .body(b"more")
        .send()
        .await
        .expect_error(404, "BLOB_UPLOAD_INVALID");
}

#[tokio::test]
async fn a_cancelled_session_is_gone() {
    let registry = TestRegistry::open();
    let location = begin(&registry, "a").await;
    registry
        .patch(&location)
        .body(b"content")
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    registry
        .delete(&location)
        .send()
        .await
        .expect(StatusCode::NO_CONTENT);
    registry
        .patch(&location)
        .body(b"more")
        .send()
        .await
        .expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    registry
        .delete(&location)
        .send()
        .await
        .expect_error(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn a_session_belongs_to_its_repository() {
    let registry = TestRegistry::open();
    let location = begin(&registry, "a").await;
    let elsewhere = location.replace("/v2/a/", "/v2/b/");
    registry
        .patch(&elsewhere)
        .body(b"x")
        .send()
        .await
        .expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    let made_up = "/v2/a/blobs/uploads/00000000-0000-8000-8000-000000000000";
    registry
        .patch(made_up)
        .body(b"x")
        .send()
        .await
        .expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    registry
        .patch("/v2/a/blobs/uploads/nonsense")
        .send()
        .await
        .expect_error(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn a_session_goes_on_after_a_restart() {
    let registry = TestRegistry::open();
    let content: Vec<u8> = (0..2_500_000_u32)
        .map(|number| (number % 241) as u8)
        .collect();
    let (first, second) = content.split_at(1_300_000);
    let location = begin(&registry, "a").await;
    registry
        .patch(&location)
        .body(first)
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    let data = registry.stop().await;

    let registry = TestRegistry::start_in(data, Options::default());
    let status = registry
        .get(&location)
        .send()
        .await
        .expect(StatusCode::NO_CONTENT);
    assert_eq!(status.header("range"), "0-1299999");
    registry
        .patch(&location)
        .body(second)
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    finish(&registry, &location, &sha256(&content))
        .await
        .expect(StatusCode::CREATED);
    let digest = sha256(&content);
    assert_eq!(
        registry
            .get(&format!("/v2/a/blobs/{digest}"))
            .send()
            .await
            .body,
        content
    );
    let data = registry.stop().await;

    // The memory of finished sessions ends with the process; the link still answers.
    let registry = TestRegistry::start_in(data, Options::default());
    finish(&registry, &location, &digest)
        .await
        .expect(StatusCode::CREATED);
    registry
        .patch(&location)
        .body(b"more")
        .send()
        .await
        .expect_error(404, "BLOB_UPLOAD_INVALID");
}

#[tokio::test]
async fn sha512_works_announced_or_not() {
    let registry = TestRegistry::open();
    let digest = Digest::of(Algorithm::Sha512, b"content");
    for query in ["", "?digest-algorithm=sha512"] {
        let begun = registry
            .post(&format!("/v2/a/blobs/uploads/{query}"))
            .send()
            .await;
        let location = begun.header("location").to_owned();
        registry
            .patch(&location)
            .body(b"content")
            .send()
            .await
            .expect(StatusCode::ACCEPTED);
        finish(&registry, &location, &digest)
            .await
            .expect(StatusCode::CREATED);
    }
    let answer = registry
        .get(&format!("/v2/a/blobs/{digest}"))
        .send()
        .await
        .expect(StatusCode::OK);
    assert_eq!(answer.body.as_ref(), b"content");
    let unknown = registry
        .post("/v2/a/blobs/uploads/?digest-algorithm=md5")
        .send()
        .await;
    unknown.expect_error(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn a_blob_is_mounted_from_where_it_is() {
    let registry = TestRegistry::open();
    let digest = registry.push_blob("source/app", b"shared").await;
    let mount = |name: &str, more: &str| {
        registry
            .post(&format!("/v2/{name}/blobs/uploads/?mount={digest}{more}"))
            .send()
    };
    let answer = mount("a", "&from=source/app")
        .await
        .expect(StatusCode::CREATED);
    assert_eq!(answer.header("location"), format!("/v2/a/blobs/{digest}"));
    mount("b", "").await.expect(StatusCode::CREATED);
    mount("c", "&from=elsewhere")
        .await
        .expect(StatusCode::ACCEPTED);
    for name in ["a", "b"] {
        registry
            .get(&format!("/v2/{name}/blobs/{digest}"))
            .send()
            .await
            .expect(StatusCode::OK);
    }
    let absent = sha256(b"absent");
    let answer = registry
        .post(&format!("/v2/c/blobs/uploads/?mount={absent}"))
        .send()
        .await;
    assert!(
        answer
            .expect(StatusCode::ACCEPTED)
            .header("location")
            .contains("/uploads/")
    );
}

#[tokio::test]
async fn two_senders_never_interleave() {
    let registry = TestRegistry::open();
    let location = begin(&registry, "a").await;
    let ones = vec![b'1'; 3_000_000];
    let twos = vec![b'2'; 3_000_000];
    let (first, second) = tokio::join!(
        registry.patch(&location).body(&ones).send(),
        registry.patch(&location).body(&twos).send(),
    );
    let mut expected = Vec::new();
    // Whoever came in time is there whole; the other was refused, or came after.
    for (answer, content) in [(first, ones), (second, twos)] {
        match answer.status {
            StatusCode::ACCEPTED => expected.push((answer.header("range").to_owned(), content)),
            _ => drop(answer.expect_error(416, "BLOB_UPLOAD_INVALID")),
        }
    }
    assert!(!expected.is_empty());
    expected.sort();
    let content: Vec<u8> = expected
        .into_iter()
        .flat_map(|(_, content)| content)
        .collect();
    finish(&registry, &location, &sha256(&content))
        .await
        .expect(StatusCode::CREATED);
}

/// Sends a request with a body of ten bytes, hangs up after five, and waits until the registry has noticed: looking at its
/// files, since asking it would tell the client how far the session is.
async fn break_off(registry: &TestRegistry, method: &str, target: &str, stored_bytes: usize) {
    let bytes = client::request(
        &format!("{method} {target}"),
        &["content-length: 10"],
        b"01234",
    );
    Raw::to(registry.address).await.send(bytes).await;
    let id = target
        .split('?')
        .next()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap();
    let data = format!("_uploads/{id}/data");
    loop {
        let files = registry.data.files();
        let file = files.iter().find(|(name, _)| name.ends_with(&data));
        if file.is_some_and(|(_, content)| content.len() == stored_bytes) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_broken_request_that_is_sent_again_goes_on_from_what_its_client_was_told() {
    let registry = TestRegistry::open();
    let content = b"0123456789";
    let digest = sha256(content);

    // Told of nothing, it sends the whole blob again.
    let location = begin(&registry, "put").await;
    let target = format!("{location}?digest={digest}");
    break_off(&registry, "PUT", &target, 5).await;
    let again = registry.put(&target).body(content).send();
    again.await.expect(StatusCode::CREATED);
    let location = begin(&registry, "patch").await;
    break_off(&registry, "PATCH", &location, 5).await;
    let again = registry.patch(&location).body(content).send().await;
    assert_eq!(again.expect(StatusCode::ACCEPTED).header("range"), "0-9");
    let put = finish(&registry, &location, &digest).await;
    put.expect(StatusCode::CREATED);
    for name in ["put", "patch"] {
        let blob = registry.get(&format!("/v2/{name}/blobs/{digest}"));
        assert_eq!(blob.send().await.body, &content[..]);
    }

    // Told of ten bytes, of the fifteen that are there, it is told of those before it sends more.
    let location = begin(&registry, "told").await;
    let patch = || registry.patch(&location).body(b"56789").send();
    let first = registry.patch(&location).body(content).send();
    first.await.expect(StatusCode::ACCEPTED);
    break_off(&registry, "PATCH", &location, 15).await;
    let refused = patch().await.expect_error(416, "BLOB_UPLOAD_INVALID");
    assert_eq!(refused.header("range"), "0-14");
    patch().await.expect(StatusCode::ACCEPTED);
    // Asking tells as well, and a last request without a body takes what is there.
    break_off(&registry, "PATCH", &location, 25).await;
    registry.get(&location).send().await;
    patch().await.expect(StatusCode::ACCEPTED);
    break_off(&registry, "PATCH", &location, 35).await;
    let whole = [&content[..], content, content, b"01234"].concat();
    let put = finish(&registry, &location, &sha256(&whole)).await;
    put.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_session_that_was_closed_for_others_goes_on_where_it_stood() {
    let mut options = Options::default();
    options.registry.limits.open_uploads = 1;
    let registry = TestRegistry::start(options);
    let mut places = Vec::new();
    for half in [b"first ", b"other "] {
        let begun = registry.post("/v2/a/blobs/uploads/").send().await;
        let begun = begun.expect(StatusCode::ACCEPTED);
        let sent = registry.patch(begun.header("location")).body(half);
        let sent = sent.send().await.expect(StatusCode::ACCEPTED);
        places.push((half, sent.header("location").to_owned()));
    }
    for (half, place) in places {
        let whole = [&half[..], b"half"].concat();
        let digest = Digest::of(Algorithm::Sha256, &whole);
        let put = registry.put(&format!("{place}?digest={digest}"));
        let put = put.body(b"half").send().await;
        put.expect(StatusCode::CREATED);
    }
}

#[tokio::test]
async fn sessions_of_one_caller_have_a_limit_and_an_end_makes_room() {
    let registry = TestRegistry::open();
    let post = || registry.post("/v2/a/blobs/uploads/").send();
    let mut last = String::new();
    let refused = loop {
        let begun = post().await;
        if begun.status != StatusCode::ACCEPTED {
            break begun;
        }
        begun.header("location").clone_into(&mut last);
    };
    refused.header("retry-after");
    refused.expect_error(429, "TOOMANYREQUESTS");
    // What is open goes on, and what ends makes room for one.
    let sent = registry.patch(&last).body(b"bytes").send().await;
    let sent = sent.expect(StatusCode::ACCEPTED);
    let cancelled = registry.delete(sent.header("location")).send().await;
    cancelled.expect(StatusCode::NO_CONTENT);
    post().await.expect(StatusCode::ACCEPTED);
    post().await.expect_error(429, "TOOMANYREQUESTS");
}

/// Remembers which digests were named before the bytes.
#[derive(Default)]
struct Expected(Mutex<Vec<(Digest, Option<u64>)>>);

#[async_trait]
impl Hook for Expected {
    fn expected(&self, digest: &Digest, length_bytes: Option<u64>) {
        self.0.lock().unwrap().push((*digest, length_bytes));
    }
}

#[tokio::test]
async fn a_store_learns_of_the_digest_before_the_bytes() {
    let data = Data::new();
    let clock = ManualClock::at_unix_secs(1_800_000_000);
    let store = data.open(Arc::new(clock.clone()));
    let store = HookedStore::around(store, Expected::default());
    let shared = Arc::new(store.clone());
    let registry = TestRegistry::start_on(shared, data, clock, Options::default());
    let digest = Digest::of(Algorithm::Sha256, b"0123456789");
    let take = || std::mem::take(&mut *store.hook.0.lock().unwrap());

    let target = format!("/v2/a/blobs/uploads/?digest={digest}");
    let post = registry.post(&target).body(b"0123456789").send().await;
    post.expect(StatusCode::CREATED);
    assert_eq!(take(), [(digest, Some(10))], "POST");

    let location = begin(&registry, "a").await;
    let target = format!("{location}?digest={digest}");
    let put = registry.put(&target).body(b"0123456789").send().await;
    put.expect(StatusCode::CREATED);
    assert_eq!(take(), [(digest, Some(10))], "PUT");

    // After a PATCH, the length is that of the whole. A PUT without a body names it after the bytes.
    let location = begin(&registry, "a").await;
    let patch = registry.patch(&location).body(b"01234").send().await;
    patch.expect(StatusCode::ACCEPTED);
    let target = format!("{location}?digest={digest}");
    let put = registry.put(&target).body(b"56789").send().await;
    put.expect(StatusCode::CREATED);
    assert_eq!(take(), [(digest, Some(10))], "PATCH and PUT");
    let location = begin(&registry, "a").await;
    let patch = registry.patch(&location).body(b"0123456789").send().await;
    patch.expect(StatusCode::ACCEPTED);
    finish(&registry, &location, &digest)
        .await
        .expect(StatusCode::CREATED);
    assert_eq!(take(), []);
}
