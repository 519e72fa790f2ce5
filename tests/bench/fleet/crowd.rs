//! Many large layers pushed at once to ours: memory, and how long a client waits for the answer to its last byte.
//!
//! Must not know goals. With zeros as content and a bucket server that compresses, sizes may be larger than the disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::{Counts, Fleet};
use crate::content::Noise;
use crate::figures::push_all;
use crate::options::Options;
use crate::release::{Layer, Way};
use crate::servers::{Mode, Server};

/// Pushes `count` layers of the size of the options at once, whole, then as many others in chunks, each to a new process.
pub(crate) async fn run(
    options: &Options,
    server: &Server,
    noise: &Arc<Noise>,
    count: usize,
) -> io::Result<()> {
    println!(
        "| pushes at once | bytes each | way | MB/s | CPU-s/GB | last byte to 201, longest, ms | peak memory, MiB |"
    );
    println!("|---|---|---|---|---|---|---|");
    let size_bytes = usize::try_from(options.size_bytes).map_err(io::Error::other)?;
    for (run, way) in [(0, Way::Whole), (1, Way::Chunks)] {
        let layers: Vec<Layer> = (0..count as u64)
            .map(|number| Layer {
                blob: noise.blob(run, number, size_bytes),
                way,
            })
            .collect();
        let lab = tempfile::tempdir_in(&options.directory)?;
        let bucket = options.new_bucket(&format!("fleet-crowd-{run}"))?;
        let server = Server {
            bucket: bucket.as_ref().map(|made| made.bucket.clone()),
            ..server.clone()
        };
        let running = server.start(lab.path(), Mode::default()).await?;
        let (_told, target) = watch::channel(running.target.clone());
        let fleet = Arc::new(Fleet {
            target,
            noise: Arc::clone(noise),
            token_life: None,
            is_patient: false,
            counts: Counts::default(),
        });
        let (cpu, began) = (running.cpu_secs(), Instant::now());
        let sent = push_all(Arc::clone(&fleet), layers, count, false).await? as f64;
        let (took, cpu) = (began.elapsed(), running.cpu_secs() - cpu);
        let micros = fleet.counts.slowest_finish_micros.load(Ordering::Relaxed);
        let (_, peak) = running.memory_mib();
        println!(
            "| {count} | {} | {} | {:.0} | {:.2} | {:.0} | {peak:.0} |",
            options.size_bytes,
            match way {
                Way::Whole => "PUT with the digest",
                Way::Chunks => "chunks",
            },
            sent / 1e6 / took.as_secs_f64(),
            cpu / (sent / 1e9),
            Duration::from_micros(micros).as_secs_f64() * 1e3,
        );
        running.stop()?;
    }
    Ok(())
}
