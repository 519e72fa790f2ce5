//! Referrers: the manifests whose `subject` is another manifest.
//!
//! Source: distribution-spec "Listing Referrers". The `subject` field of each revision's manifest decides. The index gives
//! the candidates; while the repository is not indexed, every revision is a candidate. Must not know how the answer is
//! printed. Invariants: each referrer that is returned has its revision link and its bytes; the memory of a page is bounded,
//! whatever the manifests contain.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use tokio::sync::OwnedSemaphorePermit;

use super::core::Stored;
use super::error::RegistryError;
use super::listings::{Listings, PageRequest};
use crate::index::PAGE_MAX;
use crate::layout;
use crate::oci::{Algorithm, Digest, Manifest, MediaType, RepositoryName};
use crate::store::Meta;

/// The most bytes of referrers in one page: the answer is an image index, and 4 MiB is the specification's limit for a
/// manifest. A referrer that is larger alone gets a page of its own.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// The most bytes of manifests that are read for one page. It ends pages for which few candidates match (by their type, or
/// because the repository is not indexed). Enough for thousands of usual manifests.
const PAGE_READ_BYTES: u64 = 32 * 1024 * 1024;

/// How many manifests are read together while they are short: all of them are in memory at the same time.
const READ_AT_ONCE: usize = 8;

/// If the manifests that were read together had more bytes than this, the next are read one by one.
const SHORT_BYTES: u64 = 256 * 1024;

/// About how many bytes a referrer needs in an answer, without its annotations and artifact type.
const ENTRY_BYTES: usize = 300;

/// A manifest with a subject. Serialized, it is the descriptor that lists of referrers have (distribution-spec "Listing
/// Referrers").
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Its media type.
    #[serde(serialize_with = "as_text")]
    pub media_type: MediaType,
    /// Its digest.
    #[serde(serialize_with = "as_text")]
    pub digest: Digest,
    /// Its length.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// `artifactType`, or the media type of its config.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Referrer {
    /// As `manifest` describes itself.
    pub(super) fn of(manifest: Manifest, digest: Digest, size_bytes: u64) -> Self {
        Self {
            media_type: manifest.media_type,
            digest,
            size_bytes,
            artifact_type: manifest.artifact_type,
            annotations: manifest.annotations,
        }
    }
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// One page of referrers. It counts among the few pages that may be in memory until it is
/// dropped.
#[derive(Debug)]
pub struct ReferrersPage {
    /// The referrers, ordered by digest.
    pub items: Vec<Referrer>,
    /// The next page begins after this digest; `None` if this is the last page.
    pub next: Option<Digest>,
    _turn: OwnedSemaphorePermit,
}

/// A page while it is filled.
struct Growing {
    items: Vec<Referrer>,
    count_max: usize,
    bytes: usize,
    read_bytes: u64,
    /// How many manifests are read together in the next step.
    at_once: usize,
    /// All candidates up to this digest have been read.
    last: Option<Digest>,
}

impl Listings {
    /// The referrers of `subject` in a repository, ordered by digest; none if either is unknown. With `artifact_type`, only
    /// those of that type. A page may be short or empty although it is not the last.
    pub async fn referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
        request: &PageRequest,
    ) -> Result<ReferrersPage, RegistryError> {
        let turns = Arc::clone(&self.referrer_pages);
        // The semaphore is never closed, so this error does not occur.
        let closed = |_| RegistryError::NameUnknown(name.clone());
        let turn = turns.acquire_owned().await.map_err(closed)?;
        let list_page = self.core.settings.limits.list_page;
        let mut page = Growing {
            items: Vec::new(),
            count_max: request.count.unwrap_or(list_page).min(list_page).max(1),
            bytes: 0,
            read_bytes: 0,
            at_once: 1,
            // Anything that is not a digest means: begin with the first.
            last: request.last.as_deref().and_then(|last| last.parse().ok()),
        };
        let gate = &self.core.gate;
        let mut by_index = gate.may_list(name).await;
        let mut is_whole = false;
        'page: while !is_whole {
            let found = if by_index {
                gate.referrers(name, subject, page.last.as_ref()).await
            } else {
                None
            };
            let candidates = if let Some(candidates) = found {
                is_whole = candidates.len() < PAGE_MAX;
                candidates
            } else {
                (by_index, is_whole) = (false, true);
                self.revisions_after(name, page.last.as_ref()).await?
            };
            let mut left = candidates.as_slice();
            while !left.is_empty() {
                let (part, rest) = left.split_at(left.len().min(page.at_once));
                left = rest;
                if !self
                    .look_at(name, part, subject, artifact_type, &mut page)
                    .await?
                {
                    is_whole = false;
                    break 'page;
                }
            }
        }
        Ok(ReferrersPage {
            items: page.items,
            next: page.last.filter(|_| !is_whole),
            _turn: turn,
        })
    }

    /// Adds the matching ones of `candidates`; `false` if the page became full before the last of them.
    async fn look_at(
        &self,
        name: &RepositoryName,
        candidates: &[Digest],
        subject: &Digest,
        artifact_type: Option<&str>,
        page: &mut Growing,
    ) -> Result<bool, RegistryError> {
        if page.read_bytes >= PAGE_READ_BYTES {
            return Ok(false);
        }
        let mut found = Vec::new();
        let mut read_bytes = 0;
        let visit = |digest: &Digest, meta: Meta, stored| {
            read_bytes += meta.size_bytes;
            found.extend(referrer(digest, subject, meta.size_bytes, stored));
        };
        self.core.each_manifest(name, candidates, visit).await?;
        page.read_bytes += read_bytes;
        page.at_once = if read_bytes < SHORT_BYTES {
            (page.at_once * 2).min(READ_AT_ONCE)
        } else {
            1
        };
        for referrer in found {
            let is_wanted = artifact_type
                .is_none_or(|wanted| referrer.artifact_type.as_deref() == Some(wanted));
            if !is_wanted {
                continue;
            }
            if !page.has_room_for(&referrer) {
                return Ok(false);
            }
            page.bytes += size_bytes(&referrer);
            page.last = Some(referrer.digest);
            page.items.push(referrer);
        }
        page.last = candidates.last().copied().or(page.last.take());
        Ok(true)
    }

    async fn revisions_after(
        &self,
        name: &RepositoryName,
        after: Option<&Digest>,
    ) -> Result<Vec<Digest>, RegistryError> {
        let mut revisions = Vec::new();
        for algorithm in Algorithm::ALL {
            let directory = layout::revisions_directory(name, algorithm);
            revisions.extend(self.core.digest_directories(&directory, algorithm).await?);
        }
        revisions.retain(|digest| after.is_none_or(|after| digest > after));
        revisions.sort_unstable();
        Ok(revisions)
    }
}

impl Growing {
    fn has_room_for(&self, referrer: &Referrer) -> bool {
        let is_within = self.bytes + size_bytes(referrer) <= PAGE_BYTES;
        self.items.is_empty() || (self.items.len() < self.count_max && is_within)
    }
}

/// About how many bytes a referrer needs in an answer.
fn size_bytes(referrer: &Referrer) -> usize {
    let annotations = referrer.annotations.iter();
    let annotations: usize = annotations
        .map(|(name, value)| name.len() + value.len())
        .sum();
    ENTRY_BYTES + annotations + referrer.artifact_type.as_deref().map_or(0, str::len)
}

/// The manifest as a referrer, if its subject is `subject`. A manifest that cannot be parsed has no subject.
fn referrer(
    digest: &Digest,
    subject: &Digest,
    size_bytes: u64,
    stored: Stored,
) -> Option<Referrer> {
    let manifest = match stored {
        Stored::Manifest(manifest) => manifest,
        Stored::Unreadable | Stored::TooLong => return None,
    };
    if manifest.subject.as_ref().map(|about| &about.digest) != Some(subject) {
        return None;
    }
    Some(Referrer::of(*manifest, *digest, size_bytes))
}
