//! A blob there and back: whether the account may, whether the bytes stay what they are, and how fast they go.
//!
//! Must not know how a login works. Invariant: the pushed bytes are random, so no image has this blob, and none of them stay in a
//! repository of their own: where this account may not delete, the upload is cancelled instead of finished, and nothing can be pulled.

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::header::ACCEPT;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{Method, Request, StatusCode};
use serde_json::Value;

use super::login::Login;
use super::report::Finding;
use crate::client::http::{self as client, Answer, Body, Connection};
use crate::clock::Clock;
use crate::oci::{Algorithm, Digest, Hasher, RepositoryName};

/// One random piece is sent again and again: random enough for whatever may compress on the way.
const PIECE_BYTES: usize = 1024 * 1024;

/// What a client understands: manifests of all kinds, and everything else.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";

/// What goes there and back.
pub(super) struct Scratch {
    piece: Bytes,
    pieces: usize,
    digest: Digest,
    /// Why it could not be deleted; then it was not made.
    undeletable: Option<String>,
    /// Whether its repository was made for it, and can go with it.
    has_own_repository: bool,
}

impl Scratch {
    /// `size_mib` MiB of new random content.
    fn random(size_mib: usize) -> anyhow::Result<Self> {
        let mut piece = vec![0; PIECE_BYTES];
        aws_lc_rs::rand::fill(&mut piece)
            .map_err(|_| anyhow!("the system has no random numbers"))?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for _ in 0..size_mib {
            hasher.update(&piece);
        }
        Ok(Self {
            piece: piece.into(),
            pieces: size_mib,
            digest: hasher.finish(),
            undeletable: None,
            has_own_repository: false,
        })
    }

    fn size_bytes(&self) -> usize {
        self.piece.len() * self.pieces
    }
}

/// Where it goes, and as whom.
pub(super) struct Transfer<'a> {
    pub(super) connection: &'a mut Connection,
    pub(super) login: &'a Login,
    pub(super) repository: &'a RepositoryName,
    /// Whether the repository is for scratch blobs only.
    pub(super) is_scratch_repository: bool,
    pub(super) clock: &'a dyn Clock,
}

impl Transfer<'_> {
    /// Pushes a scratch blob, or, where it would stay, all of it but the end. `None` if the account may not push here.
    pub(super) async fn push(
        &mut self,
        size_mib: usize,
    ) -> anyhow::Result<Finding<Option<Scratch>>> {
        let mut scratch = Scratch::random(size_mib)?;
        // No such blob exists: this shows only whether one could be deleted.
        let refused = self.delete(&scratch).await.err();
        scratch.undeletable = refused.map(|error| first_line(&error));
        scratch.has_own_repository = self.is_scratch_repository || !self.exists().await?;
        let path = format!("/v2/{}/blobs/uploads/", self.repository);
        let begun = self.send(Method::POST, &path, client::empty(), 0).await?;
        if is_denial(begun.status()) {
            let refusal = self.refusal(begun, "push").await.to_string();
            let (found, hint) = refusal.split_once("\nhint: ").unwrap_or((&refusal, ""));
            let mut finding = Finding::new(found, None);
            finding.hint = (!hint.is_empty()).then(|| hint.to_owned());
            finding.is_left_out = true;
            return Ok(finding);
        }
        let location = begun.headers().get(LOCATION).cloned();
        self.expect(begun, StatusCode::ACCEPTED, "push").await?;
        let location = location
            .as_ref()
            .and_then(|location| location.to_str().ok());
        let location = location.context("the registry's answer has no Location to push to")?;
        let path = relative(location)?;
        if scratch.undeletable.is_some() {
            return self.push_and_cancel(&path, scratch).await;
        }
        let separator = if path.contains('?') { '&' } else { '?' };
        let digest = &scratch.digest;
        let path = format!("{path}{separator}digest={digest}");
        let size = scratch.size_bytes();
        let body = client::repeated(scratch.piece.clone(), scratch.pieces);
        let before = self.clock.elapsed();
        let finished = self.send(Method::PUT, &path, body, size).await?;
        self.expect(finished, StatusCode::CREATED, "push").await?;
        Ok(self.moved(size, before, Some(scratch)))
    }

    /// Pulls a blob of the first image of the repository: an account that may only pull has no other.
    pub(super) async fn pull_from_image(&mut self) -> anyhow::Result<Finding<()>> {
        let name = self.repository;
        let tags = self.json(&format!("/v2/{name}/tags/list?n=1")).await?;
        let Some(tag) = tags.pointer("/tags/0").and_then(Value::as_str) else {
            let mut finding = Finding::new(format!("{name} has no image to pull"), ());
            finding.is_left_out = true;
            return Ok(finding);
        };
        let mut reference = tag.to_owned();
        let manifest = loop {
            let manifest = self
                .json(&format!("/v2/{name}/manifests/{reference}"))
                .await?;
            match manifest
                .pointer("/manifests/0/digest")
                .and_then(Value::as_str)
            {
                Some(child) if !reference.contains(':') => child.clone_into(&mut reference),
                _ => break manifest,
            }
        };
        let blob = manifest.pointer("/layers/0").or(manifest.get("config"));
        let digest = blob.and_then(|blob| blob.get("digest")?.as_str()?.parse().ok());
        let size = blob.and_then(|blob| blob.get("size")?.as_u64());
        let (Some(digest), Some(size)) = (digest, size) else {
            bail!("the manifest of {name}:{tag} names no blob");
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let mut finding = self.pull_blob(&digest, size).await?;
        finding.found = format!(
            "{} of {name}:{tag}, with the digest that its manifest says",
            finding.found
        );
        Ok(finding)
    }

    /// The answer to a GET, which must be JSON.
    async fn json(&mut self, path: &str) -> anyhow::Result<Value> {
        let answer = self.send(Method::GET, path, client::empty(), 0).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(answer, "pull").await);
        }
        let body = self.connection.read(answer).await?;
        serde_json::from_slice(&body).context("the registry's answer is not JSON")
    }

    /// Sends all bytes to the upload session at `path`, then cancels it.
    async fn push_and_cancel(
        &mut self,
        path: &str,
        scratch: Scratch,
    ) -> anyhow::Result<Finding<Option<Scratch>>> {
        let size = scratch.size_bytes();
        let body = client::repeated(scratch.piece.clone(), scratch.pieces);
        let before = self.clock.elapsed();
        let sent = self.send(Method::PATCH, path, body, size).await?;
        let mut finding = self.moved(size, before, Some(scratch));
        let location = sent.headers().get(LOCATION).cloned();
        self.expect(sent, StatusCode::ACCEPTED, "push").await?;
        let location = location.as_ref().and_then(|text| text.to_str().ok());
        let path = location.map_or(Ok(path.to_owned()), relative)?;
        let cancelled = self.send(Method::DELETE, &path, client::empty(), 0).await?;
        self.expect(cancelled, StatusCode::NO_CONTENT, "push")
            .await?;
        finding.found.push_str(", then cancelled");
        Ok(finding)
    }

    /// Pulls it back.
    pub(super) async fn pull(&mut self, scratch: &Scratch) -> anyhow::Result<Finding<()>> {
        if let Some(reason) = &scratch.undeletable {
            let found = format!("what is pushed could not be deleted ({reason})");
            let mut finding = Finding::new(found, ());
            finding.is_left_out = true;
            return Ok(finding);
        }
        let mut finding = self
            .pull_blob(&scratch.digest, scratch.size_bytes())
            .await?;
        finding.found.push_str(", and came back the same");
        Ok(finding)
    }

    async fn pull_blob(&mut self, digest: &Digest, size: usize) -> anyhow::Result<Finding<()>> {
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        let before = self.clock.elapsed();
        let answer = self.send(Method::GET, &path, client::empty(), 0).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(answer, "pull").await);
        }
        let mut hasher = Hasher::new(digest.algorithm());
        self.connection
            .read_through(answer, size, |piece| hasher.update(piece))
            .await?;
        let finding = self.moved(size, before, ());
        if hasher.finish() != *digest {
            bail!(
                "what came is not what its digest says\nhint: something on the way changes or cuts what it carries: a proxy, or a broken disk or memory on either machine"
            );
        }
        Ok(finding)
    }

    /// Whether the registry knows the repository.
    async fn exists(&mut self) -> anyhow::Result<bool> {
        let path = format!("/v2/{}/tags/list", self.repository);
        let answer = self.send(Method::GET, &path, client::empty(), 0).await?;
        let status = answer.status();
        self.connection.read(answer).await?;
        Ok(status != StatusCode::NOT_FOUND)
    }

    /// Removes the scratch blob, and its repository if that was made for it. Returns what became of it; `None` if none was made.
    pub(super) async fn clean_up(&mut self, scratch: &Scratch) -> Option<String> {
        if scratch.undeletable.is_some() {
            return None;
        }
        if scratch.has_own_repository
            && let Some(freed_bytes) = self.delete_repository().await
        {
            let bytes = if freed_bytes >= scratch.size_bytes() as u64 {
                "its bytes are free again"
            } else {
                "its bytes are free once collected"
            };
            return Some(format!(
                "the scratch blob and its repository were deleted, {bytes}"
            ));
        }
        Some(match self.delete(scratch).await {
            Ok(()) => "the scratch blob was deleted, its bytes are free once collected".to_owned(),
            Err(error) => {
                let reason = first_line(&error);
                let (repository, digest) = (self.repository, &scratch.digest);
                format!("the scratch blob stays in {repository} ({reason}): {digest}")
            }
        })
    }

    /// Deletes the repository, unless somebody has pushed an image to it meanwhile. Returns how many bytes are free then; `None`
    /// if it was not deleted: registries of other kinds cannot do that.
    async fn delete_repository(&mut self) -> Option<u64> {
        #[derive(serde::Deserialize)]
        struct Removal {
            freed_bytes: u64,
        }
        let name = self.repository;
        let path = format!("/v2/{name}/_boathouse/repository?unless=manifests");
        let answer = self.send(Method::DELETE, &path, client::empty(), 0).await;
        let answer = answer.ok()?;
        let status = answer.status();
        let body = self.connection.read(answer).await.ok()?;
        let removal: Removal = serde_json::from_slice(&body).ok()?;
        (status == StatusCode::ACCEPTED).then_some(removal.freed_bytes)
    }

    async fn delete(&mut self, scratch: &Scratch) -> anyhow::Result<()> {
        let path = format!("/v2/{}/blobs/{}", self.repository, scratch.digest);
        let answer = self.send(Method::DELETE, &path, client::empty(), 0).await?;
        match answer.status() {
            status @ (StatusCode::ACCEPTED | StatusCode::NOT_FOUND) => {
                self.expect(answer, status, "delete").await
            }
            _ => Err(self.refusal(answer, "delete").await),
        }
    }

    fn moved<T>(&self, size_bytes: usize, before: std::time::Duration, value: T) -> Finding<T> {
        let took = self.clock.elapsed().saturating_sub(before);
        let micros = took.as_micros().max(1);
        let per_sec = size_bytes as u128 * 1_000_000 / micros;
        let per_sec = u64::try_from(per_sec).unwrap_or(u64::MAX);
        let mut finding = Finding::new(shown_rate(size_bytes, per_sec), value);
        finding.bytes_per_sec = Some(per_sec);
        finding
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Body,
        size_bytes: usize,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(&method).uri(path);
        if let Some(authorization) = &self.login.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if method == Method::GET {
            request = request.header(ACCEPT, MANIFESTS);
        }
        if matches!(method, Method::POST | Method::PATCH | Method::PUT) {
            request = request.header(CONTENT_LENGTH, size_bytes);
        }
        if matches!(method, Method::PATCH | Method::PUT) {
            request = request.header(CONTENT_TYPE, "application/octet-stream");
        }
        let request = request.body(body)?;
        Ok(self.connection.send(request, size_bytes as u64).await?)
    }

    async fn expect(&self, answer: Answer, status: StatusCode, action: &str) -> anyhow::Result<()> {
        if answer.status() == status {
            self.connection.read(answer).await?;
            return Ok(());
        }
        Err(self.refusal(answer, action).await)
    }

    /// Why an answer is not the one that was hoped for.
    async fn refusal(&self, answer: Answer, action: &str) -> anyhow::Error {
        let status = answer.status();
        let body = self.connection.read(answer).await.unwrap_or_default();
        let (repository, account) = (self.repository, &self.login.account);
        if is_denial(status) {
            return anyhow!(
                "{} may not {action} in {repository}\nhint: name a repository where it may, with --repository; on the registry's machine, `boathouse acl explain '{account}' {repository} {action}` tells which rule decides",
                if account.is_empty() {
                    "callers without a login"
                } else {
                    account
                }
            );
        }
        let parsed: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = parsed.pointer("/errors/0/message");
        let message = message.and_then(Value::as_str);
        let message = message.map(|message| format!(": {message}"));
        anyhow!(
            "the registry answers {status}{}\nhint: its log says more",
            message.unwrap_or_default()
        )
    }
}

/// Whether the account may not do it.
fn is_denial(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// An error without its hints.
fn first_line(error: &anyhow::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// A `Location`, which may name the host again, as a path on the connection that is there.
fn relative(location: &str) -> anyhow::Result<String> {
    let uri: http::Uri = location
        .parse()
        .context("the registry's answer to the upload has no Location")?;
    let path = uri.path_and_query();
    Ok(path.map_or("/", |path| path.as_str()).to_owned())
}

fn shown_rate(size_bytes: usize, bytes_per_sec: u64) -> String {
    if size_bytes < PIECE_BYTES {
        // Too little to tell a rate by.
        return format!("{size_bytes} bytes");
    }
    let mib = size_bytes / PIECE_BYTES;
    // Tenths, for networks that are slower than 10 MB/s.
    let tenths = bytes_per_sec / 100_000;
    format!("{mib} MiB at {}.{} MB/s", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_told_in_megabytes() {
        assert_eq!(shown_rate(16 << 20, 117_440_512), "16 MiB at 117.4 MB/s");
        assert_eq!(shown_rate(1 << 20, 65_536), "1 MiB at 0.0 MB/s");
    }

    #[test]
    fn a_location_with_a_host_is_used_on_the_same_connection() {
        let path = relative("https://lab:5443/v2/a/blobs/uploads/x?_state=1").unwrap();
        assert_eq!(path, "/v2/a/blobs/uploads/x?_state=1");
        assert_eq!(relative("/v2/a").unwrap(), "/v2/a");
    }

    #[test]
    fn two_scratch_blobs_are_never_the_same() {
        let (one, other) = (Scratch::random(1).unwrap(), Scratch::random(1).unwrap());
        assert_ne!(one.digest, other.digest);
        assert_eq!(one.digest, Digest::of(Algorithm::Sha256, &one.piece));
    }
}
