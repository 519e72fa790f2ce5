//! The other side of a registry: speaking to one as its clients do, and reading the certificates that it shows.
//!
//! Must not know what is asked, nor print anything. Only this module and `server` use hyper.

mod authority_scope;
pub(crate) mod certificates;
pub(crate) mod http;
