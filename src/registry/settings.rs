//! What the config decides about the operations.
//!
//! Must not know which keys of a file they come from. Invariant: every limit has its default and its reason here.

use crate::oci::Platform;

/// What the config decides about the operations.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `storage.delete.enabled`
    pub deletes_enabled: bool,
    /// `storage.maintenance.readonly.enabled`
    pub readonly: bool,
    /// `storage.maintenance.uploadpurging`
    pub upload_purging: UploadPurging,
    /// `validation.manifests.references: strict|any`
    pub references: References,
    /// `compatibility.referrers_fallback_tags`
    pub fallback_tags: FallbackTags,
    /// `validation.manifests.urls`; `None`: layers may be anywhere.
    pub layer_urls: Option<LayerUrls>,
    /// `validation.manifests.indexes`
    pub children: Children,
    /// Whether the store cannot tell `Foo` from `foo` (probed at start; DESIGN D13).
    pub case_insensitive: bool,
    /// `limits`
    pub limits: Limits,
}

impl Settings {
    /// The default limits, with deletes enabled.
    pub fn for_tests() -> Self {
        Self {
            deletes_enabled: true,
            readonly: false,
            upload_purging: UploadPurging::DEFAULT,
            references: References::Strict,
            fallback_tags: FallbackTags::Off,
            layer_urls: None,
            children: Children::All,
            case_insensitive: false,
            limits: Limits::DEFAULT,
        }
    }
}

/// Whether everything that a manifest references must exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum References {
    /// It must.
    Strict,
    /// It need not.
    Any,
}

/// Whether a tag `sha256-<hex>` lists the referrers of a manifest (distribution-spec "Referrers Tag Schema"), for a registry
/// without the referrers API that serves the same data later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallbackTags {
    /// Where the data were taken over from another registry. Opening the data replaces it by one of the others.
    WhereTakenOver,
    /// Kept up to date with each push and delete.
    Kept,
    /// Left to clients.
    Off,
}

/// Which entries of an index must exist, where [`References::Strict`] asks for what is referenced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Children {
    /// All.
    All,
    /// None; blobs of images must exist all the same.
    None,
    /// The images for these platforms.
    Of(Vec<Platform>),
}

/// Where layers may be that are not in the registry: expressions that match anywhere in a URL.
#[derive(Debug, Clone)]
pub struct LayerUrls {
    /// One of these must match; none = any URL.
    pub allow: Vec<regex::bytes::Regex>,
    /// None of these may match.
    pub deny: Vec<regex::bytes::Regex>,
}

impl LayerUrls {
    /// Whether a layer may be there. Without any expression none may be, as in distribution.
    pub(super) fn allow(&self, url: &str) -> bool {
        let matches = |expression: &regex::bytes::Regex| expression.is_match(url.as_bytes());
        let is_allowed = match self.allow.as_slice() {
            [] => !self.deny.is_empty(),
            allow => allow.iter().any(matches),
        };
        is_allowed && !self.deny.iter().any(matches)
    }
}

/// When abandoned uploads are removed. Collection, which is not built yet, is to act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadPurging {
    /// `enabled`
    pub enabled: bool,
    /// `age`: how long ago an upload began.
    pub age_secs: u64,
    /// `interval`: how often they are looked for.
    pub interval_secs: u64,
    /// `dryrun`: they are only logged.
    pub dry_run: bool,
}

impl UploadPurging {
    /// distribution's.
    pub const DEFAULT: Self = Self {
        enabled: true,
        age_secs: 168 * 3_600,
        interval_secs: 24 * 3_600,
        dry_run: false,
    };
}

/// The limits of the operations.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest manifest taken (`limits.manifest_size_bytes`). The default is what the specification asks for, and holds the
    /// manifest of a Geranos disk of 1 TiB.
    pub manifest_size_bytes: usize,
    /// Memory for bodies that are held whole, of all requests and answers together (`limits.whole_bodies_bytes`). The
    /// default is for a dozen of the longest manifests at once, or thousands of usual ones.
    pub whole_bodies_bytes: usize,
    /// Repositories looked through for a blob to mount (`limits.mount_probes`): each costs two look-ups.
    pub mount_probes: usize,
    /// Entries in one page of a list (`limits.list_page`).
    pub list_page: usize,
    /// Entries in one page of tags (`tags.maxtags`).
    pub tags_page: usize,
    /// Entries in one page of the catalog (`catalog.maxentries`).
    pub catalog_page: usize,
    /// Idle upload sessions kept open in memory (`limits.open_uploads`); each holds a file descriptor. The others are
    /// taken up again from the store.
    pub open_uploads: usize,
    /// For how long a deletion counts as recent (`limits.grace_period_secs`). The default is as long as the longest push
    /// that an upload session allows.
    pub grace_period_secs: u64,
}

impl Limits {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        manifest_size_bytes: 4 * 1024 * 1024,
        whole_bodies_bytes: 64 * 1024 * 1024,
        mount_probes: 1_000,
        list_page: 1_000,
        tags_page: 1_000,
        catalog_page: 1_000,
        open_uploads: 1_024,
        grace_period_secs: 24 * 60 * 60,
    };
}
