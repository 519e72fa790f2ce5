//! Loads: many connections that work through one list of jobs.
//!
//! Must not know rows or goals. Invariant: every answer is checked (status, length); one that is wrong ends the run.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use tokio::sync::Barrier;

use crate::connection::{Connection, Head, Target};
use crate::content::{Blob, MANIFEST, Noise};
use crate::servers::Kind;

/// The repository that everything is pushed to.
pub(crate) const REPOSITORY: &str = "bench/images";

/// One thing that a client does.
#[derive(Clone)]
pub(crate) enum Job {
    /// GET, and read all of it.
    Pull { path: String, size_bytes: u64 },
    /// HEAD of a blob that is there.
    Head { path: String },
    /// POST, PATCH without a length, PUT: docker.
    PushStreamed(Blob),
    /// POST, PUT: most others.
    PushWhole(Blob),
    /// HEAD first, and no more if it is there: Geranos.
    PushIfAbsent(Blob),
    /// PUT of a manifest under a tag.
    PutManifest { tag: String, text: String },
    /// PUT of a file on a web server.
    PutFile(Blob),
}

/// For how long.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// The list is through so many times.
    Times(usize),
    /// So much time has gone.
    Secs(f64),
}

/// What was done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) jobs: usize,
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

impl Done {
    pub(crate) fn per_sec(&self) -> f64 {
        self.jobs as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn megabytes_per_sec(&self) -> f64 {
        self.gigabytes() * 1_000.0 / self.took.as_secs_f64()
    }

    pub(crate) fn gigabytes(&self) -> f64 {
        self.bytes as f64 / 1e9
    }
}

/// Where a blob of this server is found.
pub(crate) fn blob_path(kind: Kind, digest: &str) -> String {
    match kind {
        Kind::Boathouse | Kind::Distribution => format!("/v2/{REPOSITORY}/blobs/{digest}"),
        Kind::Nginx => format!("/files/{}", digest.replace(':', "-")),
    }
}

/// Has `workers` connections, all open before the clock runs, do the jobs.
pub(crate) async fn run(
    target: &Target,
    noise: &Arc<Noise>,
    workers: usize,
    jobs: Vec<Job>,
    until: Until,
) -> io::Result<Done> {
    let jobs = Arc::new(jobs);
    let next = Arc::new(AtomicUsize::new(0));
    let barrier = Arc::new(Barrier::new(workers + 1));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let mut connection = Connection::open(target).await?;
        let (jobs, next, barrier) = (Arc::clone(&jobs), Arc::clone(&next), Arc::clone(&barrier));
        let noise = Arc::clone(noise);
        tasks.spawn(async move {
            barrier.wait().await;
            let began = Instant::now();
            let (mut done, mut bytes) = (0, 0);
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let is_over = match until {
                    Until::Times(times) => at >= times * jobs.len(),
                    Until::Secs(secs) => began.elapsed().as_secs_f64() >= secs,
                };
                if is_over {
                    return io::Result::Ok((done, bytes));
                }
                bytes += perform(&mut connection, &noise, &jobs[at % jobs.len()]).await?;
                done += 1;
            }
        });
    }
    barrier.wait().await;
    let began = Instant::now();
    let (mut jobs, mut bytes) = (0, 0);
    while let Some(ended) = tasks.join_next().await {
        let (more_jobs, more_bytes) = ended.map_err(io::Error::other)??;
        jobs += more_jobs;
        bytes += more_bytes;
    }
    let took = began.elapsed();
    Ok(Done { jobs, bytes, took })
}

/// Does one job; gives how many bytes of content it moved.
async fn perform(connection: &mut Connection, noise: &Noise, job: &Job) -> io::Result<u64> {
    match job {
        Job::Pull { path, size_bytes } => {
            let accept = format!("accept: {MANIFEST}\r\n");
            let head = connection.call("GET", path, &accept, &[]).await?;
            expect(&head, 200)?;
            if head.length_bytes != Some(*size_bytes) {
                return Err(io::Error::other(format!(
                    "{path}: {head:?}, not {size_bytes} bytes"
                )));
            }
            Ok(*size_bytes)
        }
        Job::Head { path } => {
            expect(&connection.call("HEAD", path, "", &[]).await?, 200)?;
            Ok(0)
        }
        Job::PushStreamed(blob) => {
            let location = begin(connection).await?;
            let parts = noise.parts(blob);
            let patched = connection
                .call_streaming("PATCH", &location, &parts)
                .await?;
            expect(&patched, 202)?;
            finish(connection, &patched.location, &blob.digest, &[]).await?;
            Ok(blob.size_bytes() as u64)
        }
        Job::PushWhole(blob) => push_whole(connection, noise, blob).await,
        Job::PushIfAbsent(blob) => {
            let path = blob_path(Kind::Boathouse, &blob.digest);
            match connection.call("HEAD", &path, "", &[]).await?.status {
                200 => Ok(0),
                404 => push_whole(connection, noise, blob).await,
                other => Err(io::Error::other(format!("HEAD {path}: {other}"))),
            }
        }
        Job::PutManifest { tag, text } => {
            let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
            let content_type = format!("content-type: {MANIFEST}\r\n");
            let head = connection
                .call("PUT", &path, &content_type, &[text.as_bytes()])
                .await?;
            expect(&head, 201)?;
            Ok(text.len() as u64)
        }
        Job::PutFile(blob) => {
            let path = blob_path(Kind::Nginx, &blob.digest);
            let head = connection
                .call("PUT", &path, "", &noise.parts(blob))
                .await?;
            expect(&head, 201)?;
            Ok(blob.size_bytes() as u64)
        }
    }
}

async fn push_whole(connection: &mut Connection, noise: &Noise, blob: &Blob) -> io::Result<u64> {
    let location = begin(connection).await?;
    finish(connection, &location, &blob.digest, &noise.parts(blob)).await?;
    Ok(blob.size_bytes() as u64)
}

async fn begin(connection: &mut Connection) -> io::Result<String> {
    let path = format!("/v2/{REPOSITORY}/blobs/uploads/");
    let begun = connection.call("POST", &path, "", &[]).await?;
    expect(&begun, 202)?;
    Ok(local(&begun.location))
}

async fn finish(
    connection: &mut Connection,
    location: &str,
    digest: &str,
    body: &[&[u8]],
) -> io::Result<()> {
    let location = local(location);
    let separator = if location.contains('?') { '&' } else { '?' };
    let path = format!("{location}{separator}digest={digest}");
    let content_type = "content-type: application/octet-stream\r\n";
    expect(
        &connection.call("PUT", &path, content_type, body).await?,
        201,
    )
}

/// A location without its server.
pub(crate) fn local(location: &str) -> String {
    let below = location.split_once("://").map(|(_, rest)| rest);
    let path = below.and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    path.unwrap_or(location).to_owned()
}

fn expect(head: &Head, status: u16) -> io::Result<()> {
    if head.status == status {
        return Ok(());
    }
    Err(io::Error::other(format!("{head:?}, not {status}")))
}
