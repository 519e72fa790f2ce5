//! The one integration test binary: each file beside this one is a module of it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests state their expectations by panicking; clippy's own exception stops at functions marked as tests"
)]

/// Where [`data::Data`] keeps what registries here store.
const KEEPS_DATA_IN_A_BUCKET: bool = false;

/// A test that needs a directory, and why.
macro_rules! on_a_directory {
    ($reason:literal; $test:item) => {
        $test
    };
}

mod access;
mod addresses;
mod at_once;
mod bad_inputs;
mod blobs;
mod bucket_trouble;
mod bucket_uploads;
mod busy;
mod client;
mod closed_output;
mod config;
mod config_command;
mod connections;
mod control;
mod crash;
mod cross_origin;
mod crowds;
mod damaged_data;
mod data;
mod data_in_s3;
mod denial;
mod doctor;
mod encoded_paths;
mod fallback_tags;
mod first_run;
mod golden;
mod guide;
mod handing_back;
mod health;
mod htpasswd;
mod index;
mod issuer_certificates;
mod lab;
mod late_refusal;
mod layers;
mod listeners;
mod listings;
mod logs;
mod lost_logs;
mod manifest_kinds;
mod manifests;
mod memory;
mod metrics;
mod moved;
mod names;
mod oracle;
mod own_certificates;
mod program;
mod progress;
mod random;
mod readiness;
mod reload;
mod repository_removal;
mod rooms;
#[expect(dead_code, reason = "what only the tests on a bucket need")]
#[path = "../s3_server/mod.rs"]
mod s3_server;
mod same_answers;
mod scale;
mod secrecy;
mod service;
mod support;
mod takeover;
mod taking_over;
mod token_flows;
mod token_key;
mod token_listener;
mod trees;
mod trust;
mod upgrade;
mod uploads;
mod users;
mod validation;
mod verifier_matrix;
mod visibility;
mod vm;
