//! Where an answer about a repository comes from: the index or, while it may not be asked, the store.
//!
//! The store shows as much of one repository as the index does: it is read into an index in memory, and the same question is
//! asked. What other repositories hold is not known then. Must not know the questions. Invariant: an answer never misses what
//! the index has not been told yet.

use std::sync::Arc;

use super::core::Core;
use super::error::IndexedError;
use super::index_sync::reading::read_repository;
use crate::index::{Health, Index, IndexError, View};
use crate::oci::RepositoryName;

/// An answer, and why it does not come from the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<T> {
    /// The answer.
    pub value: T,
    /// Why it was read from the store, in a few words; `None` if it comes from the index.
    pub from_store: Option<String>,
}

impl<T> Seen<T> {
    pub(super) fn in_index(value: T) -> Self {
        Self {
            value,
            from_store: None,
        }
    }

    pub(super) fn in_store(value: T, why: String) -> Self {
        Self {
            value,
            from_store: Some(why),
        }
    }

    pub(super) fn map<U>(self, map: impl FnOnce(T) -> U) -> Seen<U> {
        Seen {
            value: map(self.value),
            from_store: self.from_store,
        }
    }
}

impl Core {
    /// Shows `look` what is recorded of `name`, and whether all other repositories are shown as well.
    pub(super) async fn look_at<T: Send + 'static>(
        &self,
        name: &RepositoryName,
        look: impl FnOnce(&View, bool) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<Seen<T>, IndexedError> {
        let gate = &self.gate;
        gate.index.settle().await;
        if gate.shows(name).await {
            let is_whole = gate.is_complete();
            let value = gate.index.read(move |view| look(view, is_whole)).await?;
            return Ok(Seen::in_index(value));
        }
        let value = self.read_aside(name, move |view| look(view, false)).await?;
        Ok(Seen::in_store(value, self.why_not_index()))
    }

    /// Shows `look` everything that is recorded, if the index has all of it.
    pub(super) async fn ask_of_all<T: Send + 'static>(
        &self,
        look: impl FnOnce(&View) -> Result<T, IndexError> + Send + 'static,
    ) -> Option<T> {
        let gate = &self.gate;
        gate.index.settle().await;
        if !gate.is_complete() {
            return None;
        }
        let looked = gate.index.read(look).await;
        looked
            .inspect_err(|error| tracing::warn!(%error, "the index cannot be asked"))
            .ok()
    }

    /// Shows `look` what the store has of `name`.
    pub(super) async fn read_aside<T: Send + 'static>(
        &self,
        name: &RepositoryName,
        look: impl FnOnce(&View) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexedError> {
        let reading = read_repository(self, name, &|| {}).await?;
        let index = Index::in_memory(Arc::clone(&self.clock));
        let reread = index.reread(name);
        index
            .replace_repository(reread, reading.facts, None)
            .await?;
        let value = index.read(look).await;
        index.close().await;
        Ok(value?)
    }

    /// In a few words.
    pub(super) fn why_not_index(&self) -> String {
        match self.gate.index.health() {
            Health::Degraded { reason, .. } => format!("the index cannot be used: {reason}"),
            Health::Checking => "the index is being opened".to_owned(),
            Health::Healthy | Health::Rebuilding { .. } => "the index is being filled".to_owned(),
        }
    }
}
