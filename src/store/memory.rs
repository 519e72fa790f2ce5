//! The store in memory: the model that the others are compared with, and the store of tests above.
//!
//! Must not be clever: what it does is what the seam means. Invariant: every change happens under one lock.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use crate::clock::Clock;
use crate::layout::{Key, OWN_DIRECTORY, Prefix};
use crate::oci::{Algorithm, Digest};
use crate::store::{
    ByteStream, Condition, Depth, Entry, Meta, ObjectStore, Step, StoreError, Upload, Version,
};

/// See the module.
#[derive(Clone)]
pub struct MemoryStore {
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
    modified: SystemTime,
    version: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            content: Arc::default(),
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, content: &mut Content, key: &str, bytes: Bytes) {
        content.writes += 1;
        let object = Object {
            bytes,
            modified: self.clock.now(),
            version: content.writes,
        };
        content.objects.insert(key.to_owned(), object);
    }
}

impl Content {
    fn remove_below(&mut self, prefix: &str) {
        self.objects.retain(|key, _| !key.starts_with(prefix));
    }
}

impl Object {
    fn meta(&self) -> Meta {
        Meta {
            size_bytes: self.bytes.len() as u64,
            modified: Some(self.modified),
            version: Version(self.version.to_string()),
            is_prefix: false,
        }
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
    ) -> Result<(Meta, ByteStream), StoreError> {
        let content = self.content();
        let object = content
            .objects
            .get(key.as_str())
            .ok_or(StoreError::NotFound)?;
        let range = range.unwrap_or(0..object.bytes.len() as u64);
        if range.start > range.end || range.end > object.bytes.len() as u64 {
            return Err(failed("read", key, "the range lies outside the content"));
        }
        // Both ends are at most a length in memory.
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(0));
        let bytes = object.bytes.slice(start..end);
        Ok((object.meta(), stream::iter([Ok(bytes)]).boxed()))
    }

    async fn head(&self, key: &Key) -> Result<Meta, StoreError> {
        let content = self.content();
        let object = content.objects.get(key.as_str());
        object.map(Object::meta).ok_or(StoreError::NotFound)
    }

    async fn touch(&self, key: &Key) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut content = self.content();
        let object = content.objects.get_mut(key.as_str());
        object.ok_or(StoreError::NotFound)?.modified = now;
        Ok(())
    }

    async fn presign(&self, _key: &Key) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&str>,
        depth: Depth,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let content = self.content();
        let mut entries: BTreeMap<String, Meta> = BTreeMap::new();
        for (key, object) in &content.objects {
            let Some(rest) = key.strip_prefix(prefix.as_str()) else {
                continue;
            };
            let own = key.strip_prefix(OWN_DIRECTORY);
            if prefix.as_str().is_empty() && own.is_some_and(|own| own.starts_with('/')) {
                continue;
            }
            match rest.split_once('/') {
                Some((directory, _)) if depth == Depth::One => {
                    let meta = Meta {
                        size_bytes: 0,
                        modified: None,
                        version: Version::default(),
                        is_prefix: true,
                    };
                    entries.insert(format!("{prefix}{directory}/"), meta);
                }
                _ => {
                    entries.insert(key.clone(), object.meta());
                }
            }
        }
        Ok(entries
            .into_iter()
            .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after))
            .take(limit)
            .map(|(key, meta)| Entry { key, meta })
            .collect())
    }

    async fn apply(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        let mut content = self.content();
        for step in steps {
            match step {
                Step::Put {
                    key,
                    bytes,
                    condition,
                } => {
                    let existing = content.objects.get(key.as_str()).map(Object::meta);
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
                    self.put(&mut content, key.as_str(), bytes);
                }
                Step::Finish { upload, key } => {
                    let upload = upload.into_any().downcast::<MemoryUpload>().ok();
                    let Some(upload) =
                        upload.filter(|upload| Arc::ptr_eq(&upload.store.content, &self.content))
                    else {
                        return Err(failed("write", &key, "the upload belongs to another store"));
                    };
                    content.remove_below(upload.prefix.as_str());
                    self.put(&mut content, key.as_str(), upload.received.into());
                }
                Step::Remove(key) => {
                    content.objects.remove(key.as_str());
                }
                Step::RemoveTree(prefix) => content.remove_below(prefix.as_str()),
                // Nothing here outlives the process, so all is as durable as it gets.
                Step::Barrier => {}
            }
        }
        Ok(())
    }

    async fn open_upload(
        &self,
        prefix: &Prefix,
        _algorithm: Option<Algorithm>,
        _final_key: Option<&Key>,
        _length: Option<u64>,
    ) -> Result<Box<dyn Upload>, StoreError> {
        let started_at = time::OffsetDateTime::from(self.clock.now())
            .format(&time::format_description::well_known::Rfc3339)
            .unwrap_or_default();
        let mut content = self.content();
        self.put(
            &mut content,
            &format!("{prefix}startedat"),
            started_at.into(),
        );
        self.put(&mut content, &format!("{prefix}data"), Bytes::new());
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
        let mut content = self.store.content();
        let key = format!("{}data", self.prefix);
        self.store
            .put(&mut content, &key, self.received.clone().into());
        Ok(self.offset_bytes())
    }

    async fn digest(&mut self, algorithm: Algorithm) -> Result<Digest, StoreError> {
        Ok(Digest::of(algorithm, &self.received))
    }

    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        self.store.content().remove_below(self.prefix.as_str());
        Ok(())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

fn failed(doing: &str, key: &Key, reason: &'static str) -> StoreError {
    StoreError::Io {
        doing: format!("{doing} {key}"),
        source: io::Error::other(reason),
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
