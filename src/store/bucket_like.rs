//! A store that behaves as a bucket does and a directory does not, in memory: for tests of all that uses the seam.
//!
//! It keeps what the seam promises and nothing more. There are no times and no directories: a prefix exists while a key has
//! it. Steps happen in any order, several at once, except where [`Step::Then`] or [`Step::Barrier`] asks for an order. A tree
//! goes key by key. What uploads receive is not in the bucket before they are finished. A listing is read in pages, and what
//! changes between two pages may show. Other tasks run while a request is on its way, and some requests find the bucket busy.
//!
//! Must not know what is stored. Invariant: one request happens at one moment; between two requests anything may happen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};

use crate::layout::{Key, OWN_DIRECTORY, OwnedPlace, Prefix};
use crate::oci::range::ByteRange;
use crate::oci::{Algorithm, Digest};
use crate::store::{
    ByteStream, Condition, Content, Depth, Entry, Fingerprint, Listing, Meta, ObjectStore, Step,
    StoreError, Upload, Version,
};

/// Keys in one page of a listing, as in S3.
const PAGE_KEYS: usize = 1_000;

/// The least length of a part of an upload that is not its last one, as in S3. What an upload has received beyond its last
/// part is with this process alone until [`Upload::persist`].
const PART_MIN_BYTES: usize = 5 * 1024 * 1024;

/// How much of a content comes at once: about what the buffers of a connection hold.
const PIECE_BYTES: usize = 64 * 1024;

/// How often a request lets other tasks run before it happens, and again before its answer comes: less than this.
const TURNS_MAX: u64 = 3;

/// When a busy bucket asks to be tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// See the module. Clones are the same bucket.
#[derive(Clone)]
pub struct BucketLike(Arc<Mutex<State>>);

struct State {
    objects: BTreeMap<String, Object>,
    /// What upload sessions have received, by their prefix: files beside the bucket, which outlive the process.
    spool: BTreeMap<String, Vec<u8>>,
    writes: u64,
    random: u64,
    /// One request in so many finds the bucket busy; 0 for none.
    busy_one_in: u64,
    journal: Vec<Change>,
    keeps_journal: bool,
}

/// What one request has changed: a key, and its content from then on, if it has any.
pub type Change = (String, Option<Bytes>);

struct Object {
    bytes: Bytes,
    version: u64,
}

impl BucketLike {
    /// An empty bucket. `seed` chooses the order of what has none, and which requests find it busy.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            objects: BTreeMap::new(),
            spool: BTreeMap::new(),
            writes: 0,
            random: seed,
            busy_one_in: 0,
            journal: Vec::new(),
            keeps_journal: false,
        })))
    }

    /// From now on one request in `one_in` (0 for none) is answered [`StoreError::Busy`]; half of these have happened all the
    /// same, and only their answer was lost.
    pub fn be_busy(&self, one_in: u64) {
        self.lock().busy_one_in = one_in;
    }

    /// Every change by a request, in the order in which they happened, since this was first called.
    pub fn journal(&self) -> Vec<Change> {
        let mut state = self.lock();
        state.keeps_journal = true;
        state.journal.clone()
    }

    /// All keys with their content, and what upload sessions have received as `<prefix>data`.
    pub fn everything(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock();
        let objects = state.objects.iter();
        let objects = objects.map(|(key, object)| (key.clone(), object.bytes.to_vec()));
        let sessions = state.spool.iter();
        let sessions = sessions.map(|(prefix, bytes)| (format!("{prefix}data"), bytes.clone()));
        objects.chain(sessions).collect()
    }

    /// The content of one key.
    pub fn content(&self, key: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        state.objects.get(key).map(|object| object.bytes.to_vec())
    }

    /// Writes a key without telling the registry.
    pub fn put_by_another_program(&self, key: &str, content: &[u8]) {
        self.lock().put(key, content);
    }

    /// Removes keys, and what sessions have received, without telling the registry. Returns whether there were
    /// any.
    pub fn remove_by_another_program(&self, is_removed: impl Fn(&str) -> bool) -> bool {
        let mut state = self.lock();
        let before = state.objects.len() + state.spool.len();
        state.objects.retain(|key, _| !is_removed(key));
        (state.spool).retain(|prefix, _| !is_removed(&format!("{prefix}data")));
        before > state.objects.len() + state.spool.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request: `act` happens at one moment, and other tasks run before and after it.
    async fn request<T>(
        &self,
        act: impl FnOnce(&mut State) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let (is_refused, loses_answer) = self.lock().trouble();
        let busy = StoreError::Busy {
            retry_after: RETRY_AFTER,
        };
        self.take_turns().await;
        if is_refused {
            return Err(busy);
        }
        let result = act(&mut self.lock());
        self.take_turns().await;
        if loses_answer {
            return Err(busy);
        }
        result
    }

    async fn take_turns(&self) {
        let turns = self.lock().random() % TURNS_MAX;
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    /// Keys below `prefix` after `after`: a page of them.
    async fn page(
        &self,
        prefix: &str,
        after: Option<String>,
        depth: Depth,
    ) -> Result<Vec<String>, StoreError> {
        let list = |state: &mut State| Ok(state.page(prefix, after.as_deref(), depth));
        self.request(list).await
    }

    /// Steps that have no order among each other, but for those about the same key.
    async fn apply_at_once(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        let mut lanes: BTreeMap<String, Vec<Step>> = BTreeMap::new();
        for step in steps {
            let lane = match &step {
                Step::Put { key, .. } | Step::Remove(key) | Step::Settle(key) => key.to_string(),
                Step::RemoveTree { prefix, .. } => prefix.to_string(),
                Step::Then | Step::Barrier => continue,
            };
            lanes.entry(lane).or_default().push(step);
        }
        let mut lanes: Vec<Vec<Step>> = lanes.into_values().collect();
        lanes.sort_by_cached_key(|_| self.lock().random());
        let lanes = lanes.into_iter().map(|steps| async move {
            for step in steps {
                self.apply_one(step).await?;
            }
            Ok(())
        });
        // What has been sent is not called back because something else fails.
        future::join_all(lanes).await.into_iter().collect()
    }

    async fn apply_one(&self, step: Step) -> Result<(), StoreError> {
        match step {
            Step::Put {
                key,
                bytes,
                condition,
            } => {
                let put = |state: &mut State| state.put_if(&key, &bytes, &condition);
                self.request(put).await
            }
            Step::Remove(key) => self.remove(key.to_string()).await,
            Step::RemoveTree { prefix, first } => {
                if let Some(first) = first {
                    self.remove(first.to_string()).await?;
                }
                loop {
                    let page = self.page(prefix.as_str(), None, Depth::All).await?;
                    if page.is_empty() {
                        return Ok(());
                    }
                    let removals = page.into_iter().map(|key| self.remove(key));
                    let removals = future::join_all(removals).await;
                    removals.into_iter().collect::<Result<(), _>>()?;
                }
            }
            Step::Settle(key) => self.head(&key).await.map(drop),
            Step::Then | Step::Barrier => Ok(()),
        }
    }

    async fn remove(&self, key: String) -> Result<(), StoreError> {
        let remove = |state: &mut State| {
            state.remove(&key);
            Ok(())
        };
        self.request(remove).await
    }
}

impl State {
    /// The next number that the seed gives (`SplitMix64`).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Whether the next request is refused, or its answer is lost.
    fn trouble(&mut self) -> (bool, bool) {
        if self.busy_one_in == 0 || !self.random().is_multiple_of(self.busy_one_in) {
            return (false, false);
        }
        let is_refused = self.random().is_multiple_of(2);
        (is_refused, !is_refused)
    }

    fn meta(&self, key: &str) -> Result<Meta, StoreError> {
        let object = self.objects.get(key).ok_or(StoreError::NotFound)?;
        Ok(Meta {
            size_bytes: object.bytes.len() as u64,
            version: Version(object.version.to_string()),
            written: None,
        })
    }

    /// Copies `bytes`, as sending them does: nothing of the caller's memory is held.
    fn put(&mut self, key: &str, bytes: &[u8]) {
        self.writes += 1;
        let object = Object {
            bytes: Bytes::copy_from_slice(bytes),
            version: self.writes,
        };
        if self.keeps_journal {
            let change = (key.to_owned(), Some(object.bytes.clone()));
            self.journal.push(change);
        }
        self.objects.insert(key.to_owned(), object);
    }

    fn remove(&mut self, key: &str) {
        if self.keeps_journal {
            self.journal.push((key.to_owned(), None));
        }
        self.objects.remove(key);
    }

    fn put_if(&mut self, key: &Key, bytes: &[u8], condition: &Condition) -> Result<(), StoreError> {
        let existing = self.meta(key.as_str()).ok();
        let holds = match condition {
            Condition::Any => true,
            Condition::Absent => existing.is_none(),
            Condition::Match(version) => existing.is_some_and(|meta| meta.version == *version),
        };
        if !holds {
            return Err(StoreError::Conflict);
        }
        self.put(key.as_str(), bytes);
        Ok(())
    }

    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Object)> {
        let from = self.objects.range(prefix.to_owned()..);
        from.take_while(move |(key, _)| key.starts_with(prefix))
    }

    fn page(&self, prefix: &str, after: Option<&str>, depth: Depth) -> Vec<String> {
        let mut page: Vec<String> = Vec::new();
        for (key, _) in self.below(prefix) {
            let own = key.strip_prefix(OWN_DIRECTORY);
            if prefix.is_empty() && own.is_some_and(|own| own.starts_with('/')) {
                continue;
            }
            let rest = key.strip_prefix(prefix).unwrap_or_default();
            let shown = match rest.split_once('/') {
                Some((group, _)) if depth == Depth::One => format!("{prefix}{group}/"),
                _ => key.clone(),
            };
            if page.last() == Some(&shown) || after.is_some_and(|after| shown.as_str() <= after) {
                continue;
            }
            if page.len() == PAGE_KEYS {
                break;
            }
            page.push(shown);
        }
        page
    }
}

#[async_trait]
impl ObjectStore for BucketLike {
    async fn read(&self, key: &Key, range: Option<ByteRange>) -> Result<Content, StoreError> {
        let read = |state: &mut State| {
            let meta = state.meta(key.as_str())?;
            let object = state.objects.get(key.as_str());
            let bytes = object.map(|object| object.bytes.clone());
            Ok((meta, bytes.unwrap_or_default()))
        };
        let (meta, bytes) = self.request(read).await?;
        let wanted = match range {
            Some(range) => range.within(meta.size_bytes),
            None => Some(0..meta.size_bytes),
        };
        let Some(range) = wanted else {
            return Ok(Content::out_of_range(meta));
        };
        // Both ends are at most a length in memory.
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(0));
        Ok(Content {
            meta,
            range: Some(range),
            bytes: in_pieces(bytes.slice(start..end)),
        })
    }

    async fn head(&self, key: &Key) -> Result<Meta, StoreError> {
        self.request(|state| state.meta(key.as_str())).await
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> Listing {
        let (bucket, prefix) = (self.clone(), prefix.to_string());
        let pages = stream::try_unfold(None, move |after| {
            let (bucket, prefix) = (bucket.clone(), prefix.clone());
            async move {
                let page = bucket.page(&prefix, after, depth).await?;
                let last = page.last().cloned();
                Ok(last.map(|last| (page, Some(last))))
            }
        });
        let listed = |page: Vec<String>| {
            let listed = page.into_iter().map(|key| Ok(Entry { key }));
            stream::iter(listed)
        };
        pages.map_ok(listed).try_flatten().boxed()
    }

    async fn fingerprint(&self, prefixes: &[Prefix]) -> Result<Option<Fingerprint>, StoreError> {
        let mut text = String::new();
        for prefix in prefixes {
            let look = |state: &mut State| {
                let below = state.below(prefix.as_str());
                let versions = below.map(|(key, object)| format!("{key} {}\n", object.version));
                Ok(versions.collect::<String>())
            };
            text += &self.request(look).await?;
        }
        Ok(Some(Fingerprint {
            value: Digest::of(Algorithm::Sha256, text.as_bytes()).to_string(),
            is_settled: true,
        }))
    }

    async fn apply(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        let mut at_once = Vec::new();
        for step in steps {
            match step {
                Step::Then | Step::Barrier => {
                    self.apply_at_once(std::mem::take(&mut at_once)).await?;
                }
                step => at_once.push(step),
            }
        }
        self.apply_at_once(at_once).await
    }

    async fn open_upload(
        &self,
        prefix: &Prefix,
        _algorithm: Option<Algorithm>,
    ) -> Result<Box<dyn Upload>, StoreError> {
        self.take_turns().await;
        self.lock().spool.insert(prefix.to_string(), Vec::new());
        Ok(Box::new(BucketUpload::of(self, prefix)))
    }

    async fn resume_upload(&self, prefix: &Prefix) -> Result<Option<Box<dyn Upload>>, StoreError> {
        self.take_turns().await;
        if !self.lock().spool.contains_key(prefix.as_str()) {
            return Ok(None);
        }
        Ok(Some(Box::new(BucketUpload::of(self, prefix))))
    }
}

struct BucketUpload {
    bucket: BucketLike,
    prefix: Prefix,
    /// How much of it outlives the process.
    kept_bytes: u64,
    /// What this process alone has, after that.
    rest: Vec<u8>,
}

impl BucketUpload {
    fn of(bucket: &BucketLike, prefix: &Prefix) -> Self {
        let kept_bytes = bucket.lock().spool.get(prefix.as_str()).map_or(0, Vec::len);
        Self {
            bucket: bucket.clone(),
            prefix: prefix.clone(),
            kept_bytes: kept_bytes as u64,
            rest: Vec::new(),
        }
    }

    fn received(&self) -> Vec<u8> {
        let state = self.bucket.lock();
        let kept = state.spool.get(self.prefix.as_str());
        let mut received = kept.cloned().unwrap_or_default();
        received.extend_from_slice(&self.rest);
        received
    }

    fn keep(&mut self) {
        let mut state = self.bucket.lock();
        let kept = state.spool.entry(self.prefix.to_string()).or_default();
        kept.append(&mut self.rest);
        self.kept_bytes = kept.len() as u64;
    }
}

#[async_trait]
impl Upload for BucketUpload {
    fn offset_bytes(&self) -> u64 {
        self.kept_bytes + self.rest.len() as u64
    }

    async fn append(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.rest.extend_from_slice(&bytes);
        if self.rest.len() >= PART_MIN_BYTES {
            // A part goes to the bucket.
            self.bucket.request(|_| Ok(())).await?;
            self.keep();
        }
        Ok(())
    }

    async fn persist(&mut self) -> Result<u64, StoreError> {
        self.bucket.take_turns().await;
        self.keep();
        Ok(self.offset_bytes())
    }

    async fn digest(&mut self, algorithm: Algorithm) -> Result<Digest, StoreError> {
        Ok(Digest::of(algorithm, &self.received()))
    }

    /// What was received stays until everything is done, so that a request that found the bucket busy can be repeated.
    async fn finish(
        mut self: Box<Self>,
        digest: &Digest,
        then: Vec<Step>,
    ) -> Result<(), StoreError> {
        self.keep();
        let received = self.received();
        if Digest::of(digest.algorithm(), &received) != *digest {
            return Err(StoreError::not_its_digest(self.prefix.as_str()));
        }
        let key = OwnedPlace::BlobData(*digest).key();
        let put = |state: &mut State| state.put_if(&key, &received, &Condition::Any);
        self.bucket.request(put).await?;
        self.bucket.apply(then).await?;
        self.abort().await
    }

    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        self.bucket.take_turns().await;
        self.bucket.lock().spool.remove(self.prefix.as_str());
        Ok(())
    }
}

/// As they come over a connection: other tasks run before each piece.
fn in_pieces(bytes: Bytes) -> ByteStream {
    let next = |mut left: Bytes| async move {
        if left.is_empty() {
            return None;
        }
        tokio::task::yield_now().await;
        let piece = left.split_to(left.len().min(PIECE_BYTES));
        Some((Ok(piece), left))
    };
    stream::unfold(bytes, next).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn a_tree_loses_its_first_key_before_any_other() {
        for seed in 0..20 {
            let bucket = BucketLike::new(seed);
            for key in ["t/a", "t/current/link", "t/index/1/link", "t/z"] {
                bucket.put_by_another_program(key, b"");
            }
            let first: Key = "t/current/link".parse().unwrap();
            let steps = vec![Step::remove_tree("t/".parse().unwrap(), first)];
            let removal = async { bucket.apply(steps).await.unwrap() };
            let watch = async {
                while !bucket.everything().is_empty() {
                    let left = bucket.everything();
                    assert!(left.len() == 4 || !left.contains_key("t/current/link"));
                    tokio::task::yield_now().await;
                }
            };
            tokio::join!(removal, watch);
        }
    }

    #[tokio::test]
    async fn conforms() {
        conformance::check_all(|| BucketLike::new(1)).await;
    }
}
