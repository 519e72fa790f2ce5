//! What the replayed clients share: connections, a log of what was asked, and bodies made of blobs.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, future, stream};
use http::Method;

use super::content::Blob;
use crate::client::{self, Broken, Client, Flow, Protocol, Target, streamed, whole};
use crate::support::Answer;

/// Where a registry is, and who calls.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) target: Target,
    pub(super) user: &'static str,
    pub(super) password: &'static str,
}

impl Site {
    /// As an image reference names it.
    pub(super) fn host(&self) -> &str {
        &self.target.host
    }

    /// The `Authorization` of the token request.
    pub(super) fn basic(&self) -> String {
        client::basic(self.user, self.password)
    }
}

/// What a request carries.
#[derive(Clone)]
pub(super) enum Body {
    Empty,
    Bytes(Bytes),
    /// A part of a blob.
    Part(Blob, Range<u64>),
    /// The first so many bytes of a blob; then the client hangs up.
    Breaking(Blob, u64),
    /// All of a blob, with a pause after so many bytes until the gate opens.
    Halting(Blob, u64, Gate),
}

impl Body {
    pub(super) fn blob(blob: &Blob) -> Self {
        Self::Part(blob.clone(), 0..blob.size_bytes)
    }
}

/// Lets a test do something while a body is half sent.
#[derive(Clone, Default)]
pub(super) struct Gate {
    pub(super) reached: Arc<tokio::sync::Notify>,
    pub(super) opened: tokio_util::sync::CancellationToken,
}

/// One client's connections, and what it has asked.
pub(super) struct Wire {
    pub(super) site: Site,
    client: Client,
    /// Headers that it sends with everything.
    habits: &'static [(&'static str, &'static str)],
    log: Mutex<Vec<(Method, String, u16)>>,
}

impl Wire {
    pub(super) fn new(
        site: &Site,
        protocol: Protocol,
        habits: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self {
            site: site.clone(),
            client: Client::new(site.target.clone(), protocol),
            habits,
            log: Mutex::default(),
        }
    }

    /// How many requests were answered with `status` whose target holds `part`.
    pub(super) fn count(&self, method: &Method, part: &str, status: u16) -> usize {
        let log = self.log.lock().unwrap();
        let is_one = |(of, target, with): &&(Method, String, u16)| {
            of == method && target.contains(part) && *with == status
        };
        log.iter().filter(is_one).count()
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Answer, Broken> {
        self.open(method, target, headers, body)
            .await?
            .whole()
            .await
    }

    /// Asks, and reads the head of the answer.
    pub(super) async fn open(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Flow, Broken> {
        let length = match &body {
            Body::Empty if matches!(method, Method::GET | Method::HEAD) => None,
            Body::Empty => Some(0),
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Part(_, range) => Some(range.end - range.start),
            Body::Breaking(blob, _) | Body::Halting(blob, ..) => Some(blob.size_bytes),
        };
        let length = length.map(|length| length.to_string());
        let mut headers = [self.habits, headers].concat();
        headers.extend(length.iter().map(|length| ("content-length", &**length)));
        let flow = self
            .client
            .open(method.clone(), target, &headers, sent(body));
        let flow = flow.await?;
        let asked = (method, target.to_owned(), flow.head.status.as_u16());
        self.log.lock().unwrap().push(asked);
        // These clients would take what they get for the bytes of the blob, or of the manifest.
        let is_encoded = flow.head.headers.contains_key("content-encoding");
        assert!(!is_encoded, "{:?}", flow.head);
        Ok(flow)
    }
}

impl Flow {
    /// Reads up to `end` and compares; tells where the answer ended, or was left.
    pub(super) async fn compare(&mut self, blob: &Blob, range: Range<u64>) -> Result<u64, Broken> {
        let mut at = range.start;
        while at < range.end {
            let Some(piece) = self.next().await? else {
                return Ok(at);
            };
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let expected = blob.piece(at..at + rest.len() as u64);
                assert_eq!(rest[..expected.len()], expected, "{blob:?} at {at}");
                rest = &rest[expected.len()..];
                at += expected.len() as u64;
            }
        }
        Ok(at)
    }

    /// Reads the whole blob and compares.
    pub(super) async fn compare_whole(&mut self, blob: &Blob) -> Result<(), Broken> {
        let length = self.head.headers["content-length"].to_str().unwrap();
        assert_eq!(length, blob.size_bytes.to_string(), "{blob:?}");
        let end = self.compare(blob, 0..blob.size_bytes).await?;
        assert_eq!(end, blob.size_bytes, "{blob:?}");
        assert_eq!(self.next().await?, None, "{blob:?}");
        Ok(())
    }
}

fn sent(body: Body) -> client::Body {
    match body {
        Body::Empty => whole(""),
        Body::Bytes(bytes) => whole(bytes),
        Body::Part(blob, range) => streamed(blob.stream(range).map(Ok)),
        Body::Breaking(blob, end) => {
            let hangs_up = stream::once(async {
                // What was sent before goes out first.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(std::io::ErrorKind::BrokenPipe.into())
            });
            streamed(blob.stream(0..end).map(Ok).chain(hangs_up))
        }
        Body::Halting(blob, at, gate) => {
            let waits = stream::once(async move {
                gate.reached.notify_one();
                gate.opened.cancelled().await;
                None
            });
            let content = blob.stream(0..at).map(Some).chain(waits);
            let content = content.chain(blob.stream(at..blob.size_bytes).map(Some));
            streamed(content.filter_map(future::ready).map(Ok))
        }
    }
}
