//! The words of the OCI distribution and image specifications, as types.
//!
//! Pure: no I/O, no clock, no HTTP. A value of one of these types is valid by construction, so nothing further in looks at
//! text again. Invariant: parsing and printing are inverse to each other.

pub mod digest;
mod json;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod range;
pub mod reference;
pub mod scope;

pub use digest::{Algorithm, Digest, DigestError, Hasher};

pub use manifest::{Content, Descriptor, Manifest, ManifestError};
pub use media_type::MediaType;
pub use name::{NameError, RepositoryName};
pub use reference::{Reference, ReferenceError, Tag, TagError};
