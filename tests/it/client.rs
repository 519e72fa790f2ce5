//! The HTTP client of the tests: plain or over TLS, HTTP/1.1 or HTTP/2, on connections that it keeps. [`Raw`] sends bytes
//! that no HTTP library would send, and reads what a test wants to see byte by byte.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boathouse::oci::{Algorithm, Digest};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{OCI_MANIFEST, image_manifest};

/// Longest wait for an answer: far more than any takes, so that a server that hangs ends the run.
const ANSWER_TIME_MAX: Duration = Duration::from_mins(5);

/// What a server may send before the client has read it: Go's numbers.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// Why there is no whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Nothing listens.
    Refused,
    /// The connection ended before the answer was whole.
    Cut,
}

/// Where a registry is.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// `HOST:PORT` as the client calls it. Its certificate must have the name.
    pub(crate) host: String,
    /// What is trusted; plain HTTP without it.
    pub(crate) trust: Option<Arc<ClientConfig>>,
}

/// A body on its way to the server.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(crate) fn whole(content: impl Into<Bytes>) -> Body {
    let content = Full::new(content.into());
    content.map_err(|never| match never {}).boxed_unsync()
}

/// In pieces; over HTTP/1.1 in chunks, unless a header tells the length. An error breaks the request off.
pub(crate) fn streamed(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// A client and its connections, which a clone shares.
#[derive(Clone)]
pub(crate) struct Client(Arc<Connections>);

struct Connections {
    target: Target,
    protocol: Protocol,
    idle: Mutex<Vec<http1::SendRequest<Body>>>,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Body>>>,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Client {
    pub(crate) fn new(target: Target, protocol: Protocol) -> Self {
        Self(Arc::new(Connections {
            target,
            protocol,
            idle: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
        }))
    }

    /// HTTP/1.1 without TLS.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        let host = "registry.test:5000".to_owned();
        let target = Target {
            address,
            host,
            trust: None,
        };
        Self::new(target, Protocol::Http1)
    }

    pub(crate) fn target(&self) -> &Target {
        &self.0.target
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        Call {
            client: self.clone(),
            method,
            path: path.to_owned(),
            headers: Vec::new(),
            body: whole(""),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Broken> {
        self.send(Method::GET, path, &[], whole("")).await
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Answer, Broken> {
        let exchange = async { self.open(method, path, headers, body).await?.whole().await };
        let answer = tokio::time::timeout(ANSWER_TIME_MAX, exchange);
        answer.await.expect("the server hangs")
    }

    /// Sends a request and reads the head of the answer.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Flow, Broken> {
        let mut sender = self.sender().await?;
        let host = &self.0.target.host;
        let mut request = Request::builder().method(method);
        request = match sender {
            Sender::Http1(_) => request.uri(path).header("host", host),
            Sender::Http2(_) => {
                let is_tls = self.0.target.trust.is_some();
                let scheme = if is_tls { "https" } else { "http" };
                request.uri(format!("{scheme}://{host}{path}"))
            }
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).expect("a request");
        let answer = match &mut sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        };
        let (head, body) = answer.map_err(|_| Broken::Cut)?.into_parts();
        Ok(Flow {
            head,
            body,
            sender: Some(sender),
            client: self.clone(),
        })
    }

    async fn sender(&self) -> Result<Sender, Broken> {
        if self.0.protocol == Protocol::Http2 {
            let mut shared = self.0.shared.lock().await;
            if let Some(sender) = &mut *shared
                && sender.ready().await.is_ok()
            {
                return Ok(Sender::Http2(sender.clone()));
            }
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .handshake(TokioIo::new(self.connect().await?))
                .await
                .map_err(|_| Broken::Cut)?;
            tokio::spawn(connection);
            *shared = Some(sender.clone());
            return Ok(Sender::Http2(sender));
        }
        loop {
            let idle = self.0.idle.lock().unwrap().pop();
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return Ok(Sender::Http1(sender));
            }
        }
        let io = TokioIo::new(self.connect().await?);
        let (sender, connection) = http1::handshake(io).await.map_err(|_| Broken::Cut)?;
        tokio::spawn(connection);
        Ok(Sender::Http1(sender))
    }

    async fn connect(&self) -> Result<Box<dyn Io>, Broken> {
        let Connections {
            target, protocol, ..
        } = &*self.0;
        let stream = TcpStream::connect(target.address).await;
        let stream = stream.map_err(|_| Broken::Refused)?;
        stream.set_nodelay(true).map_err(|_| Broken::Cut)?;
        let Some(trust) = &target.trust else {
            return Ok(Box::new(stream));
        };
        let protocol: &[u8] = match protocol {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        };
        let mut trust = ClientConfig::clone(trust);
        trust.alpn_protocols = vec![protocol.to_vec()];
        let (name, _port) = target.host.rsplit_once(':').expect("HOST:PORT");
        let name = ServerName::try_from(name.to_owned()).expect("a name or an address");
        let stream = TlsConnector::from(Arc::new(trust)).connect(name, stream);
        let stream = stream.await.map_err(|error| {
            // A certificate that is not trusted is no broken connection.
            assert_ne!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            Broken::Cut
        })?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        Ok(Box::new(stream))
    }
}

/// An answer on its way.
pub(crate) struct Flow {
    pub(crate) head: response::Parts,
    body: Incoming,
    sender: Option<Sender>,
    client: Client,
}

impl Flow {
    /// The next piece of the body. After the last one the connection is free for the next request.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
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
                        self.client.0.idle.lock().unwrap().push(sender);
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Reads the body to its end.
    pub(crate) async fn whole(mut self) -> Result<Answer, Broken> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.next().await? {
            body.extend_from_slice(&piece);
        }
        Ok(Answer {
            status: self.head.status,
            headers: self.head.headers,
            body: body.freeze(),
        })
    }
}

/// A request in the making.
pub(crate) struct Call {
    client: Client,
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Body,
}

impl Call {
    /// On a connection of its own, without TLS.
    pub(crate) fn to(address: SocketAddr, method: Method, path: &str) -> Self {
        Client::plain(address).call(method, path)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn basic(self, user: &str, password: &str) -> Self {
        self.header("authorization", &basic(user, password))
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, content: &[u8]) -> Self {
        self.body = whole(content.to_vec());
        self
    }

    /// Without a `Content-Length`, in the pieces given.
    pub(crate) fn chunks(mut self, pieces: &[&[u8]]) -> Self {
        let pieces = pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece)));
        self.body = streamed(stream::iter(pieces.collect::<Vec<_>>()));
        self
    }

    pub(crate) async fn send(self) -> Answer {
        let headers = self.headers.iter();
        let headers: Vec<_> = headers.map(|(name, value)| (&**name, &**value)).collect();
        let sent = self
            .client
            .send(self.method, &self.path, &headers, self.body);
        sent.await.expect("an answer")
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: StatusCode) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// A refusal with this status and this OCI code.
    #[track_caller]
    pub(crate) fn expect_error(self, status: u16, code: &str) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.json()["errors"][0]["code"], code, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {self:?}"))
            .to_str()
            .expect("text")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The names in a list.
    #[track_caller]
    pub(crate) fn names(&self, field: &str) -> Vec<String> {
        let json = self.json();
        serde_json::from_value(json[field].clone())
            .unwrap_or_else(|error| panic!("{error}: {json}"))
    }

    /// The digests in an index.
    #[track_caller]
    pub(crate) fn digests(&self) -> Vec<String> {
        let json = self.json();
        let manifests = json["manifests"].as_array();
        let manifests = manifests.unwrap_or_else(|| panic!("no manifests in {json}"));
        let digest = |manifest: &serde_json::Value| manifest["digest"].as_str().map(str::to_owned);
        let digests: Option<Vec<String>> = manifests.iter().map(digest).collect();
        digests.unwrap_or_else(|| panic!("no digest in {json}"))
    }

    /// Where a list goes on, if it does.
    #[track_caller]
    pub(crate) fn next_page(&self) -> Option<String> {
        let link = self.headers.get("link")?.to_str().expect("text");
        let path = link.strip_prefix('<');
        let path = path.and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
        Some(path.unwrap_or_else(|| panic!("{link}")).to_owned())
    }
}

/// What tests push.
impl Client {
    /// In one request.
    pub(crate) async fn push_blob(&self, name: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, content);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let post = self.call(Method::POST, &path).body(content);
        post.send().await.expect(StatusCode::CREATED);
        digest
    }

    /// Without a tag by its digest.
    pub(crate) async fn push_manifest(
        &self,
        name: &str,
        tag: Option<&str>,
        media_type: &str,
        manifest: &str,
    ) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
        let reference = tag.map_or_else(|| digest.to_string(), str::to_owned);
        let path = format!("/v2/{name}/manifests/{reference}");
        let put = self.call(Method::PUT, &path);
        let put = put.header("content-type", media_type);
        let put = put.body(manifest.as_bytes()).send().await;
        put.expect(StatusCode::CREATED);
        digest
    }

    /// An image of one layer: its manifest, and the digest of that. See [`image_manifest`].
    pub(crate) async fn push_image(
        &self,
        name: &str,
        tag: Option<&str>,
        layer: &[u8],
        more: &str,
    ) -> (String, Digest) {
        self.push_blob(name, b"{}").await;
        self.push_blob(name, layer).await;
        let manifest = image_manifest(layer, more);
        let digest = self.push_manifest(name, tag, OCI_MANIFEST, &manifest).await;
        (manifest, digest)
    }
}

/// Trusts certificates of these authorities, and nothing else.
pub(crate) fn trust(authorities_pem: &[u8], now_unix_secs: Option<u64>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities_pem) {
        roots.add(authority.expect("PEM")).expect("a certificate");
    }
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = match now_unix_secs {
        Some(secs) => ClientConfig::builder_with_details(crypto, Arc::new(FixedTime(secs))),
        None => ClientConfig::builder_with_provider(crypto),
    };
    let builder = builder.with_safe_default_protocol_versions().expect("TLS");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[derive(Debug)]
struct FixedTime(u64);

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

/// The value of an `Authorization` header.
pub(crate) fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {pair}")
}

/// A connection on which a test writes and reads bytes.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    /// What was read and not looked at yet.
    received: BytesMut,
}

impl Raw {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    /// On a connection that a test has made.
    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        let received = BytesMut::new();
        Self { stream, received }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Exactly so many bytes.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self.until(|received| (received.len() >= count).then_some(count));
        taken.await.to_vec()
    }

    /// Waits until so many bytes have come, and leaves them for what is read next.
    pub(crate) async fn wait_for(&mut self, count: usize) {
        self.until(|received| (received.len() >= count).then_some(0))
            .await;
    }

    /// The next line, without its end: the status line of an answer, say.
    pub(crate) async fn line(&mut self) -> String {
        let line = self.until(|received| {
            let end = received.windows(2).position(|two| two == b"\r\n")?;
            Some(end + 2)
        });
        let line = String::from_utf8(line.await.to_vec()).expect("text");
        line.trim_end().to_owned()
    }

    /// The status of the next answer, as soon as its first line is there.
    pub(crate) async fn status(&mut self) -> u16 {
        status_of(&self.line().await)
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_to(false).await
    }

    /// The next answer, to a HEAD or to anything else.
    pub(crate) async fn answer_to(&mut self, is_head: bool) -> Answer {
        let bytes = self.until(|received| answer_bytes(received, is_head));
        let bytes = bytes.await.freeze();
        let (end, mut answer) = head_of(&bytes).expect("a whole head");
        answer.body = bytes.slice(end..);
        answer
    }

    /// Sends bytes and reads the answer to them, which may come before all of them are sent.
    pub(crate) async fn ask(&mut self, bytes: &[u8], is_head: bool) -> Answer {
        let mut unsent = bytes;
        while !unsent.is_empty() && answer_bytes(&self.received, is_head).is_none() {
            let (mut reader, mut writer) = self.stream.split();
            tokio::select! {
                written = writer.write(unsent) => match written {
                    Ok(count) => unsent = &unsent[count..],
                    // The server reads no more; it has said why.
                    Err(_) => break,
                },
                read = reader.read_buf(&mut self.received) => {
                    assert!(read.unwrap_or(0) > 0, "no whole answer: {:?}", self.received);
                }
            }
        }
        self.answer_to(is_head).await
    }

    /// All that comes until the server closes the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.received).to_vec();
        let reading = self.stream.read_to_end(&mut rest);
        let read = tokio::time::timeout(ANSWER_TIME_MAX, reading).await;
        // A connection that is reset has an end too.
        let _ = read.expect("the server hangs up");
        rest
    }

    /// The same as text.
    pub(crate) async fn text(&mut self) -> String {
        String::from_utf8(self.rest().await).expect("text")
    }

    /// Reads until `end` finds how many bytes are wanted, and takes them.
    async fn until(&mut self, end: impl Fn(&[u8]) -> Option<usize>) -> BytesMut {
        let reads = async {
            loop {
                if let Some(count) = end(&self.received) {
                    return self.received.split_to(count);
                }
                let count = self.stream.read_buf(&mut self.received).await;
                assert!(
                    count.unwrap_or(0) > 0,
                    "the connection ended after {:?}",
                    String::from_utf8_lossy(&self.received)
                );
            }
        };
        let read = tokio::time::timeout(ANSWER_TIME_MAX, reads);
        read.await.expect("the server hangs")
    }
}

/// Sends bytes on a connection of their own, and gives all that comes until the server closes it.
pub(crate) async fn until_closed(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::to(address).await;
    raw.send(bytes).await;
    raw.text().await
}

/// A request as bytes: `line` is method and target. The length is that of `body` unless a header frames it in another way.
pub(crate) fn request(line: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{line} HTTP/1.1\r\nhost: registry.test:5000\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    let is_framed = |header: &&str| {
        header.starts_with("content-length") || header.starts_with("transfer-encoding")
    };
    if !headers.iter().any(is_framed) && !line.starts_with("GET") && !line.starts_with("HEAD") {
        let length = format!("content-length: {}\r\n", body.len());
        text.push_str(&length);
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

fn status_of(line: &str) -> u16 {
    let status = line.split(' ').nth(1).and_then(|text| text.parse().ok());
    status.unwrap_or_else(|| panic!("no status in {line}"))
}

/// Where the head at the beginning of `received` ends, if it is whole, and what it says.
fn head_of(received: &[u8]) -> Option<(usize, Answer)> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&received[..end]).expect("text");
    let mut lines = head.split("\r\n");
    let status = StatusCode::from_u16(status_of(lines.next()?)).expect("a status");
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("a header");
        let name: HeaderName = name.parse().expect("a header's name");
        let value: HeaderValue = value.trim().parse().expect("a header's value");
        headers.append(name, value);
    }
    let body = Bytes::new();
    let answer = Answer {
        status,
        headers,
        body,
    };
    Some((end + 4, answer))
}

/// How long the answer at the beginning of `received` is, if it is whole.
fn answer_bytes(received: &[u8], is_head: bool) -> Option<usize> {
    let (end, answer) = head_of(received)?;
    let has_no_body = is_head || matches!(answer.status.as_u16(), 204 | 304);
    let length = answer.headers.get("content-length");
    let length = length.filter(|_| !has_no_body).map_or(0, |text| {
        let length: usize = text.to_str().unwrap().parse().unwrap();
        length
    });
    (received.len() >= end + length).then_some(end + length)
}
