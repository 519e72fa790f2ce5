//! Sockets: from an address in the configuration to an accepted connection, over TCP or a Unix socket; bound here, or by the
//! service manager that started this program.
//!
//! Must not know HTTP or TLS. Invariants: a file is removed to make place for a socket only if it is itself a socket at
//! which no program listens; a socket file that was made here is removed when its socket is dropped; a socket of the service
//! manager is used only for an address that the configuration names.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::host_port::HostPort;
use crate::platform;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;
/// What the system buffers for a client that reads slowly, beyond what is in flight. The stall limit judges a client by
/// what the system takes next. With the usual buffer of megabytes, it would take nothing for minutes from a client that
/// reads 16 KiB/s.
const UNSENT_BYTES: u32 = 128 * 1024;
/// The address that stands for the clients of a Unix socket, which have none: they run on this machine.
const OF_THIS_MACHINE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Where to listen, as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `HOST:PORT`, or `:PORT` for every address of both families.
    Tcp(HostPort),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Whether only programs of this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// The host and port; `None` for a Unix socket.
    pub fn tcp(&self) -> Option<&HostPort> {
        match self {
            Self::Tcp(address) => Some(address),
            Self::Unix(_) => None,
        }
    }
}

impl From<HostPort> for Address {
    fn from(address: HostPort) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(path) => path.display().fmt(out),
        }
    }
}

/// Where a socket is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundAddress {
    /// An address and the port that the socket got.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl BoundAddress {
    /// The address and port; `None` for a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(path) => path.display().fmt(out),
        }
    }
}

/// The address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The configured address.
    pub address: Address,
    /// The error of the system.
    pub source: io::Error,
}

/// The service manager passed a socket at an address that the configuration does not name.
#[derive(Debug, thiserror::Error)]
#[error(
    "the service manager passed a socket at {0}, but the configuration names no such address\n\
     hint: change `ListenStream=` in the socket unit or `http.addr` in the configuration, so that both have the same port; \
     where `http.addr` is a loopback address, the socket unit must have one too"
)]
pub struct UnexpectedSocket(BoundAddress);

/// Sockets that the service manager bound before it started this program, so that clients can connect while it restarts.
/// Source: `sd_listen_fds(3)`.
#[derive(Debug, Default)]
pub struct PassedSockets(Vec<BoundSocket>);

impl PassedSockets {
    /// The sockets that were passed to this process. It removes the variables that name them, so it must be called while the
    /// program has one thread, and once.
    pub fn take() -> io::Result<Self> {
        let mut passed = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for position in 0..passed.len() {
            let descriptor = match passed.take_tcp_listener(position) {
                Ok(socket) => socket.map(OwnedFd::from),
                Err(_) => passed.take_unix_listener(position)?.map(OwnedFd::from),
            };
            sockets.extend(descriptor.map(BoundSocket::inherited));
        }
        Ok(Self(sockets))
    }

    /// The first TCP port among them.
    pub fn port(&self) -> Option<u16> {
        let addresses = self.0.iter().filter_map(|socket| socket.address().ok());
        let mut ports = addresses.filter_map(|address| Some(address.tcp()?.port()));
        ports.next()
    }

    /// Takes those for `address`: one for each family, perhaps.
    pub(super) fn take_for(&mut self, address: &Address) -> Vec<BoundSocket> {
        let is_for =
            |socket: &mut BoundSocket| socket.address().is_ok_and(|bound| serves(&bound, address));
        self.0.extract_if(.., is_for).collect()
    }

    /// An error if one is left that was not taken.
    pub fn refuse_more(&self) -> Result<(), UnexpectedSocket> {
        let mut left = self.0.iter().filter_map(|socket| socket.address().ok());
        left.next()
            .map_or(Ok(()), |address| Err(UnexpectedSocket(address)))
    }
}

/// Whether a socket that is bound to `bound` is one for the configured `address`. A host name is not resolved: the socket unit
/// says where to listen. It must not open to the network what the configuration keeps on this machine.
fn serves(bound: &BoundAddress, address: &Address) -> bool {
    match (bound, address) {
        (BoundAddress::Tcp(bound), Address::Tcp(address)) => {
            bound.port() == address.port() && (bound.ip().is_loopback() || !address.is_loopback())
        }
        (BoundAddress::Unix(bound), Address::Unix(path)) => bound == path,
        (BoundAddress::Tcp(_), Address::Unix(_)) | (BoundAddress::Unix(_), Address::Tcp(_)) => {
            false
        }
    }
}

/// A bound socket. It does not listen yet.
#[derive(Debug)]
pub(super) struct BoundSocket {
    socket: Socket,
    file: Option<SocketFile>,
}

impl BoundSocket {
    pub(super) fn bind(address: &Address) -> Result<Self, BindError> {
        let bound = match address {
            Address::Tcp(address) => bind_tcp(address).map(|socket| Self { socket, file: None }),
            Address::Unix(path) => bind_unix(path).map(|socket| Self {
                socket,
                file: Some(SocketFile(path.clone())),
            }),
        };
        bound.map_err(|source| BindError {
            address: address.clone(),
            source,
        })
    }

    /// A socket that another program has bound.
    pub(super) fn inherited(descriptor: OwnedFd) -> Self {
        Self {
            socket: descriptor.into(),
            file: None,
        }
    }

    pub(super) fn address(&self) -> io::Result<BoundAddress> {
        bound_address(&self.socket.local_addr()?)
    }

    /// From now on the system accepts connections; they wait until the server runs.
    pub(super) fn listen(self) -> io::Result<ListeningSocket> {
        self.socket.listen(BACKLOG)?;
        self.socket.set_nonblocking(true)?;
        let address = self.address()?;
        let socket = match &address {
            BoundAddress::Tcp(_) => Accepting::Tcp(TcpListener::from_std(self.socket.into())?),
            BoundAddress::Unix(_) => Accepting::Unix(UnixListener::from_std(self.socket.into())?),
        };
        Ok(ListeningSocket {
            socket,
            address,
            _file: self.file,
        })
    }
}

/// A socket that accepts connections.
pub(super) struct ListeningSocket {
    socket: Accepting,
    address: BoundAddress,
    _file: Option<SocketFile>,
}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl ListeningSocket {
    pub(super) fn address(&self) -> &BoundAddress {
        &self.address
    }

    /// The next connection, and the address of its client.
    pub(super) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match &self.socket {
            Accepting::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((Stream::Tcp(stream), peer))
            }
            Accepting::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                Ok((Stream::Unix(stream), OF_THIS_MACHINE))
            }
        }
    }
}

/// The file of a Unix socket; removed when dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that remains is replaced at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

/// An accepted connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// The address of this machine that the client connected to.
    pub(super) fn own_address(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(stream) => Some(stream.local_addr().ok()?.ip()),
            Self::Unix(_) => None,
        }
    }

    pub(super) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Sets what the server needs of the socket. Without it, connections work, but more slowly.
    pub(super) fn tune(&self) {
        let Self::Tcp(stream) = self else {
            return;
        };
        // Answers are written in one piece; collecting more data would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        if let Err(error) = platform::limit_unsent(stream, UNSENT_BYTES) {
            tracing::debug!(%error, "cannot limit the send buffer");
        }
    }

    /// The first byte that the client sends, which stays to be read; `None` if there is none.
    pub(super) async fn first_byte(&self) -> Option<u8> {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.peek(&mut byte).await,
            Self::Unix(stream) => {
                let peek = || {
                    let peeked = rustix::net::recv(stream, &mut byte, RecvFlags::PEEK);
                    Ok(peeked.map(|(read, _)| read)?)
                };
                stream.async_io(Interest::READABLE, peek).await
            }
        };
        match read {
            Ok(1) => Some(byte[0]),
            _ => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Binds `HOST:PORT`, or for `:PORT` every address of both families (`.local` names resolve to IPv6 first).
fn bind_tcp(address: &HostPort) -> io::Result<Socket> {
    let port = address.port();
    let candidates: Vec<SocketAddr> = if address.host().is_empty() {
        vec![
            (Ipv6Addr::UNSPECIFIED, port).into(),
            (Ipv4Addr::UNSPECIFIED, port).into(),
        ]
    } else {
        std::net::ToSocketAddrs::to_socket_addrs(&(address.host(), port))?.collect()
    };
    let mut failure = io::Error::other("the host name has no address");
    for candidate in candidates {
        match bind_to(candidate) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn bind_to(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.ip() == std::net::IpAddr::from(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // A restarted server can bind its port again while old connections still linger.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Binds a Unix socket. Its mode follows from the umask, as with Go's programs.
fn bind_unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    Ok(socket)
}

/// Whether a program that was killed has left this socket behind.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(refused)
}

fn bound_address(address: &SockAddr) -> io::Result<BoundAddress> {
    let unix = || address.as_pathname().map(Path::to_owned);
    address
        .as_socket()
        .map(BoundAddress::Tcp)
        .or_else(|| unix().map(BoundAddress::Unix))
        .ok_or_else(|| io::Error::other("neither a TCP nor a Unix socket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_socket_serves_the_configured_address_and_opens_no_other() {
        let bound = |text: &str| BoundAddress::Tcp(text.parse().unwrap());
        let configured = |text: &str| Address::Tcp(text.parse().unwrap());
        for (socket, address, is_served) in [
            ("[::]:443", ":443", true),
            ("0.0.0.0:443", "lab.local:443", true),
            ("192.0.2.1:443", ":443", true),
            ("127.0.0.1:443", ":443", true),
            ("[::]:443", ":5443", false),
            ("[::1]:5000", "127.0.0.1:5000", true),
            ("[::]:5000", "127.0.0.1:5000", false),
            ("[::]:5000", "localhost:5000", false),
        ] {
            let found = serves(&bound(socket), &configured(address));
            assert_eq!(found, is_served, "{socket} for {address}");
        }
        let socket = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (first, other) = (socket(), socket());
        let port = first.local_addr().unwrap().port();
        let inherited = |socket: std::net::TcpListener| BoundSocket::inherited(socket.into());
        let mut passed = PassedSockets(vec![inherited(first), inherited(other)]);
        assert_eq!(passed.port(), Some(port));
        assert_eq!(passed.take_for(&configured(&format!(":{port}"))).len(), 1);
        let error = passed.refuse_more().unwrap_err().to_string();
        assert!(error.contains("names no such address\nhint: "), "{error}");
        PassedSockets::default().refuse_more().unwrap();
    }

    #[test]
    fn only_a_socket_at_which_no_program_listens_makes_place_for_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth.sock");
        let address = Address::Unix(path.clone());
        fs::write(&path, "a file of somebody").unwrap();
        assert!(BoundSocket::bind(&address).is_err());
        assert!(path.is_file(), "a file that is not a socket was removed");
        fs::remove_file(&path).unwrap();
        // Left behind by a program that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let bound = BoundSocket::bind(&address).unwrap();
        assert_eq!(bound.address().unwrap(), BoundAddress::Unix(path.clone()));
        drop(bound);
        assert!(!path.exists(), "the file outlives its socket");
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(BoundSocket::bind(&address).is_err());
        drop(other);
    }
}
