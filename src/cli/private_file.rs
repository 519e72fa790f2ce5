//! Files that only their owner may read, with an error that names them.

use std::path::Path;

use anyhow::Context;

use crate::durable_file;

/// Writes `text` to `path`, there whole or not at all.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    durable_file::replace(path, text.as_bytes(), 0o600)
        .with_context(|| format!("cannot write {}", path.display()))
}
