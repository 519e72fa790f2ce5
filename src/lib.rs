//! Boathouse: a self-contained home for container images and VM images.
//!
//! One strict order of modules; each names only modules to its right, and a test in `tests/it/layers.rs` enforces it:
//!
//! `cli > config > server > ui > webhooks > tls > registry > auth > index > store > layout > oci > telemetry > heartbeat >
//! clock > durable_file > platform`
//!
//! `docs/architecture.md` tells what each is for and how a request travels through them.

pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod durable_file;
pub mod heartbeat;
pub mod index;
pub mod layout;
pub mod oci;
pub mod platform;
pub mod registry;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod ui;
pub mod webhooks;
