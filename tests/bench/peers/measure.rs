//! How each group of rows is measured on one server.
//!
//! Must not know goals. Invariant: bytes are made and connections are open before a clock runs, and what was written before
//! is on the disk.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::connection::Connection;
use crate::content::{Blob, Noise, manifest};
use crate::load::{Done, Job, Until, blob_path, run};
use crate::rows::{Group, Row};
use crate::servers::{Kind, Mode, Running, Server};
use crate::token;

const MIB: usize = 1024 * 1024;
/// How long a server rests before its memory is called idle.
const REST: Duration = Duration::from_secs(2);

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) large_bytes: usize,
    pub(crate) large_blobs: usize,
    pub(crate) pulls: usize,
    pub(crate) secs: f64,
    pub(crate) segments: usize,
    pub(crate) pulls_at_once_bytes: usize,
}

impl Scale {
    pub(crate) const WHOLE: Self = Self {
        large_bytes: 128 * MIB,
        large_blobs: 4,
        pulls: 8,
        secs: 3.0,
        segments: 800,
        pulls_at_once_bytes: 32 * MIB,
    };
    /// Shows that all of it runs.
    pub(crate) const QUICK: Self = Self {
        large_bytes: 8 * MIB,
        large_blobs: 2,
        pulls: 2,
        secs: 0.2,
        segments: 40,
        pulls_at_once_bytes: 4 * MIB,
    };
}

/// One server over one empty directory.
pub(crate) struct Bench<'a> {
    pub(crate) server: &'a Server,
    pub(crate) lab: &'a Path,
    pub(crate) noise: &'a Arc<Noise>,
    pub(crate) scale: Scale,
    pub(crate) auth: bool,
    /// Makes this run's blobs different from all others.
    pub(crate) run: u64,
}

/// What a row came to.
pub(crate) type Figures = Vec<(Row, f64)>;

impl Bench<'_> {
    pub(crate) async fn measure(&self, group: Group) -> io::Result<Figures> {
        let running = self.start(group.is_tls()).await?;
        let figures = match group {
            Group::Large => self.large(&running).await?,
            Group::Small => self.small(&running).await?,
            Group::Push => self.push(&running).await?,
            Group::Vm => self.vm(&running).await?,
            Group::Memory => return self.memory(running).await,
            Group::Start => {
                tokio::time::sleep(REST).await;
                let first_answer = running.first_answer.as_secs_f64() * 1_000.0;
                let (idle, _) = running.memory_mib();
                vec![(Row::FirstAnswer, first_answer), (Row::IdleMemory, idle)]
            }
        };
        running.stop()?;
        Ok(figures)
    }

    pub(crate) async fn start(&self, tls: bool) -> io::Result<Running> {
        let auth = self.auth;
        let mode = Mode {
            tls,
            auth,
            ..Mode::default()
        };
        let mut running = self.server.start(self.lab, mode).await?;
        if auth {
            let token = token::of(&mut Connection::open(&running.target).await?).await?;
            running.target.headers = format!("authorization: Bearer {token}\r\n");
        }
        Ok(running)
    }

    fn blobs(&self, first: u64, count: usize, size_bytes: usize) -> Vec<Blob> {
        let numbers = (first..).take(count);
        let blob = |number| self.noise.blob(self.run, number, size_bytes);
        numbers.map(blob).collect()
    }

    pub(crate) fn pull(&self, blob: &Blob) -> Job {
        Job::Pull {
            path: blob_path(self.server.kind, &blob.digest),
            size_bytes: blob.size_bytes() as u64,
        }
    }

    pub(crate) async fn load(
        &self,
        running: &Running,
        workers: usize,
        jobs: Vec<Job>,
        until: Until,
    ) -> io::Result<Done> {
        run(&running.target, self.noise, workers, jobs, until).await
    }

    async fn large(&self, running: &Running) -> io::Result<Figures> {
        let Scale {
            large_bytes,
            large_blobs,
            pulls,
            ..
        } = self.scale;
        let blobs = self.blobs(0, large_blobs, large_bytes);
        let push = |blob: &Blob| match self.server.kind {
            Kind::Nginx => Job::PutFile(blob.clone()),
            Kind::Boathouse | Kind::Distribution => Job::PushStreamed(blob.clone()),
        };
        let jobs = blobs.iter().map(push).collect();
        let cpu = running.cpu_secs();
        let pushed = self.load(running, 4, jobs, Until::Times(1)).await?;
        let push_cpu = (running.cpu_secs() - cpu) / pushed.gigabytes();
        sync(self.lab)?;
        let jobs = blobs.iter().map(|blob| self.pull(blob)).collect();
        let cpu = running.cpu_secs();
        let pulled = self.load(running, 4, jobs, Until::Times(pulls)).await?;
        let pull_cpu = (running.cpu_secs() - cpu) / pulled.gigabytes();
        Ok(vec![
            (Row::PushRate, pushed.megabytes_per_sec()),
            (Row::PushCpu, push_cpu),
            (Row::PullRate, pulled.megabytes_per_sec()),
            (Row::PullCpu, pull_cpu),
        ])
    }

    /// An image of two small blobs under the tag `latest`.
    pub(crate) async fn push_image(&self, running: &Running) -> io::Result<(Blob, Job)> {
        let blobs = self.blobs(0, 2, 4096);
        let jobs = blobs.iter().cloned().map(Job::PushWhole).collect();
        self.load(running, 1, jobs, Until::Times(1)).await?;
        let [config, layer] = &blobs[..] else {
            return Err(io::Error::other("two blobs"));
        };
        let (text, _) = manifest(config, layer, "");
        let size_bytes = text.len() as u64;
        let put = Job::PutManifest {
            tag: "latest".to_owned(),
            text,
        };
        self.load(running, 1, vec![put], Until::Times(1)).await?;
        let path = format!("/v2/{}/manifests/latest", crate::load::REPOSITORY);
        Ok((config.clone(), Job::Pull { path, size_bytes }))
    }

    async fn small(&self, running: &Running) -> io::Result<Figures> {
        let (blob, get) = self.push_image(running).await?;
        sync(self.lab)?;
        let until = Until::Secs(self.scale.secs);
        let manifests = self.load(running, 16, vec![get], until).await?;
        let path = blob_path(self.server.kind, &blob.digest);
        let heads = self
            .load(running, 16, vec![Job::Head { path }], until)
            .await?;
        Ok(vec![
            (Row::ManifestGet, manifests.per_sec()),
            (Row::BlobHead, heads.per_sec()),
        ])
    }

    async fn push(&self, running: &Running) -> io::Result<Figures> {
        // More than the quickest does in the time.
        let most = (self.scale.secs * 10_000.0) as usize;
        let blobs = self.blobs(0, most, 4096);
        let until = Until::Secs(self.scale.secs);
        let jobs = blobs.iter().cloned().map(Job::PushWhole).collect();
        let pushed = self.load(running, 16, jobs, until).await?;
        sync(self.lab)?;
        let [config, layer, ..] = &blobs[..] else {
            return Err(io::Error::other("two blobs"));
        };
        let put = |number: usize| {
            let tag = format!("t{number}");
            let (text, _) = manifest(config, layer, &tag);
            Job::PutManifest { tag, text }
        };
        let jobs = (0..most).map(put).collect();
        let put = self.load(running, 16, jobs, until).await?;
        Ok(vec![
            (Row::SmallPush, pushed.per_sec()),
            (Row::ManifestPut, put.per_sec()),
        ])
    }

    async fn vm(&self, running: &Running) -> io::Result<Figures> {
        let segments = self.scale.segments;
        let size =
            |number: u64| MIB + (number as usize * 7_919 % 3) * MIB + number as usize % 4_096;
        let blob = |number: u64| self.noise.blob(self.run, number, size(number));
        let mut disk: Vec<Blob> = (0..segments as u64).map(blob).collect();
        let push = |disk: &[Blob]| disk.iter().cloned().map(Job::PushIfAbsent).collect();
        let first = self.load(running, 8, push(&disk), Until::Times(1)).await?;
        sync(self.lab)?;
        // Every twentieth has changed.
        for (at, segment) in disk.iter_mut().enumerate().step_by(20) {
            *segment = blob((segments + at) as u64);
        }
        let again = self.load(running, 8, push(&disk), Until::Times(1)).await?;
        sync(self.lab)?;
        let jobs = disk.iter().map(|segment| self.pull(segment)).collect();
        let pulled = self.load(running, 8, jobs, Until::Times(1)).await?;
        Ok(vec![
            (Row::VmPush, first.megabytes_per_sec()),
            (Row::VmAgain, again.per_sec()),
            (Row::VmPull, pulled.megabytes_per_sec()),
        ])
    }

    /// What one start has pushed is pulled from another, whose memory has not been used for anything else.
    async fn memory(&self, running: Running) -> io::Result<Figures> {
        let blobs = self.blobs(0, 4, self.scale.pulls_at_once_bytes);
        let push = |blob: &Blob| match self.server.kind {
            Kind::Nginx => Job::PutFile(blob.clone()),
            Kind::Boathouse | Kind::Distribution => Job::PushWhole(blob.clone()),
        };
        let jobs = blobs.iter().map(push).collect();
        self.load(&running, 4, jobs, Until::Times(1)).await?;
        running.stop()?;
        let running = self.start(true).await?;
        let jobs: Vec<Job> = blobs.iter().map(|blob| self.pull(blob)).collect();
        self.load(&running, 64, jobs, Until::Times(32)).await?;
        let (_, peak) = running.memory_mib();
        running.stop()?;
        Ok(vec![(Row::PullsMemory, peak)])
    }
}

/// Brings what was written to the disk, so that it is not written while something else is measured.
pub(crate) fn sync(lab: &Path) -> io::Result<()> {
    let directory = std::fs::File::open(lab)?;
    rustix::fs::syncfs(directory)?;
    Ok(())
}
