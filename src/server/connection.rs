//! Connections: taking them, TLS, HTTP, and letting go of them when the server ends.
//!
//! Must not know what a request asks. Invariant: no connection outlives the drain time, each has a place (`pressure`) for as
//! long as it lives, taking them never stops, and none is cut while its body moves before the drain time.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::server::Acceptor;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attendance::Attendance;
use super::dispatch::{Peer, State};
use super::incoming::RequestBody;
use super::pressure::{Place, Pressure, RESERVE};
use super::stall::StallGuard;
use super::{ServerError, Services, Settings};
use crate::auth::{FairQueue, Listening};
use crate::clock::Clock;
use crate::platform;
use crate::tls::Tls;

/// Requests on one HTTP/2 connection at once: an image has seldom more layers, and each may hold a window.
const STREAMS_MAX: u32 = 128;
/// HTTP/2 windows: hyper's 64 KiB caps a push at a few MB/s over a LAN. One connection holds at most the second.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What the windows of all HTTP/2 connections are, about: each new one has its part, down to what HTTP/2 begins with.
const ALL_WINDOWS_BYTES: u32 = 32 * 1024 * 1024;
const WINDOW_BYTES_MIN: u32 = 64 * 1024;
/// What the system holds for a client that reads slowly, beyond what is under way: the stall limit judges a reader by what
/// the system takes next, and a full buffer of the usual megabytes takes nothing for minutes from one who reads 16 KiB/s.
const UNSENT_BYTES: u32 = 128 * 1024;
/// What is encrypted and waits for the network, per connection: the library's 64 KiB ends each write after half a piece.
const TLS_BUFFER_BYTES: usize = 256 * 1024;
/// What one HTTP/1 connection gathers of answers before it writes, and of a request's body before it is taken: with the
/// library's 400 KiB, many pulls at once hold several pieces each.
const HTTP1_BUFFER_BYTES: usize = 128 * 1024;
/// Connections waiting to be taken.
const BACKLOG: i32 = 1_024;
/// A pause after a failed accept (no descriptors left), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections taken in one go while places are scarce; then their tasks run. A burst would otherwise fill the reserve several
/// times over, and each new connection would close one whose request was not read yet.
const BATCH_WHILE_SCARCE: usize = RESERVE / 2;
/// How often it is looked for connections that take too long while others may need their places.
const LOOK: Duration = Duration::from_secs(1);
/// What a connection that is put out has to end what it is saying.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Open files for everything but connections: the index, directories, what is written at the moment.
const DESCRIPTORS_SPARE: u64 = 256;
/// Open files of a connection: itself, and what it reads or writes.
const DESCRIPTORS_EACH: u64 = 2;
/// How often a connection is looked at in the time that it may idle.
const LOOKS_PER_REST: u32 = 4;
/// The first byte of every TLS connection: a handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// A server that listens, and does not answer yet.
pub struct Server {
    listener: TcpListener,
    state: Arc<State>,
}

impl Server {
    /// Listens on the configured address.
    pub fn bind(settings: Settings, services: Services) -> Result<Self, BindError> {
        let listener = listen(&settings.address).map_err(|source| BindError {
            address: settings.address.clone(),
            source,
        })?;
        if let Ok(address) = listener.local_addr() {
            let tls = services.tls.clone();
            services.auth.listens(Listening {
                port: address.port(),
                is_https: tls.is_some(),
                names: Box::new(move || {
                    tls.as_ref().map(|tls| tls.own_names()).unwrap_or_default()
                }),
            });
        }
        let limit = connections_max(settings.limits.connections);
        let proxies = settings.trusted_proxies.clone();
        let pressure = Pressure::new(limit, proxies, Arc::clone(&services.clock));
        let handshakes = handshake_queue(limit + RESERVE);
        Ok(Self {
            listener,
            state: Arc::new(State::new(services, settings, pressure, handshakes)),
        })
    }

    /// Where it listens.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` resolves; then takes no more connections, gives moving bodies their time, and returns.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let ending = CancellationToken::new();
        let connections = TaskTracker::new();
        let mut shutdown = std::pin::pin!(shutdown);
        let clock = Arc::clone(&self.state.services.clock);
        let pressure = self.state.pressure.clone();
        let mut look = clock.sleep(LOOK);
        let mut taken_while_scarce = 0;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut look => {
                    pressure.sweep(&self.state.settings.limits);
                    look = clock.sleep(LOOK);
                    continue;
                }
                () = &mut shutdown => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // One that finds no place at all is closed.
                    if let Some(place) = pressure.admit(peer.ip()) {
                        let state = Arc::clone(&self.state);
                        connections.spawn(serve(state, stream, peer, place, ending.clone()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    pressure.make_room();
                    clock.sleep(ACCEPT_PAUSE).await;
                }
            }
            taken_while_scarce += usize::from(pressure.is_high());
            if taken_while_scarce >= BATCH_WHILE_SCARCE {
                taken_while_scarce = 0;
                tokio::task::yield_now().await;
            }
        }
        drop(self.listener);
        ending.cancel();
        connections.close();
        drain(&connections, &self.state).await;
    }
}

/// Waits for the connections to end by themselves, within the drain time.
async fn drain(connections: &TaskTracker, state: &State) {
    let drain_secs = state.settings.drain_secs;
    if connections.is_empty() {
        return;
    }
    tracing::info!(
        connections = connections.len(),
        drain_secs,
        "ending: open requests are given their time"
    );
    tokio::select! {
        () = connections.wait() => tracing::info!("all requests have ended"),
        () = state.services.clock.sleep(Duration::from_secs(drain_secs)) => {
            tracing::warn!(connections = connections.len(), "requests that have not ended are cut off; uploads can be resumed");
        }
    }
}

async fn serve(
    state: Arc<State>,
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    ending: CancellationToken,
) {
    // Answers are written whole; waiting for more to send would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "cannot set TCP_NODELAY");
    }
    if let Err(error) = platform::limit_unsent(&stream, UNSENT_BYTES) {
        tracing::debug!(%error, %peer, "cannot limit what is unsent");
    }
    let Some(tls) = state.services.tls.clone() else {
        return serve_http(state, stream, peer, place, Speaks::Plain, ending).await;
    };
    let time = Duration::from_secs(state.settings.limits.handshake_secs);
    let is_tls = tokio::select! {
        first = first_byte(&stream) => first.map(|byte| byte == TLS_HANDSHAKE),
        () = state.services.clock.sleep(time) => None,
        () = place.put_out() => None,
        () = ending.cancelled() => None,
    };
    match is_tls {
        None => {}
        Some(false) => {
            serve_http(state, stream, peer, place, Speaks::PlainByMistake, ending).await;
        }
        Some(true) => {
            let stream = tokio::select! {
                accepted = shake_hands(&state, &tls, stream, peer) => accepted,
                () = state.services.clock.sleep(time) => return,
                () = place.put_out() => return,
                () = ending.cancelled() => return,
            };
            match stream {
                Ok(mut stream) => {
                    stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
                    serve_http(state, stream, peer, place, Speaks::Tls, ending).await;
                }
                // Mostly a client that does not trust our authority; it knows better what is wrong than we do.
                Err(error) => tracing::debug!(%error, %peer, "TLS handshake failed"),
            }
        }
    }
}

/// The TLS handshake. Its expensive part is the answer to the client's first message: a key exchange and a signature. Clients
/// take turns for it, so that a flood from one address delays only its own handshakes.
async fn shake_hands(
    state: &State,
    tls: &Tls,
    stream: TcpStream,
    peer: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let turn = state.handshakes.turn(peer.ip()).await;
    let turn = turn.map_err(std::io::Error::other)?;
    // The tasks that are ready run first: other clients join the queue, and requests are not delayed by a row of handshakes.
    tokio::task::yield_now().await;
    let http2 = !state.settings.http2_disabled;
    let config = tls.server_config(http2, start.client_hello().cipher_suites());
    let accepting = start.into_stream(config);
    // What remains is cheap, and waits for the network.
    drop(turn);
    accepting.await
}

/// One turn for each thread that could use it. Every connection may wait: their number is limited already.
fn handshake_queue(connections_max: usize) -> FairQueue {
    let threads = tokio::runtime::Handle::current().metrics().num_workers();
    FairQueue::new(threads, connections_max, connections_max)
}

async fn first_byte(stream: &TcpStream) -> Option<u8> {
    let mut byte = [0];
    match stream.peek(&mut byte).await {
        Ok(1) => Some(byte[0]),
        _ => None,
    }
}

/// What arrives on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Tls,
    Plain,
    /// HTTP on a port that speaks TLS: answered with what to do instead. Never a redirect, which a client might follow
    /// with its password in the clear.
    PlainByMistake,
}

async fn serve_http<S>(
    state: Arc<State>,
    stream: S,
    peer: SocketAddr,
    place: Place,
    speaks: Speaks,
    ending: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &state.settings.limits;
    let clock = Arc::clone(&state.services.clock);
    let was_refused = Arc::new(AtomicBool::new(false));
    let guard = StallGuard::new(
        stream,
        Arc::clone(&state.services.clock),
        Duration::from_secs(limits.stall_secs),
        Arc::clone(&was_refused),
    );
    let builder = builder(&state, speaks);
    place.pulse().speaks();
    let attendance = Attendance::new(Arc::clone(place.pulse()));
    let other_end = Peer {
        address: peer,
        is_tls: speaks == Speaks::Tls,
        is_reserve: place.is_reserve(),
    };
    let idle = |rest_secs| {
        let rest = Duration::from_secs(rest_secs);
        idle(attendance.clone(), Arc::clone(&state), rest)
    };
    let first_idle = idle(limits.header_secs);
    // What the HTTP library has taken over is read, or not, without our noticing: that gets its time too.
    let second_idle = idle(limits.header_secs.max(limits.stall_secs));
    let service = service_fn(move |request: Request<Incoming>| {
        let state = Arc::clone(&state);
        let in_use = attendance.begin();
        let body = |incoming| RequestBody::new(incoming, Arc::clone(&was_refused), in_use.turn());
        let request = request.map(body);
        async move {
            Ok::<_, Infallible>(match speaks {
                Speaks::PlainByMistake => {
                    let mut answer = plain_http_error(&request).response();
                    state.add_configured_headers(&mut answer);
                    answer
                }
                Speaks::Tls | Speaks::Plain => state.answer(request, other_end, in_use).await,
            })
        }
    });
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(guard), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async { tokio::select! { () = ending.cancelled() => {}, () = first_idle => {}, () = place.put_out() => {} } } => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection.as_mut() => result,
                // What it still holds, nobody reads.
                () = second_idle => return,
                () = last_words(&place, clock.as_ref()) => return,
            }
        }
    };
    if let Err(error) = result {
        // Clients leave in the middle of things all the time.
        tracing::debug!(error = %super::error::chain(error.as_ref()), %peer, "connection ended early");
    }
}

/// Resolves when a connection that is put out has had its last words.
async fn last_words(place: &Place, clock: &dyn Clock) {
    place.put_out().await;
    if place.may_finish() {
        clock.sleep(LAST_WORDS).await;
    }
}

/// Resolves when no request has come for `rest` and nobody reads what was answered: others may need the connection's
/// place. (HTTP/1 does so by itself; an HTTP/2 connection would stay for as long as its pings are answered.)
async fn idle(attendance: Attendance, state: Arc<State>, rest: Duration) {
    let patience = state.patience();
    let mut idle_since: Option<(u64, Duration)> = None;
    loop {
        state.services.clock.sleep(rest / LOOKS_PER_REST).await;
        let now = state.services.clock.elapsed();
        idle_since = match (attendance.look(&patience), idle_since) {
            (Some(begun), Some((before, since))) if begun == before => {
                if now.saturating_sub(since) >= rest {
                    return;
                }
                Some((before, since))
            }
            (Some(begun), _) => Some((begun, now)),
            (None, _) => None,
        };
    }
}

/// How many connections there may be: no more than the system has descriptors for.
fn connections_max(wanted: usize) -> usize {
    let Some(descriptors) = platform::raise_descriptor_limit() else {
        return wanted;
    };
    let room = descriptors.saturating_sub(DESCRIPTORS_SPARE) / DESCRIPTORS_EACH;
    let room = usize::try_from(room).unwrap_or(usize::MAX).max(RESERVE);
    if room < wanted {
        tracing::warn!(
            descriptors,
            connections = room,
            "fewer connections than `limits.connections`; hint: raise `ulimit -n`"
        );
    }
    wanted.min(room)
}

/// An HTTP/2 connection's part of all windows.
fn connection_window_bytes(connections: usize) -> u32 {
    let connections = u32::try_from(connections).unwrap_or(u32::MAX).max(1);
    (ALL_WINDOWS_BYTES / connections).clamp(WINDOW_BYTES_MIN, CONNECTION_WINDOW_BYTES)
}

fn builder(state: &State, speaks: Speaks) -> auto::Builder<TokioExecutor> {
    let settings = &state.settings;
    let window_bytes = connection_window_bytes(state.pressure.taken());
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // As distribution and every Go server write them: scripts look for `Docker-Content-Digest:`. The library knows names
        // in lower case only.
        .title_case_headers(true)
        .max_buf_size(HTTP1_BUFFER_BYTES)
        .header_read_timeout(Duration::from_secs(settings.limits.header_secs));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES.min(window_bytes))
        .initial_connection_window_size(window_bytes)
        // A peer that is gone without a word answers no ping.
        .keep_alive_interval(Duration::from_secs(settings.limits.header_secs))
        .keep_alive_timeout(Duration::from_secs(settings.limits.header_secs));
    if settings.http2_disabled || speaks == Speaks::PlainByMistake {
        return builder.http1_only();
    }
    builder
}

fn plain_http_error(request: &Request<RequestBody>) -> ServerError {
    let host = request
        .headers()
        .get(http::header::HOST)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("HOST");
    ServerError::PlainHttp {
        authority_url: format!("https://{host}/ca.crt"),
    }
}

/// Listens on `HOST:PORT`, or on every address of both families for `:PORT` (`.local` names resolve to IPv6 first).
fn listen(address: &str) -> std::io::Result<TcpListener> {
    let candidates: Vec<SocketAddr> = match address.strip_prefix(':') {
        Some(port) => {
            let port = port
                .parse()
                .map_err(|_| std::io::Error::other("the port is not a number"))?;
            vec![
                (std::net::Ipv6Addr::UNSPECIFIED, port).into(),
                (std::net::Ipv4Addr::UNSPECIFIED, port).into(),
            ]
        }
        None => std::net::ToSocketAddrs::to_socket_addrs(address)?.collect(),
    };
    let mut failure = std::io::Error::other("the name has no address");
    for candidate in candidates {
        match listen_on(candidate) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.ip() == std::net::IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // Lets a restarted server take its port back while old connections still linger.
    SockRef::from(&socket).set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// As configured.
    pub address: String,
    /// What the system said.
    pub source: std::io::Error,
}
