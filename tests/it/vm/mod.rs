//! What the clients of VM images do to a registry, request by request: Geranos, Tart, lume and vetu.
//!
//! None of them runs on every machine that runs these tests, so each is replayed: its requests in its order, with its
//! headers, its ways of escaping, and what it makes of each answer, over TLS. Sources: `go-containerregistry` 0.19.1 (all of
//! Geranos' requests), Tart 2.30, lume's `ImageContainerRegistry`, `regclient` 0.11.1 (all of vetu's).
//!
//! `BOATHOUSE_VM_SCALE=N` makes what they push N times as large. At 1024 it is as large as in life: segments from 64 KiB to
//! 16 MiB, 5.5 GiB in all; layers of half a GiB; a disk of 8 GiB in one PUT.

#![expect(clippy::print_stdout, reason = "figures are printed")]

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

mod content;
mod geranos;
mod geranos_replay;
mod go_containerregistry;
mod lab;
mod lume;
mod process;
mod tart;
mod vetu;
mod wire;

/// How many bytes of a replay stand for a KiB of the real thing.
fn scale() -> u64 {
    let scale = std::env::var("BOATHOUSE_VM_SCALE");
    scale.map_or(1, |text| text.parse().expect("BOATHOUSE_VM_SCALE"))
}

/// Does `work` for each of `items`, so many at once; ends at the first error.
async fn in_parallel<T, E, W: Future<Output = Result<(), E>>>(
    workers: usize,
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> W,
) -> Result<(), E> {
    let done = stream::iter(items.into_iter().map(work)).buffer_unordered(workers);
    done.try_collect::<()>().await
}
