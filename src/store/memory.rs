//! The store in memory: the model that the others are compared with, and the store of tests above.
//!
//! Must not be clever: what it does is what the seam means. Invariant: every change happens under one lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use crate::clock::Clock;
use crate::layout::{Key, OWN_DIRECTORY, Place, Prefix};
use crate::oci::range::ByteRange;
use crate::oci::{Algorithm, Digest};
use crate::store::{
    self, Condition, Depth, Entry, Fingerprint, Listing, Meta, ObjectStore, Step, StoreError,
    Upload, Version,
};

/// See the module.
#[derive(Clone)]
pub(crate) struct MemoryStore {
    clock: Arc<dyn Clock>,
    content: Arc<Mutex<Content>>,
}

#[derive(Default)]
struct Content {
    objects: BTreeMap<String, Object>,
    writes: u64,
}

struct Object {
    bytes: Bytes,
    version: u64,
}

impl MemoryStore {
    /// An empty store.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            content: Arc::default(),
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object {
    fn meta(&self) -> Meta {
        Meta {
            size_bytes: self.bytes.len() as u64,
            version: Version(self.version.to_string()),
            written: None,
        }
    }
}

impl Content {
    fn apply(&mut self, steps: Vec<Step>) -> Result<(), StoreError> {
        for step in steps {
            match step {
                Step::Put {
                    key,
                    bytes,
                    condition,
                } => {
                    let existing = self.objects.get(key.as_str()).map(Object::meta);
                    let holds = match condition {
                        Condition::Any => true,
                        Condition::Absent => existing.is_none(),
                        Condition::Match(version) => {
                            existing.is_some_and(|meta| meta.version == version)
                        }
                    };
                    if !holds {
                        return Err(StoreError::Conflict);
                    }
                    self.put(key.as_str(), bytes);
                }
                Step::Remove(key) => {
                    self.objects.remove(key.as_str());
                }
                Step::RemoveTree { prefix, first: _ } => self.remove_below(prefix.as_str()),
                Step::Settle(key) => {
                    if !self.objects.contains_key(key.as_str()) {
                        return Err(StoreError::NotFound);
                    }
                }
                // Each step is visible before the next, and nothing here outlives the process.
                Step::Then | Step::Barrier => {}
            }
        }
        Ok(())
    }

    fn put(&mut self, key: &str, bytes: Bytes) {
        self.writes += 1;
        let object = Object {
            bytes,
            version: self.writes,
        };
        self.objects.insert(key.to_owned(), object);
    }

    fn remove_below(&mut self, prefix: &str) {
        let below = self.objects.range(prefix.to_owned()..);
        let below = below.take_while(|(key, _)| key.starts_with(prefix));
        let below: Vec<String> = below.map(|(key, _)| key.clone()).collect();
        for key in below {
            self.objects.remove(&key);
        }
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn read(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<store::Content, StoreError> {
        let content = self.content();
        let object = content.objects.get(key.as_str());
        let object = object.ok_or(StoreError::NotFound)?;
        let size_bytes = object.bytes.len() as u64;
        let wanted = match range {
            Some(range) => range.within(size_bytes),
            None => Some(0..size_bytes),
        };
        let Some(range) = wanted else {
            return Ok(store::Content::out_of_range(object.meta()));
        };
        // Both ends are at most a length in memory.
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(0));
        let bytes = object.bytes.slice(start..end);
        Ok(store::Content {
            meta: object.meta(),
            range: Some(range),
            bytes: stream::iter([Ok(bytes)]).boxed(),
        })
    }

    async fn head(&self, key: &Key) -> Result<Meta, StoreError> {
        let content = self.content();
        let object = content.objects.get(key.as_str());
        object.map(Object::meta).ok_or(StoreError::NotFound)
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> Listing {
        let content = self.content();
        let mut found = BTreeSet::new();
        for key in content.objects.keys() {
            let Some(rest) = key.strip_prefix(prefix.as_str()) else {
                continue;
            };
            let own = key.strip_prefix(OWN_DIRECTORY);
            if prefix.as_str().is_empty() && own.is_some_and(|own| own.starts_with('/')) {
                continue;
            }
            found.insert(match rest.split_once('/') {
                Some((directory, _)) if depth == Depth::One => format!("{prefix}{directory}/"),
                _ => key.clone(),
            });
        }
        stream::iter(found.into_iter().map(|key| Ok(Entry { key }))).boxed()
    }

    async fn fingerprint(&self, prefixes: &[Prefix]) -> Result<Option<Fingerprint>, StoreError> {
        let content = self.content();
        let is_below = |key: &str| {
            prefixes
                .iter()
                .any(|prefix| key.starts_with(prefix.as_str()))
        };
        let below = content.objects.iter().filter(|(key, _)| is_below(key));
        let lines: Vec<String> = below
            .map(|(key, object)| format!("{key} {}", object.version))
            .collect();
        Ok(Some(Fingerprint {
            value: Digest::of(Algorithm::Sha256, lines.join("\n").as_bytes()).to_string(),
            is_settled: true,
        }))
    }

    async fn apply(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        self.content().apply(steps)
    }

    async fn open_upload(
        &self,
        prefix: &Prefix,
        _algorithm: Option<Algorithm>,
    ) -> Result<Box<dyn Upload>, StoreError> {
        let now = self.clock.now();
        let started_at = time::OffsetDateTime::from(now)
            .format(&time::format_description::well_known::Rfc3339)
            .unwrap_or_default();
        let mut content = self.content();
        content.put(&format!("{prefix}startedat"), started_at.into());
        content.put(&format!("{prefix}data"), Bytes::new());
        Ok(Box::new(MemoryUpload {
            store: self.clone(),
            prefix: prefix.clone(),
            received: Vec::new(),
        }))
    }

    async fn resume_upload(&self, prefix: &Prefix) -> Result<Option<Box<dyn Upload>>, StoreError> {
        let content = self.content();
        let Some(object) = content.objects.get(&format!("{prefix}data")) else {
            return Ok(None);
        };
        Ok(Some(Box::new(MemoryUpload {
            store: self.clone(),
            prefix: prefix.clone(),
            received: object.bytes.to_vec(),
        })))
    }
}

struct MemoryUpload {
    store: MemoryStore,
    prefix: Prefix,
    received: Vec<u8>,
}

#[async_trait]
impl Upload for MemoryUpload {
    fn offset_bytes(&self) -> u64 {
        self.received.len() as u64
    }

    async fn append(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.received.extend_from_slice(&bytes);
        Ok(())
    }

    async fn persist(&mut self) -> Result<u64, StoreError> {
        let key = format!("{}data", self.prefix);
        let bytes = self.received.clone().into();
        self.store.content().put(&key, bytes);
        Ok(self.offset_bytes())
    }

    async fn digest(&mut self, algorithm: Algorithm) -> Result<Digest, StoreError> {
        Ok(Digest::of(algorithm, &self.received))
    }

    async fn finish(self: Box<Self>, digest: &Digest, then: Vec<Step>) -> Result<(), StoreError> {
        if Digest::of(digest.algorithm(), &self.received) != *digest {
            return Err(StoreError::not_its_digest(self.prefix.as_str()));
        }
        let mut content = self.store.content();
        content.remove_below(self.prefix.as_str());
        let key = Place::BlobData(*digest).key();
        content.put(key.as_str(), self.received.into());
        content.apply(then)
    }

    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        self.store.content().remove_below(self.prefix.as_str());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::store::conformance;

    #[tokio::test]
    async fn conforms() {
        let clock = Arc::new(ManualClock::at_unix_secs(1_700_000_000));
        conformance::check_all(|| MemoryStore::new(clock.clone())).await;
    }
}
