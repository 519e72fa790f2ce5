//! vetu, and regclient below it: mounts from nowhere in particular, one PUT, and chunks where that fails.

use std::sync::Mutex;

use bytes::Bytes;
use http::{Method, StatusCode, Uri};

use super::content::Blob;
use super::go_containerregistry::{challenge, location, query};
use super::lab::Lab;
use super::scale;
use super::wire::{Body, Site, Wire};
use crate::client::{Broken, Protocol};
use crate::support::{Answer, OCI_MANIFEST};

const HABITS: &[(&str, &str)] = &[
    ("user-agent", "regclient/regclient (v0.11.1)"),
    ("accept-encoding", "gzip"),
];
const LAYER: (&str, &str) = ("content-type", "application/octet-stream");
/// How often its HTTP layer sends a request again after a broken connection; its real number is greater.
const RETRIES: usize = 3;

struct Vetu {
    wire: Wire,
    repository: &'static str,
    token: Mutex<String>,
    scopes: Mutex<Vec<String>>,
}

impl Vetu {
    fn at(site: &Site, repository: &'static str) -> Self {
        Self {
            wire: Wire::new(site, Protocol::Http2, HABITS),
            repository,
            token: Mutex::default(),
            scopes: Mutex::default(),
        }
    }

    /// With the token; on a challenge with a new one for all scopes so far; after a broken connection the same once more,
    /// with the same body from its start. The n-th time the body is the n-th of `bodies`, or the last.
    async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        bodies: &[Body],
    ) -> Result<Answer, Broken> {
        let mut broken = 0;
        loop {
            let bearer = format!("Bearer {}", self.token.lock().unwrap());
            let mut headers = headers.to_vec();
            if bearer.len() > "Bearer ".len() {
                headers.push(("authorization", &*bearer));
            }
            let body = bodies[broken.min(bodies.len() - 1)].clone();
            let answer = self.wire.send(method.clone(), target, &headers, body).await;
            match answer {
                Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => {
                    self.renew_token(&answer).await?;
                }
                Err(_) if broken < RETRIES => broken += 1,
                answer => return answer,
            }
        }
    }

    async fn renew_token(&self, refused: &Answer) -> Result<(), Broken> {
        let realm: Uri = challenge(refused, "realm").unwrap().parse().unwrap();
        let service = challenge(refused, "service").unwrap();
        let scopes = {
            let mut scopes = self.scopes.lock().unwrap();
            let scope = challenge(refused, "scope").expect("a scope");
            assert!(!scopes.contains(&scope), "refused with {scopes:?}");
            scopes.push(scope);
            scopes.clone()
        };
        let mut pairs = vec![("account", self.wire.site.user), ("client_id", HABITS[0].1)];
        pairs.extend(scopes.iter().map(|scope| ("scope", &**scope)));
        pairs.push(("service", &service));
        let target = format!("{}{}", realm.path(), query(&pairs));
        let basic = self.wire.site.basic();
        let headers = [("authorization", &*basic)];
        let token = self.wire.send(Method::GET, &target, &headers, Body::Empty);
        let token = token.await?.expect(StatusCode::OK).json();
        let token = token["token"].as_str().expect("a token");
        token.clone_into(&mut self.token.lock().unwrap());
        Ok(())
    }

    /// `puts` are the bodies of its PUT, one for each time that it is sent.
    async fn push_blob(&self, blob: &Blob, puts: &[Body]) {
        let digest = blob.digest.to_string();
        let mount = query(&[("mount", &digest)]);
        let target = format!("/v2/{}/blobs/uploads/{mount}", self.repository);
        let post = self.send(Method::POST, &target, &[], &[Body::Empty]).await;
        let post = post.unwrap();
        if post.status == StatusCode::CREATED {
            return;
        }
        let post = post.expect(StatusCode::ACCEPTED);
        let target = format!("{}{}", location(&post), query(&[("digest", &digest)]));
        if let Ok(put) = self.send(Method::PUT, &target, &[LAYER], puts).await {
            put.expect(StatusCode::CREATED);
            return;
        }
        self.push_in_chunks(blob, target).await;
    }

    /// To the address of the PUT, digest and all; where the registry does not say on a refusal, it asks how far it is.
    async fn push_in_chunks(&self, blob: &Blob, mut target: String) {
        let chunk_bytes = 1024 * scale();
        let mut start = 0;
        while start < blob.size_bytes {
            let end = blob.size_bytes.min(start + chunk_bytes);
            let range = format!("{start}-{}", end - 1);
            let headers = [LAYER, ("content-range", &range)];
            let body = [Body::Part(blob.clone(), start..end)];
            let patch = self.send(Method::PATCH, &target, &headers, &body).await;
            let mut answer = patch.unwrap();
            if answer.status != StatusCode::ACCEPTED {
                let status = self.send(Method::GET, &target, &[], &[Body::Empty]).await;
                answer = status.unwrap().expect(StatusCode::NO_CONTENT);
            }
            let range = answer.header("range").split_once('-').expect("two ends").1;
            start = range.parse::<u64>().expect("a number") + 1;
            location(&answer).clone_into(&mut target);
        }
        target += &query(&[("digest", &blob.digest.to_string())]);
        let put = self.send(Method::PUT, &target, &[LAYER], &[Body::Empty]);
        put.await.unwrap().expect(StatusCode::CREATED);
    }

    async fn push_manifest(&self, layers: &[Blob]) -> Bytes {
        let config = Blob::new(100, 300);
        self.push_blob(&config, &[Body::blob(&config)]).await;
        let layers = layers.iter().map(|blob| {
            serde_json::json!({
                "mediaType": "application/vnd.cirruslabs.vetu.disk.v1", "size": blob.size_bytes,
                "digest": blob.digest.to_string(),
                "annotations": {"org.cirruslabs.vetu.name": "disk.img"},
            })
        });
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers.collect::<Vec<_>>(),
            "config": {
                "mediaType": "application/vnd.cirruslabs.vetu.config.v1", "size": 300,
                "digest": config.digest.to_string(),
            },
        });
        let manifest = Bytes::from(manifest.to_string());
        let target = format!("/v2/{}/manifests/v1", self.repository);
        let headers = [("content-type", OCI_MANIFEST)];
        let body = [Body::Bytes(manifest.clone())];
        let put = self.send(Method::PUT, &target, &headers, &body).await;
        put.unwrap().expect(StatusCode::CREATED);
        manifest
    }

    async fn pull(&self, layers: &[Blob], manifest: &Bytes) {
        let target = format!("/v2/{}/manifests/v1", self.repository);
        let headers = [("accept", OCI_MANIFEST)];
        let pulled = self.send(Method::GET, &target, &headers, &[Body::Empty]);
        assert_eq!(pulled.await.unwrap().expect(StatusCode::OK).body, manifest);
        for blob in layers {
            let target = format!("/v2/{}/blobs/{}", self.repository, blob.digest);
            let bearer = format!("Bearer {}", self.token.lock().unwrap());
            let headers = [("authorization", &*bearer)];
            let get = self.wire.open(Method::GET, &target, &headers, Body::Empty);
            let mut flow = get.await.unwrap();
            assert_eq!(flow.head.status, StatusCode::OK);
            flow.compare_whole(blob).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_mounted_from_anywhere_put_or_put_again_and_chunked_at_last() {
    let lab = Lab::start();
    // About 500 MB each.
    let size_bytes = 500_000 * scale();
    let [whole, twice, chunked] = [1, 2, 3].map(|number| Blob::new(number, size_bytes));
    let vetu = Vetu::at(&lab.site, "lab/vetu");
    vetu.push_blob(&whole, &[Body::blob(&whole)]).await;

    // The connection breaks in the middle of the PUT: the same PUT again, from its start.
    let breaking = |blob: &Blob| Body::Breaking(blob.clone(), size_bytes / 2);
    let puts = [breaking(&twice), Body::blob(&twice)];
    vetu.push_blob(&twice, &puts).await;
    assert_eq!(vetu.wire.count(&Method::PATCH, "", 202), 0);

    // It breaks each time: in chunks then, from what the last PUT has left.
    vetu.push_blob(&chunked, &[breaking(&chunked)]).await;
    assert_eq!(vetu.wire.count(&Method::PATCH, "", 416), 1);
    let chunks = vetu.wire.count(&Method::PATCH, "", 202) as u64;
    assert!((200..=400).contains(&chunks), "{chunks}");

    let layers = [whole, twice, chunked];
    let manifest = vetu.push_manifest(&layers).await;
    vetu.pull(&layers, &manifest).await;

    let copy = Vetu::at(&lab.site, "lab/copy");
    for blob in &layers {
        copy.push_blob(blob, &[Body::blob(blob)]).await;
    }
    let mounted = copy.wire.count(&Method::POST, "mount=", 201);
    assert_eq!(mounted, layers.len());
    let manifest = copy.push_manifest(&layers).await;
    copy.pull(&layers, &manifest).await;
}
