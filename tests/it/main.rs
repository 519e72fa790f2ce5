//! Integration tests: one binary, one module per feature.

mod config;
mod config_oracle;
mod oracle;
