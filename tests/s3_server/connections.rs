//! Connections: one thread that accepts and answers them, and what goes wrong on the way.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Method, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use super::answer::{Answer, Failure, empty, http_date, set};
use super::checksums::sha256_hex;
use super::faults::Fault;
use super::request::{Kind, Request};
use super::signature::Payload;
use super::{Shared, handling, request, signature};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// What the thread is told; it answers when it is done.
pub(super) enum Command {
    GoAway(mpsc::Sender<()>),
    ComeBack(mpsc::Sender<()>),
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The connection is to be cut.
#[derive(Debug, thiserror::Error)]
#[error("cut, as planned or because the request was")]
struct Cut;

/// Serves until there is no sender of commands any more.
pub(super) fn run(
    shared: Arc<Shared>,
    mut commands: UnboundedReceiver<Command>,
    ready: &mpsc::Sender<SocketAddr>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        // Never listens: it keeps the port while the server is away.
        let reserved = socket((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let address = reserved.local_addr().expect("its address");
        let address = address.as_socket().expect("an internet address");
        let mut listener = Some(listen(address));
        ready.send(address).expect("the test waits for it");
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    None => break,
                    Some(Command::GoAway(done)) => {
                        listener = None;
                        connections.shutdown().await;
                        let _ = done.send(());
                    }
                    Some(Command::ComeBack(done)) => {
                        listener = Some(listen(address));
                        let _ = done.send(());
                    }
                },
                stream = accept(listener.as_ref()) => {
                    connections.spawn(serve(Arc::clone(&shared), stream));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    });
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = socket(address).expect("the port is kept");
    socket.listen(BACKLOG).expect("it listens");
    TcpListener::from_std(socket.into()).expect("a listener")
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        None => pending().await,
        Some(listener) => listener.accept().await.expect("a connection").0,
    }
}

/// One more connection, for as long as it is held.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        let mut state = shared.lock();
        state.connections += 1;
        state.connections_peak = state.connections_peak.max(state.connections);
        drop(state);
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.lock().connections -= 1;
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let _counted = Counted::new(&shared);
    let _ = stream.set_nodelay(true);
    // The same connection, for setting how it ends.
    let socket = SockRef::from(&stream).try_clone().expect("a descriptor");
    let socket = Arc::new(socket);
    let service = service_fn(move |request| {
        let (shared, socket) = (Arc::clone(&shared), Arc::clone(&socket));
        async move {
            let answer = respond(&shared, request).await;
            if answer.is_err() {
                // Closed this way, it is reset.
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
            answer
        }
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(shared: &Shared, request: http::Request<Incoming>) -> Result<Response<Body>, Cut> {
    let (parts, mut body) = request.into_parts();
    let parsed = request::parse(&parts);
    let fault = parsed.as_ref().ok().and_then(|(kind, key, _)| {
        let mut state = shared.lock();
        *state.requests.entry(*kind).or_default() += 1;
        state.plans.next(*kind, key)
    });
    match fault {
        Some(Fault::Reset) => return Err(Cut),
        Some(Fault::Silence) => pending().await,
        Some(Fault::ResetInBody) => {
            let half = body.size_hint().lower() / 2;
            let mut read = 0;
            while read < half {
                let frame = body.frame().await.ok_or(Cut)?.map_err(|_| Cut)?;
                read += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            return Err(Cut);
        }
        Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
        _ => {}
    }
    // A request that ends too early is none.
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let answer = if let Some(Fault::Refused(status, code)) = fault {
        Err(Failure::new(status, code))
    } else {
        happen(shared, &parts, parsed, body)
    };
    let is_head = parts.method == Method::HEAD;
    let mut answer = answer.unwrap_or_else(|failure| {
        let mut answer = failure.answer();
        if is_head {
            *answer.body_mut() = Bytes::new();
        }
        answer
    });
    if shared.lock().manners.is_a_web_server {
        answer = Answer::new("<html><h1>404 Not Found</h1></html>".into());
        *answer.status_mut() = StatusCode::NOT_FOUND;
    }
    match fault {
        Some(Fault::LostAnswer) => return Err(Cut),
        Some(Fault::LostBehindError) => answer = empty(StatusCode::INTERNAL_SERVER_ERROR),
        Some(Fault::SilenceAfter) => pending().await,
        Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
        _ => {}
    }
    let now = shared.lock().now();
    set(&mut answer, "date", &http_date(now));
    set(&mut answer, "server", "tests");
    let (parts, bytes) = answer.into_parts();
    let body = match fault {
        Some(Fault::CutBody) if bytes.is_empty() => return Err(Cut),
        Some(Fault::StalledBody) if bytes.is_empty() => pending().await,
        Some(Fault::CutBody) => cut(&bytes, stream::iter([Err(io::Error::other(Cut))]).boxed()),
        Some(Fault::StalledBody) => cut(&bytes, stream::pending().boxed()),
        _ => return Ok(Response::from_parts(parts, whole(bytes))),
    };
    let (length, body) = body;
    let mut answer = Response::from_parts(parts, body);
    let headers = answer.headers_mut();
    headers.insert(http::header::CONTENT_LENGTH, length.into());
    Ok(answer)
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// The length of a body, and the first half of it with what comes instead of the rest.
fn cut(bytes: &Bytes, then: stream::BoxStream<'static, io::Result<Bytes>>) -> (u64, Body) {
    let half = bytes.slice(..bytes.len() / 2);
    let frames = stream::iter([Ok(half)])
        .chain(then)
        .map(|bytes| bytes.map(Frame::data));
    (bytes.len() as u64, StreamBody::new(frames).boxed_unsync())
}

fn happen(
    shared: &Shared,
    parts: &http::request::Parts,
    parsed: Result<(Kind, String, std::collections::BTreeMap<String, String>), Failure>,
    body: Bytes,
) -> Result<Answer, Failure> {
    let mut state = shared.lock();
    let now = state.now();
    let payload = signature::check(parts, now, &state.manners)?;
    let (kind, key, query) = parsed?;
    if let Payload::Sha256(expected) = payload
        && expected != sha256_hex(&body)
    {
        return Err(Failure::bad_request("XAmzContentSHA256Mismatch"));
    }
    if state.manners.denied.contains(&kind) {
        return Err(Failure::forbidden("AccessDenied"));
    }
    let request = Request {
        kind,
        key,
        query,
        headers: parts.headers.clone(),
        body,
    };
    handling::handle(&mut state, &request)
}
