//! The terms of the OCI distribution and image specifications, as types.
//!
//! Pure: no I/O, no clock, no HTTP. Every value of these types is valid, so other modules need not check it again.
//! Invariant: parsing and printing are inverse.

mod case_folding;
pub mod digest;
pub mod image_name;
mod json;
mod json_text;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod range;
pub mod reference;
pub mod scope;

pub use digest::{Algorithm, Digest, DigestError, Hasher};

pub use image_name::{ImageName, ImageNameError};
#[cfg(test)]
pub(crate) use json_text::READ_HERE_BYTES;
pub use manifest::{Content, Descriptor, Manifest, ManifestError, Platform};
pub use media_type::MediaType;
pub use name::{NameError, RepositoryName};
pub use reference::{Reference, ReferenceError, Tag, TagError};

/// The maximum length of quoted text in an error: enough to find it.
const EXCERPT_CHARS_MAX: usize = 80;

/// `text` in quotes, shortened if it is long, for an error.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
    }
}
