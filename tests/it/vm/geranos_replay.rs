//! Geranos: its requests, and what it makes of their answers.
//!
//! Each segment is a push of its own: a ping, a token, HEAD, POST, PATCH, PUT. Then a second pass for the image as a whole.

use std::collections::HashSet;
use std::time::Duration;

use boathouse::oci::{Algorithm, Digest};
use bytes::Bytes;
use http::{Method, StatusCode};

use super::content::Blob;
use super::go_containerregistry::{Failure, HABITS, Outcome, Transport, check, location, query};
use super::wire::{Body, Gate, Site, Wire};
use super::{in_parallel, scale};
use crate::client::Protocol;
use crate::support::OCI_MANIFEST;

/// How many segments are pushed and pulled at once, and how many blobs the second pass looks at at once.
const WORKERS: usize = 8;
const SECOND_PASS_WORKERS: usize = 4;
const SEGMENT: &str = "application/online.jarosik.tomasz.geranos.segment";
/// What it accepts as a manifest: all that it knows.
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v1+json,\
    application/vnd.docker.distribution.manifest.v1+prettyjws,application/vnd.docker.distribution.manifest.v2+json,\
    application/vnd.oci.image.manifest.v1+json,application/vnd.docker.distribution.manifest.list.v2+json,\
    application/vnd.oci.image.index.v1+json";
/// Pauses between its tries of a blob, of a twentieth of the real length.
const BLOB_PAUSES_MS: [u64; 2] = [50, 150];

/// A disk cut into segments, some of which are the same.
pub(super) struct Disk {
    pub(super) segments: Vec<Blob>,
    pub(super) distinct: usize,
}

impl Disk {
    /// `distinct` segments of many sizes, and then the first of them again and again, as the zeros of a disk are.
    pub(super) fn new(segments: usize, distinct: usize) -> Self {
        let size_bytes = |number: u64| (64 << (number % 9)) * scale();
        let blob = |number: u64| Blob::new(number, size_bytes(number) - number % 61);
        let mut all: Vec<Blob> = (0..distinct as u64).map(blob).collect();
        let zeros = all[0].clone();
        all.resize(segments, zeros);
        Self {
            segments: all,
            distinct,
        }
    }

    /// The config of an image made at `created`, and its manifest.
    pub(super) fn image(&self, created: &str) -> (Bytes, Bytes) {
        let digests = self.segments.iter().map(|blob| blob.digest.to_string());
        let config = serde_json::json!({
            "architecture": "", "created": created, "os": "", "config": {},
            "rootfs": {"type": "layers", "diff_ids": digests.collect::<Vec<_>>()},
        });
        let config = config.to_string();
        let layers: Vec<_> = (0_u64..)
            .zip(&self.segments)
            .map(|(number, blob)| {
                let start = number << 26;
                let range = format!("{start}-{}", start + (1 << 26) - 1);
                serde_json::json!({
                    "mediaType": SEGMENT, "size": blob.size_bytes, "digest": blob.digest.to_string(),
                    "annotations": {"filename": "disk.img", "range": range},
                })
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(),
                "digest": Digest::of(Algorithm::Sha256, config.as_bytes()).to_string(),
            },
        });
        (config.into(), manifest.to_string().into())
    }
}

/// Geranos on one machine, busy with one repository.
pub(super) struct Geranos {
    pub(super) wire: Wire,
    pub(super) repository: &'static str,
    /// `--mount`
    pub(super) mount: Option<&'static str>,
    /// How the body of a segment is sent, for tests that interfere.
    pub(super) body: Box<dyn Fn(&Blob) -> Body + Send + Sync>,
    /// Where it waits between the POST and the PATCH of a blob.
    pub(super) pause: Option<Gate>,
}

impl Geranos {
    pub(super) fn at(site: &Site, protocol: Protocol, repository: &'static str) -> Self {
        Self {
            wire: Wire::new(site, protocol, HABITS),
            repository,
            mount: None,
            body: Box::new(Body::blob),
            pause: None,
        }
    }

    pub(super) async fn push(&self, disk: &Disk, tag: &str, created: &str) -> Outcome<()> {
        in_parallel(WORKERS, &disk.segments, |segment| async move {
            let transport = Transport::new(&self.wire, vec![self.scope("push,pull")]).await?;
            self.write_blob(transport, Source::Segment(segment)).await
        })
        .await?;
        self.write_image(disk, tag, created).await
    }

    async fn write_image(&self, disk: &Disk, tag: &str, created: &str) -> Outcome<()> {
        let transport = &Transport::new(&self.wire, vec![self.scope("push,pull")]).await?;
        let (config, manifest) = disk.image(created);
        let digest = Digest::of(Algorithm::Sha256, &manifest).to_string();
        let path = format!("/v2/{}/manifests/{tag}", self.repository);
        let accept = [("accept", ACCEPT)];
        let head = transport.ask_again(Method::HEAD, &path, &accept);
        let head = check(head.await?, &[200, 404])?;
        if head.status == StatusCode::OK {
            for needed in ["content-type", "content-length"] {
                head.header(needed);
            }
            if head.header("docker-content-digest") == digest {
                return Ok(());
            }
        }
        let mut seen = HashSet::new();
        let distinct = disk.segments.iter();
        let distinct = distinct.filter(|segment| seen.insert(&segment.digest));
        in_parallel(SECOND_PASS_WORKERS, distinct, |segment| async {
            let transport = transport.again();
            self.write_blob(transport, Source::Segment(segment)).await
        })
        .await?;
        let source = Source::Config(&config);
        self.write_blob(transport.again(), source).await?;
        let headers = [("content-type", OCI_MANIFEST)];
        let body = Body::Bytes(manifest);
        let put = transport.ask(Method::PUT, &path, &headers, body);
        check(put.await?, &[200, 201, 202]).map(drop)
    }

    /// Three tries of a blob, each from its HEAD.
    async fn write_blob<'a>(
        &'a self,
        mut transport: Transport<'a>,
        source: Source<'_>,
    ) -> Outcome<()> {
        for pause_ms in BLOB_PAUSES_MS {
            match self.try_blob(&mut transport, &source).await {
                Err(Failure::Temporary(_)) => {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
                outcome => return outcome,
            }
        }
        self.try_blob(&mut transport, &source).await
    }

    async fn try_blob<'a>(
        &'a self,
        transport: &mut Transport<'a>,
        source: &Source<'_>,
    ) -> Outcome<()> {
        let digest = source.digest();
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        let head = transport.ask(Method::HEAD, &path, &[], Body::Empty);
        if check(head.await?, &[200, 404])?.status == StatusCode::OK {
            return Ok(());
        }
        let mut start = format!("/v2/{}/blobs/uploads/", self.repository);
        if let Some(from) = self.mount {
            let scopes = vec![self.scope("push,pull"), format!("repository:{from}:pull")];
            *transport = Transport::new(&self.wire, scopes).await?;
            start += &query(&[
                ("from", from),
                ("mount", &digest),
                ("origin", self.wire.site.host()),
            ]);
        }
        let headers = [("content-type", "application/json")];
        let post = transport.ask(Method::POST, &start, &headers, Body::Empty);
        let post = check(post.await?, &[201, 202])?;
        if post.status == StatusCode::CREATED {
            return Ok(());
        }
        if let Some(gate) = &self.pause {
            gate.reached.notify_one();
            gate.opened.cancelled().await;
        }
        let headers = [("content-type", "application/octet-stream")];
        let body = match source {
            Source::Segment(blob) => (self.body)(blob),
            Source::Config(config) => Body::Bytes((*config).clone()),
        };
        let sent = transport.ask(Method::PATCH, location(&post), &headers, body);
        let sent = check(sent.await?, &[204, 202, 201])?;
        let commit = format!("{}{}", location(&sent), query(&[("digest", &digest)]));
        let put = transport.ask(Method::PUT, &commit, &headers, Body::Empty);
        check(put.await?, &[201]).map(drop)
    }

    /// Pulls the image of a tag, and compares all of it.
    pub(super) async fn pull(&self, disk: &Disk, tag: &str, created: &str) -> Outcome<()> {
        let transport = &Transport::new(&self.wire, vec![self.scope("pull")]).await?;
        let (config, manifest) = disk.image(created);
        let path = format!("/v2/{}/manifests/{tag}", self.repository);
        let accept = [("accept", ACCEPT)];
        let pulled = transport.ask_again(Method::GET, &path, &accept).await?;
        assert_eq!(check(pulled, &[200])?.body, manifest);
        let digest = Digest::of(Algorithm::Sha256, &config);
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        let pulled = transport.ask_again(Method::GET, &path, &[]).await?;
        assert_eq!(check(pulled, &[200])?.body, config);
        in_parallel(WORKERS, &disk.segments, |blob| async move {
            let path = format!("/v2/{}/blobs/{}", self.repository, blob.digest);
            let bearer = transport.bearer();
            let headers = [("authorization", &*bearer)];
            let get = self.wire.open(Method::GET, &path, &headers, Body::Empty);
            let mut flow = get.await?;
            assert_eq!(flow.head.status, StatusCode::OK);
            Ok(flow.compare_whole(blob).await?)
        })
        .await
    }

    fn scope(&self, actions: &str) -> String {
        format!("repository:{}:{actions}", self.repository)
    }
}

enum Source<'a> {
    Segment(&'a Blob),
    Config(&'a Bytes),
}

impl Source<'_> {
    fn digest(&self) -> String {
        match self {
            Self::Segment(blob) => blob.digest.to_string(),
            Self::Config(config) => Digest::of(Algorithm::Sha256, config).to_string(),
        }
    }
}
