//! The operations of a registry, HTTP-free.
/// What the config decides about the operations.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `storage.delete.enabled`
    pub deletes_enabled: bool,
    /// `storage.maintenance.readonly.enabled`
    pub readonly: bool,
    /// `validation.manifests.references: strict|any`
    pub references: References,
    /// `limits`
    pub limits: Limits,
}

/// Whether everything that a manifest references must exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum References {
    /// It must.
    Strict,
    /// It need not.
    Any,
}

/// The limits of the operations.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest manifest taken (`limits.manifest_size_bytes`, 4 MiB by default, at most 16 MiB).
    pub manifest_size_bytes: usize,
    /// Repositories looked through for a mount without `from` (`limits.mount_probes`, 1,000).
    pub mount_probes: usize,
    /// Entries in one page of a list (`limits.list_page`, 1,000; `catalog.maxentries` for the catalog).
    pub list_page: usize,
    /// Upload sessions kept open in memory (`limits.open_uploads`, 1,024); others are taken up again from the store.
    pub open_uploads: usize,
}
