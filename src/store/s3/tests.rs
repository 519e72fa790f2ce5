//! The store on the tests' own S3 server, and also on a real one where `BOATHOUSE_TEST_S3` names it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::StatusCode;

use self::s3_server::{Endpoint, Fault, Kind, Manners, Plan, S3Server};
use super::requests::{Body, Bucket, Checksum, Written};
use super::{Credentials, Patience, S3Store, Settings, start_check};
use crate::clock::{Clock, SystemClock};
use crate::layout::{self, Key, UploadId};
use crate::oci::range::ByteRange;
use crate::oci::{Algorithm, Digest, RepositoryName};
use crate::store::{Condition, Depth, ObjectStore, Step, StoreError, conformance};

#[path = "../../../tests/s3_server/mod.rs"]
#[expect(dead_code, reason = "it is shared with tests outside the crate")]
mod s3_server;

/// The bucket at `endpoint`, below a root directory of its own each time.
fn settings(endpoint: &Endpoint, spool: &tempfile::TempDir) -> Settings {
    let credentials = Credentials::Keys {
        access_key: endpoint.access_key.clone(),
        secret_key: endpoint.secret_key.clone(),
        session_token: None,
    };
    let mut random = [0; 8];
    getrandom::fill(&mut random).unwrap();
    let name = data_encoding::HEXLOWER.encode(&random);
    let mut settings = Settings::of(
        Some(endpoint.url.clone()),
        endpoint.region.clone(),
        endpoint.bucket.clone(),
        credentials,
        spool.path().join(&name),
    );
    settings.root_directory = format!("test/{name}");
    settings
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// The own server, with the manners of each real one, and the real one that the environment names.
fn endpoints() -> Vec<(Endpoint, Option<S3Server>)> {
    let own = [Manners::aws(), Manners::minio(), Manners::versitygw()].map(|manners| {
        let server = S3Server::start();
        server.set_manners(manners);
        (Endpoint::of(&server), Some(server))
    });
    let given = Endpoint::given().map(|endpoint| (endpoint, None));
    own.into_iter().chain(given).collect()
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

struct Lab {
    server: S3Server,
    store: S3Store,
    spool: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let (server, spool) = (S3Server::start(), tempfile::tempdir().unwrap());
        let settings = settings(&Endpoint::of(&server), &spool);
        let store = S3Store::open(settings, clock()).unwrap();
        Self {
            server,
            store,
            spool,
        }
    }

    fn settings(&self) -> Settings {
        settings(&Endpoint::of(&self.server), &self.spool)
    }

    async fn put(&self, path: &str, content: impl Into<Bytes>) {
        let steps = vec![Step::put(key(path), content)];
        self.store.apply(steps).await.unwrap();
    }

    async fn read(&self, path: &str, range: Option<ByteRange>) -> Result<Bytes, StoreError> {
        let content = self.store.read(&key(path), range).await?;
        let bytes: BytesMut = content.bytes.try_collect().await?;
        Ok(bytes.freeze())
    }

    async fn complaint(&self, change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = self.settings();
        change(&mut settings);
        let checked = start_check::check(&settings, false, clock()).await;
        checked.expect_err("a complaint").to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    for (endpoint, _server) in endpoints() {
        let spool = tempfile::tempdir().unwrap();
        let new = || S3Store::open(settings(&endpoint, &spool), clock()).unwrap();
        conformance::check_all(new).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_although_writes_conflict_and_answers_are_lost() {
    let server = S3Server::start();
    server.set_manners(Manners {
        conflict_one_in: 5,
        ..Manners::aws()
    });
    server.plan(Plan::one_in(
        20,
        Fault::Refused(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
    ));
    // Not of writes with a condition: whose answer is lost, and whose content another has replaced since, is told no outcome.
    for fault in [
        Fault::LostAnswer,
        Fault::LostBehindError,
        Fault::Reset,
        Fault::CutBody,
    ] {
        server.plan(Plan {
            kinds: vec![
                Kind::GetObject,
                Kind::HeadObject,
                Kind::ListObjects,
                Kind::DeleteObject,
                Kind::CreateUpload,
                Kind::UploadPart,
                Kind::AbortUpload,
            ],
            ..Plan::one_in(20, fault)
        });
    }
    let spool = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::of(&server);
    let new = || S3Store::open(settings(&endpoint, &spool), clock()).unwrap();
    conformance::check_all(new).await;
    assert!(server.struck() > 20);
}

#[tokio::test]
async fn a_read_goes_on_where_an_answer_breaks_off() {
    let lab = Lab::new();
    let content: Vec<u8> = (0..=250).cycle().take(3_000_000).collect();
    lab.put("a", content.clone()).await;
    for times in [1, 3] {
        lab.server.plan(Plan {
            times,
            kinds: vec![Kind::GetObject],
            ..Plan::always(Fault::CutBody)
        });
        assert_eq!(lab.read("a", None).await.unwrap(), content);
        lab.server.end_trouble();
    }
    let range = ByteRange::Between {
        first: 1_000,
        last: 2_000_000,
    };
    lab.server.plan(Plan::once(Kind::GetObject, Fault::CutBody));
    assert_eq!(
        lab.read("a", Some(range)).await.unwrap(),
        content[1_000..=2_000_000]
    );
    lab.server.end_trouble();
    // Not with the bytes of another version.
    lab.server.plan(Plan::once(Kind::GetObject, Fault::CutBody));
    let content = lab.store.read(&key("a"), None).await.unwrap();
    lab.put("a", vec![9; 3_000_000]).await;
    let rest: Result<Vec<Bytes>, StoreError> = content.bytes.try_collect().await;
    assert!(matches!(rest, Err(StoreError::Io { .. })));
}

#[tokio::test]
async fn a_web_server_makes_nothing_look_absent() {
    let lab = Lab::new();
    lab.put("a", "content").await;
    lab.server.set_manners(Manners {
        is_a_web_server: true,
        ..Manners::aws()
    });
    let mut settings = lab.store.bucket().settings().clone();
    settings.requests_at_once = 4;
    let bucket = Bucket::new(settings, clock()).unwrap();
    let bucket = bucket.with_patience(Patience::Check);
    let looked = bucket.head("a").await;
    assert!(matches!(looked, Err(StoreError::Busy { .. })), "{looked:?}");
    let read = bucket.get("a", None, None).await;
    assert!(matches!(read, Err(StoreError::Busy { .. })));
}

#[tokio::test]
async fn a_lost_answer_to_a_write_with_a_condition_is_its_success() {
    let lab = Lab::new();
    for fault in [Fault::LostAnswer, Fault::LostBehindError] {
        lab.server.plan(Plan::once(Kind::PutObject, fault));
        let put = |condition: Condition, content: &'static str| {
            lab.store.apply(vec![Step::Put {
                key: key("lease"),
                bytes: content.into(),
                condition,
            }])
        };
        put(Condition::Absent, "nonce 1").await.unwrap();
        let version = lab.store.head(&key("lease")).await.unwrap().version;
        lab.server.plan(Plan::once(Kind::PutObject, fault));
        put(Condition::Match(version.clone()), "nonce 2")
            .await
            .unwrap();
        // Another has written it meanwhile.
        let stale = put(Condition::Match(version), "nonce 3").await;
        assert!(matches!(stale, Err(StoreError::Conflict)));
        lab.store
            .apply(vec![Step::Remove(key("lease"))])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn the_clock_of_the_bucket_dates_requests_and_their_end() {
    for ahead_secs in [-4 * 3600, 4 * 3600] {
        let lab = Lab::new();
        lab.server.set_clock_ahead(ahead_secs);
        lab.put("a", "content").await;
        lab.store.apply(vec![Step::Remove(key("a"))]).await.unwrap();
        assert!(matches!(
            lab.read("a", None).await,
            Err(StoreError::NotFound)
        ));
        let checked = start_check::check(&lab.settings(), false, clock()).await;
        let told = checked.unwrap().unwrap();
        assert!((told - ahead_secs).abs() < 10, "{told}");
    }
}

#[tokio::test]
async fn a_link_and_its_data_are_asked_for_at_once() {
    let lab = Lab::new();
    lab.put("link", "digest").await;
    lab.put("data", "content").await;
    let (link, data) = (key("link"), key("data"));
    let (_, content) = (lab.store.read_linked(&link, 100, &data, None).await).unwrap();
    let content: Vec<Bytes> = content.unwrap().bytes.try_collect().await.unwrap();
    assert_eq!(content.concat(), b"content");
    // The data are asked for although no answer has come for the link.
    lab.server.plan(Plan {
        key_contains: "link".to_owned(),
        ..Plan::always(Fault::Silence)
    });
    let before = lab.server.requests(Kind::GetObject);
    let both = async {
        while lab.server.requests(Kind::GetObject) < before + 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = lab.store.read_linked(&link, 100, &data, None) => panic!("there is no answer"),
        asked = tokio::time::timeout(Duration::from_secs(5), both) => asked.expect("one after the other"),
    }
    // Without the link there are no data, whatever is there.
    lab.server.end_trouble();
    let (_, content) = lab
        .store
        .read_linked(&key("none"), 100, &key("data"), None)
        .await
        .unwrap();
    assert!(content.is_none());
}

#[tokio::test]
async fn each_fault_of_a_bucket_has_its_line_and_hint() {
    let lab = Lab::new();
    let complaint = lab
        .complaint(|settings| settings.bucket = "another".to_owned())
        .await;
    assert!(complaint.contains("NoSuchBucket") && complaint.contains("create the bucket"));
    let complaint = lab
        .complaint(|settings| settings.region = "eu-test-2".to_owned())
        .await;
    assert!(complaint.contains("correct `region`"), "{complaint}");
    let secrets = |access_key: &str, secret_key: &str| Credentials::Keys {
        access_key: access_key.to_owned(),
        secret_key: secret_key.to_owned(),
        session_token: None,
    };
    let wrong = secrets("nobody", "the-secret-of-nobody");
    let complaint = lab.complaint(|settings| settings.credentials = wrong).await;
    assert!(complaint.contains("correct `accesskey`"), "{complaint}");
    let wrong = secrets(s3_server::ACCESS_KEY, "not-the-secret");
    let complaint = lab.complaint(|settings| settings.credentials = wrong).await;
    assert!(complaint.contains("correct `secretkey`"), "{complaint}");
    assert!(!complaint.contains("not-the-secret"), "{complaint}");
    let complaint = lab
        .complaint(|settings| settings.endpoint = Some("http://127.0.0.1:9".to_owned()))
        .await;
    assert!(complaint.contains("start its server"), "{complaint}");

    let denied = |kind| Manners {
        denied: vec![kind],
        ..Manners::aws()
    };
    for (manners, line, hint) in [
        (
            denied(Kind::ListObjects),
            "cannot be listed",
            "s3:ListBucket",
        ),
        (denied(Kind::PutObject), "cannot be written", "s3:PutObject"),
        (denied(Kind::GetObject), "cannot be read", "s3:GetObject"),
        (
            denied(Kind::DeleteObject),
            "cannot be deleted from",
            "s3:DeleteObject",
        ),
        (
            Manners {
                conditional_writes: false,
                ..Manners::aws()
            },
            "ignores conditions",
            "use a server",
        ),
        (
            Manners {
                is_a_web_server: true,
                ..Manners::aws()
            },
            "without a code of S3",
            "the address of the S3 API",
        ),
    ] {
        lab.server.set_manners(manners);
        let complaint = lab.complaint(|_| {}).await;
        assert!(
            complaint.contains(line) && complaint.contains(hint),
            "{complaint}"
        );
        assert_eq!(complaint.lines().count(), 2, "{complaint}");
    }
}

#[tokio::test]
async fn a_bucket_that_will_do_passes_the_check_and_nothing_is_left() {
    for (endpoint, _server) in endpoints() {
        let spool = tempfile::tempdir().unwrap();
        let settings = settings(&endpoint, &spool);
        assert_eq!(
            start_check::check(&settings, false, clock()).await,
            Ok(None)
        );
        assert_eq!(start_check::check(&settings, true, clock()).await, Ok(None));
        let store = S3Store::open(settings, clock()).unwrap();
        let own = store.list(&"boathouse/".parse().unwrap(), Depth::All);
        assert_eq!(own.count().await, 0);
    }
}

#[tokio::test]
async fn an_upload_in_parts_shows_when_it_is_complete() {
    for (endpoint, _server) in endpoints() {
        let spool = tempfile::tempdir().unwrap();
        let bucket = Bucket::new(settings(&endpoint, &spool), clock()).unwrap();
        let part = Bytes::from(vec![7; 5 * 1024 * 1024]);
        let multipart = bucket.begin_multipart("parts").await.unwrap();
        let mut parts = Vec::new();
        for number in [1, 2] {
            let body = Body::bytes(part.clone());
            parts.push(bucket.put_part(&multipart, number, &body).await.unwrap());
        }
        assert_eq!(bucket.list_parts(&multipart).await.unwrap(), parts);
        let begun = bucket.list_multiparts().await.unwrap();
        assert!(begun.iter().any(|begun| begun.multipart == multipart));
        let absent = bucket.head("parts").await;
        assert!(matches!(absent, Err(StoreError::NotFound)));
        let whole = 10 * 1024 * 1024;
        let absent = Condition::Absent;
        let done = bucket.complete_multipart(&multipart, &parts, &absent).await;
        assert!(matches!(done, Ok(Written::Done(_))), "{done:?}");
        assert_eq!(bucket.head("parts").await.unwrap().size_bytes, whole);

        let copy = bucket.begin_multipart("copy").await.unwrap();
        let copied = [bucket.copy_part(&copy, 1, "parts", 0..whole).await.unwrap()];
        let done = bucket.complete_multipart(&copy, &copied, &absent).await;
        assert!(matches!(done, Ok(Written::Done(_))), "{done:?}");
        let again = bucket.begin_multipart("copy").await.unwrap();
        let copied = [bucket
            .copy_part(&again, 1, "parts", 0..whole)
            .await
            .unwrap()];
        let refused = bucket.complete_multipart(&again, &copied, &absent).await;
        assert_eq!(refused.unwrap(), Written::Refused { may_be_own: false });
        bucket.abort_multipart(&again).await.unwrap();
        bucket.abort_multipart(&again).await.unwrap();
        let gone = bucket.list_parts(&again).await;
        assert!(matches!(gone, Err(StoreError::NotFound)), "{gone:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_it_should_be_is_not_kept() {
    for (endpoint, _server) in endpoints() {
        let spool = tempfile::tempdir().unwrap();
        let bucket = Bucket::new(settings(&endpoint, &spool), clock()).unwrap();
        let bucket = bucket.with_patience(Patience::Check);
        let digest = Digest::of(Algorithm::Sha256, b"wanted");
        let sha256: [u8; 32] = digest.bytes().try_into().unwrap();
        let body = |text: &'static str| {
            Body::bytes(Bytes::from_static(text.as_bytes())).with_checksum(Checksum::Sha256(sha256))
        };
        let refused = bucket.put("sum", &body("others"), &Condition::Any).await;
        assert!(refused.is_err());
        assert!(matches!(
            bucket.head("sum").await,
            Err(StoreError::NotFound)
        ));
        bucket
            .put("sum", &body("wanted"), &Condition::Absent)
            .await
            .unwrap();
        assert_eq!(bucket.head("sum").await.unwrap().size_bytes, 6);
    }
}

#[tokio::test]
async fn a_link_is_given_only_where_it_is_asked_for_and_reads_without_credentials() {
    for (endpoint, _server) in endpoints() {
        let spool = tempfile::tempdir().unwrap();
        let mut settings = settings(&endpoint, &spool);
        let hour = Duration::from_hours(1);
        let store = S3Store::open(settings.clone(), clock()).unwrap();
        assert_eq!(store.link(&key("a/b"), hour).await.unwrap(), None);
        settings.redirects_pulls = true;
        let store = S3Store::open(settings, clock()).unwrap();
        store
            .apply(vec![Step::put(key("a/b"), "content")])
            .await
            .unwrap();
        let link = store.link(&key("a/b"), hour).await.unwrap().unwrap();
        let request = http::Request::get(&link).body(aws_sdk_s3::primitives::SdkBody::empty());
        let answer = store.bucket().shared.connector.send(request.unwrap()).await;
        assert_eq!(answer.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn sessions_of_the_spool_are_listed_among_those_of_the_bucket() {
    let lab = Lab::new();
    let name: RepositoryName = "team/app".parse().unwrap();
    let uploads = layout::uploads_directory(&name);
    let ids = [3, 1].map(|number| UploadId::from_parts(number, 0));
    for id in ids {
        let session = layout::upload_directory(&name, id);
        let mut upload = lab.store.open_upload(&session, None).await.unwrap();
        upload.append("abc".into()).await.unwrap();
        upload.persist().await.unwrap();
    }
    lab.put(&format!("{uploads}another-registry/startedat"), "then")
        .await;
    let listed = lab
        .store
        .list(&uploads, Depth::One)
        .map_ok(|entry| entry.key);
    let listed: Vec<String> = listed.try_collect().await.unwrap();
    let mut expected = vec![format!("{uploads}another-registry/")];
    expected.extend(ids.map(|id| format!("{uploads}{id}/")));
    expected.sort();
    assert_eq!(listed, expected);
}
