//! A store that fails when it is told to, around any other.
//!
//! For tests of all that stands on the seam. Must not know which store it wraps. Invariant: without a planted fault it does
//! exactly what the store inside does, and an operation that fails has not reached that store.

use std::any::Any;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use crate::heartbeat::Heartbeat;
use crate::layout::{Key, Prefix};
use crate::oci::range::ByteRange;
use crate::oci::{Algorithm, Digest};
use crate::store::{
    Constraint, Content, Depth, Entry, Fingerprint, Listing, Meta, ObjectStore, Step, StoreError,
    Upload,
};

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// [`ObjectStore::read`]
    Get,
    /// [`ObjectStore::head`]
    Head,
    /// [`ObjectStore::entries`]
    List,
    /// [`ObjectStore::fingerprint`]
    Fingerprint,
    /// [`ObjectStore::apply`]
    Apply,
    /// [`ObjectStore::begin_upload`]
    OpenUpload,
    /// [`ObjectStore::resume_upload`]
    ResumeUpload,
    /// [`Upload::append`]
    Append,
    /// [`Upload::persist`]
    Persist,
    /// [`Upload::digest`]
    Digest,
    /// [`Upload::finish`]
    Finish,
}

/// How it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// [`StoreError::Full`]
    Full,
    /// [`StoreError::Conflict`]
    Conflict,
    /// [`StoreError::Io`]
    Io,
}

/// See the module. Clones share their faults.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
}

#[derive(Debug, Clone, Default)]
struct Faults(Arc<Mutex<Vec<Planted>>>);

#[derive(Debug)]
struct Planted {
    operation: Operation,
    calls_before: u64,
    fault: Fault,
}

impl FaultyStore {
    /// Around `inner`, without a fault.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            faults: Faults::default(),
        }
    }

    /// Lets `calls_before` more calls of `operation` pass (0 for none), and the one after them fail, once.
    pub fn fail(&self, operation: Operation, calls_before: u64, fault: Fault) {
        self.faults.lock().push(Planted {
            operation,
            calls_before,
            fault,
        });
    }

    fn wrap(&self, inner: Box<dyn Upload>) -> Box<dyn Upload> {
        Box::new(FaultyUpload {
            inner,
            faults: self.faults.clone(),
        })
    }
}

impl Faults {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Planted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, operation: Operation) -> Result<(), StoreError> {
        let mut planted = self.lock();
        let due = planted
            .iter()
            .position(|planted| planted.operation == operation && planted.calls_before == 0);
        for planted in planted.iter_mut().filter(|one| one.operation == operation) {
            planted.calls_before = planted.calls_before.saturating_sub(1);
        }
        let Some(due) = due else {
            return Ok(());
        };
        Err(match planted.remove(due).fault {
            Fault::Full => StoreError::Full,
            Fault::Conflict => StoreError::Conflict,
            Fault::Io => StoreError::Io {
                doing: format!("{operation:?}"),
                source: io::Error::other("a planted fault"),
            },
        })
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn read(&self, key: &Key, range: Option<ByteRange>) -> Result<Content, StoreError> {
        self.faults.check(Operation::Get)?;
        self.inner.read(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Meta, StoreError> {
        self.faults.check(Operation::Head)?;
        self.inner.head(key).await
    }

    fn entries(&self, prefix: &Prefix, depth: Depth) -> Listing {
        match self.faults.check(Operation::List) {
            Ok(()) => self.inner.entries(prefix, depth),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn fingerprint(&self, prefixes: &[Prefix]) -> Result<Option<Fingerprint>, StoreError> {
        self.faults.check(Operation::Fingerprint)?;
        self.inner.fingerprint(prefixes).await
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&str>,
        depth: Depth,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.faults.check(Operation::List)?;
        self.inner.list(prefix, after, depth, limit).await
    }

    async fn apply(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        self.faults.check(Operation::Apply)?;
        self.inner.apply(steps).await
    }

    async fn constraint(&self) -> Result<Option<Constraint>, StoreError> {
        self.inner.constraint().await
    }

    fn heartbeats(&self) -> Vec<Arc<Heartbeat>> {
        self.inner.heartbeats()
    }

    async fn begin_upload(
        &self,
        prefix: &Prefix,
        algorithm: Option<Algorithm>,
    ) -> Result<Box<dyn Upload>, StoreError> {
        self.faults.check(Operation::OpenUpload)?;
        let upload = self.inner.begin_upload(prefix, algorithm).await?;
        Ok(self.wrap(upload))
    }

    async fn resume_upload(&self, prefix: &Prefix) -> Result<Option<Box<dyn Upload>>, StoreError> {
        self.faults.check(Operation::ResumeUpload)?;
        let upload = self.inner.resume_upload(prefix).await?;
        Ok(upload.map(|upload| self.wrap(upload)))
    }
}

struct FaultyUpload {
    inner: Box<dyn Upload>,
    faults: Faults,
}

#[async_trait]
impl Upload for FaultyUpload {
    fn expect(&mut self, digest: &Digest, length_bytes: Option<u64>) {
        self.inner.expect(digest, length_bytes);
    }

    fn offset_bytes(&self) -> u64 {
        self.inner.offset_bytes()
    }

    async fn append(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.faults.check(Operation::Append)?;
        self.inner.append(bytes).await
    }

    async fn persist(&mut self) -> Result<u64, StoreError> {
        self.faults.check(Operation::Persist)?;
        self.inner.persist().await
    }

    async fn digest(&mut self, algorithm: Algorithm) -> Result<Digest, StoreError> {
        self.faults.check(Operation::Digest)?;
        self.inner.digest(algorithm).await
    }

    async fn finish(self: Box<Self>, digest: &Digest, then: Vec<Step>) -> Result<(), StoreError> {
        self.faults.check(Operation::Finish)?;
        self.inner.finish(digest, then).await
    }

    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.abort().await
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        // The store inside gets its own upload back.
        self.inner.into_any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::store::conformance;
    use crate::store::memory::MemoryStore;

    fn store() -> FaultyStore {
        let clock = Arc::new(ManualClock::at_unix_secs(1_700_000_000));
        FaultyStore::new(Arc::new(MemoryStore::new(clock)))
    }

    #[tokio::test]
    async fn conforms_while_nothing_is_planted() {
        conformance::check_all(store).await;
    }

    #[tokio::test]
    async fn fails_once_when_its_turn_has_come() {
        let store = store();
        store.fail(Operation::Apply, 1, Fault::Full);
        let key: Key = "a".parse().unwrap();
        let put = |content: &'static str| store.apply(vec![Step::put(key.clone(), content)]);
        put("1").await.unwrap();
        let version = store.head(&key).await.unwrap().version;
        assert!(matches!(put("2").await, Err(StoreError::Full)));
        assert_eq!(store.head(&key).await.unwrap().version, version);
        put("3").await.unwrap();
    }
}
