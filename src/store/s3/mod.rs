//! A bucket: the same keys as in a directory, by requests to an S3 server.
//!
//! Design: `docs/storage-layout.md`. Must not know which links a registry writes. Invariants: every request to the bucket goes
//! through one type, [`requests::Bucket`]; nothing depends on a condition of a DELETE or a copy, which servers ignore.

mod applying;
mod attempts;
mod connector;
mod credentials;
mod file_body;
mod journal;
mod listing;
pub mod multipart;
mod part_sizes;
mod reading;
pub mod requests;
mod settings;
mod shipper;
pub mod spool;
mod spool_room;
pub mod start_check;
mod storing;
#[cfg(test)]
mod tests;
pub mod trouble;
mod upload;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

pub use self::attempts::Patience;
use self::requests::Bucket;
pub use self::settings::{Credentials, Encryption, Settings};
use self::spool::Spool;
use crate::clock::Clock;
use crate::heartbeat::Heartbeat;
use crate::layout::{self, Key, Prefix};
use crate::oci::Algorithm;
use crate::oci::range::ByteRange;
use crate::store::{
    Constraint, Content, Depth, Entry, Fingerprint, Listing, Meta, ObjectStore, Small, Step,
    StoreError, Upload,
};

/// The store in a bucket; clones share it.
#[derive(Clone)]
pub struct S3Store {
    bucket: Bucket,
    spool: Arc<Spool>,
}

impl S3Store {
    /// Opens its spool, which is a directory; sends nothing. [`start_check`] finds out whether the bucket will do.
    pub fn open(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let bucket = Bucket::new(settings, Arc::clone(&clock))?;
        let applying = bucket.clone();
        let apply = move |steps| {
            let bucket = applying.clone();
            async move { bucket.apply(steps).await }.boxed()
        };
        let spool = Spool::open(bucket.clone(), clock, Arc::new(apply))?;
        Ok(Self { bucket, spool })
    }

    /// The requests to it.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The sessions in the directory `prefix`: those of the spool, most of which the bucket does not know, among those in the
    /// bucket, which other registries may have left. There are few of either, so both are gathered before the first is given.
    fn with_own_uploads(&self, prefix: Prefix, listed: Listing) -> Listing {
        let spool = Arc::clone(&self.spool);
        let gathered = async move {
            let mut keys: BTreeSet<String> = listed.map_ok(|entry| entry.key).try_collect().await?;
            let found = shipper::blocking(move || {
                let names = spool.sessions_below(&prefix)?;
                Ok(names
                    .into_iter()
                    .map(move |name| format!("{prefix}{name}/")))
            });
            keys.extend(
                found.await?.map_err(|source| {
                    StoreError::from_io("list the uploads in the spool", source)
                })?,
            );
            Ok::<_, StoreError>(stream::iter(keys.into_iter().map(|key| Ok(Entry { key }))))
        };
        stream::once(gathered).try_flatten().boxed()
    }

    /// The uploads that are not in it yet.
    pub fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }
}

impl fmt::Debug for S3Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "S3Store({})", self.bucket.settings().described())
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn read(&self, key: &Key, range: Option<ByteRange>) -> Result<Content, StoreError> {
        self.bucket.read(key.as_str(), range).await
    }

    async fn read_linked(
        &self,
        link: &Key,
        size_max_bytes: u64,
        data: &Key,
        range: Option<ByteRange>,
    ) -> Result<(Small, Option<Content>), StoreError> {
        self.bucket
            .read_linked(link.as_str(), size_max_bytes, data.as_str(), range)
            .await
    }

    async fn head_linked(
        &self,
        link: &Key,
        size_max_bytes: u64,
        data: &Key,
    ) -> Result<(Small, Option<Meta>), StoreError> {
        self.bucket
            .head_linked(link.as_str(), size_max_bytes, data.as_str())
            .await
    }

    async fn head(&self, key: &Key) -> Result<Meta, StoreError> {
        self.bucket.head(key.as_str()).await
    }

    async fn head_each(&self, keys: &[Key]) -> Result<Vec<Option<Meta>>, StoreError> {
        self.bucket.head_each(keys).await
    }

    async fn read_each(&self, keys: &[Key], size_max_bytes: u64) -> Result<Vec<Small>, StoreError> {
        self.bucket.read_each(keys, size_max_bytes).await
    }

    async fn link(&self, key: &Key, lifetime: Duration) -> Result<Option<String>, StoreError> {
        if !self.bucket.settings().redirects_pulls {
            return Ok(None);
        }
        self.bucket.link(key.as_str(), lifetime).await.map(Some)
    }

    fn list(&self, prefix: &Prefix, depth: Depth) -> Listing {
        let listed = self.bucket.listing(prefix.as_str(), depth);
        if depth == Depth::One && layout::is_uploads_directory(prefix) {
            return self.with_own_uploads(prefix.clone(), listed);
        }
        listed
    }

    async fn fingerprint(&self, prefixes: &[Prefix]) -> Result<Option<Fingerprint>, StoreError> {
        self.bucket.fingerprint(prefixes).await.map(Some)
    }

    async fn apply(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        self.bucket.apply(steps).await
    }

    async fn constraint(&self) -> Result<Option<Constraint>, StoreError> {
        Ok(self.bucket.is_full().then_some(Constraint::Full))
    }

    fn heartbeats(&self) -> Vec<Arc<Heartbeat>> {
        vec![Arc::clone(self.bucket.heartbeat())]
    }

    async fn maintain(&self) {
        Arc::clone(&self.spool).sweep_daily().await;
    }

    async fn open_upload(
        &self,
        prefix: &Prefix,
        algorithm: Option<Algorithm>,
    ) -> Result<Box<dyn Upload>, StoreError> {
        self.spool.open_upload(prefix, algorithm).await
    }

    async fn resume_upload(&self, prefix: &Prefix) -> Result<Option<Box<dyn Upload>>, StoreError> {
        self.spool.resume_upload(prefix).await
    }
}
