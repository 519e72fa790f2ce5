//! What goes on while the server is killed: pushes, tag moves and deletes by several clients, on few names.
//!
//! Every change is in the ledger before it is sent. A client stops at the first answer that does not come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use boathouse::oci::{Algorithm, Digest};
use bytes::Bytes;
use futures_util::stream;
use http::Method;

use super::ledger::{Effect, Key, Ledger, Session, Value};
use crate::client::{Body, Broken, Client, streamed, whole};
use crate::random::Random;
use crate::support::{Answer, OCI_MANIFEST};

pub(super) const REPOSITORIES: [&str; 3] = ["team/app", "team/tools", "vm"];
const TAGS: [&str; 6] = ["1", "2", "latest", "nightly", "v1.0", "v1.1"];

struct Worker {
    client: Client,
    ledger: Arc<Ledger>,
    random: Random,
}

/// Works until the server is gone, or until so many changes are acknowledged in all.
pub(super) async fn work(
    address: SocketAddr,
    ledger: Arc<Ledger>,
    random: Random,
    acknowledged_max: u64,
) {
    let mut worker = Worker {
        client: Client::plain(address),
        ledger,
        random,
    };
    while worker.ledger.acknowledged() < acknowledged_max && worker.change().await.is_ok() {}
}

impl Worker {
    async fn change(&mut self) -> Result<(), Broken> {
        let repository = self.random.of(&REPOSITORIES);
        match self.random.below(100) {
            0..25 => self.push_blob(repository).await,
            25..45 => self.push_in_chunks(repository).await,
            45..80 => self.push_manifest(repository).await,
            80..87 => self.delete_tag(repository).await,
            87..94 => self.delete_manifest(repository).await,
            _ => self.delete_blob(repository).await,
        }
    }

    /// Settles what becomes of a change by its answer.
    fn note(&self, change: u64, answer: &Answer, done: u16, refusal: Option<u16>) {
        let status = answer.status.as_u16();
        if status == done {
            self.ledger.acknowledge(change);
        } else if Some(status) == refusal {
            self.ledger.refuse(change);
        } else {
            self.ledger.complain(format!("change {change}: {answer:?}"));
        }
    }

    /// Mostly small, as manifests and configs are; some that take a while.
    fn content(&mut self) -> Bytes {
        let size = match self.random.below(20) {
            0..12 => 1 + self.random.below(8 * 1024),
            12..19 => 1 + self.random.below(200 * 1024),
            _ => 1024 * 1024 + self.random.below(1024),
        };
        self.random.bytes(size)
    }

    /// New, or now and then one that was pushed before, and may be deleted since.
    fn blob(&mut self) -> (Digest, Bytes) {
        if self.random.below(5) == 0 {
            let is_blob = |key: &Key, _| matches!(key, Key::Blob(..));
            let key = self.ledger.pick(self.random.next(), is_blob);
            if let Some(Key::Blob(_, digest)) = key
                && let Some(content) = self.ledger.content(&digest)
            {
                return (digest, content);
            }
        }
        let content = self.content();
        let digest = Digest::of(Algorithm::Sha256, &content);
        self.ledger.add_content(&digest, content.clone());
        (digest, content)
    }

    /// In one request, or by a PUT with all of it.
    async fn push_blob(&mut self, repository: &'static str) -> Result<(), Broken> {
        let (digest, content) = self.blob();
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        let (method, path) = if self.random.below(2) == 0 {
            (Method::POST, format!("{uploads}?digest={digest}"))
        } else {
            let answer = self.send(Method::POST, &uploads, Bytes::new()).await?;
            let Some(location) = location(&answer) else {
                self.ledger.complain(format!("{answer:?}"));
                return Ok(());
            };
            (Method::PUT, format!("{location}?digest={digest}"))
        };
        let effect = (Key::Blob(repository, digest), Value::Present, None);
        let change = self.ledger.begin(vec![effect]);
        let answer = self.send(method, &path, content).await?;
        self.note(change, &answer, 201, None);
        Ok(())
    }

    /// By several PATCH, of which some take their time; every fifth is left open for the next round.
    async fn push_in_chunks(&mut self, repository: &'static str) -> Result<(), Broken> {
        let (digest, content) = self.blob();
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        let answer = self.send(Method::POST, &uploads, Bytes::new()).await?;
        let Some(location) = location(&answer) else {
            self.ledger.complain(format!("{answer:?}"));
            return Ok(());
        };
        self.ledger.acknowledge_session();
        let number = self.random.next();
        let mut session = Session {
            repository,
            location,
            content: content.clone(),
            acknowledged_bytes: 0,
            sent_bytes: 0,
            is_finishing: false,
        };
        self.ledger.note_session(number, Some(session.clone()));
        let mut rest = content;
        for _ in 0..self.random.below(4) {
            let length = self.random.below(rest.len() + 1);
            if length < 2 {
                continue; // nothing to send, or what `offset_of` cannot tell from nothing
            }
            let piece = rest.split_to(length);
            let start = session.sent_bytes;
            session.sent_bytes += piece.len() as u64;
            self.ledger.note_session(number, Some(session.clone()));
            let range = format!("{start}-{}", session.sent_bytes - 1);
            let is_slow = self.random.below(3) == 0;
            let body = if is_slow { slowly(piece) } else { whole(piece) };
            let headers = [("content-range", &*range)];
            let path = session.location.clone();
            let answer = self
                .client
                .send(Method::PATCH, &path, &headers, body)
                .await?;
            if answer.status != 202 || offset_of(&answer) != session.sent_bytes {
                self.ledger.complain(format!("PATCH {range}: {answer:?}"));
                return Ok(());
            }
            session.acknowledged_bytes = session.sent_bytes;
            self.ledger.note_session(number, Some(session.clone()));
            self.ledger.acknowledge_session();
        }
        if self.random.below(5) == 0 {
            return Ok(());
        }
        session.sent_bytes += rest.len() as u64;
        session.is_finishing = true;
        let path = format!("{}?digest={digest}", session.location);
        self.ledger.note_session(number, Some(session));
        let effect = (Key::Blob(repository, digest), Value::Present, None);
        let change = self.ledger.begin(vec![effect]);
        let answer = self.send(Method::PUT, &path, rest).await?;
        self.note(change, &answer, 201, None);
        self.ledger.note_session(number, None);
        Ok(())
    }

    /// By tag or by digest, new or known, some about another manifest.
    async fn push_manifest(&mut self, repository: &'static str) -> Result<(), Broken> {
        let Some((digest, content, blobs)) = self.manifest(repository) else {
            return self.push_blob(repository).await;
        };
        let there = |key| (key, Value::Present, None);
        // It links what it references where another repository has it, so it writes those as well.
        let blobs = blobs
            .into_iter()
            .map(|blob| there(Key::Blob(repository, blob)));
        let mut effects: Vec<Effect> = blobs.collect();
        effects.push(there(Key::Manifest(repository, digest)));
        let reference = if self.random.below(4) == 0 {
            digest.to_string()
        } else {
            let tag = self.random.of(&TAGS);
            effects.push((Key::Tag(repository, tag), Value::Points(digest), None));
            tag.to_owned()
        };
        let change = self.ledger.begin(effects);
        let path = format!("/v2/{repository}/manifests/{reference}");
        let headers = [("content-type", OCI_MANIFEST)];
        let put = self
            .client
            .send(Method::PUT, &path, &headers, whole(content));
        let answer = put.await?;
        // 400: one of its blobs was deleted in the meantime.
        self.note(change, &answer, 201, Some(400));
        Ok(())
    }

    fn manifest(&mut self, repository: &'static str) -> Option<(Digest, Bytes, Vec<Digest>)> {
        let is_manifest = |key: &Key, _| matches!(key, Key::Manifest(of, _) if *of == repository);
        let known = match self.ledger.pick(self.random.next(), is_manifest) {
            Some(Key::Manifest(_, digest)) => Some(digest),
            _ => None,
        };
        if self.random.below(3) == 0
            && let Some(digest) = &known
        {
            let content = self.ledger.content(digest)?;
            return Some((*digest, content.clone(), blobs_of(&content)));
        }
        let is_blob = |key: &Key, is_there| matches!(key, Key::Blob(..)) && is_there;
        let mut blobs = Vec::new();
        let mut descriptors = Vec::new();
        for _ in 0..2 {
            let Some(Key::Blob(_, digest)) = self.ledger.pick(self.random.next(), is_blob) else {
                return None;
            };
            let size = self.ledger.content(&digest)?.len();
            descriptors.push(serde_json::json!({
                "mediaType": "application/octet-stream", "digest": digest.to_string(), "size": size,
            }));
            blobs.push(digest);
        }
        let mut manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptors[0], "layers": [descriptors[1]],
            "annotations": {"number": self.random.next().to_string()},
        });
        if let Some(subject) = known
            && self.random.below(2) == 0
        {
            manifest["subject"] = serde_json::json!({
                "mediaType": OCI_MANIFEST, "digest": subject.to_string(),
                "size": self.ledger.content(&subject)?.len(),
            });
        }
        let content = Bytes::from(manifest.to_string());
        let digest = Digest::of(Algorithm::Sha256, &content);
        self.ledger.add_content(&digest, content.clone());
        Some((digest, content, blobs))
    }

    async fn delete_tag(&mut self, repository: &'static str) -> Result<(), Broken> {
        let tag = self.random.of(&TAGS);
        let effect = (Key::Tag(repository, tag), Value::Absent, None);
        self.delete(format!("/v2/{repository}/manifests/{tag}"), vec![effect])
            .await
    }

    async fn delete_manifest(&mut self, repository: &'static str) -> Result<(), Broken> {
        let is_manifest = |key: &Key, is_there| {
            matches!(key, Key::Manifest(of, _) if *of == repository) && is_there
        };
        let picked = self.ledger.pick(self.random.next(), is_manifest);
        let Some(Key::Manifest(_, digest)) = picked else {
            return Ok(());
        };
        let tag = |tag: &&'static str| {
            let key = Key::Tag(repository, tag);
            (key, Value::Absent, Some(digest))
        };
        let mut effects: Vec<Effect> = TAGS.iter().map(tag).collect();
        effects.push((Key::Manifest(repository, digest), Value::Absent, None));
        self.delete(format!("/v2/{repository}/manifests/{digest}"), effects)
            .await
    }

    async fn delete_blob(&mut self, repository: &'static str) -> Result<(), Broken> {
        let is_blob =
            |key: &Key, is_there| matches!(key, Key::Blob(of, _) if *of == repository) && is_there;
        let picked = self.ledger.pick(self.random.next(), is_blob);
        let Some(Key::Blob(_, digest)) = picked else {
            return Ok(());
        };
        let path = format!("/v2/{repository}/blobs/{digest}");
        let effect = (Key::Blob(repository, digest), Value::Absent, None);
        self.delete(path, vec![effect]).await
    }

    async fn delete(&mut self, path: String, effects: Vec<Effect>) -> Result<(), Broken> {
        let change = self.ledger.begin(effects);
        let answer = self.send(Method::DELETE, &path, Bytes::new()).await?;
        self.note(change, &answer, 202, Some(404));
        Ok(())
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Answer, Broken> {
        self.client.send(method, path, &[], whole(body)).await
    }
}

/// In pieces with pauses, so that a kill finds it half sent.
fn slowly(content: Bytes) -> Body {
    const PIECE: usize = 64 * 1024;
    streamed(stream::unfold(content, |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        let piece = rest.split_to(rest.len().min(PIECE));
        Some((Ok(piece), rest))
    }))
}

/// The digests of what a manifest made by [`Worker::manifest`] references.
fn blobs_of(manifest: &[u8]) -> Vec<Digest> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).expect("own JSON");
    [&manifest["config"], &manifest["layers"][0]]
        .into_iter()
        .map(|descriptor| descriptor["digest"].as_str().expect("text").parse())
        .collect::<Result<_, _>>()
        .expect("own digests")
}

/// Where an upload session that was opened is.
fn location(answer: &Answer) -> Option<String> {
    (answer.status == 202).then(|| answer.header("location").to_owned())
}

/// How many bytes the session has; `0-0` also stands for none, so no session here ever has one byte.
pub(super) fn offset_of(answer: &Answer) -> u64 {
    let range = answer.header("range");
    let last = range.strip_prefix("0-").and_then(|last| last.parse().ok());
    match last {
        Some(0) => 0,
        Some(last) => last + 1,
        None => panic!("a strange range: {range}"),
    }
}
