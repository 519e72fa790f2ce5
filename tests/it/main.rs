//! The one integration test binary: each file beside this one is a module of it.

#![expect(
    clippy::unwrap_used,
    reason = "tests state their expectations by panicking; clippy's own exception stops at functions marked as tests"
)]

mod layers;
