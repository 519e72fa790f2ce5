//! A store around any other, in which a test sees every call and decides over it: counts it, holds it up, lets it fail.
//!
//! For tests of all that uses the seam. Must not know which store it wraps. Invariants: where the hook lets a call pass, it
//! does exactly what the store inside does; a call that the hook refuses has not reached that store.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::heartbeat::Heartbeat;
use crate::layout::{Key, Prefix};
use crate::oci::range::ByteRange;
use crate::oci::{Algorithm, Digest};
use crate::store::{
    Constraint, Content, Depth, Fingerprint, Listing, Meta, ObjectStore, Room, Small, Step,
    StoreError, Upload,
};

/// A call of the seam.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// [`ObjectStore::read`]
    Read,
    /// [`ObjectStore::head`]
    Head,
    /// [`ObjectStore::head_each`]
    HeadEach,
    /// [`ObjectStore::read_each`]
    ReadEach,
    /// [`ObjectStore::list`], when its first entry is asked for
    List,
    /// [`ObjectStore::fingerprint`]
    Fingerprint,
    /// [`ObjectStore::apply`]
    Apply,
    /// [`ObjectStore::open_upload`]
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
    /// [`Upload::abort`]
    Abort,
}

/// What a test decides.
#[async_trait]
pub trait Hook: Send + Sync + 'static {
    /// Called before each operation; an error is the answer to it. May wait, and may panic.
    async fn before(&self, _operation: Operation) -> Result<(), StoreError> {
        Ok(())
    }

    /// Called with the steps of an operation that writes, after [`Hook::before`]. Returns those that are carried out, and the
    /// answer if they are.
    fn write(&self, steps: Vec<Step>) -> (Vec<Step>, Result<(), StoreError>) {
        (steps, Ok(()))
    }

    /// Called where a client has named the digest of an upload, and perhaps its length, before the bytes.
    fn expected(&self, _digest: &Digest, _length_bytes: Option<u64>) {}

    /// What keeps the store from taking more, besides what the store inside says.
    fn constraint(&self) -> Option<Constraint> {
        None
    }
}

/// See the module. Clones share their hook.
pub struct HookedStore<H> {
    /// The store inside.
    pub inner: Arc<dyn ObjectStore>,
    /// What the test decides.
    pub hook: Arc<H>,
}

impl<H> Clone for HookedStore<H> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            hook: Arc::clone(&self.hook),
        }
    }
}

impl<H: Hook> HookedStore<H> {
    /// `hook` around `inner`.
    pub fn around(inner: Arc<dyn ObjectStore>, hook: H) -> Self {
        Self {
            inner,
            hook: Arc::new(hook),
        }
    }

    fn wrap(&self, inner: Box<dyn Upload>) -> Box<dyn Upload> {
        Box::new(HookedUpload {
            inner,
            hook: Arc::clone(&self.hook),
        })
    }
}

#[async_trait]
impl<H: Hook> ObjectStore for HookedStore<H> {
    async fn read(&self, key: &Key, range: Option<ByteRange>) -> Result<Content, StoreError> {
        self.hook.before(Operation::Read).await?;
        self.inner.read(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Meta, StoreError> {
        self.hook.before(Operation::Head).await?;
        self.inner.head(key).await
    }

    async fn head_each(&self, keys: &[Key]) -> Result<Vec<Option<Meta>>, StoreError> {
        self.hook.before(Operation::HeadEach).await?;
        self.inner.head_each(keys).await
    }

    async fn read_each(&self, keys: &[Key], size_max_bytes: u64) -> Result<Vec<Small>, StoreError> {
        self.hook.before(Operation::ReadEach).await?;
        self.inner.read_each(keys, size_max_bytes).await
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> Listing {
        let (store, prefix) = (self.clone(), prefix.clone());
        let listing = async move {
            store.hook.before(Operation::List).await?;
            Ok(store.inner.list(&prefix, depth))
        };
        stream::once(listing).try_flatten().boxed()
    }

    async fn fingerprint(&self, prefixes: &[Prefix]) -> Result<Option<Fingerprint>, StoreError> {
        self.hook.before(Operation::Fingerprint).await?;
        self.inner.fingerprint(prefixes).await
    }

    async fn apply(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        self.hook.before(Operation::Apply).await?;
        let (steps, answer) = self.hook.write(steps);
        self.inner.apply(steps).await?;
        answer
    }

    async fn constraint(&self) -> Result<Option<Constraint>, StoreError> {
        let inner = self.inner.constraint().await?;
        Ok(self.hook.constraint().or(inner))
    }

    async fn room(&self) -> Result<Option<Room>, StoreError> {
        self.inner.room().await
    }

    fn heartbeats(&self) -> Vec<Arc<Heartbeat>> {
        self.inner.heartbeats()
    }

    async fn open_upload(
        &self,
        prefix: &Prefix,
        algorithm: Option<Algorithm>,
    ) -> Result<Box<dyn Upload>, StoreError> {
        self.hook.before(Operation::OpenUpload).await?;
        let upload = self.inner.open_upload(prefix, algorithm).await?;
        Ok(self.wrap(upload))
    }

    async fn resume_upload(&self, prefix: &Prefix) -> Result<Option<Box<dyn Upload>>, StoreError> {
        self.hook.before(Operation::ResumeUpload).await?;
        let upload = self.inner.resume_upload(prefix).await?;
        Ok(upload.map(|upload| self.wrap(upload)))
    }
}

struct HookedUpload<H> {
    inner: Box<dyn Upload>,
    hook: Arc<H>,
}

#[async_trait]
impl<H: Hook> Upload for HookedUpload<H> {
    fn expect(&mut self, digest: &Digest, length_bytes: Option<u64>) {
        self.hook.expected(digest, length_bytes);
        self.inner.expect(digest, length_bytes);
    }

    fn offset_bytes(&self) -> u64 {
        self.inner.offset_bytes()
    }

    async fn append(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.hook.before(Operation::Append).await?;
        self.inner.append(bytes).await
    }

    async fn persist(&mut self) -> Result<u64, StoreError> {
        self.hook.before(Operation::Persist).await?;
        self.inner.persist().await
    }

    async fn digest(&mut self, algorithm: Algorithm) -> Result<Digest, StoreError> {
        self.hook.before(Operation::Digest).await?;
        self.inner.digest(algorithm).await
    }

    async fn finish(self: Box<Self>, digest: &Digest, then: Vec<Step>) -> Result<(), StoreError> {
        self.hook.before(Operation::Finish).await?;
        let (then, answer) = self.hook.write(then);
        self.inner.finish(digest, then).await?;
        answer
    }

    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        self.hook.before(Operation::Abort).await?;
        self.inner.abort().await
    }
}

/// A store that fails when it is told to.
pub type FaultyStore = HookedStore<Faults>;

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// [`StoreError::Full`]
    Full,
    /// [`StoreError::Conflict`]
    Conflict,
    /// [`StoreError::Busy`], to be tried again after this time
    Busy(Duration),
    /// [`StoreError::Io`]
    Io,
}

/// The faults that are planted.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<Planted>>);

#[derive(Debug)]
struct Planted {
    operation: Operation,
    calls_before: u64,
    fault: Fault,
}

impl FaultyStore {
    /// Around `inner`, without a fault.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self::around(inner, Faults::default())
    }

    /// Lets `calls_before` more calls of `operation` pass (0 for none), and the one after them fail, once.
    pub fn fail(&self, operation: Operation, calls_before: u64, fault: Fault) {
        let planted = &self.hook.0;
        let mut planted = planted.lock().unwrap_or_else(PoisonError::into_inner);
        planted.push(Planted {
            operation,
            calls_before,
            fault,
        });
    }
}

#[async_trait]
impl Hook for Faults {
    async fn before(&self, operation: Operation) -> Result<(), StoreError> {
        let mut planted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
            Fault::Busy(retry_after) => StoreError::Busy { retry_after },
            Fault::Io => StoreError::Io {
                doing: format!("{operation:?}"),
                source: io::Error::other("a planted fault"),
            },
        })
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
