//! Registries side by side: `tests/bench/run` starts this, and says what is measured and how to read it.
//!
//! Client and server share the machine, so what counts is the ratio within one run. Not part of `cargo test`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table is printed"
)]
#![expect(
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::format_push_string,
    reason = "figures, of a program that ends where anything is odd"
)]

mod connection;
mod content;
mod curves;
mod load;
mod measure;
mod options;
mod report;
mod rows;
mod servers;
mod token;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use content::Noise;
use measure::{Bench, Scale};
use options::Options;
use report::Report;
use servers::{Kind, Server};

/// What all blobs are parts of.
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

async fn run(options: &Options) -> io::Result<bool> {
    let noise = Arc::new(Noise::new(NOISE_BYTES));
    if let Some(curve) = options.curve {
        return curves::run(options, curve, &noise).await.map(|()| true);
    }
    let mut order = options.servers_under_measurement();
    let servers: Vec<Server> = order.iter().map(|(server, _)| server.clone()).collect();
    let mut report = Report::default();
    for round in 0..options.rounds {
        for group in &options.groups {
            // One after the other within a round, so that what disturbs the machine disturbs all of them.
            for (server, auth) in &order {
                if server.kind == Kind::Nginx && !group.is_for_files() {
                    continue;
                }
                let lab = tempfile::tempdir_in(&options.directory)?;
                measure::sync(lab.path())?;
                let bench = Bench {
                    server,
                    lab: lab.path(),
                    noise: &noise,
                    scale: if options.is_quick {
                        Scale::QUICK
                    } else {
                        Scale::WHOLE
                    },
                    auth: *auth,
                    run: u64::from(round),
                };
                let figures = bench.measure(*group).await.map_err(|error| {
                    io::Error::other(format!("{}, {}: {error}", server.name, group.name()))
                })?;
                for (row, figure) in figures {
                    report.add(row, &server.name, figure);
                }
            }
            eprintln!("round {}: {}", round + 1, group.name());
        }
        // Each is the first once: a disk is busy for a while with what was removed before.
        order.rotate_left(1);
    }
    println!("{}", report.text(&servers, !options.auth));
    if let Some(path) = &options.json {
        std::fs::write(path, report.json().to_string())?;
    }
    if options.is_quick || options.auth {
        return Ok(true);
    }
    let failures = report.failures(&servers);
    for failure in &failures {
        eprintln!("missed: {failure}");
    }
    Ok(failures.is_empty())
}
