//! A client that takes as little of the machine as it can: client and server share it.
//!
//! HTTP/1.1 by hand over one connection that is kept. Must not know what is asked. Invariant: an answer that is not whole, or
//! does not say how long it is, is an error and never a figure.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// How much is read at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// How long the head of an answer may be.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// What docker's client sends at once of a layer.
const CHUNK_BYTES: usize = 64 * 1024;

/// Where a server listens, and what each request carries.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Header lines, each with its end.
    pub(crate) headers: String,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One connection.
pub(crate) struct Connection {
    target: Target,
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// What of the buffer was read and not looked at yet.
    unread: std::ops::Range<usize>,
}

/// The head of an answer.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) length_bytes: Option<u64>,
    pub(crate) location: String,
    /// How much of an upload is there.
    pub(crate) range: String,
    /// From the last byte of the request to the head of the answer.
    pub(crate) waited: Duration,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> io::Result<Self> {
        let tcp = TcpStream::connect(target.address).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &target.tls {
            None => Box::new(tcp),
            Some(config) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let name = ServerName::from(target.address.ip());
                Box::new(connector.connect(name, tcp).await?)
            }
        };
        Ok(Self {
            target: target.clone(),
            stream,
            buffer: vec![0; BUFFER_BYTES],
            unread: 0..0,
        })
    }

    /// Sends a request with a body of known length, and reads the whole answer; gives the length of its body.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[&[u8]],
    ) -> io::Result<Head> {
        let length: usize = body.iter().map(|part| part.len()).sum();
        let length = format!("content-length: {length}\r\n{headers}");
        let mut bytes = self.request_head(method, path, &length).into_bytes();
        if let [small] = body
            && small.len() <= CHUNK_BYTES
        {
            bytes.extend_from_slice(small);
            self.stream.write_all(&bytes).await?;
        } else {
            self.stream.write_all(&bytes).await?;
            for part in body {
                self.stream.write_all(part).await?;
            }
        }
        self.stream.flush().await?;
        self.answer(method == "HEAD").await
    }

    /// The same with a body of a length that is not told.
    pub(crate) async fn call_streaming(
        &mut self,
        method: &str,
        path: &str,
        body: &[&[u8]],
    ) -> io::Result<Head> {
        let head = self.request_head(method, path, "transfer-encoding: chunked\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        for part in body.iter().flat_map(|part| part.chunks(CHUNK_BYTES)) {
            let size = format!("{:x}\r\n", part.len());
            self.stream.write_all(size.as_bytes()).await?;
            self.stream.write_all(part).await?;
            self.stream.write_all(b"\r\n").await?;
        }
        self.stream.write_all(b"0\r\n\r\n").await?;
        self.stream.flush().await?;
        self.answer(false).await
    }

    fn request_head(&self, method: &str, path: &str, headers: &str) -> String {
        let Target {
            address,
            headers: more,
            ..
        } = &self.target;
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n{more}{headers}\r\n")
    }

    /// The body of a small answer.
    pub(crate) async fn body_of(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
    ) -> io::Result<Vec<u8>> {
        let head = self.request_head(method, path, headers);
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.flush().await?;
        let head = self.read_head().await?;
        let length = head.length_bytes.filter(|_| head.status == 200);
        let length =
            length.ok_or_else(|| io::Error::other(format!("{method} {path}: {head:?}")))?;
        let mut body = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let there = body.len().min(self.unread.len());
        let (front, rest) = body.split_at_mut(there);
        front.copy_from_slice(&self.buffer[self.unread.start..][..there]);
        self.unread.start += there;
        self.stream.read_exact(rest).await?;
        Ok(body)
    }

    async fn answer(&mut self, is_head: bool) -> io::Result<Head> {
        let sent = Instant::now();
        let mut head = self.read_head().await?;
        head.waited = sent.elapsed();
        let has_no_body = is_head || head.status == 204 || head.status == 304;
        let length = match head.length_bytes {
            _ if has_no_body => 0,
            Some(length) => length,
            None => return Err(io::Error::other(format!("no length: {head:?}"))),
        };
        self.skip(length).await?;
        Ok(head)
    }

    async fn read_head(&mut self) -> io::Result<Head> {
        loop {
            let unread = &self.buffer[self.unread.clone()];
            if let Some(end) = find_end(unread) {
                let head = parse_head(&unread[..end])?;
                self.unread.start += end;
                return Ok(head);
            }
            if self.unread.len() > HEAD_BYTES_MAX {
                return Err(io::Error::other("an endless head"));
            }
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
            let read = self
                .stream
                .read(&mut self.buffer[self.unread.end..])
                .await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.unread.end += read;
        }
    }

    async fn skip(&mut self, length_bytes: u64) -> io::Result<()> {
        let mut left = usize::try_from(length_bytes).map_err(io::Error::other)?;
        let there = left.min(self.unread.len());
        self.unread.start += there;
        left -= there;
        while left > 0 {
            let most = left.min(BUFFER_BYTES);
            let read = self.stream.read(&mut self.buffer[..most]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read;
        }
        Ok(())
    }
}

/// Where the head ends, if it is whole.
fn find_end(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}

fn parse_head(bytes: &[u8]) -> io::Result<Head> {
    let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok());
    let mut head = Head {
        status: status.ok_or_else(|| io::Error::other(format!("no status: {text}")))?,
        ..Head::default()
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            head.length_bytes = value.parse().ok();
        } else if name.eq_ignore_ascii_case("location") {
            value.clone_into(&mut head.location);
        } else if name.eq_ignore_ascii_case("range") {
            value.clone_into(&mut head.range);
        }
    }
    Ok(head)
}
