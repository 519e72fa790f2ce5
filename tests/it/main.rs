//! Tests of the whole crate, one module for each feature.

mod config;
mod config_oracle;
mod oracle;
