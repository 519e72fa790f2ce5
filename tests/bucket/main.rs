//! The tests of `tests/it` that use a registry in this process, with the data in a bucket instead of a directory.
//!
//! No test is written here. Left out are modules that start the program, which knows no bucket, and `trees`, which is about
//! what lies in directories. Within the modules that are here, tests that need a directory are ignored, with their reason.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests state their expectations by panicking; clippy's own exception stops at functions marked as tests"
)]
#![expect(dead_code, reason = "helpers of the modules that are left out")]

/// Where [`data::Data`] keeps what registries here store.
const KEEPS_DATA_IN_A_BUCKET: bool = true;

/// A test that needs a directory, and why.
macro_rules! on_a_directory {
    ($reason:literal; $test:item) => {
        #[ignore = $reason]
        $test
    };
}

#[path = "../it/access.rs"]
mod access;
#[path = "../it/addresses.rs"]
mod addresses;
#[path = "../it/at_once.rs"]
mod at_once;
#[path = "../it/bad_inputs/mod.rs"]
mod bad_inputs;
#[path = "../it/blobs.rs"]
mod blobs;
#[path = "../it/client.rs"]
mod client;
#[path = "../it/connections.rs"]
mod connections;
#[path = "../it/cross_origin.rs"]
mod cross_origin;
#[path = "../it/crowds.rs"]
mod crowds;
#[path = "../it/damaged_data.rs"]
mod damaged_data;
#[path = "../it/data.rs"]
mod data;
#[path = "../it/data_in_s3.rs"]
mod data_in_s3;
#[path = "../it/denial.rs"]
mod denial;
#[path = "../it/encoded_paths.rs"]
mod encoded_paths;
#[path = "../it/fallback_tags.rs"]
mod fallback_tags;
#[path = "../it/index/mod.rs"]
mod index;
#[path = "../it/lab.rs"]
mod lab;
#[path = "../it/late_refusal.rs"]
mod late_refusal;
#[path = "../it/listeners.rs"]
mod listeners;
#[path = "../it/listings.rs"]
mod listings;
#[path = "../it/manifest_kinds.rs"]
mod manifest_kinds;
#[path = "../it/manifests.rs"]
mod manifests;
#[path = "../it/memory.rs"]
mod memory;
#[path = "../it/program.rs"]
mod program;
#[path = "../it/progress.rs"]
mod progress;
#[path = "../it/random.rs"]
mod random;
#[path = "../it/readiness.rs"]
mod readiness;
#[path = "../it/repository_removal.rs"]
mod repository_removal;
#[path = "../s3_server/mod.rs"]
mod s3_server;
#[path = "../s3_server/exactness.rs"]
mod s3_server_exactness;
#[path = "../it/support.rs"]
mod support;
#[path = "../it/token_flows.rs"]
mod token_flows;
#[path = "../it/uploads.rs"]
mod uploads;
#[path = "../it/visibility.rs"]
mod visibility;
#[path = "../it/vm/mod.rs"]
mod vm;
