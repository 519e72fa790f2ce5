//! HTTPS as clients speak it: HTTP/1.1 with a pool of connections, or one HTTP/2 connection for all.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, future, stream};
use http::{Method, Request, response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio_rustls::TlsConnector;

use super::content::Blob;
use crate::support::Answer;

type AnyBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// As Go has them: what a server may send before the client has read it.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024 * 1024;

/// Where a registry is, whom it is trusted by, and who calls.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) address: SocketAddr,
    pub(super) trust: Arc<ClientConfig>,
    pub(super) user: &'static str,
    pub(super) password: &'static str,
}

impl Site {
    /// As an image reference names it.
    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    /// The `Authorization` of the token request.
    pub(super) fn basic(&self) -> String {
        use base64::Engine as _;
        let pair = format!("{}:{}", self.user, self.password);
        let pair = base64::engine::general_purpose::STANDARD.encode(pair);
        format!("Basic {pair}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Why there is no whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// Nobody listens.
    Refused,
    /// The connection ended in the middle of it.
    Cut,
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
    protocol: Protocol,
    /// Headers that it sends with everything.
    habits: &'static [(&'static str, &'static str)],
    idle: Mutex<Vec<http1::SendRequest<AnyBody>>>,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<AnyBody>>>,
    log: Mutex<Vec<(Method, String, u16)>>,
}

enum Sender {
    Http1(http1::SendRequest<AnyBody>),
    Http2(http2::SendRequest<AnyBody>),
}

/// An answer on its way.
pub(super) struct Flow<'a> {
    wire: &'a Wire,
    pub(super) head: response::Parts,
    body: Incoming,
    sender: Option<Sender>,
}

impl Wire {
    pub(super) fn new(
        site: &Site,
        protocol: Protocol,
        habits: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self {
            site: site.clone(),
            protocol,
            habits,
            idle: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
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
        let mut flow = self.open(method, target, headers, body).await?;
        let mut whole = BytesMut::new();
        while let Some(piece) = flow.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(Answer {
            status: flow.head.status,
            headers: flow.head.headers,
            body: whole.freeze(),
        })
    }

    /// Asks, and reads the head of the answer.
    pub(super) async fn open(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Flow<'_>, Broken> {
        let mut sender = self.sender().await?;
        let host = self.site.host();
        let mut request = Request::builder().method(&method);
        request = match sender {
            Sender::Http1(_) => request.uri(target).header("host", &host),
            Sender::Http2(_) => request.uri(format!("https://{host}{target}")),
        };
        for (name, value) in self.habits.iter().chain(headers) {
            request = request.header(*name, *value);
        }
        let length = match &body {
            Body::Empty if matches!(method, Method::GET | Method::HEAD) => None,
            Body::Empty => Some(0),
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Part(_, range) => Some(range.end - range.start),
            Body::Breaking(blob, _) | Body::Halting(blob, ..) => Some(blob.size_bytes),
        };
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let request = request.body(any_body(body)).expect("a request");
        let answer = match &mut sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        };
        let (head, body) = answer.map_err(|_| Broken::Cut)?.into_parts();
        let status = head.status.as_u16();
        self.log
            .lock()
            .unwrap()
            .push((method, target.to_owned(), status));
        // These clients would take what they get for the bytes of the blob, or of the manifest.
        assert!(!head.headers.contains_key("content-encoding"), "{head:?}");
        Ok(Flow {
            wire: self,
            head,
            body,
            sender: Some(sender),
        })
    }

    async fn sender(&self) -> Result<Sender, Broken> {
        if self.protocol == Protocol::Http2 {
            let mut shared = self.shared.lock().await;
            if let Some(sender) = &mut *shared
                && sender.ready().await.is_ok()
            {
                return Ok(Sender::Http2(sender.clone()));
            }
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .handshake(TokioIo::new(self.connect(b"h2").await?))
                .await
                .map_err(|_| Broken::Cut)?;
            tokio::spawn(connection);
            *shared = Some(sender.clone());
            return Ok(Sender::Http2(sender));
        }
        loop {
            let idle = self.idle.lock().unwrap().pop();
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return Ok(Sender::Http1(sender));
            }
        }
        let io = TokioIo::new(self.connect(b"http/1.1").await?);
        let (sender, connection) = http1::handshake(io).await.map_err(|_| Broken::Cut)?;
        tokio::spawn(connection);
        Ok(Sender::Http1(sender))
    }

    async fn connect(
        &self,
        protocol: &[u8],
    ) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, Broken> {
        let stream = tokio::net::TcpStream::connect(self.site.address).await;
        let stream = stream.map_err(|_| Broken::Refused)?;
        stream.set_nodelay(true).map_err(|_| Broken::Cut)?;
        let mut trust = ClientConfig::clone(&self.site.trust);
        trust.alpn_protocols = vec![protocol.to_vec()];
        let name = self.site.address.ip().into();
        let stream = TlsConnector::from(Arc::new(trust)).connect(name, stream);
        let stream = stream.await.map_err(|error| {
            // A certificate that is not believed is no broken connection.
            assert_ne!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
            Broken::Cut
        })?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        Ok(stream)
    }
}

impl Flow<'_> {
    /// The next piece of the body; after the last one the connection is free for the next request.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
                Some(Err(_)) => return Err(Broken::Cut),
                None => {
                    if let Some(Sender::Http1(sender)) = self.sender.take() {
                        self.wire.idle.lock().unwrap().push(sender);
                    }
                    return Ok(None);
                }
            }
        }
    }

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

fn any_body(body: Body) -> AnyBody {
    let data = |piece| Ok(Frame::data(piece));
    match body {
        Body::Empty => {
            let nothing = http_body_util::Empty::new();
            nothing.map_err(|never| match never {}).boxed_unsync()
        }
        Body::Bytes(bytes) => {
            let whole = http_body_util::Full::new(bytes);
            whole.map_err(|never| match never {}).boxed_unsync()
        }
        Body::Part(blob, range) => StreamBody::new(blob.stream(range).map(data)).boxed_unsync(),
        Body::Breaking(blob, end) => {
            let hangs_up = stream::once(async {
                // What was sent before goes out first.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(std::io::ErrorKind::BrokenPipe.into())
            });
            StreamBody::new(blob.stream(0..end).map(data).chain(hangs_up)).boxed_unsync()
        }
        Body::Halting(blob, at, gate) => {
            let waits = stream::once(async move {
                gate.reached.notify_one();
                gate.opened.cancelled().await;
                None
            });
            let whole = blob.stream(0..at).map(Some).chain(waits);
            let whole = whole.chain(blob.stream(at..blob.size_bytes).map(Some));
            let pieces = whole.filter_map(future::ready).map(data);
            StreamBody::new(pieces).boxed_unsync()
        }
    }
}
