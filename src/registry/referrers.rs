//! Referrers: the manifests that name another one as their subject.
//!
//! Source: distribution-spec "Listing Referrers". The truth is the `subject` field of each revision's manifest; the
//! index proposes candidates, and while the repository is unread every revision is one. Must not know how the answer is printed. Invariant: each referrer that is
//! returned has its revision link and its bytes.

use std::collections::BTreeMap;

use super::links::Stored;
use super::{Registry, RegistryError};
use crate::index::PAGE_MAX;
use crate::layout;
use crate::oci::{Algorithm, Digest, MediaType, RepositoryName};

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

impl Registry {
    /// The referrers of `subject` in a repository, by digest; none if either is unknown. `artifact_type` keeps only those
    /// of that type.
    pub async fn referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, RegistryError> {
        let candidates = match self.all_referrers_by_index(name, subject).await {
            Some(candidates) => candidates,
            None => self.all_revisions(name).await?,
        };
        let mut referrers = Vec::new();
        let is_wanted = |referrer: &Referrer| {
            artifact_type.is_none_or(|wanted| referrer.artifact_type.as_deref() == Some(wanted))
        };
        self.each_manifest(name, &candidates, |digest, meta, stored| {
            let referrer = referrer(digest, subject, meta.size_bytes, stored);
            referrers.extend(referrer.filter(is_wanted));
        })
        .await?;
        Ok(referrers)
    }

    async fn all_referrers_by_index(
        &self,
        name: &RepositoryName,
        subject: &Digest,
    ) -> Option<Vec<Digest>> {
        let by_index = self.may_list_from_index(name).await;
        let mut all: Vec<Digest> = Vec::new();
        loop {
            let page = self
                .referrers_by_index(name, subject, all.last(), by_index)
                .await?;
            let is_last = page.len() < PAGE_MAX;
            all.extend(page);
            if is_last {
                return Some(all);
            }
        }
    }

    async fn all_revisions(&self, name: &RepositoryName) -> Result<Vec<Digest>, RegistryError> {
        let mut revisions = Vec::new();
        for algorithm in Algorithm::ALL {
            let prefix = layout::revisions_directory(name, algorithm);
            self.each_directory(&prefix, |hex| {
                revisions.extend(Digest::from_parts(algorithm, hex));
            })
            .await?;
        }
        revisions.sort_unstable();
        Ok(revisions)
    }
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
        digest: digest.clone(),
        size_bytes,
        artifact_type: manifest.artifact_type,
        annotations: manifest.annotations,
    })
}
