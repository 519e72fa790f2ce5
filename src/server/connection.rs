//! Connections: accepting them, TLS, HTTP, and closing them when the server ends.
//!
//! Must not know what a request asks. Invariants: the server never stops accepting connections. Each connection has a slot
//! (`admission`) while it lives. None outlives the drain time, and none is closed before that while its body makes
//! progress.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::join_all;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, RESERVE, Slot};
use super::incoming::RequestBody;
use super::open_requests::OpenRequests;
use super::route::Route;
use super::socket::{BindError, BoundAddress, BoundSocket, ListeningSocket, PassedSockets, Stream};
use super::stall::StallGuard;
use super::state::{self, Peer, State};
use super::{Services, Settings, Site};
use crate::auth::{FairQueue, Listening};
use crate::clock::Clock;
use crate::metrics::{Direction, Stop};
use crate::platform;
use crate::tls::Tls;

/// Parallel requests on one HTTP/2 connection. An image seldom has more layers, and each request may hold a window.
const STREAMS_MAX: u32 = 128;
/// HTTP/2 windows. With hyper's 64 KiB, a push over a LAN is limited to a few MB/s. The second one limits what a connection
/// holds.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// The approximate sum of the windows of all HTTP/2 connections. Each new one gets a share of it, but at least the initial
/// window of HTTP/2.
const ALL_WINDOWS_BYTES: u32 = 32 * 1024 * 1024;
const WINDOW_BYTES_MIN: u32 = 64 * 1024;
/// Encrypted bytes that wait for the network, for each connection. With the library's 64 KiB, each write ends after half a
/// piece.
const TLS_BUFFER_BYTES: usize = 256 * 1024;
/// What one HTTP/1 connection buffers: of answers before it writes them, and of a request's body before it is read. With
/// the library's 400 KiB, many parallel pulls hold several pieces each.
const HTTP1_BUFFER_BYTES: usize = 128 * 1024;
/// The pause after a failed accept, which would otherwise repeat in a tight loop while there are no file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections accepted in a row; then their tasks run. While there are no free slots, a burst would otherwise fill the reserve
/// several times over, and each new connection would close one whose request was not read yet.
const ACCEPTED_IN_A_ROW_MAX: usize = RESERVE / 2;
/// How often connections are checked that take too long while slots are scarce.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
/// The time in which an evicted connection may finish its answer.
const FINISH_TIME: Duration = Duration::from_secs(1);
/// How long a connection without a request may live on when the server ends. Its client has connected in time, and the request
/// may be on its way: where a service manager keeps the port open, no request is refused during a restart.
const FIRST_REQUEST_TIME: Duration = Duration::from_secs(1);
/// File descriptors for everything but connections: the index, directories, files that are being written.
const DESCRIPTORS_SPARE: u64 = 256;
/// File descriptors of a connection: the socket, and the file that it reads or writes.
const DESCRIPTORS_EACH: u64 = 2;
/// How often a connection is checked during the time that it may be idle.
const CHECKS_PER_REST: u32 = 4;
/// The first byte of every TLS connection: a handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// A place where a server listens: its bound sockets, and what is served there.
pub struct Listener {
    /// At least one; several where each has one family of addresses.
    sockets: Vec<BoundSocket>,
    /// Certificates; `None` for plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// What is answered here, of the site.
    pub routes: Routes,
    /// The settings, limits among them. Their `address` is only used by [`Listener::on`].
    pub settings: Settings,
}

/// Which requests to the registry a listener answers.
#[derive(Debug, Clone, Copy)]
pub enum Routes {
    /// Everything.
    All,
    /// Only these; everything else is unknown here.
    Only(fn(&Route) -> bool),
}

impl Routes {
    pub(super) fn hold(self, route: &Route) -> bool {
        match self {
            Self::All => true,
            Self::Only(hold) => hold(route),
        }
    }
}

impl Listener {
    /// Takes the sockets for the address of the settings that were passed; without one, binds it. All routes, no TLS.
    pub fn on(settings: Settings, passed: &mut PassedSockets) -> Result<Self, BindError> {
        let mut sockets = passed.take_for(&settings.address);
        if sockets.is_empty() {
            sockets.push(BoundSocket::bind(&settings.address)?);
        }
        Ok(Self::new(sockets, settings))
    }

    /// Takes a socket that is bound already, as an init system passes it to the services that it starts.
    pub fn inherited(descriptor: OwnedFd, settings: Settings) -> Self {
        Self::new(vec![BoundSocket::inherited(descriptor)], settings)
    }

    fn new(sockets: Vec<BoundSocket>, settings: Settings) -> Self {
        Self {
            sockets,
            tls: None,
            routes: Routes::All,
            settings,
        }
    }

    /// What `auth` must know of it, to recognise the names of this registry.
    fn listening(&self) -> Option<Listening> {
        let tls = self.tls.clone();
        Some(Listening {
            port: self.sockets.first()?.address().ok()?.tcp()?.port(),
            is_https: tls.is_some(),
            names: Box::new(move || tls.as_ref().map(|tls| tls.own_names()).unwrap_or_default()),
        })
    }
}

/// A server that is bound to its addresses, and does not accept connections yet.
pub struct Server {
    listeners: Vec<(Vec<ListeningSocket>, Arc<State>)>,
}

impl Server {
    /// Listens on `listeners`. Each has its own connection limit; all take the same turns for TLS handshakes.
    pub fn listen(
        listeners: Vec<(Listener, Site)>,
        services: &Services,
    ) -> Result<Self, BindError> {
        let registries = listeners
            .iter()
            .filter(|(_, site)| matches!(site, Site::Registry(_)));
        let listening = registries.filter_map(|(listener, _)| listener.listening());
        services.auth.listens(listening.collect());
        let count = listeners.len();
        let limit = |settings: &Settings| connections_max(settings.limits.connections, count);
        let limits = listeners
            .iter()
            .map(|(each, _)| limit(&each.settings) + RESERVE);
        let handshakes = handshake_queue(limits.sum());
        let listen = |(listener, site): (Listener, Site)| {
            let Listener {
                sockets,
                tls,
                routes,
                settings,
            } = listener;
            let sockets: io::Result<_> = sockets.into_iter().map(BoundSocket::listen).collect();
            let sockets = sockets.map_err(|source| BindError {
                address: settings.address.clone(),
                source,
            })?;
            let proxies = settings.trusted_proxies.clone();
            let clock = Arc::clone(&services.clock);
            let admission = Admission::new(limit(&settings), proxies, clock);
            let seen = admission.clone();
            let look = Box::new(move || seen.figures());
            services.metrics.add_listener(site.label(), look);
            let state = State {
                services: services.clone(),
                site,
                tls,
                routes,
                admission,
                handshakes: handshakes.clone(),
                configured_headers: state::configured_headers(&settings),
                settings,
            };
            Ok((sockets, Arc::new(state)))
        };
        let listeners: Result<_, BindError> = listeners.into_iter().map(listen).collect();
        Ok(Self {
            listeners: listeners?,
        })
    }

    /// The bound address of each listener, of its first socket.
    pub fn addresses(&self) -> Vec<BoundAddress> {
        let sockets = self.listeners.iter().map(|(sockets, _)| sockets.first());
        sockets
            .flatten()
            .map(|socket| socket.address().clone())
            .collect()
    }

    /// Serves until `shutdown` resolves. Then it accepts no more connections, waits for open requests within the drain
    /// time, and returns.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let ending = CancellationToken::new();
        let connections = TaskTracker::new();
        let accepting = self.listeners.iter().flat_map(|(sockets, state)| {
            let (connections, ending) = (&connections, &ending);
            let accept = move |socket| accept(socket, state, connections, ending);
            sockets.iter().map(accept)
        });
        tokio::select! {
            _ = join_all(accepting) => {}
            () = shutdown => {}
        }
        let states: Vec<Arc<State>> = self.listeners.into_iter().map(|(_, state)| state).collect();
        ending.cancel();
        connections.close();
        drain(&connections, &states).await;
    }
}

/// Accepts connections, each in a task of its own; never returns.
async fn accept(
    socket: &ListeningSocket,
    state: &Arc<State>,
    connections: &TaskTracker,
    ending: &CancellationToken,
) {
    let clock = Arc::clone(&state.services.clock);
    let admission = state.admission.clone();
    let mut sweep = clock.sleep(SWEEP_PAUSE);
    let mut accepted_in_a_row = 0;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = &mut sweep => {
                admission.sweep(&state.settings.limits);
                sweep = clock.sleep(SWEEP_PAUSE);
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                match admission.admit(peer.ip()) {
                    Some(slot) => {
                        let state = Arc::clone(state);
                        connections.spawn(serve(state, stream, peer, slot, ending.clone()));
                    }
                    // The connection is closed.
                    None => state.services.metrics.counters.refuse_connection(),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                admission.make_room();
                clock.sleep(ACCEPT_PAUSE).await;
            }
        }
        accepted_in_a_row += 1;
        if accepted_in_a_row >= ACCEPTED_IN_A_ROW_MAX {
            accepted_in_a_row = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Waits until all connections have ended, at most for the drain time.
async fn drain(connections: &TaskTracker, states: &[Arc<State>]) {
    let longest = states.iter().max_by_key(|state| state.settings.drain_secs);
    let Some(state) = longest.filter(|_| !connections.is_empty()) else {
        return;
    };
    let drain_secs = state.settings.drain_secs;
    tracing::info!(
        connections = connections.len(),
        drain_secs,
        "shutting down: waiting for open requests"
    );
    tokio::select! {
        () = connections.wait() => tracing::info!("all requests have ended"),
        () = state.services.clock.sleep(Duration::from_secs(drain_secs)) => {
            tracing::warn!(connections = connections.len(), "the drain time is over: closing open requests; uploads can be resumed");
        }
    }
}

async fn serve(
    state: Arc<State>,
    stream: Stream,
    peer: SocketAddr,
    slot: Slot,
    ending: CancellationToken,
) {
    stream.tune();
    let peer = Peer {
        address: peer,
        is_unix: stream.is_unix(),
        is_tls: false,
        is_reserve: slot.is_reserve(),
    };
    let Some(tls) = state.tls.clone() else {
        return serve_http(state, stream, peer, slot, HttpOver::Plain, ending).await;
    };
    let clock = Arc::clone(&state.services.clock);
    let time = Duration::from_secs(state.settings.limits.handshake_secs);
    let is_tls = tokio::select! {
        first = stream.first_byte() => first.map(|byte| byte == TLS_HANDSHAKE),
        () = clock.sleep(time) => None,
        () = slot.evicted() => None,
        () = no_request_came(&ending, clock.as_ref()) => None,
    };
    match is_tls {
        None => {}
        Some(false) => {
            serve_http(state, stream, peer, slot, HttpOver::PlainOnTlsPort, ending).await;
        }
        Some(true) => {
            let stream = tokio::select! {
                accepted = shake_hands(&state, &tls, stream, peer.address) => accepted,
                () = clock.sleep(time) => return,
                () = slot.evicted() => return,
                () = no_request_came(&ending, clock.as_ref()) => return,
            };
            match stream {
                Ok(mut stream) => {
                    stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
                    let peer = Peer {
                        is_tls: true,
                        ..peer
                    };
                    serve_http(state, stream, peer, slot, HttpOver::Tls, ending).await;
                }
                // Usually the client does not trust our authority. It reports the cause itself.
                Err(error) => {
                    state.services.metrics.counters.fail_handshake();
                    tracing::debug!(%error, peer = %peer.address, "TLS handshake failed");
                }
            }
        }
    }
}

/// The server ends, and so does the time for the first request of a connection.
async fn no_request_came(ending: &CancellationToken, clock: &dyn Clock) {
    ending.cancelled().await;
    clock.sleep(FIRST_REQUEST_TIME).await;
}

/// The TLS handshake. Its expensive part is the answer to the client's first message: a key exchange and a signature.
/// Clients take turns for it, so that a flood from one address delays only its own handshakes.
async fn shake_hands(
    state: &State,
    tls: &Tls,
    stream: Stream,
    peer: SocketAddr,
) -> std::io::Result<TlsStream<Stream>> {
    // Before the handshake takes the stream, and only where it decides: it is a call of the system for each connection.
    let own_address = if tls.chooses_by_address() {
        stream.own_address()
    } else {
        None
    };
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let turn = state.handshakes.turn(peer.ip()).await;
    let turn = turn.map_err(std::io::Error::other)?;
    // Other tasks run first: other clients join the queue, and requests do not wait for a series of handshakes.
    tokio::task::yield_now().await;
    let http2 = !state.settings.http2_disabled;
    let config = tls.server_config(http2, start.client_hello().cipher_suites(), own_address);
    let accepting = start.into_stream(config);
    // The rest is cheap, and waits for the network.
    drop(turn);
    accepting.await
}

/// One turn for each worker thread. Every connection may wait, because their number is already limited.
fn handshake_queue(connections_max: usize) -> FairQueue {
    let threads = tokio::runtime::Handle::current().metrics().num_workers();
    FairQueue::new(threads, connections_max, connections_max)
}

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HttpOver {
    Tls,
    Plain,
    /// HTTP on a port for HTTPS. The answer says what to do instead. It is never a redirect: a client might follow it and
    /// send its password unencrypted.
    PlainOnTlsPort,
}

async fn serve_http<S>(
    state: Arc<State>,
    stream: S,
    peer: Peer,
    slot: Slot,
    protocol: HttpOver,
    ending: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &state.settings.limits;
    let clock = Arc::clone(&state.services.clock);
    let counters = Arc::clone(&state.services.metrics.counters);
    let has_unread_body = Arc::new(AtomicBool::new(false));
    let guard = StallGuard::new(
        stream,
        Arc::clone(&state.services.clock),
        Duration::from_secs(limits.stall_secs),
        Arc::clone(&has_unread_body),
    );
    let builder = builder(&state, protocol);
    slot.activity().handshake_done();
    let open_requests = OpenRequests::new(Arc::clone(slot.activity()));
    let idle = |rest_secs| {
        let rest = Duration::from_secs(rest_secs);
        idle(open_requests.clone(), Arc::clone(&state), rest)
    };
    let first_idle = idle(limits.header_secs);
    // The HTTP library may hold data that the client does not read. This gives the client the time to read it.
    let second_idle = idle(limits.header_secs.max(limits.stall_secs));
    let has_begun = Arc::new(Notify::new());
    let first_request = Arc::clone(&has_begun);
    let service = service_fn(move |request: Request<Incoming>| {
        let state = Arc::clone(&state);
        let in_flight = open_requests.begin();
        has_begun.notify_one();
        let body = |incoming| {
            RequestBody::new(incoming, Arc::clone(&has_unread_body), in_flight.activity())
        };
        let request = request.map(body);
        async move {
            Ok::<_, Infallible>(match protocol {
                HttpOver::PlainOnTlsPort => {
                    let mut answer = state.error_answer(&state.plain_http_error(&request));
                    state.add_configured_headers(&mut answer);
                    answer
                }
                HttpOver::Tls | HttpOver::Plain => state.answer(request, peer, in_flight).await,
            })
        }
    });
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(guard), service));
    let ended = async {
        ending.cancelled().await;
        first_request.notified().await;
    };
    let stayed_idle = no_request_came(&ending, clock.as_ref());
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async { tokio::select! { () = ended => {}, () = stayed_idle => {}, () = first_idle => {}, () = slot.evicted() => {} } } => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection.as_mut() => result,
                // The client does not read the rest.
                () = second_idle => return,
                () = finish_answer(&slot, clock.as_ref()) => return,
            }
        }
    };
    if let Err(error) = result {
        if has_stopped_reading(error.as_ref()) {
            counters.stop(Direction::Send, Stop::Stalled);
        }
        // Clients often close connections early.
        tracing::debug!(error = %crate::telemetry::chain(error.as_ref()), peer = %peer.address, "connection ended early");
    }
}

/// Whether a connection ended because its client read nothing for the stall limit (`stall`), or the network lost it.
fn has_stopped_reading(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref().map(io::Error::kind);
        if kind == Some(io::ErrorKind::TimedOut) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Resolves when an evicted connection must close.
async fn finish_answer(slot: &Slot, clock: &dyn Clock) {
    slot.evicted().await;
    if slot.may_finish() {
        clock.sleep(FINISH_TIME).await;
    }
}

/// Resolves when the connection has been idle for `rest`: no request has come, and no answer is being read. (HTTP/1
/// connections also end by themselves; an HTTP/2 connection would stay open while the client answers pings.)
async fn idle(open_requests: OpenRequests, state: Arc<State>, rest: Duration) {
    let body_limits = state.body_limits();
    let mut idle_since: Option<(u64, Duration)> = None;
    loop {
        state.services.clock.sleep(rest / CHECKS_PER_REST).await;
        let now = state.services.clock.elapsed();
        idle_since = match (open_requests.look(&body_limits), idle_since) {
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

/// The maximum number of connections of one of `listeners`: not more than there are file descriptors for.
fn connections_max(wanted: usize, listeners: usize) -> usize {
    let Some(descriptors) = platform::raise_descriptor_limit() else {
        return wanted;
    };
    let room = descriptors.saturating_sub(DESCRIPTORS_SPARE) / DESCRIPTORS_EACH;
    let room = usize::try_from(room).unwrap_or(usize::MAX) / listeners.max(1);
    let room = room.max(RESERVE);
    if room < wanted {
        tracing::warn!(
            descriptors,
            connections = room,
            "too few file descriptors for `limits.connections`; hint: raise `ulimit -n`"
        );
    }
    wanted.min(room)
}

/// The window of one HTTP/2 connection: its share of all windows.
fn connection_window_bytes(connections: usize) -> u32 {
    let connections = u32::try_from(connections).unwrap_or(u32::MAX).max(1);
    (ALL_WINDOWS_BYTES / connections).clamp(WINDOW_BYTES_MIN, CONNECTION_WINDOW_BYTES)
}

fn builder(state: &State, protocol: HttpOver) -> auto::Builder<TokioExecutor> {
    let settings = &state.settings;
    let window_bytes = connection_window_bytes(state.admission.taken());
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Header names as distribution and other Go servers write them: scripts search for `Docker-Content-Digest:`.
        // Otherwise the library writes names in lower case.
        .title_case_headers(true)
        .max_buf_size(HTTP1_BUFFER_BYTES)
        .header_read_timeout(Duration::from_secs(settings.limits.header_secs));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES.min(window_bytes))
        .initial_connection_window_size(window_bytes)
        // Closes connections of clients that have disappeared: they do not answer pings.
        .keep_alive_interval(Duration::from_secs(settings.limits.header_secs))
        .keep_alive_timeout(Duration::from_secs(settings.limits.header_secs));
    let is_http1_only = match protocol {
        HttpOver::Tls => settings.http2_disabled,
        HttpOver::Plain => settings.http2_disabled && !settings.h2c,
        HttpOver::PlainOnTlsPort => true,
    };
    if is_http1_only {
        return builder.http1_only();
    }
    builder
}
