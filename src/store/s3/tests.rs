//! The store on a real endpoint, where `BOATHOUSE_TEST_S3=http://KEY:SECRET@HOST:PORT/BUCKET` names one. `tests/s3_server` has
//! the same and more without one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::client::{Body, Bucket, Checksum, Written};
use super::{Credentials, S3Store, Settings, start_check};
use crate::clock::{Clock, SystemClock};
use crate::oci::{Algorithm, Digest};
use crate::store::{Condition, ObjectStore as _, Step, StoreError, conformance};

/// The bucket that the environment names, below a root directory of its own each time.
fn settings() -> Option<Settings> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let named = std::env::var("BOATHOUSE_TEST_S3").ok()?;
    let (scheme, rest) = named.split_once("://").expect("a URL");
    let (keys, place) = rest.rsplit_once('@').expect("KEY:SECRET@");
    let (access_key, secret_key) = keys.split_once(':').expect("KEY:SECRET");
    let (host, bucket) = place.split_once('/').expect("/BUCKET");
    let credentials = Credentials::Keys {
        access_key: access_key.to_owned(),
        secret_key: secret_key.to_owned(),
        session_token: None,
    };
    let endpoint = Some(format!("{scheme}://{host}"));
    let mut settings = Settings::of(endpoint, "us-east-1", bucket, credentials, "/nowhere");
    let mut random = [0; 8];
    getrandom::fill(&mut random).unwrap();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    settings.root_directory = format!("test/{}/{count}", data_encoding::HEXLOWER.encode(&random));
    Some(settings)
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

fn bucket() -> Option<Bucket> {
    Some(Bucket::new(settings()?, clock()).unwrap())
}

#[tokio::test]
async fn conforms_on_a_real_endpoint() {
    if settings().is_none() {
        return;
    }
    let new = || S3Store::open(settings().unwrap(), clock()).unwrap();
    conformance::check_keys(new).await;
}

#[tokio::test]
async fn a_real_endpoint_passes_the_check_and_nothing_is_left() {
    let Some(settings) = settings() else {
        return;
    };
    let checked = start_check::check(&settings, false, clock()).await;
    assert_eq!(checked, Ok(None));
    let store = S3Store::open(settings.clone(), clock()).unwrap();
    let own = store.list(&"boathouse/".parse().unwrap(), crate::store::Depth::All);
    let own: Vec<_> = futures_util::StreamExt::collect(own).await;
    assert!(own.is_empty(), "{own:?}");
    for (change, expected) in [
        (
            (|settings: &mut Settings| settings.bucket = "no-such-bucket-here".to_owned())
                as fn(&mut Settings),
            "create the bucket",
        ),
        (
            |settings| {
                settings.credentials = Credentials::Keys {
                    access_key: "nobody".to_owned(),
                    secret_key: "nothing-at-all".to_owned(),
                    session_token: None,
                };
            },
            "`accesskey`",
        ),
        (
            |settings| {
                if let Credentials::Keys { secret_key, .. } = &mut settings.credentials {
                    *secret_key += "x";
                }
            },
            "`secretkey`",
        ),
        (
            |settings| settings.endpoint = Some("http://127.0.0.1:9".to_owned()),
            "start its server",
        ),
    ] {
        let mut wrong = settings.clone();
        change(&mut wrong);
        let complaint = start_check::check(&wrong, false, clock()).await;
        let complaint = complaint.expect_err("a wrong setting").to_string();
        println!("{complaint}");
        assert!(complaint.contains(expected), "{complaint}");
    }
}

#[tokio::test]
async fn an_upload_in_parts_shows_when_it_is_complete() {
    let Some(bucket) = bucket() else {
        return;
    };
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
    let complete = bucket
        .complete_multipart(&multipart, &parts, &Condition::Absent)
        .await;
    assert!(matches!(complete, Ok(Written::Done(_))), "{complete:?}");
    assert_eq!(
        bucket.head("parts").await.unwrap().size_bytes,
        10 * 1024 * 1024
    );

    let copy = bucket.begin_multipart("copy").await.unwrap();
    let copied = bucket
        .copy_part(&copy, 1, "parts", 0..10 * 1024 * 1024)
        .await
        .unwrap();
    let complete = bucket
        .complete_multipart(&copy, std::slice::from_ref(&copied), &Condition::Absent)
        .await;
    assert!(matches!(complete, Ok(Written::Done(_))), "{complete:?}");
    let again = bucket.begin_multipart("copy").await.unwrap();
    let copied = bucket
        .copy_part(&again, 1, "parts", 0..10 * 1024 * 1024)
        .await
        .unwrap();
    let refused = bucket
        .complete_multipart(&again, std::slice::from_ref(&copied), &Condition::Absent)
        .await;
    assert_eq!(refused.unwrap(), Written::Refused { may_be_own: false });
    bucket.abort_multipart(&again).await.unwrap();
    bucket.abort_multipart(&again).await.unwrap();
    let gone = bucket.list_parts(&again).await;
    assert!(matches!(gone, Err(StoreError::NotFound)), "{gone:?}");
}

#[tokio::test]
async fn a_body_that_is_not_what_it_should_be_is_not_kept() {
    let Some(bucket) = bucket() else {
        return;
    };
    let bucket = bucket.with_patience(super::Patience::Check);
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

#[tokio::test]
async fn a_link_reads_without_credentials_for_its_time() {
    let Some(mut settings) = settings() else {
        return;
    };
    settings.redirects_pulls = true;
    let store = S3Store::open(settings, clock()).unwrap();
    let key = "a/b".parse().unwrap();
    store
        .apply(vec![Step::put("a/b".parse().unwrap(), "content")])
        .await
        .unwrap();
    let link = store
        .link(&key, std::time::Duration::from_mins(1))
        .await
        .unwrap()
        .unwrap();
    let request = http::Request::get(&link).body(aws_sdk_s3::primitives::SdkBody::empty());
    let answer = (store.bucket().shared.connector)
        .send(request.unwrap())
        .await;
    assert_eq!(answer.unwrap().status(), 200);
}
