//! Blobs: reading, ranges, conditions, removing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use boathouse::clock::ManualClock;
use boathouse::oci::range::RANGES_MAX;
use boathouse::store::StoreError;
use boathouse::store::faulty::{Fault, FaultyStore, Hook, HookedStore, Operation};
use http::StatusCode;

use crate::data::Data;
use crate::support::{Answer, Options, TestRegistry};

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

/// The parts of a `multipart/byteranges` answer: each with its `Content-Range`.
fn parts_of(answer: &Answer) -> Vec<(String, Vec<u8>)> {
    let media_type = answer.header("content-type");
    let boundary = media_type
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap_or_else(|| panic!("{media_type}"));
    assert!(!answer.headers.contains_key("content-range"));
    let length = answer.body.len().to_string();
    assert_eq!(answer.header("content-length"), length);
    let mut parts = Vec::new();
    let mut rest = &answer.body[..];
    let mut delimiter = format!("--{boundary}");
    loop {
        rest = rest
            .strip_prefix(delimiter.as_bytes())
            .expect("a delimiter");
        if rest == b"--\r\n" {
            return parts;
        }
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, body) = rest.split_at(end.expect("the head of a part") + 4);
        let head = std::str::from_utf8(head).unwrap();
        let type_line = "\r\nContent-Type: application/octet-stream\r\n";
        let range = head.strip_prefix(type_line).expect("a type");
        let range = range.trim().strip_prefix("Content-Range: bytes ");
        let range = range.expect("a range").to_owned();
        let (first, last) = range.split_once('/').unwrap().0.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let (content, behind) = body.split_at(last - first + 1);
        parts.push((range, content.to_vec()));
        delimiter = format!("\r\n--{boundary}");
        rest = behind;
    }
}

#[tokio::test]
async fn several_ranges_come_in_parts() {
    let registry = TestRegistry::open();
    let content: Vec<u8> = (0..3_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let digest = registry.push_blob("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    let ask = |ranges: String| registry.get(&path).header("range", &ranges).send();
    for (ranges, expected) in [
        ("0-0,5-9", vec![0..1, 5..10]),
        ("5-9,0-0", vec![5..10, 0..1]),
        (
            "100-199,0-9,10-19,2000000-",
            vec![100..200, 0..20, 2_000_000..3_000_000],
        ),
        (
            "0-1499999,1600000-9999999,-1",
            vec![0..1_500_000, 1_600_000..3_000_000],
        ),
        ("7-7,99999999-,-1", vec![7..8, 2_999_999..3_000_000]),
    ] {
        let answer = ask(format!("bytes={ranges}")).await;
        let answer = answer.expect(StatusCode::PARTIAL_CONTENT);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        let expected: Vec<(String, Vec<u8>)> = expected
            .into_iter()
            .map(|range| {
                let name = format!("{}-{}/3000000", range.start, range.end - 1);
                (name, content[range].to_vec())
            })
            .collect();
        assert!(parts_of(&answer) == expected, "{ranges}");
    }
    // What is left is one range: no parts.
    for (ranges, range) in [("2-3,0-1", "0-3"), ("0-3,99999999-", "0-3")] {
        let answer = ask(format!("bytes={ranges}")).await;
        let answer = answer.expect(StatusCode::PARTIAL_CONTENT);
        assert_eq!(
            answer.header("content-range"),
            format!("bytes {range}/3000000")
        );
        assert_eq!(answer.body, content[..4]);
    }
    let none = ask("bytes=3000000-,-0".to_owned()).await;
    let none = none.expect(StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(none.header("content-range"), "bytes */3000000");
    // Too many: the whole, as if none were asked for.
    let many: Vec<String> = (0..=RANGES_MAX)
        .map(|at| format!("{0}-{0}", at * 2))
        .collect();
    let whole = ask(format!("bytes={}", many.join(","))).await;
    assert!(whole.expect(StatusCode::OK).body == content);
    let most = ask(format!("bytes={}", many[1..].join(","))).await;
    assert_eq!(parts_of(&most).len(), RANGES_MAX);
}

#[tokio::test]
async fn several_ranges_are_asked_for_under_the_same_conditions_as_one() {
    let registry = TestRegistry::open();
    let digest = registry.push_blob("a", b"0123456789").await;
    let path = format!("/v2/a/blobs/{digest}");
    let ranges = "bytes=0-1,5-6";
    let same = format!("\"{digest}\"");
    for (condition, status) in [
        (same.as_str(), 206),
        ("\"other\"", 200),
        (&format!("W/{same}"), 200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
    ] {
        let call = registry.get(&path).header("range", ranges);
        let answer = call.header("if-range", condition).send().await;
        assert_eq!(answer.status, status, "{condition}");
    }
    let known = registry.get(&path).header("range", ranges);
    let known = known.header("if-none-match", &same).send().await;
    known.expect(StatusCode::NOT_MODIFIED);
    // Ranges are of GET alone (RFC 9110 section 14.2), and in one line.
    let head = registry.head(&path).header("range", ranges).send().await;
    assert_eq!(head.expect(StatusCode::OK).header("content-length"), "10");
    let twice = registry.get(&path).header("range", "bytes=0-1");
    let twice = twice.header("range", "bytes=5-6").send().await;
    assert_eq!(twice.expect(StatusCode::OK).body, "0123456789");
    let empty = registry.push_blob("a", b"").await;
    let none = registry.get(&format!("/v2/a/blobs/{empty}"));
    let none = none.header("range", ranges).send().await;
    let none = none.expect(StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(none.header("content-range"), "bytes */0");
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
    let data = registry.stop().await;

    let mut options = Options::default();
    options.registry.readonly = true;
    let registry = TestRegistry::start_in(data, options);
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
    let data = Data::new();
    let clock = ManualClock::at_unix_secs(1_800_000_000);
    let store = FaultyStore::new(data.open(Arc::new(clock.clone())));
    let shared = Arc::new(store.clone());
    let registry = TestRegistry::start_on(shared, data, clock, Options::default());
    let digest = registry.push_blob("a", b"in the way").await;
    store.fail(Operation::Apply, 0, Fault::Full);
    let path = format!("/v2/a/blobs/{digest}");
    let deleted = registry.delete(&path).send().await;
    deleted.expect(StatusCode::ACCEPTED);
    let gone = registry.get(&path).send().await;
    gone.expect_error(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn a_busy_store_is_answered_with_when_to_come_again_and_nothing_is_lost() {
    let data = Data::new();
    let clock = ManualClock::at_unix_secs(1_800_000_000);
    let store = FaultyStore::new(data.open(Arc::new(clock.clone())));
    let shared = Arc::new(store.clone());
    let registry = TestRegistry::start_on(shared, data, clock, Options::default());
    let digest = registry.push_blob("a", b"kept").await;
    let path = format!("/v2/a/blobs/{digest}");
    let busy = Fault::Busy(Duration::from_millis(2_500));
    store.fail(Operation::Read, 0, busy);
    let refused = registry.get(&path).send().await;
    let refused = refused.expect_error(503, "UNAVAILABLE");
    assert_eq!(refused.header("retry-after"), "3");
    let answer = registry.get(&path).send().await.expect(StatusCode::OK);
    assert_eq!(answer.body, "kept");
}

/// Remembers the calls of a store.
#[derive(Default)]
struct Calls(Mutex<Vec<Operation>>);

#[async_trait]
impl Hook for Calls {
    async fn before(&self, operation: Operation) -> Result<(), StoreError> {
        self.0.lock().unwrap().push(operation);
        Ok(())
    }
}

#[tokio::test]
async fn a_pull_looks_its_data_up_once_whichever_part_is_asked_for() {
    let data = Data::new();
    let clock = ManualClock::at_unix_secs(1_800_000_000);
    let store = data.open(Arc::new(clock.clone()));
    let store = HookedStore::around(store, Calls::default());
    let shared = Arc::new(store.clone());
    let options = Options {
        runs_tasks: false,
        ..Options::default()
    };
    let registry = TestRegistry::start_on(shared, data, clock, options);
    let digest = registry.push_blob("a", b"0123456789").await;
    let path = format!("/v2/a/blobs/{digest}");
    let once = &[Operation::ReadEach, Operation::Read][..];
    let cases = [
        ("", StatusCode::OK, "0123456789", once),
        ("bytes=2-3", StatusCode::PARTIAL_CONTENT, "23", once),
        ("bytes=8-", StatusCode::PARTIAL_CONTENT, "89", once),
        ("bytes=-1", StatusCode::PARTIAL_CONTENT, "9", once),
        ("bytes=10-", StatusCode::RANGE_NOT_SATISFIABLE, "", once),
    ];
    for (range, status, body, expected) in cases {
        store.hook.0.lock().unwrap().clear();
        let get = registry.get(&path);
        let get = if range.is_empty() {
            get
        } else {
            get.header("range", range)
        };
        let answer = get.send().await.expect(status);
        assert_eq!(answer.body, body.as_bytes(), "{range}");
        assert_eq!(*store.hook.0.lock().unwrap(), expected, "{range}");
    }
}
