//! Ours under everything that has broken such pushes.
//!
//! Invariant: it passes only where the registry was killed in the middle of pushes and tokens did expire in them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::{Counts, Fleet};
use crate::content::Noise;
use crate::figures::{pull_all, push_all};
use crate::options::Options;
use crate::release::Release;
use crate::servers::{Mode, Server};

/// So short that tokens expire within pushes.
const TOKEN_SECS: u32 = 2;
/// Layers at once.
const PUSHERS: usize = 4;
/// Clients that pull everything at once.
const PULLERS: usize = 8;
/// How long the registry is away.
const AWAY: Duration = Duration::from_secs(1);
/// How often the killer looks whether the time has come.
const LOOK: Duration = Duration::from_millis(5);

/// Whether no session was lost. Fails where anything else is wrong.
pub(crate) async fn run(
    options: &Options,
    server: &Server,
    noise: &Arc<Noise>,
) -> io::Result<bool> {
    let first = Release::first(noise, 0, options.size_bytes);
    let second = Release::next(noise, 0, options.size_bytes, &first);
    let lab = tempfile::tempdir_in(&options.directory)?;
    let bucket = options.new_bucket("fleet-trial")?;
    let server = Server {
        bucket: bucket.as_ref().map(|made| made.bucket.clone()),
        ..server.clone()
    };
    let mut mode = Mode {
        auth: true,
        token_secs: Some(TOKEN_SECS),
        ..Mode::default()
    };
    let running = server.start(lab.path(), mode).await?;
    mode.address = Some(running.target.address);
    let (told, target) = watch::channel(running.target.clone());
    let fleet = Arc::new(Fleet {
        target,
        noise: Arc::clone(noise),
        token_life: Some(Duration::from_secs(TOKEN_SECS.into())),
        is_patient: true,
        counts: Counts::default(),
    });
    let began = Instant::now();
    let mut pushing = tokio::spawn(push_all(
        Arc::clone(&fleet),
        first.layers.clone(),
        PUSHERS,
        false,
    ));
    tokio::select! {
        () = two_fifths_sent(&fleet, &first) => {}
        ended = &mut pushing => {
            let sent = ended.map_err(io::Error::other)??;
            return Err(io::Error::other(format!("all {sent} bytes were pushed before the registry was killed")));
        }
    }
    // SIGKILL.
    drop(running);
    tokio::time::sleep(AWAY).await;
    let running = server.start(lab.path(), mode).await?;
    told.send_replace(running.target.clone());
    let sent = pushing.await.map_err(io::Error::other)??;
    let of_first = began.elapsed();
    put(&fleet, "first", &first).await?;
    let sent_again = push_all(Arc::clone(&fleet), second.layers.clone(), PUSHERS, true).await?;
    put(&fleet, "second", &second).await?;
    let pulled = pull_all(&fleet, &second, PULLERS, true).await?;
    let (_, peak) = running.memory_mib();
    running.stop()?;
    let Counts {
        broken,
        resumed,
        lost,
        tokens,
        with_expired_token,
        slowest_finish_micros,
        ..
    } = &fleet.counts;
    let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "trial: {} layers, {:.2} GB pushed {PUSHERS} at a time in {:.0} s, killed after two fifths; second release {:.2} GB; \
         {:.2} GB pulled by {PULLERS} clients and compared",
        first.layers.len(),
        sent as f64 / 1e9,
        of_first.as_secs_f64(),
        sent_again as f64 / 1e9,
        pulled as f64 / 1e9,
    );
    println!(
        "trial: {} requests broke, {} sessions went on, {} sessions lost, {} tokens, {} bodies taken with an expired one, \
         slowest last answer {:.0} ms, peak memory {peak:.0} MiB",
        of(broken),
        of(resumed),
        of(lost),
        of(tokens),
        of(with_expired_token),
        of(slowest_finish_micros) as f64 / 1e3,
    );
    if of(broken) == 0 || of(with_expired_token) == 0 {
        return Err(io::Error::other(
            "nothing broke, or no token expired: this trial shows nothing; give it more --bytes",
        ));
    }
    Ok(of(lost) == 0)
}

/// Waits until it is time to kill the registry.
async fn two_fifths_sent(fleet: &Fleet, release: &Release) {
    let due = release.size_bytes() * 2 / 5;
    while fleet.counts.sent_bytes.load(Ordering::Relaxed) < due {
        tokio::time::sleep(LOOK).await;
    }
}

async fn put(fleet: &Arc<Fleet>, tag: &str, release: &Release) -> io::Result<()> {
    let mut client = crate::client::Client::new(Arc::clone(fleet));
    client.put_manifest(tag, &release.manifest).await
}
