//! Cost as the work grows: with the number of connections, the size of a blob, the tags of a repository, the blobs of a store.
//!
//! Must not know goals. Each curve is one table; all servers that are named are measured.

use std::io;
use std::sync::Arc;

use crate::content::{Blob, Noise, manifest};
use crate::load::{Done, Job, REPOSITORY, Until, blob_path};
use crate::measure::{Bench, Scale, sync};
use crate::options::Options;
use crate::servers::{Kind, Running};

const MIB: usize = 1024 * 1024;
const GIB: usize = 1024 * MIB;
/// For how long each point is measured.
const SECS: f64 = 2.0;

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    Connections,
    Sizes,
    Tags,
    Blobs,
}

impl Curve {
    pub(crate) const ALL: [Self; 4] = [Self::Connections, Self::Sizes, Self::Tags, Self::Blobs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Sizes => "sizes",
            Self::Tags => "tags",
            Self::Blobs => "blobs",
        }
    }

    fn head(self) -> &'static str {
        match self {
            Self::Connections => {
                "connections | pull 16 MiB, MB/s | server CPU-s/GB | manifest GET by tag, /s | µs of CPU each | peak memory MiB"
            }
            Self::Sizes => {
                "blob | push, MB/s | server CPU-s/GB | pull, MB/s | server CPU-s/GB | peak memory MiB"
            }
            Self::Tags => {
                "tags | manifest GET by tag, 16 at a time, /s | first page of 100, ms | last page of 100, ms | tag moved, 16 at a time, /s"
            }
            Self::Blobs => {
                "blobs | blob HEAD, 16 at a time, /s | push of 4 KiB, 16 at a time, /s | memory MiB"
            }
        }
    }
}

/// Prints the table of one curve, for each server.
pub(crate) async fn run(options: &Options, curve: Curve, noise: &Arc<Noise>) -> io::Result<()> {
    for server in &options.servers {
        if server.kind == Kind::Nginx {
            continue;
        }
        let lab = tempfile::tempdir_in(&options.directory)?;
        let bench = Bench {
            server,
            lab: lab.path(),
            noise,
            scale: Scale::WHOLE,
            auth: false,
            run: 0,
        };
        let head = curve.head();
        println!(
            "{}:\n\n| {head} |\n|{}",
            server.name,
            "---|".repeat(head.split('|').count())
        );
        match curve {
            Curve::Connections => bench.connections().await?,
            Curve::Sizes => bench.sizes(options.is_quick).await?,
            Curve::Tags => bench.tags(options.is_quick).await?,
            Curve::Blobs => bench.blob_counts(options.is_quick).await?,
        }
        println!();
    }
    Ok(())
}

impl Bench<'_> {
    async fn connections(&self) -> io::Result<()> {
        let running = self.start(true).await?;
        let (_, get) = self.push_image(&running).await?;
        let blobs: Vec<Blob> = (10..14)
            .map(|at| self.noise.blob(0, at, 16 * MIB))
            .collect();
        let push = blobs.iter().cloned().map(Job::PushWhole).collect();
        self.load(&running, 4, push, Until::Times(1)).await?;
        sync(self.lab)?;
        running.stop()?;
        for connections in [1, 4, 16, 64, 256] {
            // Started anew, so that each point has its own peak of memory.
            let running = self.start(true).await?;
            let pulls = blobs.iter().map(|blob| self.pull(blob)).collect();
            let (pulled, pull_cpu) = self.costed(&running, connections, pulls, SECS).await?;
            let (got, get_cpu) = self
                .costed(&running, connections, vec![get.clone()], SECS)
                .await?;
            let (_, peak) = running.memory_mib();
            println!(
                "| {connections} | {:.0} | {:.2} | {:.0} | {:.0} | {peak:.0} |",
                pulled.megabytes_per_sec(),
                pull_cpu / pulled.gigabytes(),
                got.per_sec(),
                get_cpu * 1e6 / got.jobs as f64,
            );
            running.stop()?;
        }
        Ok(())
    }

    /// A load for some time, and the processor time that it took of the server.
    async fn costed(
        &self,
        running: &Running,
        workers: usize,
        jobs: Vec<Job>,
        secs: f64,
    ) -> io::Result<(Done, f64)> {
        let cpu = running.cpu_secs();
        let done = self.load(running, workers, jobs, Until::Secs(secs)).await?;
        Ok((done, running.cpu_secs() - cpu))
    }

    async fn sizes(&self, is_quick: bool) -> io::Result<()> {
        let all = [MIB, 16 * MIB, 128 * MIB, GIB, 8 * GIB];
        let sizes = if is_quick { &all[..2] } else { &all[..] };
        for (at, size_bytes) in sizes.iter().enumerate() {
            let running = self.start(true).await?;
            let blob = self.noise.blob(1, at as u64, *size_bytes);
            let push = vec![Job::PushStreamed(blob.clone())];
            let cpu = running.cpu_secs();
            let pushed = self.load(&running, 1, push, Until::Times(1)).await?;
            let push_cpu = running.cpu_secs() - cpu;
            sync(self.lab)?;
            let times = (GIB / size_bytes).clamp(1, 256);
            let cpu = running.cpu_secs();
            let pull = vec![self.pull(&blob)];
            let pulled = self.load(&running, 1, pull, Until::Times(times)).await?;
            let pull_cpu = running.cpu_secs() - cpu;
            let (_, peak) = running.memory_mib();
            println!(
                "| {} MiB | {:.0} | {:.2} | {:.0} | {:.2} | {peak:.0} |",
                size_bytes / MIB,
                pushed.megabytes_per_sec(),
                push_cpu / pushed.gigabytes(),
                pulled.megabytes_per_sec(),
                pull_cpu / pulled.gigabytes(),
            );
            running.stop()?;
        }
        Ok(())
    }

    async fn tags(&self, is_quick: bool) -> io::Result<()> {
        let running = self.start(true).await?;
        let (_, get) = self.push_image(&running).await?;
        let blobs: Vec<Blob> = (0..2).map(|at| self.noise.blob(0, at, 4096)).collect();
        let (text, _) = manifest(&blobs[0], &blobs[1], "");
        let put = |number: usize| Job::PutManifest {
            tag: format!("t{number:07}"),
            text: text.clone(),
        };
        let all = [1, 1_000, 100_000];
        let mut there = 1;
        for tags in if is_quick { &all[..2] } else { &all[..] } {
            let missing = (there..*tags).map(put).collect();
            self.load(&running, 16, missing, Until::Times(1)).await?;
            there = *tags;
            sync(self.lab)?;
            let got = self
                .load(&running, 16, vec![get.clone()], Until::Secs(SECS))
                .await?;
            let first = self.list_ms(&running, "").await?;
            let last = self
                .list_ms(&running, &format!("&last=t{:07}", tags.saturating_sub(100)))
                .await?;
            // Moved and not new, so that their number stays.
            let jobs = (1..=100.min(*tags)).map(put).collect();
            let moved = self.load(&running, 16, jobs, Until::Secs(SECS)).await?;
            println!(
                "| {tags} | {:.0} | {first:.2} | {last:.2} | {:.0} |",
                got.per_sec(),
                moved.per_sec()
            );
        }
        running.stop()
    }

    async fn list_ms(&self, running: &Running, after: &str) -> io::Result<f64> {
        let mut connection = crate::connection::Connection::open(&running.target).await?;
        let path = format!("/v2/{REPOSITORY}/tags/list?n=100{after}");
        let mut took = Vec::new();
        for _ in 0..20 {
            let began = tokio::time::Instant::now();
            connection.body_of("GET", &path, "").await?;
            took.push(began.elapsed().as_secs_f64() * 1_000.0);
        }
        took.sort_by(f64::total_cmp);
        Ok(took[took.len() / 2])
    }

    async fn blob_counts(&self, is_quick: bool) -> io::Result<()> {
        /// How many blobs the client makes at a time.
        const BATCH: u64 = 10_000;
        let running = self.start(true).await?;
        let all = [1_000, 10_000, 100_000, 1_000_000];
        let mut there = 0;
        for count in if is_quick { &all[..1] } else { &all[..] } {
            let mut pushed = None;
            while there < *count {
                let batch = BATCH.min(count - there);
                let blobs = (there..there + batch).map(|at| self.noise.blob(2, at, 4096));
                let jobs = blobs.map(Job::PushWhole).collect();
                pushed = Some(self.load(&running, 16, jobs, Until::Times(1)).await?);
                there += batch;
            }
            sync(self.lab)?;
            // A thousand of all.
            let some = (0..1_000).map(|at| self.noise.blob(2, at * there / 1_000, 4096));
            let heads = some.map(|blob| Job::Head {
                path: blob_path(self.server.kind, &blob.digest),
            });
            let heads = self
                .load(&running, 16, heads.collect(), Until::Secs(SECS))
                .await?;
            let (resident, _) = running.memory_mib();
            let pushed = pushed.map_or(0.0, |pushed| pushed.per_sec());
            println!(
                "| {count} | {:.0} | {pushed:.0} | {resident:.0} |",
                heads.per_sec()
            );
        }
        running.stop()
    }
}
