//! Referrers: the manifests that name another one as their subject.
//!
//! Source: distribution-spec "Listing Referrers". The truth is the `subject` field of each revision's manifest; the
//! index proposes candidates, and while the repository is unread every revision is one. Must not know how the answer is printed. Invariant: each referrer that is
//! returned has its revision link and its bytes.

use std::collections::BTreeMap;

use super::{Registry, RegistryError};
use crate::index::PAGE_MAX;
use crate::layout;
use crate::oci::{Algorithm, Digest, Manifest, MediaType, RepositoryName};

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
        for digest in candidates {
            let referrer = self.referrer(name, digest, subject).await?;
            let is_wanted = |referrer: &Referrer| {
                artifact_type.is_none_or(|wanted| referrer.artifact_type.as_deref() == Some(wanted))
            };
            referrers.extend(referrer.filter(is_wanted));
        }
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

    async fn referrer(
        &self,
        name: &RepositoryName,
        digest: Digest,
        subject: &Digest,
    ) -> Result<Option<Referrer>, RegistryError> {
        let Some((key, _)) = self.linked_manifest(name, &digest).await? else {
            return Ok(None);
        };
        let Some(bytes) = self
            .read_small(&key, super::manifests::READ_SIZE_MAX_BYTES)
            .await?
        else {
            return Ok(None);
        };
        // What another registry took, but we could not read, is about nothing.
        let media_type = Manifest::media_type_of(&bytes);
        let Ok(manifest) = Manifest::parse(&bytes, Some(&media_type)) else {
            return Ok(None);
        };
        if manifest
            .subject
            .as_ref()
            .map(|descriptor| &descriptor.digest)
            != Some(subject)
        {
            return Ok(None);
        }
        Ok(Some(Referrer {
            media_type: manifest.media_type,
            digest,
            size_bytes: bytes.len() as u64,
            artifact_type: manifest.artifact_type,
            annotations: manifest.annotations,
        }))
    }
}
