//! An upload to a bucket: it is received into a local spool, and sent from there.
//!
//! Three ways lead to the blob's key (`docs/storage-layout.md`): one PUT where nothing was sent before; parts at the blob's key, where
//! the client has named the digest before the bytes; parts at the session's key, which the bucket copies. Must not know how parts
//! are sent. Invariants: the blob's key is written only when the hash of all bytes is known to be its digest; the session stays until
//! all steps are carried out, so that a request that found the bucket busy can be repeated.

use std::fs::File;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::part_sizes;
use super::requests::Bucket;
use super::shipper::{Shipper, State, blocking};
use super::spool::Spool;
use crate::oci::{Algorithm, Digest, Hasher};
use crate::store::filesystem::session::read_again;
use crate::store::filesystem::upload::Receiving;
use crate::store::{Step, StoreError, Upload};

/// Up to here, nothing is sent before the client has named the digest: one request is faster than parts and a copy
/// (`docs/storage-layout.md`).
pub(super) const WHOLE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// See the module.
pub(super) struct BucketUpload {
    receiving: Receiving,
    shipper: Arc<Shipper>,
    bucket: Bucket,
    spool: Arc<Spool>,
    /// Where the file begins that is written to.
    start_bytes: u64,
    /// The client has named the digest.
    is_aimed: bool,
    /// The whole length, if the client has named it.
    length_bytes: Option<u64>,
    /// An algorithm that is to be computed from the next bytes on.
    wanted: Option<Algorithm>,
}

impl BucketUpload {
    pub(super) fn new(
        receiving: Receiving,
        start_bytes: u64,
        shipper: Arc<Shipper>,
        spool: &Arc<Spool>,
    ) -> Self {
        shipper.set_open(receiving.offset_bytes() - start_bytes);
        Self {
            receiving,
            shipper,
            bucket: spool.bucket.clone(),
            spool: Arc::clone(spool),
            start_bytes,
            is_aimed: false,
            length_bytes: None,
            wanted: None,
        }
    }

    fn open_bytes(&self) -> u64 {
        self.receiving.offset_bytes() - self.start_bytes
    }

    /// How much the present file still takes.
    fn room_bytes(&self) -> u64 {
        let length_bytes = self.length_bytes;
        let left = length_bytes.map(|all| all.saturating_sub(self.start_bytes));
        let first_bytes = self.bucket.settings().part_size_bytes;
        let planned = part_sizes::planned(first_bytes, self.shipper.next_number(), left);
        planned.saturating_sub(self.open_bytes())
    }

    /// Ends the present file, and sends it if it is time.
    async fn cut(&mut self) -> Result<(), StoreError> {
        let shipper = Arc::clone(&self.shipper);
        let cut = self
            .receiving
            .cut(move |_, segment| shipper.cut(segment))
            .await?;
        self.start_bytes = cut.start_bytes + cut.length_bytes;
        if self.is_aimed || self.start_bytes > WHOLE_BYTES_MAX || self.shipper.has_begun() {
            self.shipper.start();
        }
        Ok(())
    }

    /// Waits until the spool has room for so many bytes. Two short parts always have room: while one is sent, the other is
    /// received. Where there is no more, what was received is sent before its time.
    async fn wait_for_room(&mut self, added_bytes: u64) -> Result<(), StoreError> {
        loop {
            let first_bytes = self.bucket.settings().part_size_bytes;
            let shortest = part_sizes::shortest(first_bytes, self.shipper.next_number());
            let allowed = self.spool.room.allowance_bytes().max(2 * shortest);
            if self.shipper.held_bytes() + added_bytes <= allowed {
                return Ok(());
            }
            if self.open_bytes() >= shortest {
                self.cut().await?;
            }
            self.shipper.start();
            if self.spool.room.allowance_bytes() < shortest {
                self.spool.make_room().await?;
            }
            let waited = self.shipper.wait(State::has_unsent).await?;
            if !waited {
                // What is held is less than a part, so this was allowed.
                return Ok(());
            }
        }
    }

    /// Computes `algorithm` too, over all that was received.
    async fn add_algorithm(&mut self, algorithm: Algorithm) -> Result<(), StoreError> {
        if self.receiving.computed(algorithm).await?.is_some() {
            return Ok(());
        }
        let mut hasher = Hasher::new(algorithm);
        if self.shipper.has_begun() {
            // What was sent is no longer here. It can be read once it is an object.
            if self.shipper.join().await? > 0 {
                hasher = self.read_back(hasher).await?;
            }
        }
        let files: Vec<_> = self.shipper.unsent().into_iter().collect();
        let session = Arc::clone(&self.receiving.session);
        let hasher = blocking(move || {
            for segment in files {
                let file = File::open(session.segment(segment.start_bytes))?;
                read_again(&file, 0, segment.length_bytes, |bytes| hasher.update(bytes))?;
            }
            Ok(hasher)
        });
        let hasher = hasher
            .await?
            .map_err(|source: io::Error| self.receiving.session.failed(source))?;
        self.receiving.add_hasher(hasher).await
    }

    /// Hashes what was sent, as the bucket has it.
    async fn read_back(&self, mut hasher: Hasher) -> Result<Hasher, StoreError> {
        let key = self.shipper.session_key();
        let Some(mut got) = self.bucket.get(key, None, None).await? else {
            return Ok(hasher);
        };
        let mut left = got.meta.size_bytes;
        while let Some(piece) = got.body.next().await {
            let piece = piece.map_err(|error| {
                tracing::warn!(%error, "an upload cannot be read back from the bucket");
                busy()
            })?;
            left = left.saturating_sub(piece.len() as u64);
            // Hashing takes milliseconds for a piece of this size.
            hasher.update(&piece);
        }
        if left > 0 {
            return Err(busy());
        }
        Ok(hasher)
    }

    /// Makes the blob.
    async fn store(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let size_bytes = self.receiving.offset_bytes();
        if !self.shipper.has_begun() && size_bytes <= WHOLE_BYTES_MAX {
            let sha256 = self.receiving.computed(Algorithm::Sha256).await?;
            if let Some(Digest::Sha256(sha256)) = sha256 {
                let shipper = &self.shipper;
                return shipper
                    .put_whole(digest, self.start_bytes, size_bytes, sha256)
                    .await;
            }
        }
        if self.open_bytes() > 0 {
            self.cut().await?;
        }
        self.shipper.store(digest, size_bytes).await
    }
}

#[async_trait]
impl Upload for BucketUpload {
    fn expect(&mut self, digest: &Digest, length_bytes: Option<u64>) {
        if self.shipper.has_begun() {
            return;
        }
        self.shipper.aim_at(digest);
        self.is_aimed = true;
        self.length_bytes = length_bytes;
        self.wanted = Some(digest.algorithm());
    }

    fn offset_bytes(&self) -> u64 {
        self.receiving.offset_bytes()
    }

    async fn append(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
        if let Some(algorithm) = self.wanted.take() {
            self.add_algorithm(algorithm).await?;
        }
        while !bytes.is_empty() {
            if self.room_bytes() == 0 {
                self.cut().await?;
            }
            let room = usize::try_from(self.room_bytes()).unwrap_or(usize::MAX);
            let piece = bytes.split_to(room.min(bytes.len()));
            self.wait_for_room(piece.len() as u64).await?;
            let appended = self.receiving.append(piece).await;
            // Also after an error, which leaves less.
            self.shipper.set_open(self.open_bytes());
            appended?;
        }
        Ok(())
    }

    async fn persist(&mut self) -> Result<u64, StoreError> {
        self.receiving.persist().await
    }

    async fn digest(&mut self, algorithm: Algorithm) -> Result<Digest, StoreError> {
        self.add_algorithm(algorithm).await?;
        let digest = self.receiving.computed(algorithm).await?;
        // Just added.
        digest.ok_or_else(busy)
    }

    async fn finish(
        mut self: Box<Self>,
        digest: &Digest,
        then: Vec<Step>,
    ) -> Result<(), StoreError> {
        if self.digest(digest.algorithm()).await? != *digest {
            return Err(StoreError::not_its_digest(&self.receiving.session.name));
        }
        // So that a handle that takes its place after an error has all bytes.
        self.receiving.persist().await?;
        self.store(digest).await?;
        if !then.is_empty() {
            (self.spool.apply)(then).await?;
        }
        self.shipper.give_up().await;
        Ok(())
    }

    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        let Self {
            receiving, shipper, ..
        } = *self;
        receiving.settle().await;
        shipper.give_up().await;
        Ok(())
    }
}

fn busy() -> StoreError {
    StoreError::Busy {
        retry_after: std::time::Duration::from_secs(5),
    }
}
