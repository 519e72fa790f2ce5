//! A bucket: how it is reached, and the requests to it.
//!
//! Design: `docs/storage-layout.md`. Must not know which links a registry writes. Invariant: every request to the bucket goes
//! through one type, [`client::Bucket`].

mod attempts;
pub mod client;
mod connector;
mod credentials;
mod file_body;
mod journal;
pub mod multipart;
mod part_sizes;
mod settings;
mod shipper;
pub mod spool;
mod spool_room;
mod storing;
pub mod trouble;
mod upload;

pub use self::attempts::Patience;
pub use self::settings::{Credentials, Encryption, Settings};
