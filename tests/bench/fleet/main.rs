//! A fleet of Macs pushes a VM image to a registry over a bucket, and pulls it: `tests/bench/fleet/run` starts this.
//!
//! First ours alone, with everything that has broken such pushes: tokens that expire in the middle, the registry killed in the
//! middle, the same layer twice at once. Each session must go on where it was, and every byte must be there. Then each
//! registry over the same bucket server, without trouble, for the figures. Not part of `cargo test`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table is printed"
)]
#![expect(
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::format_push_string,
    reason = "figures, of a program that ends where anything is odd"
)]
#![expect(
    dead_code,
    reason = "what other measurements need of the shared modules"
)]

mod client;
#[path = "../peers/connection.rs"]
mod connection;
#[path = "../peers/content.rs"]
mod content;
mod crowd;
mod figures;
#[path = "../peers/load.rs"]
mod load;
mod options;
mod release;
#[path = "../peers/servers.rs"]
mod servers;
#[path = "../peers/token.rs"]
mod token;
mod trial;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use content::Noise;
use figures::{Figures, table};
use options::Options;

/// What all layers are parts of.
const NOISE_BYTES: usize = 128 * 1024 * 1024;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        // `cargo test --benches` and the like have nothing to measure.
        Ok(None) => return ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    match runtime.and_then(|runtime| runtime.block_on(run(&options))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all that must hold does.
async fn run(options: &Options) -> io::Result<bool> {
    let noise = Arc::new(if options.is_zeros {
        Noise(vec![0; NOISE_BYTES])
    } else {
        Noise::new(NOISE_BYTES)
    });
    let ours = options.servers.iter().find(|server| server.is_ours);
    if let (Some(count), Some(ours)) = (options.crowd, ours) {
        return crowd::run(options, ours, &noise, count)
            .await
            .map(|()| true);
    }
    let mut is_well = true;
    if let Some(ours) = ours {
        is_well &= trial::run(options, ours, &noise).await?;
    }
    let mut order = options.servers.clone();
    let mut measured: Vec<(String, Figures)> = Vec::new();
    for round in 0..options.rounds {
        for server in &order {
            let run = u64::from(round) + 1;
            let figures = figures::of(options, server, &noise, run).await;
            let figures =
                figures.map_err(|error| io::Error::other(format!("{}: {error}", server.name)))?;
            eprintln!("round {run}: {}", server.name);
            measured.push((server.name.clone(), figures));
        }
        // Each is the first once: a disk is busy for a while with what was removed before.
        order.rotate_left(1);
    }
    if !measured.is_empty() {
        println!("{}", table(&options.servers, &measured));
    }
    Ok(is_well)
}
