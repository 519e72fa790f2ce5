//! Tests of the whole crate, one module for each feature.

mod access;
mod blobs;
mod config;
mod config_oracle;
mod connections;
mod layers;
mod listings;
mod manifests;
mod oracle;
mod support;
mod uploads;
