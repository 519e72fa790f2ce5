//! Whether the index says what the store says, and filling it anew.
//!
//! Must not know who asks. Invariants: what is compared is read from the store by the same code that fills the index, and
//! from the index through its view; a difference is told only if it is still there while nothing changes; comparing
//! changes nothing in the store.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::IndexSync;
use super::reading::read_repository;
use crate::index::{Child, ChildKind, Fact, Health, IndexError, View};
use crate::layout;
use crate::oci::RepositoryName;
use crate::registry::error::IndexedError;

/// How often a filling is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How often a repository in doubt is looked at before it is compared all the same: the keeper comes by each second.
const DOUBT_LOOKS_MAX: u32 = 50;

/// How many differences are told; the others are only counted.
const TOLD_MAX: usize = 100;

/// How far long work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Repositories done.
    pub done: u64,
    /// Of how many, once that is known.
    pub total: Option<u64>,
}

/// Where progress is told.
pub type Tell<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// What a filling has brought into the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filled {
    /// Repositories.
    pub repositories: u64,
    /// Tags, manifests and blob links.
    pub links: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// What a comparison has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Repositories compared.
    pub repositories: u64,
    /// Tags, manifests, blob links, sizes and references compared.
    pub facts: u64,
    /// How many differences there are.
    pub differences: u64,
    /// The first of them, for a person.
    pub told: Vec<String>,
}

impl IndexSync {
    /// Has the index filled anew from the store by [`IndexSync::run`], which must be running; the registry serves
    /// meanwhile. A filling that is under way already is joined, and one that was interrupted goes on where it was.
    pub async fn rebuild(&self, tell: Tell<'_>) -> Result<Filled, IndexedError> {
        let began = self.core.clock.elapsed();
        let index = &self.core.gate.index;
        if !matches!(index.health(), Health::Rebuilding { .. }) {
            let before = index.statistics().quarantines;
            index.start_over("it was to be filled anew");
            while index.statistics().quarantines == before {
                self.check_order()?;
                self.core.clock.sleep(LOOK_PAUSE).await;
            }
        }
        self.core.gate.wake.notify_one();
        self.until_read(tell).await?;
        let totals = index.totals();
        let took = self.core.clock.elapsed().saturating_sub(began);
        Ok(Filled {
            repositories: totals.repositories,
            links: totals.tags + totals.revisions + totals.layers,
            took_ms: took.as_millis().try_into().unwrap_or(u64::MAX),
        })
    }

    /// Waits until the keeper has brought the index up to the store.
    async fn until_read(&self, tell: Tell<'_>) -> Result<(), IndexedError> {
        while !self.core.gate.is_complete() {
            self.check_order()?;
            if self.heartbeat.has_ended() {
                return Err(unavailable("its keeper has ended; restart the server"));
            }
            if let Health::Rebuilding { done, total } = self.core.gate.index.health() {
                tell(Progress { done, total });
            } else if self.core.gate.freshness().has_given_up() {
                let reason = "some repositories cannot be read; the server's log names them";
                return Err(unavailable(reason));
            }
            self.core.clock.sleep(LOOK_PAUSE).await;
        }
        Ok(())
    }

    fn check_order(&self) -> Result<(), IndexedError> {
        match self.core.gate.index.health() {
            Health::Degraded { reason, .. } => Err(unavailable(&reason)),
            Health::Healthy | Health::Checking | Health::Rebuilding { .. } => Ok(()),
        }
    }

    /// Compares the index with the store, repository by repository, once [`IndexSync::run`] has brought it up. Edges
    /// and sizes of what no repository has any more are not looked at: they only take room.
    pub async fn compare(&self, tell: Tell<'_>) -> Result<Comparison, IndexedError> {
        self.until_read(&|_| {}).await?;
        let index = &self.core.gate.index;
        let mut names: BTreeSet<RepositoryName> = self
            .core
            .repositories(|_| true, usize::MAX)
            .await?
            .into_iter()
            .collect();
        index.settle().await;
        let known = index.read(|view| view.repositories(None).into_vec());
        names.extend(known.await?);
        let mut comparison = Comparison::default();
        let total = Some(names.len() as u64);
        for (done, name) in (0..).zip(names) {
            tell(Progress { done, total });
            let mut found = match self.differences(&name).await {
                // What it holds is not known, so the index keeps what it has.
                Err(IndexedError::Registry(error)) if error.is_unreadable() => {
                    self.core
                        .damage
                        .pass_over(layout::repository_directory(&name).as_str(), &error);
                    continue;
                }
                found => found?,
            };
            if !found.told.is_empty() {
                // What was pushed in between is no difference, nor what is known to be in doubt and is read soon: once more,
                // while nothing changes.
                for _ in 0..DOUBT_LOOKS_MAX {
                    if !self.core.gate.freshness().is_in_doubt(&name) {
                        break;
                    }
                    self.core.clock.sleep(LOOK_PAUSE).await;
                }
                let _quiet = self.quiet(&name).await?;
                found = self.differences(&name).await?;
            }
            comparison.repositories += 1;
            comparison.facts += found.facts;
            comparison.differences += found.told.len() as u64;
            let room = TOLD_MAX.saturating_sub(comparison.told.len());
            comparison.told.extend(found.told.into_iter().take(room));
        }
        Ok(comparison)
    }

    async fn differences(&self, name: &RepositoryName) -> Result<Found, IndexedError> {
        let index = &self.core.gate.index;
        index.settle().await;
        let in_store = read_repository(&self.core, name, &|| {}).await?.facts;
        let in_store: BTreeSet<String> = in_store.iter().filter_map(text_of).collect();
        let asked = name.clone();
        let in_index = index.read(move |view| facts_in(view, &asked)).await?;
        let in_index: BTreeSet<String> = in_index.iter().filter_map(text_of).collect();
        let told = |side: &str, text: &String| format!("{name}: only in the {side}: {text}");
        let missing = in_store.difference(&in_index);
        let surplus = in_index.difference(&in_store);
        Ok(Found {
            facts: in_store.len() as u64,
            told: missing
                .map(|text| told("store", text))
                .chain(surplus.map(|text| told("index", text)))
                .collect(),
        })
    }
}

/// What was compared of one repository, and what differs.
struct Found {
    facts: u64,
    told: Vec<String>,
}

/// Everything that the index answers about a repository, by every question that lists rest upon.
fn facts_in(view: &View, name: &RepositoryName) -> Result<Vec<Fact>, IndexError> {
    let mut facts = Vec::new();
    if view.knows(name)? {
        facts.push(Fact::Known);
    }
    for tag in view.tags(name, None) {
        let (tag, digest) = tag?;
        facts.push(Fact::Tag(tag, digest));
    }
    let size = |digest| {
        let size_bytes = view.size(digest)?;
        Ok(size_bytes.map(|size_bytes| Fact::Size(digest, size_bytes)))
    };
    for digest in view.layers(name) {
        let digest = digest?;
        facts.extend(size(digest)?);
        // The other direction: who has it.
        if view.is_holder(name, digest)? {
            facts.push(Fact::Layer(digest));
        }
    }
    for digest in view.opaque(name) {
        facts.push(Fact::Opaque(digest?));
    }
    for revision in view.revisions(name) {
        let revision = revision?;
        let parent = revision.digest;
        for child in view.children(parent) {
            let child = child?;
            facts.push(Fact::Edge { parent, child });
        }
        facts.extend(size(parent)?);
        // The other directions: who has it, and the referrers of its subject.
        if view.is_listed_in_reverse(name, &revision)? {
            facts.push(Fact::Revision(revision));
        }
    }
    Ok(facts)
}

/// The fact as it is compared and told; none for a stamp, which is ours alone.
fn text_of(fact: &Fact) -> Option<String> {
    match fact {
        Fact::Known => Some("the repository".to_owned()),
        Fact::Tag(tag, digest) => Some(format!("tag {tag} -> {digest}")),
        Fact::Revision(revision) => {
            let kind = if revision.is_index {
                "index"
            } else {
                "manifest"
            };
            let subject = revision.subject.as_ref();
            let about = subject.map_or_else(String::new, |subject| format!(" about {subject}"));
            let size_bytes = revision.size_bytes;
            Some(format!(
                "{kind} {} of {size_bytes} bytes{about}",
                revision.digest
            ))
        }
        Fact::Layer(digest) => Some(format!("blob {digest}")),
        Fact::Opaque(digest) => Some(format!("manifest {digest} cannot be understood")),
        Fact::Edge { parent, child } => {
            let Child {
                digest,
                size_bytes,
                kind,
            } = child;
            let kind = match kind {
                ChildKind::Blob => "blob",
                ChildKind::Listed => "entry",
            };
            Some(format!(
                "{parent} references {kind} {digest} of {size_bytes} bytes"
            ))
        }
        Fact::Size(digest, size_bytes) => Some(format!("{digest} has {size_bytes} bytes")),
        Fact::Stamp(_) => None,
    }
}

fn unavailable(reason: &str) -> IndexedError {
    let reason = reason.to_owned();
    IndexError::Unavailable { reason }.into()
}
