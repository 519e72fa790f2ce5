//! The figures of one registry over an empty bucket, without trouble, and the table of all.
//!
//! Must not know goals. Invariant: bytes are made before a clock runs.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Client, Counts, Fleet};
use crate::content::Noise;
use crate::options::Options;
use crate::release::{Layer, Release};
use crate::servers::{Mode, Server};

/// Layers at once.
const PUSHERS: usize = 4;
/// Clients that pull everything at once.
const PULLERS: usize = 8;

/// What one registry came to in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    push_rate: f64,
    push_cpu: f64,
    finish_ms: f64,
    again_secs: f64,
    pull_rate: f64,
    pull_cpu: f64,
    peak_mib: f64,
}

/// Name, figure, and whether less is better.
type Row = (&'static str, fn(&Figures) -> f64, bool);

const ROWS: &[Row] = &[
    ("first release pushed, MB/s", |f| f.push_rate, false),
    ("… server CPU-s/GB", |f| f.push_cpu, true),
    ("… last byte to 201, longest, ms", |f| f.finish_ms, true),
    ("second release (a fifth is new), s", |f| f.again_secs, true),
    ("pulled by eight at once, MB/s", |f| f.pull_rate, false),
    ("… server CPU-s/GB", |f| f.pull_cpu, true),
    ("peak memory, MiB", |f| f.peak_mib, true),
];

/// Measures `server`. `run` makes the layers different from those of other rounds.
pub(crate) async fn of(
    options: &Options,
    server: &Server,
    noise: &Arc<Noise>,
    run: u64,
) -> io::Result<Figures> {
    let first = Release::first(noise, run, options.size_bytes);
    let second = Release::next(noise, run, options.size_bytes, &first);
    let lab = tempfile::tempdir_in(&options.directory)?;
    let bucket = options.new_bucket(&format!("fleet-{run}"))?;
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
    let mut client = Client::new(Arc::clone(&fleet));

    let (cpu, began) = (running.cpu_secs(), Instant::now());
    let sent = push_all(Arc::clone(&fleet), first.layers.clone(), PUSHERS, false).await?;
    client.put_manifest("first", &first.manifest).await?;
    let (push_rate, push_cpu) = rates(sent, began.elapsed(), running.cpu_secs() - cpu);
    let finish = fleet.counts.slowest_finish_micros.load(Ordering::Relaxed);

    let began = Instant::now();
    push_all(Arc::clone(&fleet), second.layers.clone(), PUSHERS, true).await?;
    client.put_manifest("second", &second.manifest).await?;
    let again_secs = began.elapsed().as_secs_f64();

    let (cpu, began) = (running.cpu_secs(), Instant::now());
    let pulled = pull_all(&fleet, &second, PULLERS, false).await?;
    let (pull_rate, pull_cpu) = rates(pulled, began.elapsed(), running.cpu_secs() - cpu);
    let (_, peak_mib) = running.memory_mib();
    running.stop()?;
    Ok(Figures {
        push_rate,
        push_cpu,
        finish_ms: finish as f64 / 1e3,
        again_secs,
        pull_rate,
        pull_cpu,
        peak_mib,
    })
}

/// MB/s, and seconds of the server's processor for each GB.
fn rates(bytes: u64, took: Duration, cpu_secs: f64) -> (f64, f64) {
    let bytes = bytes as f64;
    (bytes / 1e6 / took.as_secs_f64(), cpu_secs / (bytes / 1e9))
}

/// `workers` clients push the layers; gives the bytes that were sent.
pub(crate) async fn push_all(
    fleet: Arc<Fleet>,
    layers: Vec<Layer>,
    workers: usize,
    checks_first: bool,
) -> io::Result<u64> {
    let (layers, next) = (Arc::new(layers), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let (layers, next) = (Arc::clone(&layers), Arc::clone(&next));
        let mut client = Client::new(Arc::clone(&fleet));
        tasks.spawn(async move {
            let mut sent = 0;
            while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                sent += client.push(layer, checks_first).await?;
            }
            io::Result::Ok(sent)
        });
    }
    sum(tasks).await
}

/// `clients` pull the whole release, each for itself; gives the bytes of all.
pub(crate) async fn pull_all(
    fleet: &Arc<Fleet>,
    release: &Release,
    clients: usize,
    is_checked: bool,
) -> io::Result<u64> {
    let layers: Arc<Vec<Layer>> = Arc::new(release.layers.clone());
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let mut client = Client::new(Arc::clone(fleet));
        let layers = Arc::clone(&layers);
        tasks.spawn(async move {
            let mut pulled = 0;
            for layer in layers.iter() {
                pulled += client.pull(&layer.blob, is_checked).await?;
            }
            io::Result::Ok(pulled)
        });
    }
    sum(tasks).await
}

async fn sum(mut tasks: JoinSet<io::Result<u64>>) -> io::Result<u64> {
    let mut bytes = 0;
    while let Some(ended) = tasks.join_next().await {
        bytes += ended.map_err(io::Error::other)??;
    }
    Ok(bytes)
}

/// As Markdown: medians, and how ours compares with the best of the others.
pub(crate) fn table(servers: &[Server], measured: &[(String, Figures)]) -> String {
    let names: Vec<&str> = servers.iter().map(|server| &*server.name).collect();
    let mut text = format!(
        "| What | {} | ours × best other |\n|---|{}\n",
        names.join(" | "),
        "---|".repeat(names.len() + 1)
    );
    for (name, figure, is_cost) in ROWS {
        let median = |server: &Server| {
            let of_server = measured.iter().filter(|(name, _)| *name == server.name);
            let mut figures: Vec<f64> = of_server.map(|(_, figures)| figure(figures)).collect();
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        let best = servers.iter().filter(|server| !server.is_ours).map(median);
        let best = if *is_cost {
            best.min_by(f64::total_cmp)
        } else {
            best.max_by(f64::total_cmp)
        };
        let ours = servers.iter().find(|server| server.is_ours).map(median);
        let ratio = ours
            .zip(best)
            .map(|(ours, best)| format!("{:.2}", ours / best));
        let cells: Vec<String> = servers.iter().map(|server| short(median(server))).collect();
        let ratio = ratio.unwrap_or_else(|| "–".to_owned());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {name} | {} | {ratio} |", cells.join(" | "));
    }
    text
}

fn short(figure: f64) -> String {
    if figure >= 100.0 {
        format!("{figure:.0}")
    } else {
        format!("{figure:.2}")
    }
}
