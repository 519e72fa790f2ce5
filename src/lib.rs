//! Boathouse: a self-contained home for container images and VM images.
//!
//! The modules have one strict order. Each names only modules to its right; the test `tests/it/layers.rs` enforces it:
//!
//! `cli > instance > config > server > metrics > tls > health > registry > auth > client > index > store > layout > oci >
//! telemetry > heartbeat > clock > host_port > durable_file > platform`
//!
//! `docs/architecture.md` describes each module and the path of a request through them.

pub mod auth;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod durable_file;
pub mod health;
pub mod heartbeat;
pub mod host_port;
pub mod index;
pub mod instance;
pub mod layout;
pub mod metrics;
pub mod oci;
pub mod platform;
pub mod registry;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tls;

#[cfg(test)]
#[path = "../tests/it/golden/compare.rs"]
mod golden;
