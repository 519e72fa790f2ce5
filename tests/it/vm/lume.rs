//! lume: one token for the whole push from an address that it does not ask for, and a whole disk in one PUT.

use std::time::Duration;

use boathouse::oci::{Algorithm, Digest};
use bytes::Bytes;
use http::{Method, StatusCode};

use super::content::Blob;
use super::go_containerregistry::location;
use super::lab::Lab;
use super::process::Process;
use super::scale;
use super::wire::{Body, Site, Wire};
use crate::client::{Broken, Protocol};
use crate::support::OCI_MANIFEST;

const HABITS: &[(&str, &str)] = &[
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-language", "en-US,en;q=0.9"),
    ("user-agent", "lume/1 CFNetwork/3826.500.131 Darwin/24.5.0"),
];
const REPOSITORY: &str = "lab/lume";
const CONFIG: &[u8] = b"{\"os\":\"macOS\"}";

struct Lume {
    wire: Wire,
    authorization: String,
}

impl Lume {
    /// Asks for the token before anything else. The service is the host.
    async fn log_in(site: &Site, protocol: Protocol) -> Result<Self, Broken> {
        let wire = Wire::new(site, protocol, &HABITS[1..]);
        let host = site.host();
        let target = format!("/token?scope=repository:{REPOSITORY}:pull,push&service={host}");
        let basic = site.basic();
        let headers = [("accept", "application/json"), ("authorization", &basic)];
        let token = wire.send(Method::GET, &target, &headers, Body::Empty).await;
        let token = token?.expect(StatusCode::OK).json();
        let token = token["token"].as_str().expect("a token");
        Ok(Self {
            wire,
            authorization: format!("Bearer {token}"),
        })
    }

    fn headers<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own = [HABITS[0], ("authorization", &*self.authorization)];
        [&own, more].concat()
    }

    /// Where the body of a blob goes, unless it is there.
    async fn begin(&self, digest: &Digest) -> Result<Option<String>, Broken> {
        let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let headers = self.headers(&[]);
        let head = self.wire.send(Method::HEAD, &path, &headers, Body::Empty);
        if head.await?.status == StatusCode::OK {
            return Ok(None);
        }
        let path = format!("/v2/{REPOSITORY}/blobs/uploads/");
        let post = self.wire.send(Method::POST, &path, &headers, Body::Empty);
        let post = post.await?.expect(StatusCode::ACCEPTED);
        Ok(Some(format!("{}?digest={digest}", location(&post))))
    }

    async fn put(&self, target: &str, kind: &str, body: Body) -> Result<(), Broken> {
        let headers = self.headers(&[("content-type", kind)]);
        let put = self.wire.send(Method::PUT, target, &headers, body).await?;
        put.expect(StatusCode::CREATED);
        Ok(())
    }

    /// `push --single-layer`: the disk is one blob. `meanwhile` happens before its body is sent.
    async fn push(&self, disk: &Blob, meanwhile: impl FnOnce()) -> Result<Bytes, Broken> {
        let config = Digest::of(Algorithm::Sha256, CONFIG);
        if let Some(target) = self.begin(&config).await? {
            let body = Body::Bytes(Bytes::from_static(CONFIG));
            self.put(&target, "application/octet-stream", body).await?;
        }
        if let Some(target) = self.begin(&disk.digest).await? {
            meanwhile();
            self.put(&target, "application/octet-stream", Body::blob(disk))
                .await?;
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "size": CONFIG.len(),
                "digest": config.to_string(),
            },
            "layers": [{
                "mediaType": "application/vnd.trycua.lume.disk.v1", "size": disk.size_bytes,
                "digest": disk.digest.to_string(),
            }],
        });
        let manifest = Bytes::from(format!("{manifest:#}"));
        for tag in ["v1", "latest"] {
            let target = format!("/v2/{REPOSITORY}/manifests/{tag}");
            let body = Body::Bytes(manifest.clone());
            self.put(&target, OCI_MANIFEST, body).await?;
        }
        Ok(manifest)
    }

    async fn pull(&self, disk: &Blob, manifest: &Bytes) -> Result<(), Broken> {
        let target = format!("/v2/{REPOSITORY}/manifests/latest");
        let own = ("authorization", &*self.authorization);
        let headers = [("accept", OCI_MANIFEST), own];
        let pulled = self.wire.send(Method::GET, &target, &headers, Body::Empty);
        let pulled = pulled.await?.expect(StatusCode::OK);
        assert_eq!(pulled.body, manifest);
        let digest = Digest::of(Algorithm::Sha256, manifest).to_string();
        assert_eq!(pulled.header("docker-content-digest"), digest);
        let target = format!("/v2/{REPOSITORY}/blobs/{}", disk.digest);
        let headers = self.headers(&[]);
        let get = self.wire.open(Method::GET, &target, &headers, Body::Empty);
        let mut flow = get.await?;
        assert_eq!(flow.head.status, StatusCode::OK);
        flow.compare_whole(disk).await
    }
}

/// 8 GiB.
fn disk() -> Blob {
    Blob::new(1, 8 * 1024 * 1024 * scale())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_lasts_for_a_push_of_almost_four_hours() {
    let lab = Lab::start();
    let lume = Lume::log_in(&lab.site, Protocol::Http2).await.unwrap();
    let disk = disk();
    let hours_pass = || lab.registry.clock.advance(Duration::from_mins(235));
    let manifest = lume.push(&disk, hours_pass).await.unwrap();
    let again = Lume::log_in(&lab.site, Protocol::Http1).await.unwrap();
    again.pull(&disk, &manifest).await.unwrap();
    let one_token = lume.wire.count(&Method::GET, "/token", 200);
    assert_eq!(one_token, 1);
}

on_a_directory! {
    "it starts the program";
    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_in_one_put_is_never_in_memory_as_a_whole() {
        let server = Process::start().await;
        let disk = disk();
        let lume = Lume::log_in(&server.site(), Protocol::Http1).await.unwrap();
        let began = tokio::time::Instant::now();
        let manifest = lume.push(&disk, || {}).await.unwrap();
        println!(
            "{} MiB pushed in {:?}",
            disk.size_bytes >> 20,
            began.elapsed()
        );
        server.check_memory();
        let began = tokio::time::Instant::now();
        lume.pull(&disk, &manifest).await.unwrap();
        println!("pulled in {:?}", began.elapsed());
        server.check_memory();
    }
}
