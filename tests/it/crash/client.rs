//! A client that expects its server to die: a connection that is kept, and answers or the news that none came.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use crate::support::Answer;

type AnyBody = BoxBody<Bytes, std::io::Error>;

/// Longer than any answer takes: a server that hangs is found, not waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The connection ended before the whole answer was there.
#[derive(Debug)]
pub(crate) struct Broken;

pub(crate) struct Client {
    address: SocketAddr,
    patience: Duration,
    connection: Option<SendRequest<AnyBody>>,
}

pub(crate) enum Body {
    Whole(Bytes),
    /// In pieces with pauses, so that a kill finds it half sent.
    Slow(Bytes),
}

impl Client {
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self::patient(address, PATIENCE)
    }

    /// For a server that may take longer.
    pub(crate) fn patient(address: SocketAddr, patience: Duration) -> Self {
        Self {
            address,
            patience,
            connection: None,
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer, Broken> {
        self.send(Method::GET, path, &[], Body::Whole(Bytes::new()))
            .await
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Answer, Broken> {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(any_body(body)).expect("a request");
        tokio::time::timeout(self.patience, self.exchange(request))
            .await
            .expect("the server hangs")
    }

    async fn exchange(&mut self, request: Request<AnyBody>) -> Result<Answer, Broken> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        connection.ready().await.map_err(|_| Broken)?;
        let answer = connection.send_request(request).await;
        let (head, body) = answer.map_err(|_| Broken)?.into_parts();
        let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
        self.connection = Some(connection);
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    async fn connect(&self) -> Result<SendRequest<AnyBody>, Broken> {
        let stream = tokio::net::TcpStream::connect(self.address).await;
        let stream = stream.map_err(|_| Broken)?;
        stream.set_nodelay(true).map_err(|_| Broken)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| Broken)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn any_body(body: Body) -> AnyBody {
    const PIECE: usize = 64 * 1024;
    match body {
        Body::Whole(content) => Full::new(content).map_err(|never| match never {}).boxed(),
        Body::Slow(content) => {
            let frames = stream::unfold(content, |mut rest| async move {
                if rest.is_empty() {
                    return None;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
                let piece = rest.split_to(rest.len().min(PIECE));
                Some((Ok(Frame::data(piece)), rest))
            });
            StreamBody::new(frames).boxed()
        }
    }
}
