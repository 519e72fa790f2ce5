//! A small HTTP client for the commands that speak to a registry as its clients do: one connection, requests one after
//! another.
//!
//! Must not know what is asked, nor print anything. Invariant: nothing waits for ever, no answer is kept beyond a limit, and
//! a connection whose certificate was not checked is called [`Trust::Nobody`] where it is asked for.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::certificates;
use crate::clock::Clock;
use crate::host_port::{HostPort, default_port};

/// Time for a connection, and for each answer's head: over any network that could carry an image, more than enough.
const ANSWER_SECS: u64 = 10;
/// Beside that, the time that a body may take: at this rate a push of images would be no use.
const BODY_BYTES_PER_SEC_MIN: u64 = 64 * 1024;
/// Answers that are read whole are tokens, errors and one certificate.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// The head of an answer, and its body on the way.
pub(crate) type Answer = Response<Incoming>;

/// A body on its way out.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// Where to connect, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) address: HostPort,
    pub(crate) is_tls: bool,
}

/// Whose certificates are good.
pub(crate) enum Trust {
    /// Any certificate is accepted, so the peer is not known. Nothing secret may be sent.
    Nobody,
    /// Those that these authorities signed.
    Authorities(RootCertStore),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The name does not resolve.
    #[error(
        "the name {host} is not known on this machine\nhint: is it spelt right? a name in .local needs mDNS here (on Linux avahi-daemon and libnss-mdns); any other must be in DNS or in /etc/hosts"
    )]
    Name { host: String, source: io::Error },
    /// The connection is refused.
    #[error(
        "cannot connect to {address}\nhint: does the registry run, and on this port? `boathouse up` prints its address"
    )]
    Connect { address: String, source: io::Error },
    /// There is no answer in time.
    #[error(
        "{address} does not answer within {secs} s\nhint: check for a firewall between this machine and the registry"
    )]
    Silent { address: String, secs: u64 },
    /// What answers does not speak TLS.
    #[error(
        "{address} does not speak https\nhint: is this the right port? `boathouse up` prints it"
    )]
    NotTls { address: String },
    /// The handshake fails, mostly over the certificate.
    #[error("no TLS connection to {address}")]
    Tls {
        address: String,
        source: rustls::Error,
    },
    /// The connection is closed, or the answer is not HTTP.
    #[error("the connection to {address} failed")]
    Http {
        address: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// `HOST[:PORT]`, as in the names of images: without a port, 443 is meant.
pub(crate) fn parse_registry(text: &str) -> Result<HostPort, &'static str> {
    HostPort::parse_or_port(text, default_port(true))
        .map_err(|_| "must be HOST or HOST:PORT, as in an image's name")
}

/// Runs a command's conversation to its end.
pub(crate) fn converse<T>(conversation: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(conversation);
    // A look-up of a name goes on in a thread of its own after we have given it up: it is not waited for.
    runtime.shutdown_background();
    Ok(result)
}

/// TLS to a server whose certificate `trust` vouches for, at the time of `clock`.
pub(crate) fn tls_config(
    trust: Trust,
    clock: &Arc<dyn Clock>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let time = Arc::new(certificates::Time(Arc::clone(clock)));
    let builder = ClientConfig::builder_with_details(Arc::clone(&provider), time)
        .with_safe_default_protocol_versions()?
        .dangerous();
    let signatures = certificates::AnyCertificate(provider);
    let config = match trust {
        Trust::Authorities(roots) => {
            builder.with_custom_certificate_verifier(Arc::new(certificates::Vouched {
                roots,
                clock: Arc::clone(clock),
                signatures,
            }))
        }
        Trust::Nobody => builder.with_custom_certificate_verifier(Arc::new(signatures)),
    };
    Ok(config.with_no_client_auth())
}

/// Makes connections.
pub(crate) struct Client {
    tls: TlsConnector,
    clock: Arc<dyn Clock>,
}

/// One connection.
pub(crate) struct Connection {
    sender: SendRequest<Body>,
    /// What the server showed, its own first; empty without TLS.
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    server: Server,
    clock: Arc<dyn Clock>,
}

impl Client {
    pub(crate) fn new(trust: Trust, clock: Arc<dyn Clock>) -> Result<Self, rustls::Error> {
        let config = tls_config(trust, &clock)?;
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            clock,
        })
    }

    /// Connects to the first of its addresses that answers.
    pub(crate) async fn connect(&self, server: &Server) -> Result<Connection, ClientError> {
        let mut failure = None;
        for address in self.resolve(&server.address).await? {
            match self.reach(address).await {
                Ok(stream) => return self.speak(server, stream).await,
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| ClientError::Name {
            host: server.address.host().to_owned(),
            source: io::Error::other("it has no address"),
        }))
    }

    /// The addresses that the name leads to.
    pub(crate) async fn resolve(&self, address: &HostPort) -> Result<Vec<SocketAddr>, ClientError> {
        let looking_up = tokio::net::lookup_host((address.host(), address.port()));
        let found = tokio::select! {
            found = looking_up => found,
            () = self.clock.sleep(Duration::from_secs(ANSWER_SECS)) => {
                Err(io::Error::other("the name server does not answer"))
            }
        };
        let found = found.map_err(|source| ClientError::Name {
            host: address.host().to_owned(),
            source,
        })?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// Connects to one address, without a word.
    pub(crate) async fn reach(&self, address: SocketAddr) -> Result<TcpStream, ClientError> {
        let stream = tokio::select! {
            stream = TcpStream::connect(address) => stream,
            () = self.clock.sleep(Duration::from_secs(ANSWER_SECS)) => {
                return Err(silent(&address, ANSWER_SECS));
            }
        };
        let connected = stream.and_then(|stream| {
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        connected.map_err(|source| ClientError::Connect {
            address: address.to_string(),
            source,
        })
    }

    /// TLS, if the server has it, and HTTP.
    pub(crate) async fn speak(
        &self,
        server: &Server,
        stream: TcpStream,
    ) -> Result<Connection, ClientError> {
        if !server.is_tls {
            return self.speak_http(server, stream, Vec::new()).await;
        }
        let address = &server.address;
        let tls_error = |source: rustls::Error| match source {
            rustls::Error::InvalidMessage(_) => ClientError::NotTls {
                address: address.to_string(),
            },
            source => ClientError::Tls {
                address: address.to_string(),
                source,
            },
        };
        let name = ServerName::try_from(address.host().to_owned())
            .map_err(|_| tls_error(rustls::Error::General("the name cannot be one".into())))?;
        let handshake = tokio::select! {
            stream = self.tls.connect(name, stream) => stream,
            () = self.clock.sleep(Duration::from_secs(ANSWER_SECS)) => {
                return Err(silent(address, ANSWER_SECS));
            }
        };
        let stream = handshake.map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            match inner {
                Some(source) => tls_error(rustls::Error::clone(source)),
                None => broken(server, error),
            }
        })?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificates = shown.to_vec();
        self.speak_http(server, stream, certificates).await
    }

    async fn speak_http(
        &self,
        server: &Server,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<Connection, ClientError> {
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(server, error))?;
        tokio::spawn(connection);
        Ok(Connection {
            sender,
            certificates,
            server: server.clone(),
            clock: Arc::clone(&self.clock),
        })
    }
}

impl Connection {
    /// Sends a request of `size_bytes` bytes and waits for the head of the answer. Its path is relative to the server.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<Body>,
        size_bytes: u64,
    ) -> Result<Answer, ClientError> {
        let host = self.server.address.to_string();
        if let Ok(host) = host.parse() {
            request.headers_mut().insert(HOST, host);
        }
        let agent = HeaderValue::from_static(concat!("boathouse/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        let secs = ANSWER_SECS + size_bytes / BODY_BYTES_PER_SEC_MIN;
        let sending = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        tokio::select! {
            answer = sending => answer.map_err(|error| broken(&self.server, error)),
            () = self.clock.sleep(Duration::from_secs(secs)) => Err(silent(&self.server.address, secs)),
        }
    }

    /// The body of an answer, if it is small.
    pub(crate) async fn read(&self, answer: Answer) -> Result<Bytes, ClientError> {
        let mut whole = Vec::new();
        self.read_through(answer, ANSWER_BYTES_MAX, |piece| {
            whole.extend_from_slice(piece);
        })
        .await?;
        Ok(whole.into())
    }

    /// Shows the body of an answer to `see`, piece by piece; a body of more than `limit_bytes` is an error.
    pub(crate) async fn read_through(
        &self,
        answer: Answer,
        limit_bytes: usize,
        mut see: impl FnMut(&[u8]),
    ) -> Result<(), ClientError> {
        let secs = ANSWER_SECS + limit_bytes as u64 / BODY_BYTES_PER_SEC_MIN;
        let mut body = Limited::new(answer.into_body(), limit_bytes);
        let reading = async {
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| broken(&self.server, error))?;
                if let Some(piece) = frame.data_ref() {
                    see(piece);
                }
            }
            Ok(())
        };
        tokio::select! {
            read = reading => read,
            () = self.clock.sleep(Duration::from_secs(secs)) => Err(silent(&self.server.address, secs)),
        }
    }
}

/// A request without a body.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A body of the same piece again and again.
pub(crate) fn repeated(piece: Bytes, times: usize) -> Body {
    let frames = std::iter::repeat_n(piece, times).map(|piece| Ok(Frame::data(piece)));
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

fn silent(address: &impl ToString, secs: u64) -> ClientError {
    ClientError::Silent {
        address: address.to_string(),
        secs,
    }
}

fn broken(
    server: &Server,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ClientError {
    ClientError::Http {
        address: server.address.to_string(),
        source: source.into(),
    }
}
