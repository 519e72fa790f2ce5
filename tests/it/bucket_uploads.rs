//! Uploads to a bucket: the ways to the blob's key, the death of the process anywhere, trouble, and the room of the spool.
//!
//! Below the seam, so that a test decides when the process dies. Must not know the registry.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use boathouse::clock::{Clock, ManualClock, SystemClock};
use boathouse::layout::{OwnedPlace, Prefix, UploadId, upload_directory};
use boathouse::oci::{Algorithm, Digest, RepositoryName};
use boathouse::store::s3::requests::{Body, Bucket};
use boathouse::store::s3::spool::{Apply, Spool};
use boathouse::store::s3::{Credentials, Settings};
use boathouse::store::{Condition, Step, StoreError, Upload};
use bytes::Bytes;
use http::StatusCode;
use tokio::runtime::Runtime;

use crate::s3_server::{Endpoint, Fault, Kind, Manners, Plan, S3Server};

const MIB: usize = 1024 * 1024;

/// The shortest that S3 allows, so that few bytes make many parts.
const PART_BYTES: u64 = 5 * 1024 * 1024;

/// More than is sent in one request.
const LARGE: usize = 71 * MIB + 17;

fn settings(server: &S3Server, spool: &Path) -> Settings {
    let Endpoint {
        url,
        region,
        access_key,
        secret_key,
        bucket,
    } = Endpoint::of(server);
    let credentials = Credentials::Keys {
        access_key,
        secret_key,
        session_token: None,
    };
    Settings {
        part_size_bytes: PART_BYTES,
        ..Settings::of(Some(url), region, bucket, credentials, spool)
    }
}

/// A process that has the spool. Several on one directory are one after the other.
struct Process {
    spool: Arc<Spool>,
    bucket: Bucket,
}

impl Process {
    fn start(settings: Settings) -> Self {
        Self::start_at(settings, Arc::new(SystemClock::new()))
    }

    /// `clock` tells the age of what is left.
    fn start_at(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        let bucket = Bucket::new(settings, Arc::new(SystemClock::new())).unwrap();
        let writer = bucket.clone();
        let apply: Apply = Arc::new(move |steps| {
            let bucket = writer.clone();
            Box::pin(async move {
                for step in steps {
                    let Step::Put { key, bytes, .. } = step else {
                        continue;
                    };
                    let body = Body::bytes(bytes);
                    bucket.put(key.as_str(), &body, &Condition::Any).await?;
                }
                Ok(())
            })
        });
        let spool = Spool::open(bucket.clone(), clock, apply).unwrap();
        Self { spool, bucket }
    }

    async fn begin(&self, number: u64) -> Box<dyn Upload> {
        let opened = self.spool.open_upload(&session(number), None).await;
        opened.unwrap()
    }

    async fn resume(&self, number: u64) -> Option<Box<dyn Upload>> {
        self.spool.resume_upload(&session(number)).await.unwrap()
    }
}

fn session(number: u64) -> Prefix {
    let name: RepositoryName = "team/app".parse().unwrap();
    upload_directory(&name, UploadId::from_parts(number, 0))
}

/// No two MiB of it are the same.
fn content(length: usize) -> Bytes {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let block: Vec<u8> = std::iter::repeat_with(|| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.to_le_bytes()
    })
    .take(MIB / 8)
    .flatten()
    .collect();
    let mut content = Vec::with_capacity(length + MIB);
    while content.len() < length {
        let start = content.len();
        content.extend_from_slice(&block);
        content[start..start + 8].copy_from_slice(&(start as u64).to_le_bytes());
    }
    content.truncate(length);
    content.into()
}

fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

fn blob_key(digest: &Digest) -> String {
    OwnedPlace::BlobData(*digest).key().to_string()
}

fn link() -> Vec<Step> {
    vec![Step::put("links/link".parse().unwrap(), "link")]
}

async fn append(upload: &mut dyn Upload, content: &Bytes) {
    let mut left = content.clone();
    while !left.is_empty() {
        let piece = left.split_to(left.len().min(100_000));
        upload.append(piece).await.unwrap();
    }
}

/// What must hold once a blob is stored: its bytes, what follows it, and nothing else, neither there nor here.
fn check_stored(server: &S3Server, process: &Process, content: &Bytes, digest: &Digest) {
    let objects = server.objects();
    assert!(
        objects.get(&blob_key(digest)) == Some(content),
        "other bytes"
    );
    let mut keys: Vec<&String> = objects.keys().collect();
    keys.retain(|key| **key != blob_key(digest));
    assert_eq!(keys, ["links/link"]);
    // One whose name a process did not live to learn has no parts. At a session's key it is found; at a blob's key nothing
    // tells it from those of other programs.
    let mut uploads = server.open_uploads();
    uploads.retain(|key| *key != blob_key(digest));
    assert_eq!(uploads, Vec::<String>::new());
    assert_eq!(process.spool.used_bytes(), 0);
    let root = &process.bucket.settings().spool_directory;
    let sessions = root.join(session(0).as_str()).parent().unwrap().read_dir();
    assert_eq!(sessions.map_or(0, Iterator::count), 0, "files are left");
}

#[tokio::test]
async fn a_short_blob_is_one_request() {
    for length in [0, 1, 6 * MIB, 64 * MIB] {
        let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
        let process = Process::start(settings(&server, directory.path()));
        let content = content(length);
        let mut upload = process.begin(1).await;
        append(upload.as_mut(), &content).await;
        upload.finish(&sha256(&content), link()).await.unwrap();
        check_stored(&server, &process, &content, &sha256(&content));
        assert_eq!(server.requests(Kind::PutObject), 2, "blob and link");
        assert_eq!(server.requests_in_all(), 2);
    }
}

#[tokio::test]
async fn a_long_blob_is_sent_while_it_arrives_and_copied_by_the_bucket() {
    let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
    let process = Process::start(settings(&server, directory.path()));
    let content = content(LARGE);
    let digest = sha256(&content);
    let mut upload = process.begin(1).await;
    append(upload.as_mut(), &content.slice(..64 * MIB)).await;
    assert_eq!(server.requests_in_all(), 0, "sent before it is long");
    append(upload.as_mut(), &content.slice(64 * MIB..)).await;
    upload.persist().await.unwrap();
    while process.spool.used_bytes() > PART_BYTES {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(server.content(&blob_key(&digest)).is_none());
    upload.finish(&digest, link()).await.unwrap();
    check_stored(&server, &process, &content, &digest);
    assert_eq!(server.open_uploads(), Vec::<String>::new());
    assert!(server.requests(Kind::CopyPart) > 0);
}

#[tokio::test]
async fn a_named_blob_goes_straight_to_its_key_and_shows_only_when_it_is_whole() {
    let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
    let process = Process::start(settings(&server, directory.path()));
    let content = content(33 * MIB + 5);
    let digest = sha256(&content);
    let mut upload = process.begin(1).await;
    upload.expect(&digest, Some(content.len() as u64));
    append(upload.as_mut(), &content).await;
    assert!(
        server.requests(Kind::CreateUpload) > 0,
        "nothing is sent yet"
    );
    assert!(server.content(&blob_key(&digest)).is_none());
    upload.finish(&digest, link()).await.unwrap();
    check_stored(&server, &process, &content, &digest);
    assert_eq!(server.open_uploads(), Vec::<String>::new());
    assert_eq!(server.requests(Kind::CopyPart), 0);

    // Bytes of another digest never show, and are given up.
    let other = sha256(b"other");
    let mut upload = process.begin(2).await;
    upload.expect(&other, None);
    append(upload.as_mut(), &content).await;
    let refused = upload.finish(&other, link()).await;
    assert!(matches!(refused, Err(StoreError::Io { .. })));
    assert!(server.content(&blob_key(&other)).is_none());
    process.resume(2).await.unwrap().abort().await.unwrap();
    check_stored(&server, &process, &content, &digest);
}

#[tokio::test]
async fn the_other_algorithm_is_computed_also_of_what_was_sent() {
    let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
    let process = Process::start(settings(&server, directory.path()));
    let content = content(LARGE);
    let wide = Digest::of(Algorithm::Sha512, &content);
    let mut upload = process.begin(1).await;
    append(upload.as_mut(), &content).await;
    while process.spool.used_bytes() > PART_BYTES {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(upload.digest(Algorithm::Sha512).await.unwrap(), wide);
    upload.finish(&wide, link()).await.unwrap();
    check_stored(&server, &process, &content, &wide);

    // Named before the bytes, it is computed meanwhile.
    let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
    let process = Process::start(settings(&server, directory.path()));
    let mut upload = process.begin(1).await;
    upload.expect(&wide, None);
    append(upload.as_mut(), &content).await;
    upload.finish(&wide, link()).await.unwrap();
    check_stored(&server, &process, &content, &wide);
    assert_eq!(server.requests(Kind::GetObject), 0);
}

#[tokio::test]
async fn damaged_bytes_of_the_same_length_are_replaced_and_the_same_bytes_are_not_sent_twice() {
    let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
    let process = Process::start(settings(&server, directory.path()));
    for length in [3 * MIB, LARGE] {
        let content = content(length);
        let digest = sha256(&content);
        let mut damaged = content.to_vec();
        damaged[length / 2] ^= 1;
        server.put(&blob_key(&digest), damaged);
        for is_aimed in [false, true] {
            let mut upload = process.begin(1).await;
            if is_aimed {
                upload.expect(&digest, None);
            }
            append(upload.as_mut(), &content).await;
            upload.finish(&digest, link()).await.unwrap();
            assert!(server.content(&blob_key(&digest)) == Some(content.clone()));
        }
        server.remove(|key| key.contains("blobs"));
    }
    assert_eq!(server.open_uploads(), Vec::<String>::new());
    let content = content(3 * MIB);
    let before = server.requests(Kind::PutObject);
    for _ in 0..2 {
        let mut upload = process.begin(1).await;
        append(upload.as_mut(), &content).await;
        upload.finish(&sha256(&content), Vec::new()).await.unwrap();
    }
    assert_eq!(server.requests(Kind::PutObject) - before, 2);
}

/// How the client sends a blob.
#[derive(Debug, Clone, Copy)]
enum Way {
    Short,
    Long,
    Named,
}

impl Way {
    const ALL: [Self; 3] = [Self::Short, Self::Long, Self::Named];

    fn content(self) -> Bytes {
        content(match self {
            Self::Short => 17 * MIB + 3,
            Self::Long => LARGE,
            Self::Named => 31 * MIB + 7,
        })
    }

    fn expect(self, upload: &mut dyn Upload, digest: &Digest) {
        if matches!(self, Self::Named) {
            upload.expect(digest, None);
        }
    }
}

/// Lets a process run until `work` ends or `life` is over, and kills it: all its tasks end where they are.
fn live<T>(life: Duration, work: impl Future<Output = T>) -> Option<T> {
    let runtime = Runtime::new().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(life, work).await.ok() });
    runtime.shutdown_timeout(Duration::from_mins(1));
    ended
}

#[test]
fn an_upload_goes_on_wherever_the_process_died() {
    const FOREVER: Duration = Duration::from_mins(10);
    for (number, way) in Way::ALL.into_iter().cycle().take(6).enumerate() {
        let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
        let settings = settings(&server, directory.path());
        let content = way.content();
        let digest = sha256(&content);
        // Received, and told to the client: the first half at once, the second in three lives.
        let mut told = 0;
        for sitting in 1..=4 {
            let end = content.len() * (sitting + 1) / 5;
            live(FOREVER, async {
                let process = Process::start(settings.clone());
                let mut upload = match sitting {
                    1 => process.begin(1).await,
                    _ => process
                        .resume(1)
                        .await
                        .expect("a session that 202 promised"),
                };
                assert_eq!(
                    upload.offset_bytes(),
                    told as u64,
                    "{way:?}, sitting {sitting}"
                );
                way.expect(upload.as_mut(), &digest);
                append(upload.as_mut(), &content.slice(told..end)).await;
                assert_eq!(upload.persist().await.unwrap(), end as u64);
                tokio::time::sleep(Duration::from_millis(number as u64 * 3)).await;
            });
            told = end;
        }
        // It dies while it makes the blob, later each time.
        let mut is_stored = None;
        for attempt in 0..40 {
            let life = Duration::from_millis(5).mul_f64(1.3_f64.powi(attempt));
            is_stored = live(life, async {
                let process = Process::start(settings.clone());
                let Some(mut upload) = process.resume(1).await else {
                    let is_there = server.content(&blob_key(&digest)).is_some();
                    assert!(is_there, "{way:?}: a session that 202 promised is gone");
                    return;
                };
                way.expect(upload.as_mut(), &digest);
                let rest = usize::try_from(upload.offset_bytes()).unwrap();
                assert!(rest >= told, "{way:?}: told {told}, has {rest}");
                append(upload.as_mut(), &content.slice(rest..)).await;
                upload.finish(&digest, link()).await.unwrap();
            });
            let found = server.content(&blob_key(&digest));
            assert!(
                found.is_none_or(|found| found == content),
                "{way:?}: half a blob"
            );
            if is_stored.is_some() {
                break;
            }
        }
        assert!(is_stored.is_some(), "{way:?}: never stored");
        live(FOREVER, async {
            let process = Process::start(settings.clone());
            process.spool.sweep().await.unwrap();
            if let Some(upload) = process.resume(1).await {
                upload.abort().await.unwrap();
            }
            check_stored(&server, &process, &content, &digest);
        });
    }
}

#[tokio::test]
async fn lost_answers_conflicts_and_refusals_of_a_moment_change_nothing() {
    let kinds = [
        Kind::PutObject,
        Kind::CreateUpload,
        Kind::UploadPart,
        Kind::CopyPart,
        Kind::CompleteUpload,
        Kind::AbortUpload,
        Kind::DeleteObject,
    ];
    let faults = [
        Fault::LostAnswer,
        Fault::LostBehindError,
        Fault::ResetInBody,
        Fault::Refused(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        for way in Way::ALL {
            let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
            server.set_manners(match number % 3 {
                0 => Manners::minio(),
                1 => Manners::versitygw(),
                _ => Manners {
                    conflict_one_in: 2,
                    ..Manners::aws()
                },
            });
            let process = Process::start(settings(&server, directory.path()));
            for kind in kinds {
                server.plan(Plan::once(kind, fault));
            }
            let content = way.content();
            let digest = sha256(&content);
            let mut upload = process.begin(1).await;
            way.expect(upload.as_mut(), &digest);
            append(upload.as_mut(), &content).await;
            upload.finish(&digest, link()).await.unwrap();
            assert!(server.struck() > 0);
            // An upload in parts whose name was never learnt is left; nothing else.
            let named = server.requests(Kind::CreateUpload);
            let left = server.open_uploads().len() as u64;
            assert!(left < named.max(1), "{fault:?}, {way:?}: {left} of {named}");
            let found = server.content(&blob_key(&digest));
            assert!(found == Some(content), "{fault:?}, {way:?}");
            assert_eq!(process.spool.used_bytes(), 0);
        }
    }
}

/// A part that failed for good, behind which others have arrived: what was sent is not the beginning of the whole.
#[tokio::test]
async fn parts_are_put_together_in_order_also_if_one_of_them_came_last() {
    let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
    let process = Process::start(settings(&server, directory.path()));
    let content = content(LARGE + 20 * MIB);
    let digest = sha256(&content);
    let mut upload = process.begin(1).await;
    let denied = Fault::Refused(StatusCode::FORBIDDEN, "AccessDenied");
    server.plan(Plan {
        after: 2,
        ..Plan::once(Kind::UploadPart, denied)
    });
    append(upload.as_mut(), &content).await;
    if upload.finish(&digest, link()).await.is_err() {
        // The client repeats its request.
        let upload = process.resume(1).await.unwrap();
        upload.finish(&digest, link()).await.unwrap();
    }
    assert_eq!(server.struck(), 1);
    check_stored(&server, &process, &content, &digest);
}

#[tokio::test]
async fn a_bucket_that_is_away_for_a_while_costs_no_session() {
    let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
    let process = Process::start(settings(&server, directory.path()));
    let content = content(LARGE);
    let digest = sha256(&content);
    let mut upload = process.begin(1).await;
    append(upload.as_mut(), &content.slice(..66 * MIB)).await;
    server.go_away();
    append(upload.as_mut(), &content.slice(66 * MIB..)).await;
    upload.persist().await.unwrap();
    let finishing = upload.finish(&digest, link());
    let back = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.come_back();
    };
    let (finished, ()) = tokio::join!(finishing, back);
    finished.unwrap();
    check_stored(&server, &process, &content, &digest);
}

#[tokio::test]
async fn clients_that_stand_still_keep_no_other_waiting_and_the_spool_is_bounded() {
    const SPOOL_BYTES: u64 = 64 * 1024 * 1024;
    const SLOW: u64 = 12;
    let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
    let process = Process::start(Settings {
        spool_bytes: SPOOL_BYTES,
        ..settings(&server, directory.path())
    });
    let content = content(40 * MIB);
    let mut slow = Vec::new();
    for number in 1..=SLOW {
        let mut upload = process.begin(number).await;
        // As much as it may, and then nothing more.
        append(upload.as_mut(), &content.slice(..39 * MIB)).await;
        slow.push(upload);
        let bound = SPOOL_BYTES + number * 3 * PART_BYTES;
        let used = process.spool.used_bytes();
        assert!(
            used <= bound,
            "{used} bytes of {bound} after {number} uploads"
        );
    }
    let mut fast = process.begin(100).await;
    let sent = async {
        append(fast.as_mut(), &content).await;
        fast.finish(&sha256(&content), link()).await.unwrap();
    };
    let in_time = tokio::time::timeout(Duration::from_secs(15), sent).await;
    in_time.expect("slow clients keep a fast one waiting");
    for mut upload in slow {
        append(upload.as_mut(), &content.slice(39 * MIB..)).await;
        upload.finish(&sha256(&content), link()).await.unwrap();
    }
    check_stored(&server, &process, &content, &sha256(&content));
}

#[tokio::test]
async fn what_is_left_of_our_own_uploads_is_removed_and_nothing_of_another_program() {
    let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
    server.set_manners(Manners::minio());
    let clock = Arc::new(ManualClock::at_unix_secs(4_000_000_000));
    let process = Process::start(settings(&server, directory.path()));
    let lost_session = format!("{}data", session(7));
    let foreign =
        "docker/registry/v2/repositories/a/_uploads/ba9a4e31-cd74-4d9a-a5ba-3dc77b9a0f6c/data";
    let copied = blob_key(&sha256(b"by 2.8.2"));
    for key in [&lost_session, foreign, &copied, "another/program"] {
        process.bucket.begin_multipart(key).await.unwrap();
    }
    // One that is in use, one that is old, and one that a handle has.
    let content = content(LARGE);
    let mut used = process.begin(1).await;
    append(used.as_mut(), &content).await;
    used.persist().await.unwrap();
    process.spool.sweep().await.unwrap();
    assert_eq!(server.open_uploads().len(), 5, "young ones stay");

    // Another process, much later: the session of this one is in the same directory, and old.
    let later = Process::start_at(settings(&server, directory.path()), clock);
    later.spool.sweep().await.unwrap();
    let mut left = server.open_uploads();
    left.sort();
    let mut expected = vec![copied, foreign.to_owned(), "another/program".to_owned()];
    expected.sort();
    assert_eq!(left, expected);
    assert!(later.resume(1).await.is_none());
    assert_eq!(later.spool.used_bytes(), 0);
}

/// The spool's disk has changed a byte after it was received and hashed.
#[tokio::test]
async fn bytes_that_the_spool_has_damaged_never_become_a_blob() {
    let (server, directory) = (S3Server::start(), tempfile::tempdir().unwrap());
    let process = Process::start(settings(&server, directory.path()));
    for way in Way::ALL {
        let content = way.content();
        let digest = sha256(&content);
        let mut upload = process.begin(1).await;
        server.go_away();
        way.expect(upload.as_mut(), &digest);
        append(upload.as_mut(), &content).await;
        upload.persist().await.unwrap();
        let data = directory.path().join(session(1).as_str()).join("data");
        let mut damaged = std::fs::read(&data).unwrap();
        damaged[MIB] ^= 1;
        std::fs::write(&data, damaged).unwrap();
        server.come_back();
        // What the bucket refuses may have been damaged on its way, so it is sent again for a while.
        let finished = upload.finish(&digest, link());
        let _ = tokio::time::timeout(Duration::from_secs(3), finished).await;
        let stored = server.content(&blob_key(&digest));
        assert!(stored.is_none(), "{way:?}: a damaged blob");
        let resumed = process.resume(1).await.expect("a session");
        resumed.abort().await.unwrap();
    }
}
