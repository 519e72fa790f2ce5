//! Referrers: the manifests that name another one as their subject.
//!
//! Source: distribution-spec "Listing Referrers". The truth is the `subject` field of each revision's manifest; the
//! index proposes candidates, and while the repository is unread every revision is one. Must not know how the answer is printed. Invariant: each referrer that is
//! returned has its revision link and its bytes; what a page takes is bounded, whatever the manifests hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::core::Stored;
use super::error::RegistryError;
use super::listings::{Listings, PageRequest};
use crate::index::PAGE_MAX;
use crate::layout;
use crate::oci::{Algorithm, Digest, MediaType, RepositoryName};
use crate::store::Meta;

/// What the referrers of one page may take: what the specification lets a manifest have, and an answer is one. One that
/// takes more by itself is a page of its own.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// What is read for one page: where it has few referrers (by their type, or because the index cannot be asked), it is ended
/// by this. Thousands of usual manifests, and a moment's work.
const PAGE_READ_BYTES: u64 = 32 * 1024 * 1024;

/// Manifests that are read together, as long as they are short: all of them are in memory for a moment, and each may be
/// megabytes.
const READ_AT_ONCE: usize = 8;

/// What was read together when the next are read one by one.
const SHORT_BYTES: u64 = 256 * 1024;

/// What a referrer takes in an answer beside its annotations and its artifact type, about.
const ENTRY_BYTES: usize = 300;

/// A manifest that is about another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Its type.
    pub media_type: MediaType,
    /// Its address.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// What it is: `artifactType`, or the type of its config.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A part of the referrers of a manifest. Until it is dropped it has its turn among those that are in memory.
#[derive(Debug)]
pub struct ReferrersPage {
    /// Those in it, by digest.
    pub items: Vec<Referrer>,
    /// Where the next page begins: right after this digest. `None`: there are no more.
    pub next: Option<Digest>,
    _turn: OwnedSemaphorePermit,
}

/// A page as it grows.
struct Growing {
    items: Vec<Referrer>,
    count_max: usize,
    bytes: usize,
    read_bytes: u64,
    /// How many manifests are read together next.
    at_once: usize,
    /// Up to where all have been looked at.
    last: Option<Digest>,
}

impl Listings {
    /// The referrers of `subject` in a repository, by digest; none if either is unknown. `artifact_type` keeps only those
    /// of that type. A page may have few, or none, and not be the last.
    pub async fn referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
        request: &PageRequest,
    ) -> Result<ReferrersPage, RegistryError> {
        let turns = Arc::clone(&self.referrer_pages);
        // Never closed, so only a registry that ends has none.
        let closed = |_| RegistryError::NameUnknown(name.clone());
        let turn = turns.acquire_owned().await.map_err(closed)?;
        let list_page = self.core.settings.limits.list_page;
        let mut page = Growing {
            items: Vec::new(),
            count_max: request.count.unwrap_or(list_page).min(list_page).max(1),
            bytes: 0,
            read_bytes: 0,
            at_once: 1,
            // What is no digest begins before the first one.
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

    /// Adds those of `candidates` that belong there; `false` if the page was full before their end.
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

/// What a referrer takes in an answer, about.
fn size_bytes(referrer: &Referrer) -> usize {
    let annotations = referrer.annotations.iter();
    let annotations: usize = annotations
        .map(|(name, value)| name.len() + value.len())
        .sum();
    ENTRY_BYTES + annotations + referrer.artifact_type.as_deref().map_or(0, str::len)
}

/// The manifest, if it is about `subject`. What another registry took, but we could not read, is about nothing.
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
    Some(Referrer {
        media_type: manifest.media_type,
        digest: *digest,
        size_bytes,
        artifact_type: manifest.artifact_type,
        annotations: manifest.annotations,
    })
}
