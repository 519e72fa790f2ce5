//! One client of the fleet: pushes and pulls layers, asks for tokens when it is told to, and tries again when the registry is
//! away.
//!
//! Must not know what is measured. Invariant: every answer is checked; a session that the registry has forgotten is counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::connection::{Connection, Head, Target};
use crate::content::{Blob, MANIFEST, Noise};
use crate::load::{REPOSITORY, local};
use crate::release::{Layer, Way};
use crate::token;

/// What one PATCH carries at most.
const CHUNK_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Into how many chunks a layer is cut at least.
const CHUNKS_MIN: usize = 4;
/// How often one thing is tried while the registry is away.
const TRIES: u32 = 100;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What all clients share.
pub(crate) struct Fleet {
    /// Where the registry is, which may be started again.
    pub(crate) target: watch::Receiver<Target>,
    pub(crate) noise: Arc<Noise>,
    /// How long tokens live, where they are needed.
    pub(crate) token_life: Option<Duration>,
    /// Whether the registry may go away: a broken request is tried again.
    pub(crate) is_patient: bool,
    pub(crate) counts: Counts,
}

/// What has happened.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) sent_bytes: AtomicU64,
    /// Requests that broke and were tried again.
    pub(crate) broken: AtomicU64,
    /// Sessions that went on where they were.
    pub(crate) resumed: AtomicU64,
    /// Sessions of which the registry knew nothing any more, or less than it had acknowledged.
    pub(crate) lost: AtomicU64,
    /// Tokens that were asked for.
    pub(crate) tokens: AtomicU64,
    /// Bodies that were taken with a token that had expired.
    pub(crate) with_expired_token: AtomicU64,
    /// The longest wait for the answer to the last byte.
    pub(crate) slowest_finish_micros: AtomicU64,
}

/// One of the fleet.
pub(crate) struct Client {
    fleet: Arc<Fleet>,
    connection: Option<Connection>,
    token: String,
    token_since: Instant,
}

/// How far a session is.
struct Session {
    location: String,
    /// What the registry has acknowledged.
    offset_bytes: usize,
}

impl Client {
    pub(crate) fn new(fleet: Arc<Fleet>) -> Self {
        Self {
            fleet,
            connection: None,
            token: String::new(),
            token_since: Instant::now(),
        }
    }

    /// Pushes what the registry does not have; gives the bytes that it sent.
    pub(crate) async fn push(&mut self, layer: &Layer, checks_first: bool) -> io::Result<u64> {
        if checks_first && self.has(&layer.blob).await? {
            return Ok(0);
        }
        match layer.way {
            Way::Whole => self.push_whole(&layer.blob).await?,
            Way::Chunks => self.push_in_chunks(&layer.blob).await?,
        }
        Ok(layer.blob.size_bytes() as u64)
    }

    async fn has(&mut self, blob: &Blob) -> io::Result<bool> {
        let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
        Ok(self.call("HEAD", &path, "", &[]).await?.status == 200)
    }

    async fn push_whole(&mut self, blob: &Blob) -> io::Result<()> {
        let noise = Arc::clone(&self.fleet.noise);
        for _ in 0..TRIES {
            let location = self.begin().await?;
            let path = format!("{location}{}digest={}", separator(&location), blob.digest);
            let sent = self
                .try_call("PUT", &path, OCTETS, &noise.parts(blob))
                .await;
            match sent {
                Ok(head) => {
                    expect(&head, 201)?;
                    self.count_sent(blob.size_bytes());
                    self.count_finish(&head);
                    return Ok(());
                }
                Err(error) => self.bear(error).await?,
            }
        }
        Err(io::Error::other("the registry does not come back"))
    }

    async fn push_in_chunks(&mut self, blob: &Blob) -> io::Result<()> {
        let mut session = self.open().await?;
        for _ in 0..TRIES {
            match self.go_on(blob, &mut session).await {
                Ok(()) => return Ok(()),
                Err(error) => self.bear(error).await?,
            }
            if session.offset_bytes == blob.size_bytes() && self.has(blob).await? {
                // Only the last answer was lost.
                return Ok(());
            }
            if !self.find_again(&mut session).await? {
                self.fleet.counts.lost.fetch_add(1, Ordering::Relaxed);
                session = self.open().await?;
            }
        }
        Err(io::Error::other("the registry does not come back"))
    }

    async fn open(&mut self) -> io::Result<Session> {
        Ok(Session {
            location: self.begin().await?,
            offset_bytes: 0,
        })
    }

    async fn begin(&mut self) -> io::Result<String> {
        let path = format!("/v2/{REPOSITORY}/blobs/uploads/");
        let begun = self.call("POST", &path, "", &[]).await?;
        expect(&begun, 202)?;
        Ok(local(&begun.location))
    }

    /// Sends chunks from where the session is, and the PUT.
    async fn go_on(&mut self, blob: &Blob, session: &mut Session) -> io::Result<()> {
        let noise = Arc::clone(&self.fleet.noise);
        let parts = noise.parts(blob);
        let chunk_bytes = CHUNK_BYTES_MAX.min(blob.size_bytes().div_ceil(CHUNKS_MIN));
        while session.offset_bytes < blob.size_bytes() {
            let from = session.offset_bytes;
            let to = (from + chunk_bytes).min(blob.size_bytes());
            let headers = format!("{OCTETS}content-range: {from}-{}\r\n", to - 1);
            let chunk = part_of(&parts, from, to);
            let patched = self
                .try_call("PATCH", &session.location, &headers, &chunk)
                .await?;
            expect(&patched, 202)?;
            session.location = local(&patched.location);
            session.offset_bytes = to;
            self.count_sent(to - from);
        }
        let location = &session.location;
        let path = format!("{location}{}digest={}", separator(location), blob.digest);
        let finished = self.try_call("PUT", &path, "", &[]).await?;
        expect(&finished, 201)?;
        self.count_finish(&finished);
        Ok(())
    }

    /// Asks how far the session is; false if the registry has not kept what it acknowledged.
    async fn find_again(&mut self, session: &mut Session) -> io::Result<bool> {
        let status = self.call("GET", &session.location, "", &[]).await?;
        if status.status == 404 {
            return Ok(false);
        }
        expect(&status, 204)?;
        let last = status
            .range
            .rsplit_once('-')
            .map(|(_, last)| last.parse::<usize>());
        let there = match last {
            Some(Ok(0)) | None => session.offset_bytes.min(1),
            Some(Ok(last)) => last + 1,
            Some(Err(error)) => return Err(io::Error::other(error)),
        };
        if there < session.offset_bytes {
            return Ok(false);
        }
        session.offset_bytes = there;
        session.location = local(&status.location);
        self.fleet.counts.resumed.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    pub(crate) async fn put_manifest(&mut self, tag: &str, manifest: &str) -> io::Result<()> {
        let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
        let headers = format!("content-type: {MANIFEST}\r\n");
        expect(
            &self
                .call("PUT", &path, &headers, &[manifest.as_bytes()])
                .await?,
            201,
        )
    }

    /// Pulls a layer; gives its length.
    pub(crate) async fn pull(&mut self, blob: &Blob, is_checked: bool) -> io::Result<u64> {
        let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
        if is_checked {
            self.refresh().await?;
            let headers = self.authorization();
            let bytes = self
                .connection()
                .await?
                .body_of("GET", &path, &headers)
                .await?;
            let found = crate::content::digest_text(&Sha256::digest(&bytes));
            if found != blob.digest {
                return Err(io::Error::other(format!("{path} has the digest {found}")));
            }
        } else {
            let head = self.call("GET", &path, "", &[]).await?;
            expect(&head, 200)?;
            if head.length_bytes != Some(blob.size_bytes() as u64) {
                return Err(io::Error::other(format!("{path}: {head:?}")));
            }
        }
        Ok(blob.size_bytes() as u64)
    }

    /// A request that may be made twice: with a new token where the old one has expired, and again where the registry is away.
    async fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[&[u8]],
    ) -> io::Result<Head> {
        for _ in 0..TRIES {
            match self.try_call(method, path, headers, body).await {
                Ok(head) if head.status == 401 && self.fleet.token_life.is_some() => {
                    self.refresh().await?;
                }
                Ok(head) => return Ok(head),
                Err(error) => self.bear(error).await?,
            }
        }
        Err(io::Error::other(format!("{method} {path}: no answer")))
    }

    /// A request with the token as it is.
    async fn try_call(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[&[u8]],
    ) -> io::Result<Head> {
        let headers = format!("{}{headers}", self.authorization());
        let called = self
            .connection()
            .await?
            .call(method, path, &headers, body)
            .await;
        match &called {
            Ok(head) if !body.is_empty() && head.status < 300 => self.count_expired(),
            Ok(_) => {}
            Err(_) => self.connection = None,
        }
        called
    }

    fn authorization(&self) -> String {
        if self.token.is_empty() {
            return String::new();
        }
        format!("authorization: Bearer {}\r\n", self.token)
    }

    async fn refresh(&mut self) -> io::Result<()> {
        if self.fleet.token_life.is_none() {
            return Ok(());
        }
        for _ in 0..TRIES {
            let asked = match self.connection().await {
                Ok(connection) => token::of(connection).await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(token) => {
                    self.token = token;
                    self.token_since = Instant::now();
                    self.fleet.counts.tokens.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => {
                    self.connection = None;
                    self.bear(error).await?;
                }
            }
        }
        Err(io::Error::other("no token"))
    }

    async fn connection(&mut self) -> io::Result<&mut Connection> {
        if self.connection.is_none() {
            let target = self.fleet.target.borrow().clone();
            self.connection = Some(Connection::open(&target).await?);
        }
        self.connection
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Waits a moment after a request that broke, or fails if none may.
    async fn bear(&mut self, error: io::Error) -> io::Result<()> {
        if !self.fleet.is_patient {
            return Err(error);
        }
        self.fleet.counts.broken.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    fn count_expired(&self) {
        let life = self.fleet.token_life;
        if life.is_some_and(|life| self.token_since.elapsed() > life) {
            let counts = &self.fleet.counts;
            counts.with_expired_token.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count_sent(&self, bytes: usize) {
        let counts = &self.fleet.counts;
        counts.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count_finish(&self, head: &Head) {
        let micros = u64::try_from(head.waited.as_micros()).unwrap_or(u64::MAX);
        let slowest = &self.fleet.counts.slowest_finish_micros;
        slowest.fetch_max(micros, Ordering::Relaxed);
    }
}

const OCTETS: &str = "content-type: application/octet-stream\r\n";

fn separator(location: &str) -> char {
    if location.contains('?') { '&' } else { '?' }
}

/// The bytes `from..to` of what is given in parts.
fn part_of<'a>(parts: &[&'a [u8]], from: usize, to: usize) -> Vec<&'a [u8]> {
    let mut start = 0;
    let mut found = Vec::new();
    for part in parts {
        let end = start + part.len();
        let (first, last) = (from.max(start), to.min(end));
        if first < last {
            found.push(&part[first - start..last - start]);
        }
        start = end;
    }
    found
}

fn expect(head: &Head, status: u16) -> io::Result<()> {
    if head.status == status {
        return Ok(());
    }
    Err(io::Error::other(format!("{head:?}, not {status}")))
}
