//! What stores rely on, asked of the server by the SDK and by hand: tests of the server itself.
//!
//! Tests that hold for every server are asked of a real one where `BOATHOUSE_TEST_S3` names it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::config::{ResponseChecksumValidation, StalledStreamProtectionConfig};
use aws_sdk_s3::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use http::StatusCode;
use hyper_util::rt::TokioIo;

use crate::s3_server::{Endpoint, Fault, Kind, Manners, Plan, S3Server};

const MIB: usize = 1024 * 1024;

/// Sends each request over a connection of its own.
#[derive(Debug)]
struct PlainHttp;

impl HttpConnector for PlainHttp {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(async move {
            let failed =
                |error: Box<dyn std::error::Error + Send + Sync>| ConnectorError::io(error);
            let mut request = request.try_into_http1x().expect("a request");
            let host = request.uri().authority().expect("a host").to_string();
            let path = request.uri().path_and_query().expect("a path").to_string();
            *request.uri_mut() = path.parse().expect("a path");
            let host_header = host.parse().expect("a host");
            request.headers_mut().insert("host", host_header);
            let stream = tokio::net::TcpStream::connect(&host).await;
            let stream = TokioIo::new(stream.map_err(|error| failed(error.into()))?);
            let shaken = hyper::client::conn::http1::handshake(stream).await;
            let (mut sender, connection) = shaken.map_err(|error| failed(error.into()))?;
            tokio::spawn(connection);
            let answer = sender.send_request(request).await;
            let answer = answer.map_err(|error| failed(error.into()))?;
            let answer = answer.map(SdkBody::from_body_1_x);
            Ok(HttpResponse::try_from(answer).expect("an answer"))
        })
    }
}

fn client(endpoint: &Endpoint) -> Client {
    let keys = Credentials::new(
        &endpoint.access_key,
        &endpoint.secret_key,
        None,
        None,
        "test",
    );
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http_client_fn(|_, _| SharedHttpConnector::new(PlainHttp)))
        .endpoint_url(&endpoint.url)
        .region(Region::new(endpoint.region.clone()))
        .credentials_provider(keys)
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .disable_clock_skew_correction(true)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    Client::from_conf(config.build())
}

/// A bucket, and a prefix of the test's own in it.
struct Site {
    /// Keeps the server in this process, if it is one.
    _server: Option<S3Server>,
    client: Client,
    bucket: String,
    prefix: String,
}

impl Site {
    /// The one that the environment names, or one in this process.
    fn new() -> Self {
        let given = Endpoint::given();
        let server = given.is_none().then(S3Server::start);
        let endpoint = given.or_else(|| server.as_ref().map(Endpoint::of));
        let endpoint = endpoint.expect("one of both");
        let name = std::thread::current()
            .name()
            .expect("a name")
            .replace("::", "-");
        Self {
            _server: server,
            client: client(&endpoint),
            bucket: endpoint.bucket,
            prefix: format!("{name}-{}/", std::process::id()),
        }
    }

    fn of(server: &S3Server) -> (Client, String) {
        let endpoint = Endpoint::of(server);
        (client(&endpoint), endpoint.bucket)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn put(&self, name: &str, bytes: impl Into<Vec<u8>>) {
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.key(name));
        put.body(bytes.into().into()).send().await.unwrap();
    }

    async fn get(&self, name: &str) -> Result<Vec<u8>, String> {
        let get = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.key(name));
        let got = get.send().await.map_err(|error| code(&error))?;
        Ok(got.body.collect().await.unwrap().to_vec())
    }

    async fn begin(&self, name: &str) -> String {
        let create = self.client.create_multipart_upload();
        let created = create.bucket(&self.bucket).key(self.key(name)).send().await;
        created.unwrap().upload_id.unwrap()
    }

    async fn part(&self, name: &str, upload: &str, number: i32, bytes: Vec<u8>) -> CompletedPart {
        let part = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(self.key(name));
        let part = part
            .upload_id(upload)
            .part_number(number)
            .body(bytes.into());
        let etag = part.send().await.unwrap().e_tag;
        CompletedPart::builder()
            .part_number(number)
            .set_e_tag(etag)
            .build()
    }

    async fn complete(
        &self,
        name: &str,
        upload: &str,
        parts: Vec<CompletedPart>,
        is_absent: bool,
    ) -> Result<(), String> {
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let complete = self.client.complete_multipart_upload();
        let complete = complete.bucket(&self.bucket).key(self.key(name));
        let complete = complete.upload_id(upload).multipart_upload(parts);
        let condition = is_absent.then(|| "*".to_owned());
        let complete = complete.set_if_none_match(condition).send().await;
        complete.map(drop).map_err(|error| code(&error))
    }
}

/// What the server says is wrong; where it says nothing, the status, or that the connection broke.
fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> String {
    if let Some(code) = error.code() {
        return code.to_owned();
    }
    match error.raw_response() {
        Some(answer) => answer.status().as_u16().to_string(),
        None => "broken".to_owned(),
    }
}

/// Writes to the same key at once, and how many of them were not refused.
async fn winners(
    attempts: impl Iterator<Item = impl Future<Output = Result<(), String>>>,
) -> usize {
    let results = join_all(attempts).await;
    let refused = results.iter().filter_map(|result| result.as_ref().err());
    for code in refused {
        assert!(
            code == "PreconditionFailed" || code == "ConditionalRequestConflict",
            "{code}"
        );
    }
    results.iter().filter(|result| result.is_ok()).count()
}

#[tokio::test]
async fn of_eight_writers_one_wins() {
    let site = Site::new();
    for round in 0..10 {
        let name = format!("absent-{round}");
        let puts = (0..8).map(|number| {
            let put = site
                .client
                .put_object()
                .bucket(&site.bucket)
                .key(site.key(&name));
            let put = put.if_none_match("*").body(vec![number; 100].into()).send();
            async { put.await.map(drop).map_err(|error| code(&error)) }
        });
        assert_eq!(winners(puts).await, 1, "{name}");

        let name = format!("match-{round}");
        site.put(&name, "before").await;
        let head = site
            .client
            .head_object()
            .bucket(&site.bucket)
            .key(site.key(&name));
        let etag = head.send().await.unwrap().e_tag.unwrap();
        let puts = (0..8).map(|number| {
            let put = site
                .client
                .put_object()
                .bucket(&site.bucket)
                .key(site.key(&name));
            let put = put.if_match(&etag).body(vec![number; 100].into()).send();
            async { put.await.map(drop).map_err(|error| code(&error)) }
        });
        assert_eq!(winners(puts).await, 1, "{name}");
    }
    let mut uploads = Vec::new();
    for number in 0..8 {
        let upload = site.begin("completed").await;
        let part = site.part("completed", &upload, 1, vec![number; 100]).await;
        uploads.push((upload, part));
    }
    let completes = uploads
        .iter()
        .map(|(upload, part)| site.complete("completed", upload, vec![part.clone()], true));
    assert_eq!(winners(completes).await, 1);
    // Those that were refused are there still, and can only be given up.
    let mut left = 0;
    for (upload, _) in &uploads {
        let abort = site.client.abort_multipart_upload().bucket(&site.bucket);
        let aborted = abort
            .key(site.key("completed"))
            .upload_id(upload)
            .send()
            .await;
        left += usize::from(aborted.is_ok());
    }
    assert!(left >= 7, "{left}");
}

#[tokio::test]
async fn what_conditions_answer() {
    let site = Site::new();
    let put = |condition: &str| {
        let put = site
            .client
            .put_object()
            .bucket(&site.bucket)
            .key(site.key("a"));
        let put = put.body(b"new".to_vec().into());
        let put = match condition {
            "*" => put.if_none_match("*"),
            etag => put.if_match(etag),
        };
        async { put.send().await.map(drop).map_err(|error| code(&error)) }
    };
    let other = "\"00000000000000000000000000000000\"";
    assert_eq!(put(other).await.unwrap_err(), "NoSuchKey");
    put("*").await.unwrap();
    assert_eq!(put("*").await.unwrap_err(), "PreconditionFailed");
    assert_eq!(put(other).await.unwrap_err(), "PreconditionFailed");
    let head = site
        .client
        .head_object()
        .bucket(&site.bucket)
        .key(site.key("a"));
    let etag = head.send().await.unwrap().e_tag.unwrap();
    put(&etag).await.unwrap();
    // The ETag is made of the bytes, so the same bytes again are the same version.
    put(&etag).await.unwrap();
}

#[tokio::test]
async fn wrong_checksums_are_refused_and_nothing_is_stored() {
    let site = Site::new();
    let wrong_sha256 = STANDARD.encode([1; 32]);
    let wrong_crc32 = STANDARD.encode([1; 4]);
    let put = || {
        let put = site
            .client
            .put_object()
            .bucket(&site.bucket)
            .key(site.key("a"));
        put.body(b"hello".to_vec().into())
    };
    let attempts = [
        put().checksum_sha256(&wrong_sha256).send().await,
        put().checksum_crc32(&wrong_crc32).send().await,
        put().content_md5(STANDARD.encode([1; 16])).send().await,
    ];
    for attempt in attempts {
        let refused = code(&attempt.unwrap_err());
        let known = ["BadDigest", "XAmzContentChecksumMismatch", "InvalidDigest"];
        assert!(known.contains(&refused.as_str()), "{refused}");
        assert_eq!(site.get("a").await.unwrap_err(), "NoSuchKey");
    }
    let right = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
    put().checksum_sha256(right).send().await.unwrap();
    assert_eq!(site.get("a").await.unwrap(), b"hello");

    let upload = site.begin("b").await;
    let part = site
        .client
        .upload_part()
        .bucket(&site.bucket)
        .key(site.key("b"));
    let part = part
        .upload_id(&upload)
        .part_number(1)
        .body(b"hello".to_vec().into());
    part.checksum_crc32(&wrong_crc32).send().await.unwrap_err();
    let parts = site
        .client
        .list_parts()
        .bucket(&site.bucket)
        .key(site.key("b"));
    let parts = parts.upload_id(&upload).send().await.unwrap();
    assert!(parts.parts().is_empty());
}

#[tokio::test]
async fn a_signature_covers_method_path_query_headers_and_body() {
    let site = Site::new();
    // Names that are written differently in paths, in queries and in signatures.
    for name in ["a b", "a+b", "é/~*'()", "x=y&z;,:@%25", "#?"] {
        site.put(name, "content").await;
        assert_eq!(site.get(name).await.unwrap(), b"content", "{name}");
        let list = site.client.list_objects_v2().bucket(&site.bucket);
        let listed = list.prefix(site.key(name)).send().await.unwrap();
        assert_eq!(listed.contents()[0].key(), Some(site.key(name).as_str()));
    }
    let valid = PresigningConfig::expires_in(Duration::from_secs(30)).unwrap();
    let put = site
        .client
        .put_object()
        .bucket(&site.bucket)
        .key(site.key("a b"));
    let put = put.presigned(valid.clone()).await.unwrap();
    let get = site
        .client
        .get_object()
        .bucket(&site.bucket)
        .key(site.key("a b"));
    let get = get.presigned(valid).await.unwrap();
    let uri: http::Uri = get.uri().parse().unwrap();
    let path = uri.path_and_query().unwrap().as_str();
    let host = uri.authority().unwrap().as_str();
    let ask = |method: &str, path: &str, headers: &str| {
        raw(
            host,
            &format!(
                "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}connection: close\r\n\r\n"
            ),
        )
    };
    assert_eq!(ask("GET", path, ""), 200);
    let refused = [
        ask("DELETE", path, ""),
        ask("GET", &path.replace("a%20b", "a%2Bb"), ""),
        ask("GET", &path.replace("Expires=30", "Expires=31"), ""),
        ask("GET", &format!("{path}&partNumber=1"), ""),
        ask("GET", &path.replace("Signature=", "Signature=00"), ""),
    ];
    assert_eq!(refused, [403; 5]);
    assert_eq!(
        ask(
            "PUT",
            put.uri().split_once(host).unwrap().1,
            "content-length: 0\r\n"
        ),
        200
    );
    assert_eq!(site.get("a b").await.unwrap(), b"");
}

/// The status of the answer to a request that is sent as it is; 0 if the connection ends without one.
fn raw(host: &str, request: &str) -> u16 {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    if request.contains("content-length: 10") {
        // Its body is shorter, and that is all.
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).map(str::parse);
    status.map_or(0, Result::unwrap)
}

#[tokio::test]
async fn who_is_not_the_account_is_told_so() {
    let server = S3Server::start();
    let asked = async |change: fn(&mut Endpoint)| {
        let mut endpoint = Endpoint::of(&server);
        change(&mut endpoint);
        let client = client(&endpoint);
        let put = client.put_object().bucket(&endpoint.bucket).key("a");
        let put = put.body(b"content".to_vec().into()).send().await;
        let code = put.map(drop).map_err(|error| code(&error));
        let head = client.head_object().bucket(&endpoint.bucket).key("a");
        let head = head.send().await.err();
        let head = head.map(|error| error.raw_response().unwrap().status().as_u16());
        (code.err().unwrap_or_default(), head.unwrap_or(0))
    };
    let wrong_secret = |endpoint: &mut Endpoint| endpoint.secret_key.push('x');
    let wrong_key = |endpoint: &mut Endpoint| endpoint.access_key.push('x');
    let wrong_region = |endpoint: &mut Endpoint| endpoint.region.push('x');
    let wrong_bucket = |endpoint: &mut Endpoint| endpoint.bucket.push('x');
    let said = |code: &str, status: u16| (code.to_owned(), status);
    assert_eq!(
        asked(wrong_secret).await,
        said("SignatureDoesNotMatch", 403)
    );
    assert_eq!(asked(wrong_key).await, said("InvalidAccessKeyId", 403));
    assert_eq!(
        asked(wrong_region).await,
        said("AuthorizationHeaderMalformed", 400)
    );
    assert_eq!(asked(wrong_bucket).await, said("NoSuchBucket", 404));
    for ahead_secs in [16 * 60, -16 * 60] {
        server.set_clock_ahead(ahead_secs);
        assert_eq!(asked(|_| ()).await, said("RequestTimeTooSkewed", 403));
    }
    server.set_clock_ahead(0);
    server.set_manners(Manners::versitygw());
    assert_eq!(asked(wrong_key).await, said("XAdminUserNotFound", 404));
    server.set_manners(Manners::minio());
    assert_eq!(asked(wrong_region).await, said("", 0));
    server.set_manners(Manners {
        is_a_web_server: true,
        ..Manners::aws()
    });
    assert_eq!(asked(|_| ()).await, said("404", 404));
    let denied = vec![Kind::PutObject];
    server.set_manners(Manners {
        denied,
        ..Manners::aws()
    });
    assert_eq!(asked(|_| ()).await, said("AccessDenied", 0));
    let host = server.address().to_string();
    assert_eq!(
        raw(
            &host,
            "GET /a-bucket/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ),
        403
    );
}

#[tokio::test]
async fn a_delete_that_was_signed_in_advance_expires() {
    let server = S3Server::start();
    let (client, bucket) = Site::of(&server);
    server.put("a", "content");
    let valid = PresigningConfig::expires_in(Duration::from_secs(30)).unwrap();
    let delete = client.delete_object().bucket(&bucket).key("a");
    let delete = delete.presigned(valid).await.unwrap();
    let host = server.address().to_string();
    let path = delete.uri().split_once(&host).unwrap().1;
    let request = format!("DELETE {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    for ahead_secs in [40, -20 * 60] {
        server.set_clock_ahead(ahead_secs);
        assert_eq!(raw(&host, &request), 403);
        assert!(server.content("a").is_some());
    }
    server.set_clock_ahead(20);
    assert_eq!(raw(&host, &request), 204);
    assert!(server.content("a").is_none());
}

#[tokio::test]
async fn parts_become_an_object() {
    let site = Site::new();
    let upload = site.begin("a").await;
    let first = site.part("a", &upload, 1, vec![1; 5 * MIB]).await;
    let replaced = site.part("a", &upload, 7, vec![2; 10]).await;
    let last = site.part("a", &upload, 7, vec![3; 20]).await;
    let complete = |parts| site.complete("a", &upload, parts, true);
    let (one, two) = (first.clone(), last.clone());
    let wrong_order = complete(vec![two, one]).await.unwrap_err();
    // versitygw looks at the lengths first.
    assert!(["InvalidPartOrder", "EntityTooSmall"].contains(&wrong_order.as_str()));
    assert_eq!(
        complete(vec![first.clone(), replaced]).await.unwrap_err(),
        "InvalidPart"
    );
    let no_part = complete(vec![]).await.unwrap_err();
    assert!(["MalformedXML", "InvalidRequest"].contains(&no_part.as_str()));
    let small = site.part("a", &upload, 2, vec![1; 5 * MIB - 1]).await;
    let parts = vec![first.clone(), small, last.clone()];
    assert_eq!(complete(parts).await.unwrap_err(), "EntityTooSmall");
    assert_eq!(site.get("a").await.unwrap_err(), "NoSuchKey");

    // Where the key is taken meanwhile, the upload stays.
    site.put("a", "other").await;
    let parts = vec![first, last];
    assert_eq!(
        complete(parts.clone()).await.unwrap_err(),
        "PreconditionFailed"
    );
    assert_eq!(site.get("a").await.unwrap(), b"other");
    site.complete("a", &upload, parts, false).await.unwrap();
    let expected = [vec![1; 5 * MIB], vec![3; 20]].concat();
    assert!(site.get("a").await.unwrap() == expected);

    // A copy of parts of it, which do not overwrite either.
    let upload = site.begin("b").await;
    let mut parts = Vec::new();
    for (number, range) in [
        (1, format!("bytes=0-{}", 5 * MIB - 1)),
        (2, format!("bytes={}-{}", 5 * MIB, 5 * MIB + 19)),
    ] {
        let copy = site
            .client
            .upload_part_copy()
            .bucket(&site.bucket)
            .key(site.key("b"));
        let copy = copy
            .upload_id(&upload)
            .part_number(number)
            .copy_source_range(range);
        let source = format!("{}/{}", site.bucket, site.key("a"));
        let copied = copy.copy_source(source).send().await.unwrap();
        let etag = copied.copy_part_result.unwrap().e_tag;
        parts.push(
            CompletedPart::builder()
                .part_number(number)
                .set_e_tag(etag)
                .build(),
        );
    }
    site.complete("b", &upload, parts, true).await.unwrap();
    assert!(site.get("b").await.unwrap() == expected);
}

#[tokio::test]
async fn lists_come_in_pages_and_groups() {
    let site = Site::new();
    for name in ["a/1", "a-b/1", "a.b/1", "a/2/3", "a0", "ab"] {
        site.put(name, name).await;
    }
    let list = async |delimiter: Option<&str>, after: Option<&str>| {
        let (mut names, mut token) = (Vec::new(), None);
        loop {
            let list = site.client.list_objects_v2().bucket(&site.bucket);
            let list = list.prefix(&site.prefix).max_keys(2);
            let list = list.set_delimiter(delimiter.map(str::to_owned));
            let list = list.set_continuation_token(token);
            let page = match after {
                Some(after) => list.start_after(site.key(after)),
                None => list,
            };
            let page = page.send().await.unwrap();
            let keys = page.contents().iter().filter_map(|object| object.key());
            let groups = page
                .common_prefixes()
                .iter()
                .filter_map(|group| group.prefix());
            let mut found: Vec<&str> = keys.chain(groups).collect();
            assert!(found.len() <= 2);
            found.sort_unstable();
            let found = found
                .iter()
                .filter_map(|key| key.strip_prefix(&site.prefix));
            names.extend(found.map(str::to_owned));
            token = page.next_continuation_token;
            if token.is_none() {
                return names;
            }
        }
    };
    let all = ["a-b/1", "a.b/1", "a/1", "a/2/3", "a0", "ab"];
    assert_eq!(list(None, None).await, all);
    let groups = ["a-b/", "a.b/", "a/", "a0", "ab"];
    assert_eq!(list(Some("/"), None).await, groups);
    assert_eq!(list(Some("/"), Some("a.b0")).await, groups[2..]);
    assert_eq!(list(None, Some("a/1")).await, all[3..]);
}

#[tokio::test]
async fn ranges_are_those_of_http() {
    let site = Site::new();
    site.put("a", "0123456789").await;
    site.put("empty", "").await;
    let get = async |name: &str, range: &str| {
        let get = site
            .client
            .get_object()
            .bucket(&site.bucket)
            .key(site.key(name));
        let got = get
            .range(range)
            .send()
            .await
            .map_err(|error| code(&error))?;
        let range = got.content_range.clone().unwrap_or_default();
        let bytes = got.body.collect().await.unwrap().to_vec();
        Ok::<_, String>((String::from_utf8(bytes).unwrap(), range))
    };
    let found = |bytes: &str, range: &str| Ok((bytes.to_owned(), range.to_owned()));
    assert_eq!(get("a", "bytes=2-4").await, found("234", "bytes 2-4/10"));
    assert_eq!(get("a", "bytes=8-").await, found("89", "bytes 8-9/10"));
    assert_eq!(get("a", "bytes=8-99").await, found("89", "bytes 8-9/10"));
    assert_eq!(get("a", "bytes=-3").await, found("789", "bytes 7-9/10"));
    assert_eq!(get("a", "bytes=10-").await, Err("InvalidRange".to_owned()));
    assert_eq!(
        get("empty", "bytes=0-").await,
        Err("InvalidRange".to_owned())
    );
}

#[tokio::test]
async fn copies_and_deletes_are_as_each_server_has_them() {
    let server = S3Server::start();
    let (client, bucket) = Site::of(&server);
    let copy = async || {
        server.put("from", "new");
        server.put("to", "old");
        let copy = client.copy_object().bucket(&bucket).key("to");
        let copy = copy.copy_source("a-bucket/from").if_none_match("*");
        let _ = copy.send().await;
        server.content("to").unwrap()
    };
    let delete = async || {
        server.put("to", "old");
        let delete = client.delete_object().bucket(&bucket).key("to");
        let _ = delete.if_match("\"another\"").send().await;
        server.content("to").is_some()
    };
    let uploads = async || {
        let list = client.list_multipart_uploads().bucket(&bucket);
        list.prefix("u/").send().await.unwrap().uploads().len()
    };
    let begin = client.create_multipart_upload().bucket(&bucket).key("u/a");
    begin.send().await.unwrap();
    assert_eq!(
        (copy().await, delete().await, uploads().await),
        ("old".into(), true, 1)
    );
    server.set_manners(Manners::versitygw());
    assert_eq!(
        (copy().await, delete().await, uploads().await),
        ("new".into(), true, 1)
    );
    server.set_manners(Manners::minio());
    assert_eq!(
        (copy().await, delete().await, uploads().await),
        ("new".into(), false, 0)
    );
    server.set_manners(Manners {
        conflict_one_in: 1,
        ..Manners::aws()
    });
    let put = client
        .put_object()
        .bucket(&bucket)
        .key("new")
        .if_none_match("*")
        .send();
    assert_eq!(code(&put.await.unwrap_err()), "ConditionalRequestConflict");
    assert!(server.content("new").is_none());
}

#[tokio::test]
async fn trouble_is_as_planned() {
    let server = S3Server::start();
    let (client, bucket) = Site::of(&server);
    let put = async |fault: Fault| {
        server.remove(|_| true);
        server.end_trouble();
        server.plan(Plan::once(Kind::PutObject, fault));
        let put = client
            .put_object()
            .bucket(&bucket)
            .key("a")
            .body(vec![7; MIB].into());
        let answer = tokio::time::timeout(Duration::from_millis(200), put.send()).await;
        let answer = match answer {
            Err(_) => "nothing".to_owned(),
            Ok(answer) => answer.err().map_or_else(String::new, |error| code(&error)),
        };
        assert_eq!(server.struck(), 1, "{fault:?}");
        (answer, server.content("a").is_some())
    };
    let slow_down = Fault::Refused(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
    let cases = [
        (slow_down, "SlowDown", false),
        (Fault::Reset, "broken", false),
        (Fault::ResetInBody, "broken", false),
        (Fault::Silence, "nothing", false),
        (Fault::LostAnswer, "broken", true),
        (Fault::LostBehindError, "500", true),
        (Fault::SilenceAfter, "nothing", true),
        (Fault::Delay(Duration::from_millis(1)), "", true),
    ];
    for (fault, answer, is_stored) in cases {
        assert_eq!(
            put(fault).await,
            (answer.to_owned(), is_stored),
            "{fault:?}"
        );
    }
    server.put("a", vec![7; MIB]);
    for fault in [Fault::CutBody, Fault::StalledBody] {
        server.plan(Plan::once(Kind::GetObject, fault));
        let got = client
            .get_object()
            .bucket(&bucket)
            .key("a")
            .send()
            .await
            .unwrap();
        let mut body: ByteStream = got.body;
        let mut read = 0;
        let broken = loop {
            let next = tokio::time::timeout(Duration::from_millis(200), body.next()).await;
            match next {
                Ok(Some(Ok(piece))) => read += piece.len(),
                Ok(Some(Err(_))) => break "broken",
                Ok(None) => break "the end",
                Err(_) => break "nothing",
            }
        };
        let expected = if matches!(fault, Fault::CutBody) {
            "broken"
        } else {
            "nothing"
        };
        assert_eq!((broken, read), (expected, MIB / 2));
    }
    // Away, and there again on the same port, with what it had.
    server.go_away();
    let get = || client.get_object().bucket(&bucket).key("a").send();
    assert_eq!(code(&get().await.unwrap_err()), "broken");
    server.come_back();
    get().await.unwrap();
    // A request that ends before its body does is none.
    let host = server.address().to_string();
    let short = PresigningConfig::expires_in(Duration::from_secs(30)).unwrap();
    let put = client.put_object().bucket(&bucket).key("short");
    let put = put.presigned(short).await.unwrap();
    let path = put.uri().split_once(&host).unwrap().1;
    let request = format!("PUT {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 10\r\n\r\n12345");
    assert_eq!(raw(&host, &request), 0);
    assert!(server.content("short").is_none());
}
