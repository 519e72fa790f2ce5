//! Tart: layers of 512 MiB in one PUT or in chunks, tokens by copying the challenge, pulls that go on with a range.

use std::sync::Mutex;
use std::time::Duration;

use boathouse::clock::{Clock as _, ManualClock};
use boathouse::oci::{Algorithm, Digest};
use bytes::Bytes;
use http::{Method, StatusCode, Uri};

use super::content::Blob;
use super::go_containerregistry::{challenge, location};
use super::lab::Lab;
use super::wire::{Body, Site, Wire};
use super::{in_parallel, scale};
use crate::client::{Broken, Flow, Protocol};
use crate::support::{Answer, OCI_MANIFEST};

/// What `URLSession` adds, and Tart's own.
const HABITS: &[(&str, &str)] = &[
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-language", "en-US,en;q=0.9"),
    ("user-agent", "Tart/2.30.0 (macOS 15.5; Mac16,11)"),
];
const LAYER: (&str, &str) = ("content-type", "application/octet-stream");
const WORKERS: usize = 4;
/// How often a layer is begun again when its connection broke. A status that it does not expect ends it.
const TRIES: usize = 5;

struct Tart {
    wire: Wire,
    repository: &'static str,
    /// Its own clock, by which it judges its token.
    clock: ManualClock,
    /// `--chunk-size`, in bytes; 0 for one PUT.
    chunk_bytes: u64,
    token: Mutex<Option<(String, Duration)>>,
}

impl Tart {
    fn at(site: &Site, protocol: Protocol, clock: &ManualClock) -> Self {
        Self {
            wire: Wire::new(site, protocol, HABITS),
            repository: "lab/tart",
            clock: clock.clone(),
            chunk_bytes: 0,
            token: Mutex::default(),
        }
    }

    /// With the token as long as it takes it for good, else without; on 401 with a new one, once.
    async fn open(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Flow, Broken> {
        let flow = self.try_open(&method, target, headers, &body).await?;
        if flow.head.status != StatusCode::UNAUTHORIZED {
            return Ok(flow);
        }
        let refused = Answer {
            status: flow.head.status,
            headers: flow.head.headers.clone(),
            body: Bytes::new(),
        };
        drop(flow);
        self.renew_token(&refused).await?;
        self.try_open(&method, target, headers, &body).await
    }

    async fn try_open(
        &self,
        method: &Method,
        target: &str,
        headers: &[(&str, &str)],
        body: &Body,
    ) -> Result<Flow, Broken> {
        let token = self.token.lock().unwrap().clone();
        let token = token.filter(|(_, end)| self.clock.elapsed() < *end);
        let bearer = token.map(|(token, _)| format!("Bearer {token}"));
        let mut headers = headers.to_vec();
        headers.extend(bearer.iter().map(|bearer| ("authorization", &**bearer)));
        self.wire
            .open(method.clone(), target, &headers, body.clone())
            .await
    }

    /// The scope and the service are the challenge's, as they are: `URLComponents` escapes neither `:` nor `,` nor `/`.
    async fn renew_token(&self, refused: &Answer) -> Result<(), Broken> {
        let realm: Uri = challenge(refused, "realm").unwrap().parse().unwrap();
        let parameters = ["scope", "service"].into_iter().filter_map(|name| {
            let value = challenge(refused, name)?;
            Some(format!("{name}={value}"))
        });
        let parameters: Vec<_> = parameters.collect();
        let target = format!("{}?{}", realm.path(), parameters.join("&"));
        let basic = self.wire.site.basic();
        let headers = [("authorization", &*basic)];
        let token = self.wire.send(Method::GET, &target, &headers, Body::Empty);
        let token = token.await?.expect(StatusCode::OK).json();
        // Without an `issued_at` it counts from now; another clock's would make the token stillborn.
        assert!(token.get("issued_at").is_none());
        let end = self.clock.elapsed() + Duration::from_secs(token["expires_in"].as_u64().unwrap());
        let token = token["token"].as_str().unwrap().to_owned();
        *self.token.lock().unwrap() = Some((token, end));
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Answer, Broken> {
        let mut flow = self.open(method, target, headers, body).await?;
        let mut body = Vec::new();
        while let Some(piece) = flow.next().await? {
            body.extend_from_slice(&piece);
        }
        Ok(Answer {
            status: flow.head.status,
            headers: flow.head.headers,
            body: body.into(),
        })
    }

    async fn begin(&self) -> Result<Answer, Broken> {
        let target = format!("/v2/{}/blobs/uploads/", self.repository);
        let post = self.send(Method::POST, &target, &[], Body::Empty).await?;
        Ok(post.expect(StatusCode::ACCEPTED))
    }

    /// Config, NVRAM and OCI config: without a look whether they are there.
    async fn push_small(&self, content: &'static [u8]) -> Result<Digest, Broken> {
        let digest = Digest::of(Algorithm::Sha256, content);
        let begun = self.begin().await?;
        let target = format!("{}?digest={digest}", location(&begun));
        let body = Body::Bytes(Bytes::from_static(content));
        let put = self.send(Method::PUT, &target, &[LAYER], body).await?;
        put.expect(StatusCode::CREATED);
        Ok(digest)
    }

    async fn push_layer(&self, blob: &Blob) {
        for _ in 0..TRIES {
            if self.try_layer(blob).await.is_ok() {
                return;
            }
        }
        panic!("{TRIES} times in vain: {blob:?}");
    }

    async fn try_layer(&self, blob: &Blob) -> Result<(), Broken> {
        let target = format!("/v2/{}/blobs/{}", self.repository, blob.digest);
        let head = self.send(Method::HEAD, &target, &[], Body::Empty).await?;
        if head.status == StatusCode::OK {
            return Ok(());
        }
        head.expect(StatusCode::NOT_FOUND);
        let mut last = self.begin().await?;
        let digest = &blob.digest;
        if self.chunk_bytes == 0 {
            let target = format!("{}?digest={digest}", location(&last));
            let put = self.send(Method::PUT, &target, &[LAYER], Body::blob(blob));
            put.await?.expect(StatusCode::CREATED);
            return Ok(());
        }
        let mut start = 0;
        while start < blob.size_bytes {
            let end = blob.size_bytes.min(start + self.chunk_bytes);
            // The last chunk goes with the PUT, and a Location is needed even after that.
            let (method, target) = if end == blob.size_bytes {
                (Method::PUT, format!("{}?digest={digest}", location(&last)))
            } else {
                (Method::PATCH, location(&last).to_owned())
            };
            let range = format!("{start}-{}", end - 1);
            let headers = [LAYER, ("content-range", &range)];
            let body = Body::Part(blob.clone(), start..end);
            last = self.send(method, &target, &headers, body).await?;
            assert!([201, 202].contains(&last.status.as_u16()), "{last:?}");
            last.header("location");
            start = end;
        }
        Ok(())
    }

    async fn push(&self, layers: &[Blob], tags: &[&str]) -> Bytes {
        self.push_small(b"{\"version\":1}").await.unwrap();
        let pushed = in_parallel(WORKERS, layers, |blob| async move {
            self.push_layer(blob).await;
            Ok::<_, Broken>(())
        });
        pushed.await.unwrap();
        let nvram = self.push_small(&[7; 1_000]).await.unwrap();
        let config = self.push_small(b"{\"os\":\"darwin\"}").await.unwrap();
        let manifest = manifest(layers, &nvram, &config);
        for tag in tags {
            let target = format!("/v2/{}/manifests/{tag}", self.repository);
            let headers = [("content-type", OCI_MANIFEST)];
            let put = self.send(
                Method::PUT,
                &target,
                &headers,
                Body::Bytes(manifest.clone()),
            );
            put.await.unwrap().expect(StatusCode::CREATED);
        }
        manifest
    }

    /// Every layer is cut after so many bytes, and then goes on with a range.
    async fn pull(&self, manifest: &Bytes, layers: &[Blob], tag: &str, cut_at: u64) {
        let target = format!("/v2/{}/manifests/{tag}", self.repository);
        let headers = [("accept", OCI_MANIFEST)];
        let pulled = self.send(Method::GET, &target, &headers, Body::Empty).await;
        assert_eq!(pulled.unwrap().expect(StatusCode::OK).body, manifest);
        let pulled = in_parallel(WORKERS, layers, |blob| async move {
            let target = format!("/v2/{}/blobs/{}", self.repository, blob.digest);
            let mut flow = self.open(Method::GET, &target, &[], Body::Empty).await?;
            assert_eq!(flow.head.status, StatusCode::OK);
            let at = flow.compare(blob, 0..cut_at).await?;
            drop(flow);
            let range = format!("bytes={at}-");
            let headers = [("range", &*range)];
            let mut rest = self
                .open(Method::GET, &target, &headers, Body::Empty)
                .await?;
            assert_eq!(rest.head.status, StatusCode::PARTIAL_CONTENT);
            let end = rest.compare(blob, at..blob.size_bytes).await?;
            assert_eq!(end, blob.size_bytes);
            Ok::<_, Broken>(())
        });
        pulled.await.unwrap();
    }
}

/// Its encoder escapes slashes, so that other bytes mean the same: they must come back as they are.
fn manifest(layers: &[Blob], nvram: &Digest, config: &Digest) -> Bytes {
    let layer = |kind: &str, size: u64, digest: &Digest| {
        let kind = format!("application/vnd.cirruslabs.tart.{kind}.v1");
        serde_json::json!({"mediaType": kind, "size": size, "digest": digest.to_string()})
    };
    let disks = layers
        .iter()
        .map(|blob| layer("disk", blob.size_bytes, &blob.digest));
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "size": 15, "digest": config.to_string(),
        },
        "layers": disks.chain([layer("nvram", 1_000, nvram)]).collect::<Vec<_>>(),
    });
    manifest.to_string().replace('/', "\\/").into()
}

/// Disks of 512 MiB; two of them are the same.
fn layers() -> Vec<Blob> {
    let size_bytes = 512 * 1024 * scale();
    [1, 2, 3, 3, 4, 5]
        .map(|number| Blob::new(number, size_bytes + number))
        .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_in_one_put_or_in_chunks_come_back_in_two_parts() {
    for chunk_bytes in [0, 64_000 * scale()] {
        let lab = Lab::start();
        let mut tart = Tart::at(&lab.site, Protocol::Http2, &lab.registry.clock);
        tart.chunk_bytes = chunk_bytes;
        // `tart login` only pings.
        let ping = tart.send(Method::GET, "/v2/", &[], Body::Empty).await;
        ping.unwrap().expect(StatusCode::OK);
        let layers = layers();
        let manifest = tart.push(&layers, &["v1", "latest"]).await;
        // A token for the login, and one for the push, although all its tasks met the challenge at once.
        let scoped = tart
            .wire
            .count(&Method::GET, "scope=repository:lab/tart:pull,push", 200);
        assert!((1..=4).contains(&scoped), "{scoped}");
        for tag in ["v1", "latest"] {
            tart.pull(&manifest, &layers, tag, 16 * 1024 * scale())
                .await;
        }
        let again = Tart::at(&lab.site, Protocol::Http2, &lab.registry.clock);
        again.push(&layers, &["v2"]).await;
        let three_small_ones = again.wire.count(&Method::PUT, "digest=", 201);
        assert_eq!(three_small_ones, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_in_mid_push_is_no_end_of_the_push() {
    for protocol in [Protocol::Http2, Protocol::Http1] {
        let lab = Lab::start();
        let clock = &lab.registry.clock;
        let layers = layers();
        let five_hours = Duration::from_hours(5);

        // It knows that its token has ended: the PUT goes without one, its body is not read, and it is sent once more.
        let tart = Tart::at(&lab.site, protocol, clock);
        let begun = tart.begin().await.unwrap();
        clock.advance(five_hours);
        let target = format!("{}?digest={}", location(&begun), layers[0].digest);
        let put = tart.send(Method::PUT, &target, &[LAYER], Body::blob(&layers[0]));
        put.await.unwrap().expect(StatusCode::CREATED);
        assert_eq!(tart.wire.count(&Method::PUT, "digest=", 401), 1);

        // Its clock has stood still: it presents the token that has ended, and the session was opened in time.
        let late = Tart::at(&lab.site, protocol, &ManualClock::at_unix_secs(0));
        let begun = late.begin().await.unwrap();
        clock.advance(five_hours);
        let target = format!("{}?digest={}", location(&begun), layers[1].digest);
        let put = late.send(Method::PUT, &target, &[LAYER], Body::blob(&layers[1]));
        put.await.unwrap().expect(StatusCode::CREATED);
        assert_eq!(late.wire.count(&Method::PUT, "digest=", 401), 0);

        let manifest = tart.push(&layers, &["v1"]).await;
        let cut_at = 16 * 1024 * scale();
        tart.pull(&manifest, &layers, "v1", cut_at).await;
    }
}
