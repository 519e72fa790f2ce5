//! The HTTP client under the SDK: hyper's, with TLS by the crypto library of the whole program.
//!
//! The SDK's own client obeys `HTTP_PROXY`, cannot skip the verification of certificates, and brings five more crates. Must not
//! know S3. Invariants: a connection begins within [`CONNECT_TIME`]; where the configuration names authorities, no other one
//! is trusted.

use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::{HttpClient, RuntimeComponents};
use aws_sdk_s3::error::ConnectorError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat, SdkBody};
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::http::{
    HttpConnector as SdkConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use http::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::settings::Settings;
use crate::clock::Clock;

/// How long it may take until a connection is there, TLS included: a healthy one takes milliseconds, and the SDK's own limit
/// is 3.1 s.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long a connection without requests is kept: less than the minute after which proxies and load balancers commonly drop one
/// without a word.
const IDLE_TIME: Duration = Duration::from_secs(45);

/// The clock of the bucket is followed when it differs by more than this. Answers name it in whole seconds, and take time.
const CLOCK_STEP: Duration = Duration::from_secs(3);

/// Sends requests; clones share their connections.
#[derive(Clone)]
pub(super) struct Connector {
    client: Client<Dial, SdkBody>,
    bucket_clock: BucketClock,
}

impl Connector {
    /// Reads the authorities' certificates; connects to nothing.
    pub(super) fn new(settings: &Settings, bucket_clock: BucketClock) -> io::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIME));
        let tls = match &settings.ca_file {
            _ if settings.skips_verification => Tls::ready(without_verification()?),
            Some(file) => Tls::ready(trusting(authorities_in(file)?)?),
            None => Tls::default(),
        };
        let dial = Dial {
            tcp,
            tls: Arc::new(tls),
            clock: Arc::clone(&bucket_clock.clock),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_timer(TokioTimer::new())
            .build(dial);
        Ok(Self {
            client,
            bucket_clock,
        })
    }

    /// Sends one request, as it is.
    pub(super) async fn send(
        &self,
        request: http::Request<SdkBody>,
    ) -> Result<http::Response<SdkBody>, ConnectorError> {
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| ConnectorError::io(error.into()))?;
        let date = answer.headers().get(http::header::DATE);
        if let Some(date) = date.and_then(|date| date.to_str().ok()) {
            self.bucket_clock.follow(date);
        }
        Ok(answer.map(SdkBody::from_body_1_x))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Connector")
    }
}

impl HttpClient for Connector {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        // Only the search for credentials at an instance asks for a limit; requests to the bucket have theirs in `attempts`.
        let connect = settings.connect_timeout().unwrap_or(CONNECT_TIME);
        SharedHttpConnector::new(Limited {
            connector: self.clone(),
            limit: settings.read_timeout().map(|read| read + connect),
        })
    }
}

/// A [`Connector`] whose answers must begin within a time.
#[derive(Debug)]
struct Limited {
    connector: Connector,
    limit: Option<Duration>,
}

impl SdkConnector for Limited {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (connector, limit) = (self.connector.clone(), self.limit);
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x();
            let request = request.map_err(|error| ConnectorError::user(error.into()))?;
            let answer = match limit {
                None => connector.send(request).await?,
                Some(limit) => {
                    let late = connector.bucket_clock.clock.sleep(limit);
                    tokio::select! {
                        answer = connector.send(request) => answer?,
                        () = late => return Err(ConnectorError::timeout("no answer in time".into())),
                    }
                }
            };
            HttpResponse::try_from(answer)
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// The time at the bucket, which dates requests: that of this machine, corrected by what answers say. A machine whose clock is
/// wrong is thus not refused, and a request that expires does so by the clock of who carries it out.
#[derive(Clone)]
pub(super) struct BucketClock {
    clock: Arc<dyn Clock>,
    ahead_millis: Arc<AtomicI64>,
    is_known: Arc<AtomicBool>,
}

impl BucketClock {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            ahead_millis: Arc::default(),
            is_known: Arc::default(),
        }
    }

    /// Whether any answer has named it yet.
    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// How far it is ahead of this machine's (negative: behind), in seconds.
    pub(super) fn ahead_secs(&self) -> i64 {
        self.ahead_millis.load(Ordering::Relaxed) / 1000
    }

    fn follow(&self, date: &str) {
        let Ok(date) = DateTime::from_str(date, DateTimeFormat::HttpDate) else {
            return;
        };
        let Ok(there) = date.to_millis() else {
            return;
        };
        let ahead = there.saturating_sub(millis(self.clock.now()));
        let before = self.ahead_millis.load(Ordering::Relaxed);
        if u128::from(ahead.abs_diff(before)) > CLOCK_STEP.as_millis() {
            self.ahead_millis.store(ahead, Ordering::Relaxed);
        }
        self.is_known.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for BucketClock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "BucketClock({} s ahead)", self.ahead_secs())
    }
}

impl TimeSource for BucketClock {
    fn now(&self) -> SystemTime {
        let ahead = self.ahead_millis.load(Ordering::Relaxed);
        let by = Duration::from_millis(ahead.unsigned_abs());
        let here = self.clock.now();
        if ahead < 0 { here - by } else { here + by }
    }
}

/// Since 1970.
fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Makes connections.
#[derive(Clone)]
struct Dial {
    tcp: HttpConnector,
    tls: Arc<Tls>,
    clock: Arc<dyn Clock>,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Socket>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_ready(context).map_err(io::Error::other)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (tls, late) = (Arc::clone(&self.tls), self.clock.sleep(CONNECT_TIME));
        let tcp = self.tcp.call(uri.clone());
        let connect = async move {
            let tcp = tcp.await.map_err(io::Error::other)?.into_inner();
            if uri.scheme_str() != Some("https") {
                return Ok(TokioIo::new(Socket::Plain(tcp)));
            }
            // An IPv6 address is in brackets in a URI, and not in a certificate.
            let host = uri.host().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let tls = TlsConnector::from(tls.config()?).connect(name, tcp).await?;
            Ok(TokioIo::new(Socket::Tls(Box::new(tls))))
        };
        Box::pin(async move {
            tokio::select! {
                connected = connect => connected,
                () = late => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")),
            }
        })
    }
}

/// A connection.
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}

/// How TLS is spoken. The certificates of the system are read only if it is: that takes some 20 ms.
#[derive(Default)]
struct Tls(OnceLock<Arc<ClientConfig>>);

impl Tls {
    fn ready(config: ClientConfig) -> Self {
        Self(OnceLock::from(Arc::new(config)))
    }

    fn config(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = self.0.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = Arc::new(trusting(roots)?);
        Ok(Arc::clone(self.0.get_or_init(|| config)))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn authorities_in(file: &Path) -> io::Result<RootCertStore> {
    let unusable = |what: String| {
        let text = format!("{}: {what}", file.display());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    let pem = std::fs::read(file).map_err(|error| unusable(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| unusable("not a PEM file".to_owned()))?;
        let added = roots.add(certificate);
        added.map_err(|error| unusable(format!("a certificate cannot be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

fn trusting(roots: RootCertStore) -> io::Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn without_verification() -> io::Result<ClientConfig> {
    let provider = provider();
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous();
    let config = config.with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)));
    Ok(config.with_no_client_auth())
}

/// `skipverify`: whatever the server shows is accepted. That it holds the key of what it shows is still checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        (self.0.signature_verification_algorithms).supported_schemes()
    }
}
